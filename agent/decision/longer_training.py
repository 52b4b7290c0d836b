"""Detect candidates that are better only because they trained longer. They are rejected in any repository.

If the harness's evaluator sees the training begin, it measures the time. Otherwise only the duration of the whole
command is known, and the training time in its log. The duration has a tolerance for work other than training: slower
compilation, or evaluation of a larger model. Noise only makes runs longer, so the shortest of several runs counts.

Recipes that a shorter budget does not shorten are detected as well: their screens cost as much as full runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.decision.estimate import since_rebase
from agent.decision.sequential_test import MOST_FAILURES, keeps_failing
from agent.execution.conditions import undisturbed
from agent.journal.experiment import Experiment, Run, succeeded
from agent.protocol.models import Protocol

# Allowed excess over the baseline, as fractions of the baseline's time: of a command whose log does not print the
# training time, of a command whose log does, and of the training time itself.
COMMAND_SHARE, TOLD_SHARE, TRAINED_SHARE = 0.25, 1.0, 0.1
# The duration of a command may vary by this much. A command that is shorter than this hardly trains.
LEAST_SECONDS = 1.0
WORK = ("build_test", "benchmark_opt", "solver_compete", "inference_serving")
# A recipe that obeys saves about the difference of the budgets. One that saves less than this fraction of it does not:
# starting and compiling take about as long in both, and in a first run a little longer.
SAVED = 1 / 3
TIMED_OUT = "timed out"


def trains(protocol: Protocol) -> bool:
    """Return whether the duration of a run is a training budget, not part of the measured result."""
    stop = protocol.execution.stop_condition
    if stop is not None and stop.type in ("wall_clock", "max_steps", "epochs"):
        return True
    return protocol.meta.archetype not in WORK


def why_longer(candidate: Sequence[Run], baseline: Experiment, incumbent: Experiment) -> str | None:
    """Return by how much a candidate trained longer than the baseline, in words; None if not clearly longer."""
    before = succeeded((*baseline.runs, *baseline.heldout_runs))
    return why_longer_than(candidate, before, slowed(incumbent.runs, incumbent.heldout_runs))


def why_longer_than(candidate: Sequence[Run], before: Sequence[Run], slower: float) -> str | None:
    """Return the same for runs of the baseline that succeeded, of which all ran on the candidate's machine.

    Args:
        slower: the ratio by which the incumbent takes longer now than when it was kept.
    """
    runs, before = succeeded(candidate), undisturbed(before)
    if not runs or not before or any(run.source == "attested" for run in runs):
        return None
    usual = max(run.seconds for run in before) * slower
    if usual < LEAST_SECONDS:
        return None
    took = min(run.seconds for run in runs)
    told, usually = [run.trained for run in runs], [run.trained for run in before]
    tells = None not in told and None not in usually
    if tells:
        trained, at_most = min(_known(told)), max(_known(usually))
        if trained > at_most + max(LEAST_SECONDS, TRAINED_SHARE * at_most):
            return f"it trained for {trained:.1f} s according to its log, the baseline for {at_most:.1f} s"
    if took > usual + max(LEAST_SECONDS, (TOLD_SHARE if tells else COMMAND_SHARE) * usual):
        return f"it ran for {took:.1f} s, the baseline for {usual:.1f} s"
    return None


def slowed(selection_runs: Sequence[Run], heldout_runs: Sequence[Run]) -> float:
    """Return the ratio by which the incumbent takes longer now than when it was kept; at least 1."""
    selection = succeeded(selection_runs)
    quiet = undisturbed(succeeded(since_rebase([*selection_runs, *heldout_runs])))
    heldout = [run for run in succeeded(heldout_runs) if run in quiet]
    then = max((run.seconds for run in selection), default=0.0)
    return max(1.0, heldout[-1].seconds / then) if heldout and then > 0 else 1.0


def _known(seconds: Sequence[float | None]) -> list[float]:
    return [each for each in seconds if each is not None]


def why_ladder_ends(experiments: Sequence[Experiment], rung: float, full: float | None) -> str | None:
    """Return how the latest incumbent with screens shows that they are not clearly shorter; None if it does not.

    Args:
        experiments: of the session.
        rung: the training budget of a screen, in seconds.
        full: that of a full run; None if it has none.
    """
    for each in reversed(experiments):
        heldout = [screen.run for screen in each.heldout_screens if screen.rung == rung]
        own = [screen.run for screen in each.screens if screen.rung == rung and screen.lead is not None]
        if each.kept and (heldout or own):
            late = [(run.error or "").startswith(TIMED_OUT) for run in heldout[-MOST_FAILURES:]]
            if keeps_failing(heldout) and all(late):
                return f"screens do not end within {heldout[-1].seconds:.4g} s with a budget of {rung:g} s"
            runs = [*each.runs, *each.heldout_runs]
            return None if full is None else why_not_shorter(rung, full, [*own, *heldout], runs)
    return None


def why_not_shorter(rung: float, full: float, screens: Sequence[Run], runs: Sequence[Run]) -> str | None:
    """Return how the runs of one program show that a shorter budget does not shorten them; None if they do not.

    The shortest of each count, since noise only makes runs longer. A full run that ends before its budget can be
    shortened by less, and one that ends within the short budget shows nothing.

    Args:
        rung: the training budget of a screen, in seconds.
        full: that of a full run.
        screens: runs with the short budget.
        runs: runs with the full one.
    """
    every = succeeded(screens), succeeded(runs)
    told = all(run.trained is not None for each in every for run in each)
    new, old = ([(run.trained if told else None) or run.seconds for run in each] for each in every)
    if not new or not old:
        return None
    room = min(full, min(old)) - rung
    if room <= 0 or min(old) - min(new) >= SAVED * room:
        return None
    verb = "trains for" if told else "takes"
    return f"a screen {verb} {min(new):.4g} s with a budget of {rung:g} s, a full run {min(old):.4g} s"
