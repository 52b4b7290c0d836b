"""The verdict across stations: what it keeps, what it asks for, and how often it is wrong."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from agent.decision.decide import DecisionConfig
from agent.decision.estimate import estimate, split
from agent.decision.levels import Records, aligned, records_of
from agent.decision.noise import noise_of, repeated
from agent.decision.pooling import predicted
from agent.decision.sequential_test import sample_of, weigh
from agent.decision.stations import Trial, Wants, judge_across
from agent.execution.conditions import MORE_CORES
from agent.journal.experiment import Experiment, Run, Verdict, by_station
from benchmarks import fleet as simulation
from tests.common.experiments import kept

pytestmark = pytest.mark.quick

CONFIRM = DecisionConfig()
LEVELS = {"studio": 0.0, "mini": 100.0, "lab": -50.0}


def run(station: str, value: float, **more: Any) -> Run:
    return Run(value + LEVELS[station], 10.0, station=station, **more)


def session(
    noise: float = 1.0, repeats: int = 4, stations: Sequence[str] = ("studio", "mini"), seed: int = 0
) -> Records:
    """Return the records after a baseline of 10 that ran `repeats` times on each station."""
    rng = random.Random(seed)
    baseline = [run(name, 10 + rng.gauss(0, noise)) for name in stations for _ in range(repeats)]
    return Records([baseline], "minimize", tuple(stations))


def heldout(value: float = 10.0, stations: Sequence[str] = ("studio", "mini"), repeats: int = 4) -> list[Run]:
    return [run(name, value) for name in stations for _ in range(repeats)]


def judged(runs: Sequence[Run], base: Sequence[Run], records: Records | None = None, **more: Any) -> Verdict | Wants:
    config = more.pop("config", CONFIRM)
    return judge_across(Trial(runs, base, more.pop("selection", ()), **more), records or session(), config)


def verdict(runs: Sequence[Run], base: Sequence[Run], records: Records | None = None, **more: Any) -> Verdict:
    found = judged(runs, base, records, **more)
    assert isinstance(found, Verdict), found
    return found


def wants(runs: Sequence[Run], base: Sequence[Run], records: Records | None = None, **more: Any) -> Wants:
    found = judged(runs, base, records, **more)
    assert isinstance(found, Wants), found
    return found


def test_level_of_station_is_no_gain() -> None:
    # 50 lower than the base on studio, as everything is on this station.
    stations = ("studio", "lab")
    found = verdict([run("lab", 10.5)], heldout(stations=stations), session(stations=stations))
    assert found.status == "discard"


def test_keep_pools_differences_within_stations() -> None:
    found = verdict([run("studio", 4), run("mini", 4.5), run("studio", 4.2)], heldout())
    assert found.status == "keep"
    evidence = found.evidence
    assert evidence is not None
    assert set(evidence.stations) == {"studio", "mini"}
    assert evidence.stations["mini"] == pytest.approx(5.5)
    assert 5.5 < evidence.gain < 6.0
    assert evidence.mean == pytest.approx(10 - evidence.gain, abs=0.5)  # on studio's scale
    assert "on 2 stations" in found.reason
    assert not evidence.equal_steps


def test_keep_needs_two_stations_if_there_are_two() -> None:
    thrice = [run("studio", 3)] * 3
    assert verdict(thrice, heldout(), replace(session(), stations=("studio",))).status == "keep"
    assert wants(thrice, heldout()).stations == {"mini"}
    asked = wants(thrice[:1], heldout())
    assert asked.candidate == 2
    assert asked.stations == {"mini"}


def test_candidate_less_stable_than_the_others_is_judged_by_its_own_noise_on_stations() -> None:
    assert verdict([run("studio", 3), run("mini", 3), run("studio", 4)], heldout()).status == "keep"
    alone = replace(session(repeats=40), stations=("studio",))
    wild = judged([run("studio", value) for value in (3, -10, 12)], heldout(), alone)
    assert isinstance(wild, Wants) or wild.status == "discard"


def test_candidate_like_the_others_seldom_seems_less_stable_on_many_stations() -> None:
    """While the noise of the base counted as the candidate's, 0.58 of them seemed to be."""
    rng, names, own = random.Random(1), [f"mac-{number}" for number in range(8)], list[bool]()

    def once() -> list[Run]:
        return [Run(rng.gauss(0, 1), 10.0, station=name) for name in names]

    for _ in range(100):
        base = once()
        records = Records([base, *([*once(), *once()] for _ in range(4))], "minimize")
        found = judged(once(), base, records)
        if isinstance(found, Verdict) and found.evidence is not None:
            own.append(found.evidence.noise > 1.3 * records.noise.sd)
    assert len(own) > 50
    assert sum(own) / len(own) < 0.2


def test_discarded_candidate_is_compared_with_the_noise_of_its_station() -> None:
    quiet = [run("studio", 10 + (-1) ** number) for number in range(40)]
    noisy = [run("mini", 10 + 5 * (-1) ** number) for number in range(4)]
    baseline = replace(kept(0, [10.0]), runs=(*quiet, *noisy))
    discarded = replace(kept(1, [10.0]), verdict=Verdict("discard", ""))
    for name, counts in (("mini", True), ("studio", False)):
        runs = tuple(run(name, value) for value in (10.0, 4.0, 10.0, 16.0))
        records = records_of([baseline, replace(discarded, runs=runs)], "minimize")
        assert any(runs[1] in group for group in records.groups) == counts


@pytest.mark.parametrize("names", [("studio",), ("studio", "mini")])
def test_nothing_is_kept_before_its_third_run_where_no_other_station_is_left(names: tuple[str, ...]) -> None:
    lost = [replace(run("mini", 10), metric=None, error="no memory")] * 3
    base, alone = [*heldout(), *lost], replace(session(), stations=names)
    assert wants([run("studio", 3)], base, alone).stations == {"studio"}
    assert verdict([run("studio", 3)] * 3, base, alone).status == "keep"


def test_candidate_without_three_comparable_runs_is_discarded_in_the_end() -> None:
    quiet, busy = {"others": 0.0}, {"others": 2 * MORE_CORES}
    base = [replace(each, conditions=quiet) for each in heldout(stations=("studio",))]
    runs = [run("studio", 3, conditions=quiet), *[run("studio", 3, conditions=busy)] * 15]
    found = verdict(runs, base, replace(session(), stations=("studio",)))
    assert found.status == "discard"
    assert "too few of its runs" in found.reason


def test_unstable_simplification_is_not_kept_on_stations() -> None:
    alone = replace(session(repeats=40), stations=("studio",))
    runs = [run("studio", value) for value in (9.9, 3.0, 16.6, 9.8)]
    found = judged(runs, heldout(), alone, leaner="5 tokens less")
    assert isinstance(found, Wants) or found.status == "discard"


def test_stations_that_have_agreed_keep_alone() -> None:
    first = session().groups[0]
    agreed = Records([first, *([run("studio", 8), run("mini", 8)] for _ in range(3))], "minimize")
    assert agreed.levels.agree
    assert verdict([run("studio", 3)] * 3, heldout(), agreed).status == "keep"
    apart = Records([first, *([run("studio", v), run("mini", 16 - v)] for v in (2, 14, 3))], "minimize")
    assert not apart.levels.agree
    assert "mini" in wants([run("studio", 3)], heldout(), apart).stations
    assert not session().levels.agree


def test_prediction_discards_but_never_keeps() -> None:
    only_studio = heldout(stations=("studio",))
    lost = verdict([run("mini", 12)], only_studio)
    assert lost.status == "discard"
    assert "predicted on mini" in lost.reason
    assert lost.evidence is not None
    assert not lost.evidence.stations
    asked = wants([run("mini", 0)], only_studio)
    assert "mini" in asked.incumbent
    assert "studio" in asked.stations


def test_late_joiner_needs_incumbent_first() -> None:
    asked = wants([run("lab", 10)], heldout(), replace(session(), stations=("studio", "mini", "lab")))
    assert asked.incumbent == {"lab"}


def test_run_that_only_gone_stations_could_make_is_made_elsewhere() -> None:
    gone = replace(session(), stations=("mini",))
    once, close = heldout(repeats=1), [run("studio", 8.5)]
    assert wants(close, once).incumbent == {"studio"}
    chosen = [run("studio", 10), run("mini", 10)]
    asked = [wants(close, once, gone), wants([run("studio", 9.5)], [], gone, selection=chosen)]
    asked.append(wants(close, heldout(stations=("mini",)), gone, config=DecisionConfig(kind="greedy")))
    assert [(each.candidate, each.stations, each.incumbent) for each in asked] == [
        (1, frozenset({"mini"}), frozenset())
    ] * 3
    fails = [Run(None, 1.0, error="boom", station="mini")] * 3
    found = verdict(close, [run("studio", 10), *fails], gone)
    assert (found.status, found.reason) == ("discard", "the incumbent could not be re-measured for the comparison")


def test_new_incumbent_is_measured_before_close_candidates_are_judged_by_it() -> None:
    chosen = [run("studio", 10), run("mini", 10)]
    asked = wants([run("mini", 9.5)], [], selection=chosen)
    assert asked.incumbent == {"mini"}
    assert verdict([run("mini", 14)], [], selection=chosen).status == "discard"


def test_overtaken_candidate_is_judged_by_the_runs_that_it_has() -> None:
    """A winner is measured again on top of what was kept meanwhile, so certainty on the old base is worth no run."""
    close, unclear, only_studio = [run("studio", 8)], [run("studio", 8.8)], heldout(stations=("studio",))
    assert wants(close, heldout()).candidate
    assert wants(unclear, heldout()).candidate
    promising = verdict(close, heldout(), overtaken=True)
    assert (promising.status, promising.reason[:14]) == ("keep", "promising: +2,")
    lost = verdict(unclear, heldout(), overtaken=True)
    assert (lost.status, lost.reason[:17]) == ("discard", "within noise: +1.")
    assert lost.evidence is not None  # so that it may be a near miss
    assert verdict([run("mini", 7)], only_studio, overtaken=True).status == "keep"  # predicted
    chosen = [run("studio", 10), run("mini", 10)]
    assert verdict([run("mini", 7)], [], selection=chosen, overtaken=True).status == "keep"
    late = replace(session(), stations=("studio", "mini", "lab"))
    assert wants([run("lab", 10)], heldout(), late, overtaken=True).incumbent == {"lab"}


def test_overtaken_candidate_that_trained_longer_is_voided() -> None:
    long, config = replace(run("studio", 7), seconds=20.0), DecisionConfig(trains=True)
    assert wants([long], heldout(), config=config, overtaken=True).candidate == 1
    found = verdict([long, long], heldout(), config=config, overtaken=True)
    assert found.reason.startswith("voided: it ran for 20.0 s")
    # The rule of single runs counts disturbed ones too, with which nothing else can be compared.
    quiet = [replace(each, conditions={"others": 0.0}) for each in heldout()]
    busy = replace(long, conditions={"others": MORE_CORES + 20})
    greedy = DecisionConfig(kind="greedy", trains=True)
    assert wants([busy], quiet, config=greedy, overtaken=True).candidate == 1


@pytest.mark.parametrize(("value", "status"), [(8.0, "keep"), (9.0, "keep"), (10.0, "keep"), (12.0, "discard")])
def test_overtaken_simplification_is_promising_if_nothing_is_lost(value: float, status: str) -> None:
    found = verdict([run("studio", value)], heldout(), overtaken=True, leaner="9 fewer tokens of code")
    assert found.status == status
    assert found.reason.startswith("promising") == (status == "keep")


def test_clear_disagreement_is_a_finding() -> None:
    found = verdict([run("studio", 4), run("mini", 11)], heldout())
    assert found.status == "discard"
    assert found.reason.startswith("better on studio (+6), not on mini (-1): ")


def test_failed_candidate_is_crash_after_one_run() -> None:
    assert verdict([run("studio", 3), Run(None, 1.0, error="boom", station="mini")], heldout()).status == "crash"
    assert verdict([Run(None, 1.0, error="boom", station="mini")], heldout()).reason == "boom"


def test_limits_and_repeats_are_those_of_one_machine() -> None:
    limit = DecisionConfig(max_memory_gb=1.0)
    big = run("studio", 3, secondary={"peak_vram_mb": 4096.0})
    assert "needs 4.0 GB" in verdict([big], heldout(), config=limit).reason
    found = verdict([run("studio", 3)], heldout(), repeat="only the seed differs")
    assert (found.status, found.reason) == ("discard", "repeat: only the seed differs")
    assert found.evidence is not None
    assert found.evidence.how == "repeat"


def test_longer_training_on_every_station_is_voided() -> None:
    long = [replace(run(name, 3), seconds=20.0) for name in ("studio", "mini", "studio")]
    config = DecisionConfig(trains=True)
    assert verdict(long, heldout(), config=config).reason.startswith("voided: it ran for 20.0 s")
    assert verdict([long[0], run("mini", 3), long[0]], heldout(), config=config).status == "keep"


def test_longer_training_is_judged_where_both_ran() -> None:
    config, first = DecisionConfig(trains=True), session().groups[0]
    agreed = Records([first, *([run("studio", 8), run("mini", 8)] for _ in range(3))], "minimize")
    long = [replace(run(name, 3), seconds=20.0) for name in ("studio", "lab", "studio", "studio")]
    found = verdict(long, heldout(stations=("studio",)), agreed, config=config)
    assert found.reason.startswith("voided: it ran for 20.0 s")


def test_runs_that_took_no_time_do_not_end_the_session() -> None:
    """Stations whose clock does not advance, or that lie."""
    at_once = [replace(run(name, 3), seconds=0.0) for name in ("studio", "mini", "studio")]
    base = [replace(each, seconds=0.0) for each in heldout()]
    found = verdict(at_once, base, selection=base[:2], config=DecisionConfig(trains=True))
    assert found.status == "keep"


def test_disturbed_run_does_not_count_and_is_repeated_elsewhere() -> None:
    quiet, busy = {"others": 0.0}, {"others": MORE_CORES + 20}
    base = [replace(each, conditions=quiet) for each in heldout()]
    slow = run("mini", 14, conditions=busy)
    asked = wants([slow], base)
    assert asked.candidate == 1
    assert asked.stations == {"studio"}
    assert not asked.incumbent
    good = [run(name, 4, conditions=quiet) for name in ("studio", "mini", "studio")]
    assert verdict([slow, *good], base).status == "keep"
    both = [slow, run("studio", 14, conditions=busy)]
    assert wants([*both, *both, *both], base).rebase == {"studio", "mini"}


def test_incumbent_is_measured_again_where_its_runs_were_the_disturbed_ones() -> None:
    busy = [replace(each, conditions={"others": MORE_CORES + 20}) for each in heldout()]
    asked = wants([run("studio", 4, conditions={"others": 0.0})], busy)
    assert asked.rebase == {"studio"}


def test_exact_stations_repeat_a_candidate_once_before_a_keep() -> None:
    records = session(noise=0.0)
    asked = wants([run("mini", 9.99)], heldout(), records)
    assert asked.candidate == 1
    assert asked.stations == {"mini"}
    assert asked.priority > 0
    assert verdict([run("mini", 9.99)], heldout(), records, overtaken=True).reason.startswith("promising")
    found = verdict([run("mini", 9.99), run("mini", 9.99)], heldout(), records)
    assert found.status == "keep"
    assert found.evidence is not None
    assert found.evidence.noise == 0.0
    assert verdict([run("mini", 10)], heldout(), records).reason == "equal"
    assert wants([run("mini", 9)], heldout(stations=("studio",)), records).incumbent == {"mini"}
    apart = verdict([run("studio", 9), run("mini", 11)], heldout(), records)
    assert apart.reason.startswith("better on studio (+1), not on mini (-1)")


def test_random_candidate_must_win_every_run_on_exact_stations() -> None:
    records = session(noise=0.0)
    better = [run(name, 9 - number / 10) for number, name in enumerate(("mini", "studio") * 4)]
    assert wants(better[:7], heldout(), records).candidate == 1
    assert verdict(better, heldout(), records).status == "keep"
    lost = verdict([run("mini", 9), run("mini", 10.5)], heldout(), records)
    assert lost.reason == "not better in each of 2 runs, whose numbers differ"


def test_simpler_candidate_is_kept_if_nothing_is_lost() -> None:
    runs = [run(name, 9.9) for name in ("studio", "mini") * 3]
    found = verdict(runs, heldout(repeats=6), leaner="9 fewer tokens of code")
    assert found.status == "keep"
    assert found.evidence is not None
    assert found.evidence.how == "simplification"


def test_greedy_compares_within_station() -> None:
    greedy = DecisionConfig(kind="greedy")
    assert verdict([run("mini", 9.9)], heldout(), config=greedy).status == "keep"
    assert wants([run("mini", 9.9)], heldout(stations=("studio",)), config=greedy).incumbent == {"mini"}


def test_maximized_metric_is_mirrored() -> None:
    records = session()
    mirrored = Records([[replace(r, metric=-(r.metric or 0)) for r in records.groups[0]]], "maximize", records.stations)
    runs = [run("studio", 4), run("mini", 4.5), run("studio", 4.2)]
    turned, base = ([replace(r, metric=-(r.metric or 0)) for r in each] for each in (runs, heldout()))
    found, other = verdict(runs, heldout()), verdict(turned, base, mirrored)
    assert found.evidence is not None
    assert other.evidence is not None
    assert other.status == "keep"
    assert other.evidence.gain == pytest.approx(found.evidence.gain)
    assert other.evidence.mean == pytest.approx(-found.evidence.mean)


def test_verdict_does_not_depend_on_the_order_of_answers() -> None:
    rng = random.Random(3)
    for _ in range(30):
        first, *rest = [run(rng.choice(("studio", "mini")), rng.gauss(8.5, 1)) for _ in range(rng.randint(2, 5))]
        base, records = heldout(), session(seed=rng.randint(0, 9))
        found = judged([first, *rest], base, records)
        rng.shuffle(rest)
        rng.shuffle(base)
        again = judged([first, *rest], base, records)
        assert type(found) is type(again)
        if isinstance(found, Verdict) and isinstance(again, Verdict):
            assert found.status == again.status
            assert found.evidence is not None
            assert again.evidence is not None
            assert found.evidence.gain == pytest.approx(again.evidence.gain)


def test_one_station_decides_as_one_machine() -> None:
    rng = random.Random(1)
    for _ in range(300):
        baseline = kept(0, [rng.gauss(10, 1) for _ in range(rng.randint(2, 5))])
        incumbent = rng.choice(
            [baseline, kept(1, [9.0, 9.2], heldout=[rng.gauss(9, 1) for _ in range(rng.randint(0, 5))])]
        )
        experiments = [baseline] if incumbent is baseline else [baseline, incumbent]
        runs = [Run(rng.gauss(8, 2), 10.0) for _ in range(rng.randint(1, 8))]
        number = rng.randint(2, 12)
        alone = weigh(
            [r.metric or 0 for r in runs], sample_of(incumbent, number), noise_of(experiments, runs), "minimize"
        )
        trial = Trial(runs, *split(incumbent), age=number - 1 - incumbent.number)
        found = judge_across(trial, records_of(experiments, "minimize"), CONFIRM)
        if isinstance(alone, Verdict):
            assert isinstance(found, Verdict), (alone, found)
            assert (found.status, found.reason) == (alone.status, alone.reason)
            assert found.evidence is not None
            assert alone.evidence is not None
            assert found.evidence.sigmas == pytest.approx(alone.evidence.sigmas)
            assert found.evidence.mean == pytest.approx(alone.evidence.mean)
        elif isinstance(found, Wants):
            assert bool(found.incumbent) == (alone == "incumbent"), (alone, found)


def test_equal_steps_remove_the_speed_within_each_station() -> None:
    rng = random.Random(2)

    def steps(station: str, value: float) -> Run:
        count = {"studio": 100, "mini": 50}[station] * math.exp(rng.gauss(0, 0.1))
        shift = -20 * math.log(count / 100) + rng.gauss(0, 0.05)
        return run(station, value + shift, secondary={"num_steps": count})

    baseline = [steps(name, 10.0) for name in ("studio", "mini") for _ in range(6)]
    records = Records([baseline], "minimize", ("studio", "mini"))
    runs = [steps("studio", 7.0), steps("mini", 7.0), steps("mini", 7.0)]
    found = verdict(runs, baseline, records, same_work=True)
    assert found.status == "keep"
    assert found.evidence is not None
    assert found.evidence.equal_steps
    assert "at equal steps" in found.reason
    assert found.evidence.gain == pytest.approx(3.0, abs=0.5)


@pytest.mark.parametrize("unit", [2.0**-330, 2.0**200, 2.0**330, -(2.0**330)])
def test_metric_of_any_size_is_judged(unit: float) -> None:
    """In squares of squares, of which degrees of freedom are made, it would be 0 or infinite."""
    rng, whole = random.Random(0), set[str]()
    for shift in (-8.0, -2.0, 0.0, 2.0) * 6:
        values = [rng.gauss(0, 1) for _ in range(18)]
        found = [_judged_in(each, values, shift) for each in (1.0, unit)]
        assert found[0] == found[1], (found, values)
        whole.add(found[0])
    assert whole >= {"keep", "discard"}


def _judged_in(unit: float, values: Sequence[float], shift: float) -> str:
    names = ("studio", "mini", "lab")
    runs = [Run(unit * (10 + value + index % 3), 10.0, station=names[index % 3]) for index, value in enumerate(values)]
    records = Records([runs[:12]], "minimize" if unit > 0 else "maximize", names)
    candidate = [replace(run, metric=(run.metric or 0.0) + shift * unit) for run in runs[12:]]
    found = judged(candidate, runs[:12], records)
    return found.status if isinstance(found, Verdict) else "wants"


def test_levels_come_from_programs_that_ran_on_several_stations() -> None:
    groups = [[run("studio", 10), run("mini", 10)], [run("mini", 7), run("lab", 7)], [run("studio", 3)]]
    levels = Records(groups, "minimize").levels
    assert levels.values == pytest.approx(LEVELS)
    assert Records([groups[0], [run("lab", 7)]], "minimize").levels.values.keys() == {"studio", "mini"}


def test_level_variance_is_that_of_least_squares() -> None:
    records = session(repeats=2, stations=("studio", "mini", "lab"))
    noise = records.noise_on("mini").sd
    assert records.noise_on("studio").sd != noise
    pair = records.levels.variance({"mini": 1.0})
    assert pair == pytest.approx(noise**2 / 2 + records.noise_on("studio").sd ** 2 / 2)
    # What was measured directly is predicted as measured: the prediction knows no more.
    base = by_station(records.groups[0])
    found = predicted({"mini": [run("mini", 9)]}, base, records, "minimize")
    assert found is not None
    assert found.gain == pytest.approx(sum(r.metric or 0 for r in base["mini"]) / 2 - LEVELS["mini"] - 9)


def test_aligned_moves_metrics_to_the_reference_station() -> None:
    baseline = kept(0, [10.0])
    spread = replace(baseline, runs=(run("studio", 10), run("mini", 10)))
    other = replace(kept(1, [9.0]), runs=(run("mini", 9),), heldout_runs=(run("mini", 9), run("studio", 9)))
    moved = aligned([spread, other], records_of([spread, other], "minimize"))
    assert [estimate(each) for each in moved] == [pytest.approx(10), pytest.approx(9)]
    alone = [baseline, kept(1, [9.0])]
    assert aligned(alone, records_of(alone, "minimize")) == alone


def test_repeated_runs_are_grouped_by_station() -> None:
    spread: Experiment = replace(kept(0, [10.0]), runs=tuple(heldout(repeats=2)))
    assert sorted(len(group) for group in repeated([spread])) == [2, 2]
    assert noise_of([spread]).exact


def test_noise_of_station_is_drawn_to_the_common_one() -> None:
    quiet = [run("studio", 10 + 0.1 * (-1) ** n) for n in range(10)]
    loud = [run("mini", 10 + 3.0 * (-1) ** n) for n in range(10)]
    records = Records([quiet + loud], "minimize")
    assert 0.1 < records.noise_on("studio").sd < records.noise.sd < records.noise_on("mini").sd < 3.3
    assert records.noise_on("lab") == records.noise


@pytest.mark.parametrize("count", [2, 8])
def test_null_edits_are_seldom_kept(count: int) -> None:
    keeps, edits, runs = (
        sum(each) for each in zip(*(simulation.nulls(50, False, (count, s)) for s in range(8)), strict=True)
    )
    assert edits == 400
    assert keeps <= 6  # at 0.005 an edit, 7 or more have a probability of 0.5 %
    assert runs < 3.5 * edits


def test_real_gain_is_kept() -> None:
    found = [simulation.power(4, 3.0, seed) for seed in range(20)]
    assert sum(found) >= 16
