"""Figures of a claim: what runs show, and how a result reads."""

from __future__ import annotations

import math

import pytest

from agent.claim.figures import confirmation_of, in_words, same
from agent.claim.models import Claim, Pair, Sides
from agent.claim.replicate import Found, judged
from agent.decision.difference import by_seed, difference
from tests.common.claims import deciding
from tests.common.claims import run_of as run

pytestmark = pytest.mark.quick


def test_runs_with_one_seed_count_as_one() -> None:
    assert by_seed([(1, 2.0), (2, 5.0), (1, 4.0)]) == [3.0, 5.0]
    assert by_seed([(None, 2.0), (None, 4.0)]) == [2.0, 4.0]
    one = Sides(a=[run(2.0, 1), run(2.0, 1)], b=[run(1.0, 1), run(1.0, 1)])
    assert confirmation_of(one, "minimize") is None


def test_confirmation_is_difference_of_runs() -> None:
    sides = Sides(a=[run(2.0, 1), run(2.1, 2)], b=[run(1.0, 1), run(1.1, 2)])
    found = confirmation_of(sides, "minimize")
    expected = difference([2.0, 2.1], [1.0, 1.1], "minimize")
    assert found is not None
    assert (found.gain, found.low, found.high) == (expected.gain, expected.low, expected.high)
    assert confirmation_of(sides, "maximize") is None


def test_interval_after_earlier_looks_is_wider() -> None:
    a, b = ([run(base + 0.01 * seed, seed) for seed in range(6)] for base in (2.0, 1.0))
    once, again = (confirmation_of(Sides(a=a, b=b), "minimize", looks) for looks in (0, 1))
    assert once is not None
    assert again is not None
    assert again.low < once.low < once.gain == again.gain < once.high < again.high


def test_gain_must_show_on_the_holdout_too() -> None:
    a = [run(2.0, 1, 2.0), run(2.1, 2, 2.1)]
    good, lost = ([run(1.0, 1, 1.0 + more), run(1.1, 2, 1.1 + more)] for more in (0.0, 1.0))
    found = confirmation_of(Sides(a=a, b=good), "minimize")
    assert found is not None
    assert found.holdout is not None
    assert confirmation_of(Sides(a=a, b=lost), "minimize") is None


def test_run_without_a_score_does_not_switch_the_holdout_off() -> None:
    a = [run(2.0, 1, 2.0), run(2.1, 2, 2.1), run(2.05, 3)]
    good, lost = ([run(1.0, 1, 1.0 + more), run(1.1, 2, 1.1 + more), run(1.05, 3, 1.0)] for more in (0.0, 1.0))
    found = confirmation_of(Sides(a=a, b=good), "minimize")
    assert found is not None
    assert found.holdout is not None
    assert found.holdout.means.a == pytest.approx(2.05)
    assert found.holdout.gain == pytest.approx(1.0)
    assert confirmation_of(Sides(a=a, b=lost), "minimize") is None
    one_seed = [run(1.0, 1, 1.0), run(1.1, 2), run(1.05, 3)]
    assert confirmation_of(Sides(a=a, b=one_seed), "minimize") is None
    assert confirmation_of(Sides(a=[run(2.0, 1), run(2.1, 2)], b=one_seed), "minimize") is None


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ((0.008, 0.006, 0.010, 1.0), "0.8 % better, 95 % interval 0.6 to 1.0 %"),
        ((0.22, 0.2, 0.24, 2.0), "11.0 % better, 95 % interval 10.0 to 12.0 %"),
        ((-0.5, -0.6, -0.4, 1.0), "50.0 % worse, 95 % interval -60.0 to -40.0 %"),
        ((0.0, 0.0, 0.0, 2.0), "0.0 % better, 95 % interval 0.0 to 0.0 %"),
        ((3.0, 1.0, 5.0, 0.0), "3.000000 better, 95 % interval 1.000000 to 5.000000"),
    ],
)
def test_gain_in_words(figures: tuple[float, float, float, float], words: str) -> None:
    assert in_words(*figures) == words


def test_figures_of_another_machine_may_differ_in_the_last_digit() -> None:
    assert same({"gain": 0.1 + 0.2, "means": {"a": 1.0}}, {"gain": 0.3, "means": {"a": 1.0}})
    assert not same({"gain": 0.3}, {"gain": 0.3000001})
    small = {"means": {"a": 2e-14, "b": 1e-14}, "gain": 1e-14}
    assert same(small, {**small, "gain": 1e-14 + 1e-27})
    assert not same(small, {**small, "gain": 9e-15})
    assert same({"means": {"a": 2e9}, "gain": 1e-4}, {"means": {"a": 2e9}, "gain": 1.01e-4})
    assert not same({"gain": 0.3}, {})
    assert not same({"holdout": None}, {"holdout": {"gain": 1.0}})


def found_with(a: list[float], b: list[float], held: list[float] | None = None) -> Found:
    others = held or [0.0] * len(a)
    pairs = [
        Pair(
            seed=index,
            first="a",
            a=one,
            b=two,
            holdout_a=None if held is None else 2.0 + index / 1000,
            holdout_b=None if held is None else three,
        )
        for index, (one, two, three) in enumerate(zip(a, b, others, strict=True))
    ]
    return Found(pairs=pairs)


def claimed(*, scored: bool = False) -> Claim:
    return deciding((2.0, 2.01), (1.0, 1.01), scored=scored)


def verdict(found: Found, claim: Claim, *, scores: bool = False) -> str | None:
    decided = judged(found, claim, scores=scores)
    return None if decided is None else decided[0]


def test_one_pair_decides_nothing() -> None:
    assert verdict(found_with([2.0], [1.0]), claimed()) is None


def test_clear_gain_is_replicated_and_its_absence_is_not() -> None:
    a = [2.0, 2.001, 2.002, 2.001]
    assert verdict(found_with(a, [1.0, 1.001, 1.002, 1.0]), claimed()) == "replicated"
    assert verdict(found_with(a, [2.001, 2.0, 2.002, 2.001]), claimed()) == "not replicated"
    assert verdict(found_with(a, [3.0, 3.001, 3.002, 3.0]), claimed()) == "not replicated"
    assert verdict(found_with([2.0, 3.0], [1.0, 4.0]), claimed()) is None


@pytest.mark.parametrize("scored", [False, True])
def test_holdout_found_here_counts_whatever_the_claim_has(scored: bool) -> None:
    a, b = [2.0, 2.001, 2.002, 2.001], [1.0, 1.001, 1.002, 1.0]
    claim = claimed(scored=scored)
    assert verdict(found_with(a, b, [3.0, 3.001, 3.002, 3.001]), claim, scores=True) == "not replicated"
    assert verdict(found_with(a, b, [1.0, 3.0, 2.0, 2.5]), claim, scores=True) is None
    assert verdict(found_with(a, b, [1.0, 1.001, 1.002, 1.001]), claim, scores=True) == "replicated"


def test_pair_without_a_score_cannot_replicate() -> None:
    a, b = [2.0, 2.001, 2.002, 2.001], [1.0, 1.001, 1.002, 1.0]
    assert judged(found_with(a, b), claimed(scored=True), scores=False) == (
        "cannot tell",
        "the gain shows on the validation split, but this machine has no holdout",
    )
    found = found_with(a, b, b)
    found.pairs[1] = found.pairs[1].model_copy(update={"holdout_b": None})
    assert judged(found, claimed(), scores=True) == (
        "cannot tell",
        "the gain shows on the validation split, but 1 of 4 pairs could not be scored on the holdout",
    )
    lost = found_with(a, b, [3.0, 3.001, 3.002, 3.001])
    lost.pairs[1] = lost.pairs[1].model_copy(update={"holdout_b": None})
    assert verdict(lost, claimed(), scores=True) == "not replicated"
    assert verdict(found_with(a, b), claimed()) == "replicated"


def test_intervals_before_two_pairs_and_without_noise() -> None:
    assert found_with([2.0], [1.0]).interval("minimize") is None
    now = found_with([2.0, 2.0], [1.0, 1.0]).interval("minimize")
    assert now is not None
    assert (now.gain, now.low, now.high) == (1.0, 1.0, 1.0)
    assert math.isfinite(now.low)
