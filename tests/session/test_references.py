"""The runs with which a run at another rung is compared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.journal.comparison import PendingComparison, Rung
from agent.journal.experiment import Experiment, Run, Verdict
from agent.journal.state import State
from agent.session.references import at_rung, of_candidate, of_commit, runs_at

pytestmark = pytest.mark.quick

RUNG = Rung(900.0, {"DEPTH": 8}, {"chip": "M4"})


def run(untimed: float, overrun: float, steps: float) -> Run:
    return Run(2.0, 300.0, {"num_steps": steps}, untimed=untimed, overrun=overrun)


def kept(number: int, commit: str, *runs: Run) -> Experiment:
    return Experiment(number, "search", "", commit, commit, {}, runs, Verdict("keep", ""))


def state(**there: tuple[Run, ...]) -> State:
    experiments = kept(0, "a", run(3.0, 0.1, 1000)), kept(1, "b", run(5.0, 0.3, 500))
    other = PendingComparison({"a": "a", "b": "b"}, (), 2, {"a": (run(90.0, 9.0, 1),)})
    here = PendingComparison({"baseline": "a", "best": "b", "without-1": "c"}, (), 2, there, rung=RUNG)
    return State(experiments=experiments, parked=(other,), comparison=here)


def test_first_run_there_has_no_reference() -> None:
    assert at_rung(state(), RUNG, "a").own == ()
    assert runs_at(state(), RUNG) == {}


def test_best_may_take_as_much_longer_as_in_the_session() -> None:
    first = run(10.0, 1.0, 3000)
    found = at_rung(state(baseline=(first,)), RUNG, "b")
    assert found.own == (replace(first, untimed=12.0, overrun=1.2, secondary={"num_steps": 1500.0}),)
    assert found.baseline == found.other == (first,)


def test_variant_may_take_as_long_as_best_or_baseline() -> None:
    """Taking a change out may bring back the baseline's slower start or step."""
    first, best = run(10.0, 1.0, 3000), run(11.0, 1.1, 1400)
    failed = Run(None, 1.0, error="crashed")
    found = at_rung(state(baseline=(first,), best=(best, failed)), RUNG, "c")
    assert (found.own, found.baseline, found.other) == ((best, first), (first,), (best,))
    assert at_rung(state(baseline=(first,), best=(best,)), RUNG, "b").own == (best,)
    assert at_rung(state(baseline=(first,)), replace(RUNG, values={}), "c").own == ()


def test_variant_of_an_ablation_may_take_as_long_as_best_or_baseline() -> None:
    baseline, best = state().experiments
    found = of_commit((baseline, best), "c")
    assert (found.own, found.baseline, found.other) == ((*best.runs, *baseline.runs), baseline.runs, best.runs)
    assert of_candidate((baseline, best), best).own == best.runs


def test_reference_is_called_as_the_sides_of_a_comparison_are() -> None:
    baseline, best = state().experiments
    earlier = replace(baseline, number=1, commit="b")
    experiments = (baseline, earlier, replace(best, number=2, commit="c"))
    sides = [of_commit(experiments, commit).side for commit in "abcd"]
    assert sides == ["the baseline", "#1", "the best", "the slower of best and baseline"]
    first = run(10.0, 1.0, 3000)
    there = [at_rung(state(baseline=(first,)), RUNG, commit).side for commit in "abc"]
    assert there == ["the baseline", "the best", "the slower of best and baseline"]
    assert of_candidate(experiments, best).side == "the incumbent"
