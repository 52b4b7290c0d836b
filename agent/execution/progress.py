"""The progress of the current run, read from its log and its processes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

_NUMBER = r"([-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?)"
_DONE = re.compile(r"(\d+(?:\.\d+)?)\s?%")
_LOSS = re.compile(rf"\bloss\W{{0,3}}{_NUMBER}", re.IGNORECASE)
_RATE = re.compile(
    rf"tok(?:ens)?\s?(?:/|per)\s?s(?:ec(?:ond)?)?\W{{0,3}}{_NUMBER}|{_NUMBER}\s?tok(?:ens)?/s", re.IGNORECASE
)
_STEP = re.compile(r"\b(?:step|iter|iteration)s?\W{0,3}(\d[\d,]*)", re.IGNORECASE)
_LEFT = re.compile(rf"\b(?:remaining|left|eta)\W{{0,3}}{_NUMBER}\s?s", re.IGNORECASE)

LARGEST, LONGEST_LINE = 1e12, 500


@dataclass(frozen=True)
class Reading:
    """The values in a line of a training log; None if it does not contain them.

    Attributes:
        done: fraction of the training, 0 to 1.
        left: remaining seconds of training.
        step: number of the step.
    """

    done: float | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    left: float | None = None
    step: int | None = None


def reading(lines: Sequence[str]) -> Reading:
    """Return the values of the latest line that shows progress. Formats differ, so any value may be missing."""
    for line in (line[-LONGEST_LINE:] for line in reversed(lines)):
        done, loss = _found(_DONE, line), _found(_LOSS, line)
        if done is not None or loss is not None:
            part = min(1.0, done / 100) if done is not None else None
            step = _found(_STEP, line)
            return Reading(
                part, loss, _found(_RATE, line), _found(_LEFT, line), int(step) if step is not None else None
            )
    return Reading()


def memory(pid: int) -> int | None:
    """Return the resident memory of a process and its descendants in bytes; None if they have ended."""
    total = 0
    with contextlib.suppress(psutil.Error):
        leader = psutil.Process(pid)
        for process in (leader, *leader.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
    return total or None


def _found(pattern: re.Pattern[str], line: str) -> float | None:
    match = pattern.search(line)
    value = float(next(group for group in match.groups() if group).replace(",", "")) if match else None
    return value if value is not None and abs(value) < LARGEST else None
