"""Experiments and comparisons as plain values, for rules that need no session."""

from __future__ import annotations

from collections.abc import Sequence

from agent.decision.decide import Comparison
from agent.journal.experiment import Evidence, Experiment, Run, Verdict
from agent.journal.pending import Pending


def kept(number: int, metrics: Sequence[float], sigmas: float = 3.0, heldout: Sequence[float] = ()) -> Experiment:
    mean = sum(metrics) / len(metrics)
    evidence = Evidence("confirmed", mean, len(metrics), 2.0, 2, 2.0 - mean, 0.1, sigmas) if number else None
    runs, after = tuple(Run(each, 10.0) for each in metrics), tuple(Run(each, 10.0) for each in heldout)
    return Experiment(number, "x", "", "c", "d", {}, runs, Verdict("keep", "", evidence), heldout_runs=after)


def case(incumbent: Experiment, runs: Sequence[Run]) -> Comparison:
    pending = Pending(1, "x", "", "", {}, "d", (), 0.0, commit="c", runs=tuple(runs))
    return Comparison(pending, incumbent, [incumbent], {"a.py": "RATE = 2\n"}, {"a.py": "RATE = 1\n"}, "minimize")
