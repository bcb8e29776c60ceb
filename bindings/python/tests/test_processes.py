"""Beside other packages and in other interpreters: threadpoolctl, Ctrl-C, subinterpreters, quotas, import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import normal

import polyglot_bridge as pb


def python(code, **environment):
    result = subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


CONTROL = """
def ours():
    return [info for info in threadpoolctl.threadpool_info() if info["internal_api"] == "polyglot_bridge"]
pb.set_num_threads(5)
(info,) = ours()
assert info["num_threads"] == 5 and info["version"] == pb.__version__ and info["user_api"] == "polyglot_bridge", info
with threadpoolctl.threadpool_limits(2):
    assert pb.get_num_threads() == 2
    with threadpoolctl.threadpool_limits({"polyglot_bridge": 1}):
        assert pb.get_num_threads() == 1
    with threadpoolctl.threadpool_limits(1, user_api="polyglot_bridge"):
        assert pb.get_num_threads() == 1
    assert pb.get_num_threads() == 2
assert pb.get_num_threads() == 5
pb.set_num_threads(4)
assert pb.get_num_threads() == 4
"""


@pytest.mark.parametrize("order", ["polyglot_bridge as pb, threadpoolctl", "threadpoolctl, polyglot_bridge as pb"])
def test_threadpoolctl_sees_and_limits(order):
    pytest.importorskip("threadpoolctl", "3.3")
    assert python(f"import {order}, sys\n{CONTROL}\nprint(1)") == "1"


AGAIN = {
    "found before": "import polyglot_bridge as pb, importlib.util\nassert importlib.util.find_spec('threadpoolctl').origin\nimport threadpoolctl",
    "reloaded": "import polyglot_bridge as pb, threadpoolctl, importlib\nthreadpoolctl = importlib.reload(threadpoolctl)",
    "imported twice": "import polyglot_bridge as pb, threadpoolctl, sys\ndel sys.modules['threadpoolctl']\nimport threadpoolctl",
    "here first, and again": "import threadpoolctl, polyglot_bridge as pb, sys\ndel sys.modules['threadpoolctl']\nimport threadpoolctl",
    "by another hook": """
import sys, importlib.util
from importlib.machinery import PathFinder
class Finder:
    # A loader that is the same object each time, and a finder that asks all others.
    def find_spec(self, name, path=None, target=None):
        if name != 'threadpoolctl':
            return None
        assert importlib.util.find_spec is not None
        for finder in sys.meta_path:
            if finder is not self and finder.find_spec(name, path, target) is None:
                continue
        spec = PathFinder.find_spec(name, path)
        spec.loader = loader
        return spec
class Loader:
    __slots__ = ('runs',)
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        assert module.__spec__.loader is self and module.__loader__ is self
        self.runs += 1
        real = PathFinder.find_spec('threadpoolctl').loader
        exec(real.get_code('threadpoolctl'), module.__dict__)
loader = Loader()
loader.runs = 0
import polyglot_bridge as pb
sys.meta_path.insert(0, Finder())
sys.meta_path.insert(0, sys.meta_path.pop(1))
import threadpoolctl
assert loader.runs == 1 and threadpoolctl.__spec__.loader is loader
""",
}


@pytest.mark.parametrize("way", AGAIN)
def test_threadpoolctl_sees_whichever_way_it_is_imported(way):
    pytest.importorskip("threadpoolctl", "3.3")
    assert python(f"{AGAIN[way]}\n{CONTROL}\nprint(1)") == "1"


def test_the_import_hook_leaves_others_alone():
    code = """
import sys, importlib.util, polyglot_bridge
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == 'threadpoolctl':
            raise ImportError('not here')
sys.meta_path.insert(1, Finder())
for module in ('json.tool', 'email.mime.text'):
    __import__(module)
    assert 'polyglot' not in type(sys.modules[module].__spec__.loader).__module__
try:
    import threadpoolctl
except ImportError as error:
    print(error)
"""
    assert python(code) == "not here"


def test_threadpoolctl_is_not_imported():
    code = "import sys, polyglot_bridge; print('threadpoolctl' in sys.modules, 'ctypes' in sys.modules and 0, 'polyglot_bridge._convert' in sys.modules)"
    assert python(code).split()[0] == "False" and python(code).split()[2] == "False"
    # Where it is not installed, asking for it says so as ever.
    assert python("import sys, polyglot_bridge\nsys.path[:] = [part for part in sys.path if 'packages' not in part]\ntry:\n    import threadpoolctl\nexcept ModuleNotFoundError as error:\n    print(error.name)") == "threadpoolctl"


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as POSIX does")
@pytest.mark.parametrize("module", ["numpy", "polyglot_bridge"])
def test_ctrl_c_in_a_long_call(module):
    """As in NumPy: the call is finished, then comes the KeyboardInterrupt."""
    code = f"""
import os, signal, threading, time, numpy as np, {module} as module
# A shell starts what runs in the background with the signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
x, out = np.ones((1500, 1500)), np.zeros((1500, 1500))
try:
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    while True:
        module.matmul(x, x, out=out)
except KeyboardInterrupt:
    assert out[0, 0] in (0, 1500) and (out == out[0, 0]).all()
    print("interrupted", float(module.matmul(x, x)[0, 0]))
"""
    assert python(code) == "interrupted 1500.0"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="subinterpreters with a GIL of their own are new in 3.12")
def test_a_subinterpreter_gets_an_import_error():
    code = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
identity = interpreters.create()
result = interpreters.run_string(identity, '''
import sys
sys.modules['numpy'] = None
try:
    import polyglot_bridge._core
except ImportError as error:
    print('ImportError', error)
''')
assert result is None, result
"""
    assert python(code).startswith("ImportError")


def test_a_cgroup_quota_or_the_affinity_mask_is_the_default():
    environment = {name: value for name, value in os.environ.items() if name != "POLYGLOT_NUM_THREADS"}
    result = subprocess.run([sys.executable, "-c", "import polyglot_bridge as pb; print(pb.get_num_threads())"], env=environment, capture_output=True, text=True, timeout=60)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        if quota != "max":
            allowed = min(allowed, max(1, int(quota) // int(period)))
    except OSError:
        pass
    assert 1 <= int(result.stdout) <= allowed


def test_many_threads_and_sizes_at_once():
    """Large and small calls from more threads than there are cores, results checked bit for bit."""
    random = np.random.default_rng(0)
    cases = []
    layer = pb.Linear(normal((96, 80), np.float32), normal(80, np.float32), activation="gelu")
    network = pb.Sequential([layer, "softmax"])
    for rows in (1, 7, 300):
        x = random.standard_normal((rows, 96), np.float32)
        for f in (pb.softmax, pb.layer_norm, pb.gelu, layer, network):
            cases.append((f, x, f(x).tobytes()))
    stop, failures, done = time.monotonic() + 2.0, [], []

    def work(seed):
        order = np.random.default_rng(seed)
        while time.monotonic() < stop and not failures:
            f, x, expected = cases[order.integers(len(cases))]
            with pb.threads(int(order.integers(1, 5))):
                if f(x).tobytes() != expected:
                    failures.append(f)
            done.append(1)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert not failures and len(done) > 100


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads through /proc")
def test_callers_at_once_do_not_multiply_threads():
    code = """
import os, numpy as np, polyglot_bridge as pb
from concurrent.futures import ThreadPoolExecutor
x = np.ones((800, 800), np.float32)
pb.set_num_threads(4)
before = len(os.listdir('/proc/self/task'))
most = 0
def work(_):
    global most
    pb.softmax(x)
    most = max(most, len(os.listdir('/proc/self/task')))
with ThreadPoolExecutor(8) as pool:
    list(pool.map(work, range(100)))
print(most - before)
"""
    assert int(python(code, OPENBLAS_NUM_THREADS="1")) <= 8 + 3


def test_import_is_quick():
    """No figure of the machine's is asked for, only that next to nothing is imported beside NumPy."""
    code = "import sys, numpy; before = set(sys.modules); import polyglot_bridge; print(*sorted(set(sys.modules) - before))"
    new = python(code).split()
    assert set(new) <= {"polyglot_bridge", "polyglot_bridge._core"}, new


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="POSIX")
def test_a_signal_handler_may_call_the_package():
    results = []
    before = signal.signal(signal.SIGALRM, lambda *_: results.append(float(pb.softmax(np.ones(4))[0])))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        end = time.monotonic() + 0.3
        x = np.ones((400, 400), np.float32)
        while time.monotonic() < end:
            pb.matmul(x, x)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert results and set(results) == {0.25}


def test_threads_that_end_while_calls_are_under_way():
    x = np.ones((300, 300), np.float32)
    expected = pb.softmax(x).tobytes()
    for _ in range(30):
        threads = [threading.Thread(target=pb.softmax, args=(x,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        assert pb.softmax(x).tobytes() == expected
        for thread in threads:
            thread.join()
