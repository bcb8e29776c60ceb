"""The reader of safetensors files against the format's own library, on files that chance has damaged.

`python fuzz_safetensors.py 100000` tries as many files, a second number says which; `make fuzz` runs it.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open

import polyglot_bridge as pb
from polyglot_bridge import _safetensors

BITS = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
        "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
        "C64": 64, "F64": 64, "I64": 64, "U64": 64}
NUMPY = {"BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "F16": "<f2", "I32": "<i4", "U32": "<u4", "F32": "<f4",
         "C64": "<c8", "F64": "<f8", "I64": "<i8", "U64": "<u8"}
ML_DTYPES = {"BF16": "bfloat16", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu",
             "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz"}

# Texts of JSON, or nearly, for wherever a value may stand.
VALUES = [
    "0", "1", "2", "3", "8", "-1", "-0", "-0.0", "0.0", "1.0", "2.9", "1e0", "1e1", "1E+2", "01", "+1", ".5", "1.", "0x1", "1_0",
    "4294967296", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809",
    "18446744073709551614", "18446744073709551615", "18446744073709551616", "2305843009213693951", "2305843009213693952",
    "1" + "0" * 30, "1" * 308, "1" * 309, "1" * 310, "9" * 400, "-" + "9" * 400, "1" * 5000,
    "1e308", "1e309", "-1e309", "1.7976931348623157e308", "1.7976931348623158e308", "1.7976931348623159e308",
    "17976931348623157081452742373170435679807056752584499659891747680315726078002853876058955863276687817154045895351438246423"
    "4321326889464182768467546703537516986049910576551282076245490090389328944075868508455133942304583236903222948165808559332"
    "123347747978" + "0" * 55,
    "1e-400", "0e999", "0.000e99999999999", "1e99999999999", "1e-99999999999", "1e2147483647", "1e2147483648",
    "0." + "0" * 400 + "1e700", "0." + "0" * 400 + "1e709", "0." + "0" * 400 + "1e710", "123456789012345678901234567890.5e280",
    "18446744073709551615.9e289", "1844674407370955161.60e290", "1844674407370955162e290", "1e0308", "1e00000000000000000309",
    "true", "false", "null", "NaN", "Infinity", "-Infinity", "nan", "True", "None", "[]", "{}", "[[]]", "[{}]", '{"a":1}', '{"":""}',
    '""', '"x"', '"F32"', '"1"', '"\\u0000"', '"\\ud800"', '"\\udc00"', '"\\ud83d\\ude00"', '"\\ud83d\\u0041"', '"\\ud800\\ud800\\udc00"',
    '"\\\\ud800"', '"\\\\\\ud800"', '"\\x41"', '"\\u12"', '"\\u 12"', '"\t"', '"\n"', '"\x7f"', '"\u00e4"', '"\U0001f600"', '"["', '"\\""', "'x'",
    "[0,0]", "[1,1]", "[0]", "[0,1,2]", "[0,8,]", "[,]", "[2.9]", '["2"]', "[true]", "[-5,7]", "[null]", "[[1]]", "[0,4294967296]",
    "[0," + "9" * 19 + "]", "[9223372036854775807,0]", "[9223372036854775808,0]", "[0,9223372036854775808]",
    "[4294967296,4294967296,0]", "[0,4294967296,4294967296]", "[0,4294967296,2147483647]", "[0,1152921504606846975]",
    "[0,1152921504606846976]", "[" + ",".join("1" * 64) + "]", "[" + ",".join("1" * 65) + "]", "[" + ",".join("0" * 70) + "]",
    "[" + ",".join(["1e308"] * 40) + "]", '{"F32":null}', '{"F32":{}}', '{"F32":[]}', '{"F32":0}', '{"F32":null,"F64":null}',
    '["F32",[1],[0,4]]', '["F32",[1],[0,4],0]', '["F32",[1]]',
    *("[" * n + "]" * n for n in (50, 124, 125, 126, 127, 128, 1000)), *('{"a":' * n + "0" + "}" * n for n in (60, 124, 125, 126, 127)),
    "[{" * 70 + "}]" * 70, "[" * 3000,
]
TOKENS = ["{", "}", "[", "]", ",", ":", '"', "\\", "\\u", "0", "1", "-", "e", ".", " ", "\t", "\n", "\r", "\x00", "\x0b", "\xa0", "\ufeff",
          "/**/", "//", "null", "true", '"__metadata__":', '"a":', "dtype", "shape", "data_offsets", "[" * 130, "]" * 130, "\u2028"]
NAMES = ["a", "b", "weight", "layer.0.bias", "", "__metadata__", "dtype", "\u00fc\u00f1", "\U0001f600", "x" * 200, "__metadata", "A"]


def pick(chance, likely, *others):
    """Mostly the first."""
    return likely if chance.random() < 0.75 else chance.choice(others)


def blank(chance):
    return chance.choice(["", "", "", " ", "\n\t", "\r  "])


def put(chance, pairs):
    """An object's text, its values being texts already; now and then with keys twice, in another order, or more of them."""
    pairs = [(json.dumps(key, ensure_ascii=chance.random() < 0.5), value) for key, value in pairs]
    if chance.random() < 0.04 and pairs:
        pairs.append((chance.choice(pairs)[0], chance.choice([chance.choice(pairs)[1], chance.choice(VALUES)])))
    if chance.random() < 0.04:
        pairs.append((json.dumps(chance.choice(NAMES)), chance.choice(VALUES)))
    if chance.random() < 0.02 and pairs:
        pairs.pop(chance.randrange(len(pairs)))
    if chance.random() < 0.1:
        chance.shuffle(pairs)
    return "{" + ",".join(f"{blank(chance)}{key}{blank(chance)}:{blank(chance)}{value}{blank(chance)}" for key, value in pairs) + "}"


def value(chance, right):
    """A value's text, rarely another one."""
    return chance.choice(VALUES) if chance.random() < 0.03 else right


def make(chance):
    """A file, one in three of them whole."""
    entries, at = [], 0
    for name in chance.sample(NAMES, chance.choice([0, 1, 1, 2, 3, 5])):
        if name == "__metadata__" and chance.random() < 0.8:
            continue
        code = chance.choice(list(BITS))
        shape = [chance.choice([0, 1, 2, 2, 3, 4, 8]) for _ in range(chance.choice([0, 1, 1, 2, 3]))]
        if BITS[code] < 8 and chance.random() < 0.9:
            shape.append(8)
        if chance.random() < 0.01:
            shape += [chance.choice([0, 1])] * chance.choice([60, 63, 64, 65])
        if chance.random() < 0.01:
            shape = [0, chance.choice([2**31, 2**59, 2**60, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64])]
            chance.shuffle(shape)
        count = 1
        for size in shape:
            count *= size
        length = count * BITS[code] // 8 if count < 2**20 else 0
        # Now and then a tensor begins a little before or after the end of the last, or has other bytes than it needs.
        begin = at + pick(chance, 0, *[0] * 20, 1, -1, 4, -4)
        end = begin + length + pick(chance, 0, *[0] * 20, 1, -1, 4)
        fields = [("dtype", value(chance, json.dumps(code))), ("shape", value(chance, json.dumps([*shape]))),
                  ("data_offsets", value(chance, f"[{value(chance, str(begin))},{value(chance, str(end))}]"))]
        if chance.random() < 0.03:
            entries.append((name, "[" + ",".join(text for _, text in fields) + "]"))
        else:
            entries.append((name, value(chance, put(chance, fields))))
        at = max(end, at)
    if chance.random() < 0.3:
        chance.shuffle(entries)
    if chance.random() < 0.4:
        pairs = [(key, value(chance, json.dumps(chance.choice(["", "pt", "\u00e9", '"']))))
                 for key in chance.sample(NAMES, chance.choice([0, 1, 2]))]
        entries.insert(chance.randrange(len(entries) + 1), ("__metadata__", value(chance, put(chance, pairs))))
    text = blank(chance) + put(chance, entries) + " " * chance.choice([0, 0, 1, 7])
    text = text.encode("utf-8", "surrogatepass")
    body = chance.randbytes(min(at, 4096))
    if chance.random() < 0.35:
        text = damage(chance, text)
    if chance.random() < 0.02:
        body = body[: chance.randrange(len(body) + 1)] if chance.random() < 0.5 else body + b"\x00"
    length = len(text)
    if chance.random() < 0.02:
        length = chance.choice([0, 1, max(length - 1, 0), length + 1, length + len(body), 10**8, 10**8 + 1, 2**63, 2**64 - 1, 2**64 - 8])
    data = length.to_bytes(8, "little") + text + body
    if chance.random() < 0.01:
        data = data[: chance.randrange(len(data) + 1)]
    return data


def damage(chance, text):
    """A text with a few changes of any kind."""
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        at = chance.randrange(len(text) + 1)
        match chance.randrange(9):
            case 0:
                text = text[:at] + bytes([chance.randrange(256)]) + text[at + 1 :]
            case 1:
                text = text[:at] + text[at + chance.choice([1, 1, 2, 5]) :]
            case 2:
                text = text[:at] + chance.choice(TOKENS).encode() + text[at:]
            case 3:
                text = text[:at] + text[max(at - chance.choice([1, 3, 12]), 0) :]
            case 4:
                digits = [place for place, code in enumerate(text) if 48 <= code < 58] or [0]
                at = chance.choice(digits)
                text = text[:at] + chance.choice(VALUES).encode("utf-8", "surrogatepass") + text[at + 1 :]
            case 5:
                colons = [place for place, code in enumerate(text) if code in b":,["] or [0]
                at = chance.choice(colons) + 1
                text = text[:at] + chance.choice(VALUES).encode() + text[at:]
            case 6:
                text = text[:at] + chance.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc3", b"\xef\xbb\xbf"]) + text[at:]
            case 7:
                text = text + chance.choice([b" ", b"\n", b"\x00", b"x", b"{}", b"\x0c"])
            case _:
                if chance.random() < 0.2:
                    text = text.decode("utf-8", "replace").encode(chance.choice(["utf-16", "utf-16-le", "utf-32", "utf-8-sig"]))
    return text


def beyond_numpy(code, shape):
    """Whether NumPy cannot hold what the format can."""
    most = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32
    room = max(BITS[code] // 8, 1)
    for size in shape:
        room *= size or 1
    return len(shape) > most or room >= 2**63 or max(shape, default=0) >= 2**63


def check(path, data, mmap=True):
    """Whether both readers take a file; an AssertionError where they differ."""
    with open(path, "wb") as file:
        file.write(data)
    try:
        with safe_open(path, framework="np") as theirs:
            names, metadata = theirs.keys(), theirs.metadata()
    except SafetensorError:
        names = metadata = None
    if names is None:
        refused(path, mmap)
        return False
    tensors = dict(deserialize(data))
    assert set(tensors) == set(names)
    if any(beyond_numpy(tensor["dtype"], tensor["shape"]) for tensor in tensors.values()):
        refused(path, mmap)
        return False
    ours = pb.load_file(path, mmap=mmap)
    assert set(ours) == set(tensors), (set(ours), set(tensors))
    assert _safetensors.read(path, mmap=mmap)[1] == (metadata or {})
    for name, tensor in tensors.items():
        dtype = NUMPY.get(tensor["dtype"])
        if dtype is None and tensor["dtype"] in ML_DTYPES:
            import ml_dtypes

            dtype = getattr(ml_dtypes, ML_DTYPES[tensor["dtype"]])
        if dtype is None:
            try:
                ours[name]
            except ValueError as error:
                assert path in str(error)
                continue
            raise AssertionError(f"{tensor['dtype']} has become an array")
        array = ours[name]
        assert array.dtype == dtype and array.shape == tuple(tensor["shape"]) and not array.flags.writeable
        assert array.tobytes() == bytes(tensor["data"])
    return True


def refused(path, mmap):
    try:
        found = pb.load_file(path, mmap=mmap)
    except ValueError as error:
        assert path in str(error) and len(str(error)) < 3000
    else:
        raise AssertionError(f"taken: {found!r:.200}")


def run(count, seed, folder):
    """Tries files; returns how many of them both readers take."""
    taken = 0
    path = os.path.join(folder, "file.safetensors")
    for number in range(count):
        chance = random.Random(f"{seed}.{number}")
        data = make(chance)
        try:
            taken += check(path, data, mmap=chance.random() < 0.5)
        except BaseException:
            print(f"file {number} of seed {seed}: {data!r:.3000}", file=sys.stderr)
            raise
    return taken


def main(count=100_000, seed=None):
    seed = random.randrange(2**32) if seed is None else seed
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        taken = run(count, seed, folder)
    print(f"safetensors: {count} files of seed {seed}, {taken} of them taken, by both readers alike, in {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
