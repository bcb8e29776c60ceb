"""`Linear`: the same bits as `linear`, narrow storage, attributes, copies, pickles, threads, bad arguments."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import DTYPES, LAYOUTS, WRITEABLE, normal

import polyglot_bridge as pb

F32 = np.dtype("float32")
NARROW = [dtype for dtype in DTYPES if dtype.itemsize == 2]


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("shape", [(5, 7), (64, 32), (33, 65), (1, 1), (0, 3), (3, 0), (300, 40)])
def test_same_bits_as_linear(dtype, shape, activation):
    weight, bias = normal(shape, dtype), normal(shape[1], dtype, 1)
    layer = pb.Linear(weight, bias, activation=activation)
    bare = pb.Linear(weight, activation=activation)
    for lead in ((), (1,), (3,), (17,), (2, 5), (0,), (70,)):
        x, residual = normal((*lead, shape[0]), dtype, 2), normal((*lead, shape[1]), dtype, 3)
        assert layer(x).tobytes() == pb.linear(x, weight, bias, activation=activation).tobytes()
        assert layer(x).shape == (*lead, shape[1]) and layer(x).dtype == dtype
        expected = pb.linear(x, weight, bias, activation=activation, residual=residual)
        assert layer(x, residual).tobytes() == expected.tobytes()
        assert bare(x).tobytes() == pb.linear(x, weight, activation=activation).tobytes()
        out = np.zeros_like(expected)
        assert layer(x, residual, out) is out and out.tobytes() == expected.tobytes()
        assert layer(x, out=residual, residual=residual).tobytes() == expected.tobytes()


def test_layouts(dtype, layout):
    weight, bias, x = normal((9, 5), dtype), normal(5, dtype, 1), normal((2, 3, 9), dtype, 2)
    if layout is LAYOUTS["broadcast"]:
        return
    expected = pb.Linear(weight, bias)(x)
    layer = pb.Linear(layout(weight), layout(bias))
    assert layer(layout(x)).tobytes() == expected.tobytes()
    for other in WRITEABLE.values():
        out = other(np.zeros((2, 3, 5), dtype))
        assert layer(x, out=out) is out and np.array_equal(out, expected)


@pytest.mark.parametrize("storage", NARROW, ids=lambda dtype: dtype.name)
def test_narrow_storage(storage):
    weight, bias, x = normal((64, 33), F32), normal(33, F32, 1), normal((5, 64), F32, 2)
    layer = pb.Linear(weight, bias, dtype=storage.name, activation="relu")
    rounded = weight.astype(storage)
    assert layer.dtype == storage and layer.weight.dtype == storage and np.array_equal(layer.weight, rounded)
    assert layer.bias.dtype == F32 and np.array_equal(layer.bias, bias)
    wide = layer(x)
    assert wide.dtype == F32
    assert wide.tobytes() == pb.linear(x, rounded.astype(F32), bias, activation="relu").tobytes()
    residual = normal((5, 33), F32, 3)
    assert layer(x, residual).dtype == F32
    narrow = layer(x.astype(storage))
    assert narrow.dtype == storage
    exact = pb.linear(x.astype(storage).astype(F32), rounded.astype(F32), bias, activation="relu")
    assert np.array_equal(narrow, exact.astype(storage))
    assert layer.nbytes < pb.Linear(weight, bias).nbytes * 0.6
    assert pb.Linear(weight.astype(np.float64), dtype=storage).dtype == storage
    assert np.array_equal(pb.Linear(weight.astype(np.float64), dtype=storage).weight, rounded)
    with pytest.raises(TypeError, match=f"float64.*{storage.name}.*float32"):
        layer(x.astype(np.float64))
    with pytest.raises(TypeError, match="float32"):
        layer(x.astype(storage), residual)


def test_attributes_and_repr():
    layer = pb.Linear(np.ones((3, 4), np.float32), activation="gelu_tanh")
    assert (layer.in_features, layer.out_features, layer.activation) == (3, 4, "gelu_tanh")
    assert layer.dtype == F32 and isinstance(layer.dtype, np.dtype) and layer.bias is None
    assert layer.nbytes >= 48
    assert repr(layer) == "Linear(in_features=3, out_features=4, bias=False, activation='gelu_tanh', dtype=float32)"
    assert pb.Linear([[1, 2]], [3, 4]).dtype == np.float64 and pb.Linear([[1, 2]]).activation is None
    assert pb.Linear([[1, 2]])([2]).tolist() == [2.0, 4.0]
    for name in ("in_features", "dtype", "weight"):
        with pytest.raises(AttributeError):
            setattr(layer, name, 1)


def test_it_keeps_a_copy():
    weight = np.ones((2, 2))
    layer = pb.Linear(weight)
    weight[:] = 7
    assert layer(np.ones(2)).tolist() == [2.0, 2.0]
    layer.weight[:] = 7
    assert layer(np.ones(2)).tolist() == [2.0, 2.0]


def same(one, two):
    return (np.array_equal(one.weight, two.weight) and one.dtype == two.dtype and one.activation == two.activation
            and (one.bias is None) == (two.bias is None) and (one.bias is None or np.array_equal(one.bias, two.bias)))


@pytest.mark.parametrize("storage", [dtype.name for dtype in DTYPES])
def test_copies_and_pickles(storage):
    wide = np.float64 if storage == "float64" else F32
    for layer in (pb.Linear(normal((5, 7), wide), normal(7, wide, 1), activation="silu", dtype=storage), pb.Linear(normal((5, 7), wide), dtype=storage)):
        for other in (copy.copy(layer), copy.deepcopy(layer), *(pickle.loads(pickle.dumps(layer, p)) for p in range(2, 6))):
            assert same(layer, other)
        buffers: list[pickle.PickleBuffer] = []
        data = pickle.dumps(layer, 5, buffer_callback=buffers.append)
        if storage != "bfloat16":
            assert buffers
        assert same(layer, pickle.loads(data, buffers=buffers))


def test_from_many_threads():
    layer = pb.Linear(normal((300, 200), F32), normal(200, F32, 1), activation="gelu")
    x = normal((40, 300), F32, 2)
    expected = layer(x).tobytes()
    with ThreadPoolExecutor(8) as pool:
        assert all(result == expected for result in pool.map(lambda _: layer(x).tobytes(), range(100)))


W = np.ones((3, 4))
TABLE = [
    (lambda: pb.Linear(np.ones(3)), ValueError, ["Linear", "weight", "(3,)", "two dimensions"]),
    (lambda: pb.Linear(np.ones((2, 3, 4))), ValueError, ["weight", "(2, 3, 4)"]),
    (lambda: pb.Linear(W, np.ones(3)), ValueError, ["bias", "(3,)", "(4,)", "(3, 4)"]),
    (lambda: pb.Linear(W, np.ones(4, "f4")), TypeError, ["bias", "float32", "float64"]),
    (lambda: pb.Linear(None), TypeError, ["weight"]),
    (lambda: pb.Linear("a"), TypeError, ["weight"]),
    (lambda: pb.Linear(W.astype(complex)), TypeError, ["weight", "complex128"]),
    (lambda: pb.Linear(W, activation="swish"), ValueError, ["activation", "swish", "gelu_tanh"]),
    (lambda: pb.Linear(W, dtype="int8"), TypeError, ["dtype", "int8", "float16"]),
    (lambda: pb.Linear(W, dtype=">f4"), TypeError, ["dtype", ">f4"]),
    (lambda: pb.Linear(W, dtype="nonsense"), TypeError, ["dtype", "nonsense"]),
    (lambda: pb.Linear(W, None, "relu"), TypeError, ["positional"]),
    (lambda: pb.Linear(W)(np.ones((2, 4))), ValueError, ["Linear", "x", "(2, 4)", "(3, 4)"]),
    (lambda: pb.Linear(W)(np.ones(())), ValueError, ["x", "()"]),
    (lambda: pb.Linear(W)(np.ones((2, 3), "f4")), TypeError, ["x", "float32", "float64"]),
    (lambda: pb.Linear(W)(np.ones((2, 3)), np.ones((2, 3))), ValueError, ["residual", "(2, 3)", "(2, 4)"]),
    (lambda: pb.Linear(W)(np.ones((2, 3)), out=np.ones((2, 3))), ValueError, ["out", "(2, 3)", "(2, 4)"]),
    (lambda: pb.Linear(W)(None), TypeError, ["x"]),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: " ".join(row[2][:2]))
def test_bad_arguments(row):
    call, exception, words = row
    with pytest.raises(exception) as caught:
        call()
    for word in words:
        assert word in str(caught.value), caught.value
