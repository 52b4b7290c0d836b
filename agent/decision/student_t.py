"""Student's t distribution: cdf and quantile, without scipy, and the tail of the F distribution.

The cdf is a regularized incomplete beta function, computed from its continued fraction with the modified Lentz method
(Press et al., Numerical Recipes, 3rd edition, section 6.4). Infinite degrees of freedom give the normal distribution.
"""

from __future__ import annotations

import math
from statistics import NormalDist

TINY = 1e-300
PRECISION = 1e-15
MOST_TERMS = 500


def cdf(t: float, df: float) -> float:
    """Return P(T <= t) for `df` degrees of freedom, accurate to about 1e-12.

    Raises:
        ValueError: `df` is not positive.
    """
    if not df > 0:
        raise ValueError(f"degrees of freedom must be positive, got {df}")
    # Beyond a million the distributions differ by less than 1e-6, and the fraction takes longer.
    if df > 1e6:
        return NormalDist().cdf(t)
    if t * t > df:
        tail = incomplete_beta(df / 2, 0.5, df / (df + t * t)) / 2
    else:
        tail = 0.5 - incomplete_beta(0.5, df / 2, t * t / (df + t * t)) / 2
    return 1 - tail if t > 0 else tail


def quantile(p: float, df: float) -> float:
    """Return the t with cdf(t, df) = p, by bisection.

    Raises:
        ValueError: `p` is not between 0 and 1, or `df` is not positive.
    """
    if not 0 < p < 1:
        raise ValueError(f"expected a probability between 0 and 1, got {p}")
    if p > 0.5:
        return -quantile(1 - p, df)
    low, high = -1.0, 0.0
    while cdf(low, df) > p:
        low *= 2
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if cdf(middle, df) < p else (low, middle)
    return middle


def f_tail(ratio: float, above: float, below: float) -> float:
    """Return the probability of a larger F, for degrees of freedom of the variances above and below the line."""
    return incomplete_beta(below / 2, above / 2, below / (below + above * ratio))


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularized incomplete beta function I_x(a, b) for 0 <= x <= 1."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x),
    )
    # The fraction converges fast only on this side of the mean; the other side follows by symmetry.
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(a, b, x) / a
    return 1 - front * _fraction(b, a, 1 - x) / b


def _fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, MOST_TERMS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < PRECISION:
            break
    return value


def _away_from_zero(value: float) -> float:
    return value if abs(value) > TINY else TINY
