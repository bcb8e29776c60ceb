"""Threads and processes: limits, the GIL, many callers at once, forked and spawned children."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
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


NUMBERS = [
    # POLYGLOT_NUM_THREADS, OMP_NUM_THREADS, the number (None: of cores), and what `python -m polyglot_bridge` says.
    ("3", None, 3, "3, from POLYGLOT_NUM_THREADS=3"),
    ("3", "7", 3, "3, from POLYGLOT_NUM_THREADS=3"),
    (None, "7", 7, "7, from OMP_NUM_THREADS=7"),
    (None, "4,3,2", 4, "4, from OMP_NUM_THREADS=4,3,2"),
    (None, " 5 , 2", 5, "5, from OMP_NUM_THREADS="),
    ("abc", "2", 2, "2, from OMP_NUM_THREADS=2; POLYGLOT_NUM_THREADS='abc' is no positive number"),
    ("0", None, None, "POLYGLOT_NUM_THREADS='0' is no positive number"),
    ("-3", None, None, "POLYGLOT_NUM_THREADS='-3' is no positive number"),
    ("", "", None, "OMP_NUM_THREADS='' does not begin with a positive number"),
    (None, "many", None, "OMP_NUM_THREADS='many' does not begin with a positive number"),
    (None, "0", None, "OMP_NUM_THREADS='0' does not begin with a positive number"),
    ("1000000000", None, 256, "256, from POLYGLOT_NUM_THREADS=1000000000; more than 256 count as 256"),
    (None, "1000000000", 256, "256, from OMP_NUM_THREADS=1000000000; more than 256 count as 256"),
    (None, None, None, "cores that the affinity mask and the cgroup quota leave to this process"),
]


@pytest.mark.parametrize(("ours", "openmp", "number", "said"), NUMBERS)
def test_where_the_number_comes_from(ours, openmp, number, said):
    given = {"POLYGLOT_NUM_THREADS": ours, "OMP_NUM_THREADS": openmp}
    environment = {name: value for name, value in os.environ.items() if name not in given}
    environment.update({name: value for name, value in given.items() if value is not None})
    code = "import sys; from polyglot_bridge.__main__ import describe; import polyglot_bridge as pb; print(pb.get_num_threads()); print(describe())"
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    first, *lines = result.stdout.splitlines()
    (line,) = (line for line in lines if line.startswith("threads"))
    assert said in line, line
    if number is not None:
        assert int(first) == number


def test_scopes_of_tasks_that_take_turns():
    seen = []

    async def task(n, first, second):
        with pb.threads(n):
            seen.append((n, pb.get_num_threads()))
            await asyncio.sleep(first)
            seen.append((n, pb.get_num_threads()))
            with pb.threads(n + 10):
                await asyncio.sleep(second)
                seen.append((n + 10, pb.get_num_threads()))
            await asyncio.sleep(0)
            seen.append((n, pb.get_num_threads()))

    async def both():
        default = pb.get_num_threads()
        await asyncio.gather(task(3, 0.02, 0.05), task(7, 0.04, 0.01), task(5, 0.0, 0.07))
        assert pb.get_num_threads() == default

    default = pb.get_num_threads()
    asyncio.run(both())
    assert len(seen) == 12 and all(n == number for n, number in seen), seen
    assert pb.get_num_threads() == default


def test_a_task_inherits_a_scope_until_that_is_left():
    async def inner(left):
        inherited = pb.get_num_threads()
        await left.wait()
        return inherited, pb.get_num_threads()

    async def outer():
        default, left = pb.get_num_threads(), asyncio.Event()
        with pb.threads(9):
            task = asyncio.create_task(inner(left))
            await asyncio.sleep(0)
        left.set()
        assert await task == (9, default)
        assert pb.get_num_threads() == default

    asyncio.run(outer())


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_scopes_end_in_any_order(order):
    default = pb.get_num_threads()
    scopes = [pb.threads(11 + i) for i in range(3)]
    for scope in scopes:
        scope.__enter__()
    still = {0, 1, 2}
    for i in order:
        assert pb.get_num_threads() == 11 + max(still)
        scopes[i].__exit__(None, None, None)
        still.discard(i)
    assert pb.get_num_threads() == default
    with pytest.raises(RuntimeError):
        scopes[0].__exit__(None, None, None)
    assert pb.get_num_threads() == default


def test_a_generator_lends_its_limit_and_takes_it_back():
    def limited(n):
        with pb.threads(n):
            while True:
                yield pb.get_num_threads()

    default = pb.get_num_threads()
    first, second = limited(6), limited(8)
    assert next(first) == 6
    assert pb.get_num_threads() == 6
    assert next(second) == 8
    # Closed late, within another block, and not in the order in which they began.
    with pb.threads(2):
        first.close()
        assert pb.get_num_threads() == 2
    assert pb.get_num_threads() == 8
    second.close()
    assert pb.get_num_threads() == default
    # Closed on another thread, and by the collector.
    third = limited(4)
    assert next(third) == 4
    thread = threading.Thread(target=third.close)
    thread.start()
    thread.join()
    assert pb.get_num_threads() == default
    fourth = limited(4)
    next(fourth)
    del fourth
    gc.collect()
    assert pb.get_num_threads() == default


def test_two_threads_share_an_object():
    default, shared, seen = pb.get_num_threads(), pb.threads(13), []
    steps = threading.Barrier(2)

    def work(turn):
        steps.wait()
        if turn:
            steps.wait()
        with shared:
            seen.append(pb.get_num_threads())
            if not turn:
                steps.wait()
            steps.wait()
            if turn:
                time.sleep(0.02)
            with pb.threads(3 + turn):
                seen.append(pb.get_num_threads() - turn)
            seen.append(pb.get_num_threads())
        seen.append(pb.get_num_threads())

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == sorted([13, 3, 13, default] * 2)
    assert pb.get_num_threads() == default
    with pytest.raises(RuntimeError):
        shared.__exit__(None, None, None)


def test_a_scope_limits_the_call_itself():
    x = np.ones((500, 500), np.float32)
    with pb.threads(1):
        assert "the calling thread alone" in str(pb.explain(pb.softmax, x))
    with pb.threads(5):
        assert "up to 5, for" in str(pb.explain(pb.softmax, x))


def test_many_scopes_in_one_another():
    default = pb.get_num_threads()
    with contextlib.ExitStack() as stack:
        for n in range(1, 2000):
            stack.enter_context(pb.threads(n))
            assert pb.get_num_threads() == min(n, 256)
    assert pb.get_num_threads() == default


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads through /proc")
def test_the_pool_is_made_on_first_use_and_grows():
    code = """
import os, numpy as np, polyglot_bridge as pb
count = lambda: len(os.listdir('/proc/self/task'))
x = np.ones((600, 600), np.float32)
begin = count()
with pb.threads(1):
    pb.gelu(x)
pb.gelu(x[:2])
assert count() == begin, count()
for n in (4, 2, 9, 6):
    pb.set_num_threads(n)
    for _ in range(20):
        pb.gelu(x)
    print(count() - begin)
names = {open(f'/proc/self/task/{task}/comm').read().strip() for task in os.listdir('/proc/self/task')}
print(sum(name.startswith('polyglot-') for name in names))
"""
    four, two, nine, six, names = map(int, python(code, OPENBLAS_NUM_THREADS="1").split())
    assert four == two == 3 and nine == six == names == 8


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
@pytest.mark.skipif("POLYGLOT_SANITIZER" in os.environ, reason="a sanitizer takes address space of its own")
def test_threads_that_the_system_refuses():
    code = """
import os, resource, numpy as np, polyglot_bridge as pb
x = np.ones((600, 600), np.float32)
with pb.threads(1):
    expected, out = pb.gelu(x), np.zeros_like(x)
pages = int(open('/proc/self/statm').read().split()[0])
# Room for memory, and for no stack.
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + (1 << 20), -1))
pb.set_num_threads(6)
for _ in range(50):
    assert (pb.gelu(x, out=out) == expected).all()
print(len(os.listdir('/proc/self/task')))
"""
    assert python(code, OPENBLAS_NUM_THREADS="1") == "1"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_helpers_of_its_own():
    """And its child has, and the number is looked up anew."""
    code = """
import os, sys, time, numpy as np, polyglot_bridge as pb
x = np.ones((600, 600), np.float32)
pb.set_num_threads(3)
expected = pb.gelu(x).tobytes()
count = lambda: len(os.listdir('/proc/self/task')) if os.path.isdir('/proc/self/task') else 3
for generation in range(3):
    child = os.fork()
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    end = time.monotonic() + 20
    while count() < 3 and time.monotonic() < end:
        assert pb.gelu(x).tobytes() == expected
    assert count() >= 3, count()
print('well', flush=True)
"""
    assert python(code, OPENBLAS_NUM_THREADS="1") == "well"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity masks here")
def test_affinity_mask():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import polyglot_bridge as pb; print(pb.get_num_threads())"
    environment = {"POLYGLOT_NUM_THREADS": "", "OMP_NUM_THREADS": ""}
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
