"""Polyglot Bridge's own side of the race; with the variant "packed", `Linear` instead of `linear`."""

from __future__ import annotations

import numpy as np
import polyglot_bridge as pb
from cases import DROPOUT_SCALE, EPS, SCALE, Case
from snippet import Snippet, Unsupported


def start(threads: int) -> None:
    pb.set_num_threads(threads)


def version() -> str:
    return pb.__version__


def to_numpy(answer) -> np.ndarray:
    return np.asarray(answer)


def build(case: Case, arrays: dict, variant: str) -> Snippet:
    names = {**arrays, "SCALE": SCALE, "DROPOUT_SCALE": DROPOUT_SCALE, "EPS": EPS}
    out = ""
    if case.out:
        names["out"] = np.empty_like(arrays["x"])
        out = ", out=out"
    if case.op in ("linear", "matmul"):
        if variant == "packed":
            extras = {"activation": case.activation, "dtype": case.weights or None}
            bias = arrays.get("bias")
            if not hasattr(pb, "Linear"):
                raise Unsupported("no Linear yet")
            names["layer"] = pb.Linear(arrays["weight"], bias, **{k: v for k, v in extras.items() if v})
            return Snippet("layer(x, residual)" if case.residual else "layer(x)", names)
        if case.weights:
            raise Unsupported("linear takes one dtype for all")
        if case.op == "matmul":
            expression, function = "matmul(x, weight)", "matmul"
        else:
            activation = f", activation={case.activation!r}" if case.activation else ""
            residual = ", residual=residual" if case.residual else ""
            expression, function = f"linear(x, weight, bias{activation}{residual})", "linear"
    else:
        function = "sum_of_squares_numpy" if case.op == "sum_of_squares" else case.op
        arguments = {
            "layer_norm": "x, weight, bias, eps=EPS" if case.affine else "x, eps=EPS",
            "rms_norm": "x, weight, eps=EPS" if case.affine else "x, eps=EPS",
            "scale": "x, SCALE",
            "dropout_add": "x, residual, mask, DROPOUT_SCALE",
        }.get(case.op, "x")
        expression = f"{function}({arguments}{out})"
    if not hasattr(pb, function):
        raise Unsupported(f"no {function} yet")
    names[function] = getattr(pb, function)
    return Snippet(expression, names)
