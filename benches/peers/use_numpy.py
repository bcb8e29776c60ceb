"""How a NumPy user writes each case: the formula, with as few temporaries as it takes.

float16 is widened once, computed in float32 and narrowed once: several times faster than NumPy's own float16, and
more accurate. erf comes from SciPy.
"""

from __future__ import annotations

import numpy as np
from cases import DROPOUT_SCALE, EPS, SCALE, Case
from snippet import Snippet, Unsupported

try:
    from scipy.special import erf
except ImportError:
    erf = None


def start(threads: int) -> None:
    """NumPy's BLAS reads the number of threads from the environment."""


def version() -> str:
    return np.__version__


def to_numpy(answer) -> np.ndarray:
    return np.asarray(answer)


def activate(name, x, out=None):
    if name == "relu":
        return np.maximum(x, 0, out=out)
    if name == "tanh":
        return np.tanh(x, out=out)
    one = x.dtype.type(1)
    if name == "gelu":
        t = erf(x * x.dtype.type(0.5**0.5))
        t += one
        t *= x.dtype.type(0.5)
        t *= x
        return t
    t = np.negative(x)
    np.exp(t, out=t)
    t += one
    return np.divide(one if name == "sigmoid" else x, t, out=t)


def softmax(x):
    y = x - x.max(axis=-1, keepdims=True)
    np.exp(y, out=y)
    y /= y.sum(axis=-1, keepdims=True)
    return y


def log_softmax(x):
    y = x - x.max(axis=-1, keepdims=True)
    y -= np.log(np.exp(y).sum(axis=-1, keepdims=True))
    return y


def layer_norm(x, weight=None, bias=None):
    y = x - x.mean(axis=-1, keepdims=True)
    y /= np.sqrt(np.square(y).mean(axis=-1, keepdims=True) + y.dtype.type(EPS))
    if weight is not None:
        y *= weight
        y += bias
    return y


def rms_norm(x, weight):
    y = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + x.dtype.type(EPS))
    y *= weight
    return y


def dropout_add(x, residual, mask, out=None):
    y = np.multiply(x, x.dtype.type(DROPOUT_SCALE), out=out)
    y *= mask
    y += residual
    return y


def linear(x, weight, bias, residual, activation):
    y = x @ weight
    y += bias
    if residual is not None:
        y += residual
    return activate(activation, y, y) if activation else y


def build(case: Case, arrays: dict, variant: str) -> Snippet:
    names = {"np": np, "SCALE": SCALE, "activation": case.activation, "residual": None, **arrays}
    names |= {f.__name__: f for f in (softmax, log_softmax, layer_norm, rms_norm, dropout_add, linear)}
    if case.weights:
        raise Unsupported("no float16 weights beside float32")
    if erf is None and "gelu" in (case.op, case.activation):
        raise Unsupported("needs SciPy's erf")
    if case.out:
        names["out"] = np.empty_like(arrays["x"])
    x = "x"
    if case.dtype == "float16":
        x = "x.astype(np.float32)"
        for name in ("weight", "bias"):
            if name in arrays:
                names[name] = arrays[name].astype(np.float32)
    names["activate"] = activate
    expression = {
        "linear": f"linear({x}, weight, bias, residual, activation)",
        "matmul": f"{x} @ weight",
        "softmax": f"softmax({x})",
        "log_softmax": f"log_softmax({x})",
        "layer_norm": f"layer_norm({x}, weight, bias)" if case.affine else f"layer_norm({x})",
        "rms_norm": f"rms_norm({x}, weight)",
        "dropout_add": "dropout_add(x, residual, mask, out)" if case.out else f"dropout_add({x}, residual, mask)",
        "scale": "np.multiply(x, SCALE, out=out)" if case.out else "x * SCALE",
        "relu": "np.maximum(x, 0, out=out)" if case.out else "np.maximum(x, 0)",
        "tanh": f"np.tanh({x})",
        "sum_of_squares": f"np.dot({x}, {x})",
    }.get(case.op, f"activate({case.op!r}, {x})")
    if case.dtype == "float16" and case.op not in ("relu", "sum_of_squares"):
        expression = f"({expression}).astype(np.float16)"
    return Snippet(expression, names)
