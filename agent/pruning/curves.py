"""Read learning curves from logs, and detect runs that fail regardless of the incumbent.

A curve is the training loss over time, as printed in a log. train.py prints about one line per second:

    step 00012 (12.3%) | loss: 3.214 | lrm: 1.00 | ... | remaining: 88s

Any other line counts if it has a fraction of the training (`12.3%`, `step 12/100`) and a loss other than a validation
loss. The rest of the log is ignored. A log without a readable curve costs only time: its run is not pruned.
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
# A percentage after one of these words is a figure of the run, as in `acc 38.2%`, and no fraction of its training.
FIGURE = re.compile(
    r"(?<![a-z])(acc(uracy)?|top|err(ors?)?|wer|cer|f1|prec(ision)?|recall|correct|gpu|cpu|mem(ory)?|v?ram|disk|swap|util\w*|"
    r"mfu|hfu|sparsity|dropout|clip(ped)?|best|max|avg)([@_ -]?\d+)?( (rate|load|usage|used))?\W{0,3}$",
    re.IGNORECASE,
)
LONGEST_FIGURE = 32  # characters before a percentage that are looked at

LONGEST_LINE = 4096
LARGEST_LOSS = 1e50  # a larger one counts as infinite: forecasts multiply four of them
FINEST = 1 / 1000  # of the training; closer points are merged, to bound the length of a curve
DIVERGED = 3.0  # multiple of the first loss
IN_A_ROW = 3  # consecutive points above it
LEAST_REACHED = 0.8  # of the training, by the last point of a finished run whose fractions are those of its training
MOST_PARTS = 100  # of its curve that are looked at
OVERDUE = 1.1  # multiple of the hard limit
LEAST_PROGRESS = 0.05  # of the training, needed for a projection


class Point(NamedTuple):
    """One point of a learning curve.

    Attributes:
        fraction: fraction of the training done, 0 to 1.
        loss: the training loss.
        seconds: time since the start of the run; NaN if unknown.
        step: the step number as printed; NaN if not printed.
    """

    fraction: float
    loss: float
    seconds: float = math.nan
    step: float = math.nan


Curve = tuple[Point, ...]


class CurveReader:
    """The curve of a growing log. Reads each byte once and keeps fewer than 2,100 points."""

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._torn = b""

    def feed(self, new: bytes, seconds: float = math.nan) -> bool:
        """Read the bytes appended to the log. Return whether the curve has advanced.

        Args:
            seconds: time since the start of the run; NaN if unknown.
        """
        before = self._points[-1:]
        *lines, torn = (self._torn + new).replace(b"\r", b"\n").split(b"\n")
        self._torn = torn[-LONGEST_LINE:]
        for line in lines:
            # This check keeps the regular expressions off megabytes of unrelated output.
            if len(line) <= LONGEST_LINE and b"loss" in line.lower():
                self._add(point(line.decode(errors="replace"), seconds))
        return self._points[-1:] != before

    @property
    def curve(self) -> Curve:
        return tuple(self._points)

    def _add(self, new: Point | None) -> None:
        points = self._points
        # A fraction that goes back belongs to another epoch or progress bar.
        if new is None or (points and new.fraction < points[-1].fraction):
            return
        if len(points) > 1 and new.fraction - points[-2].fraction < FINEST:
            points.pop()
        points.append(new)


def curve(text: str) -> Curve:
    """Return the curve of a whole log, without an incomplete last line."""
    reader = CurveReader()
    reader.feed(text.encode(errors="replace"))
    return reader.curve


def point(line: str, seconds: float = math.nan) -> Point | None:
    """Parse one line of a log; None if it has no valid fraction or no loss."""
    line = THOUSANDS.sub("", printed(line))
    loss = next((found for found in LOSS.finditer(line) if not HELD_OUT.search(found[1])), None)
    if loss is None:
        return None
    if count := COUNT.search(line):
        done, of = float(count[1]), float(count[2])  # a float: there may be any number of digits
        fraction = done / of if of else math.inf
    elif percent := _progress(line):
        fraction = float(percent[1]) / 100
    else:
        return None
    step, value = STEP.search(line), float(loss[2])
    value = math.copysign(math.inf, value) if abs(value) > LARGEST_LOSS else value
    return Point(fraction, value, seconds, float(step[1]) if step else math.nan) if fraction <= 1 else None


def _progress(line: str) -> re.Match[str] | None:
    """Return the first percentage of a line that may be the fraction of the training."""
    for found in PERCENT.finditer(line):
        if not FIGURE.search(line[max(0, found.start() - LONGEST_FIGURE) : found.start()]):
            return found
    return None


def at(curve: Curve, fraction: float) -> float | None:
    """Return the interpolated loss at `fraction`; None outside the curve."""
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
    """Return the steps of `curve` per step of `other` up to the same fraction; None if either prints no steps.

    With a budget in seconds this is the ratio of their speeds.
    """
    if not curve or not other:
        return None
    theirs = other[: bisect.bisect_left(other, (curve[-1].fraction,)) + 1]
    rates = []
    for part in (curve, theirs):
        # The first step is excluded, because its time may include compilation.
        steps, share = part[-1].step - part[0].step, part[-1].fraction - part[0].fraction
        rates.append(steps / share if share > 0 else math.nan)
    ratio = rates[0] / rates[1] if rates[1] > 0 else math.nan
    return ratio if math.isfinite(ratio) else None


def average(curves: Sequence[Curve]) -> Curve:
    """Average the curves of repeated runs at the points of the first, which reduces the noise of a comparison."""
    if len(curves) < 2:
        return curves[0] if curves else ()
    means = []
    for here in curves[0]:
        losses = [loss for each in curves if (loss := at(each, here.fraction)) is not None]
        means.append(here._replace(loss=sum(losses) / len(losses)))
    return tuple(means)


def broken(curve: Curve) -> str | None:
    """Return why this training has failed on its own: its loss is not finite or has diverged; None if it has not."""
    if not curve:
        return None
    last = curve[-1]
    # A placeholder before the first real loss may be NaN; a later NaN is a failure.
    if not math.isfinite(last.loss) and len(curve) > 1:
        return f"pruned at {last.fraction:.0%}: the loss became {last.loss}"
    first = next((point.loss for point in curve if math.isfinite(point.loss)), math.nan)
    level = min(point.loss for point in curve[-IN_A_ROW:])
    if len(curve) > IN_A_ROW and first > 0 and level > DIVERGED * first:
        return (
            f"pruned at {last.fraction:.0%}: the loss has diverged, from {first:.4g} to {last.loss:.4g}, "
            f"above {DIVERGED:g} times its first value for {IN_A_ROW} points in a row"
        )
    return None


def overdue(curve: Curve, seconds: float, limit: float) -> str | None:
    """Return why a run cannot end before its hard limit, by projecting its own pace; None if it can.

    Needs points with known seconds. The pace must be too slow both since the first and since the middle point, so that
    neither a slow start nor one pause decides; a pause since the last point counts at its actual length.

    Args:
        seconds: duration of the run so far.
        limit: the hard limit in seconds.
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
    return f"pruned at {last.fraction:.0%}: at this pace it takes {projected:.0f} s, the hard limit is {limit:g} s"


def too_late(curve: Curve, seconds: float, limit: float, budget: float | None) -> str | None:
    """Return why a run cannot end before its hard limit, by the rest of its training budget; None if it can.

    Returns None without a curve. A budget that is not below the limit cannot be meant literally, and gives None too.

    Args:
        seconds: duration of the run so far.
        limit: the hard limit in seconds.
        budget: seconds of training that the run was given; the log prints fractions of it.
    """
    if not curve or budget is None or budget >= limit:
        return None
    left = (1 - curve[-1].fraction) * budget
    if seconds + left <= limit:
        return None
    return (
        f"pruned at {curve[-1].fraction:.0%}: after {seconds:.0f} s it has {left:.0f} s of training left, "
        f"the hard limit is {limit:g} s"
    )


def misleads(curve: Curve, seconds: float, limit: float, budget: float | None) -> bool:
    """Return whether the fractions in the log of a finished run were none of its training, such as an accuracy.

    They were none if they end early, or if `overdue` or `too_late` would have ended the run. A log has no times, so its
    points are taken to be equally far apart.

    Args:
        seconds: duration of the run.
        limit, budget: as for `overdue` and `too_late`.
    """
    if not curve:
        return False
    timed = tuple(each._replace(seconds=seconds * number / len(curve)) for number, each in enumerate(curve, start=1))
    if timed[-1].fraction < LEAST_REACHED:
        return True
    parts = [timed[:count] for count in range(len(timed), 0, -max(1, len(timed) // MOST_PARTS))]
    return any(
        overdue(part, part[-1].seconds, limit) or too_late(part, part[-1].seconds, limit, budget) for part in parts
    )
