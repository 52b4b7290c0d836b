"""The rungs of `--ladder`: the training budgets at which a candidate is judged."""

from __future__ import annotations

import math

from agent.errors import UsageError

OFF = "off"
LEAST = 0.1  # seconds, as of `--training-seconds`
EXAMPLE = "give two training budgets in seconds, the full one last, as in `--ladder 60,300`, or `off`"


def rungs_of(text: str) -> tuple[float, ...] | None:
    """Return the rungs that the flag names, the full one last; None for `off`.

    Raises:
        UsageError: these are no rungs.
    """
    if text == OFF:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(LEAST <= rung < 1e9 for rung in found):
        raise UsageError(f"--ladder {text[:80]!r} names no training budgets", hint=EXAMPLE)
    if len(found) != 2:
        number = "only one rung" if len(found) == 1 else f"{len(found)} rungs"
        raise UsageError(f"--ladder {text[:80]} has {number}, and only two are possible", hint=EXAMPLE)
    if found[0] >= found[1]:
        raise UsageError(f"--ladder {text[:80]} does not rise", hint=EXAMPLE)
    return found


def require_top(rungs: tuple[float, ...] | None, budget: float | None) -> None:
    """Check that the last rung is the training budget of the session.

    Args:
        rungs: None for no ladder.
        budget: None if the protocol has none in seconds.

    Raises:
        UsageError: it is not, or no training budget could be shorter.
    """
    if rungs is None:
        return
    if budget is None:
        raise UsageError(
            "--ladder needs a training budget in seconds, and the protocol has none",
            hint="add --training-seconds if the command obeys AUTORESEARCH_TRAINING_SECONDS, or leave --ladder out",
        )
    if not math.isclose(rungs[-1], budget):
        raise UsageError(
            f"--ladder ends at {rungs[-1]:g} s, but a run trains for {budget:g} s",
            hint=f"end it there, as in `--ladder {rungs[0] if rungs[0] < budget else budget / 5:g},{budget:g}`, or add "
            f"`--training-seconds {rungs[-1]:g}`",
        )
