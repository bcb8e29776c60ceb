"""Threads and processes: limits, the GIL, many callers at once, forked and spawned children."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import normal

import polyglot_bridge as pb


def test_get_and_set():
    default = pb.get_num_threads()
    assert default >= 1
    pb.set_num_threads(3)
    assert pb.get_num_threads() == 3
    pb.set_num_threads(np.int64(2))
    assert pb.get_num_threads() == 2
    pb.set_num_threads(None)
    assert pb.get_num_threads() == default


def test_a_block_limits_its_own_thread_only():
    default = pb.get_num_threads()
    with pb.threads(1) as limit:
        assert pb.get_num_threads() == 1
        with pb.threads(5):
            assert pb.get_num_threads() == 5
        assert pb.get_num_threads() == 1
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(pb.get_num_threads).result() == default
        with limit:
            assert pb.get_num_threads() == 1
    assert pb.get_num_threads() == default
    with pytest.raises(ZeroDivisionError), pb.threads(1):
        1 / 0
    assert pb.get_num_threads() == default
    with pytest.raises(RuntimeError):
        limit.__exit__(None, None, None)
    assert repr(pb.threads(2)) == "polyglot_bridge.threads(2)"


def python(code, **environment):
    result = subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_environment_variable():
    code = "import polyglot_bridge as pb; print(pb.get_num_threads())"
    assert python(code, POLYGLOT_NUM_THREADS="3") == "3"
    assert int(python(code, POLYGLOT_NUM_THREADS="nonsense")) >= 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity masks here")
def test_affinity_mask():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import polyglot_bridge as pb; print(pb.get_num_threads())"
    environment = {"POLYGLOT_NUM_THREADS": ""}
    assert python(code, **environment) == "1"


def test_import_starts_no_thread():
    assert python("import polyglot_bridge, threading, os; print(len(os.listdir('/proc/self/task')) if os.path.isdir('/proc/self/task') else 1)",
                  OPENBLAS_NUM_THREADS="1") == "1"


def test_import_does_not_need_ml_dtypes():
    code = "import sys; sys.modules['ml_dtypes'] = None; import numpy as np, polyglot_bridge as pb; print(pb.relu(np.ones(2)).tolist())"
    assert python(code) == "[1.0, 1.0]"


def test_the_gil_is_released():
    x = np.ones((2000, 2000))
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0005)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(10)
    thread = threading.Thread(target=tick)
    thread.start()
    try:
        time.sleep(0.01)
        with pb.threads(1):
            begin = time.perf_counter()
            pb.matmul(x, x)
            end = time.perf_counter()
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()
    assert sum(begin < tick < end for tick in ticks) >= 3


def test_many_threads_at_once():
    x, w = normal((64, 300), np.float32), normal((300, 200), np.float32, 1)
    expected = [pb.softmax(x).tobytes(), pb.linear(x, w, activation="gelu").tobytes(), pb.layer_norm(x).tobytes()]

    def work(_):
        return [pb.softmax(x).tobytes(), pb.linear(x, w, activation="gelu").tobytes(), pb.layer_norm(x).tobytes()] == expected

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(200)))


def _child(queue):
    x = np.ones((600, 700), np.float32)
    queue.put((float(pb.softmax(x).sum()), float(pb.matmul(x, x.T)[0, 0])))


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_child_processes(method):
    _child(multiprocessing.SimpleQueue())
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    children = [context.Process(target=_child, args=(queue,)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        alive = child.is_alive()
        if alive:
            child.kill()
        assert not alive and child.exitcode == 0
    for _ in children:
        total, product = queue.get()
        assert total == pytest.approx(600, rel=1e-5) and product == 700
    _child(multiprocessing.SimpleQueue())


def test_arrays_and_their_counts_are_given_back():
    x, out = np.ones((3, 4)), np.zeros((3, 4))
    # Made here: np.ones itself loses a reference to its dtype in some versions of NumPy.
    weight, residual = np.ones((4, 2)), np.ones((3, 2))
    before = sys.getrefcount(x), sys.getrefcount(out), sys.getrefcount(np.dtype("f8"))
    for _ in range(100):
        pb.softmax(x, out=out)
        pb.softmax(x[:, ::2])
        pb.linear(x, weight, [1, 2], residual=residual)
        pb.relu(x.astype(">f8"))
        for bad in (lambda: pb.softmax(x, axis=5), lambda: pb.linear(x, x), lambda: pb.relu(x, out=x[0]), lambda: pb.relu(x.astype("f4"), out=out)):
            with pytest.raises((TypeError, ValueError, IndexError)):
                bad()
    after = sys.getrefcount(x), sys.getrefcount(out), sys.getrefcount(np.dtype("f8"))
    assert after[:2] == before[:2] and abs(after[2] - before[2]) < 20
