"""Calls of every public function beside formulas in NumPy, and objects that change an array while a call asks them something.

`python hostile.py NAME PROGRESS START` makes each change to each array of the calls of that name, from within each object that may
stand for an argument, and prints a line for each try that goes wrong. It runs in a process of its own, as what goes wrong may end
the process: the number and the words of the try under way are in the file PROGRESS.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import polyglot_bridge as pb

# --- calls, and what they are to give ---------------------------------------------------------------------------------------------


def _normal(shape, seed, dtype="float32"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def _wide(value):
    return None if value is None else np.asarray(value, np.float64)


def _softmax(x, axis=-1):
    e = np.exp(_wide(x) - _wide(x).max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def _along(vector, ndim, axis):
    shape = [1] * ndim
    shape[axis] = -1
    return _wide(vector).reshape(shape)


def _layer_norm(x, weight=None, bias=None, residual=None, eps=1e-5, axis=-1):
    x = _wide(x) if residual is None else _wide(x) + _wide(residual)
    x = (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + eps)
    x = x if weight is None else x * _along(weight, x.ndim, axis)
    return x if bias is None else x + _along(bias, x.ndim, axis)


def _rms_norm(x, weight=None, eps=1e-6, axis=-1):
    x = _wide(x) / np.sqrt((_wide(x) ** 2).mean(axis, keepdims=True) + eps)
    return x if weight is None else x * _along(weight, x.ndim, axis)


def _sigmoid(x):
    return 1 / (1 + np.exp(-_wide(x)))


def _gelu(x):
    return _wide(x) * (1 + np.vectorize(math.erf)(_wide(x) / math.sqrt(2))) / 2


def _gelu_tanh(x):
    x = _wide(x)
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


_ACTIVATIONS: dict[Any, Callable[..., Any]] = {
    None: _wide,
    "relu": lambda x: np.maximum(_wide(x), 0),
    "sigmoid": _sigmoid,
    "tanh": lambda x: np.tanh(_wide(x)),
    "silu": lambda x: _wide(x) * _sigmoid(x),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
}


def _linear(x, weight, bias=None, activation=None, residual=None):
    y = _wide(x) @ _wide(weight)
    y = y if bias is None else y + _wide(bias)
    return _ACTIVATIONS[activation](y if residual is None else y + _wide(residual))


def _attention(q, k, v, mask=None, causal=False, scale=1.0):
    scores = _wide(q) @ np.swapaxes(_wide(k), -1, -2) * scale
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype.kind in "biu" else scores + _wide(mask)
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    return _softmax(scores) @ _wide(v)


def _mean_pool(x, mask):
    mask = np.asarray(mask)[..., None] != 0
    return np.where(mask, _wide(x), 0).sum(-2) / mask.sum(-2)


def _dropout_add(x, residual, mask, scale=1.0):
    kept = np.where(mask, _wide(x), 0) if mask.dtype.kind in "biu" else _wide(x) * _wide(mask)
    return kept * scale + _wide(residual)


class Case:
    """A call: `function` takes `arguments` by name, and gives what `formula` gives of all but `out`."""

    def __init__(self, function, formula, *, one_by_one=False, **arguments):
        self.function, self.formula, self.arguments = function, formula, arguments
        # Arrays are looked up and taken in one after the other, so that one that comes later may have been changed by then.
        self.one_by_one = one_by_one

    def fresh(self) -> dict[str, Any]:
        """The arguments once more, arrays with memory of their own, in the order of the originals."""
        return {name: value.copy(order="K") if isinstance(value, np.ndarray) else value for name, value in self.arguments.items()}

    def expected(self):
        return np.asarray(self.formula(**{name: value for name, value in self.fresh().items() if name != "out"}), np.float64)

    def arrays(self) -> list[str]:
        return [name for name, value in self.arguments.items() if isinstance(value, np.ndarray)]


N, K, M = 96, 200, 104
X, RESIDUAL, ROW = _normal((N, K), 1), _normal((N, K), 2), _normal(K, 3)
WEIGHT, BIAS, ADDED = _normal((K, M), 4) / 8, _normal(M, 5), _normal((N, M), 6)
SELECT, FACTORS = _normal((N, K), 7) > 0, _normal((N, K), 8)
Q, KEYS, VALUES = _normal((2, 40, 64), 9) / 4, _normal((2, 50, 64), 10), _normal((2, 50, 64), 11)
HIDES, ADDS = _normal((40, 50), 12) > -1, _normal((40, 50), 13)
HIDES[:, 0] = True
IDS, OTHER_IDS = np.random.default_rng(14).integers(0, 100, (50, 30)), np.random.default_rng(15).integers(0, 30, (50, 30))
TABLE, OTHER_TABLE = _normal((100, 64), 16), _normal((30, 64), 17)
STATES, KEPT = _normal((4, 60, 64), 18), _normal((4, 60), 19) > -1


def _out(*shape):
    return np.full(shape, 7, np.float32)


def _layers() -> Iterator[tuple[str, Case]]:
    layer = pb.Linear(WEIGHT, BIAS, activation="gelu")
    yield "Linear call", Case(
        layer.__call__, lambda x, residual: _linear(x, WEIGHT, BIAS, "gelu", residual), x=X, residual=ADDED, out=_out(N, M)
    )
    half = pb.Linear(WEIGHT, BIAS, dtype="float16")
    rounded = WEIGHT.astype("float16")
    yield "Linear of float16 call", Case(
        half.__call__, lambda x, residual: _linear(x, rounded, BIAS, None, residual), x=X, residual=ADDED, out=_out(N, M)
    )
    norm = pb.RowOperation("layer_norm", ROW, ROW[::-1], eps=0.5)
    yield "RowOperation call", Case(norm.__call__, lambda x: _layer_norm(x, ROW, ROW[::-1], eps=0.5), x=X, out=_out(N, K))
    stack = pb.Sequential([norm, layer, "softmax"])
    yield "Sequential call", Case(
        stack.__call__,
        lambda x: _softmax(_linear(_layer_norm(x, ROW, ROW[::-1], eps=0.5), WEIGHT, BIAS, "gelu")), x=X, out=_out(N, M)
    )
    # What is made of arrays is looked at through one call.
    yield "Linear", Case(
        lambda **given: pb.Linear(**given)(X), lambda weight, bias, activation, dtype: _linear(X, weight, bias, activation),
        weight=WEIGHT, bias=BIAS, activation="silu", dtype="float32",
    )
    yield "Linear.from_torch", Case(
        lambda weight, bias, **given: pb.Linear.from_torch({"weight": weight, "bias": bias}, **given)(X),
        lambda weight, bias, activation, dtype: _linear(X, weight.T, bias, activation),
        one_by_one=True, weight=np.ascontiguousarray(WEIGHT.T), bias=BIAS, activation="relu", dtype="float32",
    )
    yield "Sequential.from_torch", Case(
        lambda weight, bias, **given: pb.Sequential.from_torch({"0.weight": weight, "0.bias": bias}, **given)(X),
        lambda weight, bias, dtype: _linear(X, weight.T, bias),
        one_by_one=True, weight=np.ascontiguousarray(WEIGHT.T), bias=BIAS, dtype="float32",
    )
    yield "RowOperation", Case(
        lambda **given: pb.RowOperation("layer_norm", **given)(X), lambda weight, bias, eps: _layer_norm(X, weight, bias, eps=eps),
        weight=ROW, bias=ROW[::-1].copy(), eps=1.0,
    )


def _cases() -> Iterator[tuple[str, Case]]:
    for name, formula in (("softmax", _softmax), ("fused_softmax", _softmax), ("log_softmax", lambda x, axis: np.log(_softmax(x, axis))),
                          ("l2_normalize", lambda x, axis: _wide(x) / np.linalg.norm(_wide(x), axis=axis, keepdims=True))):
        yield name, Case(getattr(pb, name), formula, x=X, axis=1, out=_out(N, K))
    yield "softmax along the first axis", Case(pb.softmax, _softmax, x=X, axis=0, out=_out(N, K))
    yield "layer_norm", Case(pb.layer_norm, _layer_norm, x=X, weight=ROW, bias=ROW[::-1].copy(), residual=RESIDUAL, eps=1.0, axis=1,
                             out=_out(N, K))
    yield "fused_layer_norm", Case(pb.fused_layer_norm, _layer_norm, x=X, eps=1.0, weight=ROW, bias=ROW[::-1].copy(), axis=1,
                                   out=_out(N, K))
    yield "rms_norm", Case(pb.rms_norm, _rms_norm, x=X, weight=ROW, eps=1.0, axis=1, out=_out(N, K))
    for name in ("relu", "sigmoid", "tanh", "silu"):
        yield name, Case(getattr(pb, name), _ACTIVATIONS[name], x=X, out=_out(N, K))
    for name in ("relu", "sigmoid"):
        for suffix in ("_numpy", "_numpy_f32"):
            yield name + suffix, Case(getattr(pb, name + suffix), lambda arr, name=name: _ACTIVATIONS[name](arr), arr=X, out=_out(N, K))
    yield "gelu", Case(pb.gelu, lambda x, approximate: _gelu_tanh(x), x=X, approximate="tanh", out=_out(N, K))
    yield "scale", Case(pb.scale, lambda x, factor: _wide(x) * factor, x=X, factor=3.0, out=_out(N, K))
    for name in ("parallel_map_numpy", "parallel_map_numpy_f32"):
        yield name, Case(getattr(pb, name), lambda arr, factor: _wide(arr) * factor, arr=X, factor=3.0, out=_out(N, K))
    for kind, mask in (("", SELECT), (" with factors", FACTORS)):
        yield "dropout_add" + kind, Case(pb.dropout_add, _dropout_add, x=X, residual=RESIDUAL, mask=mask, scale=2.0, out=_out(N, K))
    yield "fused_dropout_add", Case(
        pb.fused_dropout_add, lambda x, residual, dropout_mask, scale: _dropout_add(x, residual, dropout_mask, scale),
        x=X, residual=RESIDUAL, dropout_mask=SELECT, scale=2.0, out=_out(N, K),
    )
    yield "linear", Case(pb.linear, _linear, x=X, weight=WEIGHT, bias=BIAS, activation="tanh", residual=ADDED, out=_out(N, M))
    for suffix in ("", "_f32"):
        yield "fused_linear" + suffix, Case(
            getattr(pb, "fused_linear" + suffix), lambda input, weights, bias, residual: _linear(input, weights, bias, None, residual),
            input=X, weights=WEIGHT, bias=BIAS, residual=ADDED, out=_out(N, M),
        )
        yield "fused_linear_relu" + suffix, Case(
            getattr(pb, "fused_linear_relu" + suffix), lambda input, weights, bias: _linear(input, weights, bias, "relu"),
            input=X, weights=WEIGHT, bias=BIAS, out=_out(N, M),
        )
    for name in ("matmul", "matmul_numpy", "matmul_numpy_f32"):
        yield name, Case(getattr(pb, name), lambda a, b: _wide(a) @ _wide(b), a=X, b=WEIGHT, out=_out(N, M))
    yield "matmul of stacks", Case(
        pb.matmul, lambda a, b: _wide(a) @ _wide(b), a=Q, b=np.ascontiguousarray(KEYS.transpose(0, 2, 1)), out=_out(2, 40, 50)
    )
    for kind, mask in (("", HIDES), (" with a mask of floats", ADDS)):
        yield "attention" + kind, Case(pb.attention, _attention, q=Q, k=KEYS, v=VALUES, mask=mask, causal=False, scale=0.5,
                                       out=_out(2, 40, 64))
    yield "embedding", Case(pb.embedding, lambda ids, table, dtype: table[ids], ids=IDS, table=TABLE, dtype="float32", out=_out(50, 30, 64))
    yield "embedding of two", Case(
        lambda ids, other_ids, table, other_table, out: pb.embedding((ids, other_ids), (table, other_table), out=out),
        lambda ids, other_ids, table, other_table: _wide(table)[ids] + _wide(other_table)[other_ids],
        ids=IDS, other_ids=OTHER_IDS, table=TABLE, other_table=OTHER_TABLE, out=_out(50, 30, 64),
    )
    for kind, mask in (("", KEPT), (" with a mask of int64", KEPT.astype(np.int64))):
        yield "mean_pool" + kind, Case(pb.mean_pool, _mean_pool, x=STATES, mask=mask, out=_out(4, 64))
    for name in ("sum_of_squares_numpy", "sum_of_squares_numpy_f32"):
        yield name, Case(getattr(pb, name), lambda arr: (_wide(arr) ** 2).sum(), arr=X)
    yield "sum_of_squares", Case(pb.sum_of_squares, lambda numbers: (_wide(numbers) ** 2).sum(), numbers=np.repeat(ROW, 20))
    yield "matrix_multiply", Case(pb.matrix_multiply, lambda a, b: _wide(a) @ _wide(b), a=X, b=WEIGHT)
    yield "parallel_transform", Case(pb.parallel_transform, lambda data, factor: _wide(data) * factor, data=np.repeat(ROW, 20), factor=3.0)
    yield from _layers()


def _with_other_orders(cases) -> Iterator[tuple[str, Case]]:
    """Arrays in Fortran order too, which take other ways through a call."""
    for name, case in cases:
        yield name, case
        if name in ("softmax", "layer_norm", "relu", "dropout_add", "linear", "matmul", "attention", "mean_pool", "embedding", "Linear call"):
            turned = {key: np.asfortranarray(value) if isinstance(value, np.ndarray) else value for key, value in case.arguments.items()}
            yield name + " in Fortran order", Case(case.function, case.formula, **turned)


CASES: dict[str, Case] = dict(_with_other_orders(_cases()))
# Public names that take no array: counts, the cache, files, conversions that are tried through what they call.
NO_ARRAYS = {
    "Explanation", "__version__", "cache_info", "clear_cache", "explain", "from_sklearn", "get_num_threads", "load_file", "save_file",
    "set_cache_limit", "set_num_threads", "threads", "Sequential",
}

# --- what is done to an array -----------------------------------------------------------------------------------------------------


def _set(name, value):
    def change(array):
        with warnings.catch_warnings():
            # NumPy warns of some of these setters and means to take them away.
            warnings.simplefilter("ignore")
            setattr(array, name, value(array))
    return change


def _set_state(array):
    """Frees the memory, and gives the array a single element elsewhere."""
    array.__setstate__((1, (1,) * array.ndim, array.dtype, False, bytes(array.itemsize)))


def _resize_to_more(array):
    shape = tuple(4 * n for n in array.shape)
    if math.prod(shape) * array.itemsize > 2**26:
        raise ValueError("enough")
    array.resize(shape, refcheck=False)


CHANGES: dict[str, Callable[[np.ndarray], None]] = {
    "dtype to int8": _set("dtype", lambda array: np.dtype("i1")),
    "dtype to float64": _set("dtype", lambda array: np.dtype("f8")),
    "dtype to float16": _set("dtype", lambda array: np.dtype("f2")),
    "dtype to other integers of the size": _set("dtype", lambda array: np.dtype(f"u{array.itemsize}")),
    "dtype to the other byte order": _set("dtype", lambda array: array.dtype.newbyteorder()),
    "shape to one dimension": _set("shape", lambda array: (array.size,)),
    "shape turned around": _set("shape", lambda array: array.shape[::-1]),
    "shape of two more dimensions": _set("shape", lambda array: (1, *array.shape, 1)),
    "strides to zero": _set("strides", lambda array: (0,) * array.ndim),
    "strides turned around": _set("strides", lambda array: array.strides[::-1]),
    "resized to one element": lambda array: array.resize((1,) * array.ndim, refcheck=False),
    "resized to more": _resize_to_more,
    "its state set": _set_state,
}
# What no view of the array outlives, in NumPy either: the weight of a PyTorch layer is passed on as a view.
FREE_MEMORY = {"resized to one element", "resized to more", "its state set"}

# --- objects that run a hook when they are asked for something --------------------------------------------------------------------


def _class_hooked(value, hook):
    """An array of a class of its own whose `__class__` is looked up by isinstance."""
    class Hooked(np.ndarray):
        @property
        def __class__(self):
            hook()
            return Hooked
    return value.view(Hooked) if value.base is not None else _own(value, Hooked)


def _own(value, kind):
    """An array of a subclass that owns its memory, as only such a one can be resized."""
    array = np.ndarray.__new__(kind, value.shape, value.dtype, order="F" if value.flags.fnc else "C")
    np.ndarray.__setitem__(array, ..., value)
    return array


def _finalize_hooked(value, hook):
    class Hooked(np.ndarray):
        def __array_finalize__(self, source):
            hook()
    return value.view(Hooked)


def _array_method(value, hook):
    class Hooked:
        def __array__(self, dtype=None, copy=None):
            hook()
            return value
    return Hooked()


def _array_deleted(value, hook):
    """`__array__` gives an array of a subclass whose end is noticed."""
    class Ends(np.ndarray):
        def __del__(self):
            hook()

    class Hooked:
        def __array__(self, dtype=None, copy=None):
            return value.view(Ends)
    return Hooked()


def _interface(value, hook):
    class Hooked:
        @property
        def __array_interface__(self):
            hook()
            return value.__array_interface__
    return Hooked()


def _struct(value, hook):
    class Hooked:
        @property
        def __array_struct__(self):
            hook()
            return value.__array_struct__
    return Hooked()


def _dlpack(value, hook):
    class Hooked:
        def __dlpack__(self, **given):
            hook()
            return value.__dlpack__(**given)

        def __dlpack_device__(self):
            hook()
            return value.__dlpack_device__()
    return Hooked()


def _buffer(value, hook):
    class Hooked:
        def __buffer__(self, flags):
            hook()
            return memoryview(value)
    return Hooked()


def _list(value, hook):
    """A list whose last item runs the hook: a row, or a number."""
    items = list(value)
    if value.ndim > 1:
        items[-1] = _array_method(items[-1], hook)
    else:
        items[-1] = _index_method(int(items[-1]), hook) if value.dtype.kind in "iu" else _float_method(float(items[-1]), hook)
    return items


def _sequence(value, hook):
    class Hooked:
        def __len__(self):
            hook()
            return len(value)

        def __getitem__(self, index):
            if index in (0, len(value) - 1):
                hook()
            return value[index]
    return Hooked()


def _any_attribute(value, hook):
    class Hooked:
        def __getattribute__(self, name):
            hook()
            return object.__getattribute__(self, name)

        def __array__(self, dtype=None, copy=None):
            return value
    return Hooked()


def _overflowing(value, hook):
    """A list that overflows as it is rounded, of which NumPy tells an error handler, the hook."""
    if value.dtype.kind != "f":
        return value
    items = value.astype(np.float64)
    items.reshape(-1, order="A")[-1] = 1e300
    return items.tolist()


def _float_method(value, hook):
    class Hooked:
        def __float__(self):
            hook()
            return float(value)
    return Hooked()


def _index_method(value, hook):
    class Hooked:
        def __index__(self):
            hook()
            return int(value)
    return Hooked()


def _dimensions(value, hook):
    class Hooked(float):
        @property
        def ndim(self):
            hook()
            return 0

        def __float__(self):
            hook()
            return float(value)
    return Hooked(value)


def _int_subclass(value, hook):
    class Hooked(int):
        def __index__(self):
            hook()
            return int(value)

        def __int__(self):
            hook()
            return int(value)
    return Hooked(value)


def _str_subclass(value, hook):
    class Hooked(str):
        __hash__ = str.__hash__

        def __eq__(self, other):
            hook()
            return str.__eq__(self, other)

        def __str__(self):
            hook()
            return str.__str__(self)
    return Hooked(value)


def _equal(value, hook):
    class Hooked:
        __hash__ = object.__hash__

        def __eq__(self, other):
            hook()
            return value == other

        def __repr__(self):
            hook()
            return "Hooked"
    return Hooked()


def _named(value, hook):
    class Hooked:
        @property
        def dtype(self):
            hook()
            return np.dtype(value)

        def __repr__(self):
            hook()
            return "Hooked"
    return Hooked()


def _truth(value, hook):
    class bool_:
        def __bool__(self):
            hook()
            return bool(value)
    bool_.__module__, bool_.__qualname__ = "numpy", "bool_"
    return bool_()


def _pretender(value, hook):
    class Hooked:
        @property
        def __class__(self):
            hook()
            return np.ndarray
    return Hooked()


OBJECTS: dict[str, dict[str, Callable[[Any, Callable[[], None]], Any]]] = {
    "array": {
        "__class__ of a subclass": _class_hooked, "__array_finalize__": _finalize_hooked, "__array__": _array_method,
        "__del__ of what __array__ gives": _array_deleted, "__array_interface__": _interface, "__array_struct__": _struct,
        "__dlpack__": _dlpack, "__buffer__": _buffer, "an item of a list": _list, "__getitem__": _sequence,
        "__getattribute__": _any_attribute, "an error handler": _overflowing,
    },
    "out": {"__class__ of a subclass": _class_hooked, "__class__ of no array": _pretender, "__array_finalize__": _finalize_hooked},
    "number": {"__float__": _float_method, "__index__": _index_method, "ndim": _dimensions, "__getattribute__": _any_attribute},
    "axis": {"__index__": _index_method, "an int's own __index__": _int_subclass},
    "word": {"a str's own __eq__": _str_subclass, "__eq__": _equal},
    "dtype": {"a str's own __eq__": _str_subclass, "dtype": _named},
    "flag": {"__bool__": _truth},
}
KINDS = {"out": "out", "axis": "axis", "eps": "number", "factor": "number", "scale": "number", "activation": "word",
         "approximate": "word", "dtype": "dtype", "causal": "flag"}
# These stand for the array itself, and so may change themselves.
THEMSELVES = {"__class__ of a subclass", "__array_finalize__"}
# Each so many of the tries is made: for sanitizers, under which a process takes its time.
SHARE = int(os.environ.get("POLYGLOT_HOSTILE_SHARE", "1"))
# How often one object may be asked; what comes after that is no other place in the code.
MOST_ASKED = 6


class Hook:
    """Makes the change when it has been called `at` times before; counts."""

    def __init__(self):
        self.armed, self.calls, self.at, self.change, self.changed = False, 0, -1, None, False

    def __call__(self, *_):
        if not self.armed:
            return
        self.calls += 1
        if self.calls - 1 == self.at and self.change is not None:
            self.armed = False
            # What this NumPy does not let be set, or refuses for this array, is no case.
            with contextlib.suppress(AttributeError, TypeError, ValueError):
                self.change()
                self.changed = True
            self.armed = True


@contextlib.contextmanager
def _armed(hook, how):
    """Within it the hook works, by collecting garbage where that is how it is called."""
    before = gc.get_threshold()
    with np.errstate(all="call", call=hook) if how == "an error handler" else contextlib.nullcontext():
        hook.armed = True
        if how == "garbage collection":
            gc.callbacks.append(hook)
            gc.set_threshold(1)
        try:
            yield
        finally:
            hook.armed = False
            if how == "garbage collection":
                gc.callbacks.remove(hook)
                gc.set_threshold(*before)


def outcome(case: Case, given: dict[str, Any], hook: Hook, how: str) -> tuple[Any, Any]:
    """(None, the answer), or (the exception, its text)."""
    try:
        with _armed(hook, how):
            answer = case.function(**given)
        return None, np.array(answer)
    except BaseException as error:
        return type(error), str(error)


def _same(one, other):
    return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()


class Trial:
    """One object in place of one argument of a call."""

    def __init__(self, case: Case, parameter: str, how: str):
        self.case, self.parameter, self.how = case, parameter, how
        kind = KINDS.get(parameter, "array")
        self.make = OBJECTS[kind].get(how)
        self.kind = kind

    def run(self, victim: str | None, change, at: int):
        """Makes the call; `change` happens to the argument `victim` when the object is asked for the time `at`."""
        hook, given = Hook(), self.case.fresh()
        target = given.get(victim)
        if self.make is not None:
            replaced = self.make(given[self.parameter], hook)
            if victim == self.parameter:
                target = replaced
            given[self.parameter] = replaced
        hook.at = at
        if change is not None:
            hook.change = lambda: change(target)
        out = given.get("out")
        # Not isinstance, which asks for the class that an object says it is of.
        before = out.tobytes() if issubclass(type(out), np.ndarray) else None
        result = outcome(self.case, given, hook, self.how)
        untouched = before is None or victim == "out" or out.tobytes() == before
        return hook, result, untouched

    def changed_before(self, victim: str, change):
        """What comes of the call where the change was made before it."""
        given = self.case.fresh()
        target = given[victim]
        if self.make is not None:
            given[self.parameter] = self.make(given[self.parameter], Hook())
        with contextlib.suppress(AttributeError, TypeError, ValueError):
            change(target)
        return outcome(self.case, given, Hook(), self.how if self.make is not None else "")

    def judge(self, victim: str, change, at: int, usual) -> str | None:
        """What is wrong with the call where the change happens, else None."""
        hook, (error, answer), untouched = self.run(victim, change, at)
        if hook.changed and self.case.one_by_one and error in (None, TypeError, ValueError):
            # What of it was seen is Python's business.
            return None
        if hook.changed and self.how == "garbage collection":
            # It may have come before the array was looked at as well as after.
            before, expected = self.changed_before(victim, change)
            if before is error and (expected == answer if error else _same(expected, answer)):
                return None
        if error is None and usual[0] is None:
            return None if _same(answer, usual[1]) else "another answer"
        if error is None:
            return "an answer instead of an exception"
        if error is not usual[0] and not (hook.changed and error is ValueError and re.search(rf"\b{victim.removeprefix('other_')}\b", answer)):
            return f"{error.__name__}: {answer}"
        return None if untouched else "an exception, and out was written"


def trials(case: Case) -> Iterator[tuple[str, Trial, str, str, int, Any]]:
    """(words, trial, victim, change, time, outcome without the change) of all there is to try."""
    ways = [(parameter, how) for parameter in case.arguments for how in OBJECTS[KINDS.get(parameter, "array")]]
    ways.append((next(iter(case.arguments)), "garbage collection"))
    for parameter, how in ways:
        trial = Trial(case, parameter, how)
        hook, usual, _ = trial.run(None, None, -1)
        for victim in case.arrays():
            if victim == parameter and how not in THEMSELVES | {"garbage collection"}:
                continue
            for at in range(min(hook.calls, MOST_ASKED)):
                for change in CHANGES:
                    if case.one_by_one and change in FREE_MEMORY:
                        continue
                    words = f"{victim}: {change}, by {how} of {parameter}, asked the {at + 1}. time"
                    yield words, trial, victim, change, at, usual


def check_plain(case: Case) -> None:
    """The call with nothing unusual about it gives what the formula gives."""
    answer = np.asarray(case.function(**case.fresh()), np.float64)
    exact = case.expected()
    assert answer.shape == exact.shape
    # Products of float32 with sums of a few hundred terms of about one.
    np.testing.assert_allclose(answer, exact, rtol=1e-4, atol=1e-4)


def main(name: str, progress: str, start: int) -> None:
    case = CASES[name]
    if start == 0:
        check_plain(case)
    with open(progress, "wb", buffering=0) as file:
        number = -1
        for number, (words, trial, victim, change, at, usual) in enumerate(trials(case)):
            if number < start or number % SHARE:
                continue
            os.pwrite(file.fileno(), f"{number} {words}".ljust(200).encode(), 0)
            wrong = trial.judge(victim, CHANGES[change], at, usual)
            if wrong is not None:
                print(f"{words}: {wrong}", flush=True)
        print(f"tried {number + 1}", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
