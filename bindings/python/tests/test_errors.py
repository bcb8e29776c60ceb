"""Bad arguments of every public function: the exception, and what its message names."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.exceptions import AxisError

import polyglot_bridge as pb

X = np.ones((2, 3))
W = np.ones((3, 4))

NOT_ARRAYS = [None, "text", b"bytes", {1, 2}, {"a": 1}, object(), 1j, [1j], ["a"], [None], [object()], np.array([1j]),
              np.array(["a"]), np.array([None]), np.array([1], "M8[s]"), np.array([1], "m8[s]"), np.array([(1,)], [("a", "i4")]),
              np.ones(2, np.longdouble) if np.dtype(np.longdouble) != np.float64 else np.array([1j])]

ONE_ARRAY = {
    "relu": ("x", pb.relu), "sigmoid": ("x", pb.sigmoid), "tanh": ("x", pb.tanh), "silu": ("x", pb.silu), "gelu": ("x", pb.gelu),
    "scale": ("x", lambda x: pb.scale(x, 2.0)), "softmax": ("x", pb.softmax), "log_softmax": ("x", pb.log_softmax),
    "layer_norm": ("x", pb.layer_norm), "rms_norm": ("x", pb.rms_norm),
    "l2_normalize": ("x", pb.l2_normalize), "mean_pool": ("x", pb.mean_pool),
    "attention": ("q", lambda x: pb.attention(x, X, X)), "embedding": ("table", lambda x: pb.embedding([0], x)),
    "linear": ("x", lambda x: pb.linear(x, W)), "matmul": ("a", lambda x: pb.matmul(x, W)),
    "dropout_add": ("x", lambda x: pb.dropout_add(x, X, X)),
    "relu_numpy": ("arr", pb.relu_numpy), "relu_numpy_f32": ("arr", pb.relu_numpy_f32),
    "sigmoid_numpy": ("arr", pb.sigmoid_numpy), "sigmoid_numpy_f32": ("arr", pb.sigmoid_numpy_f32),
    "parallel_map_numpy": ("arr", lambda x: pb.parallel_map_numpy(x, 2.0)),
    "parallel_map_numpy_f32": ("arr", lambda x: pb.parallel_map_numpy_f32(x, 2.0)),
    "sum_of_squares_numpy": ("arr", pb.sum_of_squares_numpy), "sum_of_squares_numpy_f32": ("arr", pb.sum_of_squares_numpy_f32),
    "matmul_numpy": ("a", lambda x: pb.matmul_numpy(x, W)), "matmul_numpy_f32": ("a", lambda x: pb.matmul_numpy_f32(x, W)),
    "fused_linear": ("input", lambda x: pb.fused_linear(x, W, None)),
    "fused_linear_f32": ("input", lambda x: pb.fused_linear_f32(x, W, None)),
    "fused_linear_relu": ("input", lambda x: pb.fused_linear_relu(x, W, None)),
    "fused_linear_relu_f32": ("input", lambda x: pb.fused_linear_relu_f32(x, W, None)),
    "fused_dropout_add": ("x", lambda x: pb.fused_dropout_add(x, X, X, 1.0)),
    "fused_layer_norm": ("x", pb.fused_layer_norm), "fused_softmax": ("x", pb.fused_softmax),
}


@pytest.mark.parametrize("name", ONE_ARRAY)
@pytest.mark.parametrize("bad", NOT_ARRAYS, ids=lambda bad: repr(bad)[:20])
def test_not_an_array_of_floats(name, bad):
    argument, call = ONE_ARRAY[name]
    with pytest.raises(TypeError) as caught:
        call(bad)
    assert str(caught.value).startswith(f"{name}: ")
    assert argument in str(caught.value)


def test_ragged_lists():
    for call in (pb.relu, pb.softmax, lambda x: pb.linear(x, W)):
        with pytest.raises(ValueError):
            call([[1, 2], [3]])


# (a call, the exception, what its message must hold)
TABLE = [
    (lambda: pb.linear(X, np.ones((4, 3))), ValueError, ["linear", "x", "(2, 3)", "weight", "(4, 3)", "weight.T"]),
    (lambda: pb.linear(X, np.ones((5, 4))), ValueError, ["linear", "x", "(2, 3)", "weight", "(5, 4)"]),
    (lambda: pb.linear(X, np.ones(3)), ValueError, ["linear", "weight", "(3,)", "two dimensions"]),
    (lambda: pb.linear(X, np.ones((1, 3, 4))), ValueError, ["linear", "weight", "(1, 3, 4)", "two dimensions"]),
    (lambda: pb.linear(np.ones(()), W), ValueError, ["linear", "x", "()"]),
    (lambda: pb.linear(X, W, np.ones(3)), ValueError, ["linear", "bias", "(3,)", "(4,)", "(3, 4)"]),
    (lambda: pb.linear(X, W, np.ones((1, 4))), ValueError, ["linear", "bias", "(1, 4)", "(4,)"]),
    (lambda: pb.linear(X, W, 1.0), ValueError, ["linear", "bias", "()", "(4,)"]),
    (lambda: pb.linear(X, W, residual=X), ValueError, ["linear", "residual", "(2, 3)", "(2, 4)"]),
    (lambda: pb.linear(X, W, residual=np.ones(4)), ValueError, ["linear", "residual", "(4,)", "(2, 4)"]),
    (lambda: pb.linear(X, W.astype("f4")), TypeError, ["linear", "x", "float64", "weight", "float32"]),
    (lambda: pb.linear(X, W, np.ones(4, "f2")), TypeError, ["linear", "x", "float64", "bias", "float16"]),
    (lambda: pb.linear(X, W, residual=np.ones((2, 4), "f4")), TypeError, ["linear", "residual", "float32", "float64"]),
    (lambda: pb.linear(X, W, activation="swish"), ValueError,
     ["linear", "activation", "'swish'", "relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh"]),
    (lambda: pb.linear(X, W, activation="none"), ValueError, ["activation", "'none'"]),
    (lambda: pb.linear(X, W, activation=1), ValueError, ["activation", "1"]),
    (lambda: pb.linear(X), TypeError, ["weight"]),
    (lambda: pb.linear(X, W, None, None), TypeError, ["positional"]),
    (lambda: pb.matmul(X, X), ValueError, ["matmul", "a", "(2, 3)", "b", "(2, 3)"]),
    (lambda: pb.matmul(np.ones((2, 3, 4)), np.ones((3, 4, 5))), ValueError, ["matmul", "(2, 3, 4)", "(3, 4, 5)", "broadcast"]),
    (lambda: pb.matmul(np.float64(1), X), ValueError, ["matmul", "()", "(2, 3)"]),
    (lambda: pb.matmul(X, 2.0), ValueError, ["matmul", "()", "(2, 3)"]),
    (lambda: pb.matmul(X, W.astype("f4")), TypeError, ["matmul", "a", "b", "float64", "float32"]),
    (lambda: pb.softmax(X, axis=2), AxisError, ["softmax", "2"]),
    (lambda: pb.softmax(X, axis=-3), AxisError, ["softmax", "-3"]),
    (lambda: pb.softmax(X, axis=10**30), AxisError, ["softmax"]),
    (lambda: pb.softmax(X, axis=None), TypeError, ["softmax", "axis", "NoneType"]),
    (lambda: pb.softmax(X, axis=1.0), TypeError, ["softmax", "axis", "float"]),
    (lambda: pb.softmax(X, axis=(0, 1)), TypeError, ["softmax", "axis", "tuple"]),
    (lambda: pb.log_softmax(X, axis=2), AxisError, ["log_softmax"]),
    (lambda: pb.layer_norm(X, axis=2), AxisError, ["layer_norm"]),
    (lambda: pb.rms_norm(X, axis=2), AxisError, ["rms_norm"]),
    (lambda: pb.fused_softmax(X, axis=2), AxisError, ["fused_softmax"]),
    (lambda: pb.fused_layer_norm(X, axis=2), AxisError, ["fused_layer_norm"]),
    (lambda: pb.softmax(np.ones(()), axis=1), AxisError, ["softmax"]),
    (lambda: pb.layer_norm(X, np.ones(2)), ValueError, ["layer_norm", "weight", "(2,)", "(3,)", "(2, 3)"]),
    (lambda: pb.layer_norm(X, np.ones((1, 3))), ValueError, ["layer_norm", "weight", "(1, 3)", "(3,)"]),
    (lambda: pb.layer_norm(X, None, np.ones(2)), ValueError, ["layer_norm", "bias", "(2,)", "(3,)"]),
    (lambda: pb.layer_norm(X, np.ones(3), axis=0), ValueError, ["layer_norm", "weight", "(3,)", "(2,)"]),
    (lambda: pb.layer_norm(X, np.ones(3, "f4")), TypeError, ["layer_norm", "weight", "float32", "float64"]),
    (lambda: pb.layer_norm(X, residual=W), ValueError, ["layer_norm", "residual", "(3, 4)", "(2, 3)"]),
    (lambda: pb.layer_norm(X, residual=X.astype("f4")), TypeError, ["layer_norm", "residual", "float32", "float64"]),
    (lambda: pb.l2_normalize(X, axis=2), AxisError, ["l2_normalize"]),
    (lambda: pb.mean_pool(np.ones(3)), ValueError, ["mean_pool", "x", "(3,)"]),
    (lambda: pb.mean_pool(X, np.ones(3, bool)), ValueError, ["mean_pool", "mask", "(3,)", "(2,)"]),
    (lambda: pb.mean_pool(X, np.ones(2)), TypeError, ["mean_pool", "mask", "float64"]),
    (lambda: pb.embedding([0, 2], X), ValueError, ["embedding", "ids", "2"]),
    (lambda: pb.embedding([-3], X), ValueError, ["embedding", "ids", "-3"]),
    (lambda: pb.embedding([0.5], X), TypeError, ["embedding", "ids", "float64"]),
    (lambda: pb.embedding([0], np.ones(3)), ValueError, ["embedding", "table", "(3,)"]),
    (lambda: pb.embedding(([0], [0]), (X,)), ValueError, ["embedding", "ids", "2"]),
    (lambda: pb.attention(X, W, W), ValueError, ["attention", "q", "(2, 3)", "k", "(3, 4)"]),
    (lambda: pb.attention(X, X, W), ValueError, ["attention", "v", "(3, 4)", "(2, 3)"]),
    (lambda: pb.attention(X, X.astype("f4"), X), TypeError, ["attention", "k", "float32", "float64"]),
    (lambda: pb.attention(X, X, X, mask=np.ones((3, 3), bool)), ValueError, ["attention", "mask", "(3, 3)", "(2, 2)"]),
    (lambda: pb.attention(X, X, X, mask=np.ones(2, complex)), TypeError, ["attention", "mask", "complex128"]),
    (lambda: pb.attention(X, X, X, scale="a"), TypeError, ["scale"]),
    (lambda: pb.layer_norm(X, eps="a"), TypeError, ["eps"]),
    (lambda: pb.layer_norm(X, eps=None), TypeError, ["eps"]),
    (lambda: pb.layer_norm(X, eps=1j), TypeError, ["eps"]),
    (lambda: pb.rms_norm(X, np.ones(2)), ValueError, ["rms_norm", "weight", "(2,)", "(3,)"]),
    (lambda: pb.rms_norm(X, np.ones(3), np.ones(3)), TypeError, ["positional"]),
    (lambda: pb.fused_layer_norm(X, weight=np.ones(2)), ValueError, ["fused_layer_norm", "weight", "(2,)", "(3,)"]),
    (lambda: pb.fused_layer_norm(X, "a"), TypeError, ["eps"]),
    (lambda: pb.gelu(X, approximate="erf"), ValueError, ["gelu", "approximate", "none", "tanh", "erf"]),
    (lambda: pb.gelu(X, approximate=True), ValueError, ["approximate", "True"]),
    (lambda: pb.gelu(X, approximate=None), ValueError, ["approximate", "None"]),
    (lambda: pb.scale(X, "a"), TypeError, ["factor"]),
    (lambda: pb.scale(X, None), TypeError, ["factor"]),
    (lambda: pb.scale(X, 1j), TypeError, ["factor"]),
    (lambda: pb.scale(X, np.ones(2)), TypeError, ["factor"]),
    (lambda: pb.scale(X, [1]), TypeError, ["factor"]),
    (lambda: pb.scale(X), TypeError, ["factor"]),
    (lambda: pb.dropout_add(X, np.ones((3, 2)), X), ValueError, ["dropout_add", "residual", "(3, 2)", "(2, 3)"]),
    (lambda: pb.dropout_add(X, X, np.ones((3, 2))), ValueError, ["dropout_add", "mask", "(3, 2)", "(2, 3)"]),
    (lambda: pb.dropout_add(X, X, True), ValueError, ["dropout_add", "mask", "()", "(2, 3)"]),
    (lambda: pb.dropout_add(X, X.astype("f4"), X), TypeError, ["dropout_add", "residual", "float32", "float64"]),
    (lambda: pb.dropout_add(X, X, X.astype("f4")), TypeError, ["dropout_add", "mask", "float32", "float64"]),
    (lambda: pb.dropout_add(X, X, X.astype(complex)), TypeError, ["dropout_add", "mask", "complex128"]),
    (lambda: pb.dropout_add(X, X, None), TypeError, ["dropout_add", "mask"]),
    (lambda: pb.dropout_add(X, X, "a"), TypeError, ["dropout_add", "mask"]),
    (lambda: pb.dropout_add(X, None, X), TypeError, ["dropout_add", "residual"]),
    (lambda: pb.dropout_add(X, X, X, "a"), TypeError, ["scale"]),
    (lambda: pb.fused_dropout_add(X, X, np.ones((3, 2)), 1.0), ValueError, ["fused_dropout_add", "dropout_mask", "(3, 2)", "(2, 3)"]),
    (lambda: pb.fused_dropout_add(X, X, X), TypeError, ["scale"]),
    (lambda: pb.fused_linear(X, np.ones((4, 4)), np.ones(4)), ValueError, ["fused_linear", "input", "(2, 3)", "weights", "(4, 4)"]),
    (lambda: pb.fused_linear(X, W, np.ones(3)), ValueError, ["fused_linear", "bias", "(3,)", "(4,)"]),
    (lambda: pb.fused_linear(X, W), TypeError, ["bias"]),
    (lambda: pb.fused_linear_f32(X, W, np.ones(4)), TypeError, ["fused_linear_f32", "input", "float64", "float32"]),
    (lambda: pb.fused_linear_relu_f32(X, W, np.ones(4)), TypeError, ["fused_linear_relu_f32", "float64", "float32"]),
    (lambda: pb.matmul_numpy(X, X), ValueError, ["matmul_numpy", "(2, 3)"]),
    (lambda: pb.matmul_numpy_f32(X, W), TypeError, ["matmul_numpy_f32", "float64", "float32"]),
    (lambda: pb.relu_numpy_f32(X), TypeError, ["relu_numpy_f32", "arr", "float64", "float32"]),
    (lambda: pb.relu_numpy_f32(X.astype("f2")), TypeError, ["relu_numpy_f32", "arr", "float16", "float32"]),
    (lambda: pb.relu_numpy_f32([1.0]), TypeError, ["relu_numpy_f32", "float64", "float32"]),
    (lambda: pb.sigmoid_numpy_f32(X), TypeError, ["sigmoid_numpy_f32", "float64", "float32"]),
    (lambda: pb.sum_of_squares_numpy_f32(X), TypeError, ["sum_of_squares_numpy_f32", "float64", "float32"]),
    (lambda: pb.parallel_map_numpy_f32(X, 2.0), TypeError, ["parallel_map_numpy_f32", "float64", "float32"]),
    (lambda: pb.parallel_map_numpy(X, "a"), TypeError, ["factor"]),
    (lambda: pb.sum_of_squares([]), ValueError, ["sum_of_squares", "numbers", "empty"]),
    (lambda: pb.sum_of_squares(np.zeros(0)), ValueError, ["sum_of_squares", "numbers", "empty"]),
    (lambda: pb.sum_of_squares(np.zeros((2, 2))), ValueError, ["sum_of_squares", "numbers", "(2, 2)"]),
    (lambda: pb.sum_of_squares([1e200]), RuntimeError, ["sum_of_squares", "infinite"]),
    (lambda: pb.sum_of_squares([float("-inf")]), RuntimeError, ["infinite"]),
    (lambda: pb.sum_of_squares(["a"]), TypeError, ["sum_of_squares", "numbers[0]", "str"]),
    (lambda: pb.sum_of_squares([1, None]), TypeError, ["numbers[1]", "NoneType"]),
    (lambda: pb.sum_of_squares([[1.0]]), TypeError, ["numbers[0]", "list"]),
    (lambda: pb.sum_of_squares([1j]), TypeError, ["numbers[0]", "complex"]),
    (lambda: pb.sum_of_squares("12"), TypeError, ["numbers", "str"]),
    (lambda: pb.sum_of_squares({1, 2}), TypeError, ["numbers", "set"]),
    (lambda: pb.sum_of_squares(3), TypeError, ["numbers", "int"]),
    (lambda: pb.sum_of_squares(None), TypeError, ["numbers", "NoneType"]),
    (lambda: pb.sum_of_squares(np.array([1j])), TypeError, ["numbers", "complex128"]),
    (lambda: pb.parallel_transform([], 2.0), ValueError, ["parallel_transform", "data", "empty"]),
    (lambda: pb.parallel_transform(["a"], 2.0), TypeError, ["parallel_transform", "data[0]", "str"]),
    (lambda: pb.parallel_transform([1.0], "a"), TypeError, ["factor"]),
    (lambda: pb.parallel_transform(None, 2.0), TypeError, ["data", "NoneType"]),
    (lambda: pb.matrix_multiply([], []), ValueError, ["matrix_multiply", "a", "empty"]),
    (lambda: pb.matrix_multiply([[]], [[]]), ValueError, ["matrix_multiply", "a", "empty"]),
    (lambda: pb.matrix_multiply([[1.0]], []), ValueError, ["matrix_multiply", "b", "empty"]),
    (lambda: pb.matrix_multiply([[1, 2], [3]], [[1], [2]]), ValueError, ["matrix_multiply", "a", "ragged"]),
    (lambda: pb.matrix_multiply([[1, 2]], [[1], [2, 3]]), ValueError, ["matrix_multiply", "b", "ragged"]),
    (lambda: pb.matrix_multiply([[1, 2]], [[1, 2]]), ValueError, ["matrix_multiply", "(1, 2)"]),
    (lambda: pb.matrix_multiply([1, 2], [[1]]), TypeError, ["matrix_multiply", "a[0]", "int"]),
    (lambda: pb.matrix_multiply([["a"]], [[1]]), TypeError, ["matrix_multiply", "a[0][0]", "str"]),
    (lambda: pb.matrix_multiply(np.ones(3), np.ones((3, 1))), ValueError, ["matrix_multiply", "a", "(3,)"]),
    (lambda: pb.matrix_multiply("ab", [[1]]), TypeError, ["matrix_multiply", "a", "str"]),
    (lambda: pb.set_num_threads(0), ValueError, ["set_num_threads", "n", "0"]),
    (lambda: pb.set_num_threads(-1), ValueError, ["set_num_threads", "n", "-1"]),
    (lambda: pb.set_num_threads(1.5), TypeError, ["set_num_threads", "n", "float"]),
    (lambda: pb.set_num_threads("2"), TypeError, ["set_num_threads", "n", "str"]),
    (lambda: pb.threads(0), ValueError, ["threads", "n", "0"]),
    (lambda: pb.threads("a"), TypeError, ["threads", "n", "str"]),
    (lambda: pb.get_num_threads(1), TypeError, [""]),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: " ".join(row[2][:2]))
def test_table(row):
    call, exception, words = row
    with pytest.raises(exception) as caught:
        call()
    for word in words:
        assert word in str(caught.value), caught.value
