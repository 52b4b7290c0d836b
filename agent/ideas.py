"""What an experiment tried and what came of it, in words and figures that group a night's work."""

from __future__ import annotations

from collections.abc import Sequence

from agent.experiment import Experiment


def change_of(history: Sequence[Experiment], experiment: Experiment) -> float | None:
    """Its metric less that of the incumbent of that time; None where one of them has none."""
    before = incumbent_before(history, experiment.number)
    if experiment.metric is None or before is None or before.metric is None:
        return None
    return experiment.metric - before.metric


def incumbent_before(history: Sequence[Experiment], number: int) -> Experiment | None:
    return next((e for e in reversed(history[:number]) if e.verdict.status == "keep"), None)


def ideas_of(history: Sequence[Experiment], experiment: Experiment) -> list[str]:
    """The constants that it moved and in which direction, or the first words of its description."""
    before = incumbent_before(history, experiment.number)
    found = []
    for name, value in experiment.parameters.items():
        old = before.parameters.get(name) if before else None
        if old is None or old == value:
            continue
        if isinstance(value, int | float) and isinstance(old, int | float):
            found.append(f"{name} {'up' if value > old else 'down'}")
        else:
            found.append(f"{name} changed")
    return found or [" ".join(experiment.description.split()[:5])]
