"""What a program may have come to rely on in polyglot-bridge 0.2.0: results, their types, errors and the words in them.

`python tools/drop_in_behaviours.py` looks at the package that Python imports; `tools/drop_in.py` runs it on the installed one and,
where this Python can import that, on 0.2.0 itself, of which all of this is true. What has changed on purpose is not in here: see
CHANGELOG.md.
"""

import itertools
import math
import re
import sys

import numpy as np

import polyglot_bridge as pb

F32, F64 = np.float32, np.float64
NAN, INF = math.nan, math.inf
BEHAVIOURS = []


def behaviour(test):
    BEHAVIOURS.append(test)
    return test


def raises(kind, words, function, *arguments, **named):
    """A call fails in this way, and its message has these words, in whatever case."""
    try:
        found = function(*arguments, **named)
    except kind as error:
        for word in words.split():
            assert re.search(rf"\b{word}s?\b", str(error).lower()), f"{word!r} is not in {type(error).__name__}: {error}"
    else:
        raise AssertionError(f"{function.__name__} gave {found!r}, expected {kind.__name__}")


def is_array(found, expected, dtype):
    assert type(found) is np.ndarray and found.dtype == dtype, f"{type(found).__name__} of {getattr(found, 'dtype', None)}"
    np.testing.assert_allclose(found, np.asarray(expected, dtype), rtol=1e-12 if dtype == F64 else 1e-5, atol=1e-12 if dtype == F64 else 1e-6)
    assert found.shape == np.shape(expected)


def both(name):
    """A function, and its variant for float32."""
    return [(getattr(pb, name), F64), (getattr(pb, f"{name}_f32"), F32)]


# --- Functions of lists ---------------------------------------------------------------------------------------------------


@behaviour
def sum_of_squares_is_a_float():
    for numbers in ([1.0, 2.0, 3.0], [1, 2, 3], (1.0, 2.0, 3.0), range(1, 4), np.array([1.0, 2.0, 3.0]), np.array([1, 2, 3])):
        found = pb.sum_of_squares(numbers)
        assert type(found) is float and found == 14.0
    assert pb.sum_of_squares(numbers=[-2.0]) == 4.0 and pb.sum_of_squares([True]) == 1.0
    assert pb.sum_of_squares([0.0]) == 0.0 and pb.sum_of_squares([1e-200]) == 0.0
    assert math.isclose(pb.sum_of_squares([0.1] * 100_000), 1000.0, rel_tol=1e-9)


@behaviour
def sum_of_squares_of_nothing():
    for nothing in ([], (), np.zeros(0)):
        raises(ValueError, "empty", pb.sum_of_squares, nothing)


@behaviour
def sum_of_squares_that_overflows():
    for numbers in ([1e200], [1e200, -1e200], [1e154, 1e154], [INF], [-INF, 1.0], [sys.float_info.max]):
        raises(RuntimeError, "overflow", pb.sum_of_squares, numbers)
    assert pb.sum_of_squares([1e154]) == 1e154**2


@behaviour
def sum_of_squares_keeps_nan():
    assert math.isnan(pb.sum_of_squares([NAN])) and math.isnan(pb.sum_of_squares([1.0, NAN]))


@behaviour
def sum_of_squares_of_what_are_no_numbers():
    for wrong in (None, 3, 2.5, "abc", {1.0: 2}, {1.0}, ["a"], [None], [[1.0]], [1j], iter([1.0])):
        raises(TypeError, "numbers", pb.sum_of_squares, wrong)
    raises(OverflowError, "", pb.sum_of_squares, [10**400])


@behaviour
def matrix_multiply_gives_lists_of_floats():
    a, b = [[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]
    for x, y in ((a, b), ([[1, 2], [3, 4]], [[5, 6], [7, 8]]), (tuple(map(tuple, a)), tuple(map(tuple, b))), (np.array(a), np.array(b))):
        found = pb.matrix_multiply(x, y)
        assert found == [[19.0, 22.0], [43.0, 50.0]]
        assert type(found) is list and all(type(row) is list and all(type(one) is float for one in row) for row in found)
    assert pb.matrix_multiply(a=[[1.0, 2.0, 3.0]], b=[[1.0], [2.0], [3.0]]) == [[14.0]]
    assert pb.matrix_multiply([[2.0]], [[3.0]]) == [[6.0]]
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((17, 40)), generator.standard_normal((40, 9))
    np.testing.assert_allclose(pb.matrix_multiply(x.tolist(), y.tolist()), x @ y, rtol=1e-10, atol=1e-12)


@behaviour
def matrix_multiply_of_nothing():
    for a, b in (([], [[1.0]]), ([[1.0]], []), ([], [])):
        raises(ValueError, "empty", pb.matrix_multiply, a, b)


@behaviour
def matrix_multiply_of_dimensions_that_do_not_match():
    square = [[1.0, 2.0], [3.0, 4.0]]
    for a, b in ((square, [[1.0, 2.0]]), ([[1.0], [2.0]], square), (square, [[1.0]])):
        raises(ValueError, "dimension", pb.matrix_multiply, a, b)


@behaviour
def matrix_multiply_of_rows_of_other_lengths():
    square = [[1.0, 2.0], [3.0, 4.0]]
    for a, b in (([[1.0, 2.0], [3.0]], square), (square, [[1.0, 2.0], [3.0]]), (square, [[1.0], [2.0, 3.0]])):
        raises(ValueError, "dimension", pb.matrix_multiply, a, b)


@behaviour
def matrix_multiply_of_empty_rows():
    square = [[1.0, 2.0], [3.0, 4.0]]
    for a, b in (([[]], square), (square, [[]]), ([[]], [[]]), ([[], []], square)):
        raises(ValueError, "dimension", pb.matrix_multiply, a, b)


@behaviour
def matrix_multiply_of_what_are_no_matrices():
    square = [[1.0, 2.0], [3.0, 4.0]]
    for wrong in (None, 3, "ab", [1.0, 2.0], [["a", "b"]], [[None, None]], [None]):
        raises(TypeError, "a", pb.matrix_multiply, wrong, square)
        raises(TypeError, "b", pb.matrix_multiply, square, wrong)


@behaviour
def matrix_multiply_goes_on_beyond_the_largest_number():
    assert pb.matrix_multiply([[1e200, 1.0]], [[1e200], [1.0]]) == [[INF]]
    assert math.isnan(pb.matrix_multiply([[NAN, 1.0]], [[1.0], [1.0]])[0][0])


@behaviour
def parallel_transform_gives_a_list_of_floats():
    for data in ([1.0, 2.0], [1, 2], (1.0, 2.0), np.array([1.0, 2.0])):
        found = pb.parallel_transform(data, 2.5)
        assert type(found) is list and found == [2.5, 5.0] and all(type(one) is float for one in found)
    assert pb.parallel_transform(data=[3.0], factor=2) == [6.0]
    assert pb.parallel_transform([1e308, INF], 10.0) == [INF, INF]
    assert all(map(math.isnan, pb.parallel_transform([INF, NAN, 1.0], 0.0)[:2]))
    assert pb.parallel_transform([0.5] * 100_000, 4.0) == [2.0] * 100_000


@behaviour
def parallel_transform_of_nothing():
    raises(ValueError, "empty", pb.parallel_transform, [], 2.0)


@behaviour
def parallel_transform_of_what_are_no_numbers():
    for wrong in (None, 5.0, "abc", ["a"], [None], [[1.0]]):
        raises(TypeError, "data", pb.parallel_transform, wrong, 2.0)
    for wrong in (None, "a", [1.0]):
        raises(TypeError, "factor", pb.parallel_transform, [1.0], wrong)


# --- Functions of arrays --------------------------------------------------------------------------------------------------

GENERATOR = np.random.default_rng(1)
X, W, B = GENERATOR.standard_normal((6, 5)), GENERATOR.standard_normal((5, 4)), GENERATOR.standard_normal(4)


@behaviour
def matmul_numpy():
    for function, dtype in both("matmul_numpy"):
        is_array(function(X.astype(dtype), W.astype(dtype)), X @ W, dtype)
        is_array(function(a=np.asfortranarray(X, dtype), b=np.asfortranarray(W, dtype)), X @ W, dtype)
        for a, b in ((X, X), (W, X.T), (X[:, :3], W), (np.zeros((0, 3)), W)):
            raises(ValueError, "dimension", function, a.astype(dtype), b.astype(dtype))
        for wrong in (None, "ab", 3):
            raises(TypeError, "a", function, wrong, W.astype(dtype))
            raises(TypeError, "b", function, X.astype(dtype), wrong)
        other = F32 if dtype == F64 else F64
        raises(TypeError, "", function, X.astype(other), W.astype(dtype))


@behaviour
def functions_of_numbers():
    x = X.ravel()
    formulas = {"relu_numpy": lambda x: np.maximum(x, 0), "sigmoid_numpy": lambda x: 1 / (1 + np.exp(-x))}
    for name, formula in formulas.items():
        for function, dtype in both(name):
            given = x.astype(dtype)
            before = given.copy()
            found = function(given)
            is_array(found, formula(x), dtype)
            assert np.array_equal(given, before) and not np.shares_memory(found, given)
            assert function(arr=np.zeros(0, dtype)).shape == (0,)
            for wrong in (None, "ab"):
                raises(TypeError, "arr", function, wrong)
    for function, dtype in both("sigmoid_numpy"):
        is_array(function(np.array([0.0, INF, -INF, 1000.0, -1000.0], dtype)), [0.5, 1.0, 0.0, 1.0, 0.0], dtype)
        assert np.isnan(function(np.array([NAN], dtype))).all()
    for function, dtype in both("relu_numpy"):
        is_array(function(np.array([INF, -INF, -0.0, 2.0], dtype)), [INF, 0.0, 0.0, 2.0], dtype)


@behaviour
def parallel_map_numpy():
    for function, dtype in both("parallel_map_numpy"):
        x = X.ravel().astype(dtype)
        is_array(function(x, 2.5), X.ravel() * 2.5, dtype)
        is_array(function(arr=x, factor=2), X.ravel() * 2, dtype)
        assert function(np.zeros(0, dtype), 2.0).shape == (0,)
        raises(TypeError, "arr", function, None, 2.0)
        for wrong in (None, "a"):
            raises(TypeError, "factor", function, x, wrong)


@behaviour
def sum_of_squares_numpy():
    for function, dtype in both("sum_of_squares_numpy"):
        x = np.array([1.0, -2.0, 3.0], dtype)
        found = function(x)
        assert type(found) is float and found == 14.0 and function(arr=x) == 14.0
        assert function(np.zeros(0, dtype)) == 0.0 and math.isnan(function(np.array([NAN], dtype)))
        assert function(np.array([INF], dtype)) == INF
        raises(TypeError, "arr", function, None)
    # No error here, other than for lists.
    assert pb.sum_of_squares_numpy(np.array([1e200])) == INF


@behaviour
def fused_linear():
    for name, last in (("fused_linear", lambda x: x), ("fused_linear_relu", lambda x: np.maximum(x, 0))):
        for function, dtype in both(name):
            x, w, b = X.astype(dtype), W.astype(dtype), B.astype(dtype)
            expected = last(X @ W + B)
            # 0.2.0 gave the first of the float32 functions' results without its shape.
            is_array(np.reshape(function(x, w, b), expected.shape), expected, dtype)
            is_array(np.reshape(function(input=x, weights=w, bias=b), expected.shape), expected, dtype)
            raises(ValueError, "dimension", function, x[:, :3].copy(), w, b)
            raises(ValueError, "dimension", function, x, w, b[:3].copy())
            raises(ValueError, "dimension", function, x, w, np.ones(1, dtype))
            for index, wrong in itertools.product((0, 1), (None, "ab")):
                arguments = [x, w, b]
                arguments[index] = wrong
                raises(TypeError, ("input", "weights")[index], function, *arguments)
            raises(TypeError, "", function, x)


@behaviour
def fused_softmax():
    x = np.exp(X - X.max(1, keepdims=True))
    is_array(pb.fused_softmax(X), x / x.sum(1, keepdims=True), F64)
    is_array(pb.fused_softmax(x=np.array([[1000.0, 1000.0], [-1000.0, 0.0]])), [[0.5, 0.5], [0.0, 1.0]], F64)
    for wrong in (None, "ab"):
        raises(TypeError, "x", pb.fused_softmax, wrong)


@behaviour
def fused_layer_norm():
    for eps in (1e-5, 0.5):
        expected = (X - X.mean(1, keepdims=True)) / np.sqrt(X.var(1, keepdims=True) + eps)
        is_array(pb.fused_layer_norm(X, eps), expected, F64)
        is_array(pb.fused_layer_norm(x=X, eps=eps), expected, F64)
    is_array(pb.fused_layer_norm(np.full((2, 3), 7.0), 1e-5), np.zeros((2, 3)), F64)
    raises(TypeError, "x", pb.fused_layer_norm, None, 1e-5)
    for wrong in (None, "a"):
        raises(TypeError, "eps", pb.fused_layer_norm, X, wrong)


@behaviour
def fused_dropout_add():
    mask = (GENERATOR.random(X.shape) > 0.5).astype(F64)
    is_array(pb.fused_dropout_add(X, 3 * X, mask, 2.0), X * mask * 2 + 3 * X, F64)
    is_array(pb.fused_dropout_add(x=X, residual=X, dropout_mask=mask, scale=1), X * mask + X, F64)
    for arguments in ((X, X[:3], mask), (X, X, mask[:, :3]), (X[:2], X, mask)):
        raises(ValueError, "shape", pb.fused_dropout_add, *map(np.ascontiguousarray, arguments), 2.0)
    raises(TypeError, "residual", pb.fused_dropout_add, X, None, mask, 2.0)
    for wrong in (None, "a"):
        raises(TypeError, "scale", pb.fused_dropout_add, X, X, mask, wrong)


@behaviour
def arguments_by_name_and_by_number():
    functions = {"sum_of_squares": 1, "matrix_multiply": 2, "parallel_transform": 2, "fused_softmax": 1, "fused_dropout_add": 4}
    for name in ("matmul_numpy", "parallel_map_numpy"):
        functions |= {name: 2, f"{name}_f32": 2}
    for name in ("sum_of_squares_numpy", "relu_numpy", "sigmoid_numpy"):
        functions |= {name: 1, f"{name}_f32": 1}
    for name in ("fused_linear", "fused_linear_relu"):
        functions |= {name: 3, f"{name}_f32": 3}
    functions["fused_layer_norm"] = 2
    assert len(functions) == 20
    for name, count in functions.items():
        function = getattr(pb, name)
        assert function.__doc__ and function.__name__ == name
        raises(TypeError, "argument", function)
        raises(TypeError, "argument", function, *[1] * (count + 3))
        raises(TypeError, "bad", function, bad=1)


def main():
    failed = 0
    for test in BEHAVIOURS:
        try:
            with np.errstate(all="ignore"):
                test()
        except Exception as error:
            failed += 1
            lines = str(error).strip().splitlines()
            print(f"{test.__name__}: {type(error).__name__}: {' '.join(lines[:6])[:400]}")
    print(f"{len(BEHAVIOURS) - failed} of {len(BEHAVIOURS)} behaviours of 0.2.0 are there")
    return failed


if __name__ == "__main__":
    sys.exit(min(main(), 1))
