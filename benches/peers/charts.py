"""Small charts as SVG text: the same bytes for the same data, readable on light and on dark pages."""

from __future__ import annotations

import dataclasses
import math
from html import escape

# A background of its own makes a chart readable wherever it is shown; the colours keep apart on both backgrounds.
STYLE = """
  .page { fill: #ffffff } .text { fill: #1f2328 } .faint { fill: #59636e } .grid { stroke: #d1d9e0 } .band { fill: #f6f8fa }
  .mark { stroke: #ffffff } .flag { stroke: #cf222e }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } .text { fill: #f0f6fc } .faint { fill: #9198a1 } .grid { stroke: #3d444d } .band { fill: #151b23 }
    .mark { stroke: #0d1117 } .flag { stroke: #ff7b72 }
  }
  text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif } .title { font-size: 15px; font-weight: 600 }
"""
OURS = ("#e8590c", "#f59f00")
THEIRS = ("#4c8eda", "#9c6ade", "#2da44e", "#8b949e", "#d6409f", "#12a5a5", "#a0762c", "#6b7280")
WIDTH = 880


@dataclasses.dataclass(frozen=True)
class Series:
    """Who the marks of one colour belong to."""

    key: str
    title: str
    ours: bool


def colours(series: list[Series]) -> dict[str, str]:
    """Give each series its colour."""
    mine, others = iter(OURS * 4), iter(THEIRS * 4)
    return {one.key: next(mine) if one.ours else next(others) for one in series}


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


def document(height: float, title: str, body: list[str]) -> str:
    """Put the parts into an SVG document."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}" '
            f'role="img" aria-label="{escape(title)}">',
            f"<style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{height:.0f}" rx="6"/>',
            f'<text class="text title" x="20" y="28">{escape(title)}</text>',
            *body,
            "</svg>",
            "",
        ]
    )


def legend(series: list[Series], y: float) -> tuple[list[str], float]:
    """Return the legend's parts and where it ends."""
    parts, x, colour = [], 20.0, colours(series)
    for one in series:
        width = 26 + 6.8 * len(one.title)
        if x + width > WIDTH - 20:
            x, y = 20.0, y + 20
        parts.append(f'<circle cx="{x + 6:.1f}" cy="{y - 4:.1f}" r="{6 if one.ours else 4.5}" fill="{colour[one.key]}"/>')
        parts.append(f'<text class="text" x="{x + 17:.1f}" y="{y:.1f}">{escape(one.title)}</text>')
        x += width
    return parts, y


def dots(title: str, rows: list[tuple[str, dict[str, float]]], series: list[Series], label: str) -> str:
    """Return a chart with a line per row and a dot per series, on a logarithmic axis."""
    left, right, step = 270.0, WIDTH - 30.0, 22.0
    parts, y = legend(series, 52)
    top = y + 36
    bottom = top + step * len(rows)
    scale = axis([value for _, values in rows for value in values.values()], left, right)
    for place in range(0, len(rows), 2):
        parts.append(f'<rect class="band" x="10" y="{top + place * step:.1f}" width="{WIDTH - 20}" height="{step}"/>')
    for tick in scale.ticks():
        x = scale(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{bottom:.1f}"/>')
        for at in (top - 6, bottom + 16):
            parts.append(f'<text class="faint" x="{x:.1f}" y="{at:.1f}" text-anchor="middle">{number(tick)}</text>')
    parts.append(f'<text class="faint" x="{(left + right) / 2:.1f}" y="{bottom + 34:.1f}" text-anchor="middle">{escape(label)}</text>')
    colour = colours(series)
    for place, (name, values) in enumerate(rows):
        middle = top + (place + 0.5) * step
        parts.append(f'<text class="text" x="{left - 14:.1f}" y="{middle + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        for one in sorted(series, key=lambda one: one.ours):  # ours on top
            if one.key in values:
                parts.append(
                    f'<circle class="mark" cx="{scale(values[one.key]):.1f}" cy="{middle:.1f}" r="{6 if one.ours else 4.5}" '
                    f'fill="{colour[one.key]}"><title>{escape(f"{one.title}, {name}: {values[one.key]:.3g}")}</title></circle>'
                )
    return document(bottom + 48, title, parts)


def lines(
    title: str, panels: dict[str, dict[str, list[tuple[float, float]]]], series: list[Series], across: str, up: str
) -> str:
    """Return small charts, two a line, each with a line per series, both axes logarithmic."""
    colour = colours([dataclasses.replace(one, ours=place > 0) for place, one in enumerate(series)])
    parts, x = [], 20.0
    for one in series:
        parts.append(f'<circle cx="{x + 6:.1f}" cy="48" r="5" fill="{colour[one.key]}"/>')
        parts.append(f'<text class="text" x="{x + 17:.1f}" y="52">{escape(one.title)}</text>')
        x += 26 + 6.8 * len(one.title)
    parts.append(f'<text class="faint" x="{x + 10:.1f}" y="52">{escape(up)} by number of {escape(across)}</text>')
    width, height = WIDTH / 2, 250.0
    all_points = [point for curves in panels.values() for points in curves.values() for point in points]
    for place, (name, curves) in enumerate(panels.items()):
        left, top = (place % 2) * width + 54, 70 + (place // 2) * height + 30
        right, bottom = (place % 2 + 1) * width - 20, 70 + (place // 2 + 1) * height - 30
        horizontal = axis([x for x, _ in all_points], left, right)
        vertical = axis([y for points in curves.values() for _, y in points], bottom, top)
        parts.append(f'<text class="text title" x="{left:.1f}" y="{top - 10:.1f}">{escape(name)}</text>')
        for tick in horizontal.ticks():
            at = horizontal(tick)
            parts.append(f'<line class="grid" x1="{at:.1f}" y1="{top:.1f}" x2="{at:.1f}" y2="{bottom:.1f}"/>')
            parts.append(f'<text class="faint" x="{at:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{number(tick)}</text>')
        for tick in vertical.ticks():
            at = vertical(tick)
            parts.append(f'<line class="grid" x1="{left:.1f}" y1="{at:.1f}" x2="{right:.1f}" y2="{at:.1f}"/>')
            parts.append(f'<text class="faint" x="{left - 6:.1f}" y="{at + 4:.1f}" text-anchor="end">{number(tick)}</text>')
        for one in series:
            points = [(horizontal(x), vertical(y)) for x, y in sorted(curves.get(one.key, []))]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour[one.key]}" stroke-width="2"/>')
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour[one.key]}"/>' for x, y in points]
    return document(70 + math.ceil(len(panels) / 2) * height + 10, title, parts)
