"""Every public function on arguments of any kind: it answers or raises one of few exceptions, what it answers does not
depend on where the result is put, and what it reads is left as it was. The values themselves are checked elsewhere."""

from __future__ import annotations

import decimal
import fractions
import inspect
import os

import numpy as np
import pytest
from conftest import BFLOAT16, DTYPES
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import polyglot_bridge as pb

# `make fuzz` sets more.
EXAMPLES = int(os.environ.get("POLYGLOT_FUZZ_EXAMPLES", "40"))
ALLOWED = (TypeError, ValueError, OverflowError, MemoryError)

# These would write, or open, files of any name.
FILES = {"load_file", "save_file"}
FUNCTIONS = {name: getattr(pb, name) for name in sorted(set(pb.__all__) - FILES) if callable(getattr(pb, name))}


def _calls_of_layers():
    weight = np.linspace(-1, 1, 12).reshape(3, 4)
    for dtype in DTYPES:
        layer = pb.Linear(weight.astype(dtype), np.ones(4, dtype), activation="gelu")
        yield f"Linear_{dtype}", lambda x, residual=None, *, out=None, layer=layer: layer(x, residual, out)
        stack = pb.Sequential([layer, "layer_norm", pb.Linear(weight.T.astype(dtype)), "softmax"])
        yield f"Sequential_{dtype}", lambda x, *, out=None, stack=stack: stack(x, out)
    for name in ("relu", "softmax", "layer_norm", "rms_norm"):
        operation = pb.RowOperation(name)
        yield f"RowOperation_{name}", lambda x, *, out=None, operation=operation: operation(x, out)


FUNCTIONS |= dict(_calls_of_layers())

OTHER_DTYPES = ["?", "i1", "u2", "i4", "u8", "i8", ">f4", ">f8", ">f2", ">i4", "c8", "c16", "g", "O", "S3", "U2", "M8[s]",
                "m8[s]", "f4,i2"]
NUMBERS = (
    st.floats(width=64)
    | st.integers()
    | st.integers(-3, 70)
    | st.sampled_from([np.float16(0.5), np.float32(2), np.float64(-0.0), np.int8(3), np.bool_(True), True, False, 10**400,
                       -(10**400), 2**63, fractions.Fraction(1, 3), decimal.Decimal("1e400"), float("nan"), float("inf")])
)
THINGS = (
    st.none()
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.sampled_from([1j, object(), {}, set(), (), [], [[]], [[], []], range(3), memoryview(b"abcdefgh"), type, len, slice(3),
                       Ellipsis, NotImplemented, [1, [2]], [[1, 2], [3]], "none", "tanh", "relu", np.float32, np.dtype("f2"),
                       "f4", "float64", "bfloat16", BFLOAT16, iter([1.0, 2.0])])
)
EXTENTS = st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 65])


@st.composite
def arrays(draw, shape=None, dtype=None):
    """An array of any dtype, values, strides and byte order; it may be read-only, misaligned, or see an element twice."""
    if dtype is None:
        dtype = draw(st.sampled_from(DTYPES * 3 + OTHER_DTYPES))
    dtype = np.dtype(dtype)
    if shape is None:
        shape = draw(st.lists(EXTENTS, max_size=4).filter(lambda shape: np.prod([max(n, 1) for n in shape]) < 20_000))
    shape = tuple(shape)
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    place = draw(st.sampled_from(["plain", "plain", "sliced", "misaligned", "broadcast", "far"]))
    steps = [draw(st.sampled_from([1, 1, 2, -1, -3])) for _ in shape] if place == "sliced" else [1] * len(shape)
    order = draw(st.permutations(range(len(shape))))
    room = [(n * abs(step)) for n, step in zip(shape, steps, strict=True)]
    if place == "broadcast" and shape:
        room[draw(st.integers(0, len(shape) - 1))] = 1
    if place == "far" and shape:
        room = [n + 3 for n in room]
    size = int(np.prod(room, dtype=np.int64))
    bits = draw(st.sampled_from(["any", "normal", "small", "zero"]))
    if bits == "any" and dtype.kind != "O":
        raw = random.integers(0, 256, size * dtype.itemsize + 1, np.uint8)
        if dtype.kind in "b":
            raw &= 1
        if dtype.kind in "US":
            raw &= 63 if dtype.kind == "S" else 0
        data = raw[1:] if place == "misaligned" else raw[:-1].copy()
        data = data.view(dtype)
    else:
        values = {"normal": random.standard_normal(size), "small": random.integers(-3, 4, size)}.get(bits, np.zeros(size))
        with np.errstate(all="ignore"):
            data = values.astype("f8").astype("i8").astype(dtype) if dtype.kind in "MmUSV" else values.astype(dtype)
        if place == "misaligned" and dtype.kind != "O":
            raw = np.zeros(size * dtype.itemsize + 1, np.uint8)
            raw[1:] = np.frombuffer(data.tobytes(), np.uint8)
            data = raw[1:].view(dtype)
    view = data.reshape([room[axis] for axis in order]).transpose(np.argsort(order)) if shape else data.reshape(())
    view = view[tuple(slice(None, None, step) for step in steps)] if shape else view
    if place == "broadcast":
        view = np.broadcast_to(view, shape)
    elif place == "far" and shape:
        view = view[tuple(slice(1, 1 + n) for n in shape)]
    assert view.shape == shape
    if draw(st.integers(0, 7)) == 0:
        view = view.view()
        view.flags.writeable = False
    return view


@st.composite
def operands(draw, count):
    """Arrays that may well fit each other: of one dtype, of shapes made from two or three extents."""
    dtype = draw(st.sampled_from(DTYPES * 4 + OTHER_DTYPES[:9]))
    n, k, m = draw(EXTENTS), draw(EXTENTS), draw(EXTENTS)
    shapes = st.sampled_from([(n, k), (n, k), (k, m), (n, m), (n,), (k,), (m,), (), (2, n, k), (2, k, m), (2, n, m)])
    return [draw(arrays(draw(shapes), dtype)) for _ in range(count)]


def argument(draw, name, pool):
    """A value for the parameter of this name: mostly one that makes sense."""
    if draw(st.integers(0, 11)) == 0:
        return draw(THINGS | NUMBERS | arrays())
    match name:
        case "axis":
            return draw(st.integers(-4, 4))
        case "eps" | "factor" | "n" | "bytes":
            return draw(NUMBERS)
        case "scale":
            return draw(NUMBERS)
        case "activation":
            return draw(st.sampled_from([None, "relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh"]))
        case "approximate":
            return draw(st.sampled_from(["none", "tanh"]))
        case "dtype":
            return draw(st.none() | st.sampled_from([*DTYPES, "f4", "float16", np.float64, "i4"]))
        case "operation":
            return draw(st.sampled_from(["relu", "softmax", "layer_norm", "rms_norm", "nothing"]))
        case "layers":
            layer = st.sampled_from([pb.Linear(np.ones((3, 3))), pb.RowOperation("softmax"), "relu", "softmax"])
            return draw(st.lists(layer, max_size=4))
        case "numbers" | "data":
            return draw(st.lists(NUMBERS, max_size=9) | st.sampled_from(pool))
        case "bias" | "residual" | "weight" | "weights" | "mask":
            return draw(st.none() | st.sampled_from(pool) | st.sampled_from(pool))
        case _:
            nested = st.lists(st.lists(NUMBERS, min_size=2, max_size=2), max_size=3)
            return draw(st.sampled_from(pool) | st.sampled_from(pool) | st.sampled_from(pool) | nested)


@st.composite
def outs(draw, arrays_used, shape, dtype):
    """Somewhere to put a result: fresh, or one of the operands, or overlapping one; sometimes it does not fit."""
    kind = draw(st.sampled_from(["fresh", "fresh", "same", "overlap", "overlap", "any"]))
    same = [array for array in arrays_used if array.shape == shape]
    if kind == "same" and same:
        return draw(st.sampled_from(same))
    if kind == "overlap" and shape and dtype.kind != "O":
        # One block of memory, a part of it filled with the operand that the call will get in place of its own.
        size = int(np.prod(shape))
        shift = draw(st.integers(0, min(2 * size, 70)))
        return ("overlap", shift, draw(st.booleans()))
    if kind == "any":
        return draw(arrays() | THINGS)
    return draw(arrays(shape, dtype))


def bits(value):
    """What two results are compared by: NaNs may differ in what nobody reads."""
    if isinstance(value, np.ndarray):
        value = np.where(np.isnan(value.astype(np.float64)), np.float64("nan"), value.astype(np.float64))
        return value.shape, value.tobytes()
    return value if value == value else "nan"


def attempt(function, *positional, **named):
    """(answer, None), or (None, exception) of one that is allowed."""
    allowed = (*ALLOWED, RuntimeError) if function is pb.sum_of_squares else ALLOWED
    try:
        with np.errstate(all="ignore"):
            return function(*positional, **named), None
    except allowed as error:
        event(type(error).__name__)
        return None, error


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES <= 40, database=None,
          suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_arguments(name, data):
    function = FUNCTIONS[name]
    draw = data.draw
    pool = draw(operands(4))
    if draw(st.integers(0, 15)) == 0:
        positional = draw(st.lists(THINGS | NUMBERS | arrays(), max_size=5))
        attempt(function, *positional, **draw(st.sampled_from([{}, {"out": None}, {"nonsense": 1}])))
        return
    hidden = ("out", "layer", "stack", "operation") if "_" in name and name not in pb.__all__ else ("out",)
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name not in hidden]
    takes_out = "out" in inspect.signature(function).parameters
    positional, named = [], {}
    for parameter in parameters:
        if parameter.default is not parameter.empty and draw(st.booleans()):
            continue
        value = argument(draw, parameter.name, pool)
        if parameter.kind is parameter.KEYWORD_ONLY or len(positional) < parameters.index(parameter):
            named[parameter.name] = value
        else:
            positional.append(value)
    used = [value for value in (*positional, *named.values()) if isinstance(value, np.ndarray)]
    before = [value.tobytes() for value in used if value.dtype.kind != "O"]
    answer, error = attempt(function, *positional, **named)
    assert before == [value.tobytes() for value in used if value.dtype.kind != "O"], "an operand was written"
    if error is not None or not isinstance(answer, np.ndarray):
        return
    event("answered")
    assert not any(np.shares_memory(answer, value) for value in used)
    right = bits(answer)
    again, _ = attempt(function, *positional, **named)
    assert bits(again) == right, "another answer the second time"
    if not takes_out:
        return
    out = draw(outs(used, answer.shape, answer.dtype))
    target = next((value for value in used if value.shape == answer.shape and value.dtype == answer.dtype), None)
    if isinstance(out, tuple) and len(out) == 3 and out[0] == "overlap":
        _, shift, ahead = out
        if target is None:
            return
        block = np.zeros(target.size + shift, target.dtype)
        operand = (block[shift:] if ahead else block[: target.size]).reshape(target.shape)
        out = (block[: target.size] if ahead else block[shift:]).reshape(target.shape)
        operand[...] = target
        positional = [operand if value is target else value for value in positional]
        named = {key: operand if value is target else value for key, value in named.items()}
    answer, error = attempt(function, *positional, out=out, **named)
    if error is None and out is not None:
        event("answered into out")
        assert answer is out
        assert bits(answer) == right, "another answer where out overlaps or is laid out otherwise"


@pytest.mark.parametrize("count", [2**42, 2**58])
def test_more_than_there_is_memory(count):
    """Arrays that are large in name only: each element is the same one."""
    one = np.ones(1, np.float32)
    huge, rows = np.broadcast_to(one, (count,)), np.broadcast_to(one, (count, 3))
    for call in (pb.relu, pb.softmax, pb.layer_norm, lambda x: pb.scale(x, 2.0), lambda x: pb.dropout_add(x, x, x)):
        with pytest.raises((MemoryError, ValueError)):
            call(huge)
    for call in (lambda x: pb.linear(x, np.ones((3, 2), np.float32)), lambda x: pb.matmul(x, np.ones((3, 2), np.float32)),
                 lambda x: pb.linear(np.ones((2, 3), np.float32), x.T), lambda x: pb.Linear(x.T)):
        with pytest.raises((MemoryError, ValueError)):
            call(rows)
    column = np.ones((2**21, 1))
    with pytest.raises(MemoryError):
        pb.matrix_multiply(column, column.T)
