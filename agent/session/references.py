"""What a run is held against: the runs of this session that its time and its losses are compared with."""

from __future__ import annotations

from collections.abc import Sequence

from agent.execution.measure import ALONE, Beside
from agent.journal.experiment import Experiment, Run


def of_candidate(experiments: Sequence[Experiment], incumbent: Experiment) -> Beside:
    """Return what a candidate is held against: the incumbent that it has to beat."""
    return Beside(_runs(incumbent), _runs(experiments[0]), _runs(incumbent))


def of_commit(experiments: Sequence[Experiment], commit: str) -> Beside:
    """Return what another run of a commit is held against: its own time, and the losses of the incumbent before it.

    The baseline is the person's own and has none before it. A commit that is no experiment, of an ablation, is held
    against the best.
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
