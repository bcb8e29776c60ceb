#!/usr/bin/env python3
"""Writes tests/vectors/: inputs in f64 and the correctly rounded results, for tests/accuracy.rs.

    pip install mpmath
    python tools/reference_vectors.py

A file a function, of three little-endian f64 an input: x, f(x), and what the rounding of f(x) took away, so that errors
are known to fractions of a unit. mpmath in 300 bits is the reference; it shares nothing with the crate. Inputs are
chosen to be hard: around zero, subnormals, the edges where results overflow or underflow, the borders of range
reduction, the places where an implementation changes its method, and random ones, evenly spread over the numbers as
well as over their exponents.
"""

import math
import random
import struct
from pathlib import Path

import mpmath
from mpmath import mp, mpf

mp.prec = 300

# The inputs that were the worst among millions tried, at one CPU level or another.
HARDEST = {
    "exp": [-4.500934846953644, -4.484897095841378, -678.2182269572457, -4.4937403869988115],
    "ln": [1.412959126021571, 2.673304959531672],
    "tanh": [
        0.5546759200512248, 0.12274895968790728, 0.1683455459998208, 0.1951276088486473, 0.5197017087191499,
        0.1734480057678802, 18.19511614766587,
    ],
    "erf": [0.8022547553514134, 0.8112870369763279],
}


def sigmoid(x):
    return 1 / (1 + mpmath.exp(-x))


def gelu(x):
    return x / 2 * mpmath.erfc(-x / mpmath.sqrt(2))


def gelu_tanh(x):
    return x * sigmoid(2 * mpmath.sqrt(2 / mpmath.pi) * (x + mpf("0.044715") * x**3))


# name: function, the range in which it does something, where an implementation is likely to change its method
FUNCTIONS = {
    "exp": (mpmath.exp, -745.2, 709.8, []),
    "ln": (mpmath.log, 2.0**-1074, 1.7e308, [1.0, math.sqrt(0.5), math.sqrt(2.0), 2.0**-1022]),
    "erf": (mpmath.erf, -6.0, 6.0, [0.5, 0.8, 0.84375, 1.0, 1.25, 2.857]),
    "sigmoid": (sigmoid, -745.2, 40.0, [36.7, -36.7, -708.4]),
    "tanh": (mpmath.tanh, -20.0, 20.0, [0.5, 0.55, 0.625, 1.0, 19.06]),
    "silu": (lambda x: x * sigmoid(x), -745.2, 40.0, [36.7, -36.7, -708.4]),
    "gelu": (gelu, -39.0, 9.0, [1.0, 2.0, 5.0, 8.3, 8.5, -37.5]),
    "gelu_tanh": (gelu_tanh, -22.0, 9.0, [1.0, 2.0, 5.0, 7.0, -21.6]),
}


def rounded(value):
    """To the nearest f64, ties to even, subnormals too."""
    if value == 0:
        return 0.0
    scaled = value * mpf(2) ** 1074
    if abs(scaled) < mpf(2) ** 53:
        return math.ldexp(int(mpmath.nint(scaled)), -1074)
    with mp.workprec(53):
        value = +value
    return math.copysign(math.inf, value) if abs(value) >= mpf(2) ** 1024 else float(value)


def around(x, steps=3):
    """x and its nearest neighbours."""
    below = above = x
    yield x
    for _ in range(steps):
        below, above = math.nextafter(below, -math.inf), math.nextafter(above, math.inf)
        yield below
        yield above


def inputs(name, low, high, borders):
    choose = random.Random(name)
    yield from HARDEST.get(name, [])
    for x in [0.0, 2.0**-1074, 2.0**-1022, 2.0**-54, 2.0**-27, 2.0**-8, low, high, *borders]:
        yield from around(x)
        yield from around(-x)
    # Halfway between multiples of ln 2, and those.
    for n in range(-40, 41):
        for part in (0.0, 0.5):
            yield from around(float((n + part) * mpmath.log(2)), 1)
            yield from around(float((n + part) * mpmath.log(2) / 2), 1)
    for _ in range(60):
        n = choose.randrange(-1075, 1025) + choose.choice((0.0, 0.5))
        yield from around(float(n * mpmath.log(2)), 1)
    for _ in range(250):
        yield choose.choice((-1, 1)) * choose.uniform(1, 2) * 2.0 ** choose.randrange(-60, 11)
        yield choose.uniform(low, high)
        yield choose.uniform(max(low, -3.0), min(high, 3.0))
    for _ in range(50):
        yield struct.unpack("<d", struct.pack("<Q", choose.getrandbits(64)))[0]
        yield choose.choice((-1, 1)) * choose.getrandbits(choose.randrange(1, 53)) * 2.0**-1074


def main():
    folder = Path(__file__).resolve().parent.parent / "tests" / "vectors"
    folder.mkdir(exist_ok=True)
    for name, (function, low, high, borders) in FUNCTIONS.items():
        threes = []
        for x in sorted(set(inputs(name, low, high, borders))):
            if not math.isfinite(x) or name == "ln" and x <= 0:
                continue
            # Beyond the range an exponential only wastes time, or memory.
            if name != "ln" and not -800 < x < 800:
                continue
            value = function(mpf(x))
            near = rounded(value)
            threes.append(struct.pack("<ddd", x, near, rounded(value - mpf(near)) if math.isfinite(near) else 0.0))
        (folder / f"{name}.f64").write_bytes(b"".join(threes))
        print(f"{name}: {len(threes)} inputs")


if __name__ == "__main__":
    main()
