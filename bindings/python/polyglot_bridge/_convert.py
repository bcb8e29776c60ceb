"""Layers from what other packages have trained. None of them is imported: their objects are asked for their arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import _core


def _array(tensor: Any) -> tuple[np.ndarray[Any, Any], str | None]:
    """A tensor as an array, and the dtype to store it in where that is another than the array's."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach()
        if getattr(tensor, "is_cuda", False):
            tensor = tensor.cpu()
        if str(tensor.dtype) == "torch.bfloat16":
            # PyTorch gives NumPy no bfloat16. This is exact, and so is the way back.
            return tensor.float().numpy(), "bfloat16"
        return tensor.numpy(), None
    return np.asarray(tensor), None


def linear_from_torch(module: Any, prefix: Any, activation: Any, dtype: Any) -> _core.Linear:
    prefix = "" if prefix is None else prefix
    if isinstance(module, Mapping):
        name = f"{prefix}weight"
        if name not in module:
            names = ", ".join(repr(name) for name in list(module)[:8])
            raise ValueError(f"Linear.from_torch: there is no {name!r} among {names}; see prefix")
        weight, bias = module[name], module.get(f"{prefix}bias")
    elif hasattr(module, "weight"):
        weight, bias = module.weight, getattr(module, "bias", None)
    else:
        raise TypeError(
            "Linear.from_torch: module must be a linear layer or a state dict, not " + type(module).__name__
        )
    weight, own = _array(weight)
    if weight.ndim != 2:
        raise ValueError(f"Linear.from_torch: weight has shape {weight.shape}, expected (out, in)")
    dtype = own if dtype is None else dtype
    bias = None if bias is None else _array(bias)[0]
    if bias is not None and bias.dtype != weight.dtype:
        bias = bias.astype(weight.dtype)
    return _core.Linear(weight.T, bias, activation=activation, dtype=dtype)


# What does nothing to a row in inference.
_NOTHING = {"Dropout", "AlphaDropout", "Identity"}
_ACTIVATIONS = {"ReLU": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "SiLU": "silu"}


def _layers(module: Any, dtype: Any, path: str) -> list[Any]:
    kind = type(module).__name__
    if kind in ("Sequential", "ModuleList"):
        return [layer for name, part in module.named_children() for layer in _layers(part, dtype, f"{path}{name}.")]
    if kind == "Linear":
        return [linear_from_torch(module, None, None, dtype)]
    if kind in _NOTHING:
        return []
    if kind in _ACTIVATIONS:
        return [_ACTIVATIONS[kind]]
    if kind == "GELU":
        return ["gelu_tanh" if module.approximate == "tanh" else "gelu"]
    if kind in ("Softmax", "LogSoftmax"):
        if module.dim not in (-1, 1):
            raise ValueError(f"Sequential.from_torch: {path}{kind} works along dim {module.dim}, expected -1")
        return ["softmax" if kind == "Softmax" else "log_softmax"]
    if kind in ("LayerNorm", "RMSNorm"):
        if len(module.normalized_shape) != 1:
            raise ValueError(
                f"Sequential.from_torch: {path}{kind} goes over {module.normalized_shape}, expected one axis"
            )
        parts = [getattr(module, part, None) for part in ("weight", "bias")]
        weight, bias = (None if part is None else _array(part)[0] for part in parts)
        eps = module.eps
        if eps is None:
            eps = float(np.finfo(np.float32 if weight is None else weight.dtype).eps)
        if kind == "RMSNorm":
            return [_core.RowOperation("rms_norm", weight, eps=eps)]
        return [_core.RowOperation("layer_norm", weight, bias, eps=eps)]
    raise ValueError(f"Sequential.from_torch: {path}{kind} is no layer that this package has")


def _fused(layers: list[Any], dtype: Any) -> list[Any]:
    """The layers with each activation inside the linear layer before it, where it comes for free."""
    fused: list[Any] = []
    for layer in layers:
        last: Any = fused[-1] if fused else None
        free = isinstance(last, _core.Linear) and last.activation is None
        if isinstance(layer, str) and not layer.endswith("softmax") and free:
            panels, layout = last._panels()
            shape = (last.in_features, last.out_features)
            fused[-1] = _core._packed_linear(panels, shape, last.bias, layer, last.dtype.name, layout)
        else:
            fused.append(layer)
    return fused


def sequential_from_torch(module: Any, activation: Any, dtype: Any) -> _core.Sequential:
    if not isinstance(module, Mapping):
        if activation is not None:
            raise ValueError("Sequential.from_torch: activation goes with a state dict; a module has its own")
        return _core.Sequential(_fused(_layers(module, dtype, ""), dtype))
    prefixes = [name[: -len("weight")] for name in module if name.endswith("weight")]
    if not prefixes:
        raise ValueError("Sequential.from_torch: the state dict has no weights")
    for prefix in prefixes:
        if np.ndim(module[f"{prefix}weight"]) != 2:
            raise ValueError(
                f"Sequential.from_torch: {prefix}weight has shape {tuple(module[f'{prefix}weight'].shape)}; a state "
                "dict is understood where it has nothing but linear layers, pass the module instead"
            )
    # As numbers where they are: "10." comes after "9.".
    prefixes.sort(key=lambda prefix: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", prefix)])
    last = prefixes[-1]
    return _core.Sequential(
        [linear_from_torch(module, prefix, None if prefix == last else activation, dtype) for prefix in prefixes]
    )


def from_sklearn(model: Any, dtype: Any = None) -> _core.Sequential:
    """The layers of a fitted scikit-learn ``MLPClassifier`` or ``MLPRegressor``.

    Parameters
    ----------
    model : sklearn.neural_network.MLPClassifier or sklearn.neural_network.MLPRegressor
        A fitted one.
    dtype : dtype or str, optional
        How weights are stored; as they are where left out.

    Returns
    -------
    Sequential
        What it gives is ``model.predict_proba(x)`` (of two classes, the probability of the second), or
        ``model.predict(x)`` of a regressor, as a column where there is one output. It takes ``x`` of the dtype that the
        model was fitted with.

    Raises
    ------
    TypeError
        `model` is no such model, or not fitted.

    Examples
    --------
    >>> import numpy as np
    >>> import polyglot_bridge as pb
    >>> class Fitted:
    ...     coefs_, intercepts_ = [np.eye(2)], [np.zeros(2)]
    ...     activation, out_activation_ = "relu", "softmax"
    >>> pb.from_sklearn(Fitted())(np.array([[0.0, 0.0]]))
    array([[0.5, 0.5]])
    """
    names: dict[str, Any] = {
        "identity": None,
        "logistic": "sigmoid",
        "tanh": "tanh",
        "relu": "relu",
        "softmax": "softmax",
    }
    try:
        weights, biases = list(model.coefs_), list(model.intercepts_)
        hidden, last = names[model.activation], names[model.out_activation_]
    except (AttributeError, KeyError):
        raise TypeError(
            f"from_sklearn: model must be a fitted MLPClassifier or MLPRegressor, not {type(model).__name__}"
        ) from None
    layers: list[Any] = []
    for index, (weight, bias) in enumerate(zip(weights, biases)):
        end = index == len(weights) - 1
        activation = (None if last == "softmax" else last) if end else hidden
        layers.append(_core.Linear(weight, bias, activation=activation, dtype=dtype))
    return _core.Sequential([*layers, "softmax"] if last == "softmax" else layers)
