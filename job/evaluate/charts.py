"""Line charts as inline SVG: no script, no fonts, colours from the page's style sheet (so that dark mode works)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

#: Size of the drawing in SVG units, and the margins around the plot: top, right, bottom, left.
WIDTH, HEIGHT = 480, 260
TOP, RIGHT, BOTTOM, LEFT = 16, 16, 44, 64
#: Maximum points drawn per line; more are averaged, since the screen has no more pixels.
MOST_POINTS = 400
#: Values that span more than this factor are drawn on a logarithmic scale.
LOG_FROM = 50.0

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: its name in the legend and the description.
        points: (step, value) in any order; non-finite values are not drawn, but counted in the description.
        style: class in the style sheet: `train` (solid) or `validation` (dashed, with markers).
    """

    name: str
    points: Sequence[Point]
    style: str

    @property
    def finite(self) -> list[Point]:
        """Return the finite points, sorted by step."""
        return sorted((x, y) for x, y in self.points if math.isfinite(x) and math.isfinite(y))


def line_chart(title: str, lines: Sequence[Line], identifier: str, *, may_be_log: bool = True) -> Markup | None:
    """Draw a chart of values over optimizer steps; None if there is nothing to draw.

    Args:
        title: what the values are; the accessible name of the drawing.
        lines: a few at most.
        identifier: unique on the page, letters and hyphens.
        may_be_log: whether values that span a large factor get a logarithmic scale.
    """
    drawn = [line for line in lines if line.finite]
    if not drawn:
        return None
    xs = [x for line in drawn for x, _ in line.finite]
    ys = [y for line in drawn for _, y in line.finite]
    across = Scale(min(xs), max(xs), LEFT, WIDTH - RIGHT, logarithmic=False)
    logarithmic = may_be_log and min(ys) > 0 and max(ys) / min(ys) > LOG_FROM
    up = Scale(min(ys), max(ys), HEIGHT - BOTTOM, TOP, logarithmic=logarithmic)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{identifier}-title {identifier}-about">',
        f'<title id="{identifier}-title">{escape(title)}</title>',
        f'<desc id="{identifier}-about">{escape(" ".join(describe(line) for line in lines))}</desc>',
    ]
    for tick in up.ticks():
        y = up(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    for tick in across.ticks():
        x = across(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{number(tick)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">step</text>')
    if logarithmic:
        parts.append(f'<text x="{WIDTH - RIGHT - 4}" y="{TOP + 14}" text-anchor="end">logarithmic scale</text>')
    parts += [_draw(line, across, up) for line in drawn]
    parts.append("</svg>")
    return Markup("".join(parts))


def describe(line: Line) -> str:
    """Describe a line in words, for screen readers."""
    points = line.finite
    missing = len(line.points) - len(points)
    lost = f" {missing} values are not finite." if missing else ""
    if not points:
        return f"{line.name}: no values.{lost}"
    step, lowest = min(points, key=lambda point: point[1])
    first, last = points[0], points[-1]
    return (
        f"{line.name}: {number(first[1])} at step {number(first[0])}, {number(last[1])} at step {number(last[0])}, "
        f"lowest {number(lowest)} at step {number(step)}.{lost}"
    )


@dataclass(frozen=True)
class Scale:
    """Mapping from values to positions on the drawing.

    Attributes:
        low: smallest value.
        high: largest value.
        start: position of the smallest.
        end: position of the largest.
        logarithmic: whether equal distances are equal factors.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool

    def __call__(self, value: float) -> float:
        """Return the position of a value; the middle if all values are equal."""
        low, high, at = (math.log10(v) if self.logarithmic else v for v in (self.low, self.high, value))
        share = (at - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return round values within the range: powers of ten and, if these are few, 2 and 5 times; or equal steps."""
        if self.high <= self.low:
            return [self.low]
        if self.logarithmic:
            exponents = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            factors = (1, 2, 5) if len(exponents) < 3 else (1,)
            below = range(exponents.start - 1, exponents.stop)
            candidates = [factor * 10.0**exponent for exponent in below for factor in factors]
            return [value for value in candidates if self.low <= value <= self.high]
        rough = (self.high - self.low) / 5
        magnitude = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Reduce to at most `most` points by averaging neighbours; the last point is kept unchanged."""
    if len(points) <= most:
        return list(points)
    size = math.ceil((len(points) - 1) / (most - 1))
    body = points[:-1]
    groups = [body[i : i + size] for i in range(0, len(body), size)]
    means = [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
    return [*means, points[-1]]


def number(value: float) -> str:
    """Format a number with four significant digits, without trailing zeros."""
    return f"{value:.4g}" if value < 1e4 or value != int(value) else f"{int(value)}"


def _draw(line: Line, across: Scale, up: Scale) -> str:
    positions = [(across(x), up(y)) for x, y in thin(line.finite)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in positions)
    drawing = f'<polyline class="line {line.style}" points="{path}"/>'
    if line.style == "validation" or len(positions) == 1:
        drawing += "".join(f'<circle class="dot {line.style}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in positions)
    return drawing
