"""Every public function with arguments that change arrays, raise or call back while they are looked at, with threads that do so
meanwhile, and with memory that runs out: a call answers as if nothing had happened, or raises; it never ends the process.

Cases come from numbers. `python test_fuzz_hostile.py NAME FIRST COUNT SECONDS` tries the cases of a function from FIRST on, and says
which one was under way when the process ended.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import itertools
import os
import pathlib
import platform
import random
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import hostile
import numpy as np
import pytest
from conftest import BFLOAT16, DTYPES

import polyglot_bridge as pb

# How many cases each function gets; `make fuzz` sets how long all of them take together.
CASES = 10 * int(os.environ.get("POLYGLOT_FUZZ_EXAMPLES", "20"))
SECONDS = float(os.environ.get("POLYGLOT_FUZZ_SECONDS", "0"))
# Other cases in each long run; what fails names its number.
FIRST = int(os.environ.get("POLYGLOT_FUZZ_FIRST", int(time.time()) if SECONDS else 0))
SANITIZED = bool(os.environ.get("POLYGLOT_SANITIZER"))
HERE = pathlib.Path(__file__).parent

# --- what is called ---------------------------------------------------------------------------------------------------------------

# These would write, or open, files of any name.
FILES = {"load_file", "save_file", "load", "save"}


@functools.cache
def instances() -> dict[str, list[Any]]:
    """Objects of each class of the package."""
    weight = np.linspace(-1, 1, 12).reshape(3, 4)
    layers = [pb.Linear(weight.astype(dtype), np.ones(4, dtype), activation="gelu") for dtype in DTYPES]
    stacks = [pb.Sequential([layer, "layer_norm", pb.Linear(weight.T.astype(dtype)), "softmax"]) for dtype, layer in zip(DTYPES, layers)]
    operations = [pb.RowOperation("relu"), pb.RowOperation("softmax"), pb.RowOperation("layer_norm", np.ones(3)),
                  pb.RowOperation("rms_norm", np.ones(4, np.float32))]
    return {"Linear": layers, "Sequential": stacks, "RowOperation": operations, "threads": [pb.threads(2)]}


def _parameters(function: Any) -> list[inspect.Parameter]:
    return [p for p in inspect.signature(function).parameters.values() if p.name != "self" and p.kind is not p.VAR_POSITIONAL]


def _find() -> dict[str, Callable[[random.Random], Any]]:
    """All that is public and may be called, found by name, so that what is new is tried too: what makes the callable."""
    found: dict[str, Callable[[random.Random], Any]] = {}
    for name in sorted({name for name in dir(pb) if not name.startswith("_")} & set(pb.__all__) - FILES):
        value = getattr(pb, name)
        if not callable(value):
            continue
        found[name] = lambda random, value=value: value
        for method in dir(value) if isinstance(value, type) else ():
            own = inspect.getattr_static(value, method)
            public = not method.startswith("_") or method in ("__call__", "__getitem__", "__len__")
            if method in FILES or not public or not callable(getattr(value, method)) or name == "Explanation":
                continue
            if isinstance(own, classmethod) or inspect.isbuiltin(getattr(value, method)):
                found[f"{name}.{method}"] = lambda random, value=value, method=method: getattr(value, method)
            elif method in vars(value):
                found[f"{name}.{method}"] = lambda random, name=name, method=method: getattr(random.choice(instances()[name]), method)
    return {name: make for name, make in found.items() if _has_signature(make(random.Random(0)))}


def _has_signature(function: Any) -> bool:
    try:
        return bool(_parameters(function))
    except ValueError:
        return False


FUNCTIONS = _find()
# Python code that calls others: it may see an array again after it has changed, and answer for that.
IN_PYTHON = {"Linear.from_torch", "Sequential.from_torch", "Sequential.from_sklearn", "from_sklearn", "explain", "Explanation"}

# --- arguments --------------------------------------------------------------------------------------------------------------------

EXTENTS = [0, 1, 2, 3, 3, 4, 4, 5, 7, 8, 15, 16, 17, 33, 65]
ACTIVATIONS = [None, "relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh"]


class Raised(Exception):
    """What hostile objects raise."""


class Arguments:
    """The arguments of one case, made from its number alone, so that they can be made again."""

    def __init__(self, name: str, number: int):
        self.name = name
        self.random = random.Random(f"{name} {number}")
        self.function = FUNCTIONS[name](self.random)
        self.dtype = self.random.choice(DTYPES * 3 + [np.dtype("i4"), np.dtype("?")])
        n, k, m = (self.random.choice(EXTENTS) for _ in range(3))
        if self.random.random() < 0.1:
            n = 3000
        owner = getattr(self.function, "__self__", None)
        if isinstance(owner, (pb.Linear, pb.Sequential)):
            k, m = owner.in_features, owner.out_features
            self.dtype = np.dtype(getattr(owner, "dtype", None) or owner.dtypes[0])
        self.sizes = n, k, m
        # Victims: arrays that nothing hides.
        self.plain: list[np.ndarray] = []
        self.hidden: list[Any] = []

    def array(self, shape, dtype=None):
        dtype = np.dtype(self.dtype if dtype is None else dtype)
        values = np.random.default_rng(self.random.randrange(2**32)).integers(-3, 4, shape)
        if dtype.kind in "iu":
            values = abs(values)
        order = self.random.choice(["c", "c", "c", "f", "steps", "apart", "odd", "swapped"])
        array = np.ascontiguousarray(values).astype(dtype).reshape(shape)
        if order == "f":
            array = np.array(array, order="F")
        elif order == "steps" and array.ndim:
            room = np.zeros([2 * n for n in shape], dtype)[tuple(slice(None, None, 2) for _ in shape)]
            room[...] = array
            array = room
        elif order == "apart" and array.ndim:
            room = np.zeros([*shape[:-1], shape[-1] + 3], dtype)[..., 1 : 1 + shape[-1]]
            room[...] = array
            array = room
        elif order == "odd":
            room = np.zeros(array.nbytes + 1, np.uint8)[1:].view(dtype).reshape(shape)
            room[...] = array
            array = room
        elif order == "swapped" and dtype != BFLOAT16:
            array = array.astype(dtype.newbyteorder())
        self.plain.append(array)
        return array

    def value(self, parameter: inspect.Parameter) -> Any:
        """Something that makes sense for a parameter of this name."""
        n, k, m = self.sizes
        pick = self.random.choice
        lead = pick([(), (), (2,), (1, 2)])
        match parameter.name:
            case "axis":
                return pick([-1, -1, 0, 1])
            case "eps" | "factor" | "scale":
                return pick([0.5, 1, 2.0, np.float32(3)])
            case "n":
                return pick([1, 2, 5])
            case "bytes":
                return pick([0, 2**20, 2**28])
            case "activation":
                return pick(ACTIVATIONS)
            case "approximate":
                return pick(["none", "tanh"])
            case "causal" | "mmap":
                return pick([False, True])
            case "dtype":
                return pick([None, "float32", np.float16, np.dtype("f8")])
            case "name" | "operation":
                return pick(["relu", "softmax", "layer_norm", "rms_norm"])
            case "layers":
                return [pick([*instances()["Linear"], *instances()["RowOperation"], "relu", "softmax"]) for _ in range(pick([0, 1, 2]))]
            case "index":
                return pick([0, -1, slice(None), slice(0, 1)])
            case "module":
                return {"weight": self.array((m, k)), "bias": self.array((m,))}
            case "prefix":
                return ""
            case "function" | "f" | "call":
                return pick([pb.relu, pb.softmax, *instances()["Linear"]])
            case "ids":
                return self.array(pick([(n,), (n, 2)]), pick([np.intp, np.intp, np.int32, np.uint8]))
            case "table":
                return self.array((8, k))
            case "mask" | "dropout_mask":
                shape = {"attention": (n, 4), "mean_pool": (*lead, n)}.get(self.name, (n, k))
                return self.array(shape, pick([bool, bool, np.int64, self.dtype]))
            case "weight" if "norm" in self.name or "Row" in self.name:
                return self.array((k,))
            case "weight" | "weights" | "b":
                return self.array((k, m))
            case "bias":
                return self.array((k,) if "norm" in self.name or "Row" in self.name else (m,))
            case "residual":
                return self.array((n, k) if "norm" in self.name or "dropout" in self.name else (n, m))
            case "out":
                shape = (n, m) if any(part in self.name for part in ("inear", "matmul", "Sequential")) else (n, k)
                return self.array(pick([shape, shape, (*lead, k)]))
            case "q":
                return self.array((*lead, n, k))
            case "k":
                return self.array((4, k))
            case "v":
                return self.array((4, m))
            case "numbers" | "data":
                return pick([self.array((n,)), [1.0, 2.0, 3.0][: n + 1]])
            case "x" if self.name == "mean_pool":
                return self.array((*lead, n, k))
            case _:
                return self.array((n, k))

    def make(self) -> tuple[list[Any], dict[str, Any]]:
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for parameter in _parameters(self.function):
            if parameter.default is not parameter.empty and self.random.random() < 0.4:
                continue
            value = self.value(parameter)
            if parameter.kind is parameter.KEYWORD_ONLY or named:
                named[parameter.name] = value
            else:
                positional.append(value)
        return positional, named


# --- what is hostile --------------------------------------------------------------------------------------------------------------


def _anything(value: Any, hook: Callable[[], Any]) -> Any:
    """An object that answers to every protocol with what `value` would."""
    array = functools.partial(np.asarray, value)

    def hooked(answer):
        def method(self, *arguments, **named):
            hook()
            return answer(*arguments, **named)
        return method

    body: dict[str, Any] = {
        "__array__": hooked(lambda dtype=None, copy=None: array()), "__len__": hooked(lambda: len(value)), "__iter__": hooked(lambda: iter(value)),
        "__getitem__": hooked(lambda index: value[index]), "__contains__": hooked(lambda item: item in value), "__bool__": hooked(lambda: bool(value)),
        "__float__": hooked(lambda: float(value)), "__int__": hooked(lambda: int(value)), "__index__": hooked(lambda: value.__index__()),
        "__complex__": hooked(lambda: complex(value)), "__eq__": hooked(lambda other: value == other), "__hash__": hooked(lambda: hash(str(value))),
        "__str__": hooked(lambda: str(value)), "__repr__": hooked(lambda: "Anything()"), "__call__": hooked(lambda *a, **n: value(*a, **n)),
        "__fspath__": hooked(lambda: str(value)), "__del__": hooked(lambda: None), "__buffer__": hooked(lambda flags: memoryview(value)),
        "__dlpack__": hooked(lambda **named: value.__dlpack__(**named)), "__dlpack_device__": hooked(lambda: value.__dlpack_device__()),
        "keys": hooked(lambda: value.keys()), "get": hooked(lambda *a: value.get(*a)), "__lt__": hooked(lambda other: value < other),
        "__array_function__": hooked(lambda *a, **n: NotImplemented), "__array_ufunc__": hooked(lambda *a, **n: NotImplemented),
    }
    for name in ("__array_interface__", "__array_struct__", "dtype", "shape", "ndim", "weight", "bias", "T", "__class__"):
        answer = (lambda: type(value)) if name == "__class__" else lambda name=name: getattr(value, name)
        body[name] = property(hooked(answer))
    # All of them at once are hardly ever what a call asks: some.
    return body


def anything(random, value, hook):
    body = _anything(value, hook)
    kept = {name: body[name] for name in body if random.random() < 0.6 and (hasattr(value, name) or name in ("__del__", "__class__"))}
    return type("Anything", (), {"__hash__": None, **kept})()


def wrapped(random: random.Random, value: Any, hook: Callable[[], Any]) -> Any:
    """An object in place of `value` that runs the hook when it is asked for something."""
    if isinstance(value, dict):
        key = random.choice(list(value))
        return {**value, key: wrapped(random, value[key], hook)}
    if isinstance(value, list) and value and not isinstance(value[0], float):
        return _iterated(value, hook) if random.random() < 0.5 else anything(random, value, hook)
    kind = {np.ndarray: "array", float: "number", int: "axis", bool: "flag", str: "word"}.get(type(value), "array")
    if random.random() < 0.3 or kind == "array" and not isinstance(value, np.ndarray):
        return anything(random, value, hook)
    make = random.choice(list(hostile.OBJECTS[kind].values()))
    if make is hostile.OBJECTS["number"]["__index__"] and value != int(value):
        return anything(random, value, hook)
    try:
        return make(value, hook)
    except (TypeError, ValueError, IndexError):
        # No list of rows of a 0-d array, say.
        return anything(random, value, hook)


def _iterated(value, hook):
    def items():
        for item in value:
            hook()
            yield item
    return items()


class Hook:
    """Does what it was given to do, each when it is called the next time; is quiet while it does."""

    def __init__(self, actions):
        self.actions, self.busy, self.armed = list(actions), False, False

    def __call__(self, *_):
        if not self.armed or self.busy or not self.actions:
            return
        self.busy = True
        try:
            action = self.actions.pop(0)
            with contextlib.suppress(AttributeError, TypeError, ValueError, BufferError, MemoryError):
                action()
        finally:
            self.busy = False


def _raise():
    raise Raised


def action(random: random.Random, victims: list[Any], viewed: list[Any]) -> Callable[[], Any]:
    """Something that a hook does, to a victim mostly; of those that are `viewed` others may have views."""
    kind = random.random()
    if victims and kind < 0.75:
        victim, name = random.choice(victims), random.choice(list(hostile.CHANGES))
        # No view outlives what frees memory. And the smallest may be given the same memory again, with another value in it.
        if name in hostile.FREE_MEMORY and (victim.size <= 1 or any(victim is other for other in viewed)):
            name = "shape of two more dimensions"
        return lambda: hostile.CHANGES[name](victim)
    if victims and kind < 0.85:
        victim, call = random.choice(victims), random.choice([pb.softmax, pb.relu, pb.layer_norm, pb.sum_of_squares_numpy])
        return lambda: call(victim)
    return random.choice([lambda: None, _raise, _raise, gc.collect, pb.clear_cache, lambda: pb.set_cache_limit(2**28), lambda: pb.set_num_threads(3)])


FATAL = ("PanicException", "SystemError")


def outcome(function, positional, named):
    """(an answer, None), or (None, an exception)."""
    try:
        with np.errstate(all="ignore"):
            return function(*positional, **named), None
    except Exception as error:
        if type(error).__name__ in FATAL:
            raise
        return None, error


def same(one, other) -> bool:
    """The same answer: arrays of the same bits, NaNs alike; what is no array is not looked into."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.shape == other.shape and one.dtype == other.dtype and np.array_equal(one.astype("f8"), other.astype("f8"), equal_nan=True)
    if isinstance(one, float) and isinstance(other, float):
        return one == other or one != one and other != other
    return type(one) is type(other)


def try_case(name: str, number: int) -> str:
    """Makes the call as it is, then again with hostile arguments; returns what came of it."""
    arguments = Arguments(name, number)
    # The same again, to be left as it is.
    usual = Arguments(name, number)
    positional, named = usual.make()
    expected, error = outcome(usual.function, positional, named)
    expected = np.array(expected) if isinstance(expected, np.ndarray) else expected
    positional, named = arguments.make()
    choose = random.Random(f"hostile {name} {number}")
    keys: list[Any] = [*range(len(positional)), *named]
    victims = [array for array in arguments.plain if array.ndim or choose.random() < 0.5]
    chosen = choose.sample(keys, min(len(keys), choose.choice([1, 1, 2])))
    for key in chosen:
        value = positional[key] if isinstance(key, int) else named[key]
        # What an object gives out it may change before: that is what it gives.
        arguments.hidden += [part for part in (value.values() if isinstance(value, dict) else [value]) if isinstance(part, np.ndarray)]
    viewed = victims if name in IN_PYTHON else arguments.hidden
    hook = Hook(action(choose, victims, viewed) for _ in range(choose.randrange(1, 4)))
    for key in chosen:
        value = positional[key] if isinstance(key, int) else named[key]
        replaced = wrapped(choose, value, hook)
        if isinstance(key, int):
            positional[key] = replaced
        else:
            named[key] = replaced
    hook.armed = True
    with np.errstate(all="ignore"):
        answer, raised = outcome(arguments.function, positional, named)
    hook.armed = False
    if raised is not None:
        return type(raised).__name__
    exact = not arguments.hidden and name not in IN_PYTHON
    if exact and error is None:
        assert same(answer, expected), f"another answer: {np.array(answer)!r:.300}, not {expected!r:.300}"
    if isinstance(answer, np.ndarray):
        # All of it can be read.
        answer.astype("f8").sum()
    return "answered"


def main(name: str, first: int, count: int, seconds: float) -> None:
    warnings.simplefilter("ignore")
    end = time.monotonic() + seconds if seconds else None
    tally: dict[str, int] = {}
    for number in itertools.count(first):
        if number - first >= count and (end is None or time.monotonic() > end):
            break
        os.write(2, f"\rcase: {name} {number} ".encode())
        try:
            came = try_case(name, number)
        except BaseException as error:
            print(f"\n{name} {number}: {type(error).__name__}: {error}")
            raise
        tally[came] = tally.get(came, 0) + 1
        if number % 64 == 0:
            pb.set_num_threads(None)
            gc.collect()
    print(name, dict(sorted(tally.items())))


def run(code: list[str], timeout: float, **environment: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run([sys.executable, *code], env={**os.environ, "MALLOC_PERTURB_": "165", "PYTHONFAULTHANDLER": "", **environment},
                            cwd=HERE, capture_output=True, text=True, timeout=timeout)
    # Where lines end, carriage returns are turned into what ends a line.
    under_way = result.stderr.split("case: ")[-1]
    assert result.returncode == 0, f"ended with {result.returncode}: {result.stdout[-1500:]}\nunder way: {under_way[:8000]}"
    return result


def test_all_that_is_public_is_found():
    assert {name.split(".")[0] for name in FUNCTIONS} | FILES >= {
        name for name in pb.__all__ if callable(getattr(pb, name)) and name not in ("get_num_threads", "clear_cache", "cache_info")
    }
    assert {"Linear.__call__", "Sequential.__call__", "RowOperation.__call__", "Linear.from_torch", "Sequential.__getitem__"} <= set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_hostile_arguments(name):
    seconds = SECONDS / len(FUNCTIONS)
    print(run([__file__, name, str(FIRST), str(CASES), str(seconds)], 600 + 20 * seconds).stdout)


# --- another thread changes arrays meanwhile --------------------------------------------------------------------------------------

MEANWHILE = """
import random, sys, threading, time, warnings
import numpy as np, polyglot_bridge as pb
import hostile
warnings.simplefilter("ignore")
number, seconds = int(sys.argv[1]), float(sys.argv[2])
choose = random.Random(number)
def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)
large = [
    (pb.softmax, dict(x=normal(1500, 1000), axis=0)), (pb.relu, dict(x=normal(1500, 1000))), (pb.matmul, dict(a=normal(300, 500), b=normal(500, 400))),
    (pb.layer_norm, dict(x=normal(800, 1000), weight=normal(1000), bias=normal(1000), residual=normal(800, 1000))),
    (pb.linear, dict(x=normal(300, 500), weight=normal(500, 400), bias=normal(400), residual=normal(300, 400), activation="gelu")),
    (pb.dropout_add, dict(x=normal(800, 1000), residual=normal(800, 1000), mask=normal(800, 1000) > 0)),
    (pb.attention, dict(q=normal(8, 100, 64), k=normal(8, 200, 64), v=normal(8, 200, 64), mask=normal(100, 200) > 0)),
    (pb.embedding, dict(ids=np.arange(20000) % 900, table=normal(900, 100))), (pb.mean_pool, dict(x=normal(8, 300, 500), mask=normal(8, 300) > 0)),
    (pb.sum_of_squares_numpy, dict(arr=normal(1500, 1000))), (pb.Linear, dict(weight=normal(1000, 800), bias=normal(800))),
    (pb.Linear(normal(500, 400), normal(400)), dict(x=normal(300, 500), residual=normal(300, 400))),
    (pb.Sequential([pb.Linear(normal(500, 400)), "softmax"]), dict(x=normal(300, 500))),
]
for function, arguments in large:
    out = function(**arguments)
    if isinstance(out, np.ndarray):
        arguments["out"] = out
names = dict(hostile.CASES)
for function, arguments in large:
    name = "large " + (getattr(function, "__name__", "") or type(function).__name__)
    # Strided operands are copied by NumPy, which reads them without the GIL as well.
    turned = {key: np.asfortranarray(value) if isinstance(value, np.ndarray) else value for key, value in arguments.items()}
    names[name], names[name + " in Fortran order"] = (hostile.Case(function, None, **given) for given in (arguments, turned))
cases, names = names, [*names, *[name for name in names if "large" in name] * 5]
# Another thread that sets the state frees memory under any reader: SECURITY.md.
changes = [change for name, change in hostile.CHANGES.items() if name != "its state set"]
stop, given, errors, calls = threading.Event(), {}, [], [0]

def change():
    # NumPy's own loops are no safer: one thread alone changes arrays.
    own = random.Random(number)
    while not stop.is_set():
        arrays = [array for array in list(given.values()) if isinstance(array, np.ndarray)]
        for array in arrays:
            try:
                if own.random() < 0.5:
                    array[...] = own.choice([0, 1, 2])
                else:
                    own.choice(changes)(array)
            except (AttributeError, TypeError, ValueError, MemoryError):
                pass
        time.sleep(own.choice([0, 0, 1e-5, 1e-4]))

def call():
    own = random.Random(number + 1)
    while not stop.is_set():
        case, arguments = current[0], dict(given)
        try:
            with np.errstate(all="ignore"):
                answer = case.function(**arguments)
            calls[0] += 1
            if isinstance(answer, np.ndarray) and "out" not in arguments:
                answer.sum()
        except (TypeError, ValueError, OverflowError, MemoryError, IndexError):
            pass
        except BaseException as error:
            errors.append(repr(error))

current = [cases[names[0]]]
given.update(current[0].fresh())
threads = [threading.Thread(target=target) for target in (change, call, call)]
for thread in threads:
    thread.start()
end = time.monotonic() + seconds
while time.monotonic() < end and not errors:
    name = choose.choice(names)
    sys.stderr.write("\\rcase: " + name)
    sys.stderr.flush()
    for _ in range(5):
        case = cases[name]
        fresh = case.fresh()
        if choose.random() < 0.5:
            fresh.pop("out", None)
        current[0] = case
        for key in list(given):
            given.pop(key, None)
        given.update(fresh)
        time.sleep(0.01)
stop.set()
for thread in threads:
    thread.join()
assert not errors, errors[:3]
print(calls[0], "calls")
"""


@pytest.mark.parametrize("threads", [1, 3])
def test_a_thread_that_changes_arrays_meanwhile(threads):
    seconds = max(4.0, SECONDS / 10)
    print(run(["-c", MEANWHILE, str(FIRST), str(seconds)], 600 + 2 * seconds, POLYGLOT_NUM_THREADS=str(threads)).stdout)


# --- memory that runs out ---------------------------------------------------------------------------------------------------------

REFUSED = """
import ctypes, itertools, sys, threading
import numpy as np, polyglot_bridge as pb
import hostile
library = ctypes.CDLL(None)
library.refuse_memory.argtypes = [ctypes.c_long, ctypes.c_size_t]
library.memory_requests.restype = ctypes.c_long
case = hostile.CASES[sys.argv[1]]
# What CPython, NumPy and std ask for themselves is smaller.
least = 2048
expected = np.array(case.function(**case.fresh()))
refused = 0
for number in itertools.count(1):
    given = case.fresh()
    before = given["out"].copy() if "out" in given else None
    result = []
    pb.clear_cache()

    def call():
        library.refuse_memory(number, least)
        try:
            answer = case.function(**given)
        except MemoryError:
            answer = None
        finally:
            requests = library.memory_requests()
            library.refuse_memory(0, least)
        result.extend([answer, requests])

    # A thread of its own has no scratch memory yet.
    sys.stderr.write(f"\\rcase: {sys.argv[1]}: request {number} refused ")
    sys.stderr.flush()
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    answer, requests = result
    if answer is None:
        refused += 1
        assert requests >= number, "a MemoryError that nobody refused"
        if before is not None:
            out = given["out"]
            assert (out == before).all() or out.tobytes() == expected.tobytes(), f"out is neither whole nor as it was, request {number}"
    else:
        assert np.array(answer).tobytes() == expected.tobytes(), f"another answer, request {number}"
    if requests < number:
        break
print(refused, "refused of", number - 1)
"""


@pytest.fixture(scope="session")
def refuse_memory(tmp_path_factory):
    """The library that refuses memory."""
    if SANITIZED or not sys.platform.startswith("linux") or shutil.which("cc") is None or platform.libc_ver()[0] != "glibc":
        pytest.skip("needs a C compiler and glibc's own allocator")
    library = tmp_path_factory.mktemp("refuse") / "refuse_memory.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(HERE / "refuse_memory.c"), "-ldl"], check=True)
    return str(library)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", hostile.CASES)
def test_memory_that_is_refused(refuse_memory, name, threads):
    """Whichever request of a call finds no memory: a MemoryError, and out as it was or wholly written."""
    print(run(["-c", REFUSED, name], 600, LD_PRELOAD=refuse_memory, POLYGLOT_NUM_THREADS=str(threads)).stdout)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
