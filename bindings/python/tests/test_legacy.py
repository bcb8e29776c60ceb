"""The twenty names of polyglot-bridge 0.2.0: their argument names, their documented examples, and what they give."""

from __future__ import annotations

import array
import inspect
import math

import numpy as np
import pytest
from conftest import normal

import polyglot_bridge
import polyglot_bridge as pb

SIGNATURES = {
    "sum_of_squares": ["numbers"],
    "matrix_multiply": ["a", "b"],
    "parallel_transform": ["data", "factor"],
    "matmul_numpy": ["a", "b"],
    "matmul_numpy_f32": ["a", "b"],
    "parallel_map_numpy": ["arr", "factor"],
    "parallel_map_numpy_f32": ["arr", "factor"],
    "sum_of_squares_numpy": ["arr"],
    "sum_of_squares_numpy_f32": ["arr"],
    "fused_linear": ["input", "weights", "bias"],
    "fused_linear_f32": ["input", "weights", "bias"],
    "fused_linear_relu": ["input", "weights", "bias"],
    "fused_linear_relu_f32": ["input", "weights", "bias"],
    "relu_numpy": ["arr"],
    "relu_numpy_f32": ["arr"],
    "sigmoid_numpy": ["arr"],
    "sigmoid_numpy_f32": ["arr"],
    "fused_dropout_add": ["x", "residual", "dropout_mask", "scale"],
    "fused_layer_norm": ["x", "eps"],
    "fused_softmax": ["x"],
}


def test_all_twenty_names_are_public_with_their_arguments():
    assert len(SIGNATURES) == 20
    for name, arguments in SIGNATURES.items():
        assert name in pb.__all__
        parameters = inspect.signature(getattr(pb, name)).parameters.values()
        positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert positional == arguments
        assert all(p.kind is p.KEYWORD_ONLY for p in parameters if p.name not in arguments)


def test_arguments_go_by_name():
    x, w, b = np.ones((2, 3)), np.ones((3, 4)), np.ones(4)
    pb.sum_of_squares(numbers=[1.0])
    pb.matrix_multiply(a=[[1.0]], b=[[1.0]])
    pb.parallel_transform(data=[1.0], factor=2.0)
    pb.matmul_numpy(a=x, b=w)
    pb.parallel_map_numpy(arr=x, factor=2.0)
    pb.sum_of_squares_numpy(arr=x)
    pb.fused_linear(input=x, weights=w, bias=b)
    pb.fused_linear_relu(input=x, weights=w, bias=b)
    pb.relu_numpy(arr=x)
    pb.sigmoid_numpy(arr=x)
    pb.fused_dropout_add(x=x, residual=x, dropout_mask=x, scale=2.0)
    pb.fused_layer_norm(x=x, eps=1e-3)
    pb.fused_softmax(x=x)


def test_the_same_results_as_the_modern_names(dtype):
    x, w, b = normal((4, 6), dtype), normal((6, 5), dtype, 1), normal(5, dtype, 2)
    r, g = normal((4, 5), dtype, 3), normal(6, dtype, 4)
    pairs = [
        (pb.matmul_numpy(x, w), pb.matmul(x, w)),
        (pb.parallel_map_numpy(x, 2.5), pb.scale(x, 2.5)),
        (pb.relu_numpy(x), pb.relu(x)),
        (pb.sigmoid_numpy(x), pb.sigmoid(x)),
        (pb.fused_linear(x, w, b), pb.linear(x, w, b)),
        (pb.fused_linear(x, w, b, activation="gelu", residual=r), pb.linear(x, w, b, activation="gelu", residual=r)),
        (pb.fused_linear_relu(x, w, b, residual=r), pb.linear(x, w, b, activation="relu", residual=r)),
        (pb.fused_dropout_add(x, x, x, 2.0), pb.dropout_add(x, x, x, 2.0)),
        (pb.fused_layer_norm(x, 1e-3, weight=g, bias=g), pb.layer_norm(x, g, g, eps=1e-3)),
        (pb.fused_layer_norm(x, axis=0), pb.layer_norm(x, axis=0)),
        (pb.fused_softmax(x, axis=0), pb.softmax(x, axis=0)),
    ]
    for old, new in pairs:
        assert old.dtype == dtype and old.tobytes() == new.tobytes()
    out = np.zeros((4, 5), dtype)
    assert pb.fused_linear(x, w, b, out=out) is out and np.array_equal(out, pairs[4][1])


def test_f32_names_give_float32_of_the_right_shape():
    x, w, b = normal((4, 6), np.float32), normal((6, 5), np.float32, 1), normal(5, np.float32, 2)
    assert np.array_equal(pb.fused_linear_f32(x, w, b), pb.linear(x, w, b))
    assert np.array_equal(pb.fused_linear_relu_f32(x, w, b), pb.linear(x, w, b, activation="relu"))
    assert np.array_equal(pb.matmul_numpy_f32(x, w), pb.matmul(x, w))
    assert np.array_equal(pb.relu_numpy_f32(x), pb.relu(x))
    assert np.array_equal(pb.sigmoid_numpy_f32(x), pb.sigmoid(x))
    assert np.array_equal(pb.parallel_map_numpy_f32(x, 2.0), pb.scale(x, 2.0))
    assert pb.sum_of_squares_numpy_f32(x) == pb.sum_of_squares_numpy(x)


SEQUENCES = [list, tuple, lambda v: array.array("d", v), np.array, lambda v: np.array(v, np.float32), lambda v: np.array(v)[::-1][::-1]]


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_functions_on_lists_take_any_sequence(sequence):
    values = sequence([1.0, -2.0, 3.0])
    assert pb.sum_of_squares(values) == 14.0 and type(pb.sum_of_squares(values)) is float
    result = pb.parallel_transform(values, 2)
    assert result == [2.0, -4.0, 6.0] and type(result) is list and all(type(item) is float for item in result)


def test_functions_on_lists_take_any_number():
    assert pb.sum_of_squares([True, 2, 3.0, np.float32(4), np.int8(5)]) == 55.0
    assert pb.sum_of_squares(range(4)) == 14.0
    assert math.isnan(pb.sum_of_squares([math.nan]))
    assert pb.parallel_transform([1e308], 10) == [math.inf]
    assert pb.parallel_transform([math.nan], 1)[0] != 0


def test_matrix_multiply():
    assert pb.matrix_multiply([[1, 2], [3, 4]], [[5, 6], [7, 8]]) == [[19.0, 22.0], [43.0, 50.0]]
    assert pb.matrix_multiply(np.ones((2, 2)), ((1, 2), (3, 4))) == [[4.0, 6.0]] * 2
    assert pb.matrix_multiply([np.array([1.0, 2.0])], [[1], [2]]) == [[5.0]]
    a, b = normal((7, 9), np.float64), normal((9, 4), np.float64, 1)
    result = pb.matrix_multiply(a.tolist(), b.tolist())
    assert type(result) is list and type(result[0]) is list and type(result[0][0]) is float
    assert np.allclose(result, a @ b)


def test_documented_examples_of_0_2_0_run():
    assert polyglot_bridge.sum_of_squares([1.0, 2.0, 3.0]) == 14.0
    polyglot_bridge.matrix_multiply([[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]])
    assert polyglot_bridge.parallel_transform([1.0, 2.0, 3.0, 4.0, 5.0], 2.0) == [2.0, 4.0, 6.0, 8.0, 10.0]
    a, b = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0, 6.0], [7.0, 8.0]])
    assert np.array_equal(polyglot_bridge.matmul_numpy(a, b), a @ b)
    assert np.allclose(polyglot_bridge.matmul_numpy_f32(a.astype(np.float32), b.astype(np.float32)), a @ b)
    arr = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert np.array_equal(polyglot_bridge.parallel_map_numpy(arr, 2.0), arr * 2)
    assert polyglot_bridge.sum_of_squares_numpy(np.array([1.0, 2.0, 3.0])) == 14.0
    rng = np.random.default_rng(0)
    input, weights, bias = rng.standard_normal((32, 128)), rng.standard_normal((128, 64)), rng.standard_normal(64)
    assert np.allclose(polyglot_bridge.fused_linear(input, weights, bias), input @ weights + bias)
    assert np.allclose(polyglot_bridge.fused_linear_relu(input, weights, bias), np.maximum(input @ weights + bias, 0))
    assert polyglot_bridge.relu_numpy(np.array([-1.0, 0.0, 1.0, 2.0])).tolist() == [0.0, 0.0, 1.0, 2.0]
    arr = np.array([0.0, 1.0, -1.0])
    assert np.allclose(polyglot_bridge.sigmoid_numpy(arr), 1 / (1 + np.exp(-arr)))
    x = rng.standard_normal((32, 512))
    normalized = polyglot_bridge.fused_layer_norm(x)
    assert np.allclose(normalized.mean(axis=1), 0) and np.allclose(normalized.std(axis=1), 1, atol=1e-4)
    probs = polyglot_bridge.fused_softmax(np.array([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]]))
    assert np.allclose(probs.sum(axis=1), 1) and np.allclose(probs[1], 1 / 3)
