"""Reads and writes safetensors files: eight bytes of length, a JSON header, the bytes of the tensors.

That is the whole format, so this takes a page of NumPy, and the wheel needs no package for it. What the tensors mean is
no matter of this file's.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

_DTYPES = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
}
# Tensors begin on cache lines, so that they can be used where they are mapped.
_ALIGNMENT = 64
# A longer header is no header: so say the authors of the format.
_LONGEST_HEADER = 100_000_000


def _dtype(name: str) -> np.dtype[Any] | None:
    """The dtype of this name; bfloat16 where ml_dtypes is there, None where NumPy has none."""
    if name in _DTYPES:
        return np.dtype(_DTYPES[name])
    if name == "BF16":
        try:
            import ml_dtypes
        except ImportError:
            return None
        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return None


def _name(dtype: np.dtype[Any]) -> str:
    if dtype.name == "bfloat16":
        return "BF16"
    for name, code in _DTYPES.items():
        if dtype == np.dtype(code):
            return name
    raise TypeError(f"safetensors: there is no tensor of dtype {dtype}")


def write(
    path: str | os.PathLike[str],
    tensors: Mapping[str, tuple[np.ndarray[Any, Any], str, tuple[int, ...]]],
    metadata: Mapping[str, str],
) -> None:
    """Writes tensors, each its bytes, the name of its dtype and its shape, and replaces the file in one step."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    # There are no gaps in the format: those whose length is a multiple of the alignment come first.
    names = sorted(tensors, key=lambda name: (-(tensors[name][0].nbytes & -tensors[name][0].nbytes), name))
    at = 0
    for name in names:
        array, dtype, shape = tensors[name]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    folder = os.path.dirname(os.path.abspath(path))
    # Readers that have the old file mapped keep it; nobody sees half a file.
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".safetensors-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(len(text).to_bytes(8, "little"))
            file.write(text)
            for name in names:
                file.write(np.ascontiguousarray(tensors[name][0]).reshape(-1).view(np.uint8).data)
        if os.name == "posix":
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read(
    path: str | os.PathLike[str], *, mmap: bool
) -> tuple[dict[str, tuple[np.ndarray[Any, Any], str, tuple[int, ...]]], dict[str, str]]:
    """Reads what `write` takes; every tensor as read-only bytes, mapped or in memory."""
    path = os.fspath(path)

    def wrong(why: str) -> ValueError:
        return ValueError(f"safetensors: {path} is no safetensors file: {why}")

    if os.path.getsize(path) < 8:
        raise wrong("it has fewer than 8 bytes")
    data = np.memmap(path, np.uint8, "r") if mmap else np.fromfile(path, np.uint8)
    data = data.view(np.ndarray)
    data.flags.writeable = False
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > min(data.size - 8, _LONGEST_HEADER):
        raise wrong(f"its header would have {length} bytes")
    try:
        header = json.loads(data[8 : 8 + length].tobytes())
    except ValueError as error:
        raise wrong(f"its header is no JSON ({error})") from None
    if not isinstance(header, dict):
        raise wrong("its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    body = data[8 + length :]
    tensors = {}
    for name, entry in header.items():
        try:
            dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
            begin, end = (int(n) for n in entry["data_offsets"])
        except (KeyError, TypeError, ValueError):
            raise wrong(f"tensor {name!r} is not described") from None
        if not 0 <= begin <= end <= body.size or any(n < 0 for n in shape):
            raise wrong(f"tensor {name!r} lies outside of it")
        tensors[name] = (body[begin:end], dtype, shape)
    return tensors, {str(key): str(value) for key, value in metadata.items()}


def _array(
    path: str | os.PathLike[str], name: str, data: np.ndarray[Any, Any], code: str, shape: tuple[int, ...], widen: bool
) -> np.ndarray[Any, Any]:
    """A tensor's bytes as an array; bfloat16 as float32 where `widen` says so, which is exact."""
    where = f"{os.fspath(path)}: tensor {name!r}"
    widen = widen and code == "BF16"
    dtype = np.dtype("<u2") if widen else _dtype(code)
    if dtype is None:
        more = "; that needs the package ml_dtypes" if code == "BF16" else ""
        raise ValueError(f"{where} has dtype {code}, which NumPy does not know{more}")
    if data.size != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{where} of shape {shape} and dtype {code} has {data.size} bytes")
    if data.ctypes.data % dtype.alignment:
        data = data.copy()
    array = data.view(dtype).reshape(shape)
    if widen:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    array.flags.writeable = False
    return array


def load(path: str | os.PathLike[str]) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of a file by name, mapped; those of bfloat16 become float32, so that no other package is needed."""
    tensors = read(path, mmap=True)[0]
    return {name: _array(path, name, *tensor, widen=True) for name, tensor in tensors.items()}


def load_file(path: str | os.PathLike[str], *, mmap: bool = True) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of any safetensors file as arrays, by name.

    Parameters
    ----------
    path : str or os.PathLike
        The file.
    mmap : bool, default True
        Whether arrays stay in the file, mapped read-only; otherwise they are read into memory.

    Returns
    -------
    dict of str to ndarray
        Read-only. bfloat16 needs the package ml_dtypes.

    Raises
    ------
    ValueError
        It is no such file, or a tensor has a dtype that NumPy does not know.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import polyglot_bridge as pb
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "weights.safetensors")
    ...     pb.save_file({"weight": np.eye(2, dtype=np.float32)}, path)
    ...     pb.load_file(path, mmap=False)
    {'weight': array([[1., 0.],
           [0., 1.]], dtype=float32)}
    """
    tensors = read(path, mmap=mmap)[0]
    return {name: _array(path, name, *tensor, widen=False) for name, tensor in tensors.items()}


def save_file(
    tensors: Mapping[str, np.ndarray[Any, Any]],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes arrays to a safetensors file.

    Parameters
    ----------
    tensors : mapping of str to array_like
        The arrays by name.
    path : str or os.PathLike
        The file, replaced in one step where it is there.
    metadata : mapping of str to str, optional
        What else the file shall hold.

    Raises
    ------
    TypeError
        An array has a dtype that the format does not know.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import polyglot_bridge as pb
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "weights.safetensors")
    ...     pb.save_file({"bias": np.zeros(3)}, path)
    ...     list(pb.load_file(path, mmap=False))
    ['bias']
    """
    parts = {}
    for name, tensor in tensors.items():
        array = np.asarray(tensor)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False) if array.dtype.byteorder == ">" else array
        parts[name] = (np.ascontiguousarray(array), _name(array.dtype), array.shape)
    write(path, parts, metadata or {})
