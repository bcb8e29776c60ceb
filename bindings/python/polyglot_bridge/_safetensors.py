"""Reads and writes safetensors files: eight bytes of length, a JSON header, the bytes of the tensors.

A header is taken where the format's own library takes it (version 0.8.0), and refused where that refuses it; beyond that
only what NumPy cannot hold is refused. All of it is checked before a tensor is touched. What the tensors mean is no matter
of this file's.
"""

from __future__ import annotations

import io
import mmap as memory_map
import os
import stat
import sys
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import IO, Any, NamedTuple, TypeAlias

import numpy as np

from . import _json
from ._json import kind_of, short, shown
from ._replace import replace

_Array: TypeAlias = np.ndarray[Any, Any]
_Path: TypeAlias = str | os.PathLike[str]

# The format's names of dtypes: their bits, and what NumPy or, where it begins with a dot, ml_dtypes calls them. "" is what
# neither has: numbers that begin in the middle of a byte.
_DTYPES = {
    "BOOL": (8, "?"),
    "F4": (4, ""),
    "F6_E2M3": (6, ""),
    "F6_E3M2": (6, ""),
    "U8": (8, "u1"),
    "I8": (8, "i1"),
    "F8_E5M2": (8, ".float8_e5m2"),
    "F8_E4M3": (8, ".float8_e4m3fn"),
    "F8_E8M0": (8, ".float8_e8m0fnu"),
    "F8_E4M3FNUZ": (8, ".float8_e4m3fnuz"),
    "F8_E5M2FNUZ": (8, ".float8_e5m2fnuz"),
    "I16": (16, "<i2"),
    "U16": (16, "<u2"),
    "F16": (16, "<f2"),
    "BF16": (16, ".bfloat16"),
    "I32": (32, "<i4"),
    "U32": (32, "<u4"),
    "F32": (32, "<f4"),
    "C64": (64, "<c8"),
    "F64": (64, "<f8"),
    "I64": (64, "<i8"),
    "U64": (64, "<u8"),
}
_METADATA = "__metadata__"
_FIELDS = ("dtype", "shape", "data_offsets")
# Tensors begin on cache lines, so that they can be used where they are mapped.
_ALIGNMENT = 64
# A longer header is no header: so say the authors of the format.
_LONGEST_HEADER = 100_000_000
_MOST_AXES = 64 if int(np.__version__.split(".")[0]) >= 2 else 32
_MOST = 2**64 - 1


class Tensor(NamedTuple):
    """What a file holds of a tensor."""

    data: _Array
    code: str
    shape: tuple[int, ...]


# --- Headers ----------------------------------------------------------------------------------------------------------


def _sizes(found: object, field: str) -> list[int]:
    if not isinstance(found, list):
        raise ValueError(f"{field} is {kind_of(found)}, expected an array")
    for size in found:
        if type(size) is not int or size < 0:
            raise ValueError(f"{field} holds {shown(size)}, expected integers from 0 to 2^64 - 1")
    return found


def _entry(found: object) -> tuple[str, tuple[int, ...], int, int]:
    """The dtype, the shape, begin and end of a tensor by its description: an object, or an array of what that has."""
    if isinstance(found, tuple):
        fields: dict[str, Any] = {}
        for key, value in found:
            if key in fields:
                raise ValueError(f"it has two values for {key}")
            if key in _FIELDS:
                fields[key] = value
        lacking = [field for field in _FIELDS if field not in fields]
        if lacking:
            raise ValueError(f"it lacks {' and '.join(lacking)}")
        code, shape, offsets = (fields[field] for field in _FIELDS)
    elif isinstance(found, list) and len(found) == len(_FIELDS):
        code, shape, offsets = found
    else:
        raise ValueError(f"its description is {kind_of(found)}, expected an object")
    if isinstance(code, tuple) and len(code) == 1 and code[0][1] is None:
        # So are the cases of an enum written as well.
        code = code[0][0]
    if not isinstance(code, str) or code not in _DTYPES:
        raise ValueError(f"dtype is {shown(code)}, which the format lacks")
    shape, offsets = _sizes(shape, "shape"), _sizes(offsets, "data_offsets")
    if len(offsets) != 2:
        raise ValueError(f"data_offsets has {len(offsets)} numbers, expected two")
    return code, tuple(shape), offsets[0], offsets[1]


def _misfit(code: str, shape: tuple[int, ...], span: int) -> str | None:
    """Why a tensor cannot have these bytes, or NumPy not hold such a shape; None where both is well."""
    if len(shape) > _MOST_AXES:
        return f"has {len(shape)} axes, NumPy takes {_MOST_AXES}"
    bits = _DTYPES[code][0]
    # The format multiplies from left to right, NumPy whatever is not 0.
    count = held = 1
    for size in shape:
        count *= size
        held *= size or 1
        if count > _MOST:
            break
    if count * bits == span * 8 <= _MOST and held * bits < 2**63:
        return None
    what = f"has dtype {code} and shape {shape}"
    if count * bits > _MOST:
        return f"{what}, which takes more than 2^64 - 1 bits"
    if held * max(bits // 8, 1) >= 2**63:
        return f"{what}, which is beyond NumPy's range"
    if count * bits % 8:
        return f"{what}, which ends within a byte"
    if span != count * bits // 8:
        return f"{what}, which takes {count * bits // 8} bytes, and data_offsets that span {span}"
    return None


def _header(text: bytes, size: int) -> tuple[dict[str, tuple[str, tuple[int, ...], int, int]], dict[str, str]]:
    """The tensors and the metadata that a header describes, for a file with `size` bytes after it."""
    found = _json.parse(text)
    if not isinstance(found, tuple):
        raise ValueError(f"its header is {kind_of(found)}, expected an object")
    metadata: dict[str, str] | None = None
    entries: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
    for name, value in found:
        try:
            if name != _METADATA:
                entries[name] = _entry(value)
                continue
            if metadata is not None:
                raise ValueError("it is there twice")
            if value is not None and not isinstance(value, tuple):
                raise ValueError(f"it is {kind_of(value)}, expected an object")
            metadata = dict(value or ())
            for key, item in value or ():
                if not isinstance(item, str):
                    raise ValueError(f"{short(key)} is {kind_of(item)}, expected a string")
        except ValueError as error:
            raise ValueError(f"{'' if name == _METADATA else 'tensor '}{short(name)}: {error}") from None
    at = 0
    for name, (code, shape, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != at or end < begin:
            why = f"has data_offsets {begin} and {end}, and what comes before it ends at {at}"
            raise ValueError(f"tensor {short(name)} {why}")
        if misfit := _misfit(code, shape, end - begin):
            raise ValueError(f"tensor {short(name)} {misfit}")
        at = end
    if at != size:
        raise ValueError(f"its tensors take {at} bytes, {size} bytes come after the header")
    return entries, metadata or {}


# --- Reading ----------------------------------------------------------------------------------------------------------


def read(path: _Path, *, mmap: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, each as read-only bytes, mapped or in memory, and the metadata."""
    path = os.fsdecode(path)
    kind = os.stat(path).st_mode
    try:
        # To open others may take for ever; what opening a folder raises says what it is.
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            raise ValueError("it is no regular file")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8:
                raise ValueError("it has fewer than 8 bytes")
            if length > min(size - 8, _LONGEST_HEADER):
                raise ValueError(f"its header would have {length} bytes")
            start = 8 + length
            entries, metadata = _header(file.read(length), size - start)
            body = _body(file, start, size, mmap)
    except ValueError as error:
        raise ValueError(f"safetensors: {path} is no safetensors file: {error}") from None
    body.flags.writeable = False
    return {name: Tensor(body[begin:end], code, shape) for name, (code, shape, begin, end) in entries.items()}, metadata


def _body(file: io.BufferedReader, start: int, size: int, mmap: bool) -> _Array:
    """All bytes of a file from `start` on."""
    if mmap:
        mapped = memory_map.mmap(file.fileno(), size, access=memory_map.ACCESS_READ)
        return np.frombuffer(mapped, np.uint8)[start:]
    room = np.empty(size - start + _ALIGNMENT, np.uint8)
    first = -_address(room) % _ALIGNMENT
    body = room[first : first + size - start]
    view, at = body.data, 0
    while at < len(view):
        read = file.readinto(view[at:])
        if not read:
            raise ValueError(f"it has ended after {start + at} bytes, {size} were there before")
        at += read
    return body


def _address(array: _Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _dtype(code: str) -> np.dtype[Any] | str:
    """The dtype that a tensor gets, or why there is none."""
    name = _DTYPES[code][1]
    if not name.startswith("."):
        return np.dtype(name) if name else f"has dtype {code}, which NumPy does not know"
    try:
        import ml_dtypes
    except ImportError:
        return f"has dtype {code}, which NumPy does not know; that needs the package ml_dtypes"
    if not hasattr(ml_dtypes, name[1:]):
        return f"has dtype {code}, which NumPy does not know; that needs a newer version of the package ml_dtypes"
    dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name[1:]))
    return dtype


def _view(tensor: Tensor, dtype: np.dtype[Any]) -> _Array:
    """A tensor as a read-only array, where it lies if it is aligned."""
    data = tensor.data
    if _address(data) % dtype.alignment:
        data = data.copy()
        data.flags.writeable = False
    return data.view(dtype).reshape(tensor.shape)


def to_array(path: _Path, name: str, tensor: Tensor, *, widen: bool = False) -> _Array:
    """A tensor as a read-only array; bfloat16 as float32 where `widen` says so."""
    if widen and tensor.code == "BF16":
        array = (_view(tensor, np.dtype("<u2")).astype(np.uint32) << 16).view(np.float32)
        array.flags.writeable = False
        return array
    dtype = _dtype(tensor.code)
    if isinstance(dtype, str):
        raise ValueError(f"{os.fsdecode(path)}: tensor {short(name)} {dtype}")
    return _view(tensor, dtype)


class _Tensors(Mapping[str, _Array]):
    """Tensors by name, made when they are asked for."""

    def __init__(self, path: _Path) -> None:
        self._path = path
        self._tensors = read(path, mmap=True)[0]

    def __getitem__(self, name: str) -> _Array:
        return to_array(self._path, name, self._tensors[name], widen=True)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def load(path: _Path) -> Mapping[str, _Array]:
    """The tensors of a file by name, mapped; those of bfloat16 become float32, so that no other package is needed."""
    return _Tensors(path)


class _Unknown:
    """Stands in a dict for a tensor that cannot become an array."""

    def __init__(self, why: str) -> None:
        self.why = why

    def __repr__(self) -> str:
        return f"<{self.why}>"


class _Arrays(dict[str, _Array]):
    """A dict that raises where a tensor is asked for that cannot become an array, and in no other way differs."""

    def __getitem__(self, name: str) -> _Array:
        found = super().__getitem__(name)
        if isinstance(found, _Unknown):
            raise ValueError(found.why)
        return found

    # Nobody who copies a dict reads past `__getitem__` where a class brings its own iterator.
    def __iter__(self) -> Iterator[str]:
        return super().__iter__()

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default

    def setdefault(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else super().setdefault(name, default)

    def pop(self, name: str, *default: Any) -> Any:
        if name not in self:
            return super().pop(name, *default)
        found = self[name]
        del self[name]
        return found

    def popitem(self) -> tuple[str, _Array]:
        name = next(reversed(self), None)
        return super().popitem() if name is None else (name, self.pop(name))

    def items(self) -> ItemsView[str, _Array]:  # type: ignore[override]
        return ItemsView(self)

    def values(self) -> ValuesView[_Array]:  # type: ignore[override]
        return ValuesView(self)

    def copy(self) -> _Arrays:
        new = _Arrays()
        for name, value in super().items():
            new[name] = value
        return new

    def __or__(self, other: Any) -> Any:
        return dict(self) | other

    def __ror__(self, other: Any) -> Any:
        return other | dict(self)


def load_file(path: _Path, *, mmap: bool = True) -> dict[str, _Array]:
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
        Read-only. bfloat16 and the 8-bit floats need the package ml_dtypes. A tensor that neither NumPy nor ml_dtypes
        has a dtype for raises a ValueError when it is asked for; the others of its file can be used.

    Raises
    ------
    ValueError
        It is no such file: the message names it and says where that shows. Headers are accepted and refused as by the
        package safetensors; shapes that NumPy cannot hold are refused as well.

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
    dtypes = {code: _dtype(code) for code in {tensor.code for tensor in tensors.values()}}
    arrays: dict[str, Any] = {}
    for name, tensor in tensors.items():
        dtype = dtypes[tensor.code]
        if isinstance(dtype, str):
            arrays[name] = _Unknown(f"{os.fsdecode(path)}: tensor {short(name)} {dtype}")
        else:
            arrays[name] = _view(tensor, dtype)
    return _Arrays(arrays) if any(isinstance(dtype, str) for dtype in dtypes.values()) else arrays


# --- Writing ----------------------------------------------------------------------------------------------------------


def _code(dtype: np.dtype[Any]) -> str:
    """The format's name of a dtype, of whatever byte order."""
    for code, (_, name) in _DTYPES.items():
        if name.startswith("."):
            # A dtype of ml_dtypes: then the package is there.
            if dtype.kind in "Vf" and dtype.name == name[1:]:
                return code
        elif name and dtype.newbyteorder("<") == np.dtype(name):
            return code
    raise TypeError(f"safetensors: there is no tensor of dtype {dtype}")


def write(path: _Path, tensors: Mapping[str, tuple[_Array, str, tuple[int, ...]]], metadata: Mapping[str, str]) -> None:
    """Writes tensors, each its bytes, the name of its dtype and its shape, and replaces the file in one step."""
    # There are no gaps in the format: those whose length is a multiple of the alignment come first.
    sizes = {name: array.nbytes for name, (array, _, _) in tensors.items()}
    names = sorted(tensors, key=lambda name: (-(sizes[name] & -sizes[name]), name))
    header: dict[str, Any] = {_METADATA: dict(metadata)}
    at = 0
    for name in names:
        _, dtype, shape = tensors[name]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + sizes[name]]}
        at += sizes[name]
    text = _json.write(header)
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    if len(text) > _LONGEST_HEADER:
        raise ValueError(f"safetensors: the header would have {len(text)} bytes, the format takes {_LONGEST_HEADER}")

    def fill(file: IO[bytes]) -> None:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in names:
            file.write(np.ascontiguousarray(tensors[name][0]).reshape(-1).view(np.uint8).data)

    replace(path, fill)


def _check_string(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"save_file: {what} must be a string, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"save_file: {what} must be Unicode, {short(value)} has half of a surrogate pair") from None
    return str.__str__(value)


def is_masked(value: object, depth: int = 0) -> bool:
    """Whether a value, or one in a list, is a masked array."""
    if isinstance(value, list | tuple) and depth < _MOST_AXES:
        return any(is_masked(item, depth + 1) for item in value)
    # Imported by whoever has made one.
    masked = sys.modules.get("numpy.ma")
    return masked is not None and isinstance(value, masked.MaskedArray)


def save_file(
    tensors: Mapping[str, _Array],
    path: _Path,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes arrays to a safetensors file.

    Parameters
    ----------
    tensors : mapping of str to array_like
        The arrays by name.
    path : str or os.PathLike
        The file. What is there is replaced in one step, when all is on the disk, and keeps its mode and, where the
        system lets that happen, its owner. A link is followed.
    metadata : mapping of str to str, optional
        What else the file shall hold.

    Raises
    ------
    TypeError
        A name, or a key or value of the metadata, is no string; an array has a dtype that the format does not know, or
        it is a masked one.
    ValueError
        A name is ``__metadata__``, which the format keeps for itself, or no Unicode.
    OSError
        The file cannot be written. What was there is as it was, and nothing else is left.

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
    metadata = {} if metadata is None else metadata
    for what, mapping in (("tensors", tensors), ("metadata", metadata)):
        if not isinstance(mapping, Mapping):
            raise TypeError(f"save_file: {what} must be a mapping, not {type(mapping).__name__}")
    parts = {}
    for key, tensor in tensors.items():
        name = _check_string("a name of a tensor", key)
        if name == _METADATA:
            raise ValueError(f"save_file: no tensor can have the name {_METADATA}: the metadata has")
        if name in parts:
            raise ValueError(f"save_file: two tensors have the name {short(name)}")
        if is_masked(tensor):
            raise TypeError(f"save_file: tensor {short(name)} is a masked array, and its mask would be lost")
        array = np.asarray(tensor)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False) if array.dtype.byteorder == ">" else array
        # A view, whose shape nobody else can change.
        parts[name] = (array.view(), _code(array.dtype), array.shape)
    strings = {}
    for key, value in metadata.items():
        key = _check_string("a key of the metadata", key)
        if key in strings:
            raise ValueError(f"save_file: the metadata has {short(key)} twice")
        strings[key] = _check_string(f"the value of {short(key)} in the metadata", value)
    write(path, parts, strings)
