"""Summarize the search's evidence for a model: the best points, the good range of each constant, and where runs fail.

Good points are the best quarter of all measured points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agent.decision.estimate import estimate
from agent.format import figure
from agent.journal.experiment import Direction, Experiment, Value
from agent.proposers.base import Context
from agent.proposers.search.alignment import renamed

BEST = 5
GOOD_SHARE = 0.25
FEWEST_GOOD = 2
MOST_VALUES = 4


def best_points(context: Context) -> list[str]:
    """Return lines like `#12 0.993210: RATE 0.3, DEPTH 7`, best first: the constants that differ from the baseline."""
    history = _history(context)
    base = history[0].parameters if history else {}
    lines = []
    for experiment in _ranked(context.direction, history)[:BEST]:
        moved = [f"{key} {value}" for key, value in experiment.parameters.items() if base.get(key) != value]
        what = ", ".join(moved) or "the baseline's constants"
        value = estimate(experiment)
        assert value is not None
        lines.append(f"#{experiment.number} {figure(value)}: {what}")
    return lines


def constant_ranges(context: Context) -> list[str]:
    """Return a line per constant, most tried first.

    `RATE now 0.3: the best 4 of 15 have 0.25..0.31, the rest 0.1..0.9; crashed at 2.0, 3.1`
    """
    history = _history(context)
    ranked = _ranked(context.direction, history)
    count = max(FEWEST_GOOD, round(GOOD_SHARE * len(ranked)))
    good, rest = ranked[:count], ranked[count:]
    crashed = [e for e in history if e.verdict.status == "crash"]
    lines = []
    for key, now in context.incumbent.parameters.items():
        tried = {value for e in history if (value := e.parameters.get(key)) is not None}
        if len(tried) < 2:
            continue
        parts = [f"the best {len(good)} of {len(ranked)} have {_values(good, key)}"]
        if rest:
            parts[0] += f", the rest {_values(rest, key)}"
        # A crash is evidence against values that were never measured, not against all values of the candidate.
        survived = {None, *_measured_values(ranked, key)}
        failed = [e for e in crashed if e.parameters.get(key) not in survived]
        if failed:
            parts.append(f"crashed at {_values(failed, key)}")
        lines.append((len(tried), f"{key} now {now}: {'; '.join(parts)}"))
    return [line for _, line in sorted(lines, key=lambda each: -each[0])]


def _history(context: Context) -> list[Experiment]:
    """Return the experiments with the keys that the incumbent's constants have."""
    keys = context.incumbent.parameters
    return [replace(each, parameters=renamed(keys, each.parameters)) for each in context.history]


def _ranked(direction: Direction, history: Sequence[Experiment]) -> list[Experiment]:
    """Return the measured experiments, best first by what is known of them now: the metric at a keep may be lucky."""
    sign = 1 if direction == "minimize" else -1
    known = [(e, estimate(e)) for e in history if e.metric is not None]
    measured = [(sign * value, e) for e, value in known if value is not None]
    return [e for _, e in sorted(measured, key=lambda each: each[0])]


def _measured_values(experiments: Sequence[Experiment], key: str) -> set[Value]:
    return {e.parameters[key] for e in experiments if key in e.parameters}


def _values(experiments: Sequence[Experiment], key: str) -> str:
    """Return `0.1, 0.3`, or `0.1..0.9` if there are many numbers."""
    found = _measured_values(experiments, key)
    numbers = sorted(v for v in found if isinstance(v, int | float) and not isinstance(v, bool))
    if len(numbers) == len(found) > MOST_VALUES:
        return f"{numbers[0]}..{numbers[-1]}"
    shown = [str(value) for value in numbers] + sorted(str(v) for v in found if v not in numbers)
    return ", ".join(shown[: 2 * MOST_VALUES])
