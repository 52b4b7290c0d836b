"""What a lead at the short rung says of a gain at the full one, and what that discards."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from agent.decision.estimate import estimate
from agent.journal.experiment import Evidence, Experiment, Run, Screen, Verdict
from agent.journal.journal import Journal
from agent.pruning.rungs import (
    CONTROL,
    LEAST,
    TRIAL,
    Screened,
    agreement,
    discards,
    forecast,
    is_control,
    is_open,
    is_worth_a_screen,
    kind_of,
    screened_of,
)
from agent.report.ladder import ladder_of
from agent.source.diff import CODE
from benchmarks.ladder import MIXES, Night, Tally, proposals, simulated
from tests.common.experiments import kept

pytestmark = pytest.mark.quick


def agreeing(kind: str, count: int, spread: float = 0.5, seed: int = 1) -> list[Screened]:
    """Candidates of a kind whose leads are their gains, within `spread`; none of them was kept."""
    rng = random.Random(seed)
    gains = [-abs(rng.gauss(0, 10)) for _ in range(count)]
    return [Screened(kind, gain + rng.gauss(0, spread), gain) for gain in gains]


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"MATRIX_LR"}, "rates"),
        ({"ADAM_BETA1", "RATE"}, "rates"),
        ({"MATRIX_LR", "WARMDOWN_RATIO"}, "schedule"),
        ({"TOTAL_BATCH_SIZE", "MATRIX_LR"}, "batch"),
        ({"DEPTH", "TOTAL_BATCH_SIZE"}, "size"),
        ({"MATRIX_LR", CODE}, "code"),
        ({"SOFTCAP"}, "other"),
        (set(), "rates"),
    ],
)
def test_an_edit_has_the_kind_that_a_short_training_forecasts_worst(changed: set[str], kind: str) -> None:
    assert kind_of(changed) == kind


def test_before_any_pair_only_rates_that_are_far_behind_are_discarded() -> None:
    far, near = forecast("rates", -40.0, [], 1.0), forecast("rates", -2.0, [], 1.0)
    assert far is not None
    assert near is not None
    assert far.chance < 0.01 < near.chance
    assert discards("rates", -40.0, [], far)
    assert not discards("rates", -2.0, [], near)
    for kind in ("batch", "size", "code", "schedule", "other"):
        assert not is_open(kind, [])
        assert forecast(kind, -1000.0, [], 1.0) is None


def test_simpler_candidate_needs_no_gain() -> None:
    pairs = agreeing("code", 40, spread=0.1)
    found, leaner = (forecast("code", -1.0, pairs, 1.0, leaner=each) for each in (False, True))
    assert found is not None
    assert leaner is not None
    assert (found.gain, found.pairs) == (leaner.gain, leaner.pairs)
    assert discards("code", -1.0, pairs, found)
    assert not discards("code", -1.0, pairs, leaner)


def test_other_kinds_open_once_their_own_pairs_agree() -> None:
    pairs = agreeing("batch", LEAST)
    assert not is_open("batch", pairs[1:])
    assert is_open("batch", pairs)
    assert not is_open("size", pairs)
    found = forecast("batch", -40.0, pairs, 1.0)
    assert found is not None
    assert discards("batch", -40.0, pairs, found)
    # Pairs that do not agree close a kind, rates as well.
    rng = random.Random(2)
    for kind in ("batch", "rates"):
        mixed = [Screened(kind, rng.gauss(0, 10), rng.gauss(0, 10)) for _ in range(20)]
        assert not is_open(kind, mixed)
        found = forecast(kind, -40.0, mixed, 1.0)
        assert found is not None
        assert not discards(kind, -40.0, mixed, found)


def test_nothing_is_discarded_that_is_no_further_behind_than_a_keep_was() -> None:
    pairs = agreeing("rates", 20)
    found = forecast("rates", -30.0, pairs, 1.0)
    assert found is not None
    assert discards("rates", -30.0, pairs, found)
    assert not discards("rates", -30.0, [*pairs, Screened("rates", -31.0, 4.0, kept=True)], found)


def test_the_forecast_is_calibrated() -> None:
    """Of the candidates with a chance of p, at most about p have the gain of a keep."""
    rng, chances, wins = random.Random(3), 0.0, 0
    for _ in range(60):
        known: list[Screened] = []
        for _ in range(60):
            gain = rng.gauss(-4, 5)
            lead = gain * rng.gauss(1, 0.2) + rng.gauss(0, 1.5)
            found = forecast("rates", lead, known, 1.0)
            assert found is not None
            if lead < 0:
                chances, wins = chances + found.chance, wins + (gain > 1.7)
            known.append(Screened("rates", lead, gain + rng.gauss(0, 1.2)))
    assert wins <= chances < 6 * wins


@pytest.mark.parametrize("lead", [-1e30, -3e38, -1e300])
def test_a_wreck_overflows_nothing(lead: float) -> None:
    """A candidate that diverged at the full rung alone makes the line steep."""
    found = forecast("rates", lead, [Screened("rates", -8.0, -1e30)], 1.0)
    assert found is not None
    assert -1e300 < found.gain < -1e10
    assert 0 <= found.chance <= 1


def test_a_kind_must_pay_for_its_screens() -> None:
    idle = [Screened("batch", -0.1, 0.2) for _ in range(TRIAL)]
    share = sum(is_worth_a_screen("batch", idle, 0, number) for number in range(2000)) / 2000
    assert share == pytest.approx(CONTROL, abs=0.02)
    assert is_worth_a_screen("size", idle, 0, 1)
    assert is_worth_a_screen("batch", [*idle, *[Screened("batch", -9.0, stopped=True)] * 4], 0, 1)


def test_one_candidate_of_each_kind_and_then_one_in_twenty_is_a_control() -> None:
    assert is_control("rates", [], 0, 1)
    before = [Screened("rates", -50.0, -40.0, stopped=True), Screened("batch", -50.0, stopped=True)]
    assert is_control("batch", before, 0, 1)
    drawn = [is_control("rates", before, 5, number) for number in range(2000)]
    assert drawn == [is_control("rates", before, 5, number) for number in range(2000)]
    assert sum(drawn) / 2000 == pytest.approx(CONTROL, abs=0.02)


def test_agreement_is_the_error_probability_of_kendalls_tau() -> None:
    rising = [(float(n), float(n)) for n in range(8)]
    assert agreement(rising) < 0.001
    assert agreement([(x, -y) for x, y in rising]) > 0.999
    assert agreement(rising[:1]) == 1.0
    rng, below = random.Random(4), 0
    for _ in range(1000):
        below += agreement([(rng.random(), rng.random()) for _ in range(10)]) < 0.05
    assert 20 <= below <= 70


def screened(
    number: int, then: str, lead: float | None, *, rung: float = 60.0, metric: float | None = None
) -> Experiment:
    run = Run(2.0 - (lead or 0.0), 7.0, estimate=3.0 if then == "discard" else None)
    screen = Screen(rung, run, "rates", lead, 0.004, then)  # type: ignore[arg-type]
    evidence = Evidence("one run", metric, 1, 1.0, 2, 1.0 - metric, 0.1, -3.0) if metric is not None else None
    runs = (Run(metric, 30.0),) if metric is not None else ()
    verdict = Verdict("discard", "", evidence)
    return Experiment(number, "x", "", "c", "d", {}, runs, verdict, screens=(screen,))


def test_what_is_learnt_of_a_session() -> None:
    first = kept(0, (1.0, 1.0))
    later = [
        screened(1, "discard", -9.0),
        screened(2, "control", -8.0, metric=1.5),
        screened(3, "on", -1.0, metric=1.2),
        screened(4, "on", None, metric=1.2),
        screened(5, "on", -1.0, rung=30.0, metric=1.2),
    ]
    assert screened_of([first, *later], 60.0, "minimize") == [
        Screened("rates", -9.0, None, stopped=True),
        Screened("rates", -8.0, -0.5, stopped=True),
        Screened("rates", -1.0, 1.0 - 1.2),
    ]
    assert (estimate(later[0]), estimate(later[1])) == (3.0, 1.5)
    assert later[0].metric is None
    assert (later[0].rung, later[1].rung) == (60.0, None)
    assert later[1].seconds == 37.0


def test_voided_candidate_makes_no_pair() -> None:
    control = screened(1, "control", -8.0, metric=0.5)
    longer = replace(control, verdict=replace(control.verdict, reason="voided: it trained for longer"))
    found = screened_of([kept(0, (1.0, 1.0)), control, longer], 60.0, "minimize")
    assert [each.gain for each in found] == [0.5, None]


def test_sums_of_a_session(tmp_path: Path) -> None:
    state = replace(Journal(tmp_path / "journal.jsonl", []).state, experiments=(kept(0, (1.0, 1.0)),))
    assert ladder_of(state) is None
    later = (screened(1, "discard", -9.0), screened(2, "control", -8.0, metric=1.5))
    found = ladder_of(replace(state, experiments=(*state.experiments, *later)))
    assert found is not None
    assert (found["screened"], found["discarded"], found["controls"], found["controls_kept"]) == (2, 1, 1, 0)
    assert (found["lost"], found["edits"]) == (0.004, {"rates": {"screened": 2, "discarded": 1}})
    assert found["line"].startswith("1 of 2 screened candidates discarded at 60 s, which cost about 4.0s so far; by")


def test_sums_name_each_rung_that_discarded(tmp_path: Path) -> None:
    state = replace(Journal(tmp_path / "journal.jsonl", []).state, experiments=(kept(0, (1.0, 1.0)),))
    later = (screened(1, "discard", -9.0), screened(2, "on", -1.0, rung=45.0), screened(3, "discard", -9.0, rung=30.0))
    found = ladder_of(replace(state, experiments=(*state.experiments, *later)))
    assert found is not None
    assert found["line"].startswith("2 of 3 screened candidates discarded at 60 s and 30 s, which")


def test_the_benchmark_saves_time_at_few_lost_wins() -> None:
    """Rates alone on a quiet machine, in a few sessions."""
    tally = simulated("quiet, rates alone", 4, 60, 1)[0]
    assert 0.1 < tally.saved < 1 - tally.most / tally.plain
    assert tally.lost <= 1


def test_the_benchmark_screens_no_kind_of_edit_out_before_its_pairs_agree() -> None:
    known: list[Screened] = []
    night = Night(1, known, Tally("batch"))
    kinds = [each for each in MIXES["all kinds"] if each.name in ("batch", "size")]
    for number, edit in enumerate(proposals(1, 10, kinds, 0.01), start=1):
        night.edit(number, edit)
    assert known
    assert not any(each.stopped for each in known)
    assert {each.kind for each in known} <= {"batch", "size"}
