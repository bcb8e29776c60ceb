"""How an OpenVINO user writes each case: a model with the weights in it, compiled for low latency, inputs shared."""

from __future__ import annotations

import numpy as np
import openvino
from cases import DROPOUT_SCALE, EPS, SCALE, Case
from openvino import opset13 as ops
from snippet import Snippet, Unsupported

threads_to_use = 1


def start(threads: int) -> None:
    global threads_to_use
    threads_to_use = threads


def version() -> str:
    return openvino.__version__.split("-")[0]


def to_numpy(answer) -> np.ndarray:
    return np.asarray(answer)


def activate(name: str | None, y):
    if name is None:
        return y
    if name == "gelu":
        return ops.gelu(y, "ERF")
    return {"relu": ops.relu, "sigmoid": ops.sigmoid, "tanh": ops.tanh, "silu": ops.swish}[name](y)


def build(case: Case, arrays: dict, variant: str) -> Snippet:
    if case.dtype == "float64":
        raise Unsupported("computes float64 in float32 on the CPU")
    if case.weights:
        raise Unsupported("no float16 weights beside float32")
    if case.out:
        raise Unsupported("not measured: results lie in the request's own memory anyway")
    dtype = np.dtype(case.dtype)
    fed = ["x"] + (["residual"] if case.residual else []) + (["residual", "mask"] if case.op == "dropout_add" else [])
    nodes = {name: ops.parameter(arrays[name].shape, arrays[name].dtype, name) for name in fed}
    x, last = nodes["x"], [len(case.shape) - 1]

    def constant(array):
        return ops.constant(np.ascontiguousarray(array, dtype=dtype))

    if case.op in ("linear", "matmul"):
        y = ops.matmul(x, constant(arrays["weight"]), False, False)
        if case.op == "linear":
            y = ops.add(y, constant(arrays["bias"]))
        if case.residual:
            y = ops.add(y, nodes["residual"])
        y = activate(case.activation, y)
    elif case.op == "softmax":
        y = ops.softmax(x, -1)
    elif case.op == "log_softmax":
        y = ops.log_softmax(x, -1)
    elif case.op == "layer_norm":
        y = ops.mvn(x, last, True, EPS, "INSIDE_SQRT")
        if case.affine:
            y = ops.add(ops.multiply(y, constant(arrays["weight"])), constant(arrays["bias"]))
    elif case.op == "rms_norm":
        mean = ops.reduce_mean(ops.multiply(x, x), np.array(last), True)
        y = ops.multiply(ops.divide(x, ops.sqrt(ops.add(mean, constant(EPS)))), constant(arrays["weight"]))
    elif case.op == "scale":
        y = ops.multiply(x, constant(SCALE))
    elif case.op == "dropout_add":
        if case.mask == "bool":
            y = ops.select(nodes["mask"], ops.multiply(x, constant(DROPOUT_SCALE)), constant(0))
        else:
            y = ops.multiply(ops.multiply(x, nodes["mask"]), constant(DROPOUT_SCALE))
        y = ops.add(y, nodes["residual"])
    elif case.op == "sum_of_squares":
        y = ops.reduce_sum(ops.multiply(x, x), np.array(last), False)
    else:
        y = activate(case.op, x)

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads_to_use, "NUM_STREAMS": 1}
    if case.dtype == "float32":
        settings["INFERENCE_PRECISION_HINT"] = "f32"  # never bfloat16, which some CPUs would choose
    model = openvino.Model([y], [nodes[name] for name in fed], "case")
    request = openvino.compile_model(model, "CPU", settings).create_infer_request()
    for place, name in enumerate(fed):
        request.set_input_tensor(place, openvino.Tensor(arrays[name], shared_memory=True))
    # The request's own buffers, in and out: the cheapest of the ways there are.
    names = {"request": request, "inputs": arrays}  # shared memory has to stay alive
    return Snippet("request.infer(share_inputs=True, share_outputs=True)[0]", names)
