"""What can go wrong, and how far each kind reaches.

AutoresearchError                  what failed and why; its hint says what fixes it       exit code 1
├── UsageError                     flags, protocol.json: the person's input               exit code 2
├── PreconditionError              dirty tree, locked, data missing, fingerprint changed  exit code 3
├── Interrupted                    Ctrl-C twice (130) or SIGTERM (143)
└── ExperimentError                stays inside the loop: this candidate, not the session
    ├── Violation                  a file changed that must not, or a candidate outside the allowed globs
    ├── Crashed                    the command ended with an error
    ├── OutOfMemory                it crashed for want of memory
    ├── Faulted                    it crashed by a fault of the machine's GPU: measured again
    ├── TimedOut                   the hard limit ended it, or its log grew without end
    ├── Suspended                  the machine slept meanwhile: no result, measured again
    ├── Pruned                   ended early: it had no chance left
    └── NoMetric                   it ended well, but its log holds no number to judge by
"""

from __future__ import annotations

from typing import Literal

from agent.format import one_line

LONGEST_FAULT = 300  # characters


class AutoresearchError(Exception):
    """Ends the program with `error: MESSAGE` and `hint: HINT` on stderr and `exit_code`; a traceback only with --debug.

    Args:
        message: one sentence without its full stop: what failed, and why.
        hint: what fixes it, with the command where there is one; empty where nothing does.
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


class ExperimentError(AutoresearchError):
    """The experiment failed; its row says so and the loop goes on."""


class Violation(ExperimentError):
    pass


class Crashed(ExperimentError):
    pass


class OutOfMemory(Crashed):
    pass


class Faulted(Crashed):
    """fault: as in `agent.execution.gpu_fault`."""

    def __init__(self, reason: str, fault: Literal["watchdog", "machine"]) -> None:
        super().__init__(reason)
        self.fault = fault


class TimedOut(ExperimentError):
    pass


class Suspended(ExperimentError):
    pass


class Pruned(ExperimentError):
    """fraction: of its training that it had done. estimate: of the metric that it would have come to."""

    def __init__(self, reason: str, fraction: float, estimate: float) -> None:
        super().__init__(reason)
        self.fraction, self.estimate = fraction, estimate


class NoMetric(ExperimentError):
    pass


def in_one_line(error: AutoresearchError) -> str:
    """Return message and hint as one line, for places that have no second one: a note, a row, a check."""
    return f"{error}; {error.hint}" if error.hint else str(error)


def explain(error: OSError) -> AutoresearchError:
    """Return the error for what the operating system refused."""
    where = f"{error.filename}: " if error.filename else ""
    return AutoresearchError(f"{where}{error.strerror or error}", hint="fix that, then run the same command again")


def fault(error: Exception) -> str:
    """An unexpected exception in a line: its type and what it says."""
    try:
        said = one_line(str(error))[:LONGEST_FAULT]
    except Exception:  # an error that cannot even say what it is
        said = ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
