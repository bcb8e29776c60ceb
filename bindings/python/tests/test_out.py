"""`out=`: its layouts, what may overlap it, and that it stays as it was where a check fails."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import WRITEABLE, normal

import polyglot_bridge as pb

UNARY = {
    "relu": pb.relu,
    "sigmoid": pb.sigmoid,
    "gelu": pb.gelu,
    "scale": lambda x, **k: pb.scale(x, 2.5, **k),
    "softmax": pb.softmax,
    "softmax_0": lambda x, **k: pb.softmax(x, axis=0, **k),
    "log_softmax": pb.log_softmax,
    "layer_norm": pb.layer_norm,
    "rms_norm": pb.rms_norm,
    "rms_norm_1": lambda x, **k: pb.rms_norm(x, axis=1, **k),
    "dropout_add": lambda x, **k: pb.dropout_add(x, np.ones_like(x), x != 0, 0.5, **k),
}


@pytest.fixture(params=UNARY, ids=str)
def function(request):
    return UNARY[request.param]


@pytest.fixture(params=WRITEABLE, ids=str)
def out_layout(request):
    return WRITEABLE[request.param]


def test_out_of_any_layout(function, dtype, layout, out_layout):
    for shape in ((4, 7), (2, 3, 5), (0, 3), (1, 1)):
        x = layout(normal(shape, dtype))
        expected = function(np.ascontiguousarray(x))
        out = out_layout(np.full(shape, 7).astype(dtype))
        assert function(x, out=out) is out
        assert np.array_equal(out, expected)


@pytest.mark.parametrize("name", [name for name in UNARY if name != "rms_norm_1"])
def test_out_of_no_dimensions(name, dtype):
    """A number in an array that calls for a detour: it lies askew, or in another type's view of the input."""
    function, x = UNARY[name], normal((), dtype)
    expected = function(x)
    askew = np.zeros(dtype.itemsize + 1, np.uint8)[1:].view(dtype).reshape(())
    assert function(x, out=askew) is askew
    assert askew == expected or np.isnan(expected)
    same = x.copy()
    view = same.view(type("Other", (np.ndarray,), {}))
    assert function(same, out=view) is view
    assert view == expected or np.isnan(expected)


def test_out_may_be_the_input(function, dtype, out_layout):
    x = out_layout(normal((4, 7), dtype))
    expected = function(x.copy())
    assert function(x, out=x) is x
    assert np.array_equal(x, expected)


def test_out_may_overlap_the_input_anyhow(function, dtype):
    views = [
        lambda a: (a[1:], a[:-1]),
        lambda a: (a[:-1], a[1:]),
        lambda a: (a, a[::-1]),
        lambda a: (a[:, ::-1], a),
        lambda a: (a[:10, :10], a[:10, :10].T),
        lambda a: (a.T, a) if a.shape[0] == a.shape[1] else (a, a),
        lambda a: (a.reshape(-1)[1:121].reshape(10, 12), a.reshape(-1)[:120].reshape(10, 12)),
        lambda a: (a[::2], a[1::2]),
    ]
    for view in views:
        base = normal((12, 12), dtype)
        x, out = view(base)
        expected = function(x.copy())
        assert function(x, out=out) is out
        assert np.array_equal(out, expected)


def test_out_may_be_any_operand_of_dropout_add(dtype):
    x, residual, mask = normal((5, 9), dtype), normal((5, 9), dtype, 1), normal((5, 9), dtype, 2)
    expected = pb.dropout_add(x, residual, mask, 2.0)
    for number in range(3):
        operands = [x.copy(), residual.copy(), mask.copy()]
        assert np.array_equal(pb.dropout_add(*operands, 2.0, out=operands[number]), expected)
    flags = np.ones((5, 9), bool)
    assert np.array_equal(pb.dropout_add(x, x, flags, out=x.copy()), pb.dropout_add(x, x, flags))


def test_out_may_be_the_weight_of_a_norm():
    x, weight = normal((1, 9), np.float32), normal(9, np.float32, 1)
    expected = pb.layer_norm(x, weight, weight)
    assert np.array_equal(pb.layer_norm(x, weight, weight, out=weight.reshape(1, 9)), expected)


def test_out_of_linear(dtype, out_layout):
    x, w, b, r = normal((6, 6), dtype), normal((6, 6), dtype, 1), normal(6, dtype, 2), normal((6, 6), dtype, 3)
    expected = pb.linear(x, w, b, residual=r, activation="relu")
    out = out_layout(np.zeros((6, 6), dtype))
    assert pb.linear(x, w, b, residual=r, activation="relu", out=out) is out
    assert np.array_equal(out, expected)
    residual = out_layout(r.copy())
    assert pb.linear(x, w, b, residual=residual, activation="relu", out=residual) is residual
    assert np.array_equal(residual, expected)
    for operand in ("x", "w"):
        operands = {"x": out_layout(x.copy()), "w": out_layout(w.copy())}
        result = pb.linear(operands["x"], operands["w"], b, residual=r, activation="relu", out=operands[operand])
        assert np.array_equal(result, expected)
    square = out_layout(x.copy())
    assert np.array_equal(pb.linear(square, w, b, residual=square.T, out=square.T), pb.linear(x, w, b, residual=x.T))
    bias = b.copy()[None]
    assert np.array_equal(pb.linear(x[:1], w, bias[0], out=bias), pb.linear(x[:1], w, b))


def test_out_of_matmul_may_be_an_operand(dtype):
    a, b = normal((2, 5, 5), dtype), normal((2, 5, 5), dtype, 1)
    expected = pb.matmul(a, b)
    for number in range(2):
        operands = [a.copy(), b.copy()]
        assert np.array_equal(pb.matmul(*operands, out=operands[number]), expected)
    assert np.array_equal(pb.matmul(a, a, out=a.copy()), pb.matmul(a, a))
    same = a.copy()
    assert np.array_equal(pb.matmul(same, same, out=same), pb.matmul(a, a))


CALLS = {
    "relu": lambda out: pb.relu(np.ones((2, 3)), out=out),
    "softmax": lambda out: pb.softmax(np.ones((2, 3)), out=out),
    "layer_norm": lambda out: pb.layer_norm(np.ones((2, 3)), np.ones(3), np.ones(3), out=out),
    "rms_norm": lambda out: pb.rms_norm(np.ones((2, 3)), out=out),
    "scale": lambda out: pb.scale(np.ones((2, 3)), 2.0, out=out),
    "dropout_add": lambda out: pb.dropout_add(np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 3)), out=out),
    "linear": lambda out: pb.linear(np.ones((2, 4)), np.ones((4, 3)), out=out),
    "matmul": lambda out: pb.matmul(np.ones((2, 4)), np.ones((4, 3)), out=out),
    "fused_linear_relu": lambda out: pb.fused_linear_relu(np.ones((2, 4)), np.ones((4, 3)), None, out=out),
    "parallel_map_numpy": lambda out: pb.parallel_map_numpy(np.ones((2, 3)), 2.0, out=out),
}


@pytest.mark.parametrize("name", CALLS)
def test_bad_out(name):
    call = CALLS[name]
    with pytest.raises(ValueError, match=r"out has shape \(3, 2\).*\(2, 3\)"):
        call(np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"out has shape \(1, 2, 3\).*\(2, 3\)"):
        call(np.zeros((1, 2, 3)))
    for wrong in ("float32", "float16", "int64", "complex128", "bool", "object", "S8"):
        with pytest.raises(TypeError, match="out has dtype .*expected float64"):
            call(np.zeros((2, 3), wrong))
    with pytest.raises(TypeError, match="out has dtype >f8.*expected float64"):
        call(np.zeros((2, 3), ">f8"))
    for wrong in ([[0.0] * 3] * 2, 0.0, "out", object(), np.float64(1), (np.zeros((2, 3)),)):
        with pytest.raises(TypeError, match="out must be a numpy.ndarray, not "):
            call(wrong)
    fixed = np.full((2, 3), 7.0)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        call(fixed)
    assert (fixed == 7).all()
    with pytest.raises(ValueError, match="share memory"):
        call(np.lib.stride_tricks.as_strided(np.zeros(8), (2, 3), (0, 8)))
    with pytest.raises(ValueError, match="share memory"):
        call(np.lib.stride_tricks.as_strided(np.zeros(8), (2, 3), (8, 8)))
    assert name in str(pytest.raises(ValueError, call, np.zeros((9, 9))).value)


def test_out_whose_elements_interleave_is_no_overlap():
    out = np.lib.stride_tricks.as_strided(np.zeros(8), (2, 3), (24, 16))
    x = normal((2, 3), np.float64)
    assert np.array_equal(pb.relu(x, out=out), pb.relu(x))


@pytest.mark.parametrize("bad", [
    lambda out: pb.linear(np.ones((2, 4)), np.ones((5, 3)), out=out),
    lambda out: pb.linear(np.ones((2, 4)), np.ones((4, 3)), np.ones(4), out=out),
    lambda out: pb.linear(np.ones((2, 4)), np.ones((4, 3)), residual=np.ones((3, 3)), out=out),
    lambda out: pb.linear(np.ones((2, 4)), np.ones((4, 3)), activation="swish", out=out),
    lambda out: pb.linear(np.ones((2, 4)), np.ones((4, 3), np.float32), out=out),
    lambda out: pb.matmul(np.ones((2, 4)), np.ones((5, 3)), out=out),
    lambda out: pb.softmax(np.ones((2, 3)), axis=2, out=out),
    lambda out: pb.layer_norm(np.ones((2, 3)), np.ones(2), out=out),
    lambda out: pb.dropout_add(np.ones((2, 3)), np.ones((2, 2)), np.ones((2, 3)), out=out),
    lambda out: pb.dropout_add(np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 2)), out=out),
    lambda out: pb.scale(np.ones((2, 3)), "2", out=out),
    lambda out: pb.gelu(np.ones((2, 3)), approximate="erf", out=out),
])
def test_out_stays_as_it_was_where_a_check_fails(bad):
    out = np.full((2, 3), 7.0)
    with pytest.raises((TypeError, ValueError, IndexError)):
        bad(out)
    assert (out == 7.0).all()
