"""Student's t against tables and closed forms."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest

from agent.decision.student_t import cdf, incomplete_beta, quantile

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("p", "df", "t"),
    # The usual table of one-sided quantiles.
    [
        (0.95, 1, 6.314),
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.99, 3, 4.541),
        (0.975, 5, 2.571),
        (0.995, 7, 3.499),
        (0.975, 10, 2.228),
        (0.9995, 10, 4.587),
        (0.995, 30, 2.750),
        (0.95, 120, 1.658),
        (0.75, 4, 0.741),
    ],
)
def test_quantiles_are_those_of_the_table(p: float, df: float, t: float) -> None:
    assert quantile(p, df) == pytest.approx(t, abs=6e-4)
    assert quantile(1 - p, df) == pytest.approx(-quantile(p, df), rel=1e-12)


@pytest.mark.parametrize("t", [-40.0, -3.0, -0.5, -1e-9, 0.0, 0.1, 1.0, 7.0])
def test_cdf_is_the_closed_form_for_one_two_and_four_degrees_of_freedom(t: float) -> None:
    assert cdf(t, 1) == pytest.approx(0.5 + math.atan(t) / math.pi, abs=1e-12)
    assert cdf(t, 2) == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)), abs=1e-12)
    u = t / math.sqrt(4 + t * t)
    assert cdf(t, 4) == pytest.approx(0.5 + 0.75 * (u - u**3 / 3), abs=1e-12)


def test_many_degrees_of_freedom_are_the_normal_distribution() -> None:
    for t in (-5.0, -1.96, 0.3, 2.5):
        assert cdf(t, 1e5) == pytest.approx(NormalDist().cdf(t), abs=1e-5)
        assert cdf(t, math.inf) == NormalDist().cdf(t)


def test_cdf_and_quantile_undo_each_other() -> None:
    for df in (0.7, 1, 3.5, 12, 400, math.inf):
        for p in (1e-6, 0.005, 0.3, 0.5, 0.9, 0.9999):
            assert cdf(quantile(p, df), df) == pytest.approx(p, rel=1e-8)


def test_incomplete_beta_at_its_ends_and_by_symmetry() -> None:
    assert incomplete_beta(2, 3, 0) == 0
    assert incomplete_beta(2, 3, 1) == 1
    assert incomplete_beta(2, 3, 0.4) == pytest.approx(1 - incomplete_beta(3, 2, 0.6))
    assert incomplete_beta(1, 1, 0.37) == pytest.approx(0.37)


def test_nonsense_is_refused() -> None:
    for df in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="must be positive"):
            cdf(1.0, df)
    for p in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="expected a probability"):
            quantile(p, 3)
