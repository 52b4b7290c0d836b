"""Whether a candidate is better because it trained for longer: no keep, in any repository.

Where the harness's evaluator sees the training begin, it tells. Everywhere else there is the time
that the command takes as a whole, and what its log says of the training itself. The first has room for what is no
training: a slower compilation, a larger model that is evaluated. Noise only makes runs longer, so that of several the
shortest counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.journal.experiment import Experiment, Run, succeeded
from agent.protocol.models import Protocol

# By how much of the baseline's the time of a command may be longer: where its log tells the time of training, that has
# to be as long as the baseline's own, and the rest may take what it takes.
COMMAND_SHARE, TOLD_SHARE, TRAINED_SHARE = 0.25, 1.0, 0.1
# A command takes so much longer at times. One that is shorter than that trains for no time to speak of.
LEAST_SECONDS = 1.0
WORK = ("build_test", "benchmark_opt", "solver_compete", "inference_serving")


def trains(protocol: Protocol) -> bool:
    """Whether the time of a run is what its training may take, and no part of what is measured."""
    stop = protocol.execution.stop_condition
    if stop is not None and stop.type in ("wall_clock", "max_steps", "epochs"):
        return True
    return protocol.meta.archetype not in WORK


def why_longer(candidate: Sequence[Run], baseline: Experiment, incumbent: Experiment) -> str | None:
    """Say that a candidate trained clearly longer than the baseline, with both times; None where it did not."""
    runs, before = succeeded(candidate), succeeded((*baseline.runs, *baseline.heldout_runs))
    if not runs or not before or any(run.source == "attested" for run in runs):
        return None
    usual = max(run.seconds for run in before) * _slowed(incumbent)
    if usual < LEAST_SECONDS:
        return None
    took = min(run.seconds for run in runs)
    told, usually = [run.trained for run in runs], [run.trained for run in before]
    tells = None not in told and None not in usually
    if tells:
        trained, at_most = min(_known(told)), max(_known(usually))
        if trained > at_most + max(LEAST_SECONDS, TRAINED_SHARE * at_most):
            return f"it trained for {trained:.1f} s by its log, the baseline for {at_most:.1f} s"
    if took > usual + max(LEAST_SECONDS, (TOLD_SHARE if tells else COMMAND_SHARE) * usual):
        return f"it ran for {took:.1f} s, the baseline for {usual:.1f} s"
    return None


def _slowed(incumbent: Experiment) -> float:
    """How much longer the same program takes now than when it was kept."""
    heldout, selection = succeeded(incumbent.heldout_runs), succeeded(incumbent.runs)
    if not heldout or not selection:
        return 1.0
    return max(1.0, heldout[-1].seconds / max(run.seconds for run in selection))


def _known(seconds: Sequence[float | None]) -> list[float]:
    return [each for each in seconds if each is not None]
