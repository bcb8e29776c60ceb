"""`explain`: runs one call and tells what it did. What happened is recorded by the extension module; words are made here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import _core

# What a kernel does with its operands, by the name of the function that enters it.
_PASSES = {
    "linear": "one pass: bias, residual and activation are applied to each tile of sums before it is stored",
    "matmul": "one pass: each tile of sums is stored once",
    "softmax": "one pass over memory: each row is read for its maximum, for the sum of exponentials and for the result "
    "while it lies in the cache",
    "log_softmax": "one pass over memory: each row is read again while it lies in the cache",
    "layer_norm": "one pass over memory: mean, variance and result are taken from each row while it lies in the cache",
    "rms_norm": "one pass over memory: the sum of squares and the result are taken from each row while it is in the cache",
    "elements": "one pass: each element is read once and written once",
    "reduce": "one pass: each element is read once",
    "sequential": "one pass over memory: a block of rows goes through all layers while it lies in the cache",
    "lists": "Python objects are read one by one",
}
_KERNELS = {
    "linear": ("linear", "fused_linear", "fused_linear_relu", "fused_linear_f32", "fused_linear_relu_f32", "Linear"),
    "matmul": ("matmul", "matmul_numpy", "matmul_numpy_f32"),
    "softmax": ("softmax", "fused_softmax"),
    "log_softmax": ("log_softmax",),
    "layer_norm": ("layer_norm", "fused_layer_norm"),
    "rms_norm": ("rms_norm",),
    "reduce": ("sum_of_squares_numpy", "sum_of_squares_numpy_f32"),
    "sequential": ("Sequential",),
    "lists": ("sum_of_squares", "matrix_multiply", "parallel_transform"),
    "elements": (
        *("relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh", "scale", "dropout_add", "fused_dropout_add"),
        *("relu_numpy", "relu_numpy_f32", "sigmoid_numpy", "sigmoid_numpy_f32"),
        *("parallel_map_numpy", "parallel_map_numpy_f32"),
    ),
}
_KERNEL_OF = {name: kernel for kernel, names in _KERNELS.items() for name in names}
_PLACES = {
    "new": "a new array",
    "cache": "a new array, in memory of the cache of results",
    "out": "written into out",
    "in place": "written over an input, in place",
}

# Which way a product went: see ARCHITECTURE.md, "Which way a product goes".
_PLANS = {
    "dot": "dot product",
    "gemv_rows": "gemv, weight read in place",
    "gemv_columns": "gemv, weight transposed in registers",
    "packed": "weight packed before the call",
    "in_place": "weight read in place",
    "pack_each_block": "packed for each block",
    "pack_once": "packed once",
}


@dataclass(frozen=True)
class Explanation:
    """What one call did; printed, it is a few lines of text.

    Attributes
    ----------
    call : str
        The name of what was called.
    kernel : str
        The kernels that it entered.
    level : str
        The CPU level that kernels were run at.
    computed_in : str or None
        The type that was computed in, where the result is an array.
    threads : int
        How many threads might work on it, the calling one among them.
    blocks : int
        Into how many blocks the work was cut; 1 where it was too small to share.
    copies : tuple of str
        What was copied beside the computation, and how many bytes; nothing where the call took its operands as they lie.
    copied_bytes : int
        The sum of those.
    passes : str
        How often memory is gone over.
    plans : tuple of str
        Which ways matrix products went, each once; nothing where the call made none.
    result : str
        Where the result lies.
    gil_released : bool
        Whether other Python threads could run meanwhile.
    value : object
        What the call returned.

    Examples
    --------
    >>> import numpy as np
    >>> import polyglot_bridge as pb
    >>> explanation = pb.explain(pb.relu, np.zeros(4), out=np.zeros(4))
    >>> explanation.threads, explanation.copied_bytes, explanation.result
    (1, 0, 'written into out of 32 bytes')
    """

    call: str
    kernel: str
    level: str
    computed_in: str | None
    threads: int
    blocks: int
    copies: tuple[str, ...]
    copied_bytes: int
    passes: str
    plans: tuple[str, ...]
    result: str
    gil_released: bool
    value: Any = field(repr=False)

    def __str__(self) -> str:
        share = "the calling thread alone" if self.threads == 1 else f"up to {self.threads}, for {self.blocks} blocks"
        lines = [
            ("kernel", self.kernel + (f", computed in {self.computed_in}" if self.computed_in else "")),
            ("CPU level", self.level),
            ("threads", share),
            ("GIL", "released" if self.gil_released else "kept: the work is too short to give it away"),
            ("copies", "; ".join(self.copies) or "none"),
            ("passes", self.passes),
            *([("plan", "; ".join(self.plans))] if self.plans else []),
            ("result", self.result),
        ]
        return "\n".join([self.call, *(f"  {name:<10} {text}" for name, text in lines)])


def _name(f: Any) -> str:
    if isinstance(f, _core.RowOperation):
        return f.name
    if isinstance(f, (_core.Linear, _core.Sequential)):
        return type(f).__name__
    return str(getattr(f, "__name__", type(f).__name__))


def explain(f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Explanation:
    """Runs one call and tells what it did: kernel, CPU level, threads, copies, passes and plans.

    Parameters
    ----------
    f : callable
        A function or a layer of this package.
    *args, **kwargs
        What to call it with.

    Returns
    -------
    Explanation
        Printed, it is a few lines of text; its attributes tell the same to programs, `value` is what the call returned.

    Raises
    ------
    TypeError
        `f` is not of this package; and whatever the call itself raises.

    Examples
    --------
    >>> import numpy as np
    >>> import polyglot_bridge as pb
    >>> pb.explain(pb.softmax, np.ones((4, 4))).copies
    ()
    >>> pb.explain(pb.softmax, [[1.0, 2.0]]).copies
    ('x, from a list: 16 bytes',)
    """
    name = _name(f)
    own = str(getattr(f, "__module__", None) or type(f).__module__).startswith("polyglot_bridge")
    if not callable(f) or not own or name.startswith("_") or isinstance(f, type):
        raise TypeError(f"explain: f must be a function or a layer of polyglot_bridge, not {f!r}")
    _core._record_start()
    try:
        value = f(*args, **kwargs)
    finally:
        events = _core._record_stop()
    copies, total, threads, blocks, place, released = [], 0, 1, 1, "a Python object", False
    plans: dict[str, None] = {}
    for kind, text, first, second in events:
        if kind == "copy":
            copies.append(f"{text}: {first} bytes")
            total += first
        elif kind == "plan":
            plans[_PLANS[text] + (f", {first} x {second} micro-kernel" if first else "")] = None
        elif kind == "split":
            blocks, threads = max(blocks, first), max(threads, second)
        elif kind == "result" and place == "a Python object":
            place = f"{_PLACES[text]} of {first} bytes"
        elif kind == "released":
            released = True
    dtype = getattr(value, "dtype", None)
    kernel = _KERNEL_OF.get(name, name)
    what = {
        "linear": "blocked matrix product with a fused end" + (" over a packed weight" if name == "Linear" else ""),
        "matmul": "blocked matrix product",
        "elements": f"{name}, element by element",
        "reduce": "sum of squares",
        "sequential": f"{len(f) if isinstance(f, _core.Sequential) else 0} layers, block of rows by block of rows",
        "lists": "lists of Python numbers",
    }.get(kernel, f"{kernel}, row by row" if kernel in _PASSES else kernel)
    return Explanation(
        call=name,
        kernel=what,
        level=_core._info()["level"],
        computed_in=None if dtype is None else ("float64" if dtype.name == "float64" else "float32"),
        threads=threads,
        blocks=blocks,
        copies=tuple(copies),
        copied_bytes=total,
        passes=_PASSES.get(kernel, "one call, see its documentation"),
        plans=tuple(plans),
        result=place,
        gil_released=released,
        value=value,
    )
