"""Estimate the metric of an experiment: which of its runs count, and their mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from agent.execution.conditions import undisturbed
from agent.journal.experiment import Experiment, Run, by_station, mean, metrics, succeeded

# In standard errors. A gain this large does not depend on luck, so the selection runs are not biased. It is
# not so large if the noise is known from the few runs of the candidate alone.
CLEAR_SIGMAS = 6.0


def unbiased(experiment: Experiment) -> list[Run]:
    """Return the undisturbed runs of an incumbent that estimate its value without selection bias."""
    return [run for own in usable(split(experiment)[0]).values() for run in own]


def usable(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return the runs of a program that count, by station: undisturbed ones since the machine's state last changed."""
    found = {name: undisturbed(succeeded(since_rebase(own))) for name, own in by_station(runs).items()}
    return {name: own for name, own in found.items() if own}


def undisturbed_on_stations(runs: Iterable[Run]) -> list[Run]:
    """Return the runs of a program that were not disturbed compared with the others on their station."""
    return [run for own in by_station(runs).values() for run in undisturbed(own)]


def groups_of(experiment: Experiment, kept: Callable[[Sequence[Run]], list[Run]]) -> list[Sequence[Run]]:
    """Return the groups of an experiment's runs that differ only by noise and station.

    The first run of a candidate decides whether it is repeated, so it is biased: only the runs after it count.

    Args:
        kept: returns the undisturbed ones, compared over all stations together or on each.
    """
    if _is_exact(experiment) and experiment.verdict.status != "keep":
        return []  # its runs differ only if it is random itself, where the others are not
    known, own = unbiased(experiment), succeeded(experiment.runs)
    return [known, [] if any(run in known for run in own) else kept(own[1:])]


def split(experiment: Experiment) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
    """Return all runs without selection bias, failed ones included, and all other runs."""
    evidence = experiment.verdict.evidence
    sigmas = (evidence.sigmas if evidence and not evidence.own_noise else None) or 0.0
    chosen_by_luck = experiment.number > 0 and not _is_exact(experiment) and sigmas < CLEAR_SIGMAS
    if chosen_by_luck:
        return experiment.heldout_runs, experiment.runs
    return (*experiment.runs, *experiment.heldout_runs), ()


def _is_exact(experiment: Experiment) -> bool:
    evidence = experiment.verdict.evidence
    return evidence is not None and evidence.noise == 0.0


def since_rebase(runs: Sequence[Run]) -> Sequence[Run]:
    """Return the runs of a program on one station since the machine's state last changed."""
    return runs[max((index for index, run in enumerate(runs) if run.rebased), default=0) :]


def estimate(experiment: Experiment) -> float | None:
    """Return the best estimate of an experiment's metric.

    Returns:
        The mean of its unbiased runs if there are any, else the mean in its row. For an experiment that was pruned or
        discarded at a shorter training, the metric it would probably have reached. None if nothing is known.
    """
    if experiment.voided:
        return None
    if any(run.station for run in experiment.runs):
        return experiment.metric  # levels of stations differ, which the verdict has allowed for
    values = metrics(unbiased(experiment))
    if values:
        return mean(values)
    if experiment.metric is not None:
        return experiment.metric
    runs = (*(each.run for each in experiment.screens if each.then == "discard"), *experiment.runs)
    return next((run.estimate for run in reversed(runs)), None)
