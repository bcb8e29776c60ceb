"""Layers as safetensors files: weights lie there packed, as the kernels read them, so that a mapped file is used in place.

The bytes are `_safetensors`' business. Any reader of that format can open these files; the panels of a weight are its
columns, side by side in groups, see the documentation of `PackedLinear`.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from . import _core, _safetensors

_FORMAT = "polyglot_bridge"
_CODES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}


def save(layer: _core.Linear | _core.Sequential, path: str | os.PathLike[str]) -> None:
    """Writes a layer."""
    tensors: dict[str, tuple[np.ndarray[Any, Any], str, tuple[int, ...]]] = {}

    def add(name: str, array: np.ndarray[Any, Any]) -> None:
        tensors[name] = (np.ascontiguousarray(array), _CODES[array.dtype.name], array.shape)

    def describe(layer: Any, name: str) -> dict[str, Any]:
        if isinstance(layer, _core.Sequential):
            parts = [describe(part, f"{name}{index}.") for index, part in enumerate(layer)]
            return {"kind": "sequential", "layers": parts}
        if isinstance(layer, _core.Linear):
            panels, layout = layer._panels()
            code = _CODES[layer.dtype.name]
            tensors[f"{name}panels"] = (panels, code, (panels.nbytes // layer.dtype.itemsize,))
            if layer.bias is not None:
                add(f"{name}bias", layer.bias)
            return {
                "kind": "linear",
                "shape": [layer.in_features, layer.out_features],
                "bias": layer.bias is not None,
                "activation": layer.activation,
                "dtype": layer.dtype.name,
                "layout": layout,
            }
        for part in ("weight", "bias"):
            if getattr(layer, part) is not None:
                add(f"{name}{part}", getattr(layer, part))
        given = {part: getattr(layer, part) is not None for part in ("weight", "bias")}
        return {"kind": "row_operation", "name": layer.name, "eps": layer.eps, **given}

    description = describe(layer, "")
    _safetensors.write(path, tensors, {"format": _FORMAT, "layers": json.dumps(description)})


def load(kind: type, path: str | os.PathLike[str], mmap: bool) -> Any:
    """Reads a layer of this kind: a single layer is a stack of one too."""
    tensors, metadata = _safetensors.read(path, mmap=mmap)
    if metadata.get("format") != _FORMAT:
        raise ValueError(
            f"{kind.__name__}.load: {os.fspath(path)} was not written by save; the arrays of another file come with "
            "polyglot_bridge.load_file"
        )

    def numbers(name: str) -> np.ndarray[Any, Any]:
        return _safetensors._array(path, name, *tensors[name], widen=False)

    def build(description: dict[str, Any], name: str) -> Any:
        if description["kind"] == "sequential":
            layers = enumerate(description["layers"])
            return _core.Sequential([build(part, f"{name}{index}.") for index, part in layers])
        if description["kind"] == "linear":
            return _core._packed_linear(
                tensors[f"{name}panels"][0],
                tuple(description["shape"]),
                numbers(f"{name}bias") if description["bias"] else None,
                description["activation"],
                description["dtype"],
                description["layout"],
            )
        given = {part: numbers(f"{name}{part}") for part in ("weight", "bias") if description[part]}
        return _core.RowOperation(description["name"], **given, eps=description["eps"])

    try:
        layer = build(json.loads(metadata["layers"]), "")
    except KeyError as error:
        raise ValueError(f"{kind.__name__}.load: {os.fspath(path)} lacks {error}") from None
    if kind is _core.Sequential and not isinstance(layer, _core.Sequential):
        return _core.Sequential([layer])
    if not isinstance(layer, kind):
        raise ValueError(f"{kind.__name__}.load: {os.fspath(path)} holds a {type(layer).__name__}")
    return layer
