"""No call reads or writes what is not its own, whatever its arguments do meanwhile, and none ends the process."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from hostile import CASES, NO_ARRAYS, check_plain

import polyglot_bridge as pb

HERE = pathlib.Path(__file__).parent
SANITIZED = bool(os.environ.get("POLYGLOT_SANITIZER"))
# Freed memory is overwritten, and all but small arrays have pages of their own, so that what reads on shows: settings of glibc.
SHOWN = {"MALLOC_PERTURB_": "165", "MALLOC_MMAP_THRESHOLD_": "8192", "PYTHONFAULTHANDLER": ""}


def python(code, *arguments, timeout=300, **environment):
    """Runs code in a process of its own, which is to end well; what it printed."""
    run = subprocess.run([sys.executable, "-c", code, *arguments], env={**os.environ, **SHOWN, **environment}, cwd=HERE,
                         capture_output=True, text=True, timeout=timeout)
    assert run.returncode == 0, f"ended with {run.returncode}: {run.stdout[-2000:]}{run.stderr[-6000:]}"
    return run.stdout


# --- what is checked and then used is the same ------------------------------------------------------------------------------------


def test_every_function_is_among_the_cases():
    names = {re.split(r"[ .]", name)[0] for name in CASES}
    assert names | NO_ARRAYS == set(pb.__all__) | {"Sequential"}
    assert not NO_ARRAYS & set(pb.__all__) & (names - {"Sequential"})


@pytest.mark.parametrize("name", CASES)
def test_plain_calls(name):
    check_plain(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_an_array_that_changes_within_a_call(name, tmp_path):
    """The call gives what it gives of the array as it was, or a ValueError names the array."""
    wrong, start, crashes = [], 0, 0
    while crashes < 3:
        progress = tmp_path / "progress"
        run = subprocess.run([sys.executable, str(HERE / "hostile.py"), name, str(progress), str(start)], env={**os.environ, **SHOWN},
                             capture_output=True, text=True, timeout=600)
        lines = run.stdout.splitlines()
        if run.returncode == 0:
            assert lines.pop().startswith("tried "), run.stdout
            wrong += lines
            break
        if not progress.exists():
            pytest.fail(f"ended with {run.returncode}: {run.stderr[-4000:]}")
        number, words = progress.read_text().split(" ", 1)
        wrong += [*lines, f"{words.strip()}: the process ended with {run.returncode} {run.stderr[-3000:]}"]
        start, crashes = int(number) + 1, crashes + 1
    assert not wrong, "\n".join([f"{len(wrong)} tries of {name} went wrong:", *wrong[:40]])


DESCRIPTOR = """
import numpy as np, polyglot_bridge as pb
count, reached = 20_000, 0
made = lambda code: np.dtype(code, metadata={"own": 1})
for _ in range(5):
    bias = np.ones(count, made("f4"))
    place, kept, calls = id(bias.dtype), [], []

    def change(*_):
        # Another descriptor in the place of the first: of numbers as long, since what would make room for others, or leave
        # less memory than was seen, is refused.
        global reached
        calls.append(1)
        if len(calls) > 1:
            return
        try:
            bias.resize(1, refcheck=False)
        except ValueError:
            pass
        else:
            raise SystemExit("resized under the call")
        bias.dtype = "i4"
        while len(kept) < 2000:
            kept.append(made("i4"))
            if id(kept[-1]) == place:
                bias.dtype = kept.pop()
                reached += 1
                return

    # The rounded weight overflows, of which NumPy tells.
    with np.errstate(over="call", call=change):
        try:
            layer = pb.Linear(np.full((2, count), 1e30), bias, dtype="float16")
        except ValueError as error:
            assert "bias" in str(error), error
        else:
            assert not calls, f"taken as it was: {layer.bias[-3:]}, {reached}"
assert calls, calls
print("done" if reached else "elsewhere")
"""


def test_a_descriptor_in_the_place_of_another():
    """Its address says nothing of what the elements are."""
    # A sanitizer gives no address a second time, so that the case is not reached under it.
    assert python(DESCRIPTOR).strip() in (["done", "elsewhere"] if SANITIZED else ["done"])


VIEWS = """
import numpy as np, polyglot_bridge as pb

class Factor:
    def __float__(self):
        try:
            owner.resize(1, refcheck=False)
        except ValueError:
            return 2.0
        raise AssertionError(f"resized under {depth} views")

for depth in (0, 1, 7, 8, 100, 3000):
    x = owner = np.ones(1 << 16)
    for number in range(depth):
        # Of one class, each would be a view of the owner.
        x = x.view(type(f"View{number}", (np.ndarray,), {}))
    x = x.view(np.ndarray)
    assert (pb.scale(x, Factor()) == 2.0).all()
    # Bases are freed one within the other.
    while x is not owner:
        x = x.base
print("done")
"""


def test_views_of_views():
    """The memory that they show stays, however many they are."""
    assert python(VIEWS).strip() == "done"


ROUNDED = """
import numpy as np, polyglot_bridge as pb

def attempt(owner, call):
    tries = []

    def change(*_):
        tries.append(owner.size)
        try:
            owner.resize(1, refcheck=False)
        except ValueError:
            tries.append("kept")

    with np.errstate(over="call", call=change):
        call()
    assert tries[1:2] == ["kept"], tries

bias, weight, x = np.ones(5000, np.float32), np.full((2, 5000), 1e30), np.ones(5000, np.float16)
attempt(bias, lambda: pb.Linear(weight, bias[:], dtype="float16"))
attempt(weight, lambda: pb.Linear(weight[:], np.full(5000, 1e300), dtype="float32"))
attempt(x, lambda: pb.linear(x.reshape(5, 1000), np.full((1000, 3), 10**6)))
print("done")
"""


def test_numpy_calls_back_where_numbers_do_not_fit():
    """No argument is an object whose methods run, and yet code does."""
    assert python(ROUNDED).strip() == "done"


MODULES = """
import sys, types
import numpy as np, polyglot_bridge as pb
panels = np.zeros(2 * 64 * 64, np.uint8)
layer = pb._core._packed_linear(panels, (64, 64), None, None, "bfloat16", 1)
real, dtype = sys.modules.pop("ml_dtypes", None), np.dtype
try:
    for scalar in (np.int8, np.bool_, np.float64, object, "S1", None):
        sys.modules["ml_dtypes"] = types.SimpleNamespace(bfloat16=scalar)
        for np.dtype in (dtype, lambda scalar: scalar, lambda scalar: 5, lambda scalar: types.SimpleNamespace()):
            for call in (lambda: layer.weight, lambda: layer.dtype, lambda: pb.Linear(np.ones((64, 64)), dtype="bfloat16")):
                try:
                    answer = call()
                except TypeError as error:
                    assert "bfloat16" in str(error), error
                else:
                    raise AssertionError(f"taken for bfloat16: {scalar} {answer}")
finally:
    np.dtype = dtype
    del sys.modules["ml_dtypes"]

try:
    import ml_dtypes
except ImportError:
    pass
else:
    x = np.ones((64, 64), ml_dtypes.bfloat16)
    out = np.empty_like(x)
    assert (pb.relu(x, out=out) == x).all() and layer.weight.nbytes == 2 * 64 * 64
    # NumPy's own arrays are of as many bytes as their dtype says now.
    np.dtype(ml_dtypes.bfloat16).__setstate__((3, "<", None, None, None, 1, 1, 64))
    short = np.ones((64, 64), ml_dtypes.bfloat16)
    for call in (lambda: layer.weight, lambda: pb.relu(short), lambda: pb.relu(x), lambda: pb.relu(x, out=out), lambda: layer(short)):
        try:
            call()
        except TypeError as error:
            assert "bfloat16" in str(error), error
        else:
            assert short.nbytes == 2 * 64 * 64, "elements of one byte read as of two"
print("done")
"""


def test_modules_that_are_not_what_they_seem():
    """An array is made of a dtype of as many bytes as are written, whatever stands in for `ml_dtypes` or `numpy.dtype`."""
    assert python(MODULES).strip() == "done"


LISTS = """
import polyglot_bridge as pb
class Item:
    def __float__(self):
        self.change()
        return 1.0
for change in (lambda list: list.clear(), lambda list: list.extend([1.0] * 1000), lambda list: list.__setitem__(slice(None), [2.0])):
    for call in (pb.sum_of_squares, lambda list: pb.parallel_transform(list, 2.0)):
        item = Item()
        numbers = [1.0, item, 1.0, 1.0]
        item.change = lambda: change(numbers)
        try:
            answer = call(numbers)
        except (TypeError, ValueError):
            continue
        # All that was there when it was looked at.
        assert answer in (4.0, 2.0, [2.0] * 4, [2.0] * 2) or answer == 1003.0 or answer == [2.0] * 1003, answer
    for position in (0, 1):
        item = Item()
        rows = [[1.0, 2.0], [item, 4.0]]
        item.change = lambda: change(rows[position] if len(rows) > position else rows)
        try:
            pb.matrix_multiply(rows, [[1.0], [1.0]])
        except (TypeError, ValueError):
            pass
print("done")
"""


def test_lists_that_change_meanwhile():
    assert python(LISTS).strip() == "done"


STACKS = """
import os, resource
import numpy as np, polyglot_bridge as pb
long = "x" * 2**26

class Layer:
    __name__ = long

names = ["rms_norm"] * 2**17
calls = [(more, lambda: pb.Sequential(names)) for more in range(8, 96, 4)]
calls += [(16, lambda: pb.Sequential([Layer()])), (16, lambda: pb._core._packed_linear(np.zeros(0, "u1"), (0, 0), None, None, long, 1))]
pb.Sequential(names[:100])
for more, call in calls:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with open("/proc/self/statm") as file:
                used = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + more * 2**20, used + more * 2**20))
            call()
            code = 0
        except (MemoryError, TypeError):
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0, f"ended with {more} MB"
print("done")
"""


@pytest.mark.skipif(SANITIZED or not sys.platform.startswith("linux"), reason="limits the addresses of a process")
def test_stacks_without_memory():
    """Layer by layer, and for a name of any length, memory is asked for and not taken for granted."""
    assert python(STACKS).strip() == "done"


# --- nothing is freed while it is read --------------------------------------------------------------------------------------------

MASKS = {
    "of int64": lambda mask: mask.astype(np.int64),
    "of int32 in Fortran order": lambda mask: np.asfortranarray(mask, dtype=np.int32),
    "as a list": lambda mask: mask.tolist(),
    "of strided bools": lambda mask: np.repeat(mask, 2, axis=-1)[..., ::2],
    "of bools in Fortran order": lambda mask: np.asfortranarray(mask),
    "of bools cut out of a larger array": lambda mask: np.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(3, 5)])[..., 3:-5],
    "of uint8": lambda mask: mask.astype(np.uint8),
}

POOL = """
import sys
import numpy as np, polyglot_bridge as pb
from test_memory_safety import MASKS
convert = MASKS[sys.argv[1]]
for shape in ((2000, 8), (4096, 512), (3, 700, 16), (7, 3000)):
    x = np.ones(shape, np.float32)
    mask = np.ones(shape[:-1], bool)
    mask[..., : shape[-2] // 2] = False
    x[~mask] = 1e9
    for _ in range(5):
        answer = pb.mean_pool(x, convert(mask))
        assert answer.shape == (*shape[:-2], shape[-1]) and (answer == 1.0).all(), (shape, answer)
        # The mask's memory, had it been freed, is taken again.
        other = [np.full(mask.size * item, 1, np.uint8) for item in (1, 1, 8)]
print("done")
"""


@pytest.mark.parametrize("kind", MASKS)
def test_mean_pool_keeps_the_mask_it_converts(kind):
    assert python(POOL, kind).strip() == "done"


EMBED = """
import numpy as np
from polyglot_bridge.models import BertConfig, BertEncoder
from test_models import random_weights
config = BertConfig(48, 2, 3, 80, vocab_size=50, max_position_embeddings=600, type_vocab_size=3, layer_norm_eps=1e-12)
model = BertEncoder(random_weights(config), config)
random = np.random.default_rng(3)
ids = random.integers(0, 50, (8, 600))
large = np.zeros((8, 1200), bool)
large[:, :600] = np.arange(600) < random.integers(1, 600, (8, 1))
mask = large[:, :600]
expected = model.embed(ids, mask.copy())
for given in (mask, mask.astype(np.int64), np.asfortranarray(mask), mask.tolist()):
    for _ in range(10):
        np.testing.assert_array_equal(model.embed(ids, given), expected)
# Each sentence alone, in float64: the mean of the states that the mask keeps, of length one.
states = model.encode(ids, mask.copy()).astype(np.float64)
for row, keep, found in zip(states, mask, expected):
    mean = row[keep].mean(0)
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), rtol=1e-4, atol=1e-5)
print("done")
"""


def test_a_sentence_encoder_with_a_mask_cut_out_of_a_larger_array():
    assert python(EMBED).strip() == "done"


RESIZED = """
import numpy as np, polyglot_bridge as pb
from hostile import BIAS, WEIGHT, X
make, (panels, shape, bias, activation, dtype, layout) = pb.Linear(WEIGHT, BIAS).__reduce_ex__(5)
panels, bias = np.array(panels), np.array(bias)
layer = make(panels, shape, bias, activation, dtype, layout)
expected = pb.linear(X, WEIGHT, BIAS)
for array in (panels, bias):
    try:
        array.resize(1, refcheck=False)
    except ValueError:
        pass
    for change in (lambda: setattr(array, "dtype", np.dtype("i1")), lambda: setattr(array, "shape", (array.size, 1))):
        try:
            change()
        except (AttributeError, ValueError):
            pass
    others = [np.full(array.nbytes, 0xFF, np.uint8) for _ in range(4)]
    np.testing.assert_array_equal(layer(X), expected)
print("done")
"""


def test_panels_that_are_resized_under_a_layer():
    assert python(RESIZED).strip() == "done"


RESTATED = """
import sys, types
import numpy as np, polyglot_bridge as pb
make, (panels, shape, _, activation, dtype, layout) = pb.Linear(np.ones((8, 24), np.float32)).__reduce_ex__(5)
few = np.dtype("u1")

def layer_over(numbers, shape, dtype):
    # Else they would be copied.
    kept = []
    while (own := np.empty(len(numbers), np.uint8)).ctypes.data % 32:
        kept.append(own)
    own[...] = numbers
    return own, make(own, shape, None, activation, dtype, layout)

def calls(layer):
    return layer(np.ones((1, 8), np.float32)), layer.weight, layer._panels(), layer.__reduce_ex__(5), pb.Sequential([layer])(np.ones((1, 8), np.float32))

def refused(layer, *calls):
    for call in calls:
        try:
            call(layer)
        except ValueError as error:
            assert "panels" in str(error), error
        else:
            raise AssertionError("memory that is gone was read")

def each(layer):
    refused(layer, lambda layer: layer(np.ones((1, 8), np.float32)), lambda layer: layer.weight, lambda layer: layer._panels(),
            lambda layer: layer.__reduce_ex__(5), lambda layer: pb.Sequential([layer])(np.ones((1, 8), np.float32)))

same = 0
for _ in range(3000):
    own, layer = layer_over(panels, shape, dtype)
    calls(layer)
    place = own.ctypes.data
    # NumPy keeps a few freed buffers of each size; after those the next lies where the former one began, if it is shorter.
    others = [np.empty(len(panels), np.uint8) for _ in range(20)]
    del others
    own.__setstate__((1, (900,), few, False, bytes(900)))
    same += own.ctypes.data == place
    each(layer)
    if same >= 3:
        break

# Within a call, too: a layer of bfloat16 asks for its dtype.
own, layer = layer_over(np.zeros(2 * 64 * 64, np.uint8), (64, 64), "bfloat16")
real = sys.modules.pop("ml_dtypes", None)

class Module(types.ModuleType):
    def __getattr__(self, name):
        own.__setstate__((1, (1,), few, False, b"x"))
        sys.modules["ml_dtypes"] = real
        return real.bfloat16

if real is None:
    try:
        import ml_dtypes as real
    except ImportError:
        pass
if real is not None:
    sys.modules["ml_dtypes"] = Module("ml_dtypes")
    refused(layer, lambda layer: layer.weight)
print("done")
"""


def test_panels_that_are_replaced_under_a_layer():
    """Other memory, or less of it in the same place, is found before it is read."""
    assert python(RESTATED).strip() == "done"


PARAMETERS = """
import numpy as np, polyglot_bridge as pb
x, weight = np.random.default_rng(0).standard_normal((50, 4000)), np.linspace(1, 2, 4000)
for change in (lambda w: w.resize(1, refcheck=False), lambda w: setattr(w, "dtype", np.dtype("f4")), lambda w: setattr(w, "shape", (2, 2000)),
               lambda w: setattr(w, "strides", (0,)), lambda w: setattr(w, "strides", (-8,))):
    operation = pb.RowOperation("rms_norm", weight)
    stack = pb.Sequential([operation])
    expected = operation(x)
    np.testing.assert_allclose(expected, x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight, rtol=1e-12)
    given = operation.weight
    try:
        given.flags.writeable = True
        change(given)
    except (AttributeError, ValueError):
        pass
    for call in (operation, stack):
        try:
            answer = call(x)
        except ValueError as error:
            assert "weight" in str(error), error
        else:
            np.testing.assert_array_equal(answer, expected)
print("done")
"""


def test_parameters_of_a_row_operation_that_are_changed():
    assert python(PARAMETERS).strip() == "done"


# --- depth ------------------------------------------------------------------------------------------------------------------------

NESTED = """
import pickle, sys, threading
import numpy as np, polyglot_bridge as pb
depth, work = int(sys.argv[1]), sys.argv[2]

def body():
    x = np.ones((3, 2))
    stack = pb.Sequential([pb.Linear(np.full((2, 2), 0.5))])
    try:
        for _ in range(depth):
            stack = pb.Sequential([stack])
    except ValueError as error:
        # A bound, that the message names.
        assert "deep" in str(error) or "nested" in str(error), error
        stack = None
    if stack is not None:
        works = {
            "call": lambda: np.testing.assert_array_equal(stack(x), x),
            # Some of it on a worker's thread.
            "large call": lambda: np.testing.assert_array_equal(stack(np.ones((200_000, 2))), np.ones((200_000, 2))),
            "nbytes": lambda: stack.nbytes >= 32 or 1 / 0,
            "repr": lambda: repr(stack),
            "pickle": lambda: pickle.dumps(stack, 5),
            "parts": lambda: (list(stack), stack[0], stack[:], stack.dtypes, stack.in_features),
            "save": lambda: stack.save(sys.argv[3]),
            "delete": lambda: None,
        }
        try:
            works[work]()
        except RecursionError:
            assert work in ("repr", "pickle", "save")
    del stack
    print("done")

if len(sys.argv) > 4:
    threading.stack_size(int(sys.argv[4]))
thread = threading.Thread(target=body)
thread.start()
thread.join()
"""


@pytest.mark.parametrize("work", ["call", "large call", "nbytes", "repr", "pickle", "parts", "save", "delete"])
@pytest.mark.parametrize("depth", [2_000, 8_000, 150_000])
def test_stacks_within_stacks(depth, work, tmp_path):
    assert python(NESTED, str(depth), work, str(tmp_path / "stack")).strip() == "done"


@pytest.mark.skipif(SANITIZED, reason="code for a sanitizer needs more stack")
def test_stacks_within_stacks_on_a_small_machine_stack(tmp_path):
    assert python(NESTED, "1000", "call", str(tmp_path / "stack"), "65536").strip() == "done"


SMALL = """
import sys, threading, traceback
import numpy as np, polyglot_bridge as pb
from hostile import CASES, check_plain
names = sys.argv[1:]
expected = {name: np.array(CASES[name].function(**CASES[name].fresh())) for name in names}
wide = {}
for name in names:
    arguments = CASES[name].fresh()
    arrays = {key: value.astype(np.float64) if getattr(value, "dtype", None) == np.float32 else value for key, value in arguments.items()}
    # Layers of float32 take none of float64.
    if "f32" not in name and "call" not in name and "dtype" not in arguments and name != "RowOperation":
        wide[name] = arrays
ok = []
def body():
    for name in names:
        assert np.array(CASES[name].function(**CASES[name].fresh())).tobytes() == expected[name].tobytes(), name
    for name, arrays in wide.items():
        answer = np.array(CASES[name].function(**arrays))
        np.testing.assert_allclose(answer, expected[name], rtol=1e-4, atol=1e-4)
    ok.append(True)
for name in names:
    CASES[name].function(**CASES[name].fresh())
for threads in (1, 4):
    pb.set_num_threads(threads)
    # The least that CPython itself can do with is half of that.
    threading.stack_size(65536)
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
assert ok == [True, True]
print("done")
"""


@pytest.mark.skipif(SANITIZED, reason="code for a sanitizer needs more stack")
@pytest.mark.parametrize("name", CASES)
def test_a_thread_with_64_kilobytes_of_stack(name):
    assert python(SMALL, name).strip() == "done"


# --- results over what a layer reads ----------------------------------------------------------------------------------------------

OVER = """
import pickle, sys
import numpy as np, polyglot_bridge as pb
random = np.random.default_rng(0)
dtype, kind = sys.argv[1:]
k, n = 40, 48
weight, bias = random.standard_normal((k, n)).astype(dtype), random.standard_normal(n).astype(dtype)
layer = pb.Linear(weight, bias)
if kind == "stack":
    layer = pb.Sequential([layer, pb.Sequential([pb.Linear(random.standard_normal((n, n)).astype(dtype)), "softmax"])])
if kind == "stack of one":
    layer = pb.Sequential([pb.Sequential([layer])])
rows = 20 if kind == "layer" else 300
x = random.standard_normal((rows, k)).astype(dtype)
expected = layer(x)
if kind != "stack":
    exact = x.astype(np.float64) @ weight.astype(np.float64) + bias
    np.testing.assert_allclose(expected, exact, rtol=1e-2 if dtype == "float16" else 1e-4, atol=1e-2)
tried = 0
for number in range(8):
    buffers = []
    data = pickle.dumps(layer, 5, buffer_callback=buffers.append)
    own = [bytearray(buffer.raw()) for buffer in buffers]
    if number >= len(own):
        break
    # Room on both sides: out may begin before the weight or end behind it.
    size = expected.nbytes
    room = np.zeros(2 * size + len(own[number]) + 128, np.uint8)
    start = -(room.ctypes.data + size) % 64 + size
    place = room[start : start + len(own[number])]
    place[...] = np.frombuffer(own[number], np.uint8)
    kept = room.copy()
    own[number] = place
    again = pickle.loads(data, buffers=own)
    np.testing.assert_array_equal(again(x), expected)
    for shift in range(-size + expected.itemsize, len(place), max(expected.itemsize, len(place) // 7 // 8 * 8)):
        room[...] = kept
        out = room[start + shift : start + shift + size]
        if len(out) < size:
            continue
        out = out.view(dtype).reshape(expected.shape)
        tried += 1
        try:
            again(x, out=out)
        except ValueError as error:
            assert "out" in str(error), error
        else:
            np.testing.assert_array_equal(out, expected, err_msg=f"buffer {number}, shift {shift}")
assert tried > 5
print("done")
"""


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("kind", ["layer", "stack", "stack of one"])
def test_out_over_the_layers_own_weights(kind, dtype):
    assert python(OVER, dtype, kind).strip() == "done"


def test_out_over_the_weight_of_a_row_operation():
    weight = np.linspace(1, 2, 300)
    operation = pb.RowOperation("layer_norm", weight, weight[::-1])
    x = np.random.default_rng(0).standard_normal(300)
    expected = operation(x)
    for name in ("weight", "bias"):
        fresh = pb.RowOperation("layer_norm", weight, weight[::-1])
        out = getattr(fresh, name)
        try:
            out.flags.writeable = True
        except ValueError:
            continue
        np.testing.assert_array_equal(fresh(x, out=out), expected)


def test_out_over_a_bias_in_place():
    """The bias of an unpickled layer is the caller's array too."""
    random = np.random.default_rng(0)
    weight, bias = random.standard_normal((40, 48)), random.standard_normal(48)
    make, (panels, shape, _, activation, dtype, layout) = pb.Linear(weight, bias).__reduce_ex__(5)
    x = random.standard_normal((20, 40))
    expected = x @ weight + bias
    for first in (0, 24, 19 * 48 + 7, 20 * 48):
        room = np.zeros(21 * 48)
        own = room[first : first + 48]
        own[...] = bias
        layer = make(panels, shape, own, activation, dtype, layout)
        out = room[: 20 * 48].reshape(20, 48)
        try:
            layer(x, out=out)
        except ValueError as error:
            assert "out" in str(error)
        else:
            np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12)


# --- all of a result is written ---------------------------------------------------------------------------------------------------

CHANGING = """
import threading, time
import numpy as np, polyglot_bridge as pb
rows, features, count = 50, 8, 60_000
table = np.arange(rows * features, dtype=np.float32).reshape(rows, features)
ids = np.full(count, 7)
stop = threading.Event()

def change():
    # Both stay in force for a while, so that checks pass and are then no longer true.
    while not stop.is_set():
        ids[...] = 10**12
        time.sleep(1e-4)
        ids[...] = 7
        time.sleep(2e-3)

thread = threading.Thread(target=change)
thread.start()
answered, wrong, end = 0, 0, time.monotonic() + 6
try:
    while time.monotonic() < end:
        # What another caller got, and gave back.
        secret = pb.scale(np.ones((count, features), np.float32), -777.0)
        del secret
        for tables in ((ids, table), ((ids, ids), (table, table))):
            try:
                answer = pb.embedding(*tables)
            except ValueError as error:
                assert "ids" in str(error), error
                continue
            answered += 1
            wrong += int((answer != table[7] * (1 if tables[0] is ids else 2)).any(axis=1).sum())
            del answer
finally:
    stop.set()
    thread.join()
assert answered > 3, answered
assert wrong == 0, f"{wrong} rows of {answered} answers are no rows of the table"
print("done")
"""


@pytest.mark.parametrize("threads", [1, 4])
def test_ids_that_another_thread_changes(threads):
    """What the ids are in the end, no row that is given was never written, nor read beyond the table."""
    assert python(CHANGING, POLYGLOT_NUM_THREADS=str(threads), POLYGLOT_CACHE_MB="256").strip() == "done"


# --- arrays at odd addresses ------------------------------------------------------------------------------------------------------


ODD = """
import numpy as np, polyglot_bridge as pb
table = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
for count in (1, 5, 3000):
    expected = np.random.default_rng(1).integers(0, 40, count)
    for shift in range(1, 8):
        raw = np.zeros(count * 8 + 8, np.uint8)
        for dtype in (np.intp, np.uint64, np.int16):
            ids = raw[shift : shift + count * np.dtype(dtype).itemsize].view(dtype)
            ids[...] = expected
            np.testing.assert_array_equal(pb.embedding(ids, table), table[expected])
            np.testing.assert_array_equal(pb.embedding((ids, ids), (table, table)), 2 * table[expected])
print("done")
"""


def test_misaligned_ids():
    """On a CPU that reads anything anywhere only debug assertions show what is wrong: make test-asan-python."""
    assert python(ODD).strip() == "done"


@pytest.mark.parametrize("shift", range(1, 8))
def test_misaligned_masks_and_operands(shift):
    """Whatever is not aligned for its type is copied, bytes of bools too where they lie anywhere."""
    random = np.random.default_rng(0)
    for dtype in (np.float32, np.float64, np.float16):
        values = random.standard_normal((6, 40)).astype(dtype)
        raw = np.zeros(values.nbytes + 8, np.uint8)
        x = raw[shift : shift + values.nbytes].view(dtype).reshape(values.shape)
        x[...] = values
        np.testing.assert_array_equal(pb.softmax(x), pb.softmax(values))
        np.testing.assert_array_equal(pb.linear(x, x.T), pb.linear(values, values.T))
        np.testing.assert_array_equal(pb.layer_norm(x, x[0], x[1], residual=x), pb.layer_norm(values, values[0], values[1], residual=values))
        mask = (random.standard_normal((6, 40)) > 0)
        other = np.zeros(mask.nbytes + 8, np.uint8)[shift : shift + mask.nbytes].view(bool).reshape(mask.shape)
        other[...] = mask
        np.testing.assert_array_equal(pb.dropout_add(x, x, other), np.where(mask, values, 0) + values)


def test_many_threads_beside_a_changing_array():
    """Other values while a call runs give other values, and nothing else."""
    x = np.ones((400, 400), np.float32)
    stop = threading.Event()

    def change():
        while not stop.is_set():
            x[...] = 2.0
            x[...] = 1.0

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(30):
            assert ((pb.relu(x) >= 1) & (pb.relu(x) <= 2)).all()
            assert np.isfinite(pb.softmax(x)).all() and np.isfinite(pb.matmul(x, x)).all()
    finally:
        stop.set()
        thread.join()
