"""Reads and writes safetensors files with NumPy alone: a JSON header, then the tensors' bytes. Knows no layers.

The format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

# The names of the format beside NumPy's, little-endian as the format is.
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}
# What the format itself allows at most: a longer header is a damaged length.
_LONGEST_HEADER = 100_000_000

_Array = npt.NDArray[Any]


def _widen_bfloat16(raw: _Array) -> _Array:
    """Return bfloat16 as float32, exactly: NumPy has no bfloat16 of its own."""
    return (raw.astype(np.uint32) << 16).view(np.float32)


def load(path: str | os.PathLike[str]) -> dict[str, _Array]:
    """Return the tensors of a file by name: read-only views of it, which the system reads when they are touched.

    bfloat16 tensors become float32. A file that is not what its header says is a ValueError that names the tensor.
    """
    name = os.fspath(path)
    size = os.path.getsize(name)
    with open(name, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _LONGEST_HEADER
        if length >= _LONGEST_HEADER or length + 8 > size:
            raise ValueError(f"{name}: no safetensors file, or cut short: it has {size} bytes")
        try:
            header = json.loads(file.read(length))
            entries = {key: value for key, value in header.items() if key != "__metadata__"}
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{name}: its safetensors header cannot be read: {error}") from None
    room = size - 8 - length
    data = np.memmap(name, np.uint8, "r", offset=8 + length) if room else np.empty(0, np.uint8)
    return {key: _tensor(f"{name}: tensor {key}", entry, data, room) for key, entry in entries.items()}


def _tensor(what: str, entry: Any, data: _Array, room: int) -> _Array:
    """Return the view of `data` that a header's entry describes."""
    try:
        kind, shape = entry["dtype"], tuple(entry["shape"])
        first, end = entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, first, end))
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"{what}: its entry in the header lacks a dtype, a shape or two offsets") from None
    dtype = np.dtype("<u2" if kind == "BF16" else _DTYPES.get(kind, "V"))
    if dtype.itemsize == 0:
        raise ValueError(f"{what}: dtype {kind} is not known here")
    if not whole or first > end or end > room or end - first != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{what}: shape {shape} of {kind} does not fit bytes {first} to {end} of {room}")
    array = data[first:end].view(np.ndarray)
    if first % dtype.itemsize:
        array = array.copy()
    array = array.view(dtype).reshape(shape)
    return _widen_bfloat16(array) if kind == "BF16" else array


def save(path: str | os.PathLike[str], tensors: Mapping[str, npt.ArrayLike], metadata: Mapping[str, str]) -> None:
    """Write arrays by name, and strings by name beside them. A dtype that the format lacks is a TypeError."""
    names = {dtype: kind for kind, dtype in _DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    parts, offset = [], 0
    # The widest numbers first, so that each tensor begins at a multiple of its numbers' size.
    arrays = {key: np.asarray(value) for key, value in tensors.items()}
    for key, array in sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])):
        if array.dtype.name == "bfloat16":
            kind, little = "BF16", array.view(np.uint16).astype("<u2")
        else:
            little = array.astype(array.dtype.newbyteorder("<"))
            kind = names.get(little.dtype.str, "")
        if not kind:
            raise TypeError(f"{key} has dtype {array.dtype}, which safetensors lacks")
        raw = little.tobytes()
        header[key] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [offset, offset + len(raw)]}
        parts.append(raw)
        offset += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(parts)
