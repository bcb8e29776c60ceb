"""What the package promises on special values and dtypes, one test for each promise."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import reference
from conftest import BFLOAT16, DTYPES, assert_close, normal

import polyglot_bridge as pb

ELEMENTWISE = [pb.relu, pb.sigmoid, pb.tanh, pb.silu, pb.gelu, lambda x: pb.gelu(x, approximate="tanh"), lambda x: pb.scale(x, 2.0)]
ROWWISE = [pb.softmax, pb.log_softmax, pb.layer_norm, pb.rms_norm]


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


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_subnormals_are_kept(name):
    tiny = np.array([np.finfo(name).smallest_subnormal * 8] * 5, name)
    assert np.array_equal(pb.relu(tiny), tiny)
    assert np.array_equal(pb.scale(tiny, 0.5), tiny / 2)
    assert np.array_equal(pb.tanh(tiny), tiny)
    assert np.array_equal(pb.matmul(tiny[None], np.eye(5, dtype=name)), tiny[None])


def test_same_bits_for_any_number_of_threads_and_for_a_row_alone(dtype):
    x, w = normal((301, 257), dtype), normal((257, 130), dtype, 1)
    mask = np.random.default_rng(3).random(x.shape) < 0.5
    calls = [lambda a, f=f: f(a) for f in (*ELEMENTWISE, *ROWWISE)]
    calls += [lambda a: pb.linear(a, w, activation="gelu"), lambda a: pb.matmul(a, w)]
    for call in calls:
        pb.set_num_threads(1)
        one = call(x)
        for threads in (2, 3, 5, 16):
            pb.set_num_threads(threads)
            assert call(x).tobytes() == one.tobytes()
        for row in (0, 150, 300):
            assert call(x[row]).tobytes() == one[row].tobytes()
    pb.set_num_threads(1)
    one = pb.dropout_add(x, x, mask, 2.0), pb.sum_of_squares_numpy(x)
    pb.set_num_threads(2)
    two = pb.dropout_add(x, x, mask, 2.0), pb.sum_of_squares_numpy(x)
    assert one[0].tobytes() == two[0].tobytes() and one[1] == two[1]


def test_softmax_of_infinities_is_a_nan_row(dtype):
    x = np.array([[-np.inf, -np.inf], [np.inf, 0], [np.inf, np.inf], [-np.inf, 0]]).astype(dtype)
    result = pb.softmax(x).astype(float)
    assert np.isnan(result[:3]).all()
    assert result[3].tolist() == [0.0, 1.0]


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


def test_layer_norm_with_a_large_mean():
    x = np.array([1e7, 1e7 + 1, 1e7 + 2, 1e7 + 3], np.float32)
    assert_close(pb.layer_norm(x), reference.layer_norm(x), np.dtype("float32"), ulps=4)
    x = normal((4, 513), np.float64) + 1e9
    assert_close(pb.layer_norm(x), reference.layer_norm(x), np.dtype("float64"), ulps=16, absolute=1e-14)


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


def test_zero_times_infinity_in_linear_is_nan(dtype):
    x = np.zeros((2, 3), dtype)
    w = np.array([[np.inf], [1], [1]]).astype(dtype)
    assert np.isnan(pb.linear(x, w).astype(float)).all()
    assert np.isnan(pb.matmul(x, w).astype(float)).all()


def test_linear_without_inputs_is_the_activation_of_the_bias(dtype):
    bias = np.array([-1.0, 2.0]).astype(dtype)
    result = pb.linear(np.zeros((3, 0), dtype), np.zeros((0, 2), dtype), bias, activation="relu")
    assert result.astype(float).tolist() == [[0.0, 2.0]] * 3


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
