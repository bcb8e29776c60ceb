"""How a JAX user writes each case: jax.jit on the CPU, arrays already JAX's own, the weights passed as arguments."""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from cases import DROPOUT_SCALE, EPS, SCALE, Case  # noqa: E402
from snippet import Snippet, Unsupported  # noqa: E402

ACTIVATIONS = {
    None: lambda y: y,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "silu": jax.nn.silu,
    "gelu": lambda y: jax.nn.gelu(y, approximate=False),
}


def start(threads: int) -> None:
    """XLA takes as many threads as the CPUs it may run on, which the driver has set."""
    jax.config.update("jax_enable_x64", True)


def version() -> str:
    return jax.__version__


def to_numpy(answer) -> np.ndarray:
    return np.asarray(answer)


def layer_norm(x, weight=None, bias=None):
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    y = wide - wide.mean(axis=-1, keepdims=True)
    y = (y * jax.lax.rsqrt(jnp.square(y).mean(axis=-1, keepdims=True) + EPS)).astype(x.dtype)
    return y if weight is None else y * weight + bias


def rms_norm(x, weight):
    return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + EPS) * weight


def build(case: Case, arrays: dict, variant: str) -> Snippet:
    if case.weights:
        raise Unsupported("no float16 weights beside float32")
    if case.out:
        raise Unsupported("JAX arrays are immutable")
    names = {name: jax.device_put(array) for name, array in arrays.items()}
    activation = ACTIVATIONS[case.activation]
    if case.op == "linear":
        arguments = "x, weight, bias"
        if case.residual:
            arguments += ", residual"
            function = lambda x, weight, bias, residual: activation(x @ weight + bias + residual)  # noqa: E731
        else:
            function = lambda x, weight, bias: activation(x @ weight + bias)  # noqa: E731
    else:
        function, arguments = {
            "matmul": (lambda x, weight: x @ weight, "x, weight"),
            "softmax": (lambda x: jax.nn.softmax(x, axis=-1), "x"),
            "log_softmax": (lambda x: jax.nn.log_softmax(x, axis=-1), "x"),
            "layer_norm": (layer_norm, "x, weight, bias" if case.affine else "x"),
            "rms_norm": (rms_norm, "x, weight"),
            "scale": (lambda x: x * SCALE, "x"),
            "dropout_add": (
                (lambda x, residual, mask: jnp.where(mask, x * DROPOUT_SCALE, 0) + residual)
                if case.mask == "bool"
                else (lambda x, residual, mask: x * mask * DROPOUT_SCALE + residual),
                "x, residual, mask",
            ),
            "sum_of_squares": (lambda x: jnp.vdot(x, x), "x"),
        }.get(case.op) or (ACTIVATIONS[case.op], "x")
    names["run"] = jax.jit(function)
    return Snippet(f"run({arguments}).block_until_ready()", names)
