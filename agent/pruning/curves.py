"""Learning curves out of logs, and what makes a run hopeless whatever it is compared with.

A curve is what a log says about the loss on the way: train.py prints about one line a second,

    step 00012 (12.3%) | loss: 3.214 | lrm: 1.00 | ... | remaining: 88s

and any other line counts that has a share of the training (`12.3%`, `step 12/100`) and a loss that is not that of a
validation. Everything else in a log is passed over. What cannot be read costs only time: then nothing is pruned.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from agent.format import printed

NUMBER = r"[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?|nan|inf(?:inity)?)"
PERCENT = re.compile(r"(?<![\d.])(\d{1,3}(?:\.\d+)?) ?%")
COUNT = re.compile(r"\b(?:step|steps|iter|iteration|batch|it)\W{0,3}(\d+) ?(?:/|of) ?(\d+)", re.IGNORECASE)
STEP = re.compile(r"\b(?:step|iter|iteration)\W{0,3}(\d+)", re.IGNORECASE)
LOSS = re.compile(rf"(?<![a-z])((?:[a-z]+[_/ -])?)loss\W{{1,3}}?({NUMBER})(?![\w.])", re.IGNORECASE)
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
HELD_OUT = re.compile(r"val|eval|test|dev|best|min", re.IGNORECASE)

LONGEST_LINE = 4096
FINEST = 1 / 1000  # of the training: points closer than this are one, so that no log makes a long curve
DIVERGED = 3.0  # times its own first loss
IN_A_ROW = 3  # points that must agree on it
OVERDUE = 1.1  # times the hard limit
LEAST_PROGRESS = 0.05  # that a projection is made from


class Point(NamedTuple):
    """fraction: of the training, 0 to 1. seconds: since the start of the run, NaN where nobody looked at a clock.

    step: as printed, NaN where it is not.
    """

    fraction: float
    loss: float
    seconds: float = math.nan
    step: float = math.nan


Curve = tuple[Point, ...]


class CurveReader:
    """The curve of a log that grows. Each byte is looked at once, and what is kept stays below 2,100 points."""

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._torn = b""

    def feed(self, new: bytes, seconds: float = math.nan) -> bool:
        """Take in what was appended to the log. Returns whether the curve has got further."""
        before = self._points[-1:]
        *lines, torn = (self._torn + new).replace(b"\r", b"\n").split(b"\n")
        self._torn = torn[-LONGEST_LINE:]
        for line in lines:
            # The check spares the expressions the ten megabytes of a chatty library.
            if len(line) <= LONGEST_LINE and b"loss" in line.lower():
                self._add(point(line.decode(errors="replace"), seconds))
        return self._points[-1:] != before

    @property
    def curve(self) -> Curve:
        return tuple(self._points)

    def _add(self, new: Point | None) -> None:
        points = self._points
        # A share that goes back is another epoch's or another bar's.
        if new is None or (points and new.fraction < points[-1].fraction):
            return
        if len(points) > 1 and new.fraction - points[-2].fraction < FINEST:
            points.pop()
        points.append(new)


def curve(text: str) -> Curve:
    """The curve of a whole log, its last line too where that is not torn."""
    reader = CurveReader()
    reader.feed(text.encode(errors="replace"))
    return reader.curve


def point(line: str, seconds: float = math.nan) -> Point | None:
    """What one line says; None where it lacks the share, the loss, or sense."""
    line = THOUSANDS.sub("", printed(line))
    loss = next((found for found in LOSS.finditer(line) if not HELD_OUT.search(found[1])), None)
    if loss is None:
        return None
    if count := COUNT.search(line):
        done, of = float(count[1]), float(count[2])  # of any number of digits
        fraction = done / of if of else math.inf
    elif percent := PERCENT.search(line):
        fraction = float(percent[1]) / 100
    else:
        return None
    step = STEP.search(line)
    return Point(fraction, float(loss[2]), seconds, float(step[1]) if step else math.nan) if fraction <= 1 else None


def at(curve: Curve, fraction: float) -> float | None:
    """The loss at `fraction`, interpolated; None outside of the curve."""
    place = bisect.bisect_left(curve, (fraction,))  # sorts before the points at it
    if place == len(curve) or (place == 0 and curve[0].fraction > fraction):
        return None
    right = curve[place]
    if right.fraction == fraction or place == 0:
        return right.loss
    left = curve[place - 1]
    share = (fraction - left.fraction) / (right.fraction - left.fraction)
    return left.loss + share * (right.loss - left.loss)


def pace(curve: Curve, other: Curve) -> float | None:
    """Steps of `curve` for each step of `other` up to the same fraction; None where one does not print them.

    With a budget in seconds that is the ratio of their speeds.
    """
    if not curve or not other:
        return None
    theirs = other[: bisect.bisect_left(other, (curve[-1].fraction,)) + 1]
    rates = []
    for part in (curve, theirs):
        # The first step is left out: its time is no training where it contains compilation.
        steps, share = part[-1].step - part[0].step, part[-1].fraction - part[0].fraction
        rates.append(steps / share if share > 0 else math.nan)
    ratio = rates[0] / rates[1] if rates[1] > 0 else math.nan
    return ratio if math.isfinite(ratio) else None


def average(curves: Sequence[Curve]) -> Curve:
    """The mean of repeated runs, at the points of the first: less noise to compare a candidate with."""
    if len(curves) < 2:
        return curves[0] if curves else ()
    means = []
    for here in curves[0]:
        losses = [loss for each in curves if (loss := at(each, here.fraction)) is not None]
        means.append(here._replace(loss=sum(losses) / len(losses)))
    return tuple(means)


def broken(curve: Curve) -> str | None:
    """Why this training has failed on its own account: a loss that is no number, or that has diverged."""
    if not curve:
        return None
    last = curve[-1]
    # A loss printed before there is one may be nan; a second is no such accident.
    if not math.isfinite(last.loss) and len(curve) > 1:
        return f"pruned at {last.fraction:.0%}: the loss became {last.loss}"
    first = next((point.loss for point in curve if math.isfinite(point.loss)), math.nan)
    level = min(point.loss for point in curve[-IN_A_ROW:])
    if len(curve) > IN_A_ROW and first > 0 and level > DIVERGED * first:
        return (
            f"pruned at {last.fraction:.0%}: the loss has diverged, from {first:.4g} to {last.loss:.4g}, "
            f"and was above {DIVERGED:g} times its first value {IN_A_ROW} times in a row"
        )
    return None


def overdue(curve: Curve, seconds: float, limit: float) -> str | None:
    """Why a run that has taken `seconds` cannot end before its hard `limit` (seconds): its own pace projected.

    Only with points that carry their seconds. The pace must be too slow since the first point and since the middle of
    them, so that neither a slow start nor one pause decides; a pause since the last point counts as long as it is.
    """
    timed = [point for point in curve if math.isfinite(point.seconds)]
    if len(timed) < IN_A_ROW:
        return None
    first, middle, last = timed[0], timed[len(timed) // 2], timed[-1]
    projected = math.inf
    for since in (first, middle):
        gained = last.fraction - since.fraction
        if gained < LEAST_PROGRESS / 2 or last.fraction - first.fraction < LEAST_PROGRESS:
            return None
        pace = (last.seconds - since.seconds) / gained
        projected = min(projected, max(seconds, last.seconds) + (1 - last.fraction) * pace)
    if projected <= OVERDUE * limit:
        return None
    return f"pruned at {last.fraction:.0%}: at its pace it takes {projected:.0f} s, the hard limit is {limit:g} s"


def too_late(curve: Curve, seconds: float, limit: float, budget: float | None) -> str | None:
    """Why a run that has taken `seconds` cannot end before its hard `limit` (seconds): what is left of its `budget`.

    budget: the seconds of training that it was told, a part of which is what the log calls its share. None without a
    curve, and where the limit leaves no room for the budget: then nobody can mean it.
    """
    if not curve or budget is None or budget >= limit:
        return None
    left = (1 - curve[-1].fraction) * budget
    if seconds + left <= limit:
        return None
    return (
        f"pruned at {curve[-1].fraction:.0%}: after {seconds:.0f} s it has {left:.0f} s of training before it, "
        f"the hard limit is {limit:g} s"
    )
