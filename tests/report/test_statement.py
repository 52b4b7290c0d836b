"""The statement for the night: which runs it counts, which keep it names, and what it says."""

from __future__ import annotations

import cProfile
from collections.abc import Sequence
from dataclasses import replace

import pytest

from agent.decision.anytime import AUTOCORRELATION, Interval, interval, interval_at_equal_steps, share
from agent.decision.estimate import groups_of
from agent.journal.comparison import PendingComparison
from agent.journal.experiment import Evidence, Experiment, Run, Verdict, mean
from agent.journal.state import State
from agent.report.holdout import holdout_lines, on_holdout
from agent.report.statement import ON_ONE_RUN, ON_SNAPSHOT, bound_of, statement
from tests.common.experiments import kept

pytestmark = pytest.mark.quick

BASE = (2.00, 2.02, 1.98, 2.01)
GOOD = (1.70, 1.72, 1.69, 1.71)
SESSION = {"direction": "minimize", "fingerprint": {"snapshot": "abc"}}


def correlated(a: Sequence[float], b: Sequence[float], number: int, others: Sequence[Sequence[float]] = ()) -> Interval:
    """Return the interval of the `number`-th keep where steps are not counted."""
    return interval(a, b, "minimize", share(number), others, AUTOCORRELATION)


def discarded(number: int, values: Sequence[float]) -> Experiment:
    return replace(kept(number, values), verdict=Verdict("discard", ""))


def state(*experiments: Experiment, **flags: str) -> State:
    return State(session=SESSION, experiments=experiments, flags=flags)


def line(*experiments: Experiment, **flags: str) -> str:
    found = statement(state(*experiments, **flags))
    assert found is not None
    text: str = found["line"]
    return text


def test_nothing_is_said_before_the_baseline_and_little_after_it() -> None:
    assert statement(State()) is None
    assert statement(state()) is None
    assert line(kept(0, BASE)) == "at any time: nothing was kept"
    assert line(kept(0, BASE), discarded(1, [2.1])) == (
        "at any time: nothing was kept; at most 0.3 false keeps expected among 1 experiment"
    )


def test_cost_grows_with_the_session_and_not_with_its_square() -> None:
    """It is made anew for each view of a session, which may have thousands of experiments and hundreds of keeps."""

    def calls(count: int) -> int:
        night = state(kept(0, BASE), *(kept(number, GOOD, heldout=GOOD) for number in range(1, count)))
        profile = cProfile.Profile()
        profile.runcall(statement, night)
        return sum(entry.callcount for entry in profile.getstats() if entry.code is groups_of.__code__)

    assert calls(40) <= 40


def test_missing_runs_are_named() -> None:
    fresh = kept(1, [1.6, 1.7])
    assert line(kept(0, BASE), fresh).startswith("at any time: no bound yet, #1 has too few held-out runs;")
    assert line(kept(0, BASE), replace(fresh, heldout_runs=(Run(None, 1.0),))).startswith("at any time: no bound yet")
    even = kept(1, [1.6, 1.7], heldout=[2.0, 2.02, 1.98])
    assert line(kept(0, BASE), even).startswith("at any time: #1 is not shown to be better than the baseline;")


def test_bound_is_that_of_held_out_runs() -> None:
    found = statement(state(kept(0, BASE), kept(1, [0.5, 0.6], heldout=GOOD)))
    assert found is not None
    expected = correlated(BASE, GOOD, 1)
    assert found["bound"] == {
        "number": 1,
        "gain": pytest.approx(expected.gain),
        "low": pytest.approx(expected.low),
        "runs": 4,
        "baseline_runs": 4,
    }
    assert found["line"] == (
        f"at any time: #1 is at least 0.2 better than the baseline (95 %, {ON_SNAPSHOT}); "
        "at most 0.3 false keeps expected among 1 experiment"
    )
    assert float(found["line"].split("at least ")[1].split()[0]) <= expected.low


def test_clear_keep_has_no_bound_by_its_selection_runs() -> None:
    """The verdict takes the runs of such a keep for unbiased; the statement does not."""
    found = bound_of(state(kept(0, BASE), kept(1, GOOD, sigmas=9.0)), kept(1, GOOD, sigmas=9.0))
    assert found == {"number": 1, "gain": None, "low": None, "runs": 0, "baseline_runs": 4}


def test_each_keep_has_a_share_and_the_best_is_named_if_it_can_be() -> None:
    first, second = kept(1, [1.7, 1.7], heldout=GOOD), kept(2, [1.5, 1.5], heldout=[1.50, 1.52, 1.51])
    both = state(kept(0, BASE), first, second)
    found = statement(both)
    assert found is not None
    assert found["bound"] == found["keeps"][1] == bound_of(both, second)
    assert found["keeps"][1]["low"] == pytest.approx(correlated(BASE, [1.50, 1.52, 1.51], 2, [GOOD]).low)
    young = statement(state(kept(0, BASE), first, replace(second, heldout_runs=())))
    assert young is not None
    assert young["bound"]["number"] == 1
    assert bound_of(both, kept(0, BASE)) is None


def test_keep_that_is_less_stable_than_the_others_has_a_bound_by_its_own_noise() -> None:
    calm = [discarded(number, [2.3, 2.30, 2.31, 2.29, 2.32]) for number in range(2, 8)]
    wild = (1.4, 2.1, 1.2, 1.9)
    found = statement(state(kept(0, BASE), kept(1, [1.5, 1.6], heldout=wild), *calm))
    assert found is not None
    assert found["bound"]["low"] == pytest.approx(correlated(BASE, wild, 1).low)
    assert found["bound"]["low"] < 0
    many = (*BASE, *BASE, *BASE)  # so many calm runs of the baseline do not hide it
    found = statement(state(kept(0, many), kept(1, [1.5, 1.6], heldout=wild), *calm))
    assert found is not None
    assert found["bound"]["low"] == pytest.approx(correlated(many, wild, 1).low)


def test_repeated_candidates_add_to_the_noise_without_their_first_run() -> None:
    best = kept(1, [1.7], heldout=GOOD)
    found = bound_of(state(kept(0, BASE), best, discarded(2, [5.0, 2.0, 2.01])), best)
    assert found is not None
    assert found["low"] == pytest.approx(correlated(BASE, GOOD, 1, [[2.0, 2.01]]).low)


def test_deterministic_runs_need_no_held_out_ones() -> None:
    found = statement(state(kept(0, [2.0, 2.0, 2.0]), kept(1, [1.5])))
    assert found is not None
    assert found["bound"]["low"] == found["bound"]["gain"] == pytest.approx(0.5)
    assert "#1 is at least 0.5 better" in found["line"]


def test_bound_of_one_run_repeated_is_for_its_seed() -> None:
    """Of a repository of one's own, which has no snapshot: with another seed the gain may be another, or none."""
    of_user = replace(state(kept(0, [2.0, 2.0, 2.0]), kept(1, [1.5])), session={**SESSION, "fingerprint": {}})
    found = statement(of_user)
    assert found is not None
    assert f"#1 is at least 0.5 better than the baseline (95 %, {ON_ONE_RUN});" in found["line"]
    noisy = replace(of_user, experiments=(kept(0, BASE), kept(1, [0.5, 0.6], heldout=GOOD)))
    assert "(95 %, this seed);" in (statement(noisy) or {})["line"]


def test_keep_that_is_random_has_no_exact_bound() -> None:
    """One lucky run of a random program is kept where the others are deterministic; later runs of it tell."""
    first, lucky = replace(kept(0, [2.0, 2.0, 2.0]), commit="a"), replace(kept(1, [1.5]), commit="b")
    once = bound_of(state(first, replace(lucky, heldout_runs=(Run(2.1, 10.0),))), lucky)
    assert once is not None
    assert (once["low"], once["runs"]) == (None, 0)
    sides = {"a": (Run(2.0, 10.0),) * 3, "b": tuple(Run(each, 10.0) for each in (2.1, 1.6, 2.4))}
    compared = PendingComparison({"a": "a", "b": "b"}, (), 3, sides)
    found = bound_of(replace(state(first, lucky), compared=(compared,)), lucky)
    assert found is not None
    assert found["runs"] == 3
    assert found["low"] is None or found["low"] < 0
    same = replace(compared, runs={**sides, "b": (Run(1.5, 10.0),) * 3})
    exact = bound_of(replace(state(first, lucky), compared=(same,)), lucky)
    assert exact is not None
    assert (exact["low"], exact["runs"]) == (pytest.approx(0.5), 4)


def test_runs_after_a_change_of_the_machine_do_not_count() -> None:
    changed = tuple(Run(each, 10.0, rebased=index == 2) for index, each in enumerate(GOOD))
    found = statement(state(kept(0, BASE), replace(kept(1, [1.7]), heldout_runs=changed), kept(2, [1.6], heldout=GOOD)))
    assert found is not None
    assert [each["runs"] for each in found["keeps"]] == [2, 0]


def test_runs_of_confirm_count_with_the_own_seed() -> None:
    first, best = replace(kept(0, BASE), commit="a"), replace(kept(1, [1.7]), commit="b")
    sides = {"a": tuple(Run(each, 10.0) for each in BASE[:3]), "b": tuple(Run(each, 10.0) for each in GOOD[:3])}
    compared = PendingComparison({"a": "a", "b": "b"}, (), 3, sides)
    found = bound_of(replace(state(first, best), compared=(compared,)), best)
    assert found is not None
    assert (found["runs"], found["baseline_runs"]) == (3, 7)
    assert found["low"] == pytest.approx(correlated([*BASE, *BASE[:3]], GOOD[:3], 1).low)


def test_keeps_at_equal_steps_are_bounded_at_equal_steps() -> None:
    def runs(values: Sequence[float], steps: float) -> tuple[Run, ...]:
        return tuple(Run(value, 10.0, {"num_steps": steps + index}) for index, value in enumerate(values))

    evidence = Evidence("confirmed", 1.7, 2, 2.0, 4, 0.3, 0.01, 4.0, doubt=0.1)
    first = replace(kept(0, BASE), runs=runs(BASE, 40.0))
    best = replace(
        kept(1, [1.7]), verdict=Verdict("keep", "", evidence), runs=runs([1.7], 44.0), heldout_runs=runs(GOOD, 45.0)
    )
    found = bound_of(state(first, best), best)
    assert found is not None
    assert found["low"] == pytest.approx(
        interval_at_equal_steps(first.runs, best.heldout_runs, "minimize", share(1)).low
    )
    measured = replace(best, verdict=Verdict("keep", "", replace(evidence, doubt=None)))
    other = bound_of(state(first, measured), measured)
    assert other is not None
    assert other["low"] == pytest.approx(correlated(BASE, GOOD, 1).low)
    assert other["low"] < interval(BASE, GOOD, "minimize", share(1)).low


def test_classic_rule_has_more_false_keeps() -> None:
    tried = [discarded(number, [2.1]) for number in range(1, 41)]
    assert "at most 0.5 false keeps expected among 40 experiments" in line(kept(0, BASE), *tried)
    assert "at most 4.3 false keeps expected among 40 experiments" in line(kept(0, BASE), *tried, verdict="greedy")


def test_verdicts_as_measured_have_more_false_keeps() -> None:
    """Where steps are not compared, a drift of the machine may have decided."""
    evidence = Evidence("confirmed", 2.1, 2, 2.0, 4, -0.1, 0.01, -4.0, doubt=None)

    def tried(evidence: Evidence) -> list[Experiment]:
        found = [replace(discarded(number, [2.1]), verdict=Verdict("discard", "", evidence)) for number in range(1, 41)]
        return [kept(0, BASE), *found]

    assert "at most 1 false keeps expected among 40 experiments" in line(*tried(evidence))
    assert "at most 0.5 false keeps expected among 40 experiments" in line(*tried(replace(evidence, doubt=0.1)))
    assert "at most 0.5 false keeps expected among 40 experiments" in line(*tried(replace(evidence, noise=0.0)))


def test_without_a_snapshot_the_line_names_no_text() -> None:
    found = statement(
        State(
            session={"direction": "minimize", "fingerprint": {}},
            experiments=(kept(0, BASE), kept(1, [1.7], heldout=GOOD)),
        )
    )
    assert found is not None
    assert "better than the baseline (95 %, this seed);" in found["line"]


def test_rounding_of_single_models_is_no_cost_of_selection() -> None:
    scored = {
        number: {"metric": value, "holdout": round(value + 0.2, 6)} for number, value in enumerate((1.732, 1.652))
    }
    found = on_holdout(replace(state(kept(0, BASE), kept(1, GOOD)), scored=scored))
    assert found is not None
    assert (found["gain"], found["cost"]) == (pytest.approx(0.08), 0.0)


def test_holdout_of_a_confirmation_without_a_gain_has_its_line() -> None:
    found = {"gain": 0.08, "low": 0.07, "high": 0.09}
    (said,) = holdout_lines({"gain": None, "holdout": found, "cost": found})
    assert said.startswith("on the holdout 0.08 (0.07 to 0.09); validation minus holdout 0.08")


def test_rounding_of_large_metrics_leaves_no_pairs_out() -> None:
    """The gain over the holdout and the cost add up to the gain on validation only within the metric's precision."""
    seeds = [(1e6 + 0.137 * seed, 3e5 + 0.071 * seed) for seed in range(1, 6)]
    gain = mean([a - (a - 0.01) for a, _ in seeds])
    cost = mean([(a - b) - ((a - 0.01) - (b - 0.004)) for a, b in seeds])
    unseen = mean([b - (b - 0.004) for _, b in seeds])
    assert unseen + cost != gain
    found = [{"gain": each, "low": 0.0, "high": 0.02, "means": {"a": 1e6, "b": 1e6}} for each in (unseen, cost)]
    confirmation = {"gain": gain, "means": {"a": 1e6, "b": 1e6}, "holdout": found[0], "cost": found[1], "scored": 5}
    assert "by the" not in holdout_lines(confirmation)[0]
    assert "by the 5 pairs" in holdout_lines({**confirmation, "gain": 0.0101})[0]
