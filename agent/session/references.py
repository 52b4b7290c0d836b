"""Choose the reference runs of a run: the session's runs that its time and losses are compared with."""

from __future__ import annotations

from collections.abc import Sequence

from agent.execution.measure import ALONE, Beside
from agent.journal.experiment import Experiment, Run


def of_candidate(experiments: Sequence[Experiment], incumbent: Experiment) -> Beside:
    """Return the reference for a candidate: the incumbent that it must beat."""
    return Beside(_runs(incumbent), _runs(experiments[0]), _runs(incumbent))


def of_commit(experiments: Sequence[Experiment], commit: str) -> Beside:
    """Return the reference for repeating a commit: its own time, and the losses of the incumbent before it.

    The baseline has no incumbent before it, and is the user's own. A commit of an ablation, which is not an experiment,
    is compared with the best.
    """
    kept = [experiment for experiment in experiments if experiment.verdict.status == "keep"]
    if not kept:
        return ALONE
    known = next((experiment for experiment in experiments if experiment.commit == commit), None)
    if known is None:
        return of_candidate(experiments, kept[-1])
    before = [experiment for experiment in kept if experiment.number < known.number]
    return Beside(_runs(known), _runs(experiments[0]), _runs(before[-1]) if before else ())


def _runs(experiment: Experiment) -> tuple[Run, ...]:
    return (*experiment.runs, *experiment.heldout_runs)
