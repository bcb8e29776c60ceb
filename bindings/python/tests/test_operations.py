"""Every operation against its formula in float64, over dtypes, shapes and layouts."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from conftest import BFLOAT16, LAYOUTS, SHAPES, WRITEABLE, assert_close, compute_roundoff, normal, unit_roundoff

import polyglot_bridge as pb

ELEMENTWISE = {
    "relu": (pb.relu, reference.relu, 0),
    "sigmoid": (pb.sigmoid, reference.sigmoid, 2),
    "tanh": (pb.tanh, reference.tanh, 2),
    "silu": (pb.silu, reference.silu, 3),
    "gelu": (pb.gelu, reference.gelu, 4),
    "gelu_tanh": (lambda x, **k: pb.gelu(x, approximate="tanh", **k), reference.gelu_tanh, 8),
    "scale": (lambda x, **k: pb.scale(x, -2.5, **k), lambda x: np.float64(-2.5) * np.asarray(x, np.float64), 0.5),
}
ROWWISE = {
    "softmax": (pb.softmax, reference.softmax, 12, 0.0),
    "log_softmax": (pb.log_softmax, reference.log_softmax, 12, 4.0),
    "layer_norm": (pb.layer_norm, reference.layer_norm, 12, 12.0),
    "rms_norm": (pb.rms_norm, reference.rms_norm, 12, 0.0),
}


@pytest.fixture(params=ELEMENTWISE, ids=str)
def element_op(request):
    return ELEMENTWISE[request.param]


@pytest.fixture(params=ROWWISE, ids=str)
def row_op(request):
    return ROWWISE[request.param]


def absolute_of(name_function, dtype):
    """gelu and gelu_tanh are held to an absolute error below -2."""
    return 2.0**-53 if dtype == np.float64 else 2.0**-24


def test_elementwise(element_op, dtype, layout):
    function, formula, ulps = element_op
    gelu = formula in (reference.gelu, reference.gelu_tanh)
    for shape in SHAPES:
        x = layout(normal(shape, dtype, scale=3.0))
        before = x.copy()
        result = function(x)
        assert type(result) is np.ndarray
        assert_close(result, formula(x), dtype, ulps=ulps, absolute=absolute_of(formula, dtype) if gelu else 0.0)
        assert np.array_equal(x, before)


def test_rowwise(row_op, dtype, layout):
    function, formula, ulps, absolute = row_op
    for shape in SHAPES:
        for axis in range(-len(shape), len(shape)) if shape else (-1, 0):
            x = layout(normal(shape, dtype, scale=2.0))
            result = function(x, axis=axis)
            assert_close(result, formula(x, axis=axis), dtype, ulps=ulps, absolute=absolute * compute_roundoff(dtype) * 4)


def test_results_keep_the_order_of_their_input(dtype):
    x = np.asfortranarray(normal((5, 7), dtype))
    assert pb.relu(x).flags.f_contiguous
    assert pb.softmax(x, axis=0).flags.f_contiguous
    x = normal((5, 7), dtype)
    for axis in (0, 1):
        assert pb.softmax(x, axis=axis).flags.c_contiguous
    assert pb.linear(x.T, x).flags.c_contiguous


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_norms_take_weight_and_bias_along_the_axis(dtype, layout, axis):
    x = layout(normal((4, 5, 6), dtype))
    weight, bias = normal(x.shape[axis], dtype, 1), normal(2 * x.shape[axis], dtype, 2)[::2]
    exact = reference.layer_norm(x, weight, bias, 1e-5, axis)
    assert_close(pb.layer_norm(x, weight, bias, axis=axis), exact, dtype, ulps=16, absolute=1e-5 if dtype != np.float64 else 1e-14)
    assert_close(pb.layer_norm(x, weight, axis=axis), reference.layer_norm(x, weight, None, 1e-5, axis), dtype, ulps=16,
                 absolute=1e-5 if dtype != np.float64 else 1e-14)
    assert_close(pb.rms_norm(x, weight, axis=axis), reference.rms_norm(x, weight, 1e-6, axis), dtype, ulps=16)


def test_eps(dtype):
    x = normal((3, 8), dtype, scale=0.01)
    assert_close(pb.layer_norm(x, eps=0.5), reference.layer_norm(x, eps=0.5), dtype, ulps=16, absolute=1e-6)
    assert_close(pb.rms_norm(x, eps=0.5), reference.rms_norm(x, eps=0.5), dtype, ulps=16)


@pytest.mark.parametrize("mask_kind", ["bool", "int64", "uint8", "int8", "same"])
def test_dropout_add(dtype, layout, mask_kind):
    for shape in SHAPES:
        x, residual = layout(normal(shape, dtype)), layout(normal(shape, dtype, 1))
        mask = np.asarray(np.random.default_rng(2).random(shape) < 0.5)
        mask = LAYOUTS["sliced"](mask) if layout is LAYOUTS["negative"] else mask
        mask = mask.astype(dtype) if mask_kind == "same" else mask.astype(mask_kind)
        exact = np.where(mask != 0, x.astype(np.float64) * 2.0, 0.0) + residual.astype(np.float64)
        result = pb.dropout_add(x, residual, mask, 2.0)
        assert_close(result, exact, dtype, ulps=1)


def test_dropout_mask_of_any_nonzero_byte_selects():
    mask = np.array([2, 0, 255, 1], np.uint8).view(bool)
    result = pb.dropout_add(np.ones(4), np.zeros(4), mask)
    assert result.tolist() == [1.0, 0.0, 1.0, 1.0]
    assert pb.dropout_add(np.ones(3), np.zeros(3), np.array([256, 0, -1])).tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("shapes", [((3, 5), (5, 7)), ((1, 64), (64, 32)), ((5,), (5, 7)), ((2, 3, 5), (5, 1)), ((4, 0), (0, 3)),
                                    ((0, 5), (5, 3)), ((3, 5), (5, 0)), ((2, 0, 5), (5, 3)), ((17, 33), (33, 65)),
                                    ((2, 3, 4, 9), (9, 8)), ((70, 300), (300, 40))])
@pytest.mark.parametrize("activation", [None, "relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh"])
def test_linear(dtype, shapes, activation):
    shape, weight_shape = shapes
    x, weight = normal(shape, dtype), normal(weight_shape, dtype, 1)
    bias, residual = normal(weight_shape[1], dtype, 2), normal((*shape[:-1], weight_shape[1]), dtype, 3)
    for with_bias in (False, True):
        for with_residual in (False, True):
            exact = x.astype(np.float64) @ weight.astype(np.float64)
            size = np.abs(x).astype(np.float64) @ np.abs(weight).astype(np.float64) + 3
            exact = exact + bias.astype(np.float64) * with_bias + residual.astype(np.float64) * with_residual
            exact = np.asarray(reference.ACTIVATIONS[activation](exact), np.float64)
            result = pb.linear(x, weight, bias if with_bias else None, activation=activation,
                               residual=residual if with_residual else None)
            assert result.dtype == dtype and result.shape == exact.shape
            bound = 1.2 * (weight_shape[0] + 3) * compute_roundoff(dtype) * size + np.abs(exact) * (
                8 * 2 * compute_roundoff(dtype) + unit_roundoff(dtype) * (dtype.itemsize == 2)) + 2.0**-24 * (dtype.itemsize == 2)
            assert np.all(np.abs(result.astype(np.float64) - exact) <= bound)


def test_linear_layouts(dtype, layout):
    exact = np.asarray(reference.relu(normal((2, 3, 9), dtype).astype(np.float64)
                                      @ normal((9, 5), dtype, 1).astype(np.float64)
                                      + normal(5, dtype, 2).astype(np.float64)
                                      + normal((2, 3, 5), dtype, 3).astype(np.float64)))
    plain = pb.linear(normal((2, 3, 9), dtype), normal((9, 5), dtype, 1), normal(5, dtype, 2),
                      residual=normal((2, 3, 5), dtype, 3), activation="relu")
    assert np.allclose(plain.astype(np.float64), exact, rtol=0.02, atol=0.05)
    if layout is LAYOUTS["broadcast"]:
        return
    laid_out = pb.linear(layout(normal((2, 3, 9), dtype)), layout(normal((9, 5), dtype, 1)), layout(normal(5, dtype, 2)),
                         residual=layout(normal((2, 3, 5), dtype, 3)), activation="relu")
    assert laid_out.tobytes() == plain.tobytes()


def test_linear_of_many_blocks_of_rows(dtype):
    big = normal((3, 80, 2, 9), dtype)
    weight = normal((9, 5), dtype, 1)
    for x in (big[:, :, 0], big[:, ::2, 0], big[:, :, :1], big.swapaxes(0, 1), big[::-1, :, 1]):
        assert pb.linear(x, weight).tobytes() == pb.linear(np.ascontiguousarray(x), weight).tobytes()
        out = np.zeros((*x.shape[:-1], 10), dtype)[..., ::2]
        assert pb.linear(x, weight, out=out) is out
        assert np.array_equal(out, pb.linear(np.ascontiguousarray(x), weight))


MATMUL_SHAPES = [((3, 4), (4, 5)), ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)), ((2, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)),
                 ((1, 3, 4), (6, 4, 5)), ((6, 3, 4), (1, 4, 5)), ((2, 1, 3, 4), (5, 4, 2)), ((2, 3, 4), (4,)), ((4,), (2, 4, 3)),
                 ((3, 0), (0, 5)), ((0, 3), (3, 2)), ((0, 3, 4), (4, 5)), ((2, 3, 1), (2, 1, 4)), ((7, 1, 4), (7, 4, 1)),
                 ((5, 1, 4), (4, 3))]


@pytest.mark.parametrize("shapes", MATMUL_SHAPES, ids=str)
def test_matmul_has_the_shapes_of_numpy(dtype, shapes, layout):
    a, b = (normal(shape, np.float64, seed).round(1).astype(dtype) for seed, shape in enumerate(shapes))
    a, b = layout(a), layout(b)
    exact = np.matmul(a.astype(np.float64), b.astype(np.float64))
    result = pb.matmul(a, b)
    assert result.shape == exact.shape and result.dtype == dtype and type(result) is np.ndarray
    assert np.allclose(result.astype(np.float64), exact, rtol=2 * unit_roundoff(dtype), atol=1e-5)
    for other in WRITEABLE.values():
        out = other(np.zeros(exact.shape, dtype))
        assert pb.matmul(a, b, out=out) is out
        assert np.array_equal(out, result)


def test_matmul_of_transposed_batches():
    a, b = normal((4, 3, 5, 6), np.float32), normal((3, 4, 7, 6), np.float32, 1)
    a, b = a.transpose(1, 0, 2, 3), b.swapaxes(2, 3)
    assert np.allclose(pb.matmul(a, b), a @ b, atol=1e-5)
    assert np.allclose(pb.matmul(a, b[:1]), a @ b[:1], atol=1e-5)
    assert np.allclose(pb.matmul(a[::-1, ::2], b[:, :2]), a[::-1, ::2] @ b[:, :2], atol=1e-5)


def test_sum_of_squares(dtype, layout):
    for shape in SHAPES:
        x = layout(normal(shape, dtype))
        result = pb.sum_of_squares_numpy(x)
        assert type(result) is float
        assert result == pytest.approx(float((x.astype(np.float64) ** 2).sum()), rel=1e-14)


def test_large_arrays(dtype):
    x = normal((1000, 1003), dtype)
    assert_close(pb.relu(x), reference.relu(x), dtype, ulps=0)
    assert_close(pb.softmax(x), reference.softmax(x), dtype, ulps=20)
    out = np.empty_like(x)
    assert pb.scale(x, 3.0, out=out) is out
    assert_close(out, 3.0 * x.astype(np.float64), dtype, ulps=0.5)


@pytest.mark.skipif(BFLOAT16 is None, reason="ml_dtypes is not installed")
def test_bfloat16_results_are_bfloat16():
    x = np.ones((2, 3), BFLOAT16)
    assert pb.softmax(x).dtype == BFLOAT16
    assert pb.linear(x, [[1], [2], [3]]).dtype == BFLOAT16
    assert pb.linear(x, [[1], [2], [3]]).tolist() == [[6.0], [6.0]]
