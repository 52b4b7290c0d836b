"""The gain on the holdout beside the gain on validation, and their difference: what selection cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.format import brief, counted
from agent.journal.experiment import beyond_rounding
from agent.journal.state import State, gain


def on_holdout(state: State) -> dict[str, Any] | None:
    """Return both gains of the best over the baseline, and their difference; None if either has no score.

    Held-out runs give an interval. Before them there is one model of each, scored when it was kept, and `low` and
    `high` are None.
    """
    if (found := _by_heldout_runs(state.confirmation or {})) is not None:
        return found
    best = state.incumbent
    first, last = (state.scored.get(number) for number in (0, best.number if best else 0))
    if first is None or last is None or first is last or state.session is None:
        return None
    seen, unseen = (gain(first[name], last[name], state.session["direction"]) for name in ("metric", "holdout"))
    cost = beyond_rounding(seen - unseen, *(each[name] for each in (first, last) for name in ("metric", "holdout")))
    nothing = dict.fromkeys(("low", "high", "cost_low", "cost_high", "pairs"))
    return {"gain": unseen, "validation": seen, "cost": cost, **nothing, "partial": False}


def _by_heldout_runs(confirmation: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the figures of a confirmation; None if too few of its runs were scored on the holdout.

    Those that were not may be many: the gain on validation is of the same runs here, so that the cost follows from it.
    """
    holdout, cost = confirmation.get("holdout"), confirmation.get("cost")
    if not holdout or not cost:
        return None
    seen, every = holdout["gain"] + cost["gain"], confirmation["gain"]
    # Both sums are of rounded metrics, and so differ by their rounding, however small the gain is beside them.
    values = [seen, *(mean for each in (confirmation, holdout) for mean in (each.get("means") or {}).values() if mean)]
    return {
        "gain": holdout["gain"], "low": holdout["low"], "high": holdout["high"],
        "validation": seen,
        "cost": cost["gain"], "cost_low": cost["low"], "cost_high": cost["high"],
        "pairs": confirmation.get("scored"),
        "partial": every is not None and beyond_rounding(seen - every, *values) != 0,
    }  # fmt: skip


def holdout_line(found: Mapping[str, Any]) -> str:
    """Format what `on_holdout` returned."""
    gained, cost = f"{_between(found, '')}{scored_words(found)}", _between(found, "cost_")
    rest = ", one run each" if found["low"] is None else ""
    return f"{gained}; validation minus holdout {cost}, the cost of selection on these two texts{rest}"


def scored_words(found: Mapping[str, Any]) -> str:
    """Say which pairs `on_holdout` compared if they were not all, and their gain on validation; empty if they were."""
    if not found["partial"]:
        return ""
    pairs = "the pairs" if found["pairs"] is None else f"the {counted(found['pairs'], 'pair')}"
    return f" by {pairs} scored on it (validation {brief(found['validation'])})"


def holdout_lines(confirmation: Mapping[str, Any]) -> list[str]:
    """Return a line about the holdout for a confirmation; none if it was not scored there."""
    found = _by_heldout_runs(confirmation)
    return [] if found is None else [f"on the holdout {holdout_line(found)}"]


def _between(found: Mapping[str, Any], kind: str) -> str:
    value = brief(found["cost" if kind else "gain"])
    if found[f"{kind}low"] is None:
        return value
    return f"{value} ({brief(found[f'{kind}low'])} to {brief(found[f'{kind}high'])})"
