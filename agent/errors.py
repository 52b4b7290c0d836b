"""The program's errors, and how far each reaches.

AutoresearchError                  what failed and why, with a hint at the fix             exit code 1
├── UsageError                     invalid flags, arguments or protocol.json               exit code 2
├── PreconditionError              dirty tree, locked, missing data, changed fingerprint   exit code 3
├── Interrupted                    second Ctrl-C (130) or SIGTERM (143)
├── MachineFault                   the GPU keeps failing                                   exit code 4
├── StillRunning                   `wait` reached its timeout before the verdict           exit code 5
└── ExperimentError                ends the experiment, not the session
    ├── Violation                  a protected file changed, or the candidate left the allowed globs
    ├── Crashed                    the command exited with an error
    ├── OutOfMemory                the command ran out of memory
    ├── Faulted                    the GPU failed; the run is repeated
    ├── TimedOut                   the run hit the hard limit, or its log grew too large
    ├── Suspended                  the machine slept during the run; the run is repeated
    ├── Pruned                     the run was stopped early because it could no longer win
    └── NoMetric                   the command succeeded, but its log has no usable metric
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Literal

from agent.format import one_line

LONGEST_FAULT = 300  # characters
FULL = (errno.ENOSPC, errno.EDQUOT)
TOO_LARGE = "raise the limit of the size of files (`ulimit -f`)"


class AutoresearchError(Exception):
    """An error that ends the program with `error: MESSAGE` and `hint: HINT` on stderr, and with `exit_code`.

    The traceback is printed only with --debug.

    Args:
        message: what failed and why: one sentence in lower case without a full stop.
        hint: the fix, with its command in backticks; empty if there is none.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(AutoresearchError):
    exit_code = 2


class PreconditionError(AutoresearchError):
    exit_code = 3


class Interrupted(AutoresearchError):
    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class MachineFault(AutoresearchError):
    """The GPU keeps failing, so that nothing can be measured. The session loses nothing and can resume."""

    exit_code = 4


class StillRunning(AutoresearchError):
    """The experiment that a command waits for has no verdict yet. It goes on."""

    exit_code = 5


class ExperimentError(AutoresearchError):
    """A failure of one experiment: its row gives the reason, and the loop continues."""


class Violation(ExperimentError):
    pass


class Crashed(ExperimentError):
    pass


class OutOfMemory(Crashed):
    pass


class Faulted(Crashed):
    """A crash caused by the GPU.

    Attributes:
        fault: the kind of fault, see `agent.execution.gpu_fault`.
    """

    def __init__(self, reason: str, fault: Literal["watchdog", "kernel", "leak", "machine"]) -> None:
        super().__init__(reason)
        self.fault = fault


class TimedOut(ExperimentError):
    pass


class Suspended(ExperimentError):
    pass


class Pruned(ExperimentError):
    """A run that was stopped early.

    Attributes:
        fraction: fraction of the training that was done, from 0 to 1.
        estimate: the metric that the full run was expected to reach.
    """

    def __init__(self, reason: str, fraction: float, estimate: float) -> None:
        super().__init__(reason)
        self.fraction, self.estimate = fraction, estimate


class NoMetric(ExperimentError):
    pass


class Ambiguous(NoMetric):
    """There are several values that differ."""


def in_one_line(error: AutoresearchError | OSError) -> str:
    """Return message and hint on one line, for places without a second one: a note, a row, a check."""
    known = explain(error) if isinstance(error, OSError) else error
    return f"{known}; {known.hint}" if known.hint else str(known)


def explain(error: OSError, folder: str = ".") -> AutoresearchError:
    """Turn an error of the operating system into one of the program.

    Args:
        folder: what is written most, for an error that names no file.
    """
    where, cause = f"{error.filename}: " if error.filename else "", "fix the cause"
    if error.errno == errno.EFBIG:
        cause = TOO_LARGE
    if error.errno in FULL:
        import shutil

        with contextlib.suppress(OSError):
            places = dict.fromkeys((os.path.realpath(folder), os.environ.get("TMPDIR") or "/tmp"))
            written = error.filename2 or error.filename  # of a copy or a move, the second is written
            if isinstance(written, str):
                places = {_existing(written): None}
            free = [f"{shutil.disk_usage(place).free >> 20:,} MiB are free in {place}" for place in places]
            cause = f"free disk space ({', '.join(free)})"
    return AutoresearchError(f"{where}{error.strerror or error}", hint=f"{cause}, then run the same command again")


def fault(error: Exception) -> str:
    """Describe an unexpected exception on one line, by its type and message."""
    try:
        said = one_line(str(error))[:LONGEST_FAULT]
    except Exception:  # its __str__ may fail, too
        said = ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _existing(path: str) -> str:
    """Return the nearest folder at or above a path that exists."""
    whole = Path(os.path.realpath(path))
    return str(next((each for each in (whole, *whole.parents) if each.is_dir()), whole.anchor))
