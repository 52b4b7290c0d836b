"""Summary figures of a session, for the end of `run` and the top of `status`."""

from __future__ import annotations

from typing import Any

from agent.journal.state import State
from agent.report.gain import standing
from agent.report.holdout import on_holdout
from agent.report.ladder import ladder_of
from agent.report.statement import statement


def summarize(state: State) -> dict[str, Any]:
    """Return the summary of a session as plain data. Values are None until there is a baseline."""
    session, best = state.session, state.incumbent
    assert session is not None
    tried = state.experiments[1:]
    counts = {status: sum(e.verdict.status == status for e in tried) for status in ("keep", "discard", "crash")}
    stands = standing(state)
    return {
        "tag": session["tag"],
        "branch": session["branch"],
        "metric": session["metric"],
        "direction": session["direction"],
        "from": session.get("from"),
        "learned": [{name: each[name] for name in ("tag", "experiments", "alike")} for each in state.learned],
        "baseline": stands.baseline,
        "baseline_runs": stands.baseline_runs,
        "best": stands.best,
        "best_runs": stands.best_runs,
        "best_commit": best.commit if best else None,
        "best_number": best.number if best else None,
        "gain": stands.apparent,
        "gain_is_provisional": stands.word == "provisional",
        "reservations": [*stands.reservations],
        "confirmed": dict(state.confirmation) if state.confirmation else None,
        "holdout": on_holdout(state),
        "promotion": dict(state.promotions[-1]) if state.promotions else None,
        "noise": stands.noise,
        "statement": statement(state),
        "ladder": ladder_of(state),
        "experiments": len(tried),
        "kept": counts["keep"],
        "discarded": counts["discard"],
        "crashed": counts["crash"],
        "hours": state.seconds / 3600,
        "per_hour": 3600 * len(tried) / state.loop_seconds if state.loop_seconds > 0 else None,
        "cost": {"dollars": round(state.cost.dollars, 6), "calls": state.cost.calls, **_tokens(state)},
        "waiting": dict(state.waiting) if state.waiting else None,
        "away": dict(state.away) if state.away else None,
        "nothing": dict(state.nothing) if state.nothing else None,
        "faults": {"runs": state.faults.runs, "seconds": state.faults.seconds, "until": state.faults.until},
        "ended": state.ended,
    }


def _tokens(state: State) -> dict[str, int]:
    return {"input_tokens": state.cost.input_tokens, "output_tokens": state.cost.output_tokens}
