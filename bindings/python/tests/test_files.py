"""Files: what is taken, what is refused and how, what saving leaves behind; by the table in docs/contract.md."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import pickle
import signal
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import BFLOAT16, normal

import polyglot_bridge as pb
from polyglot_bridge import _json, _replace, _safetensors
from polyglot_bridge.models import BertConfig, BertEncoder

F32 = np.dtype("float32")
POSIX = os.name == "posix"
ROOT = POSIX and os.geteuid() == 0
DATA = pathlib.Path(__file__).parent / "data" / "bb9f99a"
CONTRACT = pathlib.Path(__file__).parents[3] / "docs" / "contract.md"

# What the table in the contract has rows for, and the tests that show it: filled by `row`.
TESTED: set[str] = set()


def row(*names):
    """Says which rows of the contract's table a test is about."""
    TESTED.update(names)
    return lambda test: test


def test_each_row_of_the_contract_has_a_test():
    text = CONTRACT.read_text(encoding="utf-8").split("\n## Files\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 10 and set(rows) == TESTED


def write(path, header, body=b""):
    text = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.safetensors"


def one(dtype="F32", shape="[1]", offsets="[0,4]", more=""):
    """A header with a tensor, its parts being texts of JSON."""
    code = f'"{dtype}"' if dtype.isidentifier() else dtype
    return f'{{"a":{{"dtype":{code},"shape":{shape},"data_offsets":{offsets}{more}}}}}'


# --- Reading ----------------------------------------------------------------------------------------------------------

U64 = 2**64 - 1
TAKEN = {
    "no tensors": ("{}", b""), "blanks": ("\n\t {} \r\n", b""), "scalar": (one("F64", "[]", "[0,8]"), bytes(8)),
    "empty": (one(shape="[0,3]", offsets="[0,0]"), b""), "null": ('{"__metadata__":null}', b""),
    "metadata": ('{"__metadata__":{"a":"b","a":"c"}}', b""), "unknown field": (one(more=',"x":[1.5,{"y":null}],"x":-0'), bytes(4)),
    "an array": ('{"a":["F32",[1],[0,4]]}', bytes(4)), "dtype as an object": (one('{"F32":null}'), bytes(4)),
    "twice": ('{"a":["F32",[2],[0,8]],"a":["F32",[1],[0,4]]}', bytes(4)), "escapes": ('{"\\ud83d\\ude00\\u0000":["U8",[1],[0,1]]}', b"1"),
    "unordered": ('{"a":["U8",[1],[4,5]],"b":["F32",[1],[0,4]]}', bytes(5)), "no name": ('{"":["U8",[1],[0,1]]}', b"1"),
    "deep": (one(more=f',"x":{"[" * 125}{"]" * 125}'), bytes(4)), "large number": (one(more=',"x":1.7976931348623157e308'), bytes(4)),
    "brackets in a string": (one(more=f',"x":"{"[" * 999}"'), bytes(4)), "long": (one(more=f',"x":0.{"1" * 9999}'), bytes(4)),
    "64 axes": (one("U8", str([1] * 64), "[0,1]"), b"1") if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else ("{}", b""),
    "large beside 0": (one("U8", f"[0,{2**63 - 1}]", "[0,0]"), b""), "0 first": (one("F32", f"[0,{2**60}]", "[0,0]"), b""),
}
REFUSED = {
    "nothing": b"", "null": "null", "number": "5", "string": '"x"', "array": "[]", "cut": "{", "more": "{} {}", "a comma": '{"a":["U8",[0],[0,0]],}',
    "utf-16": "{}".encode("utf-16"), "utf-8-sig": "\ufeff{}".encode(), "bad utf-8": b'{"\xff":["U8",[0],[0,0]]}',
    "surrogate in utf-8": b'{"\xed\xa0\x80":["U8",[0],[0,0]]}', "half a pair": '{"\\ud800":["U8",[0],[0,0]]}',
    "other half": one(more=',"x":"\\udc00"'), "control character": one(more=',"x":"\t"'), "comment": "{/**/}",
    "NaN": one(more=',"x":NaN'), "Infinity": one(more=',"x":Infinity'), "-Infinity": one(more=',"x":-Infinity'),
    "out of range": one(more=',"x":1e309'), "out of range, long": one(more=f',"x":{"9" * 400}'), "leading zero": one(more=',"x":01'),
    "a field twice": one(more=',"shape":[1]'), "deep": one(more=f',"x":{"[" * 126}{"]" * 126}'),
    "100,000 brackets": one(more=f',"x":{"[" * 100_000}{"]" * 100_000}'), "100,000 open brackets": "[" * 100_000,
    "100,000 objects": '{"a":' * 100_000, "metadata is a list": '{"__metadata__":[]}', "metadata is a number": '{"__metadata__":5}',
    "metadata twice": '{"__metadata__":null,"__metadata__":{}}', "metadata of numbers": '{"__metadata__":{"a":1}}',
    "metadata of null": '{"__metadata__":{"a":null}}', "a tensor named __metadata__": '{"__metadata__":["F32",[1],[0,4]]}',
    "another named __metadata__": one().replace('"a"', '"__metadata__"'), "tensor is null": '{"a":null}', "tensor is 5": '{"a":5}',
    "tensor is []": '{"a":[]}', "tensor is {}": '{"a":{}}', "four parts": '{"a":["F32",[1],[0,4],0]}',
    "dtype unknown": one("F8"), "dtype lower": one("f32"), "dtype null": one("null"), "dtype a number": one("7"),
    "dtype an empty object": one('{"F32":{}}'), "dtype two": one('{"F32":null,"F64":null}'),
    **{f"shape {shape}": one(shape=shape) for shape in (
        "[1.0]", "[2.9]", '["1"]', '["2"]', "[true]", "[null]", "[-1]", "[-5,7]", f"[{10**30},7]", f"[{2**64}]", "[1e0]", "[[1]]", "1",
        '"1"', "null", "{}", "[-0]", f"[{2**63},2,0]", f"[{U64},{U64}]", "[2]", "[0]", "[NaN]")},
    "-0 beside": one(shape="[-0]", offsets="[0,0]"),
    **{f"offsets {offsets}": one(offsets=offsets) for offsets in (
        "[0]", "[0,4,4]", "[0,4.0]", '[0,"4"]', "[false,4]", "[-0,4]", "[4,0]", "[4,8]", "[-4,0]", f"[0,{U64}]", f"[{U64},{U64}]",
        f"[0,{2**64}]", "4", "null", '{"0":0,"4":4}', "[0,5]", "[1,5]")},
    "overlapping": '{"a":["F32",[1],[0,4]],"b":["U8",[4],[0,4]]}', "partly": '{"a":["U8",[3],[0,3]],"b":["U8",[2],[2,4]]}',
    "a hole": '{"a":["U8",[1],[0,1]],"b":["U8",[1],[3,4]]}', "a hole before": '{"a":["U8",[2],[2,4]]}',
    "bytes of nobody": one("U8", "[3]", "[0,3]"), "no bytes": one("U8", "[5]", "[0,5]"), "within a byte": one("F4", "[1]", "[0,1]"),
}
BEYOND_NUMPY = {
    "65 axes": one("U8", str([0] * 65), "[0,0]"), "2^63": one("U8", f"[{2**63},0]", "[0,0]"), "0 and 2^64 - 1": one("U8", f"[0,{U64}]", "[0,0]"),
    "2^62 of 8 bytes": one("F64", f"[0,{2**62}]", "[0,0]"), "in two": one("U8", f"[{2**32},{2**31},0]", "[0,0]"),
}


def reference_takes(path):
    safetensors = pytest.importorskip("safetensors")
    try:
        with safetensors.safe_open(path, framework="np"):
            return True
    except safetensors.SafetensorError:
        return False


def refused(call, path, most=2000):
    with pytest.raises(ValueError) as caught:
        call(path)
    assert type(caught.value) is ValueError and str(path) in str(caught.value) and len(str(caught.value)) < most
    return str(caught.value)


@row("a header", "metadata in a header")
@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.parametrize("mmap", [True, False])
def test_headers_that_are_taken(path, name, mmap):
    header, body = TAKEN[name]
    write(path, header, body)
    loaded = pb.load_file(path, mmap=mmap)
    assert type(loaded) is dict and sum(array.nbytes for array in loaded.values()) == len(body)
    assert reference_takes(path)


@row("a header", "metadata in a header")
@pytest.mark.parametrize("name", REFUSED)
def test_headers_that_are_refused(path, name):
    write(path, REFUSED[name], bytes(4) if name != "nothing" else b"")
    for call in (pb.load_file, lambda path: pb.load_file(path, mmap=False), pb.Linear.load, pb.Sequential.load, _safetensors.load):
        refused(call, path)
    assert not reference_takes(path)


@row("shapes")
@pytest.mark.parametrize("name", BEYOND_NUMPY)
def test_shapes_beyond_numpy(path, name):
    refused(pb.load_file, write(path, BEYOND_NUMPY[name]))
    assert reference_takes(path)


def test_a_refusal_says_where(path):
    body = bytes(4)
    for header, said in [
        (one(shape="[2]"), "tensor 'a' has dtype F32 and shape (2,), which takes 8 bytes, and data_offsets that span 4"),
        ('{"a":["U8",[1],[0,1]],"b":["U8",[1],[3,4]]}', "tensor 'b' has data_offsets 3 and 4, and what comes before it ends at 1"),
        ('{"a" 5}', "line 1 column 6"), (b'{"\xff"}', "position 2"), (one(more=',"x":"\\udc00"'), "at byte 58"),
        (one("U8", "[3]", "[0,3]"), "its tensors take 3 bytes, 4 bytes come after the header"), ('{"a":{"shape":[]}}', "'a': it lacks dtype and data_offsets"),
        (one("F8"), "'a': dtype is 'F8'"), ('{"__metadata__":{"k":1}}', "'__metadata__': 'k' is an integer, expected a string"),
        (f'{{"{"n" * 10_000}":5}}', "nnn...'"), (one(shape="[true]"), "'a': shape holds true"),
    ]:
        assert said in refused(pb.load_file, write(path, header, body))


@row("a header")
def test_lengths_of_headers(path):
    for data in (b"", bytes(7), bytes(8), b"\xff" * 8, (3).to_bytes(8, "little") + b"{}", (2**63).to_bytes(8, "little") + b"{}"):
        path.write_bytes(data)
        refused(pb.load_file, path)
    # One byte more than the format takes, all there: nothing of it is read.
    with open(path, "wb") as file:
        file.write((100_000_001).to_bytes(8, "little"))
        file.truncate(100_000_009)
    begin = time.process_time()
    refused(pb.load_file, path)
    assert time.process_time() - begin < 0.1
    assert not reference_takes(path)


@row("a header")
def test_files_that_chance_has_damaged(tmp_path):
    pytest.importorskip("safetensors")
    pytest.importorskip("ml_dtypes")
    import fuzz_safetensors

    taken = fuzz_safetensors.run(600, 2026, str(tmp_path))
    assert 100 < taken < 500


NUMBERS = {
    "1e308": "1e308", "309 digits": "1" + "0" * 308, "19 digits": "9" * 19, "one": "1", "0": "0", "5000 digits": "9" * 5000,
}


@pytest.mark.parametrize("name", NUMBERS)
def test_work_is_bounded_by_the_length_of_a_header(path, name):
    """A header of 24 kB kept the reader of the first version busy for 20 seconds, one of 48 kB for 84."""
    for field in ("shape", "data_offsets", "x"):
        numbers = ",".join([NUMBERS[name]] * (48_000 // len(NUMBERS[name])))
        header = one(more=f',"{field}":[{numbers}]') if field == "x" else one(**{field.split("_")[-1]: f"[{numbers}]"})
        write(path, header, bytes(4))
        begin = time.process_time()
        try:
            pb.load_file(path)
        except ValueError as error:
            assert str(path) in str(error)
        assert time.process_time() - begin < 0.25


def test_time_grows_with_the_length_alone(path):
    """Eight times the header takes some eight times as long, not 64 times."""
    def seconds(count, make):
        write(path, "{" + ",".join(make(number) for number in range(count)) + "}")
        times = []
        for _ in range(3):
            begin = time.process_time()
            try:
                pb.load_file(path)
            except ValueError:
                pass
            times.append(time.process_time() - begin)
        return min(times)

    for make in (lambda n: f'"{n}":["U8",[0],[0,0]]', lambda n: f'"{n}":["U8",[1],[0,1]]', lambda n: '"a":["U8",[0],[0,0]]',
                 lambda n: f'"{n}":["U8",[0],[{n},{n}]]', lambda n: f'"{n}":["U8",[1],[{n},{n + 1}]]'):
        # What disturbs a measurement makes one of two longer now and then, not each time.
        assert any(seconds(16_000, make) < 24 * max(seconds(2_000, make), 0.005) for _ in range(5))


SMALL = """
import sys, threading
import numpy as np, polyglot_bridge as pb
pb.load_file, pb.save_file
def work():
    assert list(pb.load_file(sys.argv[1])) == ["a"]
    try:
        pb.load_file(sys.argv[2])
    except ValueError:
        pb.save_file({"a": np.ones(3)}, sys.argv[2])
        print("done")
threading.stack_size(64 * 1024)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@row("a header")
def test_brackets_need_no_stack(path):
    """Nor do they need a caller's recursion: a thread may have a small stack."""
    assert _json._depth(b'{"[[[\\"[[":[[],[{}]],"\\\\":[]}' + b" " * 10, 3) == 4
    assert _json._depth(b"[]" * 400_000 + b"[[]]", 1) == 2
    assert _json._depth(b'["' + b"[" * 600_000 + b'",' + b"[]," * 300_000 + b'"]"]', 1) == 2
    write(path, TAKEN["deep"][0], TAKEN["deep"][1])
    write(path.with_name("deeper"), REFUSED["100,000 brackets"], bytes(4))
    found = run(SMALL, path, path.with_name("deeper"))
    assert found.stdout.strip() == "done", (found.returncode, found.stderr)


@row("the file")
@pytest.mark.skipif(not POSIX, reason="no pipes with names here")
def test_what_is_no_regular_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        pb.load_file(tmp_path / "nothing")
    with pytest.raises(OSError):
        pb.load_file(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", pathlib.Path("/dev/null"), pathlib.Path("/dev/zero")):
        refused(pb.load_file, place)
        refused(pb.Linear.load, place)
    with pytest.raises(TypeError):
        pb.load_file(5)
    pb.save_file({"a": np.ones(1)}, tmp_path / "file")
    os.symlink("file", tmp_path / "link")
    assert pb.load_file(tmp_path / "link")["a"] == 1 and pb.load_file(os.fsencode(tmp_path / "link"))["a"] == 1


# --- dtypes -----------------------------------------------------------------------------------------------------------


@row("dtypes")
def test_dtypes(path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtypes = {"C64": "complex64", "F8_E5M2": ml_dtypes.float8_e5m2, "F8_E4M3": ml_dtypes.float8_e4m3fn, "BF16": ml_dtypes.bfloat16,
              "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz, "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz, "BOOL": "bool", "U64": "uint64"}
    if hasattr(ml_dtypes, "float8_e8m0fnu"):
        dtypes["F8_E8M0"] = ml_dtypes.float8_e8m0fnu
    for code, dtype in dtypes.items():
        values = np.array([0, 1, 1, 0]).astype(dtype)
        write(path, one(code, "[4]", f"[0,{values.nbytes}]"), values.tobytes())
        found = pb.load_file(path)["a"]
        assert found.dtype == values.dtype and found.tobytes() == values.tobytes()
        pb.save_file({"a": values}, path)
        assert f'"dtype":"{code}"'.encode() in path.read_bytes()
        assert pb.load_file(path)["a"].tobytes() == values.tobytes() and reference_takes(path)


MIXED = '{"good":["F32",[1],[0,4]],"bad":["F4",[2],[4,5]],"last":["U8",[1],[5,6]]}'
MIXED_BODY = np.float32(2.5).tobytes() + b"\x01\x07"


@row("dtypes")
def test_a_dtype_that_numpy_lacks_harms_nobody_else(path):
    write(path, MIXED, MIXED_BODY)
    loaded = pb.load_file(path)
    assert isinstance(loaded, dict) and list(loaded) == ["good", "bad", "last"] and len(loaded) == 3 and "bad" in loaded
    assert loaded["good"] == 2.5 and loaded.get("good") == 2.5 and loaded["last"] == 7 and loaded.get("none", 3) == 3
    assert set(loaded.keys()) == {"good", "bad", "last"} and "F4" in repr(loaded)
    asking = [
        lambda d: d["bad"], lambda d: d.get("bad"), lambda d: d.pop("bad"), lambda d: d.setdefault("bad", 1), lambda d: list(d.values()),
        lambda d: list(d.items()), lambda d: dict(d), lambda d: {**d}, lambda d: d | {}, lambda d: {} | d, lambda d: {}.update(d),
        lambda d: (lambda **named: named)(**d), lambda d: pickle.dumps(d), lambda d: [d.popitem(), d.popitem()],
        lambda d: np.savez(os.devnull, **d), lambda d: dict(d.items()), lambda d: d.copy()["bad"],
    ]
    for ask in asking:
        assert "tensor 'bad' has dtype F4" in refused(lambda path, ask=ask: ask(pb.load_file(path)), path)
    with pytest.raises(KeyError):
        loaded["none"]
    with pytest.raises(KeyError):
        loaded.pop("none")
    assert loaded.pop("none", 4) == 4 and loaded.setdefault("new", np.ones(1)) == 1
    rest = loaded.copy()
    del rest["bad"]
    assert list(rest) == ["good", "last", "new"] and dict(rest)["good"] == 2.5 and rest.popitem()[0] == "new" and "bad" in loaded
    rest.clear()
    with pytest.raises(KeyError):
        rest.popitem()
    loaded["bad"] = np.zeros(2)
    assert len(list(loaded.items())) == 4 and (loaded | {})["bad"].size == 2
    found = _safetensors.load(path)
    assert "bad" in found and found["good"] == 2.5
    refused(lambda path: found["bad"], path)


@row("dtypes")
def test_without_ml_dtypes(path, monkeypatch):
    header = '{"a":["BF16",[1],[0,2]],"b":["F8_E5M2",[1],[2,3]],"c":["U8",[1],[3,4]]}'
    write(path, header, b"\x80\x3f\x3c\x05")
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    loaded = pb.load_file(path)
    assert loaded["c"] == 5
    for name in "ab":
        assert "ml_dtypes" in refused(lambda path, name=name: loaded[name], path)
    assert _safetensors.load(path)["a"] == 1


def test_a_model_needs_no_tensor_but_its_own(tmp_path):
    config = BertConfig(8, 1, 2, 16, vocab_size=10, max_position_embeddings=4)
    weights = {name: normal(shape, F32) for name, shape in config.shapes().items()}
    pb.save_file(weights, tmp_path / "model.safetensors")
    data = (tmp_path / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    header["quantized"] = {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [len(body), len(body) + 2]}
    header["packed"] = {"dtype": "F4", "shape": [4], "data_offsets": [len(body) + 2, len(body) + 4]}
    write(tmp_path / "model.safetensors", header, body + bytes(4))
    model = BertEncoder.from_safetensors(tmp_path / "model.safetensors", config)
    assert np.array_equal(model.embed([[1, 2]]), BertEncoder(weights, config).embed([[1, 2]]))
    if BFLOAT16 is not None:
        # Weights of bfloat16 are floats, though NumPy counts them among the others.
        narrow = {name: value.astype(BFLOAT16) for name, value in weights.items()}
        wide = {name: value.astype(F32) for name, value in narrow.items()}
        assert np.array_equal(BertEncoder(narrow, config).embed([[1, 2]]), BertEncoder(wide, config).embed([[1, 2]]))


# --- Saving -----------------------------------------------------------------------------------------------------------

ARRAYS = {"a": np.arange(5.0), "b": np.zeros((2, 0), np.int8)}


def same(path, arrays=ARRAYS):
    loaded = pb.load_file(path, mmap=False)
    return set(loaded) == set(arrays) and all(np.array_equal(loaded[name], arrays[name]) for name in arrays)


@row("names that are saved")
def test_names_are_strings(path):
    for names in ([1], [1, "1"], [b"a"], [None], [("a",)], ["a", 2.0]):
        with pytest.raises(TypeError, match="name"):
            pb.save_file({name: np.ones(1) for name in names}, path)
    for name in ("__metadata__", "\ud800", "a\udfffb"):
        with pytest.raises(ValueError):
            pb.save_file({name: np.ones(1)}, path)
    for mapping in (None, [("a", np.ones(1))], {"a"}, "a", np.ones(1)):
        with pytest.raises(TypeError, match="tensors must be a mapping"):
            pb.save_file(mapping, path)
    assert not path.exists()
    names = ["", "\x00", "\n", '"', "\\", "\u00e4", "\U0001f600", np.str_("numpy"), "x" * 10_000, "__metadata", "a.b", "\x7f", "\ufeff"]
    pb.save_file({name: np.ones(1) for name in names}, path)
    assert same(path, {name: np.ones(1) for name in names}) and reference_takes(path)


@row("metadata that is saved")
def test_metadata_are_strings(path):
    for metadata in ({1: "a"}, {"a": 1}, {"a": None}, {b"a": "b"}, {"a": ["b"]}, [("a", "b")], [], 5, "a", ""):
        with pytest.raises(TypeError, match="metadata"):
            pb.save_file(ARRAYS, path, metadata)
    with pytest.raises(ValueError):
        pb.save_file(ARRAYS, path, {"a": "\ud800"})
    assert not path.exists()
    for metadata in (None, {}, {"": "", "\u00e9": "\x00", "__metadata__": "a"}):
        pb.save_file(ARRAYS, path, metadata)
        assert _safetensors.read(path, mmap=True)[1] == (metadata or {}) and reference_takes(path)


@row("arrays that are saved")
def test_arrays_that_cannot_be_saved(path):
    for bad in (np.ma.masked_array([1.0, 2.0], [0, 1]), np.ma.masked_array([1.0, 2.0]), np.ma.masked, [1.0, np.ma.masked],
                [[np.ma.masked_array([1.0], [1])]], np.array([1j]), np.array(["a"]), np.array([None]), None, object(), "text",
                np.zeros(1, "f4,i2"), np.zeros(1, "M8[s]"), np.zeros(1, "V4")):
        with pytest.raises(TypeError):
            pb.save_file({"good": np.ones(1), "a": bad}, path)
    assert not path.exists()
    good = {"list": [[1, 2], [3, 4]], "number": 2.5, "flag": True, "subclass": np.ones(2).view(type("Sub", (np.ndarray,), {})), "swapped": np.arange(3, dtype=">c8"),
            "turned": np.arange(6.0).reshape(2, 3).T, "backwards": np.arange(5)[::-1], "apart": np.arange(9)[::3], "none": np.zeros((0, 3))}
    pb.save_file(good, path)
    assert same(path, {name: np.asarray(value) for name, value in good.items()}) and reference_takes(path)


def test_two_keys_that_read_alike_are_no_mapping(path):
    class Twice(dict):
        def items(self):
            return [("a", np.ones(1)), ("a", np.zeros(1))]

    with pytest.raises(ValueError, match="two tensors have the name 'a'"):
        pb.save_file(Twice(a=1), path)


@pytest.fixture(params=["without a name", "with a name"])
def way(request, monkeypatch):
    """Both ways of writing a file: Linux can do it without a name."""
    if request.param == "with a name":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    elif not hasattr(os, "O_TMPFILE"):
        pytest.skip("this system gives each file a name")
    return request.param


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.fixture
def umask():
    """Sets the umask for a test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


posix = pytest.mark.skipif(not POSIX, reason="modes are POSIX's")


@posix
@row("where a file is saved")
def test_a_new_file_has_the_mode_that_the_system_gives(tmp_path, umask, way):
    for mask in (0o022, 0o077, 0o002, 0o000, 0o027):
        umask(mask)
        pb.save_file(ARRAYS, tmp_path / f"{mask:o}")
        open(tmp_path / "plain", "w").close()
        assert mode(tmp_path / f"{mask:o}") == mode(tmp_path / "plain") == 0o666 & ~mask
        os.unlink(tmp_path / "plain")


@posix
@row("where a file is saved")
@pytest.mark.parametrize("bits", [0o600, 0o644, 0o640, 0o666, 0o400, 0o444, 0o755, 0o604, 0o000])
def test_the_mode_stays_and_is_never_more_open(path, umask, way, monkeypatch, bits):
    umask(0o022)
    path.write_bytes(b"private")
    os.chmod(path, bits)
    seen = []

    def watch(name, handle_of):
        call = getattr(os, name)

        def watched(*positional, **named):
            result = call(*positional, **named)
            handle = handle_of(positional, result)
            if stat.S_ISREG(os.fstat(handle).st_mode):
                seen.append(stat.S_IMODE(os.fstat(handle).st_mode))
            return result

        monkeypatch.setattr(os, name, watched)

    watch("open", lambda positional, result: result)
    watch("fchmod", lambda positional, result: positional[0])
    watch("fsync", lambda positional, result: positional[0])
    pb.save_file(ARRAYS, path)
    assert len(seen) >= 3 and all(found & ~bits == 0 for found in seen), [f"{found:o}" for found in seen]
    assert mode(path) == bits
    os.chmod(path, 0o600)
    assert same(path)


@posix
@row("where a file is saved")
def test_the_umask_is_never_touched(tmp_path, umask, monkeypatch):
    """Another thread's file was created under a umask of 0, and two saves at once could leave that for good."""
    umask(0o027)
    stop, modes = threading.Event(), set()

    def create():
        number = 0
        while not stop.is_set():
            name = tmp_path / f"other{threading.get_ident()}.{number}"
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o666))
            modes.add(mode(name))
            os.unlink(name)
            number += 1

    def save(number):
        for _ in range(40):
            pb.save_file(ARRAYS, tmp_path / f"saved{number}")

    creators = [threading.Thread(target=create) for _ in range(2)]
    savers = [threading.Thread(target=save, args=(number,)) for number in range(4)]
    # And nobody asks for it: that cannot be done without a change.
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask was set"))
    for thread in creators + savers:
        thread.start()
    for thread in savers:
        thread.join()
    stop.set()
    for thread in creators:
        thread.join()
    assert modes == {0o640}
    assert {mode(tmp_path / f"saved{number}") for number in range(4)} == {0o640}
    monkeypatch.undo()
    assert umask(0o027) == 0o027


@pytest.mark.skipif(not ROOT, reason="root may give files away")
@row("where a file is saved")
def test_the_owner_stays(path, way):
    path.write_bytes(b"old")
    os.chown(path, 12345, 54321)
    os.chmod(path, 0o640)
    pb.save_file(ARRAYS, path)
    found = os.stat(path)
    assert (found.st_uid, found.st_gid, mode(path)) == (12345, 54321, 0o640) and same(path)


@pytest.mark.skipif(not ROOT, reason="root may give files away")
@row("where a file is saved")
def test_another_group_gets_what_everybody_has(path, way, monkeypatch):
    """Where neither owner nor group can be kept, the bits of the group would be for another one."""
    def deny(*_):
        raise PermissionError(errno.EPERM, "denied")

    monkeypatch.setattr(os, "fchown", deny)
    for before, after in ((0o640, 0o600), (0o664, 0o644), (0o4755, 0o755), (0o660, 0o600), (0o644, 0o644)):
        path.write_bytes(b"old")
        os.chown(path, 12345, 54321)
        os.chmod(path, before)
        pb.save_file(ARRAYS, path)
        assert mode(path) == after
        os.unlink(path)


def access_list(*entries):
    """An access list as Linux keeps it: tags, rights and ids."""
    return b"\x02\x00\x00\x00" + b"".join(
        tag.to_bytes(2, "little") + rights.to_bytes(2, "little") + (who % 2**32).to_bytes(4, "little") for tag, rights, who in entries)


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="Linux keeps access lists so")
@row("where a file is saved")
def test_the_access_list_stays(path, way, monkeypatch):
    name = "system.posix_acl_access"
    # The owner all, user 1234 may read, the group nothing, mask r, others nothing: the mode's bits for the group are the mask.
    wanted = access_list((1, 6, -1), (2, 4, 1234), (4, 0, -1), (16, 4, -1), (32, 0, -1))
    path.write_bytes(b"old")
    try:
        os.setxattr(path, name, wanted)
    except OSError:
        pytest.skip("no access lists on this file system")
    assert mode(path) == 0o640
    pb.save_file(ARRAYS, path)
    assert os.getxattr(path, name) == wanted and mode(path) == 0o640

    def deny(*_, **__):
        raise PermissionError(errno.EPERM, "denied")

    # Without the list the group would get what the mask lets through.
    monkeypatch.setattr(os, "setxattr", deny)
    pb.save_file(ARRAYS, path)
    assert mode(path) == 0o600
    monkeypatch.undo()
    # A list that the folder gives to what is made in it is more than the old file had.
    os.unlink(path)
    path.write_bytes(b"old")
    os.chmod(path, 0o640)
    os.setxattr(path.parent, "system.posix_acl_default", access_list((1, 7, -1), (2, 7, 1234), (4, 5, -1), (16, 7, -1), (32, 0, -1)))
    pb.save_file(ARRAYS, path)
    with pytest.raises(OSError):
        os.getxattr(path, name)
    assert mode(path) == 0o640


@posix
@row("where a file is saved")
def test_a_link_is_followed(tmp_path, way):
    (tmp_path / "far").mkdir()
    target = tmp_path / "far" / "target"
    target.write_bytes(b"old")
    os.chmod(target, 0o600)
    os.symlink("far/target", tmp_path / "link")
    os.symlink(tmp_path / "link", tmp_path / "second")
    pb.save_file(ARRAYS, tmp_path / "second")
    assert os.path.islink(tmp_path / "second") and os.path.islink(tmp_path / "link") and same(target) and mode(target) == 0o600
    os.unlink(target)
    pb.save_file(ARRAYS, tmp_path / "link")
    assert os.path.islink(tmp_path / "link") and same(target)
    os.symlink("loop", tmp_path / "loop")
    with pytest.raises(OSError):
        pb.save_file(ARRAYS, tmp_path / "loop")
    os.symlink("nowhere/at/all", tmp_path / "broken")
    with pytest.raises(FileNotFoundError):
        pb.save_file(ARRAYS, tmp_path / "broken")
    os.link(target, tmp_path / "other name")
    pb.save_file({"new": np.ones(1)}, target)
    assert same(tmp_path / "other name") and same(target, {"new": np.ones(1)})
    assert sorted(os.listdir(tmp_path)) == ["broken", "far", "link", "loop", "other name", "second"]
    assert os.listdir(tmp_path / "far") == ["target"]


@posix
@row("where a file is saved")
def test_nothing_but_a_file_is_replaced(tmp_path, way):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    os.symlink("pipe", tmp_path / "link")
    for name, error in (("folder", IsADirectoryError), ("pipe", OSError), ("link", OSError), ("new/", OSError), ("no/such", FileNotFoundError), ("", OSError)):
        with pytest.raises(error) as caught:
            pb.save_file(ARRAYS, os.path.join(tmp_path, name))
        assert caught.value.filename == os.path.join(tmp_path, name)
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    assert sorted(os.listdir(tmp_path)) == ["folder", "link", "pipe"] and not os.listdir(tmp_path / "folder")
    with pytest.raises(OSError):
        pb.Linear(np.eye(2)).save(tmp_path / "link")
    with pytest.raises(TypeError):
        pb.save_file(ARRAYS, 1)
    pb.save_file(ARRAYS, os.fsencode(tmp_path / "bytes"))
    assert same(tmp_path / "bytes")


@row("saving that fails")
@pytest.mark.parametrize("call", ["fsync", "replace", "write"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space"), KeyboardInterrupt(), MemoryError()], ids=lambda error: type(error).__name__)
def test_what_fails_leaves_nothing(path, way, monkeypatch, call, error):
    pb.save_file(ARRAYS, path)
    before = path.read_bytes()

    def fail(*_, **__):
        raise error

    if call == "write":
        monkeypatch.setattr(np, "ascontiguousarray", fail)
    else:
        monkeypatch.setattr(os, call, fail)
    for target in (path, path.with_name("new")):
        with pytest.raises(type(error)):
            pb.save_file({"b": np.ones(10**5)}, target)
    monkeypatch.undo()
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


FULL = """
import resource, signal, os, sys
import numpy as np, polyglot_bridge as pb
if sys.argv[2] == "with a name":
    del os.O_TMPFILE
folder = sys.argv[1]
pb.save_file({"a": np.arange(3)}, folder + "/file")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for name in ("file", "new"):
    for size in (20_000, 10**6):
        try:
            pb.save_file({"a": np.zeros(size)}, f"{folder}/{name}")
        except OSError as error:
            print(error.errno, end=" ")
try:
    pb.Linear(np.zeros((1000, 1000))).save(folder + "/file")
except OSError as error:
    print(error.errno)
"""


def run(code, *arguments):
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120)


@posix
@row("saving that fails")
def test_a_full_disk(tmp_path, way):
    found = run(FULL, tmp_path, way)
    assert found.stdout.split() == [str(errno.EFBIG)] * 5, found.stderr
    assert os.listdir(tmp_path) == ["file"] and same(tmp_path / "file", {"a": np.arange(3)})


@pytest.mark.skipif(not ROOT or not sys.platform.startswith("linux"), reason="root may mount a small file system")
@row("saving that fails")
def test_a_small_file_system(tmp_path, way):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(tmp_path)], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        pb.save_file(ARRAYS, tmp_path / "file")
        for name in ("file", "new"):
            with pytest.raises(OSError) as caught:
                pb.save_file({"a": np.zeros(10**5)}, tmp_path / name)
            assert caught.value.errno == errno.ENOSPC
        assert os.listdir(tmp_path) == ["file"] and same(tmp_path / "file")
        left = os.statvfs(tmp_path).f_bavail
        pb.save_file(ARRAYS, tmp_path / "file")
        assert os.statvfs(tmp_path).f_bavail == left
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


KILLED = """
import os, signal, sys
import numpy as np, polyglot_bridge as pb
if sys.argv[2] == "with a name":
    del os.O_TMPFILE
def kill(handle):
    os.kill(os.getpid(), signal.SIGKILL)
os.fsync = kill
pb.save_file({"a": np.zeros(10**5)}, sys.argv[1])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_a_process_that_is_killed(path, way):
    pb.save_file(ARRAYS, path)
    found = run(KILLED, path, way)
    assert found.returncode == -signal.SIGKILL, found.stderr
    assert same(path)
    left = [name for name in os.listdir(path.parent) if name != path.name]
    if way == "with a name":
        assert len(left) == 1 and left[0].startswith(".polyglot-bridge-") and left[0].endswith(".tmp")
        assert list(path.parent.glob("*.safetensors")) == [path]
    else:
        assert not left


@posix
def test_a_file_system_that_forgets_the_umask(path, umask, monkeypatch):
    """So did Linux before 5.19, for files without a name, where there are no access lists."""
    if not hasattr(os, "O_TMPFILE"):
        pytest.skip("this system gives each file a name")
    before = os.open

    def forgetful(name, flags, mode=0o777, **named):
        handle = before(name, flags, mode, **named)
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            os.fchmod(handle, mode)
        return handle

    umask(0o077)
    monkeypatch.setattr(os, "open", forgetful)
    pb.save_file(ARRAYS, path)
    assert mode(path) == 0o600 and same(path) and os.listdir(path.parent) == [path.name]


def test_a_file_system_that_cannot_give_a_name_later(path, monkeypatch):
    """Some know files without a name, and others refuse to name them: then it is written again, with one."""
    def deny(*_, **__):
        raise OSError(errno.EPERM, "denied")

    monkeypatch.setattr(os, "link", deny)
    pb.save_file(ARRAYS, path)
    assert same(path) and os.listdir(path.parent) == [path.name]


def test_bytes_are_on_the_disk_before_the_name(path, way, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def synced(handle):
        found = os.fstat(handle)
        events.append("folder" if stat.S_ISDIR(found.st_mode) else found.st_size)
        fsync(handle)

    def replaced(*names):
        events.append("renamed")
        replace(*names)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    pb.save_file(ARRAYS, path)
    assert events == [path.stat().st_size, "renamed"] + ["folder"] * hasattr(os, "O_DIRECTORY")


@posix
def test_a_folder_that_cannot_be_synced(path, monkeypatch):
    fsync = os.fsync

    def refuse(code):
        def synced(handle):
            if stat.S_ISDIR(os.fstat(handle).st_mode):
                raise OSError(code, "no")
            fsync(handle)

        monkeypatch.setattr(os, "fsync", synced)

    refuse(errno.EINVAL)
    pb.save_file(ARRAYS, path)
    refuse(errno.EIO)
    with pytest.raises(OSError):
        pb.save_file(ARRAYS, path)
    assert same(path) and os.listdir(path.parent) == [path.name]


def test_threads_that_save_and_load_one_file(path):
    versions = [{"a": np.full(3000, number), "b": np.full(2, number)} for number in range(4)]
    pb.save_file(versions[0], path)
    stop, seen = threading.Event(), []

    def read():
        while not stop.is_set():
            loaded = pb.load_file(path)
            seen.append(loaded["a"].min() == loaded["a"].max() == loaded["b"].max())

    def save(number):
        for _ in range(40):
            pb.save_file(versions[number], path)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(4)]
    reader = threading.Thread(target=read)
    for thread in (*threads, reader):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    reader.join()
    assert seen and all(seen) and os.listdir(path.parent) == [path.name]
    assert any(same(path, version) for version in versions)


def test_a_header_that_is_too_long_is_not_written(path, monkeypatch):
    monkeypatch.setattr(_safetensors, "_LONGEST_HEADER", 1000)
    pb.save_file({"x" * 500: np.ones(1)}, path)
    with pytest.raises(ValueError, match="header"):
        pb.save_file({"x" * 1000: np.ones(1)}, path)
    assert list(pb.load_file(path)) == ["x" * 500]


def test_a_mapped_file_lies_on_cache_lines(path):
    """So does one in memory: then packed weights are used where they are."""
    pb.save_file({"c": np.ones(3, np.int8), "a": np.ones(16, F32), "b": np.ones((4, 4), F32), "d": np.ones(1)}, path)
    for mmap in (True, False):
        loaded = pb.load_file(path, mmap=mmap)
        assert all(loaded[name].ctypes.data % 64 == 0 for name in "ab")
    layer = pb.Linear(normal((40, 24), F32))
    layer.save(path)
    panels = pb.Linear.load(path, mmap=False)._panels()[0]
    assert panels.ctypes.data % 64 == 0


# --- Saved layers -----------------------------------------------------------------------------------------------------


def grid(shape, dtype):
    """The weights of the files in data/, exact in each dtype."""
    return ((np.add.outer(7 * np.arange(shape[0]), 3 * np.arange(shape[1])) % 19 - 9) / 8).astype(dtype)


def values(count, dtype=F32):
    """Their biases."""
    return ((5 * np.arange(count) % 13 - 6) / 4).astype(dtype)


def assert_first_version(name, layer):
    """A layer is what the code at bb9f99a saved."""
    if name == "stack":
        one, norm, inner, infinite, relu, last = layer
        two, rms, empty = inner
        assert (one.activation, one.in_features, one.out_features) == ("silu", 3, 5)
        assert np.array_equal(one.weight, grid((3, 5), F32)) and np.array_equal(one.bias, values(5))
        assert norm.eps == 0.25 and np.array_equal(norm.weight, values(5)) and np.array_equal(norm.bias, values(5)[::-1])
        assert two.dtype == np.float16 and np.array_equal(two.weight, grid((5, 2), np.float16)) and np.array_equal(two.bias, values(2))
        assert rms.name == "rms_norm" and np.array_equal(rms.weight, values(2) + 3) and rms.bias is None and len(empty) == 0
        assert infinite.eps == float("inf") and relu.name == "relu" and last.name == "log_softmax"
        return
    shapes = {"float16": (2, 17), "bfloat16": (2, 3), "no_rows": (0, 5), "no_columns": (4, 0)}
    dtype = {"bfloat16": BFLOAT16, "no_rows": F32, "no_columns": F32}.get(name) or np.dtype(name)
    shape = shapes.get(name, (3, 5))
    assert layer.dtype == dtype and np.array_equal(layer.weight, grid(shape, dtype))
    biased = name not in ("float64", "bfloat16", "no_rows")
    assert np.array_equal(layer.bias, values(shape[1])) if biased else layer.bias is None
    assert layer.activation == {"float32": "gelu", "float64": "tanh", "float16": "relu"}.get(name)
    assert layer(np.ones((2, shape[0]), dtype)).shape == (2, shape[1])


@row("saved layers")
@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("name", sorted(file.stem for file in DATA.glob("*.safetensors")))
def test_files_of_the_first_version(name, mmap):
    if name == "bfloat16" and BFLOAT16 is None:
        pytest.skip("needs ml_dtypes")
    kind = pb.Sequential if name == "stack" else pb.Linear
    assert_first_version(name, kind.load(DATA / f"{name}.safetensors", mmap=mmap))
    assert len(pb.Sequential.load(DATA / f"{name}.safetensors")) == (6 if name == "stack" else 1)


@pytest.mark.parametrize("protocol", [2, 5])
def test_pickles_of_the_first_version(protocol):
    if BFLOAT16 is None or np.lib.NumpyVersion(np.__version__) < "2.0.0":
        pytest.skip("written with ml_dtypes and NumPy 2")
    layers = pickle.loads((DATA / f"protocol{protocol}.pickle").read_bytes())
    assert len(layers) == 7
    for name, layer in layers.items():
        assert_first_version(name, layer)


LINEAR = {"kind": "linear", "shape": [3, 5], "bias": True, "activation": None, "dtype": "float32", "layout": 1}
NORM = {"kind": "row_operation", "name": "layer_norm", "eps": 1e-5, "weight": True, "bias": False}
PANELS = {"panels": ("F32", [48], bytes(192)), "bias": ("F32", [5], bytes(20))}


def saved(path, description, tensors):
    """A file of layers, made by hand."""
    header, body = {}, b""
    for name, (code, shape, data) in tensors.items():
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = description if isinstance(description, str) else json.dumps(description)
    header["__metadata__"] = {"format": "polyglot_bridge", "layers": text}
    return write(path, header, body)


def stack(*layers):
    return {"kind": "sequential", "layers": list(layers)}


@row("saved layers")
def test_the_layer_made_by_hand_is_one(path):
    layer = pb.Linear.load(saved(path, LINEAR, PANELS))
    assert layer(np.ones((1, 3), F32)).tolist() == [[0.0] * 5]
    inner = {f"0.{name}": value for name, value in PANELS.items()}
    assert len(pb.Sequential.load(saved(path, stack(LINEAR), inner))) == 1


WRONG = {
    **{f"all is {text[:20]}": text for text in ("null", "5", "[]", '"x"', "[null]", "true", "{}", "", "nonsense", "[" * 100_000, "{" * 300, '"\ud800"'.encode("unicode_escape").decode())},
    "kind unknown": LINEAR | {"kind": "conv"}, "kind null": LINEAR | {"kind": None}, "kind is a list": LINEAR | {"kind": []},
    **{f"without {key}": {name: value for name, value in LINEAR.items() if name != key} for key in LINEAR},
    **{f"layout {value!r}"[:30]: LINEAR | {"layout": value} for value in (-1, 0, 9, None, "1", 1.0, True, 2**32, 2**64, -(2**70), [1])},
    **{f"shape {value!r}"[:30]: LINEAR | {"shape": value} for value in (
        None, [], [3], [3, 5, 1], "35", 15, [3.0, 5], ["3", 5], [True, 5], [None, 5], [-3, 5], [[3], 5], {"0": 3, "1": 5}, [2**61, 5], [3, 2**61],
        [2**63, 2**63], [2**64, 5], [10**30, 5], [0, 2**40], [2**40, 0], [17, 5], [3, 17], [0, 5], [3, 6], [3, 4], [3, 0])},
    **{f"bias {value!r}": LINEAR | {"bias": value} for value in (None, 0, 1, "true", [], False)},
    **{f"activation {value!r}": LINEAR | {"activation": value} for value in (5, "", "reluu", [], True, {})},
    **{f"dtype {value!r}": LINEAR | {"dtype": value} for value in (None, 5, "float64", "float16", "int8", "", "f4", [])},
    "a field twice": json.dumps(LINEAR)[:-1] + ', "kind": "linear"}',
}
WRONG_STACKS = {
    **{f"layers {value!r}": {"kind": "sequential", "layers": value} for value in (None, 5, "x", {}, [None], [[]], [5], ["relu"], [{}], [NORM, None])},
    "no layers": {"kind": "sequential"},
    **{f"{key} {value!r}": stack(NORM | {key: value}) for key, value in [
        ("name", None), ("name", "conv"), ("name", 5), ("name", "softmax"), ("eps", "x"), ("eps", None), ("eps", []), ("eps", True), ("weight", 1),
        ("weight", None), ("weight", "yes"), ("weight", False), ("bias", True), ("bias", None)]},
    "does not fit": stack(NORM, NORM | {"weight": False}, LINEAR),
}


@row("saved layers", "sizes of saved layers")
@pytest.mark.parametrize("name", WRONG)
def test_descriptions_that_are_wrong(path, name):
    saved(path, WRONG[name], PANELS)
    for kind in (pb.Linear, pb.Sequential):
        message = refused(kind.load, path)
        assert message.startswith(f"{kind.__name__}.load: ")


@row("saved layers")
@pytest.mark.parametrize("name", WRONG_STACKS)
def test_descriptions_of_stacks_that_are_wrong(path, name):
    tensors = {"0.weight": ("F32", [4], bytes(16))}
    if name == "does not fit":
        tensors |= {f"2.{part}": value for part, value in PANELS.items()}
    refused(pb.Sequential.load, saved(path, WRONG_STACKS[name], tensors))


@row("saved layers")
@pytest.mark.parametrize("change", [
    {"panels": ("U8", [192], bytes(192))}, {"panels": ("F64", [24], bytes(192))}, {"panels": ("F32", [3, 16], bytes(192))}, {"panels": ("F32", [], bytes(4))},
    {"panels": ("F32", [47], bytes(188))}, {"panels": ("F32", [0], b"")}, {"bias": ("F32", [1, 5], bytes(20))}, {"bias": ("F32", [5, 1], bytes(20))},
    {"bias": ("F64", [5], bytes(40))}, {"bias": ("F32", [4], bytes(16))}, {"bias": ("I32", [5], bytes(20))}, {"bias": ("F4", [10], bytes(5))},
    {"bias": ("BF16", [5], bytes(10))}, {"more": ("U8", [1], b"1")}, {"0.panels": ("F32", [48], bytes(192))}], ids=str)
def test_tensors_that_do_not_fit_their_layers(path, change):
    refused(pb.Linear.load, saved(path, LINEAR, PANELS | change))


@row("saved layers")
def test_files_that_are_of_another_kind(path):
    for metadata in ({}, {"format": "pt"}, {"format": "polyglot_bridge"}, {"layers": "{}"}):
        pb.save_file({"panels": np.ones(48, F32)}, path, metadata)
        refused(pb.Linear.load, path)
    pb.Sequential(["relu"]).save(path)
    assert "holds a Sequential" in refused(pb.Linear.load, path)
    saved(path, NORM, {"weight": ("F32", [4], bytes(16))})
    assert "holds a RowOperation" in refused(pb.Linear.load, path)
    assert len(pb.Sequential.load(path)) == 1


@row("sizes of saved layers")
@pytest.mark.parametrize("columns", [2**20 + 1, 2**40, 2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64])
def test_features_that_no_byte_vouches_for(path, columns):
    """Of a kilobyte, the first call asked for 8 TB."""
    layer = LINEAR | {"bias": False}
    for first, second in (((0, columns), (columns, 0)), ((columns, 0), (0, columns))):
        layers = stack(layer | {"shape": first}, NORM | {"name": "relu", "eps": None, "weight": False}, layer | {"shape": second})
        tensors = {"0.panels": ("F32", [0], b""), "2.panels": ("F32", [0], b"")}
        refused(pb.Sequential.load, saved(path, layers, tensors))
        refused(pb.Linear.load, saved(path, layer | {"shape": first}, {"panels": ("F32", [0], b"")}))


@row("sizes of saved layers")
def test_layers_without_elements(path):
    for shape in ((0, 5), (5, 0), (0, 0), (0, 2**20), (2**20, 0)):
        pb.Linear(np.zeros(shape, F32)).save(path)
        layer = pb.Linear.load(path)
        assert (layer.in_features, layer.out_features) == shape
    # Columns with a bias are in the file.
    pb.Linear(np.zeros((0, 2**20 + 1), F32), np.zeros(2**20 + 1, F32)).save(path)
    assert pb.Linear.load(path).out_features == 2**20 + 1
    before = path.read_bytes()
    for shape in ((0, 2**20 + 1), (2**20 + 1, 0)):
        with pytest.raises(ValueError, match="no elements"):
            pb.Linear(np.zeros(shape, F32)).save(path)
        with pytest.raises(ValueError, match="no elements"):
            pb.Sequential([pb.Linear(np.zeros(shape, F32))]).save(path)
    assert path.read_bytes() == before


@row("stacks in stacks")
def test_depth(path):
    def nested(levels):
        text = "[]"
        for _ in range(levels):
            text = f'[{{"kind":"sequential","layers":{text}}}]'
        return text[1:-1]

    layers = pb.Sequential.load(saved(path, nested(64), {}))
    found = 1
    while len(layers):
        layers, found = layers[0], found + 1
    assert found == 64
    for levels in (65, 66, 100, 1000, 20_000):
        assert "more than 64 stacks lie in each other" in refused(pb.Sequential.load, saved(path, nested(levels), {}))
    # The deepest there is, with a layer in it.
    text = nested(64)[: -len("[]}" + "]}" * 63)] + f"[{json.dumps(LINEAR)}]}}" + "]}" * 63
    tensors = {"0." * 64 + name: value for name, value in PANELS.items()}
    assert pb.Sequential.load(saved(path, text, tensors))(np.ones((1, 3), F32)).shape == (1, 5)


@row("stacks in stacks")
def test_what_is_too_deep_is_not_saved(path):
    layers = pb.Sequential(["relu"])
    try:
        for _ in range(100):
            layers = pb.Sequential([layers])
    except ValueError:
        return
    with pytest.raises(ValueError, match="64"):
        layers.save(path)
    assert not path.exists()


def test_saved_layers_keep_what_was_saved(path):
    """Saving and loading again gives the same file."""
    for file in DATA.glob("*.safetensors"):
        pb.Sequential.load(file).save(path)
        first = path.read_bytes()
        pb.Sequential.load(path, mmap=False).save(path)
        assert path.read_bytes() == first and reference_takes(path)


# --- Configurations ---------------------------------------------------------------------------------------------------

CONFIG = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 10, "max_position_embeddings": 4}


def config_file(folder, found):
    file = folder / "config.json"
    file.write_bytes(found if isinstance(found, bytes) else (found if isinstance(found, str) else json.dumps(found)).encode())
    return file


@row("a configuration")
def test_configurations_that_are_taken(tmp_path):
    for more in ({}, {"model_type": "bert"}, {"is_decoder": False, "add_cross_attention": False}, {"x": [1, {"y": float("inf")}], "z": 10**40},
                 {"layer_norm_eps": 0.25}, {"layer_norm_eps": 0}):
        config = BertConfig.from_json(config_file(tmp_path, CONFIG | more))
        assert config.hidden_size == 8 and config.layer_norm_eps == more.get("layer_norm_eps", 1e-12)


@row("a configuration")
@pytest.mark.parametrize("found", [
    b"", "null", "5", "[]", '"x"', "[null]", "{", "nonsense", b"\xff", "{}".encode("utf-16"), "[" * 100_000, '{"a":' * 100_000,
    {}, *({name: value for name, value in CONFIG.items() if name != key} for key in list(CONFIG)[:4]),
    *(CONFIG | {key: value} for key in ("hidden_size", "num_hidden_layers", "vocab_size") for value in (None, 0, -1, 2.5, 8.0, "8", True, [8], {}, 10**30)),
    *(CONFIG | {"layer_norm_eps": value} for value in (None, "x", -1.0, True, [], float("nan"), float("inf"))),
    *(CONFIG | {"hidden_act": value} for value in (None, 5, "mish", [], {}, ["gelu"])), CONFIG | {"position_embedding_type": "relative_key"},
    CONFIG | {"position_embedding_type": None}, CONFIG | {"num_attention_heads": 3},
    *(CONFIG | {"model_type": value} for value in ("roberta", "xlm-roberta", "distilbert", "gpt2", "", None, 5, ["bert"])),
    CONFIG | {"is_decoder": True}, CONFIG | {"add_cross_attention": True}, json.dumps(CONFIG)[:-1] + f', "hidden_size": {"9" * 5000}}}'],
    ids=lambda found: str(found)[:40])
def test_configurations_that_are_refused(tmp_path, found):
    refused(BertConfig.from_json, config_file(tmp_path, found))


@row("a configuration")
def test_a_configuration_that_is_too_long(tmp_path):
    refused(BertConfig.from_json, config_file(tmp_path, b"{" + b" " * 2**24 + b"}"))


@row("weights of a model")
@pytest.mark.parametrize("key, value", [("num_hidden_layers", 2_000_000), ("num_hidden_layers", 2**62), ("hidden_size", 2**40), ("vocab_size", 2**63),
                                        ("max_position_embeddings", 2**64 - 1), ("intermediate_size", 2**50)])
def test_a_model_larger_than_its_file_is_refused_at_once(tmp_path, key, value):
    """Two million layers in a configuration of 100 bytes took more than 100 seconds."""
    weights = {name: normal(shape, F32) for name, shape in BertConfig(**CONFIG).shapes().items()}
    pb.save_file(weights, tmp_path / "model.safetensors")
    config = config_file(tmp_path, CONFIG | {key: value})
    begin = time.process_time()
    for path in (config, None):
        message = refused(lambda file, path=path: BertEncoder.from_safetensors(file, path), tmp_path / "model.safetensors")
        assert "do not fit the configuration" in message
    with pytest.raises(ValueError, match="do not fit"):
        BertEncoder(weights, BertConfig.from_json(config))
    assert time.process_time() - begin < 0.5


@row("weights of a model")
def test_the_first_weights_that_do_not_fit_are_named(tmp_path):
    config = BertConfig(**CONFIG)
    weights = {name: normal(shape, F32) for name, shape in config.shapes().items()}
    pb.save_file({name: value for name, value in weights.items() if "LayerNorm" not in name}, tmp_path / "model.safetensors")
    message = refused(lambda path: BertEncoder.from_safetensors(path, config), tmp_path / "model.safetensors")
    assert message.count("missing") == 6 and "more" not in message
    pb.save_file({}, tmp_path / "model.safetensors")
    message = refused(lambda path: BertEncoder.from_safetensors(path, config), tmp_path / "model.safetensors")
    assert message.count("missing") == 8 and message.endswith("and more")
    pb.save_file(weights | {"embeddings.LayerNorm.bias": np.zeros(8, np.int8)}, tmp_path / "model.safetensors")
    assert "has dtype int8" in refused(lambda path: BertEncoder.from_safetensors(path, config), tmp_path / "model.safetensors")
    if BFLOAT16 is not None:
        import ml_dtypes

        narrow = {name: value.astype(ml_dtypes.float8_e5m2) for name, value in weights.items()}
        with pytest.raises(ValueError, match="has dtype float8_e5m2, expected floats of 16 bits or more"):
            BertEncoder(narrow, config)
    with pytest.raises(TypeError, match="masked"):
        BertEncoder(weights | {"embeddings.LayerNorm.bias": np.ma.masked_array(np.zeros(8, F32))}, config)


@row("sizes of saved layers")
def test_every_replace_goes_one_way():
    """Nobody else in the package writes files, or asks for the umask."""
    for file in pathlib.Path(_replace.__file__).parent.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert "umask(" not in text and "tempfile" not in text.replace("import os, tempfile", "").replace("tempfile.TemporaryDirectory", ""), file
