"""How an ONNX Runtime user writes each case: a graph with the weights in it, optimised and run by a CPU session."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from cases import DROPOUT_SCALE, EPS, SCALE, Case
from onnx import TensorProto, helper, numpy_helper
from snippet import Snippet, Unsupported

TYPES = {
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "bool": TensorProto.BOOL,
}
ACTIVATIONS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "gelu": "Gelu"}
threads_to_use = 1


def start(threads: int) -> None:
    global threads_to_use
    threads_to_use = threads
    onnxruntime.set_default_logger_severity(3)


def version() -> str:
    return onnxruntime.__version__


def to_numpy(answer) -> np.ndarray:
    return np.asarray(answer[0]) if isinstance(answer, list) else np.asarray(answer)


class Graph:
    """A graph under construction: each call of `add` returns the name of the new value."""

    def __init__(self) -> None:
        self.nodes: list = []
        self.constants: list = []

    def constant(self, array) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, operator: str, *operands: str, **attributes) -> str:
        name = f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(operands), [name], **attributes))
        return name


def activate(graph: Graph, name: str | None, y: str) -> str:
    if name is None:
        return y
    if name == "silu":
        return graph.add("Mul", y, graph.add("Sigmoid", y))
    return graph.add(ACTIVATIONS[name], y)


def build(case: Case, arrays: dict, variant: str) -> Snippet:
    if case.weights:
        raise Unsupported("no float16 weights beside float32")
    graph = Graph()
    dtype = np.dtype(case.dtype).type
    fed = ["x"]
    one = np.ones(case.shape[-1], case.dtype)
    if case.op in ("linear", "matmul"):
        weight = graph.constant(arrays["weight"])
        if case.op == "matmul":
            y = graph.add("MatMul", "x", weight)
        else:
            y = graph.add("Gemm", "x", weight, graph.constant(arrays["bias"]))
        if case.residual:
            fed.append("residual")
            y = graph.add("Add", y, "residual")
        y = activate(graph, case.activation, y)
    elif case.op == "softmax":
        y = graph.add("Softmax", "x", axis=-1)
    elif case.op == "log_softmax":
        y = graph.add("LogSoftmax", "x", axis=-1)
    elif case.op == "layer_norm":
        weight, bias = arrays.get("weight", one), arrays.get("bias", np.zeros_like(one))
        y = graph.add("LayerNormalization", "x", graph.constant(weight), graph.constant(bias), axis=-1, epsilon=EPS)
    elif case.op == "rms_norm":
        y = graph.add("RMSNormalization", "x", graph.constant(arrays.get("weight", one)), axis=-1, epsilon=EPS)
    elif case.op == "scale":
        y = graph.add("Mul", "x", graph.constant(dtype(SCALE)))
    elif case.op == "dropout_add":
        fed += ["residual", "mask"]
        factor = graph.constant(dtype(DROPOUT_SCALE))
        if case.mask == "bool":
            y = graph.add("Where", "mask", graph.add("Mul", "x", factor), graph.constant(dtype(0)))
        else:
            y = graph.add("Mul", graph.add("Mul", "x", "mask"), factor)
        y = graph.add("Add", y, "residual")
    elif case.op == "sum_of_squares":
        y = graph.add("ReduceSumSquare", "x", keepdims=0)
    else:
        y = activate(graph, case.op, "x")

    def described(name: str):
        return helper.make_tensor_value_info(name, TYPES[str(arrays[name].dtype)], arrays[name].shape)

    result = helper.make_tensor_value_info(y, TYPES[case.dtype], None)
    model = helper.make_model(
        helper.make_graph(graph.nodes, "case", [described(name) for name in fed], [result], graph.constants),
        opset_imports=[helper.make_opsetid("", 23)],
        ir_version=min(onnx.IR_VERSION, 11),
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads_to_use
    options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as reason:
        if "NOT_IMPLEMENTED" in str(reason) or "NotImplemented" in type(reason).__name__:
            raise Unsupported(f"no {case.dtype} {case.op}") from None
        raise
    names = {"session": session, "inputs": {name: arrays[name] for name in fed}}
    if not case.out:
        return Snippet("session.run(None, inputs)", names)
    out = np.empty_like(arrays["x"])
    binding = session.io_binding()
    for name in fed:
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(arrays[name]))
    binding.bind_output(y, "cpu", 0, out.dtype.type, list(out.shape), out.ctypes.data)
    names |= {"binding": binding, "out": out}
    return Snippet("session.run_with_iobinding(binding) or out", names)
