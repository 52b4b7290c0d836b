"""Layout of the chart: a useful range, round ticks, and labels that do not overlap."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

CHARACTER = 0.56  # average width of a character, as a fraction of the font size
FIRST_STEPS = 1 / 6  # leave out a first gain if all later ones together are below this fraction of the range
GAP = 9  # pixels between a point and its label
SHIFTS = (0, 1, -1, 2, -2, 3, -3, 4, -4)  # lines by which a label may be moved, in order of preference
COVERED, TOO_MUCH = 2.0, 9.0
WORSE, BETTER = 0.6, 0.2  # margins around the running best, as a fraction of its range
FINEST = 1e-12  # the smallest range, as a fraction of the values: floating-point numbers have 15 digits
SMALLEST = 1e-4  # ticks below this have an exponent


@dataclass(frozen=True)
class Axis:
    """A linear axis that maps values from `low` to `high` to pixels from `first` to `last`; `first` may be larger."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a value. A value out of range is put at the edge."""
        part = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.first + part * (self.last - self.first)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Box:
    left: float
    top: float
    right: float
    bottom: float

    def holds(self, other: Box) -> bool:
        across = self.left <= other.left and other.right <= self.right
        return across and self.top <= other.top and other.bottom <= self.bottom

    def meets(self, other: Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


def interesting(best: Sequence[float], values: Sequence[float], noise: float, down: bool) -> tuple[float, float]:
    """Return the range of values to draw: the running best, and the values near it.

    A first gain that dwarfs all later ones is left out, since it would flatten them to a straight line.

    Args:
        best: metrics of the running best, in order.
        values: all values.
        noise: standard deviation of one run; 0 if unknown.
        down: whether lower is better.
    """
    core = list(best)
    while len(core) > 3 and _span(core[1:]) < FIRST_STEPS * _span(core):
        core = core[1:]
    reach = max(_span(core), 6 * noise)
    if _span(core) == 0:
        quarter, middle, last = statistics.quantiles([*values, *values], n=4)
        reach = max(reach, 2 * (last - quarter), 1.5 * abs(middle - core[0]))
    reach = max(reach or 1e-3 * abs(core[0]) or 1.0, FINEST * max(map(abs, core)))
    above, below = (WORSE, BETTER) if down else (BETTER, WORSE)
    low, high = min(core) - below * reach, max(core) + above * reach
    near = [value for value in (*values, *core) if low <= value <= high]
    edge = 0.04 * reach
    return max(low, min(near) - max(edge, 1.5 * noise)), min(high, max(near) + max(edge, 1.5 * noise))


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round values between low and high."""
    rough = (high - low) / max(count, 1)
    exponent = math.floor(math.log10(rough))
    power = 10.0**exponent
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
    first = math.ceil(low / step)
    return [round(index * step, max(0, 1 - exponent)) for index in range(first, math.floor(high / step) + 1)]


def written(values: Sequence[float]) -> list[str]:
    """Format ticks with as few decimals as tell them apart, large ones in thousands (k) or millions (M)."""
    largest = max(map(abs, values), default=0.0)
    if 0 < largest < SMALLEST:
        return [f"{value:.{_digits(values, largest)}g}" for value in values]
    unit, letter = (1e6, " M") if largest >= 1e6 else (1e3, " k") if largest >= 1e5 else (1.0, "")
    values = [value / unit for value in values]
    step = min((b - a for a, b in pairwise(values)), default=1.0)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{value:,.{decimals}f}{letter if value else ''}" for value in values]


def _digits(values: Sequence[float], largest: float) -> int:
    """Return the significant digits of the largest tick that tell neighbors apart."""
    step = min((b - a for a, b in pairwise(values)), default=largest)
    return max(1, 1 + math.floor(math.log10(largest)) - math.floor(math.log10(step) + 1e-9))


def width(text: str, size: float) -> float:
    return CHARACTER * size * len(text)


def shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


@dataclass(frozen=True)
class Label:
    """A text with its position.

    Attributes:
        anchor: SVG text-anchor.
        x: position of the anchor.
        y: baseline of the text.
        box: what the text covers.
        lead: what the line to its point covers; None if the label is next to the point.
    """

    text: str
    anchor: str
    x: float
    y: float
    box: Box
    lead: Box | None


class Crowd:
    """What is already drawn. A label may cover points if no place is better, but never another label."""

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        self._points = sorted(points)
        self._labels: list[Box] = []

    def take(self, label: Label) -> None:
        self._labels += [label.box, *([label.lead] if label.lead else [])]

    def cost(self, box: Box, lead: Box | None) -> float:
        if any(box.meets(other) or (lead is not None and lead.meets(other)) for other in self._labels):
            return math.inf
        first = bisect_left(self._points, (box.left - 3, -math.inf))
        last = bisect_right(self._points, (box.right + 3, math.inf))
        return COVERED * sum(box.top - 2 < y < box.bottom + 2 for _, y in self._points[first:last])


def place(x: float, y: float, text: str, size: float, inside: Box, crowd: Crowd) -> Label | None:
    """Find the place near a point where a label covers least.

    Args:
        x: of the point.
        y: of the point.
        text: the label.
        size: font size.
        inside: where the label has to fit.
        crowd: what is already drawn.

    Returns:
        The placed label; None if it would cover too much everywhere.
    """
    long, found, least = width(text, size), None, TOO_MUCH
    for shift in SHIFTS:
        middle = y + shift * (size + 3)
        for anchor, left in (("end", x - GAP - long), ("start", x + GAP)):
            box = Box(left, middle - size / 2 - 1, left + long, middle + size / 2 + 1)
            at = left + long if anchor == "end" else left
            edge = box.top if shift > 0 else box.bottom
            lead = Box(min(x, at), min(y, edge), max(x, at), max(y, edge)) if shift else None
            cost = abs(shift) + crowd.cost(box, lead) if inside.holds(box) else math.inf
            if cost < least:
                found, least = Label(text, anchor, at, middle + 0.35 * size, box, lead), cost
    return found


def _span(values: Sequence[float]) -> float:
    return max(values) - min(values) if values else 0.0
