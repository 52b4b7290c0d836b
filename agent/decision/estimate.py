"""What an experiment is worth by all that was measured: which of its runs count, and their mean."""

from __future__ import annotations

from agent.execution.conditions import undisturbed
from agent.journal.experiment import Experiment, Run, metrics, succeeded

# A candidate kept with this many standard errors would have been kept on any other day too: its runs are no lucky ones.
CLEAR_SIGMAS = 6.0


def unbiased(experiment: Experiment) -> list[Run]:
    """The runs of an incumbent that tell its value without the luck by which it was chosen, undisturbed ones."""
    evidence = experiment.verdict.evidence
    exact = evidence is not None and evidence.noise == 0.0
    sigmas = (evidence.sigmas if evidence else None) or 0.0
    chosen_by_luck = experiment.number > 0 and not exact and sigmas < CLEAR_SIGMAS
    runs = experiment.heldout_runs if chosen_by_luck else (*experiment.runs, *experiment.heldout_runs)
    latest = max((index for index, run in enumerate(runs) if run.rebased), default=0)
    return undisturbed(succeeded(runs[latest:]))


def estimate(experiment: Experiment) -> float | None:
    """The best guess of its metric: the mean of runs that did not choose it where there are any; of a pruned one what
    it would have come to. None where nothing is known."""
    if experiment.void:
        return None
    values = metrics(unbiased(experiment))
    if values:
        return sum(values) / len(values)
    if experiment.metric is not None:
        return experiment.metric
    return next((run.estimate for run in reversed(experiment.runs)), None)
