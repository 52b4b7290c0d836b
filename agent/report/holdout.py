"""The gain on the holdout beside the gain on validation, and their difference: what selection cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.format import brief
from agent.journal.experiment import beyond_rounding
from agent.journal.state import State, gain


def on_holdout(state: State) -> dict[str, Any] | None:
    """Return both gains of the best over the baseline, and their difference; None if either has no score.

    Held-out runs give an interval. Before them there is one model of each, scored when it was kept, and `low` and
    `high` are None.
    """
    found = state.confirmation or {}
    holdout, cost = found.get("holdout"), found.get("cost")
    if holdout and cost:
        return {
            "gain": holdout["gain"], "low": holdout["low"], "high": holdout["high"],
            "validation": found["gain"],
            "cost": cost["gain"], "cost_low": cost["low"], "cost_high": cost["high"],
        }  # fmt: skip
    best = state.incumbent
    first, last = (state.scored.get(number) for number in (0, best.number if best else 0))
    if first is None or last is None or first is last or state.session is None:
        return None
    seen, unseen = (gain(first[name], last[name], state.session["direction"]) for name in ("metric", "holdout"))
    cost = beyond_rounding(seen - unseen, *(each[name] for each in (first, last) for name in ("metric", "holdout")))
    nothing = dict.fromkeys(("low", "high", "cost_low", "cost_high"))
    return {"gain": unseen, "validation": seen, "cost": cost, **nothing}


def holdout_line(found: Mapping[str, Any]) -> str:
    """Format what `on_holdout` returned."""
    gained, cost = _between(found, ""), _between(found, "cost_")
    rest = ", one run each" if found["low"] is None else ""
    return f"{gained}; validation minus holdout {cost}, the cost of selection on these two texts{rest}"


def holdout_lines(confirmation: Mapping[str, Any]) -> list[str]:
    """Return a line about the holdout for a confirmation; none if it was not scored there."""
    holdout, cost = confirmation.get("holdout"), confirmation.get("cost")
    if not holdout or not cost:
        return []
    about = {**holdout, "cost": cost["gain"], "cost_low": cost["low"], "cost_high": cost["high"]}
    return [f"on the holdout {holdout_line(about)}"]


def _between(found: Mapping[str, Any], kind: str) -> str:
    value = brief(found["cost" if kind else "gain"])
    if found[f"{kind}low"] is None:
        return value
    return f"{value} ({brief(found[f'{kind}low'])} to {brief(found[f'{kind}high'])})"
