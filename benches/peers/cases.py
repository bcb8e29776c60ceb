"""What is measured: every case with its inputs, its answer in float64 and how far an answer may be from it.

How a library computes a case is told in use_*.py; how it is timed in worker.py.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from pathlib import Path

import numpy as np

EPS = 1e-5
SCALE = 2.5
DROPOUT_SCALE = 1.25
SHORT = {"float16": "f16", "float32": "f32", "float64": "f64"}
# An answer is right where |answer - reference| <= TOLERANCE * (|reference| + mean |reference|). Wide enough for any
# sound way to compute in that type, far too narrow for a wrong formula or for sums kept in a smaller type.
TOLERANCE = {"float16": 4e-3, "float32": 2e-5, "float64": 1e-12}
# Most libraries sum millions of float32 in float32: slightly off is what their users accept.
SUM_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of a table: an operation on inputs of one shape and dtype."""

    op: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    columns: int = 0  # linear and matmul: columns of the weight
    activation: str | None = None  # linear
    residual: bool = False  # linear
    transposed: bool = False  # linear: the weight is the .T view of an (out, in) array, as in a PyTorch checkpoint
    weights: str = ""  # linear: the dtype in which a layer stores its weights, where it is not that of x
    affine: bool = False  # norms: with weight (and bias)
    mask: str = "bool"  # dropout_add: "bool" selects, "float" multiplies
    out: bool = False  # the result goes into an array that is there already

    @property
    def name(self) -> str:
        """The row's name, unique within its suite."""
        parts = []
        if self.op in ("linear", "matmul"):
            parts.append("x".join(map(str, (*self.shape, self.columns))))
            parts.append(SHORT[self.dtype])
            parts.append("matmul" if self.op == "matmul" else self.activation or "")
            parts.append("+ residual" if self.residual else "")
            parts.append("weight.T" if self.transposed else "")
            parts.append(f"{SHORT[self.weights]} weights" if self.weights else "")
        else:
            title = {
                "layer_norm": "layer norm",
                "rms_norm": "RMS norm",
                "log_softmax": "log softmax",
                "dropout_add": "dropout + residual",
                "scale": f"x * {SCALE}",
                "sum_of_squares": "sum of squares",
            }
            parts.append(title.get(self.op, self.op))
            if self.op == "layer_norm" and self.affine:
                parts.append("with weight and bias")
            parts.append(count(self.shape[0]) if len(self.shape) == 1 else "x".join(map(str, self.shape)))
            parts.append(SHORT[self.dtype])
            if self.op == "dropout_add":
                parts.append(f"{self.mask} mask")
        parts.append("out=" if self.out else "")
        return " ".join(part for part in parts if part)

    @property
    def flops(self) -> float:
        """Multiplications and additions of a matrix product; 0 for other operations."""
        return 2.0 * math.prod(self.shape) * self.columns

    @property
    def bytes_moved(self) -> float:
        """Bytes that have to be read and written at least."""
        size = np.dtype(self.dtype).itemsize
        elements = math.prod(self.shape)
        if self.op in ("linear", "matmul"):
            weight_size = np.dtype(self.weights or self.dtype).itemsize
            rows = elements // self.shape[-1]
            return size * (elements + rows * self.columns) + weight_size * self.shape[-1] * self.columns
        if self.op == "sum_of_squares":
            return size * elements
        if self.op == "dropout_add":
            return elements * (3 * size + (1 if self.mask == "bool" else size))
        return 2 * size * elements


def count(number: int) -> str:
    """1000000 as "1M"."""
    for unit, letter in ((1_000_000, "M"), (1_000, "k")):
        if number >= unit and number % unit == 0:
            return f"{number // unit}{letter}"
    return str(number)


def inputs(case: Case) -> dict[str, np.ndarray]:
    """Return the case's arrays: the same ones for every library and in every run."""
    random = np.random.default_rng(zlib.crc32(case.name.encode()))
    dtype = np.dtype(case.dtype)
    drawn = np.float64 if dtype == np.float64 else np.float32

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        array = random.standard_normal(shape, dtype=drawn)
        array *= drawn(scale)
        return array.astype(dtype, copy=False)

    arrays = {"x": normal(*case.shape, scale=3.0 if case.op in ("sigmoid", "tanh", "silu", "gelu") else 1.0)}
    if case.op in ("linear", "matmul"):
        inner, columns = case.shape[-1], case.columns
        scale = 1.0 / math.sqrt(max(inner, 1))
        if case.transposed:
            arrays["weight"] = normal(columns, inner, scale=scale).T
        else:
            arrays["weight"] = normal(inner, columns, scale=scale)
        if case.weights:  # exactly what the narrower type can hold, so that one reference serves both
            arrays["weight"] = arrays["weight"].astype(case.weights).astype(dtype)
    if case.op == "linear":
        arrays["bias"] = normal(columns)
        if case.residual:
            arrays["residual"] = normal(*case.shape[:-1], columns)
    if case.affine:
        arrays["weight"] = normal(case.shape[-1])
        if case.op == "layer_norm":
            arrays["bias"] = normal(case.shape[-1])
    if case.op == "dropout_add":
        arrays["residual"] = normal(*case.shape)
        mask = random.random(case.shape, dtype=np.float32) < 0.8
        arrays["mask"] = mask if case.mask == "bool" else mask.astype(dtype)
    return arrays


def reference(case: Case, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return the answer in float64, by formulas as plain as possible."""
    wide = {name: a if a.dtype == bool else a.astype(np.float64) for name, a in arrays.items()}
    x = wide["x"]
    if case.op == "matmul":
        return x @ wide["weight"]
    if case.op == "linear":
        y = x @ wide["weight"] + wide["bias"]
        if case.residual:
            y = y + wide["residual"]
        return activate(case.activation, y)
    if case.op in ("softmax", "log_softmax"):
        shifted = x - x.max(axis=-1, keepdims=True)
        total = np.exp(shifted).sum(axis=-1, keepdims=True)
        return np.exp(shifted) / total if case.op == "softmax" else shifted - np.log(total)
    if case.op in ("layer_norm", "rms_norm"):
        centred = x - x.mean(axis=-1, keepdims=True) if case.op == "layer_norm" else x
        y = centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + EPS)
        return y * wide.get("weight", 1.0) + wide.get("bias", 0.0)
    if case.op == "scale":
        return x * SCALE
    if case.op == "dropout_add":
        return np.where(wide["mask"] != 0, x * DROPOUT_SCALE, 0.0) + wide["residual"]
    if case.op == "sum_of_squares":
        return np.asarray(math.fsum((part * part).sum() for part in np.array_split(x, 1000)))
    return activate(case.op, x)


def activate(name: str | None, x: np.ndarray) -> np.ndarray:
    """Apply an activation in float64."""
    if name is None:
        return x
    if name == "relu":
        return np.where(x > 0, x, 0.0)
    if name == "tanh":
        return np.tanh(x)
    if name == "gelu":
        erf = np.fromiter(map(math.erf, (x.ravel() / math.sqrt(2)).tolist()), np.float64, x.size).reshape(x.shape)
        return 0.5 * x * (1 + erf)
    small = np.exp(-np.abs(x))
    sigmoid = np.where(x >= 0, 1.0, small) / (1 + small)
    return sigmoid if name == "sigmoid" else x * sigmoid


def what_is_wrong(case: Case, answer: np.ndarray, expected: np.ndarray) -> str:
    """Compare an answer with the reference: "" where it is right, else what is wrong with it."""
    answer = np.asarray(answer)
    if answer.shape != expected.shape:
        return f"shape {answer.shape}, not {expected.shape}"
    # A sum may be returned wider than it was asked for.
    if answer.dtype != case.dtype and not (case.op == "sum_of_squares" and answer.dtype == np.float64):
        return f"dtype {answer.dtype}, not {case.dtype}"
    answer, expected = answer.reshape(-1), expected.reshape(-1)
    summed = case.op == "sum_of_squares" and case.dtype != "float64"
    tolerance, step = SUM_TOLERANCE if summed else TOLERANCE[case.dtype], 1 << 20
    typical = float(np.abs(expected[:step]).mean()) if expected.size else 0.0
    worst = 0.0
    for start in range(0, expected.size, step):
        right = np.asarray(expected[start : start + step])
        distance = np.abs(answer[start : start + step].astype(np.float64) - right) / (np.abs(right) + typical)
        part = float(distance.max())
        if not part <= tolerance:  # also where it is NaN
            return f"off by {part:.1e} of the value, {tolerance:.0e} allowed"
        worst = max(worst, part)
    return ""


def save(case: Case, folder: Path) -> None:
    """Write the case's inputs and reference as .npy files for the workers to read."""
    arrays = inputs(case)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)  # keeps Fortran order, so a .T view stays one
    np.save(folder / "reference.npy", reference(case, arrays))


def load(folder: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Read back what `save` wrote."""
    arrays = {path.stem: np.load(path) for path in sorted(folder.glob("*.npy")) if path.stem != "reference"}
    return arrays, np.load(folder / "reference.npy", mmap_mode="r")


def linear_cases() -> list[Case]:
    """Return the rows of the linear suite."""

    def linear(m: int, k: int, n: int, activation: str | None = None, dtype: str = "float32", **more) -> Case:
        return Case("linear", (m, k), dtype, columns=n, activation=activation, **more)

    def matmul(m: int, k: int, n: int, dtype: str = "float32") -> Case:
        return Case("matmul", (m, k), dtype, columns=n)

    return [
        linear(1000, 512, 256, "relu", "float64"),
        linear(1000, 512, 256, "relu"),
        linear(128, 384, 1536, "gelu"),
        linear(512, 768, 3072),
        linear(64, 784, 128, "relu"),
        linear(8, 768, 3072, "relu"),
        linear(1, 768, 3072, "relu"),
        matmul(1024, 1024, 1024),
        matmul(1024, 1024, 1024, "float64"),
        # float16
        linear(256, 512, 512, None, "float16"),
        linear(1, 2048, 2048, None, "float16"),
        linear(128, 384, 1536, "gelu", "float16"),
        # one row, few rows
        linear(1, 2048, 2048),
        linear(1, 2048, 2048, weights="float16"),
        linear(1, 2048, 2048, None, "float64"),
        linear(2, 1024, 1024, "relu"),
        linear(4, 768, 768, "silu"),
        linear(16, 768, 3072, "gelu"),
        # tiny
        linear(1, 64, 32, "relu"),
        linear(1, 64, 32, "relu", "float64"),
        linear(8, 64, 128, "relu"),
        linear(1, 128, 10),
        # odd, next to the tile edges, tall and wide
        linear(37, 129, 65, "relu"),
        linear(37, 129, 65, "relu", "float64"),
        linear(1000, 3, 7),
        matmul(17, 1000, 1),
        linear(100000, 16, 16, "relu"),
        linear(255, 257, 259, "tanh"),
        matmul(64, 4096, 64),
        matmul(200, 200, 200, "float64"),
        # as models have them
        linear(128, 768, 768, residual=True),
        linear(128, 768, 768, transposed=True),
        linear(197, 768, 768, "gelu"),
    ]


def kernel_cases() -> list[Case]:
    """Return the rows of the suite of all other kernels."""
    million = (1_000_000,)
    return [
        Case("softmax", (1000, 1000), "float64"),
        Case("softmax", (1000, 1000)),
        Case("softmax", (1536, 128)),
        Case("softmax", (8, 50257)),
        Case("softmax", (1000, 1000), "float16"),
        Case("log_softmax", (1000, 1000)),
        Case("layer_norm", (512, 768), "float64"),
        Case("layer_norm", (512, 768)),
        Case("layer_norm", (4096, 1024), affine=True),
        Case("layer_norm", (512, 768), "float16"),
        Case("rms_norm", (512, 768), affine=True),
        Case("dropout_add", (512, 768)),
        Case("dropout_add", (512, 768), mask="float"),
        Case("dropout_add", (512, 768), "float16"),
        Case("sigmoid", million),
        Case("sigmoid", million, "float64"),
        Case("sigmoid", million, "float16"),
        Case("tanh", million),
        Case("silu", million),
        Case("gelu", million),
        Case("gelu", million, "float64"),
        Case("gelu", million, "float16"),
        Case("relu", million),
        Case("relu", million, "float64"),
        Case("relu", million, "float16"),
        Case("scale", (10_000_000,), "float64"),
        Case("scale", (10_000_000,), "float64", out=True),
        Case("scale", (10_000_000,), "float32", out=True),
        Case("relu", (10_000_000,), "float32", out=True),
        Case("dropout_add", (10_000_000,), "float32", mask="float", out=True),
        Case("sum_of_squares", (10_000_000,), "float64"),
        Case("sum_of_squares", (10_000_000,), "float32"),
        # what one call costs
        Case("relu", (16,)),
        Case("relu", (16,), out=True),
        Case("softmax", (1, 10)),
        Case("layer_norm", (1, 64)),
        Case("sigmoid", (100,)),
        Case("gelu", (1000,)),
    ]


def sweep_cases() -> list[Case]:
    """Return four operations from 16 to 100M elements, to see from which size on threads pay."""
    sizes = [16, 64, 256, *(1000 * 2**power for power in range(10)), 1_000_000, 4_000_000, 16_000_000, 100_000_000]
    rows = ("softmax", "layer_norm")
    return [
        Case(op, (max(size // 1000, 1), min(size, 1000)) if op in rows else (size,), out=True)
        for op in ("relu", "sigmoid", *rows)
        for size in sizes
    ]


SUITES = {"linear": linear_cases, "kernels": kernel_cases, "sweep": sweep_cases}
