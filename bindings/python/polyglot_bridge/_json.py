"""JSON that nobody has vouched for: read strictly, in time and memory that grow with its length and nothing else.

What is accepted is what serde_json accepts, the reader of the safetensors format's own library. Python's takes more
(`Infinity`, half of a surrogate pair, numbers beyond all range), loses duplicate keys, and needs the square of the time
for a number of many digits, and a deep stack for many brackets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np

# As many brackets may be open at once.
DEEPEST = 127

# What Python reads otherwise than serde_json does: integers of more than 64 bits, the integer -0 (there a float), powers of
# ten that may be out of range, halves of surrogate pairs.
_UNUSUAL = re.compile(rb"[0-9]{20}|-0|[eE]\+?[0-9]{3}|\\u[dD][89a-fA-F]")
# A surrogate pair, half of one (the group), or another escape.
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F])|.)", re.DOTALL)
_NUMBER = re.compile(r"-?([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?)([0-9]+))?")
_MOST = 2**64 - 1

# How many more brackets are open after each byte.
_STEPS = np.zeros(256, np.int8)
_STEPS[[*b"[{"]] = 1
_STEPS[[*b"]}"]] = -1
_CHUNK = 1 << 18


class TooDeepError(ValueError):
    """More brackets are open at once than the caller takes."""


def parse(data: bytes, *, deepest: int = DEEPEST, constants: bool = False) -> Any:
    """The value that a text stands for.

    Parameters
    ----------
    data : bytes
        UTF-8.
    deepest : int
        How many brackets may be open at once.
    constants : bool
        Whether NaN, Infinity and -Infinity are taken, which are no JSON but what Python writes.

    Returns
    -------
    tuple, list, str, int, float, bool or None
        An object is a tuple of pairs, in their order, duplicates and all. An integer is an int where it fits 64 bits,
        otherwise a float.

    Raises
    ------
    ValueError
        The text is none, with the place where that shows.
    """
    text = data.decode()
    if _depth(data, deepest) > deepest:
        raise TooDeepError(f"more than {deepest} brackets are open at once")
    integer: Callable[[str], Any] | None = None
    real: Callable[[str], Any] | None = None
    if _UNUSUAL.search(data):
        half = next((found for found in _ESCAPE.finditer(data) if found[1]), None)
        if half:
            raise ValueError(f"half of a surrogate pair at byte {half.start()}")
        integer, real = _integer, _real
    constant = None if constants else _constant
    decoder = json.JSONDecoder(object_pairs_hook=tuple, parse_int=integer, parse_float=real, parse_constant=constant)
    return decoder.decode(text)


def _depth(data: bytes, deepest: int) -> int:
    """How many brackets are open at once at most; of a text that is no JSON, any number."""
    most = data.count(b"[") + data.count(b"{")
    if most <= deepest:
        return most
    if b"\\" in data:
        data = re.sub(rb"\\.", b"", data, flags=re.DOTALL)
    codes = np.frombuffer(data, np.uint8)
    most = opened = quotes = 0
    for start in range(0, codes.size, _CHUNK):
        chunk = codes[start : start + _CHUNK]
        # Those after an odd number of quotes lie in a string.
        counted = np.cumsum(chunk == ord('"'), dtype=np.int64) + quotes
        levels = np.cumsum(np.where(counted & 1, 0, _STEPS[chunk]), dtype=np.int64) + opened
        most, opened, quotes = max(most, int(levels.max())), int(levels[-1]), int(counted[-1])
    return most


def _integer(text: str) -> int | float:
    if len(text) <= 20:
        number = int(text)
        if -(2**63) <= number <= _MOST and text != "-0":
            return number
    return _real(text)


def _real(text: str) -> float:
    """A float, out of range where serde_json finds it to be: it rounds each step, and counts 64 bits of digits."""
    number = float(text)
    if abs(number) < 1.79e308:
        return number
    whole, fraction, sign, digits = _NUMBER.findall(text)[0]
    significand, used = _digits(0, whole)
    power = len(whole) - used
    significand, used = _digits(significand, fraction)
    digits = digits.lstrip("0")
    # More than that are out of range, whatever stands before them.
    power += int(digits[:12] or "0") * (-1 if sign == "-" else 1) - used
    if significand and power >= 0 and (power > 308 or float(significand) * float(f"1e{power}") == float("inf")):
        raise ValueError(f"number out of range: {short(text)}")
    return number


def _digits(significand: int, digits: str) -> tuple[int, int]:
    """A number and the digits after it, as far as both fit 64 bits, and how many of the digits that are."""
    used = 0 if significand else len(digits) - len(digits.lstrip("0"))
    for digit in digits[used : used + 20]:
        if significand * 10 + int(digit) > _MOST:
            break
        significand, used = significand * 10 + int(digit), used + 1
    return significand, used


def _constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def write(value: object) -> bytes:
    """A value as JSON, without blanks."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def short(name: str) -> str:
    """A string for a message, which may be any."""
    return repr(name if len(name) <= 80 else name[:77] + "...")


def kind_of(value: object) -> str:
    """What a value is, for a message."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    names = {tuple: "an object", list: "an array", str: "a string", int: "an integer", float: "a float"}
    return names.get(type(value), type(value).__name__)


def shown(value: object) -> str:
    """A value for a message, itself where it is short."""
    if isinstance(value, str):
        return short(value)
    small = isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= 64)
    return repr(value) if small and not isinstance(value, bool) else kind_of(value)
