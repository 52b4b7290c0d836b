"""Estimate the metric of an experiment: which of its runs count, and their mean."""

from __future__ import annotations

from agent.execution.conditions import undisturbed
from agent.journal.experiment import Experiment, Run, metrics, succeeded

# In standard errors. A gain this large does not depend on luck, so the selection runs are not biased.
CLEAR_SIGMAS = 6.0


def unbiased(experiment: Experiment) -> list[Run]:
    """Return the undisturbed runs of an incumbent that estimate its value without selection bias."""
    evidence = experiment.verdict.evidence
    exact = evidence is not None and evidence.noise == 0.0
    sigmas = (evidence.sigmas if evidence else None) or 0.0
    chosen_by_luck = experiment.number > 0 and not exact and sigmas < CLEAR_SIGMAS
    runs = experiment.heldout_runs if chosen_by_luck else (*experiment.runs, *experiment.heldout_runs)
    latest = max((index for index, run in enumerate(runs) if run.rebased), default=0)
    return undisturbed(succeeded(runs[latest:]))


def estimate(experiment: Experiment) -> float | None:
    """Return the best estimate of an experiment's metric.

    Returns:
        The mean of its unbiased runs if there are any, else the mean in its row. For a pruned experiment, the metric it
        would probably have reached. None if nothing is known.
    """
    if experiment.voided:
        return None
    values = metrics(unbiased(experiment))
    if values:
        return sum(values) / len(values)
    if experiment.metric is not None:
        return experiment.metric
    return next((run.estimate for run in reversed(experiment.runs)), None)
