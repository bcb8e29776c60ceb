"""Layers in files: safetensors as others read and write it, weights used where they are mapped, broken files."""

from __future__ import annotations

import json
import multiprocessing
import os

import numpy as np
import pytest
from conftest import DTYPES, normal

import polyglot_bridge as pb

F32 = np.dtype("float32")


def network(dtype):
    narrow = {} if dtype.itemsize > 2 else {"dtype": dtype}
    wide = dtype if dtype.itemsize > 2 else F32
    return pb.Sequential([
        pb.Linear(normal((7, 33), wide), normal(33, wide, 1), activation="silu", **narrow),
        pb.RowOperation("layer_norm", normal(33, wide, 2), normal(33, wide, 3), eps=0.25),
        pb.Sequential([pb.Linear(normal((33, 5), wide), **narrow), pb.RowOperation("rms_norm")]),
        "log_softmax",
    ])


@pytest.mark.parametrize("mmap", [True, False])
def test_round_trip(tmp_path, dtype, mmap):
    layers, path = network(dtype), tmp_path / "layers.safetensors"
    layers.save(path)
    other = pb.Sequential.load(path, mmap=mmap)
    x = normal((4, 7), F32 if dtype.itemsize == 2 else dtype)
    assert other(x).tobytes() == layers(x).tobytes() and repr(other) == repr(layers)
    layers[0].save(str(path))
    assert pb.Linear.load(path, mmap=mmap)(x).tobytes() == layers[0](x).tobytes()
    assert len(pb.Sequential.load(path)) == 1
    # What was mapped before the file was replaced is as it was.
    assert other(x).tobytes() == layers(x).tobytes()


def test_mapped_weights_take_no_memory(tmp_path):
    path = tmp_path / "big.safetensors"
    weight = normal((1500, 1024), F32)
    layer = pb.Linear(weight)
    layer.save(path)
    mapped = pb.Linear.load(path)
    with open("/proc/self/maps") if os.path.exists("/proc/self/maps") else pytest.skip("no /proc here") as maps:
        areas = [line.split("-")[0] for line in maps if "big.safetensors" in line]
    assert areas
    address = mapped._panels()[0].ctypes.data
    assert any(int(start, 16) <= address < int(start, 16) + os.path.getsize(path) for start in areas)
    assert address % 64 == 0
    x = normal((3, 1500), F32)
    assert mapped(x).tobytes() == layer(x).tobytes()


def _worker(path, x, queue):
    layers = pb.Sequential.load(path)
    queue.put(layers(x).tobytes())


def test_worker_processes_share_a_file(tmp_path):
    path = tmp_path / "shared.safetensors"
    layers = network(F32)
    layers.save(path)
    x = normal((4, 7), F32)
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    workers = [context.Process(target=_worker, args=(path, x, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    results = [queue.get() for _ in workers]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert results == [layers(x).tobytes()] * 2


def test_arrays(tmp_path):
    path = tmp_path / "arrays.safetensors"
    arrays = {dtype.name: normal((3, 5), dtype) for dtype in DTYPES}
    arrays |= {"empty": np.zeros((0, 4), F32), "scalar": np.array(2.5), "ints": np.arange(3), "flags": np.array([True, False]),
               "turned": np.asfortranarray(normal((3, 4), F32)), "swapped": np.arange(3, dtype=">f4"), "ünïcode": np.zeros(1)}
    pb.save_file(arrays, path, {"made": "here"})
    for mmap in (True, False):
        loaded = pb.load_file(path, mmap=mmap)
        assert set(loaded) == set(arrays)
        for name, array in arrays.items():
            assert loaded[name].dtype == array.dtype.newbyteorder("=") and loaded[name].shape == array.shape
            assert np.array_equal(loaded[name], array) and not loaded[name].flags.writeable


def test_the_format_is_that_of_the_safetensors_package(tmp_path):
    theirs = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "arrays.safetensors"
    arrays = {"a": normal((3, 5), F32), "b": np.arange(7, dtype=np.int64), "c": np.zeros((2, 0), np.float64), "d": normal((4,), np.float16)}
    pb.save_file(arrays, path)
    loaded = theirs.load_file(path)
    assert set(loaded) == set(arrays) and all(np.array_equal(loaded[name], arrays[name]) for name in arrays)
    theirs.save_file(arrays, path)
    loaded = pb.load_file(path)
    assert set(loaded) == set(arrays) and all(np.array_equal(loaded[name], arrays[name]) for name in arrays)
    network(np.dtype("float64")).save(path)
    assert "0.panels" in theirs.load_file(path)


def _file(header, body=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


BROKEN = {
    "empty": b"", "short": b"1234567", "long": (10**15).to_bytes(8, "little") + b"{}", "cut": _file({}, length=100),
    "no_json": _file(b"{nonsense"), "a_list": _file([1]), "not_described": _file({"a": {"dtype": "F32"}}),
    "no_numbers": _file({"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]}}),
    "outside": _file({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"),
    "backwards": _file({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, b"1234"),
    "negative": _file({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
    "wrong_size": _file({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}}, b"1234"),
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("mmap", [True, False])
def test_broken_files(tmp_path, name, mmap):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(BROKEN[name])
    with pytest.raises(ValueError, match="broken.safetensors"):
        pb.load_file(path, mmap=mmap)
    with pytest.raises(ValueError, match="broken.safetensors"):
        pb.Sequential.load(path, mmap=mmap)


def test_other_bad_files(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(FileNotFoundError):
        pb.Linear.load(path)
    path.write_bytes(_file({"a": {"dtype": "F4", "shape": [1], "data_offsets": [0, 1]}}, b"1"))
    with pytest.raises(ValueError, match="'a' has dtype F4"):
        pb.load_file(path)
    with pytest.raises(TypeError, match="complex128"):
        pb.save_file({"a": np.array([1j])}, path)
    assert os.listdir(tmp_path) == ["a.safetensors"]
    network(F32).save(path)
    with pytest.raises(ValueError, match=r"Linear\.load.*Sequential"):
        pb.Linear.load(path)
    text = path.read_bytes()
    path.write_bytes(text.replace(rb"\"layout\": 1", rb"\"layout\": 9"))
    with pytest.raises(ValueError, match="layout 9"):
        pb.Sequential.load(path)
    path.write_bytes(text.replace(b'"0.panels"', b'"0.penals"'))
    with pytest.raises(ValueError, match=r"lacks '0\.panels'"):
        pb.Sequential.load(path)
    path.write_bytes(text.replace(rb"[7, 33]", rb"[9, 33]"))
    with pytest.raises(ValueError, match="9"):
        pb.Sequential.load(path)
