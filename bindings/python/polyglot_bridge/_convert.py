"""Layers from what other packages have trained. None of them is imported: their objects are asked for their arrays.

Only what is certainly what it seems becomes a layer (docs/contract.md has the table); all else is refused.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from . import _core
from ._json import short
from ._tensors import Floats, floats, linear, named
from ._torch import Modules, is_module, oriented

# The layers of GPT-2, whose weights lie the other way round in its own code and as Linear has them in other people's.
_EITHER_WAY = ("c_attn.", "c_fc.", "c_proj.", "q_attn.")


def _names(names: Any) -> str:
    return ", ".join(short(name) for name in names)


def _from_state(caller: str, state: Mapping[str, Any], prefix: str, activation: Any, dtype: Any) -> _core.Linear:
    """The linear layer whose weight and bias have names that begin with `prefix`."""
    bias = state.get(f"{prefix}bias")
    where = f"{caller}: {prefix}"
    weight = floats(f"{where}weight", state[f"{prefix}weight"])
    bias = None if bias is None else floats(f"{where}bias", bias)
    told = bias is not None and weight.array.ndim == 2 and len(set(weight.array.shape)) == 2
    if f".{prefix}".endswith(tuple(f".{name}" for name in _EITHER_WAY)) and not told:
        raise ValueError(
            f"{where}weight has shape {weight.array.shape}, and under this name GPT-2 keeps (in, out), others (out, in): "
            "pass it to polyglot_bridge.Linear, transposed in the second case"
        )
    return oriented(where, weight, bias, activation, dtype)


def _strings(caller: str, state: Mapping[Any, Any]) -> None:
    for name in state:
        if not isinstance(name, str):
            raise TypeError(f"{caller}: names in a state dict must be strings, not {type(name).__name__}")


def linear_from_torch(module: Any, prefix: Any, activation: Any, dtype: Any) -> _core.Linear:
    caller = "Linear.from_torch"
    prefix = "" if prefix is None else prefix
    if not isinstance(prefix, str):
        raise TypeError(f"{caller}: prefix must be a string, not {type(prefix).__name__}")
    if isinstance(module, Mapping):
        _strings(caller, module)
        name = f"{prefix}weight"
        if name not in module:
            raise ValueError(f"{caller}: there is no {name!r} among {_names(list(module)[:8])}; see prefix")
        more = [one for one in module if one.startswith(prefix) and one not in (name, f"{prefix}bias")]
        if more:
            raise ValueError(
                f"{caller}: a linear layer has weight and bias alone, under {prefix!r} there is {_names(more[:8])} too; "
                "see prefix"
            )
        return _from_state(caller, module, prefix, activation, dtype)
    if prefix:
        raise ValueError(f"{caller}: prefix goes with a state dict; of a module pass the layer itself")
    if is_module(module):
        modules = Modules(caller, dtype)
        if modules.kind(module, type(module).__name__) != "Linear":
            raise TypeError(f"{caller}: module must be a torch.nn.Linear or a state dict; {modules.what(module)}")
        return modules.linear(module, "", activation)
    if not _holds_a_weight(module):
        raise TypeError(
            f"{caller}: module must be a linear layer of torch.nn or a state dict, not {named(type(module))}"
        )
    bias = getattr(module, "bias", None)
    weight = floats(f"{caller}: weight", module.weight)
    bias = None if bias is None else floats(f"{caller}: bias", bias)
    return oriented(f"{caller}: ", weight, bias, activation, dtype)


def _holds_a_weight(module: Any) -> bool:
    """Whether an object is a Linear's parameters and nothing else: it computes nothing that could be another thing."""
    if type(module).__name__ != "Linear" or callable(module) or hasattr(module, "forward"):
        return False
    held = set(getattr(module, "__dict__", ()))
    return "weight" in held and held <= {"weight", "bias", "in_features", "out_features"}


def _fused(layers: list[Any]) -> list[Any]:
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


def _stack(caller: str, layers: list[Any]) -> _core.Sequential:
    """A stack; what does not fit together is the fault of what it was made of."""
    try:
        return _core.Sequential(layers)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{caller}: {str(error).removeprefix('Sequential: ')}") from None


def _parts(prefix: str) -> list[tuple[bool, int, str]]:
    """A name in text and numbers, each comparable with any other."""
    parts = re.split(r"([0-9]+)", prefix)
    return [
        (bool(index % 2), int(part) if index % 2 else 0, "" if index % 2 else part) for index, part in enumerate(parts)
    ]


def _ordered(caller: str, prefixes: list[str]) -> list[str]:
    """Names of layers in the order of their numbers, "10." after "9."; that of other names cannot be known.

    A state dict has the order in which its module's parts were made, a file often that of the alphabet, and neither needs
    to be the one in which they are called.
    """
    parts = {prefix: _parts(prefix) for prefix in prefixes}
    ordered = sorted(prefixes, key=parts.__getitem__)
    for one, other in zip(ordered, ordered[1:]):
        differ = next((pair for pair in zip(parts[one], parts[other]) if pair[0] != pair[1]), None)
        if differ is None or not (differ[0][0] and differ[1][0]):
            raise ValueError(
                f"{caller}: which of {short(one + 'weight')} and {short(other + 'weight')} comes first is not in their "
                "names: pass Linear.from_torch(state, prefix=...) of each to Sequential"
            )
    return ordered


def sequential_from_torch(module: Any, activation: Any, dtype: Any) -> _core.Sequential:
    caller = "Sequential.from_torch"
    if not isinstance(module, Mapping):
        if not is_module(module):
            raise TypeError(f"{caller}: module must be a torch.nn.Module or a state dict, not {named(type(module))}")
        if activation is not None:
            raise ValueError(f"{caller}: activation goes with a state dict; a module has its own")
        return _stack(caller, _fused(Modules(caller, dtype).stack(module)))
    _strings(caller, module)
    prefixes = [name[: -len("weight")] for name in module if name == "weight" or name.endswith(".weight")]
    known = {f"{prefix}{name}" for prefix in prefixes for name in ("weight", "bias")}
    for name in module:
        if name not in known:
            raise ValueError(
                f"{caller}: {short(name)} is no weight or bias of a linear layer; a state dict is understood where it has "
                "nothing but linear layers, pass the module instead"
            )
    if not prefixes:
        raise ValueError(f"{caller}: the state dict has no weights")
    for prefix in prefixes:
        shape = floats(f"{caller}: {prefix}weight", module[f"{prefix}weight"]).array.shape
        if len(shape) != 2:
            raise ValueError(
                f"{caller}: {prefix}weight has shape {shape}; a state dict is understood where it has nothing but linear "
                "layers, pass the module instead"
            )
    prefixes = _ordered(caller, prefixes)
    last = prefixes[-1]
    return _stack(
        caller,
        [_from_state(caller, module, prefix, None if prefix == last else activation, dtype) for prefix in prefixes],
    )


# What the functions that scikit-learn's networks apply are called here; a network may also have "exp".
_SKLEARN: dict[str, Any] = {
    "identity": None,
    "logistic": "sigmoid",
    "tanh": "tanh",
    "relu": "relu",
    "softmax": "softmax",
}
# What a class that is derived from scikit-learn's may bring without predicting another thing.
_HARMLESS = {
    *("__module__", "__qualname__", "__doc__", "__init__", "__annotations__", "__dict__", "__weakref__"),
    *("__firstlineno__", "__static_attributes__", "__annotate__", "__annotate_func__", "__annotations_cache__"),
    *("__abstractmethods__", "_abc_impl", "__repr__", "fit", "partial_fit", "score"),
}


def _no_network(model: Any, why: str) -> NoReturn:
    raise TypeError(f"from_sklearn: model must be a fitted MLPClassifier or MLPRegressor, {why}")


def _check_network(model: Any) -> None:
    """TypeError for what may predict another thing than its layers do."""
    kind = type(model)
    networks = sys.modules.get("sklearn.neural_network")
    bases = [getattr(networks, name) for name in ("MLPClassifier", "MLPRegressor") if hasattr(networks, name)]
    base: Any = next((one for one in bases if issubclass(kind, one)), None)
    if base is None:
        # What holds layers and cannot predict is nothing but its layers.
        if any(hasattr(model, name) for name in ("predict", "predict_proba", "transform")) or callable(model):
            if hasattr(model, "steps"):
                _no_network(model, f"not {named(kind)}: pass its last step, and what the others make of x")
            if hasattr(model, "best_estimator_"):
                _no_network(model, f"not {named(kind)}: pass its best_estimator_")
            _no_network(model, f"not {named(kind)}")
        return
    for one in kind.__mro__:
        if one in base.__mro__:
            continue
        for name in vars(one):
            # scikit-learn gives each class what says which arguments its methods ask for.
            harmless = name in _HARMLESS or (name.startswith("set_") and name.endswith("_request"))
            if not harmless and (hasattr(base, name) or name.startswith("__") or name.endswith("_")):
                _no_network(model, f"not {named(kind)}: {named(one)} has a {name} of its own")
    for name in vars(model):
        if callable(getattr(kind, name, None)):
            _no_network(model, f"not one with a {name} of its own")


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
        `model` is no such model, or not fitted; or it is of a class of its own that may predict another thing.
    ValueError
        What it holds does not fit together, or a function that it applies is none that a layer has: that is "exp",
        which it ends with where its loss is Poisson's.

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
    _check_network(model)
    kind = type(model).__name__
    missing = [name for name in ("coefs_", "intercepts_", "out_activation_") if not hasattr(model, name)]
    if missing:
        _no_network(
            model, f"not {kind}: it has no {missing[0]}; call fit first" if hasattr(model, "fit") else f"not {kind}"
        )
    used = []
    for name in ("activation", "out_activation_"):
        value = getattr(model, name, None)
        if not isinstance(value, str) or value not in _SKLEARN or (name == "activation" and value == "softmax"):
            # Regression with Poisson loss.
            exp = name == "out_activation_" and value == "exp"
            raise ValueError(
                f"from_sklearn: {kind} has {name} {value!r}, expected one of {', '.join(_SKLEARN)}"
                + exp * "; convert a copy that has 'identity' there, and call numpy.exp on what it gives"
            )
        used.append(_SKLEARN[value])
    hidden, last = used
    weights, biases = list(model.coefs_), list(model.intercepts_)
    count = getattr(model, "n_layers_", len(weights) + 1)
    if not len(weights) == len(biases) == count - 1 or not weights:
        raise ValueError(
            f"from_sklearn: {kind} has {len(weights)} coefs_, {len(biases)} intercepts_ and {count} layers, expected one "
            "layer more than of the others"
        )
    parts: list[tuple[Floats, Floats]] = []
    for index, pair in enumerate(zip(weights, biases)):
        weight, bias = (
            floats(f"from_sklearn: {name}[{index}]", one) for name, one in zip(("coefs_", "intercepts_"), pair)
        )
        rows = parts[-1][0].array.shape[1] if parts else getattr(model, "n_features_in_", None)
        shape = weight.array.shape
        if len(shape) != 2 or bias.array.shape != shape[1:] or rows not in (None, shape[0]):
            raise ValueError(
                f"from_sklearn: coefs_[{index}] has shape {shape} and intercepts_[{index}] {bias.array.shape}, expected "
                f"({'inputs' if rows is None else rows}, outputs) and (outputs,)"
            )
        parts.append((weight, bias))
    outputs = parts[-1][0].array.shape[1]
    if getattr(model, "n_outputs_", outputs) != outputs:
        raise ValueError(f"from_sklearn: {kind} has {model.n_outputs_} outputs, its last layer gives {outputs}")
    dtypes = sorted({one.dtype for pair in parts for one in pair})
    if len(dtypes) > 1:
        raise TypeError(f"from_sklearn: the layers of {kind} differ in dtype: {', '.join(dtypes)}")
    layers: list[Any] = []
    for index, (weight, bias) in enumerate(parts):
        end = index == len(parts) - 1
        activation = (None if last == "softmax" else last) if end else hidden
        layers.append(linear(f"from_sklearn: layer {index}, ", weight, bias, activation, dtype))
    return _stack("from_sklearn", [*layers, "softmax"] if last == "softmax" else layers)
