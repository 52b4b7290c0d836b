"""The verdict on plain numbers: what it keeps, which side it runs next, and how often it is wrong."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from agent.decision import anytime
from agent.decision import sequential_test as verdict
from agent.decision.decide import DecisionConfig, judge, why_unlike
from agent.decision.estimate import estimate, unbiased
from agent.decision.noise import PRIOR, PRIOR_DEGREES, Noise, noise_of, of_candidate, pooled
from agent.decision.sequential_test import IncumbentSample, sample_of, weigh
from agent.execution.conditions import MORE_SWAP, disturbed, undisturbed
from agent.journal.experiment import Experiment, Run, Verdict
from agent.source.simplicity import leaner, repeats
from benchmarks import verdict as simulation
from tests.common.experiments import case, kept

pytestmark = pytest.mark.quick

NOISE = Noise(1.0, 20.0)
KNOWN = IncumbentSample([10.0, 10.0, 10.0, 10.0], [10.0])


def verdict_of(candidate: Sequence[float], incumbent: IncumbentSample = KNOWN, **more: Any) -> Verdict | str:
    return weigh(candidate, incumbent, NOISE, more.pop("direction", "minimize"), **more)


def status(candidate: Sequence[float], **more: Any) -> str:
    found = verdict_of(candidate, **more)
    return found if isinstance(found, str) else found.status


def test_clearly_worse_candidate_takes_one_run_and_clearly_better_one_three() -> None:
    assert status([10.0]) == "discard"
    assert status([14.0]) == "discard"
    assert status([3.0]) == status([3.0, 4.0]) == "candidate"
    assert status([3.0, 4.0, 3.5]) == "keep"
    assert status([17.0, 16.0, 16.5], direction="maximize") == "keep"
    assert status([3.0], direction="maximize") == "discard"


def test_candidate_less_stable_than_the_others_is_judged_by_its_own_noise() -> None:
    assert of_candidate(NOISE, [3.0, 4.0, 3.5]) == NOISE
    wild = of_candidate(NOISE, [3.0, -10.0, 12.0])
    assert wild.sd == pytest.approx(11.06, abs=0.01)
    assert wild.degrees == 2
    assert status([3.0, -10.0, 12.0]) != "keep"
    assert status([-40.0, -55.0, -62.0, -45.0]) == "keep"


def test_runs_that_chose_a_candidate_by_its_own_noise_are_no_held_out_ones() -> None:
    """Few runs tell their own noise badly: six sigma of it may be luck, so they would overstate the value."""
    for values, runs in (([3.0, 3.5, 4.0], 3), ([-40.0, -55.0, -62.0, -45.0], 0)):
        found = verdict_of(values)
        assert isinstance(found, Verdict)
        assert found.evidence is not None
        assert found.evidence.sigmas is not None
        assert found.evidence.sigmas > 6
        assert ("own noise" in found.reason) == found.evidence.own_noise == (not runs)
        assert len(unbiased(replace(kept(1, values), verdict=found))) == runs


def test_unstable_simplification_may_not_lose_more_than_a_stable_one() -> None:
    """Judged by 2.8 times its own noise, a simpler candidate was kept whose loss was hidden by that."""
    calm, wild = [9.9, 9.8, 10.1, 9.9], [9.9, 3.0, 16.6, 9.8]
    assert status(calm, leaner="5 tokens less") == "keep"
    assert status(wild, leaner="5 tokens less") != "keep"
    assert status([*wild, *wild], leaner="5 tokens less") == "discard"


def test_unstable_candidates_are_rarely_kept() -> None:
    """Before candidates had a noise of their own, 0.14 and 0.34 of them were kept."""
    for times in (3.0, 10.0):
        assert sum(simulation.unstable("gaussian", times, seed) for seed in range(200)) <= 14


def test_discarded_candidate_with_its_own_noise_leaves_that_of_the_session_alone() -> None:
    history = [kept(0, [10.0, 11.0, 9.0, 10.5, 9.5, 10.2, 9.8])]
    wild = replace(kept(1, [10.0, 40.0, -30.0]), verdict=Verdict("discard", "within noise"))
    calm = replace(kept(1, [10.0, 11.0, 9.5]), verdict=Verdict("discard", "within noise"))
    assert noise_of([*history, wild]) == noise_of(history)
    assert noise_of([*history, calm]).degrees > noise_of(history).degrees


def test_number_of_any_size_is_judged() -> None:
    """In journals of earlier versions, which took any finite metric."""
    assert status([1e200]) == status([1e299]) == "discard"
    assert status([1e200, 1.1e200, 1e200], direction="maximize") == "keep"
    assert math.isfinite(of_candidate(Noise(1e-3, 20.0), [1.0, -1e306, 1.0]).sd)


@pytest.mark.parametrize("unit", [2.0**-970, 2.0**-530, 2.0**330, 2.0**970, -(2.0**330)])
@pytest.mark.parametrize("noise", [0.0, 0.001, 1.0])
@pytest.mark.parametrize("kind", ["confirm", "greedy"])
def test_verdict_is_the_same_in_any_unit_of_the_metric(unit: float, noise: float, kind: verdict.Kind) -> None:
    """Squares of the metric, in which noise is estimated, are 0 or infinite in some of them."""
    rng, statuses = random.Random(0), set[str]()
    for level in (10.0, -10.0, 0.0) * 8:
        runs = [[level + rng.gauss(0, noise) for _ in range(rng.randint(1, 4))] for _ in range(3)]
        runs[2] = [value + rng.choice([-3, 0, 0, 3]) * noise for value in runs[2]]
        found = [_judged_in(each, runs, kind) for each in (1.0, unit)]
        assert found[0] == found[1], (runs, found)
        statuses.add(found[0])
    assert len(statuses) > (2 if noise and kind == "confirm" else 0)


def _judged_in(unit: float, runs: Sequence[Sequence[float]], kind: verdict.Kind) -> str:
    own, after, candidate = ([unit * value for value in each] for each in runs)
    compared = case(kept(0, own, heldout=after), [Run(value, 10.0) for value in candidate])
    compared = replace(compared, direction="minimize" if unit > 0 else "maximize")
    found = judge(compared, DecisionConfig(kind))
    return found if isinstance(found, str) else found.status


def test_unclear_cases_alternate_repeated_runs() -> None:
    assert status([7.5]) == "candidate"
    assert status([7.5, 8.5]) == "candidate"
    assert status([7.5, 8.5, 7.5]) == "keep"
    assert status([7.8, 7.9], incumbent=IncumbentSample([10.0, 10.0], [10.0])) == "incumbent"
    assert status([7.5, 11.0]) == "discard"
    tied = [8.7, 8.6, 8.9, 8.5, 8.8, 8.6, 8.9]
    assert status([*tied, 8.7]) in ("keep", "discard")  # the limit of runs ends it in any case


def test_verdict_reason_states_its_evidence() -> None:
    found = verdict_of([7.5, 7.6, 7.5])
    assert isinstance(found, Verdict)
    assert found.evidence is not None
    evidence = found.evidence
    assert evidence.how == "confirmed"
    assert evidence.confirmed
    assert (evidence.runs, evidence.incumbent_runs) == (3, 4)
    assert evidence.gain == pytest.approx(2.4667, abs=1e-3)
    assert evidence.sigmas == pytest.approx(3.23, abs=0.01)
    assert "3 runs against 4" in found.reason
    assert "+3.2 sigma" in found.reason
    once = verdict_of([14.0])
    assert isinstance(once, Verdict)
    assert once.evidence is not None
    assert once.evidence.how == "one run"
    assert not once.evidence.confirmed


def test_an_incumbent_known_by_its_own_selection_is_run_again_before_it_judges_a_near_one() -> None:
    lucky = IncumbentSample([], [9.0, 9.2])
    assert status([10.0], incumbent=lucky) == "incumbent"
    assert status([12.0], incumbent=lucky) == "discard"
    assert status([10.0], incumbent=IncumbentSample([10.0], [9.0, 9.2])) == "discard"


def test_old_incumbent_is_rerun_periodically() -> None:
    assert status([14.0], incumbent=IncumbentSample([10.0, 10.0], [10.0], age=7)) == "discard"
    assert status([14.0], incumbent=IncumbentSample([10.0, 10.0], [10.0], age=8)) == "incumbent"
    assert status([14.0], incumbent=IncumbentSample([10.0] * 6, [10.0], age=80)) == "discard"


def test_equal_numbers_are_equal_whatever_their_mean_is() -> None:
    # (0.7 + 0.7 + 0.7) / 3 is not 0.7.
    for value in (0.1, 0.7, 1.333644):
        exact = pooled([[value] * 3], value)
        assert exact.exact
        assert exact.sd == 0.0
        assert not exact.unsure
        kept = weigh([value - 1e-4] * 2, IncumbentSample([value] * 3, [value]), exact, "minimize")
        assert isinstance(kept, Verdict)
        assert kept.status == "keep"


@pytest.mark.parametrize("value", [0.7, 0.990003, 1.500003, 1.500009])
@pytest.mark.parametrize("simpler", [None, "two lines less"])
def test_an_equal_number_is_no_gain_whatever_the_mean_of_the_incumbent_is(value: float, simpler: str | None) -> None:
    """The sum of three equal numbers, divided by three, may miss them in the last digit, either way."""
    noise = pooled([[value] * 3], value)
    found = weigh([value] * 2, IncumbentSample([value] * 3, []), noise, "minimize", leaner=simpler)
    assert isinstance(found, Verdict)
    assert found.status == ("keep" if simpler else "discard")
    assert found.evidence is not None
    assert found.evidence.gain == 0.0
    assert anytime.interval([value] * 3, [value], "minimize") == anytime.Interval(0.0, 0.0, 0.0)


def test_random_candidate_must_win_every_run_where_others_are_deterministic() -> None:
    exact, known = pooled([[2.0, 2.0, 2.0]], 2.0), IncumbentSample([2.0, 2.0], [2.0])
    better = [1.9, 1.8, 1.7, 1.95, 1.85, 1.99, 1.6, 1.75]
    assert weigh(better[:7], known, exact, "minimize") == "candidate"
    kept = weigh(better, known, exact, "minimize")
    assert isinstance(kept, Verdict)
    assert kept.reason == "better by 0.1825 in 8 of 8 runs, whose numbers differ"
    lost = weigh([1.0, 1.1, 2.0], known, exact, "minimize")
    assert isinstance(lost, Verdict)
    assert lost.status == "discard"
    assert lost.reason == "not better in each of 3 runs, whose numbers differ"


def test_random_candidate_leaves_a_deterministic_session_deterministic() -> None:
    def tried(number: int, verdict: Verdict, *values: float) -> Experiment:
        return Experiment(number, "search", "", "", "", {}, tuple(Run(value, 1.0) for value in values), verdict)

    history = [tried(0, Verdict("keep", "baseline"), 2.0, 2.0, 2.0)]
    own = tuple(Run(value, 1.0) for value in (1.0, 1.1, 2.1))
    assert noise_of(history, own).exact
    found = weigh([1.0, 1.1, 2.1], IncumbentSample([2.0] * 3, []), noise_of(history, own), "minimize")
    assert isinstance(found, Verdict)
    assert noise_of([*history, tried(1, found, 1.0, 1.1, 2.1)]).exact


def test_zero_metric_gives_no_noise_estimate() -> None:
    nothing = pooled([[0.0, 0.0]], 0.0)
    assert nothing.unsure
    assert not nothing.exact
    assert weigh([0.1], IncumbentSample([0.0, 0.0], [0.0]), nothing, "maximize") == "incumbent"
    assert weigh([0.1], IncumbentSample([0.0], [0.0]), pooled([], 0.0), "maximize") == "incumbent"
    zero, one = kept(0, [0.0]), replace(kept(1, [0.5]), verdict=Verdict("discard", ""))
    assert noise_of([zero, one]).sd == pytest.approx(0.5 * PRIOR)
    assert not noise_of([zero, one]).exact


def test_without_noise_every_difference_is_real() -> None:
    exact, known = pooled([[2.0, 2.0, 2.0]], 2.0), IncumbentSample([2.0, 2.0], [2.0])
    unsure = pooled([[2.0, 2.0]], 2.0)
    assert exact.sd == 0.0
    assert unsure.sd > 0
    assert weigh([1.999], known, unsure, "minimize") == "incumbent"
    assert weigh([1.999], known, exact, "minimize") == "candidate"
    kept = weigh([1.999, 1.999], known, exact, "minimize")
    assert isinstance(kept, Verdict)
    assert kept.status == "keep"
    assert kept.evidence
    assert kept.evidence.confirmed
    for value in (2.0, 2.1):
        found = weigh([value], known, exact, "minimize")
        assert isinstance(found, Verdict)
        assert found.status == "discard"
    simpler = weigh([2.0] * 2, known, exact, "minimize", leaner="9 tokens less")
    assert isinstance(simpler, Verdict)
    assert simpler.status == "keep"
    assert simpler.reason.startswith("simplification")


def test_simpler_candidate_is_kept_at_equal_metric() -> None:
    assert status([9.9], leaner="less") == "candidate"
    found = verdict_of([9.9, 9.8, 10.0, 9.9], leaner="9 tokens less")
    assert isinstance(found, Verdict)
    assert found.status == "keep"
    assert found.evidence is not None
    assert found.evidence.how == "simplification"
    assert "9 tokens less" in found.reason
    assert status([10.1, 10.2, 10.1, 10.2], leaner="less") != "keep"
    assert status([13.0], leaner="less") == "discard"


def test_noise_is_pooled_with_a_prior_that_real_repeats_outvote() -> None:
    assert noise_of([kept(0, [2.0])]) == Noise(2.0 * PRIOR, PRIOR_DEGREES)
    one = (0.0002 + PRIOR_DEGREES * (2.0 * PRIOR) ** 2) / (1 + PRIOR_DEGREES)
    assert pooled([[2.0, 2.02]], 2.0).sd == pytest.approx(one**0.5)
    # A repeat that differs a hundred times more than the prior expects outweighs the prior.
    assert pooled([[2.0, 2.2 * 2**0.5]], 2.0).sd > 50 * 2.0 * PRIOR
    many = pooled([[1.0, 2.0, 3.0]] * 20, 2.0)
    assert many.sd == pytest.approx(1.0, abs=0.02)
    assert many.degrees == 40 + PRIOR_DEGREES


def test_first_runs_of_candidates_do_not_count_as_repeats() -> None:
    base = kept(0, [2.0, 2.01])
    tried = replace(kept(1, [1.0, 2.0, 2.02]), verdict=Verdict("discard", ""))
    assert noise_of([base, tried]).degrees == 1 + 1 + PRIOR_DEGREES


def test_incumbent_value_comes_from_held_out_runs() -> None:
    lucky = kept(3, [1.5, 1.6], sigmas=3.0, heldout=[1.7, 1.8])
    assert lucky.metric == pytest.approx(1.55)
    assert estimate(lucky) == pytest.approx(1.75)
    assert sample_of(lucky, 9) == IncumbentSample([1.7, 1.8], [1.5, 1.6], 5)
    clear = kept(3, [1.5], sigmas=9.0, heldout=[1.7])
    assert estimate(clear) == pytest.approx(1.6)
    assert estimate(kept(0, [2.0, 2.2])) == pytest.approx(2.1)
    moved = replace(lucky, heldout_runs=(Run(1.7, 9.0), Run(1.9, 9.0, rebased=True), Run(2.0, 9.0)))
    assert [run.metric for run in unbiased(moved)] == [1.9, 2.0]


def test_only_the_seed_or_only_comments_make_a_repeat() -> None:
    text = "import x\nSEED = 1\nRATE = 0.1\nx.random.seed(3)\nx.key(SEED, seed=4)\n"
    assert repeats({"a.py": text + "# more\n"}, {"a.py": text}) == "only comments and layout differ"
    for old, new in (("SEED = 1", "SEED = 2"), ("seed(3)", "seed(5)"), ("seed=4", "seed=9")):
        assert repeats({"a.py": text.replace(old, new)}, {"a.py": text}) == "only the seed differs"
    assert repeats({"a.py": text.replace("0.1", "0.2")}, {"a.py": text}) is None
    marked = {"a.py": "\ufeff" + text}
    assert repeats(marked, {"a.py": text}) == "only comments and layout differ"
    assert repeats({"a.py": marked["a.py"].replace("SEED = 1", "SEED = 2")}, marked) == "only the seed differs"


def test_a_seed_written_in_another_way_is_a_repeat() -> None:
    text = "import x\nSEED = 1\nRATE = 0.1\nx.random.seed(SEED)\ny = x.load(seed=SEED)\n"
    for old, new in (
        ("SEED = 1", "SEED = -7"),
        ("SEED = 1", "SEED = 6 * 7 + 1"),
        ("seed(SEED)", "seed(7)"),
        ("seed(SEED)", "seed(SEED + 7)"),
        ("seed(SEED)", "seed(-7)"),
        ("seed(SEED)", "seed('lucky')"),
        ("seed(SEED)", "seed()"),
        ("seed(SEED)", "seed(int(time.time()))"),
        ("seed(SEED)", "seed(SEED)\nx.random.seed(8)"),
        ("seed=SEED", "seed=3 * SEED"),
        ("SEED = 1\n", ""),
    ):
        assert repeats({"a.py": text.replace(old, new)}, {"a.py": text}) == "only the seed differs", new
    for old, new in (("seed(SEED)", "seed(RATE)"), ("x.load(", "x.load(RATE, "), ("x.load", "x.store")):
        assert repeats({"a.py": text.replace(old, new)}, {"a.py": text}) is None, new


def test_what_is_only_called_like_a_seed_is_no_repeat() -> None:
    text = "k = self.key(x)\nseed_layer = Linear(4, 4)\nSEED_TEXT = 'Once'\nself.seed(x)\n"
    for old, new in (("key(x)", "key(norm(x))"), ("(4, 4)", "(4, 8)"), ("Once", "There"), ("seed(x)", "seed(y)")):
        assert repeats({"a.py": text.replace(old, new)}, {"a.py": text}) is None, new


def test_leaner_means_less_code_or_less_memory() -> None:
    old, new = {"a.py": "x = 1\nif x:\n    y = f(x)\n"}, {"a.py": "x = 1\n"}
    small, big = Run(1.0, 1.0, {"peak_vram_mb": 8000.0}), Run(1.0, 1.0, {"peak_vram_mb": 10000.0})
    assert "fewer tokens of code" in (leaner(new, big, old, big) or "")
    assert leaner(old, big, new, big) is None
    assert leaner({"a.py": "x = 1  # no\n"}, big, new, big) is None
    assert leaner(new, small, new, big) == "20 % less memory"
    # The savings of small recipes are not worth any runs.
    half, whole = Run(1.0, 1.0, {"peak_vram_mb": 125.0}), Run(1.0, 1.0, {"peak_vram_mb": 250.0})
    assert leaner(new, half, new, whole) is None
    assert leaner(new, big, new, small) is None


BUSY, QUIET = {"others": 1.1}, {"others": 0.1}


def test_run_on_busy_machine_does_not_compare() -> None:
    reference = [run(2.0, QUIET, num_steps=100.0), run(2.0, QUIET, num_steps=104.0)]
    assert disturbed([run(2.1, QUIET)], reference, equally_long=False) is None
    assert "other programs used 1.1 cores" in (disturbed([run(2.1, BUSY)], reference, equally_long=False) or "")
    assert disturbed([replace(run(2.1, BUSY), seconds=1.0)], reference, equally_long=False) is None
    slow = run(2.1, QUIET, num_steps=70.0)
    assert disturbed([slow], reference, equally_long=False) is None
    assert "70 steps" in (disturbed([slow], reference, equally_long=True) or "")
    named = disturbed([slow], reference, equally_long=True, than="another run of it")
    assert named == "it made 70 steps, against 102 for another run of it with the same work per step"
    mains, battery = {"plugged_in": 1.0}, {"plugged_in": 0.0}
    assert "battery" in (disturbed([run(2.0, battery)], [run(2.0, mains)], equally_long=False) or "")
    hot, cool = run(2.0, {"celsius": 91.0}), [run(2.0, {"celsius": 60.0})]
    assert "at 91 degrees" in (disturbed([hot], cool, equally_long=False) or "")
    held, free = run(2.0, {"speed_limit": 70.0}), [run(2.0, {"speed_limit": 100.0})]
    assert "70 % of its speed" in (disturbed([held], free, equally_long=False) or "")
    assert disturbed(cool, [hot], equally_long=False) is None
    assert disturbed(free, [held], equally_long=False) is None
    swapping, calm = run(2.0, {"swapped_gb": 1.24}), [run(2.0, {"swapped_gb": 0.0})]
    told = "the machine swapped 1.2 GB, against 0.0 GB for the incumbent"
    assert disturbed([swapping], calm, equally_long=False) == told
    assert disturbed([run(2.0, {"swapped_gb": MORE_SWAP})], calm, equally_long=False) is None
    assert disturbed(calm, [swapping], equally_long=False) is None
    assert disturbed([swapping], [run(2.0, QUIET)], equally_long=False) is None  # recorded by an earlier version
    assert undisturbed([swapping, *calm]) == calm


def test_a_disturbed_run_is_repeated_and_at_last_the_incumbent_is_measured_as_things_are_now() -> None:
    base = replace(kept(0, [2.0, 2.01]), runs=(run(2.0, QUIET), run(2.01, QUIET)))
    for count in (1, 2):
        assert judge(case(base, [run(1.9, BUSY)] * count), DecisionConfig()) == "candidate"
    third = case(base, [run(1.9, BUSY)] * 3)
    assert why_unlike(third, third.pending.runs[-1]) is not None
    assert judge(third, DecisionConfig()) == "incumbent"
    again = replace(base, heldout_runs=(replace(run(2.3, BUSY), rebased=True),))
    found = judge(case(again, [run(1.9, BUSY)] * 3), DecisionConfig())
    assert not isinstance(found, str) or found in ("candidate", "incumbent")
    assert why_unlike(case(again, [run(1.9, BUSY)]), run(1.9, BUSY)) is None
    # A quiet run among busy ones is the only one that counts.
    worse = judge(case(base, [run(1.0, BUSY), run(2.5, QUIET)]), DecisionConfig())
    assert isinstance(worse, Verdict)
    assert worse.status == "discard"
    assert worse.evidence
    assert worse.evidence.runs == 1


def test_limits_failures_and_the_classic_rule() -> None:
    base = kept(0, [2.0, 2.01])
    over = judge(case(base, [Run(1.0, 9.0, {"peak_vram_mb": 5 * 1024.0})]), DecisionConfig(max_memory_gb=4))
    assert isinstance(over, Verdict)
    assert over.status == "discard"
    assert over.reason == "needs 5.0 GB, --max-memory-gb is 4"
    failed = judge(case(base, [Run(None, 1.0, error="timed out")]), DecisionConfig())
    assert failed == Verdict("crash", "timed out")
    flaky = judge(case(base, [Run(1.0, 9.0), Run(None, 1.0, error="crashed: x")]), DecisionConfig())
    assert isinstance(flaky, Verdict)
    assert flaky.reason == "run 2 failed after an earlier run succeeded: crashed: x"
    pruned = judge(case(base, [Run(None, 4.0, error="pruned at 41 %: x", pruned=0.41, estimate=2.4)]), DecisionConfig())
    assert pruned == Verdict("discard", "pruned at 41 %: x")
    kept_at_once = judge(case(base, [Run(1.9999, 9.0)]), DecisionConfig("greedy"))
    assert isinstance(kept_at_once, Verdict)
    assert kept_at_once.status == "keep"
    assert kept_at_once.evidence is not None
    assert kept_at_once.evidence.how == "greedy"
    # Nothing was repeated: the noise is a guess, so no sigmas are given, and the run may be lucky.
    alone = replace(base, runs=base.runs[:1], heldout_runs=())
    guessed = judge(case(alone, [Run(1.9, 9.0)]), DecisionConfig("greedy"))
    assert isinstance(guessed, Verdict)
    assert guessed.evidence is not None
    assert guessed.evidence.sigmas is None
    assert "sigma" not in guessed.reason
    assert "noise" not in guessed.reason
    assert unbiased(replace(kept(1, [1.9]), verdict=guessed)) == []


def test_error_rates_are_as_documented() -> None:
    """A small version of `benchmarks.verdict`, whose figures are in docs/benchmarks.md."""
    sessions = [simulation.null_session("confirm", "gaussian", 1.0, 100, seed) for seed in range(60)]
    keeps, runs, errors = zip(*sessions, strict=True)
    assert sum(keeps) <= 40  # 0.0033 of 6,000 are 20
    assert sum(runs) / 6000 <= 1.33
    assert abs(sum(errors) / 60) <= 0.3
    power = [simulation.established("confirm", "gaussian", 1.0, 3.0, seed) for seed in range(200)]
    assert sum(power) >= 180  # 0.96 of 200 are 192
    classic = [simulation.null_session("lower wins", "gaussian", 1.0, 100, seed) for seed in range(20)]
    assert sum(keep for keep, _, _ in classic) > 60


def test_simulated_noise_has_unit_standard_deviation() -> None:
    for name in simulation.MACHINES:
        program = simulation.MACHINES[name](random.Random(1))
        values = [program()()[0] for _ in range(20000)]
        mean = sum(values) / len(values)
        assert abs(mean) < 0.03
        assert abs(sum((v - mean) ** 2 for v in values) / len(values) - 1) < 0.1


def run(metric: float, conditions: dict[str, float] | None = None, **secondary: float) -> Run:
    return Run(metric, 10.0, secondary, conditions=conditions or {})


def test_constants_are_in_order() -> None:
    assert verdict.FIRST_DISCARD < 0 < verdict.KEEP < verdict.FIRST_CLEAR
    assert verdict.DISCARD <= verdict.FIRST_DISCARD
