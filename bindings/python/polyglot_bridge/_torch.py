"""What PyTorch's modules compute, where that is known for certain.

A module is known by its class itself, not by the name that the class has, and only where nothing that PyTorch lets a
user change about an object was changed: its `forward`, hooks, parametrizations, what it holds. PyTorch is not imported:
who has a module has imported it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np

from . import _core
from ._tensors import Floats, computed, floats, linear, named, narrowed, stored

# Classes of torch.nn, and which parameters each has.
_PARAMETERS: dict[str, tuple[str, ...]] = {
    "Linear": ("weight", "bias"),
    "LayerNorm": ("weight", "bias"),
    "RMSNorm": ("weight",),
    **dict.fromkeys(("Sequential", "Identity", "Dropout", "AlphaDropout", "Softmax", "LogSoftmax", "GELU"), ()),
    **dict.fromkeys(("ReLU", "Sigmoid", "Tanh", "SiLU"), ()),
}
_ACTIVATIONS = {"ReLU": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "SiLU": "silu"}
# What these classes read of an object: a subclass that brings one of these as its own is another layer.
_READ = {
    "weight",
    "bias",
    "training",
    "p",
    "inplace",
    "approximate",
    "dim",
    "eps",
    "normalized_shape",
    "parametrizations",
}
# What a subclass may bring without being another layer.
_HARMLESS = {
    *(
        "__module__",
        "__qualname__",
        "__doc__",
        "__init__",
        "__annotations__",
        "__dict__",
        "__weakref__",
        "__constants__",
    ),
    *("__firstlineno__", "__static_attributes__", "__annotate__", "__annotate_func__", "__annotations_cache__"),
    *("__parameters__", "__orig_bases__", "__repr__", "extra_repr", "reset_parameters", "_get_name"),
    *("__getstate__", "__setstate__", "__reduce__", "__reduce_ex__", "__copy__", "__deepcopy__"),
}
# As many layers as a stack has at most: modules that hold a module many times over have no end.
_MOST_LAYERS = 1 << 20


def is_module(module: object) -> bool:
    kind = getattr(sys.modules.get("torch.nn"), "Module", None)
    return kind is not None and isinstance(module, kind)


def _own(kind: Any, name: str) -> bool:
    """Whether a class has a function that was written where the class was."""
    function = vars(kind).get(name)
    return function is None or getattr(function, "__globals__", None) is vars(sys.modules[kind.__module__])


def _from(value: Any, module: str) -> bool:
    """Whether a function was written in a module."""
    return module in sys.modules and getattr(value, "__globals__", None) is vars(sys.modules[module])


class _DefaultEps:
    """An RMSNorm without a weight, whose eps follows from the dtype of `x`."""

    def __init__(self, place: str) -> None:
        self.place = place


class Modules:
    """Reads modules for `caller`, which messages begin with."""

    def __init__(self, caller: str, dtype: Any) -> None:
        self.caller = caller
        self.dtype = dtype
        self.nn: Any = sys.modules["torch.nn"]
        self.bases = {getattr(self.nn, name): name for name in _PARAMETERS if hasattr(self.nn, name)}

    def refuse(self, place: str, why: str) -> NoReturn:
        raise ValueError(f"{self.caller}: {place} {why}")

    # --- What a module is ---------------------------------------------------------------------------------------------

    def base(self, module: Any) -> Any:
        """The class of torch.nn that a module is of, or that its class adds nothing to; None for others."""
        return next((one for one in type(module).__mro__ if one in self.bases), None)

    def changed(self, module: Any, base: Any) -> str | None:
        """What a module's class changes about the class of torch.nn that it comes from."""
        parametrized = "parametrizations" in getattr(module, "_modules", ())
        for kind in type(module).__mro__:
            if kind in base.__mro__:
                continue
            for name, value in vars(kind).items():
                if parametrized and kind is type(module) and self._parametrizes(value):
                    continue
                if name in _HARMLESS:
                    continue
                if name in _READ or hasattr(base, name) or name.startswith("__"):
                    return f"{named(kind)} has a {name} of its own"
        for kind in base.__mro__:
            for name in ("forward", "__call__", "_call_impl", "_wrapped_call_impl", "__getattr__", "__iter__"):
                if not _own(kind, name) and kind is not object:
                    return f"{named(kind)}.{name} was replaced"
        return None

    @staticmethod
    def _parametrizes(value: Any) -> bool:
        """Whether what a class has came from `parametrize`, which makes a class for each module that it touches."""
        where = "torch.nn.utils.parametrize"
        return _from(getattr(value, "fget", None) if isinstance(value, property) else value, where)

    def kind(self, module: Any, place: str) -> str | None:
        """The name of the class of torch.nn that a module certainly behaves like; None where it is of no such class."""
        base = self.base(module)
        if base is None:
            return None
        why = self.changed(module, base) or self.touched(module) or self.more(module, self.bases[base])
        if why is not None:
            self.refuse(place, f"is no mere torch.nn.{self.bases[base]}: {why}{self.advice(module)}")
        return self.bases[base]

    def touched(self, module: Any) -> str | None:
        """What was done to an object that makes its call another than its class's."""
        for name in vars(module):
            if callable(getattr(type(module), name, None)):
                return f"it has a {name} of its own; delete that first"
        if getattr(module, "_compiled_call_impl", None) is not None:
            return "it was compiled; convert it before its compile()"
        everywhere = sys.modules.get("torch.nn.modules.module")
        for hooks in ("_global_forward_pre_hooks", "_global_forward_hooks"):
            if getattr(everywhere, hooks, None):
                return "there are hooks for the forward pass of all modules; remove them first"
        if module._forward_hooks:
            return "it has a forward hook; remove that first"
        for hook in module._forward_pre_hooks.values():
            if not self.reparametrizes(hook):
                pruned = type(hook).__module__ == "torch.nn.utils.prune"
                how = " (torch.nn.utils.prune.remove)" if pruned else ""
                return f"it has a forward pre-hook, {named(type(hook))}; remove that first{how}"
        return None

    @staticmethod
    def reparametrizes(hook: Any) -> str | None:
        """Which of PyTorch's two hooks that compute a weight before each call this is."""
        for module, name in (
            ("torch.nn.utils.weight_norm", "WeightNorm"),
            ("torch.nn.utils.spectral_norm", "SpectralNorm"),
        ):
            if type(hook) is getattr(sys.modules.get(module), name, ()):
                return name
        return None

    def more(self, module: Any, kind: str) -> str | None:
        """What a module holds beside what its class needs."""
        known = set(_PARAMETERS[kind])
        for hook in module._forward_pre_hooks.values():
            if self.reparametrizes(hook) == "WeightNorm":
                known |= {f"{hook.name}_g", f"{hook.name}_v"}
            else:
                known |= {f"{hook.name}_orig", f"{hook.name}_u", f"{hook.name}_v"}
        for what, names in (("parameter", module._parameters), ("buffer", module._buffers)):
            for name in names:
                if name not in known:
                    return f"it has a {what} {name}, which its class has no use for"
        if kind == "Sequential":
            return None
        for name in module._modules:
            if name != "parametrizations":
                return f"it has a module {name}, which its class has no use for"
        return None

    # --- What it holds ------------------------------------------------------------------------------------------------

    def parameter(self, module: Any, name: str, place: str) -> Floats | None:
        """A parameter as the forward pass would see it now."""
        place = f"{place}.{name}" if place else name
        with self._no_grad():
            try:
                value = self._current(module, name, place)
            except RuntimeError as error:
                self.refuse(place, f"cannot be computed: {error}")
            return None if value is None else floats(f"{self.caller}: {place}", value)

    def _no_grad(self) -> contextlib.AbstractContextManager[Any]:
        manager: contextlib.AbstractContextManager[Any] = sys.modules["torch"].no_grad()
        return manager

    def _current(self, module: Any, name: str, place: str) -> Any:
        parametrizations = module._modules.get("parametrizations")
        if parametrizations is not None and name in parametrizations:
            return self._parametrized(parametrizations[name], place)
        # The weight that lies in such a module is that of the last call: those that it comes from may be newer.
        for hook in module._forward_pre_hooks.values():
            if hook.name != name:
                continue
            if self.reparametrizes(hook) == "WeightNorm":
                return type(hook).compute_weight(hook, module)
            if module.training:
                self.refuse(place, "changes with each call in training: call eval() first")
            return type(hook).compute_weight(hook, module, do_power_iteration=False)
        return getattr(module, name, None)

    def _parametrized(self, chain: Any, place: str) -> Any:
        parametrizations: Any = sys.modules["torch.nn.utils.parametrizations"]
        known = [getattr(parametrizations, name, None) for name in ("_WeightNorm", "_SpectralNorm", "_Orthogonal")]
        whole = sys.modules["torch.nn.utils.parametrize"].ParametrizationList
        for part in [chain, *(chain if type(chain) is whole else ())]:
            if type(part) not in (known if part is not chain else [whole]):
                self.refuse(
                    place,
                    f"has the parametrization {named(type(part))}: remove it first "
                    "(torch.nn.utils.parametrize.remove_parametrizations)",
                )
            why = self.touched(part)
            if why is not None:
                self.refuse(place, f"has a parametrization, {named(type(part))}, that was changed: {why}")
            if type(part).__name__ == "_SpectralNorm" and part.training:
                self.refuse(place, "changes with each call in training: call eval() first")
        return chain()

    # --- What it becomes ----------------------------------------------------------------------------------------------

    def linear(self, module: Any, place: str, activation: Any) -> _core.Linear:
        weight, bias = self.parameter(module, "weight", place), self.parameter(module, "bias", place)
        where = f"{self.caller}: {place}." if place else f"{self.caller}: "
        if weight is None:
            raise ValueError(f"{where}weight is None")
        return oriented(where, weight, bias, activation, self.dtype)

    def stack(self, module: Any) -> list[Any]:
        """The layers of a module: `Linear`, `RowOperation`, and activations by name."""
        layers: list[Any] = []
        done: dict[int, list[Any]] = {}
        for part, place in self._leaves(module):
            if id(part) not in done:
                done[id(part)] = self._layer(part, place)
            layers += done[id(part)]
            if len(layers) > _MOST_LAYERS:
                raise ValueError(f"{self.caller}: there are more than {_MOST_LAYERS} layers")
        kinds = {computed(one.dtype.name) for one in layers if isinstance(one, _core.Linear)}
        kinds |= {computed(one.weight.dtype.name) for one in layers if getattr(one, "weight", None) is not None}
        for index, layer in enumerate(layers):
            if isinstance(layer, _DefaultEps):
                if len(kinds) != 1:
                    self.refuse(layer.place, "has eps None, and no other layer tells its dtype: give it an eps")
                layers[index] = _core.RowOperation("rms_norm", eps=float(np.finfo(*kinds).eps))
        return layers

    def _leaves(self, module: Any) -> Iterator[tuple[Any, str]]:
        """The modules that a module calls one after the other, each as often as it is called."""
        entered: set[int] = set()
        known: set[int] = set()
        todo = [(module, "", False)]
        while todo:
            part, path, done = todo.pop()
            if done:
                entered.discard(id(part))
                continue
            place = f"{path}{type(part).__name__}"
            if self.base(part) is not self.nn.Sequential:
                yield part, place
                continue
            if id(part) not in known:
                self.kind(part, place)
                known.add(id(part))
            if id(part) in entered:
                self.refuse(place, "holds itself")
            entered.add(id(part))
            todo.append((part, path, True))
            todo += [(one, f"{path}{name}.", False) for name, one in reversed(part._modules.items())]
            if len(todo) > 2 * _MOST_LAYERS:
                raise ValueError(f"{self.caller}: there are more than {_MOST_LAYERS} layers")

    def _layer(self, module: Any, place: str) -> list[Any]:
        kind = self.kind(module, place)
        if kind is None:
            self.refuse(place, f"is no layer that this package has: {self.what(module)}")
        if kind == "Linear":
            return [self.linear(module, place, None)]
        if kind == "Identity":
            return []
        if kind in ("Dropout", "AlphaDropout"):
            if module.training and module.p != 0:
                self.refuse(place, "is in training, where what it gives is random: call eval() first")
            return []
        if kind in _ACTIVATIONS:
            return [_ACTIVATIONS[kind]]
        if kind == "GELU":
            names = {"none": "gelu", "tanh": "gelu_tanh"}
            if module.approximate not in names:
                self.refuse(place, f"has approximate {module.approximate!r}, expected 'none' or 'tanh'")
            return [names[module.approximate]]
        if kind in ("Softmax", "LogSoftmax"):
            if type(module.dim) is not int or module.dim != -1:
                self.refuse(
                    place,
                    f"works along dim {module.dim}, expected -1: set its dim to -1, which is the same where that is the "
                    "last axis",
                )
            return ["softmax" if kind == "Softmax" else "log_softmax"]
        return [self._norm(module, kind, place)]

    def _norm(self, module: Any, kind: str, place: str) -> Any:
        shape = tuple(module.normalized_shape)
        if len(shape) != 1:
            self.refuse(place, f"goes over {shape}, expected one axis")
        arrays: dict[str, Any] = {}
        for part in _PARAMETERS[kind]:
            values = self.parameter(module, part, place)
            if values is None:
                continue
            if values.array.shape != shape:
                self.refuse(f"{place}.{part}", f"has shape {values.array.shape}, expected {shape}")
            arrays[part] = self._beside(values, f"{self.caller}: {place}.{part}")
        eps = module.eps
        if eps is None:
            if kind != "RMSNorm":
                self.refuse(place, "has eps None: give it an eps")
            if not arrays:
                return _DefaultEps(place)
            # That of what is computed in, as PyTorch takes it: float16 has float32's.
            eps = float(np.finfo(computed(arrays["weight"].dtype.name)).eps)
        name: Any = {"LayerNorm": "layer_norm", "RMSNorm": "rms_norm"}[kind]
        try:
            return _core.RowOperation(name, **arrays, eps=eps)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{self.caller}: {place}: {error}") from None

    def _beside(self, values: Floats, where: str) -> np.ndarray[Any, Any]:
        """Parameters of a norm for rows that linear layers in `dtype` compute."""
        kept = computed(values.dtype if self.dtype is None else stored(self.dtype) or values.dtype)
        if kept == "float32" and values.dtype == "float16":
            # It fits rows of float32 and of its own dtype.
            return values.array
        if kept == "float32" and values.dtype == "bfloat16":
            with contextlib.suppress(ImportError):
                import ml_dtypes

                return values.array.astype(ml_dtypes.bfloat16)
        return narrowed(where, values, kept)

    def what(self, module: Any) -> str:
        """What a module is that is of none of these classes, and what to do about it."""
        rest = "; convert the torch.nn modules in it one by one, and write the rest with this package's functions"
        return f"it is {named(type(module))}{self.advice(module) or rest}"

    @staticmethod
    def advice(module: Any) -> str:
        """What to do about a module of a class that is well known."""
        known: list[tuple[str, str, str]] = [
            ("torch.nn", "DataParallel", "pass its module"),
            ("torch.nn.parallel", "DistributedDataParallel", "pass its module"),
            ("torch._dynamo.eval_frame", "OptimizedModule", "pass its _orig_mod, the module that was compiled"),
            ("torch.jit", "ScriptModule", "pass the module that it was made of"),
            ("torch.fx", "GraphModule", "pass the module that it was made of"),
            (
                "torch.nn",
                "ModuleList",
                "it does not say how its modules are called; pass torch.nn.Sequential(*modules)",
            ),
            ("torch.nn", "ModuleDict", "it does not say how its modules are called; pass a torch.nn.Sequential"),
            ("torch.nn", "LazyLinear", "call the module once first"),
            (
                "transformers.pytorch_utils",
                "Conv1D",
                "its weight is (in, out), which polyglot_bridge.Linear takes as it is",
            ),
        ]
        for where, name, what in known:
            kind = getattr(sys.modules.get(where), name, None)
            if isinstance(kind, type) and isinstance(module, kind):
                return f"; {what}"
        return ""


def oriented(where: str, weight: Floats, bias: Floats | None, activation: Any, dtype: Any) -> _core.Linear:
    """A layer of a weight that is (out, in), as PyTorch's `Linear` has it."""
    shape = weight.array.shape
    if len(shape) != 2:
        raise ValueError(f"{where}weight has shape {shape}, expected (out, in)")
    if bias is not None and bias.array.shape != shape[:1]:
        turned = bias.array.shape == shape[1:]
        why = f"{where}bias has shape {bias.array.shape} and {where}weight has shape {shape}, expected (out,) and (out, in)"
        raise ValueError(
            why + turned * ": a weight that is kept as (in, out) is one for polyglot_bridge.Linear as it is"
        )
    return linear(where, weight._replace(array=weight.array.T), bias, activation, dtype)
