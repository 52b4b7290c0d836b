"""The verdict of a promotion, from the evidence of held-out runs."""

from __future__ import annotations

from typing import Any

import pytest

from agent.comparison.evidence import HOLDOUT, ONE_SEED
from agent.promote.judge import verdict_at

pytestmark = pytest.mark.quick


def found(low: float, high: float, **more: Any) -> dict[str, Any]:
    verdict = "confirmed" if low > 0 else "refuted" if high < 0 else "not confirmed"
    return {"verdict": verdict, "why": "", "low": low, "high": high, "means": {"a": -2.0}, "holdout": None, **more}


@pytest.mark.parametrize(
    ("evidence", "own", "verdict"),
    [
        (found(0.01, 0.03), 0.1, "transfers"),
        (found(0.001, 0.002), 0.1, "transfers"),
        (found(-0.03, -0.01), 0.1, "does not transfer"),
        (found(0.0, 0.0), None, "does not transfer"),
        (found(-0.01, 0.019), 0.1, "does not transfer"),
        (found(-0.01, 0.021), 0.1, "undecided"),
        (found(-0.01, 0.01), None, "undecided"),
        (found(-0.01, 0.01), -0.1, "undecided"),
        (found(0.01, 0.03, verdict="not confirmed", why=ONE_SEED), 0.1, "undecided"),
        (found(0.01, 0.03, verdict="not confirmed", why=HOLDOUT, holdout={"high": -0.1}), 0.1, "does not transfer"),
        (found(0.01, 0.03, verdict="not confirmed", why=HOLDOUT, holdout={"high": 0.1}), 0.1, "undecided"),
    ],
)
def test_verdict_at_a_rung(evidence: dict[str, Any], own: float | None, verdict: str) -> None:
    says, why = verdict_at(evidence, own)
    assert says == verdict
    assert bool(why) == (evidence["why"] != "" or (says == "does not transfer" and evidence["high"] > 0))
