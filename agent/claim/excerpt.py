"""Choose the part of a long log that a claim holds: its end, or the part that ends with the metric."""

from __future__ import annotations

import bisect
import os
import re
from collections.abc import Callable
from pathlib import Path

from agent.claim.folder import LARGEST_LOG
from agent.errors import PreconditionError
from agent.execution import process
from agent.system.files import read_end
from agent.system.masking import secrets, without_secrets


def excerpt(log: Path, shows: Callable[[bytes], bool]) -> bytes:
    """Return at most LARGEST_LOG bytes of a log from which a reader gets the metric of its run, without secrets.

    Args:
        shows: whether a part of the log shows that metric.

    Raises:
        OSError: the log cannot be read.
        PreconditionError: no part of this length shows it.
    """
    every = _masked(read_end(log, process.LARGEST_LOG + LARGEST_LOG), shows)  # a run whose log grows longer is killed
    part = every[-LARGEST_LOG:]
    if len(part) == len(every) or shows(part):
        return part
    end = _shown_by(every, shows)
    part = every[max(0, end - LARGEST_LOG) : end]
    if not shows(part):
        raise PreconditionError(
            f"no {LARGEST_LOG // 2**20} MiB of {log} show its metric, and a claim holds no more of a log",
            hint="let the recipe print less",
        )
    return part


def _masked(every: bytes, shows: Callable[[bytes], bool]) -> bytes:
    """Return a log without secrets. One without which it does not show the metric is a word of that line, and stays."""
    found = without_secrets(every)
    if found == every or shows(found) or not shows(every):
        return found
    for secret, name in secrets(os.environ).items():
        part = every.replace(os.fsencode(secret), f"({name})".encode())
        every = part if shows(part) else every
    return every


def _shown_by(every: bytes, shows: Callable[[bytes], bool]) -> int:
    """Return the end of the first line up to which a log shows the metric, by bisection."""
    ends = [place.end() for place in re.finditer(rb"\n|\Z", every)]
    return ends[min(bisect.bisect_left(ends, True, key=lambda end: shows(every[:end])), len(ends) - 1)]
