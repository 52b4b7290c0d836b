"""Repeat a run that a fault of the GPU ended: in a new process, after a pause that grows, until it is hopeless."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from agent.errors import ExperimentError, MachineFault
from agent.execution.gpu_fault import beyond_gpu, remedy
from agent.execution.process import POLL_SECONDS
from agent.format import duration
from agent.journal.experiment import Run
from agent.journal.pending import Pending
from agent.journal.state import State
from agent.session.workbench import Workbench

# The first pause is short, because a new process is all that most faults need. Each further fault in a row doubles it,
# up to the time that a display takes to sleep or a driver to recover.
FIRST_PAUSE = 3.0
LONGEST_PAUSE = 300.0
# One fault every 12 minutes of a night of eight hours: then a session repeats more than it researches.
MOST_A_NIGHT = 40
# After so many faults in a row of one candidate the incumbent is run, to find out whether the machine fails it too.
SUSPICIOUS = 3
# The faults are the candidate's own if the incumbent runs, and so many in a row are less likely than this on a machine
# that fails other runs as often as it did tonight: after 3 on one that failed no other of 20, after 6 early in a night.
CHANCE = 1e-4
# The most in a row for a commit that no other one can be run beside, such as the baseline.
MOST_IN_A_ROW = 6


def pause_after(in_a_row: int) -> float:
    """Return the seconds to wait after so many faults in a row."""
    return float(min(FIRST_PAUSE * 2 ** min(in_a_row - 1, 30), LONGEST_PAUSE))


def is_own(state: State, pending: Pending) -> bool:
    """Return whether the faults of the candidate are too many in a row to be those of the machine."""
    others = max(0, state.faults.tonight - pending.faulted)
    # Laplace's rule of succession: the expected rate of an event that occurred `others` times.
    rate = (others + 1) / (others + state.faults.finished + 2)
    return bool(rate**pending.faulted <= CHANCE)


def wait_for_repeat(
    bench: Workbench,
    run: Run,
    *,
    most: int | None,
    require_going: Callable[[], None],
    about: dict[str, Any],
) -> None:
    """Journal a run that a fault ended, and wait until it may be repeated.

    Args:
        run: the faulted run.
        most: the most faults in a row; None if only the night is limited.
        require_going: raises if the loop should stop. It is asked before the pause: a request during the pause
            still lets the experiment finish, unless the GPU fails again.
        about: further fields of the event, which say which run it was.

    Raises:
        MachineFault: there were too many of them.
    """
    faults = bench.journal.state.faults
    pause, event = pause_after(faults.in_a_row + 1), {"fault": run.fault, "reason": run.error, "seconds": run.seconds}
    try:
        require_going()
        if faults.tonight + 1 >= MOST_A_NIGHT:
            raise hopeless(run, f"{faults.tonight + 1} runs tonight")
        if most is not None and faults.in_a_row + 1 >= most:
            raise hopeless(run, f"{faults.in_a_row + 1} runs in a row")
    except Exception:
        bench.journal.append("faulted", **about, **event, pause=0.0)
        raise
    bench.journal.append("faulted", **about, **event, pause=pause)
    wait(pause, lambda _: bench.interrupts.raise_if_immediate())


def repeat(run_once: Callable[[], Run], tick: Callable[[float], None], say: Callable[[str], None]) -> Run:
    """Repeat a run outside of a session until no fault ends it.

    Args:
        run_once: runs it.
        tick: called during a pause; may raise to end it.
        say: shows a message to the user.

    Raises:
        MachineFault: MOST_IN_A_ROW faults ended it.
    """
    in_a_row = 0
    while (run := run_once()).fault:
        in_a_row += 1
        if in_a_row >= MOST_IN_A_ROW:
            raise hopeless(run, f"{in_a_row} runs in a row")
        pause = pause_after(in_a_row)
        say(f"repeating the run in {duration(pause)}: {run.error}")
        wait(pause, tick)
    return run


def hopeless(run: Run, which: str) -> MachineFault:
    """Return the error that ends a session whose GPU keeps failing.

    Args:
        run: the latest faulted run.
        which: how many runs failed, such as `6 runs in a row`.
    """
    error = run.error or ""
    what = beyond_gpu(error) or "the GPU failed"
    return MachineFault(f"{what} in {which}, the last time with: {error}", hint=remedy(run.fault, error))


def wait(seconds: float, tick: Callable[[float], None]) -> None:
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        with contextlib.suppress(ExperimentError):  # no run is active that it could end
            tick(0.0)
        time.sleep(min(left, POLL_SECONDS))
