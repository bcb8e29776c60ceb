"""`Sequential` and `RowOperation`: the same bits as the layers one by one, copies, pickles, bad arguments."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import BFLOAT16, DTYPES, LAYOUTS, WRITEABLE, normal

import polyglot_bridge as pb

F32, F64 = np.dtype("float32"), np.dtype("float64")
PLAIN = ["softmax", "log_softmax", "layer_norm", "rms_norm", "relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh"]


def function(name):
    return (lambda x, **kwargs: pb.gelu(x, approximate="tanh", **kwargs)) if name == "gelu_tanh" else getattr(pb, name)


def network(dtype, widths=(17, 33, 24, 5)):
    layers = []
    for index, (k, n) in enumerate(zip(widths, widths[1:])):
        layers.append(pb.Linear(normal((k, n), dtype, index, 0.3), normal(n, dtype, index + 9), activation="gelu"))
        layers.append(pb.RowOperation("layer_norm", normal(n, dtype, index + 20), normal(n, dtype, index + 30)))
    return pb.Sequential([*layers, "softmax"])


def one_by_one(layers, x):
    for layer in layers:
        x = layer(x)
    return x


@pytest.mark.parametrize("lead", [(), (1,), (3,), (47,), (48,), (49,), (2, 5), (0,), (200,)])
def test_same_bits_as_one_by_one(dtype, lead):
    layers = network(dtype)
    x = normal((*lead, 17), dtype, 3)
    expected = one_by_one(layers, x)
    result = layers(x)
    assert result.dtype == dtype and result.shape == (*lead, 5)
    assert result.tobytes() == expected.tobytes()
    for threads in (1, 2, 3):
        with pb.threads(threads):
            assert layers(x).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", PLAIN)
def test_row_operations_are_the_functions(dtype, name):
    x = normal((3, 7, 11), dtype)
    expected = function(name)(x)
    layer = pb.RowOperation(name)
    assert layer(x).tobytes() == expected.tobytes()
    assert pb.Sequential([name])(x).tobytes() == expected.tobytes()
    out = x.copy()
    assert layer(out, out) is out and out.tobytes() == expected.tobytes()
    assert layer.name == name and layer.features is None and layer.weight is None and repr(layer).startswith(f"RowOperation('{name}'")
    if name != "gelu_tanh":
        assert pb.Sequential([getattr(pb, name)])[0].name == name


def test_norms_with_parameters(dtype):
    x, weight, bias = normal((5, 9), dtype), normal(9, dtype, 1), normal(9, dtype, 2)
    norm = pb.RowOperation("layer_norm", weight, bias, eps=1e-3)
    expected = pb.layer_norm(x, weight, bias, eps=1e-3)
    assert norm(x).tobytes() == expected.tobytes() and pb.Sequential([norm])(x).tobytes() == expected.tobytes()
    assert (norm.features, norm.eps) == (9, 1e-3) and np.array_equal(norm.weight, weight) and np.array_equal(norm.bias, bias)
    assert pb.RowOperation("layer_norm", None, bias)(x).tobytes() == pb.layer_norm(x, None, bias).tobytes()
    rms = pb.RowOperation("rms_norm", weight)
    assert rms.eps == 1e-6 and rms(x).tobytes() == pb.rms_norm(x, weight).tobytes()
    weight[:] = 0
    assert norm(x).tobytes() == expected.tobytes()
    with pytest.raises(ValueError):
        norm.weight[:] = 0
    if dtype.itemsize == 2:
        wide = x.astype(F32)
        assert norm(wide).tobytes() == pb.layer_norm(wide, norm.weight.astype(F32), bias.astype(F32), eps=1e-3).tobytes()


@pytest.mark.parametrize("storage", [dtype for dtype in DTYPES if dtype.itemsize == 2], ids=lambda dtype: dtype.name)
def test_narrow_weights(storage):
    layers = pb.Sequential([pb.Linear(normal((6, 8), F32), dtype=storage), "relu", pb.Linear(normal((8, 3), F32), normal(3, F32), dtype=storage)])
    assert layers.dtypes == (storage.name, "float32")
    for dtype in (storage, F32):
        x = normal((4, 6), dtype)
        assert layers(x).dtype == dtype and layers(x).tobytes() == one_by_one(layers, x).tobytes()
    mixed = pb.Sequential([layers, pb.Linear(normal((3, 2), F32))])
    assert mixed.dtypes == ("float32",)


def test_it_is_a_sequence_and_a_layer():
    layers = network(F32)
    assert len(layers) == 7 and len(list(layers)) == 7
    assert layers[0] is layers[-7] and isinstance(layers[0], pb.Linear) and layers[6].name == "softmax"
    assert isinstance(layers[1:3], pb.Sequential) and layers[1:3][0] is layers[1]
    assert (layers.in_features, layers.out_features, layers.dtypes) == (17, 5, ("float32",))
    assert layers.nbytes > 4 * (17 * 33 + 33 * 24 + 24 * 5)
    nested = pb.Sequential([layers[:3], pb.Sequential([]), layers[3:]])
    x = normal((50, 17), F32)
    assert nested(x).tobytes() == layers(x).tobytes() and (nested.in_features, nested.out_features) == (17, 5)
    assert nested.nbytes == layers.nbytes
    empty = pb.Sequential([])
    assert repr(empty) == "Sequential([])" and empty(x).tobytes() == x.tobytes() and empty(x) is not x
    assert empty.in_features is None and empty.out_features is None and len(empty.dtypes) == 4
    assert eval(repr(pb.Sequential(["softmax"])), vars(pb))[0].name == "softmax"
    for name in ("in_features", "layers"):
        with pytest.raises(AttributeError):
            setattr(layers, name, 1)
    with pytest.raises(IndexError):
        layers[7]


def test_layouts_and_out(dtype):
    layers = network(dtype)
    x = normal((2, 3, 17), dtype)
    expected = layers(x)
    for name, layout in LAYOUTS.items():
        if name != "broadcast":
            assert layers(layout(x)).tobytes() == expected.tobytes(), name
    for other in WRITEABLE.values():
        out = other(np.zeros((2, 3, 5), dtype))
        assert layers(x, out) is out and np.array_equal(out, expected)
    square = pb.Sequential([pb.Linear(normal((17, 17), dtype)), "softmax"])
    expected = square(x)
    assert square(x, out=x) is x and x.tobytes() == expected.tobytes()
    assert layers(np.zeros((2, 17)).tolist()).dtype == dtype


def test_copies_and_pickles(dtype):
    layers = pb.Sequential([network(dtype), pb.RowOperation("rms_norm", eps=0.5)])
    x = normal((3, 17), dtype)
    expected = layers(x).tobytes()
    for other in (copy.copy(layers), copy.deepcopy(layers), *(pickle.loads(pickle.dumps(layers, p)) for p in range(2, 6))):
        assert other(x).tobytes() == expected and repr(other) == repr(layers)
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(layers, 5, buffer_callback=buffers.append)
    assert sum(buffer.raw().nbytes for buffer in buffers) >= layers[0][0].nbytes - layers[0][0].bias.nbytes
    assert len(data) < 4000
    assert pickle.loads(data, buffers=buffers)(x).tobytes() == expected


def test_buffers_out_of_band_are_used_in_place():
    layer = pb.Linear(normal((64, 48), F32))
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(layer, 5, buffer_callback=buffers.append)
    room = np.zeros(buffers[0].raw().nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    shared = room[start:][: buffers[0].raw().nbytes]
    shared[:] = np.frombuffer(buffers[0], np.uint8)
    other = pickle.loads(data, buffers=[shared])
    x = normal((3, 64), F32)
    assert other(x).tobytes() == layer(x).tobytes()
    shared[:] = 0
    assert not other(x).any()
    del room, shared
    assert not other(x).any()
    # Out of step with cache lines: copied, right all the same.
    room = np.zeros(buffers[0].raw().nbytes + 64, np.uint8)
    odd = room[1 - room.ctypes.data % 64 :][: buffers[0].raw().nbytes] if room.ctypes.data % 64 < 1 else room[65 - room.ctypes.data % 64 - 64 * (room.ctypes.data % 64 == 1) :][: buffers[0].raw().nbytes]
    if odd.nbytes == buffers[0].raw().nbytes:
        odd[:] = np.frombuffer(buffers[0], np.uint8)
        assert pickle.loads(data, buffers=[odd])(x).tobytes() == layer(x).tobytes()


def test_from_many_threads():
    layers = network(F32, (64, 96, 80, 10))
    x = normal((130, 64), F32)
    expected = layers(x).tobytes()
    with ThreadPoolExecutor(8) as pool:
        assert all(result == expected for result in pool.map(lambda _: layers(x).tobytes(), range(100)))


W = np.ones((3, 4))
STACK = pb.Sequential([pb.Linear(W)])
TABLE = [
    (lambda: pb.Sequential(None), TypeError, ["Sequential", "layers", "NoneType"]),
    (lambda: pb.Sequential("softmax"), TypeError, ["Sequential", "layers", "str"]),
    (lambda: pb.Sequential({"a": 1}), TypeError, ["Sequential", "layers", "dict"]),
    (lambda: pb.Sequential(pb.Linear(W)), TypeError, ["Sequential", "layers", "Linear"]),
    (lambda: pb.Sequential(["softmax", "swish"]), ValueError, ["Sequential", "layers[1]", "'swish'", "gelu_tanh"]),
    (lambda: pb.Sequential([W]), TypeError, ["Sequential", "layers[0]", "ndarray", "Linear"]),
    (lambda: pb.Sequential([pb.scale]), TypeError, ["layers[0]", "builtin"]),
    (lambda: pb.Sequential([None]), TypeError, ["layers[0]", "NoneType"]),
    (lambda: pb.Sequential([pb.Linear(W), "relu", pb.Linear(W)]), ValueError, ["layers[2]", "takes 3", "gives 4"]),
    (lambda: pb.Sequential([pb.Linear(W), pb.RowOperation("rms_norm", np.ones(3))]), ValueError, ["layers[1]", "3", "4"]),
    (lambda: pb.Sequential([pb.Linear(W), pb.Linear(np.ones((4, 2), "f4"))]), TypeError,
     ["layers[0]", "float64", "layers[1]", "float32"]),
    (lambda: STACK(np.ones((2, 4))), ValueError, ["Sequential", "x", "(2, 4)", "3"]),
    (lambda: STACK(np.ones(())), ValueError, ["Sequential", "x", "()"]),
    (lambda: STACK(np.ones((2, 3), "f4")), TypeError, ["Sequential", "x", "float32", "float64"]),
    (lambda: STACK(None), TypeError, ["Sequential", "x"]),
    (lambda: STACK(np.ones((2, 3)), np.ones((2, 3))), ValueError, ["Sequential", "out", "(2, 3)", "(2, 4)"]),
    (lambda: STACK(np.ones((2, 3)), out=1), TypeError, ["Sequential", "out", "int"]),
    (lambda: STACK["a"], TypeError, ["Sequential", "index", "str"]),
    (lambda: STACK[5], IndexError, ["Sequential", "5", "1"]),
    (lambda: pb.RowOperation("swish"), ValueError, ["RowOperation", "name", "'swish'", "softmax"]),
    (lambda: pb.RowOperation(1), ValueError, ["RowOperation", "name", "1"]),
    (lambda: pb.RowOperation("softmax", W), ValueError, ["RowOperation", "softmax", "weight"]),
    (lambda: pb.RowOperation("rms_norm", np.ones(3), np.ones(3)), ValueError, ["rms_norm", "bias"]),
    (lambda: pb.RowOperation("relu", eps=1.0), ValueError, ["relu", "eps"]),
    (lambda: pb.RowOperation("layer_norm", W), ValueError, ["RowOperation", "weight", "(3, 4)"]),
    (lambda: pb.RowOperation("layer_norm", np.ones(3), np.ones(4)), ValueError, ["bias", "(4,)", "(3,)"]),
    (lambda: pb.RowOperation("layer_norm", np.ones(3), np.ones(3, "f4")), TypeError, ["weight", "float64", "bias", "float32"]),
    (lambda: pb.RowOperation("layer_norm", "a"), TypeError, ["weight"]),
    (lambda: pb.RowOperation("layer_norm", eps="a"), TypeError, ["eps", "str"]),
    (lambda: pb.RowOperation("layer_norm", np.ones(3))(W), ValueError, ["layer_norm", "x", "(3, 4)", "(3,)"]),
    (lambda: pb.RowOperation("layer_norm", np.ones(4))(W.astype("f4")), TypeError, ["x", "float32", "float64"]),
    (lambda: pb.RowOperation("softmax")(W, np.ones(3)), ValueError, ["softmax", "out", "(3,)", "(3, 4)"]),
    (lambda: pb.RowOperation("softmax")("a"), TypeError, ["softmax", "x"]),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: " ".join(row[2][:2]))
def test_bad_arguments(row):
    call, exception, words = row
    with pytest.raises(exception) as caught:
        call()
    for word in words:
        assert word in str(caught.value), caught.value


def test_pickles_without_ml_dtypes_carry_bytes():
    if BFLOAT16 is None:
        pytest.skip("no ml_dtypes")
    layer = pb.Linear(normal((4, 4), F32), dtype="bfloat16")
    assert b"ml_dtypes" not in pickle.dumps(layer, 5)
