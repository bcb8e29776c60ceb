"""Small charts as SVG text: the same bytes for the same data, readable on light and on dark pages."""

from __future__ import annotations

import dataclasses
import math
from html import escape

# A background of its own makes a chart readable wherever it is shown; the colours keep apart on both backgrounds.
STYLE = """
  .page { fill: #ffffff } .text { fill: #1f2328 } .faint { fill: #59636e }
  .grid { stroke: #d1d9e0 } .band { fill: #f6f8fa } .mark { stroke: #ffffff }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } .text { fill: #f0f6fc } .faint { fill: #9198a1 }
    .grid { stroke: #3d444d } .band { fill: #151b23 } .mark { stroke: #0d1117 }
  }
  text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif } .title { font-size: 15px; font-weight: 600 }
"""
# Every system has one colour in all charts: ours are warm, those of others are not.
COLOURS = {
    "polyglot": "#e8590c",
    "packed": "#f59f00",
    "float16": "#f59f00",
    "numpy": "#4c8eda",
    "torch": "#9c6ade",
    "onnxruntime": "#2da44e",
    "jax": "#8b949e",
    "openvino": "#d6409f",
    "numba": "#12a5a5",
    "numexpr": "#a0762c",
    # Of ours alone, by the number of threads: the first is the one to compare with.
    "1": "#f59f00",
}
OURS, THEIRS = "#e8590c", "#6b7280"
WIDTH = 880


@dataclasses.dataclass(frozen=True)
class Series:
    """Who the marks of one colour belong to."""

    key: str
    title: str
    ours: bool


def colours(series: list[Series]) -> dict[str, str]:
    """Give each series the colour of its system."""
    return {one.key: COLOURS.get(one.key, OURS if one.ours else THEIRS) for one in series}


def number(value: float) -> str:
    """1000000 as "1M"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


@dataclasses.dataclass
class LogAxis:
    """Maps values to positions on a logarithmic scale."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        part = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return self.start + part * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return 1, 2 and 5 times powers of ten where there is room, else powers of ten."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1, 2, 5) if math.log10(self.high / self.low) <= 3 else (1,)
        marks = [step * 10.0**power for power in decades for step in steps]
        return [mark for mark in marks if self.low * 0.999 <= mark <= self.high * 1.001]


def axis(values: list[float], start: float, end: float) -> LogAxis:
    """Return an axis that has room for the values."""
    low, high = min(values, default=1.0), max(values, default=10.0)
    room = (max(high / low, 1.5)) ** 0.04
    return LogAxis(low / room, high * room, start, end)


def text(x: float, y: float, words: str, style: str = "faint", anchor: str = "start") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def dot(x: float, y: float, radius: float, colour: str, tip: str = "") -> str:
    inside = f"<title>{escape(tip)}</title>" if tip else ""
    return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}">{inside}</circle>'


def rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def document(height: float, title: str, body: list[str]) -> str:
    """Put the parts into an SVG document."""
    size = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">',
            f"<style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{height:.0f}" rx="6"/>',
            text(20, 28, title, "text title"),
            *body,
            "</svg>",
            "",
        ]
    )


def legend(series: list[Series], colour: dict[str, str], y: float) -> tuple[list[str], float]:
    """Return the legend's parts and the height of its last line."""
    parts, x = [], 20.0
    for one in series:
        width = 36 + 7 * len(one.title)
        if x + width > WIDTH - 20:
            x, y = 20.0, y + 20
        parts += [dot(x + 6, y - 4, 6 if one.ours else 4.5, colour[one.key]), text(x + 17, y, one.title, "text")]
        x += width
    return parts, y


def dots(title: str, rows: list[tuple[str, dict[str, float]]], series: list[Series], label: str) -> str:
    """Return a chart with a line per row and a dot per series, on a logarithmic axis."""
    left, right, step = 270.0, WIDTH - 30.0, 22.0
    colour = colours(series)
    parts, y = legend(series, colour, 52)
    top = y + 36
    bottom = top + step * len(rows)
    scale = axis([value for _, values in rows for value in values.values()], left, right)
    for place in range(0, len(rows), 2):
        at = top + place * step
        parts.append(f'<rect class="band" x="10" y="{at:.1f}" width="{WIDTH - 20}" height="{step:.0f}"/>')
    for tick in scale.ticks():
        x = scale(tick)
        parts.append(rule(x, top, x, bottom))
        parts += [text(x, at, number(tick), anchor="middle") for at in (top - 6, bottom + 16)]
    parts.append(text((left + right) / 2, bottom + 34, label, anchor="middle"))
    for place, (name, values) in enumerate(rows):
        middle = top + (place + 0.5) * step
        parts.append(text(left - 14, middle + 4, name, "text", "end"))
        for one in sorted(series, key=lambda one: one.ours):  # ours on top
            if one.key in values:
                tip = f"{one.title}, {name}: {values[one.key]:.3g}"
                parts.append(dot(scale(values[one.key]), middle, 6 if one.ours else 4.5, colour[one.key], tip))
    return document(bottom + 48, title, parts)


Curves = dict[str, list[tuple[float, float]]]


def lines(title: str, panels: dict[str, Curves], series: list[Series], across: str, up: str) -> str:
    """Return small charts, two a line, each with a curve per series, both axes logarithmic."""
    colour = colours(series)
    parts, y = legend(series, colour, 52)
    parts.append(text(WIDTH - 20, y, f"{up} by number of {across}", anchor="end"))
    width, height, start = WIDTH / 2, 250.0, y + 18
    everywhere = [x for curves in panels.values() for points in curves.values() for x, _ in points]
    for place, (name, curves) in enumerate(panels.items()):
        left, top = (place % 2) * width + 54, start + (place // 2) * height + 30
        right, bottom = (place % 2 + 1) * width - 20, start + (place // 2 + 1) * height - 30
        horizontal = axis(everywhere, left, right)
        vertical = axis([y for points in curves.values() for _, y in points], bottom, top)
        parts.append(text(left, top - 10, name, "text title"))
        for tick in horizontal.ticks():
            at = horizontal(tick)
            parts += [rule(at, top, at, bottom), text(at, bottom + 16, number(tick), anchor="middle")]
        for tick in vertical.ticks():
            at = vertical(tick)
            parts += [rule(left, at, right, at), text(left - 6, at + 4, number(tick), anchor="end")]
        for one in series:
            points = [(horizontal(x), vertical(y)) for x, y in sorted(curves.get(one.key, []))]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour[one.key]}" stroke-width="2"/>')
            parts += [dot(x, y, 3, colour[one.key]) for x, y in points]
    return document(start + math.ceil(len(panels) / 2) * height + 10, title, parts)
