"""Detect candidates that are better only because they trained longer. They are rejected in any repository.

If the harness's evaluator sees the training begin, it measures the time. Otherwise only the duration of the whole
command is known, and the training time in its log. The duration has a tolerance for work other than training: slower
compilation, or evaluation of a larger model. Noise only makes runs longer, so the shortest of several runs counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.decision.estimate import since_rebase
from agent.execution.conditions import undisturbed
from agent.journal.experiment import Experiment, Run, succeeded
from agent.protocol.models import Protocol

# Allowed excess over the baseline, as fractions of the baseline's time: of a command whose log does not print the
# training time, of a command whose log does, and of the training time itself.
COMMAND_SHARE, TOLD_SHARE, TRAINED_SHARE = 0.25, 1.0, 0.1
# The duration of a command may vary by this much. A command that is shorter than this hardly trains.
LEAST_SECONDS = 1.0
WORK = ("build_test", "benchmark_opt", "solver_compete", "inference_serving")


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
