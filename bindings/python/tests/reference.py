"""Each operation as a formula in float64 (long double where the machine has it), independent of the package."""

from __future__ import annotations

import numpy as np
import scipy.special

WIDE = np.longdouble


def softmax(x, axis=-1):
    x = np.asarray(x, WIDE)
    if x.ndim == 0:
        return x * 0 + 1
    if x.size == 0:
        return x
    with np.errstate(invalid="ignore"):
        e = np.exp(x - x.max(axis=axis, keepdims=True))
        return e / e.sum(axis=axis, keepdims=True)


def log_softmax(x, axis=-1):
    x = np.asarray(x, WIDE)
    if x.ndim == 0:
        return x * 0
    if x.size == 0:
        return x
    shifted = x - x.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def _along(vector, x, axis):
    shape = [1] * x.ndim
    if x.ndim:
        shape[axis] = -1
    return np.asarray(vector, WIDE).reshape(shape)


def layer_norm(x, weight=None, bias=None, eps=1e-5, axis=-1):
    x = np.asarray(x, WIDE)
    if x.size == 0:
        return x
    kept = {"axis": axis, "keepdims": True} if x.ndim else {}
    centred = x - x.mean(**kept)
    centred = centred - centred.mean(**kept)
    y = centred / np.sqrt((centred**2).mean(**kept) + WIDE(eps))
    y = y if weight is None else y * _along(weight, x, axis)
    return y if bias is None else y + _along(bias, x, axis)


def rms_norm(x, weight=None, eps=1e-6, axis=-1):
    x = np.asarray(x, WIDE)
    if x.size == 0:
        return x
    kept = {"axis": axis, "keepdims": True} if x.ndim else {}
    y = x / np.sqrt((x**2).mean(**kept) + WIDE(eps))
    return y if weight is None else y * _along(weight, x, axis)


def relu(x):
    x = np.asarray(x, np.float64)
    return np.where(x <= 0, 0.0, x)


def sigmoid(x):
    x = np.asarray(x, WIDE)
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def tanh(x):
    return np.tanh(np.asarray(x, WIDE))


def silu(x):
    x = np.asarray(x, WIDE)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where(x == -np.inf, 0, x / (1 + np.exp(-x)))


def gelu(x):
    x = np.asarray(x, np.float64)
    with np.errstate(invalid="ignore"):
        return np.where(x == -np.inf, 0, x * scipy.special.erfc(-x / np.sqrt(2.0)) / 2)


def gelu_tanh(x):
    x = np.asarray(x, WIDE)
    with np.errstate(invalid="ignore", over="ignore"):
        inner = np.sqrt(WIDE(2) / WIDE(np.pi)) * (x + WIDE("0.044715") * x**3)
        return np.where(x == -np.inf, 0, x / (1 + np.exp(-2 * inner)))


ACTIVATIONS = {
    None: lambda x: x,
    "relu": relu,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "silu": silu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
}
