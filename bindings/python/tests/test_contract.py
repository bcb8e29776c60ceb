"""What the package promises on special values and dtypes, one test for each promise."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import reference
from conftest import BFLOAT16, DTYPES, assert_close, compute_roundoff, normal, smallest, unit_roundoff

import polyglot_bridge as pb

ELEMENTWISE = [pb.relu, pb.sigmoid, pb.tanh, pb.silu, pb.gelu, lambda x: pb.gelu(x, approximate="tanh"), lambda x: pb.scale(x, 2.0)]
ROWWISE = [pb.softmax, pb.log_softmax, pb.layer_norm, pb.rms_norm, pb.l2_normalize]


def test_nan_in_nan_out_elementwise(dtype):
    x = np.array([1.0, np.nan, -2.0] * 9).astype(dtype)
    for function in ELEMENTWISE:
        assert np.isnan(function(x).astype(float)).tolist() == [False, True, False] * 9


def test_nan_in_nan_row_out(dtype):
    x = normal((3, 19), dtype)
    x[1, 17] = np.nan
    for function in ROWWISE:
        bad = np.isnan(function(x).astype(float))
        assert bad[1].all() and not bad[0].any() and not bad[2].any()


def test_nan_in_linear_and_matmul(dtype):
    x, w = normal((3, 5), dtype), normal((5, 4), dtype, 1)
    x[1, 2] = np.nan
    for result in (pb.linear(x, w), pb.matmul(x, w), pb.linear(x, w, activation="relu")):
        assert np.isnan(result.astype(float)).all(axis=1).tolist() == [False, True, False]


def test_nan_in_a_weight_or_a_bias(dtype):
    x, w, bias = normal((3, 5), dtype), normal((5, 40), dtype, 1), normal(40, dtype, 2)
    w[4, 7], bias[39] = np.nan, np.nan
    for result in (pb.linear(x, w, bias, activation="gelu"), pb.Linear(w, bias, activation="gelu")(x)):
        bad = np.isnan(result.astype(float))
        assert bad[:, [7, 39]].all() and bad.sum() == 6


def test_nan_reaches_what_is_made_of_it(dtype):
    x, fine = normal((4, 9), dtype), normal((4, 9), dtype, 1)
    x[2, 8] = np.nan
    for result in (pb.layer_norm(x, residual=fine), pb.layer_norm(fine, residual=x), pb.attention(x, fine, fine)):
        assert np.isnan(result.astype(float)).all(axis=1).tolist() == [False, False, True, False]
    assert np.isnan(pb.attention(fine, x, fine).astype(float)).all()
    assert np.isnan(pb.attention(fine, fine, x).astype(float)).all(axis=0).tolist() == [False] * 8 + [True]
    assert np.isnan(pb.mean_pool(x).astype(float)).tolist() == [False] * 8 + [True]
    assert np.isnan(pb.embedding(([2], [0]), (x, fine)).astype(float)).tolist() == [[False] * 8 + [True]]
    assert np.isnan(pb.sum_of_squares_numpy(x))


def test_relu_keeps_nan(dtype):
    for n in (1, 3, 8, 17):
        assert np.isnan(pb.relu(np.full(n, np.nan).astype(dtype)).astype(float)).all()
    w = -np.ones((2, 33), dtype)
    x = np.array([[np.nan, 1]]).astype(dtype)
    for result in (pb.linear(x, w, activation="relu"), pb.Linear(w, activation="relu")(x)):
        assert np.isnan(result.astype(float)).all()


def test_subnormals_are_kept(dtype):
    for n in (1, 5, 8, 17, 33):
        tiny = np.array([smallest(dtype) * (1 + step) for step in range(n)]).astype(dtype)
        zeros = np.zeros(n, dtype)
        kept = [
            pb.relu(tiny),
            pb.tanh(tiny),
            pb.scale(tiny, 1.0),
            pb.matmul(tiny[None], np.eye(n, dtype=dtype))[0],
            pb.dropout_add(tiny, zeros, np.ones(n, bool)),
            pb.dropout_add(zeros, tiny, np.ones(n, bool)),
            pb.linear(np.zeros((1, 1), dtype), np.zeros((1, n), dtype), tiny)[0],
            pb.Linear(np.zeros((1, n), dtype), tiny)(np.zeros((1, 1), dtype))[0],
            pb.layer_norm(zeros, None, tiny),
            pb.embedding([0], tiny[None])[0],
            pb.mean_pool(tiny[None]),
            pb.attention(tiny[None, :1], tiny[None, :1], tiny[None])[0],
        ]
        for found in kept:
            assert found.dtype == dtype and np.array_equal(found, tiny)
        # A row of subnormals is normalised like any other.
        assert np.array_equal(pb.rms_norm(np.full(n, smallest(dtype)).astype(dtype), eps=0.0), np.ones(n, dtype))
    # Halves of the smallest are ties, and go to the even one.
    tiny = np.array([2, 3, 4]) * smallest(dtype)
    assert np.array_equal(pb.scale(tiny.astype(dtype), 0.5).astype(float), np.array([1, 2, 2]) * smallest(dtype))


def test_signed_zeros_are_kept(dtype):
    for n in (1, 3, 8, 17):
        minus = np.full(n, -0.0).astype(dtype)
        for function in (pb.tanh, pb.silu, pb.gelu, lambda x: pb.scale(x, 3.0), lambda x: pb.embedding([0], x[None])):
            found = function(minus).astype(float)
            assert not found.any() and np.signbit(found).all()


def test_same_bits_for_any_number_of_threads_and_for_a_row_alone(dtype):
    x, w = normal((301, 257), dtype), normal((257, 130), dtype, 1)
    mask = np.random.default_rng(3).random(x.shape) < 0.5
    calls = [lambda a, f=f: f(a) for f in (*ELEMENTWISE, *ROWWISE)]
    layer, keys, values = pb.Linear(w, activation="silu"), normal((90, 257), dtype, 4), normal((90, 19), dtype, 5)
    calls += [lambda a: pb.linear(a, w, activation="gelu"), lambda a: pb.matmul(a, w), layer]
    calls += [lambda a: pb.layer_norm(a, w[:, 0], w[:, 1], residual=a), lambda a: pb.rms_norm(a, w[:, 2])]
    # One query alone is a matrix of one row.
    calls += [lambda a: pb.attention(a.reshape(-1, 257), keys, values).reshape(*a.shape[:-1], 19)]
    for call in calls:
        pb.set_num_threads(1)
        one = call(x)
        for threads in (2, 3, 5, 16):
            pb.set_num_threads(threads)
            assert call(x).tobytes() == one.tobytes()
        for row in (0, 150, 300):
            assert call(x[row]).tobytes() == one[row].tobytes()
    large = normal((40, 70, 257), dtype, 6)
    calls = [
        lambda: pb.dropout_add(x, x, mask, 2.0),
        lambda: np.array(pb.sum_of_squares_numpy(large)),
        lambda: pb.mean_pool(large, np.arange(70) % 3 == np.zeros((40, 1))),
        lambda: pb.embedding((np.arange(300), np.arange(300)), (x, x)),
        lambda: pb.attention(large, large, large, causal=True),
    ]
    for call in calls:
        pb.set_num_threads(1)
        one = call()
        for threads in (2, 3, 5, 16):
            pb.set_num_threads(threads)
            assert call().tobytes() == one.tobytes()
    assert pb.mean_pool(large)[7].tobytes() == pb.mean_pool(large[7]).tobytes()
    assert pb.dropout_add(x[7], x[7], mask[7], 2.0).tobytes() == pb.dropout_add(x, x, mask, 2.0)[7].tobytes()


def test_softmax_of_infinities_is_a_nan_row(dtype):
    x = np.array([[-np.inf, -np.inf], [np.inf, 0], [np.inf, np.inf], [-np.inf, 0]]).astype(dtype)
    for function, last in ((pb.softmax, [0.0, 1.0]), (pb.log_softmax, [-np.inf, 0.0])):
        result = function(x).astype(float)
        assert np.isnan(result[:3]).all()
        assert result[3].tolist() == last


@pytest.mark.parametrize("dtype_name", ["float16", "bfloat16"])
def test_softmax_of_many_equal_halves(dtype_name):
    if dtype_name == "bfloat16" and BFLOAT16 is None:
        pytest.skip("ml_dtypes is not installed")
    dtype = BFLOAT16 if dtype_name == "bfloat16" else np.dtype(dtype_name)
    result = pb.softmax(np.zeros(60_000, dtype))
    assert len(np.unique(result.astype(float))) == 1
    assert result[0] == np.asarray(1 / 60_000).astype(dtype)


def test_layer_norm_of_equal_values_is_exactly_the_bias(dtype):
    for value in (0.1, 3.0, 1000.0):
        for n in (1, 3, 7, 49, 768, 1000):
            x = np.full((2, n), value).astype(dtype)
            assert not pb.layer_norm(x).astype(float).any()
            bias = normal(n, dtype)
            assert np.array_equal(pb.layer_norm(x, None, bias), np.broadcast_to(bias, (2, n)))


def test_layer_norm_with_a_mean_far_above_the_spread(dtype):
    # Four neighbours near the end of the integers that the type holds.
    x = (1 / (2 * unit_roundoff(dtype)) + np.arange(4)).astype(dtype)
    right = (np.arange(4) - 1.5) / 1.25**0.5
    error = np.abs(pb.layer_norm(x, eps=0.0).astype(float) - right)
    half_unit = unit_roundoff(dtype) * 2 if dtype.itemsize == 2 else 0
    assert (error <= 16 * compute_roundoff(dtype) + half_unit).all()


def test_layer_norm_with_a_large_mean():
    x = np.array([1e7, 1e7 + 1, 1e7 + 2, 1e7 + 3], np.float32)
    assert_close(pb.layer_norm(x), reference.layer_norm(x), np.dtype("float32"), ulps=4)
    x = normal((4, 513), np.float64) + 1e9
    assert_close(pb.layer_norm(x), reference.layer_norm(x), np.dtype("float64"), ulps=16, absolute=1e-14)


def test_norms_of_the_largest_values(dtype):
    # Whose squares overflow in the dtype, and for all but float16 in the type that is computed in.
    largest = {"float16": 60_000.0, "bfloat16": 1e38, "float32": 1e38, "float64": 1e307}[dtype.name]
    x = (np.array([-1, 1, -3, 3]) / 3 * largest).astype(dtype)
    for function, root in ((pb.layer_norm, 5**0.5), (pb.rms_norm, 5**0.5), (pb.l2_normalize, 20**0.5)):
        found = function(x, **({} if function is pb.l2_normalize else {"eps": 0.0})).astype(float)
        right = np.array([-1, 1, -3, 3]) / root
        assert (np.abs(found - right) <= (8 * compute_roundoff(dtype) + 4 * unit_roundoff(dtype)) * np.abs(right)).all()


@pytest.mark.parametrize(("name", "size"), [("float32", 1e20), ("float32", 1e37), ("float64", 1e200), ("float64", 1e307), ("float32", 1e-30), ("float64", 1e-200)])
def test_norms_of_very_large_and_small_values(name, size):
    x = (normal((3, 300), np.float64) * size).astype(name)
    with np.errstate(over="ignore"):
        assert_close(pb.layer_norm(x, eps=0.0), reference.layer_norm(x, eps=0), np.dtype(name), ulps=16, absolute=1e-5 if name == "float32" else 1e-14)
        assert_close(pb.rms_norm(x, eps=0.0), reference.rms_norm(x, eps=0), np.dtype(name), ulps=16)


def test_relu_of_minus_zero_is_plus_zero(dtype):
    for n in (1, 3, 8, 17):
        result = pb.relu(np.full(n, -0.0).astype(dtype))
        assert not np.signbit(result.astype(float)).any()
    result = pb.linear(np.zeros((1, 1), dtype), -np.ones((1, 3), dtype), activation="relu")
    assert not np.signbit(result.astype(float)).any()


def test_limits_of_activations(dtype):
    x = np.array([-np.inf, np.inf] * 9).astype(dtype)
    for function in (pb.gelu, pb.silu, lambda x: pb.gelu(x, approximate="tanh")):
        assert function(x).astype(float).tolist() == [0.0, np.inf] * 9
    assert pb.sigmoid(x).astype(float).tolist() == [0.0, 1.0] * 9
    assert pb.tanh(x).astype(float).tolist() == [-1.0, 1.0] * 9
    assert pb.relu(x).astype(float).tolist() == [0.0, np.inf] * 9


def test_dropout_add_selects_with_bool_and_multiplies_with_floats(dtype):
    x = np.array([np.nan, np.inf, 2.0] * 7).astype(dtype)
    keep = np.array([False, False, True] * 7)
    residual = np.ones(21).astype(dtype)
    assert pb.dropout_add(x, residual, keep, 3.0).astype(float).tolist() == [1.0, 1.0, 7.0] * 7
    multiplied = pb.dropout_add(x, residual, keep.astype(dtype), 3.0).astype(float)
    assert np.isnan(multiplied).tolist() == [True, True, False] * 7


def test_sum_of_squares_of_nothing_is_plus_zero(dtype):
    result = pb.sum_of_squares_numpy(np.zeros((0, 3), dtype))
    assert result == 0.0 and not np.signbit(result)


def test_sum_of_squares_is_summed_in_float64():
    assert pb.sum_of_squares_numpy(np.full(7, 1e20, np.float32)) == pytest.approx(7e40, rel=1e-6)
    assert pb.sum_of_squares_numpy(np.full(1000, 2048, np.float16)) == 1000 * 2048.0**2
    assert pb.sum_of_squares_numpy(np.full(7, 60_000, np.float16)) == 7 * 60_000.0**2
    # What float32 would lose beside the first.
    assert pb.sum_of_squares_numpy(np.array([4096, 1, 1], np.float32)) == 4096.0**2 + 2
    assert type(pb.sum_of_squares_numpy(np.ones(3, np.float32))) is float


@pytest.mark.skipif(BFLOAT16 is None, reason="ml_dtypes is not installed")
def test_sum_of_squares_of_bfloat16_is_summed_in_float64():
    value = float(np.asarray(1e20).astype(BFLOAT16))
    assert pb.sum_of_squares_numpy(np.full(7, 1e20).astype(BFLOAT16)) == pytest.approx(7 * value**2, rel=1e-15)


def test_zero_times_infinity_in_linear_is_nan(dtype):
    x = np.zeros((2, 3), dtype)
    w = np.array([[np.inf], [1], [1]]).astype(dtype)
    assert np.isnan(pb.linear(x, w).astype(float)).all()
    assert np.isnan(pb.matmul(x, w).astype(float)).all()
    assert np.isnan(pb.Linear(w)(x).astype(float)).all()
    assert np.isnan(pb.linear(x, w, activation="relu").astype(float)).all()


def test_linear_without_inputs_is_the_activation_of_the_bias(dtype):
    bias = np.array([-1.0, 2.0]).astype(dtype)
    result = pb.linear(np.zeros((3, 0), dtype), np.zeros((0, 2), dtype), bias, activation="relu")
    assert result.astype(float).tolist() == [[0.0, 2.0]] * 3
    layer = pb.Linear(np.zeros((0, 2), dtype), bias, activation="relu")
    assert layer(np.zeros((3, 0), dtype)).astype(float).tolist() == [[0.0, 2.0]] * 3
    assert pb.matmul(np.zeros((3, 0), dtype), np.zeros((0, 2), dtype)).astype(float).tolist() == [[0.0, 0.0]] * 3


def test_zero_dimensions_in_zero_dimensions_out(dtype):
    x = np.array(2.0).astype(dtype)
    for function in (*ELEMENTWISE, *ROWWISE):
        result = function(x)
        assert isinstance(result, np.ndarray) and result.shape == () and result.dtype == dtype
    assert pb.softmax(x) == 1
    assert pb.relu(x[()]).shape == ()


def test_empty_arrays(dtype):
    for shape in ((0,), (0, 3), (3, 0)):
        x = np.zeros(shape, dtype)
        for function in (*ELEMENTWISE, *ROWWISE):
            assert function(x).shape == shape and function(x).dtype == dtype
        assert pb.dropout_add(x, x, x != 0).shape == shape
    # An empty array may begin anywhere and counts as aligned.
    odd = np.zeros(9, np.uint8)[1:1].view(dtype)
    assert pb.layer_norm(np.zeros((2, 0), dtype), odd, odd).shape == (2, 0)
    assert pb.linear(np.zeros((2, 3), dtype), np.zeros((3, 0), dtype), odd).shape == (2, 0)
    assert pb.rms_norm(odd, odd).shape == (0,) and pb.sum_of_squares_numpy(odd) == 0.0


def test_python_numbers_do_not_promote_and_are_rounded_to_the_compute_type():
    x = np.array([3.0], np.float16)
    assert pb.scale(x, 0.1).dtype == np.float16
    assert pb.scale(x, 0.1)[0] == np.float16(np.float32(3.0) * np.float32(0.1))
    assert pb.scale(x, np.float64(0.1)).dtype == np.float16
    assert pb.scale(np.array([1.0], np.float32), 0.1)[0] == np.float32(0.1)
    assert pb.layer_norm(normal((2, 3), np.float32), eps=np.float64(1e-5)).dtype == np.float32


def test_lists_and_integers_take_the_dtype_of_the_arrays_beside_them(dtype):
    x = np.ones((2, 3), dtype)
    assert pb.linear(x, [[1, 2], [3, 4], [5, 6]], [0.5, 0.5]).dtype == dtype
    assert pb.linear(x, np.arange(6).reshape(3, 2)).dtype == dtype
    assert pb.layer_norm(x, [1, 2, 3], (0, 0, 0)).dtype == dtype
    assert pb.matmul([[1, 2]], x).dtype == dtype
    assert pb.dropout_add(x, [[1, 2, 3]] * 2, [[True, False, True]] * 2).dtype == dtype
    assert pb.linear(x, np.arange(6).reshape(3, 2)).astype(float).tolist() == [[6.0, 9.0]] * 2


def test_lists_and_integers_alone_become_float64():
    for x in ([1, 2], [1.0, 2.0], (1, 2), range(2), np.arange(2), np.array([True, False]), np.arange(2, dtype=np.uint8)):
        for function in (*ELEMENTWISE, *ROWWISE):
            assert function(x).dtype == np.float64
    assert pb.relu(3).dtype == np.float64 and pb.relu(-3.5) == 0
    assert pb.linear([[1, 2]], [[1], [2]]).tolist() == [[5.0]]
    assert pb.relu([np.float32(1.5)]).dtype == np.float32


def test_arrays_of_two_dtypes_are_refused_by_name():
    for first in DTYPES:
        for second in DTYPES:
            if first != second:
                with pytest.raises(TypeError, match=f"{first.name}.*{second.name}|{second.name}.*{first.name}"):
                    pb.linear(np.ones((2, 3), first), np.ones((3, 2), second))


def test_numpy_scalars_are_arrays():
    assert pb.relu(np.float32(2)).dtype == np.float32
    with pytest.raises(TypeError, match="float64.*float32|float32.*float64"):
        pb.dropout_add(np.float32(1), np.float64(1), True)


def test_results_of_halves_are_rounded_once():
    x = np.array([[2049.0, 1.0, 1.0]]).astype(np.float16)
    w = np.array([[1.0], [0.75], [0.75]], np.float16)
    exact = np.float16((x.astype(float) @ w.astype(float))[0, 0])
    assert pb.linear(x, w)[0, 0] == exact


class Exposes:
    """An object of another library that shows its memory through `__array__`."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


class Lends:
    """An object of another library that shows its memory through `__dlpack__` alone."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("wrap", [Exposes, Lends, memoryview])
def test_arrays_of_other_libraries(wrap):
    x = normal((4, 5), np.float32)
    assert pb.softmax(wrap(x)).tobytes() == pb.softmax(x).tobytes()
    assert type(pb.softmax(wrap(x))) is np.ndarray
    assert pb.linear(wrap(x), [[1]] * 5).dtype == np.float32


def test_memory_maps_are_read(tmp_path):
    x = normal((40, 50), np.float32)
    x.tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", np.float32, "r", shape=x.shape)
    assert type(pb.softmax(mapped)) is np.ndarray
    assert pb.softmax(mapped).tobytes() == pb.softmax(x).tobytes()
    out = np.memmap(tmp_path / "y", np.float32, "w+", shape=x.shape)
    assert pb.relu(x, out=out) is out
    assert np.array_equal(out, pb.relu(x))


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_subclasses_become_arrays_and_masked_arrays_are_refused():
    matrix = np.asmatrix([[1.0, 2.0]])
    assert type(pb.softmax(matrix)) is np.ndarray
    masked = np.ma.masked_array([1.0, 2.0], [False, True])
    with pytest.raises(TypeError, match="masked"):
        pb.relu(masked)
    with pytest.raises(TypeError, match="masked"):
        pb.relu(np.ones(2), out=masked)
    with pytest.raises(TypeError, match="masked"):
        pb.linear(np.ones((1, 2)), np.ones((2, 2)), masked)


@pytest.mark.parametrize("package", ["torch", "jax.numpy"])
def test_tensors_of_other_packages_are_read_in_place(package):
    module = pytest.importorskip(package)
    values = normal((64, 33), np.float32)
    tensor = module.asarray(values.copy())
    explanation = pb.explain(pb.softmax, tensor)
    assert explanation.copies == () and type(explanation.value) is np.ndarray
    assert explanation.value.tobytes() == pb.softmax(values).tobytes()
    weight = module.asarray(normal((33, 5), np.float32, 1))
    assert pb.linear(tensor, weight).tobytes() == pb.linear(values, np.asarray(weight)).tobytes()
    large, out = module.asarray(np.ones((512, 512), np.float32)), np.empty((512, 512), np.float32)
    pb.relu(large, out=out)
    tracemalloc.start()
    try:
        pb.relu(large, out=out)
        assert tracemalloc.get_traced_memory()[1] < out.nbytes / 4
    finally:
        tracemalloc.stop()
    with pytest.raises(TypeError, match="relu: out must be a numpy.ndarray"):
        pb.relu(values, out=tensor)
