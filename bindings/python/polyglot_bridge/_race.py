"""``python -m polyglot_bridge bench``: a few operations in turn with NumPy, best of many. The benchmark that counts, with
all peers in processes of their own, is the repository's."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from . import _core

_Array = np.ndarray[Any, Any]


@dataclass
class _Case:
    name: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    best: tuple[float, float] = (float("inf"), float("inf"))

    @property
    def ratio(self) -> float:
        return self.best[1] / self.best[0]


def _softmax(x: _Array) -> _Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def _layer_norm(x: _Array, weight: _Array, bias: _Array) -> _Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    return np.asarray(centred / np.sqrt(variance + np.float32(1e-5)) * weight + bias)


def _gelu_tanh(x: _Array) -> _Array:
    inner = np.float32(0.7978845608) * (x + np.float32(0.044715) * x * x * x)
    return np.asarray(np.float32(0.5) * x * (1 + np.tanh(inner)))


def _cases() -> list[_Case]:
    random = np.random.default_rng(0)

    def normal(*shape: int) -> _Array:
        return random.standard_normal(shape, np.float32)

    x, scores, tokens = normal(64, 784), normal(1000, 1000), normal(512, 768)
    first, second, bias = normal(784, 128), normal(128, 10), normal(128)
    wide, one = normal(768, 3072), normal(1, 768)
    weight, shift = normal(768), normal(768)
    packed = _core.Linear(wide, activation="relu")
    network = _core.Sequential([_core.Linear(first, bias, activation="relu"), _core.Linear(second), "softmax"])
    square, half = normal(512, 512), normal(256, 512).astype(np.float16)
    half_weight = square.astype(np.float16)

    def perceptron() -> _Array:
        return _softmax(np.maximum(x @ first + bias, 0) @ second)

    return [
        _Case("linear + relu, 64x784x128", lambda: _core.linear(x, first, bias, activation="relu"),
              lambda: np.maximum(x @ first + bias, 0)),
        _Case("Linear + relu, 1x768x3072", lambda: packed(one), lambda: np.maximum(one @ wide, 0)),
        _Case("Linear + relu, 512x768x3072", lambda: packed(tokens), lambda: np.maximum(tokens @ wide, 0)),
        _Case("matmul, 512x512x512", lambda: _core.matmul(square, square), lambda: square @ square),
        _Case("linear, float16, 256x512x512", lambda: _core.linear(half, half_weight),
              lambda: (half.astype(np.float32) @ half_weight.astype(np.float32)).astype(np.float16)),
        _Case("digits network, 64 rows", lambda: network(x), perceptron),
        _Case("softmax, 1000x1000", lambda: _core.softmax(scores), lambda: _softmax(scores)),
        _Case("layer_norm, 512x768", lambda: _core.layer_norm(tokens, weight, shift),
              lambda: _layer_norm(tokens, weight, shift)),
        _Case("gelu (tanh), 1000x1000", lambda: _core.gelu(scores, approximate="tanh"), lambda: _gelu_tanh(scores)),
        _Case("relu, 1000x1000", lambda: _core.relu(scores), lambda: np.maximum(scores, 0)),
    ]  # fmt: skip


def _once(f: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    f()
    return time.perf_counter() - begin


def _bar(done: float, name: str) -> None:
    if sys.stderr.isatty():
        width = 30
        filled = round(done * width)
        print(f"\r[{'#' * filled}{'.' * (width - filled)}] {done:4.0%} {name:<32}", end="", file=sys.stderr, flush=True)


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} µs"


def run(seconds: float, plot: str | None) -> None:
    """Races and prints a table; draws it where a file is named."""
    info = _core._info()
    cases = _cases()
    for index, case in enumerate(cases):
        begin, share = time.perf_counter(), seconds / len(cases)
        result, expected = np.asarray(case.ours()), np.asarray(case.theirs())
        if not np.allclose(result, expected, rtol=1e-2, atol=1e-2 * float(np.abs(expected).max())):
            raise AssertionError(f"{case.name}: the results differ")
        while (passed := time.perf_counter() - begin) < share:
            _bar((index + passed / share) / len(cases), case.name)
            # A few runs each, in turn, so that whatever else the machine does meets both alike, and the threads of
            # either have settled by the last of them.
            ours, theirs = min(_once(case.ours) for _ in range(5)), min(_once(case.theirs) for _ in range(5))
            case.best = (min(case.best[0], ours), min(case.best[1], theirs))
    _bar(1.0, "")
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(f"polyglot_bridge {info['version']} at {info['level']}, {info['threads']} threads; NumPy {np.__version__}")
    print(f"\n{'float32 unless said otherwise':<32}{'NumPy':>12}{'Polyglot':>12}{'ratio':>8}")
    for case in cases:
        print(f"{case.name:<32}{_time(case.best[1]):>12}{_time(case.best[0]):>12}{case.ratio:>8.2f}")
    mean = float(np.exp(np.mean([np.log(case.ratio) for case in cases])))
    print(f"\nratio: how many times faster than NumPy, best of many runs in turn; geometric mean {mean:.2f}")
    if plot:
        with open(plot, "w", encoding="utf-8") as file:
            file.write(
                _chart(cases, f"Times faster than NumPy {np.__version__}, {info['level']}, {info['threads']} threads")
            )
        print(f"chart: {plot}")


def _chart(cases: list[_Case], title: str) -> str:
    left, width, row, top = 230, 420, 30, 56
    most = max(1.0, *(case.ratio for case in cases))
    height = top + row * len(cases) + 24
    one = left + width / most
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 70} {height}" '
        'font-family="system-ui, sans-serif" font-size="13" role="img">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="16" y="28" font-size="16" font-weight="600" fill="#1c2733">{escape(title)}</text>',
    ]
    for index, case in enumerate(cases):
        y = top + index * row
        colour = "#2a6f97" if case.ratio >= 1 else "#b5523b"
        length = max(1.0, case.ratio / most * width)
        parts += [
            f'<text x="{left - 10}" y="{y + 15}" text-anchor="end" fill="#1c2733">{escape(case.name)}</text>',
            f'<rect x="{left}" y="{y}" width="{length:.1f}" height="20" rx="3" fill="{colour}"/>',
            f'<text x="{left + length + 6:.1f}" y="{y + 15}" fill="#1c2733">{case.ratio:.2f}</text>',
        ]
    parts += [
        f'<line x1="{one:.1f}" y1="{top - 8}" x2="{one:.1f}" y2="{height - 20}" stroke="#7b8794" stroke-dasharray="4 3"/>',
        f'<text x="{one:.1f}" y="{height - 6}" text-anchor="middle" fill="#566270">NumPy</text>',
        "</svg>\n",
    ]
    return "\n".join(parts)
