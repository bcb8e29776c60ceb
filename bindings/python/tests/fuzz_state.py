"""Random sequences of what changes the state of a process, against a small model of what that state must be.

Numbers of threads, scopes that are nested and interleaved, exceptions in them, the cache of results, forks, other threads,
environment variables, reloads and second imports, NumPy's error state, warning filters and collections of garbage. After each
step the package says what the model says, what belongs to others (their filters, their error state, the umask, random
generators, ...) is as they set it, and a call gives the bits that it gave at first. `python fuzz_state.py 10000` tries as
many sequences, a second number says which; `make fuzz` runs it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pathlib
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings

import numpy as np

import polyglot_bridge as pb

# More than these count as these.
MOST_THREADS = 256
# Smaller results do not come from the cache.
LARGE = 128 << 10
VARIABLES = ["POLYGLOT_NUM_THREADS", "POLYGLOT_CACHE_MB", "POLYGLOT_SOMETHING"]


class Boom(Exception):
    """What is raised in scopes."""


# --- The model --------------------------------------------------------------------------------------------------------------------


class Scopes:
    """The blocks of `threads` that one thread is in. All that is known of their rules stands here."""

    def __init__(self):
        self.open: list[tuple[int, int]] = []

    @property
    def limit(self):
        """The number of the innermost that is still open; 0 where there is none."""
        return self.open[-1][1] if self.open else 0

    def enter(self, scope, n):
        self.open.append((id(scope), min(n, MOST_THREADS)))

    def leave(self, scope):
        """Removes what entering it last added and nothing else, in any order; False where it was not entered."""
        places = [place for place, (own, _) in enumerate(self.open) if own == id(scope)]
        if places:
            del self.open[places[-1]]
        return bool(places)


def told_by_environment():
    """The number of threads where nobody set one."""
    with contextlib.suppress(KeyError, ValueError):
        given = int(os.environ["POLYGLOT_NUM_THREADS"])
        if 0 < given <= sys.maxsize:
            return min(given, MOST_THREADS)
    return None


class Cache:
    """Freed results, the longest unused first."""

    def __init__(self, info):
        assert info["buffers"] == 0
        self.limit, self.hits, self.misses, self.sizes = info["limit"], info["hits"], info["misses"], []

    @staticmethod
    def size_of(nbytes):
        unit = max((1 << (nbytes.bit_length() - 1)) // 8, 4096)
        return -(-nbytes // unit) * unit

    def take(self, nbytes):
        size = self.size_of(nbytes)
        if size in self.sizes:
            self.hits += 1
            del self.sizes[len(self.sizes) - 1 - self.sizes[::-1].index(size)]
        else:
            self.misses += 1

    def give(self, nbytes):
        size = self.size_of(nbytes)
        if size <= self.limit:
            self.shrink(self.limit - size)
            self.sizes.append(size)

    def shrink(self, limit):
        while sum(self.sizes) > limit:
            del self.sizes[0]

    def info(self):
        return {"buffers": len(self.sizes), "bytes": sum(self.sizes), "limit": self.limit, "hits": self.hits, "misses": self.misses}


# --- Calls whose bits are known ---------------------------------------------------------------------------------------------------


def make_calls():
    generator = np.random.default_rng(0)

    def normal(*shape, dtype=np.float32):
        return generator.standard_normal(shape).astype(dtype)

    x, w, odd = normal(64, 300), normal(300, 200), normal(5, 7, dtype=np.float64)
    odd[1, 2], odd[2, 3], odd[3] = np.nan, np.inf, [1e308] * 7
    half, long = normal(40, 33, dtype=np.float16), normal(1200, 500)
    layer, key = pb.Linear(normal(48, 40), activation="gelu"), normal(300, 16)
    stack, rows = pb.Sequential([layer, "softmax"]), normal(70, 48)
    calls = [
        lambda: pb.softmax(odd), lambda: pb.layer_norm(odd), lambda: pb.mean_pool(odd), lambda: pb.relu(half[:, ::2]),
        lambda: pb.linear(x, w, activation="gelu"), lambda: pb.attention(key, key, key, causal=True), lambda: layer(rows),
        lambda: stack(rows), lambda: np.array(pb.sum_of_squares_numpy(long)), lambda: pb.embedding([3, 1], x),
        lambda: pb.scale(odd, 1e308), lambda: pb.explain(pb.softmax, odd).value, lambda: pickle.loads(pickle.dumps(stack))(rows),
    ]
    return [(call, call().tobytes()) for call in calls]


# --- What belongs to others -------------------------------------------------------------------------------------------------------


def foreign():
    """State that no call may change."""
    umask = os.umask(0o22)
    os.umask(umask)
    return {
        "umask": umask, "errors": np.geterr(), "errcall": np.geterrcall(), "filters": list(warnings.filters),
        "environment": os.environ._data.copy(), "random": random.getstate(), "numpy.random": np.random.get_state()[1].tobytes(), "folder": os.getcwd(),
        "gc": (gc.isenabled(), gc.get_threshold()), "recursion": sys.getrecursionlimit(), "switch": sys.getswitchinterval(),
        "stack": threading.stack_size(), "signals": signal.getsignal(signal.SIGINT), "path": list(sys.path), "print": np.get_printoptions()["precision"],
    }


def watches():
    """What the package left in the way imports go, to wait for threadpoolctl."""
    return sum(type(finder).__module__ == "polyglot_bridge" for finder in sys.meta_path)


# --- One sequence -----------------------------------------------------------------------------------------------------------------


class Sequence:
    """A random sequence and the model of its process."""

    def __init__(self, chance, calls, default, folder, done):
        self.chance, self.calls, self.folder, self.done = chance, calls, folder, done
        # Where the number comes from if nobody set one; after a fork it may be asked for again.
        self.defaults, self.call = {default}, None
        # Objects of `threads`, and those among them that a `with` block will leave itself.
        self.scopes, self.objects, self.held = Scopes(), [], []
        pb.clear_cache()
        self.cache, self.kept = Cache(pb.cache_info()), []
        self.depth = self.forks = 0

    def run(self, steps):
        for _ in range(steps):
            step = self.chance.choice(STEPS)
            self.done[step.__name__] = self.done.get(step.__name__, 0) + 1
            before = foreign() if step in OWN else None
            step(self)
            self.check(before)

    def allowed(self):
        """The numbers of threads that may hold here."""
        if self.scopes.limit or self.call:
            return {self.scopes.limit or self.call}
        return self.defaults

    def check(self, before=None):
        before = before or foreign()
        call, expected = self.chance.choice(self.calls)
        assert call().tobytes() == expected, "other bits"
        assert pb.get_num_threads() in self.allowed(), (pb.get_num_threads(), self.allowed())
        info = pb._core._info()
        assert info["threads"] in self.allowed()
        source = "scope" if self.scopes.limit else "call" if self.call else info["threads_from"]
        assert info["threads_from"] == source, (info["threads_from"], source)
        assert pb.cache_info() == self.cache.info() == info["cache"], (pb.cache_info(), self.cache.info())
        after = foreign()
        assert after == before, [(name, before[name], after[name]) for name in after if after[name] != before[name]]
        assert watches() <= 1

    def ask_again(self):
        """A forked child looks the number up once more, when it first needs threads."""
        self.defaults = self.defaults | {told_by_environment() or cores()}

    # Steps of the package's own.

    def set_number(self):
        n = self.chance.choice([1, 2, 3, 4, 5, True, np.int64(2), None])
        pb.set_num_threads(n)
        self.call = None if n is None else int(n)

    def set_large_number(self):
        pb.set_num_threads(self.chance.choice([MOST_THREADS, MOST_THREADS + 1, 2**40]))
        assert self.scopes.limit or pb.get_num_threads() == MOST_THREADS
        pb.set_num_threads(self.call)

    def refuse_number(self):
        n, error = self.chance.choice([(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError), (2**80, ValueError), ([], TypeError)])
        for function in (pb.set_num_threads, pb.threads):
            try:
                function(n)
            except error:
                continue
            raise AssertionError(f"{function} took {n}")

    def scope(self):
        """A scope with steps in it, that an exception may end."""
        if self.depth > 3:
            return
        n = self.chance.choice([1, 2, 3, 5])
        fails = self.chance.random() < 0.4
        scope = self.chance.choice([*self.objects, None]) if self.chance.random() < 0.3 else None
        scope, n = scope or (pb.threads(n), n)
        caught = False
        self.depth += 1
        self.held.append(scope)
        try:
            with scope as entered:
                assert entered is scope
                self.scopes.enter(scope, n)
                self.check()
                self.run(self.chance.randrange(4))
                if fails:
                    raise self.chance.choice([Boom, KeyboardInterrupt, MemoryError, StopIteration])("in a scope")
        except (Boom, KeyboardInterrupt, MemoryError, StopIteration) as error:
            assert error.args == ("in a scope",), error
            caught = True
        assert caught == fails
        assert self.scopes.leave(scope)
        self.held.remove(scope)
        self.depth -= 1

    def enter(self):
        """A scope that is left at any time."""
        if not self.objects or self.chance.random() < 0.6:
            n = self.chance.choice([1, 2, 3, 4, 6])
            self.objects.append((pb.threads(n), n))
        scope, n = self.chance.choice(self.objects)
        scope.__enter__()
        self.scopes.enter(scope, n)

    def leave(self):
        if not self.objects:
            return
        scope, _ = self.chance.choice(self.objects)
        if scope in self.held:
            return
        if self.scopes.leave(scope):
            error = Boom() if self.chance.random() < 0.3 else None
            assert not scope.__exit__(type(error) if error else None, error, None)
            return
        try:
            scope.__exit__(None, None, None)
        except RuntimeError as error:
            assert "without having been entered" in str(error)
        else:
            raise AssertionError("left without having been entered")

    def failing_call(self):
        wrong = [lambda: pb.softmax(np.ones(3), axis=7), lambda: pb.linear(np.ones((2, 3)), np.ones((2, 3))), lambda: pb.relu("a"),
                 lambda: pb.embedding([9], np.ones((2, 2))), lambda: pb.load_file(self.folder / "none"), lambda: pb.explain(lambda: 1 / 0)]
        with contextlib.suppress(TypeError, ValueError, OSError, ZeroDivisionError):
            self.chance.choice(wrong)()
            raise AssertionError("no error")

    def set_limit(self):
        limit = self.chance.choice([0, 1, LARGE, 300_000, 1 << 20, 256 << 20, 2**80])
        pb.set_cache_limit(limit)
        self.cache.limit = min(limit, sys.maxsize * 2)
        self.cache.shrink(self.cache.limit)

    def refuse_limit(self):
        limit, error = self.chance.choice([(-1, ValueError), (-(2**80), ValueError), ("1", TypeError), (1.0, TypeError), (None, TypeError)])
        try:
            pb.set_cache_limit(limit)
        except error:
            return
        raise AssertionError(f"took {limit}")

    def clear(self):
        pb.clear_cache()
        self.cache.shrink(0)

    def large_result(self):
        x = np.full(self.chance.choice([LARGE // 4, 33_000, 40_000, 65_536, 65_537, 150_000]), 2.5, np.float32)
        result = pb.relu(x)
        assert (result == x).all()
        self.cache.take(x.nbytes)
        self.kept.append(result)

    def free_result(self):
        if self.kept:
            self.cache.give(self.kept.pop(self.chance.randrange(len(self.kept))).nbytes)

    def free_by_collection(self):
        """A result that only the collector finds."""
        was = gc.isenabled()
        gc.disable()
        x = np.full(50_000, -1.0, np.float32)
        result, loop = pb.relu(x), []
        self.cache.take(x.nbytes)
        loop += [loop, result]
        del result, loop
        assert pb.cache_info() == self.cache.info()
        gc.collect()
        self.cache.give(x.nbytes)
        if was:
            gc.enable()

    def save_and_load(self):
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        pb.save_file({"x": x}, self.folder / "file")
        assert pb.load_file(self.folder / "file", mmap=self.chance.random() < 0.5)["x"].tobytes() == x.tobytes()

    def convert(self):
        state = {"0.weight": np.eye(3, dtype=np.float32), "1.weight": np.ones((2, 3), np.float32)}
        assert pb.Sequential.from_torch(state, activation="relu")(np.ones((1, 3), np.float32)).tolist() == [[3.0, 3.0]]

    # Steps of others.

    def environment(self):
        name = self.chance.choice(VARIABLES)
        if self.chance.random() < 0.3:
            os.environ.pop(name, None)
        else:
            os.environ[name] = self.chance.choice(["1", "3", "7", "0", "-2", "x", "", " 2 ", "9" * 30])
        if self.forks:
            self.ask_again()

    def errors(self):
        np.seterr(**{kind: self.chance.choice(["ignore", "warn", "raise", "call"]) for kind in ("divide", "over", "under", "invalid")})
        np.seterrcall(self.chance.choice([None, print_nothing]))

    def error_state(self):
        before = np.geterr()
        with np.errstate(all=self.chance.choice(["raise", "ignore", "warn"])):
            self.check()
        assert np.geterr() == before

    def filters(self):
        self.chance.choice([
            lambda: warnings.simplefilter("error"), lambda: warnings.simplefilter("ignore"), warnings.resetwarnings,
            lambda: warnings.filterwarnings("error", category=RuntimeWarning), lambda: warnings.simplefilter("always"),
        ])()

    def recorded_warnings(self):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            self.check()
        assert not seen, [str(one.message) for one in seen]

    def garbage(self):
        self.chance.choice([gc.collect, gc.enable, gc.disable, lambda: gc.set_threshold(self.chance.choice([50, 700]))])()

    def seeds(self):
        random.seed(self.chance.randrange(99))
        np.random.seed(self.chance.randrange(99))

    def umask(self):
        os.umask(self.chance.choice([0, 0o22, 0o77]))

    def reload(self):
        """The module's code runs again: the functions are the same, and so is the state."""
        before = pb.softmax
        assert importlib.reload(pb) is pb and pb.softmax is before

    def second_import(self):
        """Someone drops the package from the list of modules and imports it anew: it has the same state."""
        own = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "polyglot_bridge"}
        for name in own:
            if name != "polyglot_bridge._core" or self.chance.random() < 0.5:
                del sys.modules[name]
        try:
            other = importlib.import_module("polyglot_bridge")
            assert other is not pb and other.get_num_threads() in self.allowed()
            assert other.cache_info() == self.cache.info()
            # A layer of the one package is a layer of the other.
            assert other.Sequential([pb.Linear(np.ones((2, 2)))])(np.ones((1, 2))).tolist() == [[2.0, 2.0]]
        finally:
            for name in [name for name in sys.modules if name.split(".")[0] == "polyglot_bridge"]:
                del sys.modules[name]
            sys.modules.update(own)

    def other_thread(self):
        """It is in no scope, whatever scopes this one is in; what it sets for the process holds here too."""
        n, wrong = self.chance.choice([0, 1, 2, 3]), []

        def work():
            try:
                here = Sequence.__new__(Sequence)
                here.__dict__.update(self.__dict__, scopes=Scopes(), objects=[], held=[], chance=random.Random(n))
                here.check()
                if n:
                    pb.set_num_threads(n)
                    here.call = n
                with pb.threads(4) as scope:
                    here.scopes.enter(scope, 4)
                    here.check()
                    here.scopes.leave(scope)
                here.check()
            except BaseException:
                wrong.append(traceback.format_exc())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert not wrong, wrong[0]
        self.call = n or self.call

    def fork(self):
        """The child has the state of its parent, and changes none of the parent's."""
        if not hasattr(os, "fork") or self.forks:
            return
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            child = os.fork()
        if child == 0:
            try:
                self.forks += 1
                self.ask_again()
                self.check()
                self.run(self.chance.randrange(6))
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(9)
        end = time.monotonic() + 60
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise AssertionError("a forked child hangs")
            time.sleep(0.0005)
        assert ended[1] == 0, f"a forked child ended with {ended[1]}"
        self.chance.random()

    def restore(self):
        """Ends what is open, and undoes what others set."""
        for scope, _ in self.objects:
            while self.scopes.leave(scope):
                scope.__exit__(None, None, None)
        self.check()
        while self.kept:
            self.free_result()
        self.check()
        pb.set_num_threads(None)


def print_nothing(kind, flag):
    """What NumPy may call."""
    raise AssertionError("NumPy saw an error")


OWN = {Sequence.set_number, Sequence.set_large_number, Sequence.refuse_number, Sequence.enter, Sequence.leave, Sequence.failing_call,
       Sequence.set_limit, Sequence.refuse_limit, Sequence.clear, Sequence.large_result, Sequence.free_result, Sequence.free_by_collection,
       Sequence.save_and_load, Sequence.convert, Sequence.second_import, Sequence.other_thread, Sequence.reload, Sequence.error_state,
       Sequence.recorded_warnings, Sequence.fork}
SLOW = {Sequence.fork, Sequence.free_by_collection, Sequence.second_import, Sequence.save_and_load}
STEPS = [*sorted(OWN, key=lambda step: step.__name__), *sorted(OWN - SLOW, key=lambda step: step.__name__) * 2,
         *[Sequence.enter, Sequence.leave, Sequence.large_result, Sequence.free_result] * 3, Sequence.scope, Sequence.scope, Sequence.scope, Sequence.scope, Sequence.environment, Sequence.errors, Sequence.filters, Sequence.garbage, Sequence.seeds, Sequence.umask]


def cores():
    """The number of threads of a process to which nobody gave one."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    if not _CORES:
        code = "import polyglot_bridge as pb; print(pb.get_num_threads())"
        _CORES.append(int(subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout))
    return _CORES[0]


_CORES: list[int] = []

FRESH = """
import polyglot_bridge as pb
print(pb.get_num_threads(), pb._core._info()["threads_from"], pb.cache_info()["limit"])
"""


def fresh_process(chance):
    """What the environment says when a process begins."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    threads = chance.choice([None, "1", "3", " 5 ", "0", "-1", "x", "", "1.5", "1000", "9" * 30])
    limit = chance.choice([None, "0", "7", " 8", "-1", "x", "9" * 30])
    for name, value in (("POLYGLOT_NUM_THREADS", threads), ("POLYGLOT_CACHE_MB", limit)):
        if value is not None:
            environment[name] = value
    found = subprocess.run([sys.executable, "-c", FRESH], env=environment, capture_output=True, text=True, check=True, timeout=120).stdout.split()
    known = {"1": 1, "3": 3, " 5 ": 5, "1000": MOST_THREADS}
    expected = [str(known[threads]), "environment"] if threads in known else [str(cores()), "default"]
    expected.append(str({"0": 0, "7": 7 << 20, " 8": 8 << 20}.get(limit, 256 << 20)))
    assert found == expected, (threads, limit, found, expected)


def one(chance, calls, default, folder, done):
    """A sequence in a thread of its own, which is in no scope when it begins."""
    wrong: list[BaseException] = []

    def work():
        sequence = Sequence(chance, calls, default, folder, done)
        try:
            sequence.run(chance.randrange(1, 25))
            sequence.restore()
        except BaseException as error:
            wrong.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if wrong:
        raise wrong[0]


def run(count, seed):
    """Tries sequences; returns how often each step came."""
    done: dict[str, int] = {}
    calls, default = make_calls(), pb.get_num_threads()
    assert default == (told_by_environment() or cores())
    cores()
    state = foreign()
    # Collections then go over what sequences make alone.
    gc.collect()
    gc.freeze()
    environment = dict(os.environ)
    finders = list(sys.meta_path)
    threshold = gc.get_threshold()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            chance = random.Random(f"{seed}.{number}")
            try:
                with warnings.catch_warnings(), np.errstate():
                    warnings.simplefilter("ignore")
                    one(chance, calls, default, pathlib.Path(folder), done)
                    if number % 500 == 0:
                        fresh_process(chance)
            except BaseException:
                print(f"case {number} of seed {seed}", file=sys.stderr)
                raise
            finally:
                pb.set_num_threads(None)
                pb.set_cache_limit(256 << 20)
                os.umask(state["umask"])
                os.environ.clear()
                os.environ.update(environment)
                gc.enable()
                gc.set_threshold(*threshold)
                np.seterr(**state["errors"])
                np.seterrcall(None)
    assert [type(finder).__name__ for finder in sys.meta_path] == [type(finder).__name__ for finder in finders]
    return done


def main(count=10_000, seed=None):
    seed = random.randrange(2**32) if seed is None else seed
    begin = time.perf_counter()
    done = run(count, seed)
    counts = ", ".join(f"{number} {step}" for step, number in sorted(done.items()))
    print(f"state: {count} sequences of seed {seed}: {counts}, in {time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
