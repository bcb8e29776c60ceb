"""How a PyTorch user writes each case: in inference mode, the weights (out, in) like a checkpoint's."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from cases import DROPOUT_SCALE, EPS, SCALE, Case
from snippet import Snippet, Unsupported


def start(threads: int) -> None:
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    torch.autograd.grad_mode.inference_mode(True).__enter__()  # for the life of this process


def version() -> str:
    return torch.__version__.split("+")[0]


def to_numpy(answer) -> np.ndarray:
    return np.asarray(answer.numpy())


def build(case: Case, arrays: dict, variant: str) -> Snippet:
    if case.weights:
        raise Unsupported("no float16 weights beside float32")
    names = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    names |= {"torch": torch, "F": F, "shape": case.shape[-1:]}
    names |= {"SCALE": SCALE, "DROPOUT_SCALE": DROPOUT_SCALE, "EPS": EPS}
    if case.out:
        names["out"] = torch.empty_like(names["x"])
    if case.op == "linear":
        names["weight"] = torch.from_numpy(arrays["weight"].T.copy())
        expression = "F.linear(x, weight, bias)"
        if case.residual:
            expression += ".add_(residual)"
        if case.activation:
            expression = f"{'F.' if case.activation in ('gelu', 'silu') else 'torch.'}{case.activation}({expression})"
        return Snippet(expression, names)
    expression = {
        "matmul": "torch.mm(x, weight)",
        "softmax": "torch.softmax(x, -1)",
        "log_softmax": "torch.log_softmax(x, -1)",
        "layer_norm": "F.layer_norm(x, shape, weight, bias, EPS)" if case.affine else "F.layer_norm(x, shape, eps=EPS)",
        "rms_norm": "F.rms_norm(x, shape, weight, EPS)",
        "dropout_add": "torch.addcmul(residual, x, mask, value=DROPOUT_SCALE)",
        "scale": "torch.mul(x, SCALE, out=out)" if case.out else "x * SCALE",
        "relu": "torch.clamp_min(x, 0, out=out)" if case.out else "torch.relu(x)",
        "sigmoid": "torch.sigmoid(x)",
        "tanh": "torch.tanh(x)",
        "silu": "F.silu(x)",
        "gelu": "F.gelu(x)",
        "sum_of_squares": "torch.dot(x, x)",
    }[case.op]
    if case.op == "dropout_add":
        if case.mask == "bool":  # addcmul wants one dtype
            expression = "torch.where(mask, x * DROPOUT_SCALE, 0).add_(residual)"
        elif case.out:
            expression = expression[:-1] + ", out=out)"
    return Snippet(expression, names)
