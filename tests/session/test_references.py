"""The runs with which a run at another rung is compared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.comparison.compare import noise_here
from agent.decision.difference import NO_NOISE
from agent.decision.noise import noise_of
from agent.journal.comparison import PendingComparison, Rung
from agent.journal.experiment import Experiment, Run, Verdict
from agent.journal.flight import Flight, Station
from agent.journal.state import State
from agent.session.references import away, of_candidate, of_commit, of_comparison, runs_at

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
    assert away(state(), RUNG, "a").own == ()
    assert runs_at(state(), RUNG) == {}


def test_best_may_take_as_much_longer_as_in_the_session() -> None:
    first = run(10.0, 1.0, 3000)
    found = away(state(baseline=(first,)), RUNG, "b")
    assert found.own == (replace(first, untimed=12.0, overrun=1.2, secondary={"num_steps": 1500.0}),)
    assert found.baseline == found.other == (first,)


def test_variant_may_take_as_long_as_best_or_baseline() -> None:
    """Taking a change out may bring back the baseline's slower start or step."""
    first, best = run(10.0, 1.0, 3000), run(11.0, 1.1, 1400)
    failed = Run(None, 1.0, error="crashed")
    found = away(state(baseline=(first,), best=(best, failed)), RUNG, "c")
    assert (found.own, found.baseline, found.other) == ((best, first), (first,), (best,))
    assert away(state(baseline=(first,), best=(best,)), RUNG, "b").own == (best,)
    assert away(state(baseline=(first,)), replace(RUNG, values={}), "c").own == ()


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
    there = [away(state(baseline=(first,)), RUNG, commit).side for commit in "abc"]
    assert there == ["the baseline", "the best", "the slower of best and baseline"]
    assert of_candidate(experiments, best).side == "the incumbent"


def measured_by_stations(*compared: PendingComparison) -> State:
    """A session on two stations, of which the slow one alone ran both; the best takes 1 s longer there."""
    quick, slow = (replace(run(0.5, 0.0, 2000), station="studio"), replace(run(4.0, 0.1, 500), station="mini"))
    later = replace(run(5.0, 0.3, 400), station="mini")
    experiments = kept(0, "a", slow, quick), kept(1, "b", later), kept(2, "c", later)
    flight = Flight(stations={name: Station({}, 0.0) for name in ("studio", "mini")})
    return State(experiments=experiments, compared=compared, flight=flight)


def test_runs_of_stations_do_not_limit_those_of_this_machine() -> None:
    for commit in "abcd":
        assert of_comparison(measured_by_stations(), None, commit).own == ()
    first, there = run(10.0, 1.0, 3000), replace(run(0.5, 0.0, 2000), station="studio")
    state = measured_by_stations(PendingComparison({"a": "a", "b": "b"}, (), 2, {"a": (there, first)}))
    assert runs_at(state, None) == {"a": (first,)}
    assert of_comparison(state, None, "a").own == (first,)
    longer = replace(first, untimed=11.0, overrun=1.2, secondary={"num_steps": 2400.0})
    found = [of_comparison(state, None, commit) for commit in "bcd"]
    assert [each.own for each in found] == [(longer,), (longer,), (longer, first)]
    assert [each.side for each in found] == ["#1", "the best", "the slower of best and baseline"]
    assert all(each.baseline == (first,) for each in found)


def test_variant_of_an_ablation_here_may_start_as_slowly_as_the_baseline_on_stations() -> None:
    """The baseline does not run in an ablation."""
    slow, quick = (replace(run(untimed, 0.1, 1000), station="mini") for untimed in (40.0, 5.0))
    experiments = kept(0, "a", slow), kept(1, "b", quick)
    here = run(6.0, 0.2, 900)
    ablation = PendingComparison({"best": "b", "without-1": "d"}, (), 2, {"best": (here,)})
    state = replace(measured_by_stations(), experiments=experiments, comparison=ablation)
    found = of_comparison(state, None, "d")
    assert [each.untimed for each in found.own] == [6.0, 41.0]
    assert [each.untimed for each in found.baseline] == [41.0]
    assert of_comparison(state, None, "b").own == (here,)


def test_only_stations_that_ran_both_tell_how_much_longer_one_takes() -> None:
    baseline = kept(0, "a", replace(run(3.0, 0.1, 1000), station="studio"))
    slow = replace(run(9.0, 1.0, 200), station="mini")
    best = kept(1, "b", replace(run(3.5, 0.1, 1000), station="studio"), slow)
    first = run(10.0, 1.0, 3000)
    compared = PendingComparison({"a": "a", "b": "b"}, (), 2, {"a": (first,), "b": (replace(first, metric=None),)})
    state = replace(measured_by_stations(compared), experiments=(baseline, best))
    found = of_comparison(state, None, "b")
    assert found.own == (replace(first, untimed=10.5),)
    assert found.other == of_comparison(state, None, "d").other == (first,)
    apart = replace(state, experiments=(baseline, kept(1, "b", slow)))
    assert of_comparison(apart, None, "b").own[0].untimed == 16.0
    discarded = replace(kept(2, "c", replace(slow, station="studio")), verdict=Verdict("discard", ""))
    longer = of_comparison(replace(state, experiments=(baseline, best, discarded)), None, "c")
    assert (longer.own[0].untimed, longer.side) == (16.0, "#2")


def test_runs_of_a_session_on_this_machine_limit_those_of_a_comparison() -> None:
    baseline, best = state().experiments
    assert of_comparison(State(experiments=(baseline, best)), None, "b").own == best.runs


def test_stations_say_nothing_of_the_noise_of_this_machine() -> None:
    baseline, best = state().experiments
    assert noise_here(measured_by_stations()) == NO_NOISE
    assert noise_here(State(experiments=(baseline, best))) == noise_of((baseline, best))
