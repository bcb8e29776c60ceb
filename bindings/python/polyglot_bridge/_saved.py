"""Layers as safetensors files: weights lie there packed, as the kernels read them, so that a mapped file is used in place.

The bytes are `_safetensors`' business. Any reader of that format can open these files; the panels of a weight are its
columns, side by side in groups, see the documentation of `PackedLinear`.

A file is checked whole before a layer is made of it: each field's type, each size against the bytes that are there.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from . import _core, _json, _safetensors

_FORMAT = "polyglot_bridge"
_CODES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}
# How deep stacks lie in each other at most, the outermost being the first.
_MOST_LEVELS = 64
# Columns and rows of a weight without elements, which no byte of a file vouches for: a row of so many takes 8 MB.
_MOST_WITHOUT_ELEMENTS = 1 << 20


def save(layer: _core.Linear | _core.Sequential, path: str | os.PathLike[str]) -> None:
    """Writes a layer."""
    tensors: dict[str, tuple[np.ndarray[Any, Any], str, tuple[int, ...]]] = {}

    def add(name: str, array: np.ndarray[Any, Any]) -> None:
        tensors[name] = (array, _CODES[array.dtype.name], array.shape)

    def describe(layer: Any, name: str, level: int) -> dict[str, Any]:
        if isinstance(layer, _core.Sequential):
            if level > _MOST_LEVELS:
                raise ValueError(f"Sequential.save: more than {_MOST_LEVELS} stacks lie in each other")
            parts = [describe(part, f"{name}{index}.", level + 1) for index, part in enumerate(layer)]
            return {"kind": "sequential", "layers": parts}
        if isinstance(layer, _core.Linear):
            panels, layout = layer._panels()
            bias, rows, columns = layer.bias, layer.in_features, layer.out_features
            why = _without_elements(rows, columns, bias is not None)
            if why:
                raise ValueError(f"Linear.save: {why}")
            tensors[f"{name}panels"] = (panels, _CODES[layer.dtype.name], (panels.nbytes // layer.dtype.itemsize,))
            if bias is not None:
                add(f"{name}bias", bias)
            return {
                "kind": "linear",
                "shape": [rows, columns],
                "bias": bias is not None,
                "activation": layer.activation,
                "dtype": layer.dtype.name,
                "layout": layout,
            }
        given = {part: getattr(layer, part) is not None for part in ("weight", "bias")}
        for part in (part for part in given if given[part]):
            add(f"{name}{part}", getattr(layer, part))
        return {"kind": "row_operation", "name": layer.name, "eps": layer.eps, **given}

    description = describe(layer, "", 1)
    _safetensors.write(path, tensors, {"format": _FORMAT, "layers": json.dumps(description)})


def _without_elements(rows: int, columns: int, bias: bool) -> str | None:
    """What is wrong with the shape of a weight that has no elements, which a caller's memory would have to pay for."""
    if rows * columns or max(rows, columns) <= _MOST_WITHOUT_ELEMENTS or (bias and not rows):
        return None
    return f"a weight of shape ({rows}, {columns}) has no elements and more than {_MOST_WITHOUT_ELEMENTS} features"


def load(kind: type, path: str | os.PathLike[str], mmap: bool) -> Any:
    """Reads a layer of this kind: a single layer is a stack of one too."""
    where = f"{kind.__name__}.load: {os.fsdecode(path)}"
    tensors, metadata = _safetensors.read(path, mmap=mmap)
    if metadata.get("format") != _FORMAT:
        raise ValueError(
            f"{where} was not written by save; the arrays of another file come with polyglot_bridge.load_file"
        )
    if "layers" not in metadata:
        raise ValueError(f"{where} lacks 'layers'")
    try:
        # A stack opens two brackets, a layer and its shape two more.
        description = _json.parse(metadata["layers"].encode(), deepest=2 * _MOST_LEVELS + 2, constants=True)
    except _json.TooDeepError:
        raise ValueError(f"{where}: more than {_MOST_LEVELS} stacks lie in each other") from None
    except ValueError as error:
        raise ValueError(f"{where}: its description of layers is no JSON: {error}") from None
    reader = _Reader(path, tensors)
    try:
        layer = reader.build(description, "", 1)
        unused = next((name for name in tensors if name not in reader.used), None)
        if unused is not None:
            raise ValueError(f"no layer has the tensor {_json.short(unused)}")
    except _Lacking as error:
        raise ValueError(f"{where} lacks {error}") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{where}: {error}") from None
    if kind is _core.Sequential and not isinstance(layer, _core.Sequential):
        return _core.Sequential([layer])
    if not isinstance(layer, kind):
        raise ValueError(f"{where} holds a {type(layer).__name__}")
    return layer


class _Lacking(Exception):
    """A tensor is not there."""


class _Reader:
    """Makes layers of their descriptions and the tensors of a file."""

    def __init__(self, path: str | os.PathLike[str], tensors: dict[str, _safetensors.Tensor]) -> None:
        self.path = path
        self.tensors = tensors
        self.used: set[str] = set()

    def tensor(self, name: str) -> _safetensors.Tensor:
        if name not in self.tensors:
            raise _Lacking(repr(name))
        self.used.add(name)
        return self.tensors[name]

    def vector(self, name: str) -> np.ndarray[Any, Any]:
        array = _safetensors.to_array(self.path, name, self.tensor(name))
        if array.ndim != 1:
            raise ValueError(f"{name} has shape {array.shape}, expected one dimension")
        return array

    def build(self, description: Any, name: str, level: int) -> Any:
        """A layer whose tensors' names begin with `name`."""
        place = f"layer {name[:-1]}" if name else "the outermost layer"
        if not isinstance(description, tuple):
            raise ValueError(f"{place} is described by {_json.kind_of(description)}, expected an object")
        fields = dict(description)
        if len(fields) < len(description):
            raise ValueError(f"the description of {place} has a field twice")

        def field(key: str, *types: type) -> Any:
            if key not in fields:
                raise ValueError(f"the description of {place} lacks {key!r}")
            if type(fields[key]) not in types:
                raise ValueError(f"the description of {place} has {_json.kind_of(fields[key])} for {key!r}")
            return fields[key]

        kind = field("kind", str)
        if kind == "sequential":
            if level > _MOST_LEVELS:
                raise ValueError(f"more than {_MOST_LEVELS} stacks lie in each other")
            parts = enumerate(field("layers", list))
            return _core.Sequential([self.build(part, f"{name}{index}.", level + 1) for index, part in parts])
        if kind == "linear":
            return self.linear(name, field)
        if kind != "row_operation":
            raise ValueError(f"{place} is of a kind {_json.short(kind)} that this version does not know")
        given = {part: self.vector(f"{name}{part}") for part in ("weight", "bias") if field(part, bool)}
        eps = field("eps", float, int, type(None))
        operation = _core.RowOperation(field("name", str), **given, eps=eps)
        if eps is None and operation.eps is not None:
            raise ValueError(f"the description of {place} has null for 'eps'")
        return operation

    def linear(self, name: str, field: Any) -> _core.Linear:
        shape, dtype, layout = field("shape", list), field("dtype", str), field("layout", int)
        if len(shape) != 2 or any(type(size) is not int or size < 0 for size in shape):
            raise ValueError(f"{name}shape holds something else than two sizes")
        if dtype not in _CODES:
            raise ValueError(f"{name}dtype is {_json.short(dtype)}, expected one of {', '.join(_CODES)}")
        if not 0 <= layout < 2**32:
            raise ValueError(f"{name}layout is {layout}")
        rows, columns = shape
        panels = self.tensor(f"{name}panels")
        bias = self.vector(f"{name}bias") if field("bias", bool) else None
        if panels.code != _CODES[dtype] or len(panels.shape) != 1:
            raise ValueError(
                f"{name}panels are {panels.code} of shape {panels.shape}, expected a row of {_CODES[dtype]}"
            )
        held = panels.shape[0]
        if rows * columns > held:
            raise ValueError(f"{name}panels hold {held} numbers, a weight of shape ({rows}, {columns}) has more")
        if bias is not None and bias.size != columns:
            raise ValueError(
                f"{name}bias has {bias.size} numbers, a weight of shape ({rows}, {columns}) {columns} columns"
            )
        why = _without_elements(rows, columns, bias is not None)
        if why:
            raise ValueError(f"{name}panels: {why}")
        activation = field("activation", str, type(None))
        layer = _core._packed_linear(panels.data, (rows, columns), bias, activation, dtype, layout)
        read = layer._panels()[0].nbytes
        if read != panels.data.size:
            raise ValueError(
                f"{name}panels have {panels.data.size} bytes, a weight of shape ({rows}, {columns}) {read}"
            )
        return layer
