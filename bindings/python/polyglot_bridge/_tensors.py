"""Floats that other packages keep, as arrays, where they are known to be what they seem; and layers of them."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import _core
from ._safetensors import is_masked

FLOATS = ("float16", "bfloat16", "float32", "float64")
# The numbers that become infinite when they are rounded to a dtype: half a unit above its largest, and beyond.
_INFINITE = {"float16": 65520.0, "bfloat16": (2 - 2.0**-8) * 2.0**127, "float32": (2 - 2.0**-24) * 2.0**127}


class Floats(NamedTuple):
    """An array, and the dtype that it has where it comes from: bfloat16 lies here as float32, which is exact."""

    array: npt.NDArray[Any]
    dtype: str


def named(kind: type) -> str:
    """A class for a message, so that two of one name are told apart."""
    module = getattr(kind, "__module__", None)
    return kind.__qualname__ if module in (None, "builtins") else f"{module}.{kind.__qualname__}"


def floats(where: str, tensor: Any) -> Floats:
    """A tensor of any package as an array; TypeError where its numbers are not all that there is to it."""
    if is_masked(tensor):
        raise TypeError(f"{where} is a masked array, and its mask would be lost: fill it first")
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(tensor, getattr(torch, "Tensor", ())):
        return _of_torch(where, tensor, torch)
    if hasattr(tensor, "detach") and hasattr(tensor, "numpy"):
        tensor = tensor.detach().numpy()
    array = np.asarray(tensor)
    name = array.dtype.name
    if name not in FLOATS:
        raise TypeError(f"{where} has dtype {array.dtype}, expected one of {', '.join(FLOATS)}{_scaled(array.dtype)}")
    return Floats(array.astype(np.float32) if name == "bfloat16" else array, name)


def _scaled(dtype: Any) -> str:
    """What to do where numbers mean nothing alone."""
    dtype = str(dtype)
    if "complex" in dtype or dtype in ("object", "bool", "torch.bool"):
        return ""
    return ": multiply it by the scale that belongs to it first, or convert it to floats"


def _of_torch(where: str, tensor: Any, torch: Any) -> Floats:
    if torch.nn.parameter.is_lazy(tensor):
        raise TypeError(f"{where} has no shape yet: call its module once first")
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise TypeError(
            f"{where} is a {named(type(tensor))}, expected a torch.Tensor: what others mean is theirs to say"
        )
    if tensor.is_quantized:
        raise TypeError(f"{where} is quantized: pass what its dequantize() gives")
    if tensor.layout is not torch.strided:
        raise TypeError(f"{where} has layout {tensor.layout}: pass what its to_dense() gives")
    if tensor.device.type == "meta":
        raise TypeError(f"{where} is on the meta device, where tensors have no numbers: load them first")
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in FLOATS:
        raise TypeError(f"{where} has dtype {tensor.dtype}, expected one of {', '.join(FLOATS)}{_scaled(tensor.dtype)}")
    try:
        tensor = tensor.detach().cpu()
        if hasattr(tensor, "resolve_neg"):
            tensor = tensor.resolve_neg()
        if hasattr(tensor, "untyped_storage"):
            # Who shards or offloads a model takes the memory away and leaves the shape.
            last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
            needed = (tensor.storage_offset() + last + 1) * tensor.element_size() if tensor.numel() else 0
            if tensor.untyped_storage().nbytes() < needed:
                raise TypeError(f"{where} has no memory behind it: gather its numbers first")
        # PyTorch gives NumPy no bfloat16.
        return Floats((tensor.float() if name == "bfloat16" else tensor).numpy(), name)
    except (RuntimeError, NotImplementedError) as error:
        raise TypeError(f"{where} cannot become an array: {error}") from None


def bfloat16_of_torch(op: str, name: str, tensor: Any) -> npt.NDArray[Any]:
    """A `torch.bfloat16` tensor, which PyTorch gives NumPy in no way, as an array of ml_dtypes that shares its memory."""
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        raise TypeError(
            f"{op}: {name} is a torch.bfloat16 tensor, and NumPy has that dtype only with the package ml_dtypes: install "
            f"it, or pass {name}.float()"
        ) from None
    torch: Any = sys.modules.get("torch")
    if torch is None or type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.requires_grad:
        raise TypeError(f"{op}: {name} is a tensor that cannot become an array as it is: pass {name}.detach()")
    try:
        array: npt.NDArray[Any] = tensor.view(torch.int16).numpy().view(bfloat16)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise TypeError(f"{op}: {name} cannot become an array: {error}") from None
    return array


def stored(dtype: Any) -> str | None:
    """The name of one of the four dtypes, None for another object."""
    if isinstance(dtype, str) and dtype in FLOATS:
        return dtype
    try:
        name = np.dtype(dtype).name
    except TypeError:
        return None
    return name if name in FLOATS else None


def computed(dtype: str) -> str:
    """What is computed in where weights are of a dtype."""
    return "float64" if dtype == "float64" else "float32"


def check_range(where: str, array: npt.NDArray[Any], dtype: str) -> None:
    """Raises a ValueError where a number would become infinite in a dtype."""
    limit = _INFINITE.get(dtype)
    if limit is None or array.dtype.name == dtype or array.dtype == np.float16:
        return
    if not array.size or (array.min() > -limit and array.max() < limit):
        return
    magnitudes = np.abs(array)
    lost = (magnitudes >= limit) & (magnitudes < np.inf)
    if lost.any():
        raise ValueError(f"{where} holds {array[lost][0]!s}, which is infinite in {dtype}: choose a wider dtype")


def narrowed(where: str, values: Floats, dtype: str) -> npt.NDArray[Any]:
    """The numbers in float32 or float64, as `dtype` says; none becomes infinite."""
    check_range(where, values.array, dtype)
    return values.array.astype(dtype, copy=False)


def linear(where: str, weight: Floats, bias: Floats | None, activation: Any, dtype: Any) -> _core.Linear:
    """A layer of a weight (in, out) and a bias, each rounded at most once and only where `dtype` asks for that."""
    name = weight.dtype if dtype is None else stored(dtype)
    if name is None:
        # Says which there are.
        return _core.Linear(weight.array, activation=activation, dtype=dtype)
    check_range(f"{where}weight", weight.array, name)
    if bias is None:
        return _core.Linear(weight.array, activation=activation, dtype=name)
    kept = computed(name)
    values = narrowed(f"{where}bias", bias, kept)
    if dtype is None and not np.array_equal(values, bias.array, equal_nan=True):
        raise TypeError(
            f"{where}bias has dtype {bias.dtype} and {where}weight has dtype {weight.dtype}, where a bias is kept in "
            f"{kept}, which would round it: convert one of the two, or say which dtype"
        )
    # One dtype for both that loses nothing: a layer rounds each of them to what it is kept in.
    wide = "float64" if "float64" in (weight.dtype, kept) else "float32"
    arrays = (array.astype(wide, copy=False) for array in (weight.array, values))
    return _core.Linear(*arrays, activation=activation, dtype=name)
