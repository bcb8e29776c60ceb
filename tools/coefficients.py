#!/usr/bin/env python3
"""Finds the minimax polynomials of src/math/constants.rs and prints them.

    pip install mpmath
    python tools/coefficients.py

Each polynomial is found by Remez's exchange algorithm in 160 bits, for the relative error of the function that it ends
up in (for the normal distribution's tail: the error that gelu may have), and printed with that error. Rounding the
coefficients to f32 or f64 afterwards costs less than the approximation's own error.
"""

from functools import lru_cache

import mpmath
from mpmath import mp, mpf

mp.prec = 160


def remez(function, weight, low, high, count, grid=1600, rounds=40):
    """The `count` coefficients, lowest power first, that minimise max |weight (function - p)|, and that maximum."""
    low, high = mpf(low), mpf(high)

    def chebyshev(steps):
        middle, half = (low + high) / 2, (high - low) / 2
        return [middle - half * mpmath.cos(mpmath.pi * k / steps) for k in range(steps + 1)]

    def value(coefficients, x):
        return mpmath.polyval(coefficients[::-1], x)

    points = chebyshev(count)
    dense = [(x, function(x), weight(x)) for x in chebyshev(grid)]
    for _ in range(rounds):
        # Equal errors of alternating sign at the points.
        matrix = mpmath.matrix(count + 1, count + 1)
        right = mpmath.matrix(count + 1, 1)
        for row, x in enumerate(points):
            scale = weight(x)
            for power in range(count):
                matrix[row, power] = x**power * scale
            matrix[row, count] = (-1) ** row
            right[row] = function(x) * scale
        solution = mpmath.lu_solve(matrix, right)
        coefficients, level = list(solution[:count]), abs(solution[count])

        # The extrema of the error between its changes of sign are the next points.
        errors = [scale * (exact - value(coefficients, x)) for x, exact, scale in dense]
        extrema, best = [], 0
        for index, error in enumerate(errors):
            if (error > 0) != (errors[best] > 0):
                extrema.append(best)
                best = index
            elif abs(error) > abs(errors[best]):
                best = index
        extrema.append(best)
        worst = max(abs(error) for error in errors)
        while len(extrema) > count + 1:
            extrema.pop(0 if abs(errors[extrema[0]]) < abs(errors[extrema[-1]]) else -1)
        if len(extrema) < count + 1 or worst < level * mpf("1.0005"):
            break
        points = [dense[index][0] for index in extrema]
    return coefficients, worst


def show(name, kind, function, weight, low, high, count, digits):
    coefficients, worst = remez(function, weight, low, high, count)
    print(f"// {name} {kind}: 2^{mpmath.nstr(mpmath.log(worst, 2), 4)}")
    for coefficient in reversed(coefficients):
        print(f"{mpmath.nstr(coefficient, digits)},")
    print(flush=True)


KINDS = (("f32", 12), ("f64", 20))
TINY = mpf("1e-30")


def exponential(r):
    """(e^r - 1 - r) / r^2"""
    return (mpmath.expm1(r) - r) / r**2 if abs(r) > mpf("1e-8") else mpf(1) / 2 + r / 6


def error_function(z):
    """erf(x) / x - 1, z = x^2"""
    if z < mpf("1e-12"):
        return 2 / mpmath.sqrt(mpmath.pi) * (1 - z / 3) - 1
    x = mpmath.sqrt(z)
    return mpmath.erf(x) / x - 1


def logarithm(z):
    """(ln((1 + s) / (1 - s)) - 2s) / s^3, z = s^2"""
    if z < mpf("1e-12"):
        return mpf(2) / 3 + 2 * z / 5
    s = mpmath.sqrt(z)
    return (mpmath.log((1 + s) / (1 - s)) - 2 * s) / (s * z)


@lru_cache(None)
def tail(x):
    """The normal distribution function at -x"""
    return mpmath.erfc(x / mpmath.sqrt(2)) / 2


def log_tail(x):
    """(ln(2 tail(x)) + x^2 / 2) / x + 1 / 2"""
    if x < mpf("1e-15"):
        return mpf(1) / 2 - mpmath.sqrt(2 / mpmath.pi)
    return (mpmath.log(2 * tail(x)) + x * x / 2) / x + mpf(1) / 2


def tail_weight(digits, loosest, far):
    """What the tail is wanted for: half a unit in the last place of gelu down to -2, below it as much absolute, but not
    worse than `loosest`, so that a bfloat16, whose exponents reach far, is right; beyond `far` next to nothing."""

    def weight(x):
        allowed = mpf(2) ** -(digits + 1)
        if x > 2:
            allowed = min(mpf(loosest), max(allowed, mpf(2) ** -(digits + 1) / (x * tail(x))))
        if x > far:
            allowed = mpf("0.25")
        return (x + mpf("1e-6")) / allowed

    return weight


def relative(function):
    """sqrt(z) / function(sqrt(z)), 1 at zero"""
    return lambda z: mpmath.sqrt(z) / function(mpmath.sqrt(z)) if z > 0 else mpf(1)


def main():
    half = mpmath.log(2) / 2 * mpf("1.0001")
    for (kind, digits), count in zip(KINDS, (5, 10)):
        show("EXP", kind, exponential, lambda r: abs(r * r / mpmath.expm1(r)) if abs(r) > mpf("1e-6") else abs(r) + TINY,
             -half, half, count, digits)
    for (kind, digits), count in zip(KINDS, (6, 11)):
        show("ERF", kind, error_function, relative(mpmath.erf), 0, mpf("0.8") ** 2, count, digits)
    for (kind, digits), count in zip(KINDS, (3, 7)):
        show("LN", kind, logarithm, lambda z: z / 2 + mpf("1e-9"), 0, (3 - 2 * mpmath.sqrt(2)) ** 2 * mpf("1.0001"),
             count, digits)
    # Here the error is in units of what is allowed.
    show("LOG_TAIL", "f32", log_tail, tail_weight(24, mpf(2) ** -9.5, mpf("13.4")), 0, "14.45", 12, 12)
    show("LOG_TAIL", "f64", log_tail, tail_weight(53, mpf(2) ** -4, mpf(99)), 0, "8.5", 24, 20)

    factor = 2 * mpmath.sqrt(2 / mpmath.pi)
    for (kind, _), bits in zip(KINDS, (12, 27)):
        high = mpmath.floor(factor * 2 ** (bits - 1)) / 2 ** (bits - 1)
        print(f"// GELU_TANH {kind}: high, low, cubic")
        print(mpmath.nstr(high, 30), mpmath.nstr(factor - high, 22), mpmath.nstr(factor * mpf("0.044715"), 22))


if __name__ == "__main__":
    main()
