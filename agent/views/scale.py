"""Where things go in a chart: the range worth seeing, round ticks, and labels that do not cover each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

CHARACTER = 0.56  # the width of an average letter, as a part of the font size
FIRST_STEPS = 1 / 6  # first steps that are longer than all others by this much are not what a person wants to see
WORSE, BETTER = 0.6, 0.2  # room beyond the running best, as a part of its range


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high`, drawn from pixel `first` to `last`; first may be the larger one."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        """Its pixel; a value outside is put on the edge."""
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
    """The range of values to draw: all of the running best `best`, and `values` as far as they lie near it.

    A first gain that dwarfs all later ones is left out too, since it would make them a straight line.
    """
    core = list(best)
    while len(core) > 3 and _span(core[1:]) < FIRST_STEPS * _span(core):
        core = core[1:]
    middle = sorted(values)[len(values) // 4 : -(len(values) // 4) or None]
    reach = max(_span(core), 6 * noise, 2 * _span(middle) if _span(core) == 0 else 0.0, 1e-6 * abs(core[-1]), 1e-12)
    above, below = (WORSE, BETTER) if down else (BETTER, WORSE)
    low, high = min(core) - below * reach, max(core) + above * reach
    near = [value for value in (*values, *core) if low <= value <= high]
    edge = 0.04 * reach
    return max(low, min(near) - max(edge, 1.5 * noise)), min(high, max(near) + max(edge, 1.5 * noise))


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round values between low and high."""
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
    first = math.ceil(low / step)
    return [round(index * step, 12) for index in range(first, math.floor(high / step) + 1)]


def written(values: Sequence[float]) -> list[str]:
    """Ticks with as many decimals as tell them apart."""
    step = min((b - a for a, b in pairwise(values)), default=1.0)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{value:,.{decimals}f}" for value in values]


def width(text: str, size: float) -> float:
    return CHARACTER * size * len(text)


def shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def place(
    x: float, y: float, text: str, size: float, inside: Box, taken: Sequence[Box], towards: int
) -> tuple[str, float, Box] | None:
    """Room for a label near a point: its text-anchor, its y and its box; None where there is none.

    Left of a new best nothing is drawn at its height, so that side is tried first, then away from the curve:
    towards is 1 where better is down, else -1.
    """
    long = width(text, size)
    for shift in (0.0, 1.0, 2.0, 3.0, 4.0, -1.0):
        middle = y + towards * shift * (size + 2)
        top, bottom = middle - size / 2 - 1, middle + size / 2 + 1
        for anchor, left in (("end", x - 9 - long), ("start", x + 9)):
            box = Box(left, top, left + long, bottom)
            if inside.holds(box) and not any(box.meets(other) for other in taken):
                return anchor, middle + 0.35 * size, box
    return None


def _span(values: Sequence[float]) -> float:
    return max(values) - min(values) if values else 0.0
