"""How a Numba user writes each case: the loop spelled out, compiled in parallel, with exact floating point."""

from __future__ import annotations

import math

import numba
import numpy as np
from cases import DROPOUT_SCALE, EPS, SCALE, Case
from numba import njit, prange
from snippet import Snippet, Unsupported


def start(threads: int) -> None:
    numba.set_num_threads(threads)


def version() -> str:
    return numba.__version__


def to_numpy(answer) -> np.ndarray:
    return np.asarray(answer)


@njit(parallel=True)
def softmax(x, out):
    for i in prange(x.shape[0]):
        row, result = x[i], out[i]
        largest = row[0]
        for j in range(row.size):
            largest = max(largest, row[j])
        total = row.dtype.type(0)
        for j in range(row.size):
            result[j] = math.exp(row[j] - largest)
            total += result[j]
        for j in range(row.size):
            result[j] /= total
    return out


@njit(parallel=True)
def log_softmax(x, out):
    for i in prange(x.shape[0]):
        row, result = x[i], out[i]
        largest = row[0]
        for j in range(row.size):
            largest = max(largest, row[j])
        total = row.dtype.type(0)
        for j in range(row.size):
            total += math.exp(row[j] - largest)
        shift = row.dtype.type(largest + math.log(total))
        for j in range(row.size):
            result[j] = row[j] - shift
    return out


@njit(parallel=True)
def layer_norm(x, weight, bias, out):
    one = x.dtype.type(1)
    for i in prange(x.shape[0]):
        row, result = x[i], out[i]
        mean = row.mean()
        centred = row - mean
        factor = one / np.sqrt(np.mean(centred * centred) + x.dtype.type(EPS))
        for j in range(row.size):
            result[j] = centred[j] * factor * weight[j] + bias[j]
    return out


@njit(parallel=True)
def plain_layer_norm(x, out):
    one = x.dtype.type(1)
    for i in prange(x.shape[0]):
        row, result = x[i], out[i]
        mean = row.mean()
        centred = row - mean
        factor = one / np.sqrt(np.mean(centred * centred) + x.dtype.type(EPS))
        for j in range(row.size):
            result[j] = centred[j] * factor
    return out


@njit(parallel=True)
def rms_norm(x, weight, out):
    one = x.dtype.type(1)
    for i in prange(x.shape[0]):
        row, result = x[i], out[i]
        factor = one / np.sqrt(np.mean(row * row) + x.dtype.type(EPS))
        for j in range(row.size):
            result[j] = row[j] * factor * weight[j]
    return out


@njit(parallel=True)
def relu(x, out):
    zero = x.dtype.type(0)
    for i in prange(x.size):
        out[i] = x[i] if x[i] > zero else zero
    return out


@njit(parallel=True)
def sigmoid(x, out):
    one = x.dtype.type(1)
    for i in prange(x.size):
        out[i] = one / (one + np.exp(-x[i]))
    return out


@njit(parallel=True)
def silu(x, out):
    one = x.dtype.type(1)
    for i in prange(x.size):
        out[i] = x[i] / (one + np.exp(-x[i]))
    return out


@njit(parallel=True)
def tanh(x, out):
    for i in prange(x.size):
        out[i] = np.tanh(x[i])
    return out


@njit(parallel=True)
def gelu(x, out):
    half, one, root = x.dtype.type(0.5), x.dtype.type(1), x.dtype.type(0.5**0.5)
    for i in prange(x.size):
        out[i] = half * x[i] * (one + math.erf(x[i] * root))
    return out


@njit(parallel=True)
def scale(x, factor, out):
    for i in prange(x.size):
        out[i] = x[i] * factor
    return out


@njit(parallel=True)
def dropout_add(x, residual, mask, factor, out):
    zero = x.dtype.type(0)
    for i in prange(x.size):
        out[i] = (x[i] * factor if mask[i] else zero) + residual[i]
    return out


@njit(parallel=True)
def sum_of_squares(x):
    total = 0.0
    for i in prange(x.size):
        total += x[i] * x[i]
    return total


def build(case: Case, arrays: dict, variant: str) -> Snippet:
    if case.dtype == "float16":
        raise Unsupported("no float16 on the CPU")
    if case.op in ("linear", "matmul"):
        raise Unsupported("leaves matrix products to BLAS, as NumPy does")
    dtype = np.dtype(case.dtype).type
    names = {**arrays, "np": np, "factor": dtype(SCALE if case.op == "scale" else DROPOUT_SCALE)}
    names["run"] = plain_layer_norm if case.op == "layer_norm" and not case.affine else globals()[case.op]
    if case.op == "sum_of_squares":
        return Snippet("run(x)", names)
    out = "np.empty_like(x)"
    if case.out:
        names["out"], out = np.empty_like(arrays["x"]), "out"
    arguments = {
        "layer_norm": "x, weight, bias" if case.affine else "x",
        "rms_norm": "x, weight",
        "scale": "x, factor",
        "dropout_add": "x, residual, mask, factor",
    }.get(case.op, "x")
    if case.op == "dropout_add" and len(case.shape) > 1:  # one loop over flat views
        names |= {name: array.reshape(-1) for name, array in arrays.items()} | {"shape": case.shape}
        return Snippet(f"run({arguments}, {out}).reshape(shape)", names)
    return Snippet(f"run({arguments}, {out})", names)
