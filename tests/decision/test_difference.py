"""The difference of two sides by held-out runs, and what their spread is made of."""

from __future__ import annotations

import math
import random
from dataclasses import astuple

import pytest

from agent.decision.difference import Difference, difference, ignores_seed, is_coarse, paired, spread
from agent.decision.noise import PRIOR_DEGREES, Noise


def test_interval_is_students() -> None:
    found = difference([2.0, 2.2, 2.1], [1.0, 1.1, 1.2], "minimize")
    assert found.gain == pytest.approx(1.0)
    # t(0.975, 4) = 2.776445 times 0.1 times sqrt(2/3)
    assert found.high - found.gain == pytest.approx(2.776445 * 0.1 * math.sqrt(2 / 3), rel=1e-6)
    assert found.verdict == "confirmed"
    assert difference([1.0, 1.1, 1.2], [2.0, 2.2, 2.1], "minimize").verdict == "refuted"
    assert difference([1.0, 1.1, 1.2], [2.0, 2.2, 2.1], "maximize").gain == pytest.approx(1.0)


def test_noise_of_the_session_adds_degrees_of_freedom() -> None:
    a, b = [2.0, 2.2], [1.0, 1.2]
    wide, narrow = (difference(a, b, "minimize", noise) for noise in (Noise(math.nan, 0.0), Noise(0.14, 20.0)))
    assert narrow.high - narrow.low < (wide.high - wide.low) / 1.5


@pytest.mark.parametrize("times", [1.0, 3.0, 10.0])
def test_best_that_is_less_stable_than_the_session_is_rarely_confirmed(times: float) -> None:
    """While the noise of the session was pooled with its own, 0.13 and 0.22 of those without a gain were confirmed."""
    rng, confirmed = random.Random(2), 0
    for _ in range(1000):
        known = Noise(math.sqrt(rng.gammavariate(10.0, 0.1)), 20.0)
        a, b = [rng.gauss(0.0, 1.0) for _ in "abc"], [rng.gauss(0.0, times) for _ in "abc"]
        confirmed += difference(a, b, "minimize", known).verdict == "confirmed"
    assert confirmed / 1000 < 0.06


@pytest.mark.parametrize(("times", "at_most"), [(1.0, 0.04), (3.0, 0.09), (10.0, 0.13)])
def test_two_runs_that_seem_less_stable_show_a_large_gain(times: float, at_most: float) -> None:
    """With a noise of two runs and nothing else, 0.08 of gains of ten times the noise were not confirmed."""
    rng, shown, false = random.Random(3), 0, 0
    for _ in range(1000):
        known = Noise(math.sqrt(rng.gammavariate(6.0, 1 / 6)), 12.0)
        a, b = [[rng.gauss(0.0, noise) for _ in "ab"] for noise in (1.0, times)]
        false += difference(a, b, "minimize", known).verdict == "confirmed"
        better = [value - 10 * times for value in b]
        shown += difference(a, better, "minimize", known).verdict == "confirmed"
    assert false / 1000 < at_most
    assert shown / 1000 > 0.97


def test_noise_of_its_own_may_be_of_any_size() -> None:
    found = difference([1.0, 1.001, 1.0], [1.0, 1e306, 1.0], "maximize", Noise(1e-3, 20.0))
    assert found.verdict == "not confirmed"
    assert math.isfinite(found.low)


def test_equal_numbers_need_no_interval() -> None:
    found = difference([2.0, 2.0], [1.0, 1.0], "minimize", Noise(0.0, math.inf))
    assert (found.low, found.high, found.noise) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize("unit", [2.0**-970, 2.0**-530, 2.0**330, 2.0**970])
@pytest.mark.parametrize("looks", [0, 2])
def test_difference_scales_with_the_unit_of_the_metric(unit: float, looks: int) -> None:
    def both(unit: float) -> list[Difference]:
        a, b, noise = [2.0 * unit, 2.25 * unit, 2.125 * unit], [unit, 1.5 * unit, 1.75 * unit], Noise(0.25 * unit, 4.0)
        return [difference(a, b, "minimize", noise, looks), paired(b, noise, looks, 2 * unit)]

    for plain, scaled in zip(both(1.0), both(unit), strict=True):
        assert [each / unit for each in astuple(scaled)] == pytest.approx(astuple(plain))
    parts = spread(5.0 * unit, Noise(3.0 * unit, 9.0), PRIOR_DEGREES)
    assert (parts.seed or 0.0) / unit == pytest.approx(4.0)


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_seeds_that_both_sides_share_do_not_make_it_overconfident(shared: float) -> None:
    """Pairs of runs with one seed move together: the interval may be too wide then, never too narrow."""
    rng, misses = random.Random(1), 0
    for _ in range(2000):
        common = [rng.gauss(0.0, 1.0) for _ in range(3)]
        sides = [[math.sqrt(shared) * c + math.sqrt(1 - shared) * rng.gauss(0.0, 1.0) for c in common] for _ in "ab"]
        found = difference(sides[0], sides[1], "minimize")
        misses += not found.low <= 0 <= found.high
    assert misses / 2000 < 0.065
    assert shared or misses / 2000 > 0.035


def test_spread_is_split_into_machine_and_seed() -> None:
    known = spread(0.05, Noise(0.03, 10.0), PRIOR_DEGREES)
    assert known.machine == 0.03
    assert known.seed == pytest.approx(0.04)
    assert spread(0.02, Noise(0.03, 10.0), PRIOR_DEGREES).seed == 0.0
    assert spread(0.05, Noise(0.001, PRIOR_DEGREES), PRIOR_DEGREES).machine is None


@pytest.mark.parametrize("pairs", [3, 4, 12])
@pytest.mark.parametrize("seeds", [0.0, 0.01, 1.0])
def test_program_that_uses_its_seed_is_never_said_to_ignore_it(pairs: int, seeds: float) -> None:
    rng, machine, alarms = random.Random(pairs), Noise(0.02, 6.1), 0
    for _ in range(2000):
        a, b = ([rng.gauss(0.0, math.hypot(seeds, 0.02)) for _ in range(pairs)] for _ in "ab")
        alarms += ignores_seed([a], [b], machine)
    assert alarms <= 8


def test_program_whose_seed_is_fixed_is_found_in_spite_of_noise() -> None:
    rng, machine, found = random.Random(1), Noise(0.02, 6.1), 0
    for _ in range(500):
        a, b = ([rng.gauss(0.0, math.hypot(seeds, 0.02)) for _ in range(12)] for seeds in (1.0, 0.0))
        found += ignores_seed([a[:6], a[6:]], [b[:6], b[6:]], machine)
        assert not ignores_seed([b], [a], machine)
        assert not ignores_seed([a], [b], Noise(0.02, PRIOR_DEGREES))
    assert found > 450


@pytest.mark.parametrize(
    ("values", "coarse"),
    [
        ([0.8, 0.83, 0.795, 1.0], True),  # of 200 examples
        ([0.8667, 0.9333, 0.8, 1.0], True),  # of 15, rounded
        ([13 / 15, 14 / 15, 0.8, 1.0], True),
        ([91.5, 92.25, 93.75, 100.0], True),
        ([3.0, 8.0, 5.0, 0.0], True),
        ([1.695, 1.702, 1.69, 1.61], True),  # rounded to three decimals
        ([1.6949, 1.7023, 1.6902, 1.6108], False),
        ([1.694882394231048, 1.712, 1.705, 1.5], False),
        ([1.694882, 1.702113, 1.690211, 1.5], False),
        ([1e-7, 2e-7, 3e-7, 0.5e-7], False),
        ([1e9, 1.2e9, 1.1e9, 0.9e9], False),
        ([1e300, 2e300, -1e300], False),
        ([5e-324, 0.0, 1e-320], False),
    ],
)
def test_coarse_numbers_are_told_from_fine_ones(values: list[float], coarse: bool) -> None:
    assert is_coarse(values) == coarse
    assert is_coarse([-value for value in values]) == coarse


def test_numbers_of_four_decimals_look_coarse_by_chance_at_most_once_in_a_hundred() -> None:
    rng = random.Random(1)
    found = [is_coarse([round(rng.gauss(1.7, 0.02), 4) for _ in range(4)]) for _ in range(2000)]
    assert sum(found) <= 20


@pytest.mark.parametrize("unit", [2.0**-970, 1.0, 2.0**970])
def test_seed_is_judged_in_any_unit(unit: float) -> None:
    machine = Noise(0.02 * unit, 6.1)
    a, b = ([unit * value for value in side] for side in ([1.0, 3.0, 2.0, 5.0], [1.0, 1.01, 0.99, 1.0]))
    assert ignores_seed([a], [b], machine)
    assert not ignores_seed([b], [a], machine)
    assert not ignores_seed([[unit] * 3], [[0.9 * unit] * 3], machine)  # two programs whose numbers are rounded


def test_equal_gains_of_pairs_without_known_noise_have_no_spread() -> None:
    found = paired([0.25, 0.25, 0.25])
    assert (found.gain, found.low, found.high, found.noise) == (0.25, 0.25, 0.25, 0.0)


@pytest.mark.parametrize("offset", [0.2, 0.7, 1.1])
def test_rounding_of_differences_is_no_gain(offset: float) -> None:
    """Each side loses the same from one split to the other, and 1.732 - 1.932 is not 1.652 - 1.852."""
    a, b = ([value - round(value + offset, 6) for value in side] for side in ([1.732, 1.741], [1.652, 1.661]))
    for found in (
        difference(a, b, "minimize", scale=3.0),
        difference(a[:1] * 2, b[:1] * 2, "minimize", scale=3.0),
        paired([one - other for one, other in zip(a, b, strict=True)], scale=3.0),
    ):
        assert (found.gain, found.low, found.high) == (0.0, 0.0, 0.0)


def test_numbers_that_differ_by_rounding_are_equal() -> None:
    found = difference([0.3] * 2, [0.1 + 0.2] * 2, "maximize")
    assert (found.gain, found.low, found.high, found.verdict) == (0.0, 0.0, 0.0, "not confirmed")


def test_pairs_whose_gains_differ_by_rounding_have_the_noise_of_the_session() -> None:
    """2.10 - 2.05 is not 1.95 - 1.90, and that difference is not the noise."""
    found = paired([2.10 - 2.05, 1.95 - 1.90], Noise(0.02, 10.0), scale=2.1)
    assert found.low < 0 < found.high
    assert found.noise == pytest.approx(0.02)


def test_each_look_at_pairs_widens_their_interval_however_many_there_are() -> None:
    widths = [paired([0.1, 0.2, 0.15], looks=looks).high for looks in (1, 5, 40, 60, 200)]
    assert widths == sorted({*widths})
    assert math.isfinite(widths[-1])
