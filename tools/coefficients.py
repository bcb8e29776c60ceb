#!/usr/bin/env python3
"""Finds the minimax polynomials and quotients of src/math/constants.rs and prints them.

    pip install mpmath
    python tools/coefficients.py

Each is found by Remez's exchange algorithm in 160 bits, for the relative error of the function that it ends up in (for
the normal distribution's tail: the error that gelu may have), and printed with that error. Rounding the
coefficients to f32 or f64 afterwards costs less than the approximation's own error.
"""

from functools import lru_cache

import mpmath
from mpmath import mp, mpf

mp.prec = 160


def chebyshev(low, high, steps):
    """`steps` + 1 points from `low` to `high`, dense at both ends"""
    middle, half = (low + high) / 2, (high - low) / 2
    return [middle - half * mpmath.cos(mpmath.pi * k / steps) for k in range(steps + 1)]


def extrema(errors, count):
    """Where the errors are greatest between their changes of sign: at most `count` places, as indices"""
    places, best = [], 0
    for index, error in enumerate(errors):
        if (error > 0) != (errors[best] > 0):
            places.append(best)
            best = index
        elif abs(error) > abs(errors[best]):
            best = index
    places.append(best)
    while len(places) > count:
        places.pop(0 if abs(errors[places[0]]) < abs(errors[places[-1]]) else -1)
    return places


def value(coefficients, x):
    return mpmath.polyval(coefficients[::-1], x)


def remez(function, weight, low, high, count, divisor=0, grid=1600, rounds=40):
    """The `count` coefficients of p and the `divisor` ones of q, lowest power first, that minimise
    max |weight (function - p / q)|, and that maximum. The highest power of q, not among its coefficients, has the
    coefficient one, so that q is one where `divisor` is 0.
    """
    low, high = mpf(low), mpf(high)
    unknown = count + divisor + 1
    dense = [(x, function(x), weight(x)) for x in chebyshev(low, high, grid)]
    # A quotient's extrema crowd where it changes most, which is at the lower end of what is approximated here.
    crowded = mpf("1.7") if divisor else mpf(1)
    points = [low + (high - low) * ((x - low) / (high - low)) ** crowded for x in chebyshev(low, high, count + divisor)]
    p, q, level = [], [mpf(1)] + [mpf(0)] * divisor, mpf(0)
    for _ in range(rounds):
        exact, scales = [function(x) for x in points], [weight(x) for x in points]
        # Equal errors of alternating sign at the points: (function -+ level / weight) q = p. The product of level and q
        # makes that a quadratic equation, solved by taking the last q for one of its factors.
        for _ in range(40 if divisor else 1):
            matrix = mpmath.matrix(unknown, unknown)
            right = mpmath.matrix(unknown, 1)
            for row, (x, y, scale) in enumerate(zip(points, exact, scales)):
                last = value(q, x)
                for power in range(count):
                    matrix[row, power] = x**power * scale / last
                for power in range(divisor):
                    matrix[row, count + power] = -y * x**power * scale / last
                matrix[row, unknown - 1] = (-1) ** row
                right[row] = y * x**divisor * scale / last
            solution = list(mpmath.lu_solve(matrix, right))
            change = abs(solution[-1] - level)
            p, q, level = solution[:count], [*solution[count:-1], mpf(1)], solution[-1]
            if change < abs(level) * mpf("1e-9"):
                break

        # The extrema of the error between its changes of sign are the next points.
        errors = [scale * (y - value(p, x) / value(q, x)) for x, y, scale in dense]
        places, worst = extrema(errors, unknown), max(abs(error) for error in errors)
        if len(places) < unknown or worst < abs(level) * mpf("1.0005"):
            break
        points = [dense[index][0] for index in places]
    return p, q[:-1], worst


def show(name, kind, function, weight, low, high, count, digits, divisor=0):
    p, q, worst = remez(function, weight, low, high, count, divisor)
    print(f"// {name} {kind}: 2^{mpmath.nstr(mpmath.log(worst, 2), 4)}")
    for label, coefficients in (("", p), ("divided by, after a one:", q)):
        if coefficients:
            print(label)
        for coefficient in reversed(coefficients):
            print(f"{mpmath.nstr(coefficient, digits)},")
    print(flush=True)


KINDS = (("f32", 12), ("f64", 20))
TINY = mpf("1e-30")


def exponential(r):
    """(e^r - 1 - r) / r^2"""
    return (mpmath.expm1(r) - r) / r**2 if abs(r) > mpf("1e-8") else mpf(1) / 2 + r / 6


def power_of_two(f):
    """(2^f - 1) / f"""
    return (mpf(2) ** f - 1) / f if abs(f) > TINY else mpmath.log(2)


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


SLOPE = 4 / mpmath.sqrt(2 * mpmath.pi)


def mills(x):
    """(tail(x) e^(x^2 / 2) (2 + x sqrt(8 / pi)) - 1) / x^2"""
    if x < mpf("1e-12"):
        return mpf(1) / 2 - 2 / mpmath.pi
    return (tail(x) * mpmath.exp(x * x / 2) * (2 + SLOPE * x) - 1) / x**2


def mills_weight(digits, loosest):
    """What the ratio is wanted for: half a unit in the last place of gelu down to -2, below it as much absolute, but not
    worse than `loosest`, so that a bfloat16, whose exponents reach far, is right."""

    def weight(x):
        allowed = mpf(2) ** -(digits + 1)
        if x > 2:
            allowed = min(mpf(loosest), max(allowed, mpf(2) ** -(digits + 1) / (x * tail(x))))
        share = x**2 / (1 + mills(x) * x**2)
        return (share + mpf("1e-9")) / allowed

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
        show("EXP2", kind, power_of_two, lambda f: 1 / power_of_two(f), -mpf("0.50005"), "0.50005", count, digits)
    for (kind, digits), count in zip(KINDS, (6, 11)):
        show("ERF", kind, error_function, relative(mpmath.erf), 0, mpf("0.8") ** 2, count, digits)
    for (kind, digits), count in zip(KINDS, (3, 7)):
        show("LN", kind, logarithm, lambda z: z / 2 + mpf("1e-9"), 0, (3 - 2 * mpmath.sqrt(2)) ** 2 * mpf("1.0001"),
             count, digits)
    # Here the error is in units of what is allowed.
    show("MILLS", "f32", mills, mills_weight(24, mpf(2) ** -9.5), 0, "14.45", 3, 12, divisor=4)
    show("MILLS", "f64", mills, mills_weight(53, mpf(2) ** -4), 0, "8.5", 7, 20, divisor=7)
    print("// MILLS_SLOPE\n" + mpmath.nstr(SLOPE, 20), end="\n\n")

    factor = 2 * mpmath.sqrt(2 / mpmath.pi)
    for (kind, _), bits in zip(KINDS, (12, 27)):
        high = mpmath.floor(factor * 2 ** (bits - 1)) / 2 ** (bits - 1)
        print(f"// GELU_TANH {kind}: high, low, cubic")
        print(mpmath.nstr(high, 30), mpmath.nstr(factor - high, 22), mpmath.nstr(factor * mpf("0.044715"), 22))


if __name__ == "__main__":
    main()
