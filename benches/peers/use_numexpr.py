"""How a numexpr user writes each case: the element-wise ones, as one expression each."""

from __future__ import annotations

import numexpr
import numpy as np
from cases import DROPOUT_SCALE, SCALE, Case
from snippet import Snippet, Unsupported

EXPRESSIONS = {
    "relu": "where(x > 0, x, 0)",
    "sigmoid": "1 / (1 + exp(-x))",
    "silu": "x / (1 + exp(-x))",
    "tanh": "tanh(x)",
    "scale": "x * factor",
    "dropout_add": "where(mask, x * factor, 0) + residual",
    "sum_of_squares": "sum(x * x)",
}


def start(threads: int) -> None:
    numexpr.set_num_threads(threads)


def version() -> str:
    return numexpr.__version__


def to_numpy(answer) -> np.ndarray:
    return np.asarray(answer)


def build(case: Case, arrays: dict, variant: str) -> Snippet:
    if case.op not in EXPRESSIONS:
        raise Unsupported("element-wise expressions only")
    if case.dtype == "float16":
        raise Unsupported("no float16")
    expression = EXPRESSIONS[case.op]
    if case.op == "dropout_add" and case.mask == "float":
        expression = "x * mask * factor + residual"
    dtype = np.dtype(case.dtype).type
    factor = dtype(SCALE if case.op == "scale" else DROPOUT_SCALE)
    # An array of the right dtype: a Python float would make the whole expression float64.
    names = {"evaluate": numexpr.evaluate, "values": {**arrays, "factor": np.asarray(factor)}, "expression": expression}
    if case.out:
        names["out"] = np.empty_like(arrays["x"])
        return Snippet(f"evaluate({expression!r}, values, out=out)", names)
    return Snippet(f"evaluate({expression!r}, values)", names)
