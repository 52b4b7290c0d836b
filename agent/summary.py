"""A session in figures: what `run` ends with and `status` begins with."""

from __future__ import annotations

from typing import Any

from agent.experiment import Experiment
from agent.noise import noise_of
from agent.state import State, gain


def summarize(state: State) -> dict[str, Any]:
    """Everything a person asks first, as plain data. Values are None until there is a baseline."""
    session, baseline, best = state.session, state.baseline, state.incumbent
    assert session is not None
    tried = state.experiments[1:]
    counts = {status: sum(e.verdict.status == status for e in tried) for status in ("keep", "discard", "crash")}
    gained = None
    if baseline and best and baseline.metric is not None and best.metric is not None:
        gained = gain(baseline.estimate or baseline.metric, best.metric, session["direction"])
    hours = state.seconds / 3600
    return {
        "tag": session["tag"],
        "branch": session["branch"],
        "metric": session["metric"],
        "direction": session["direction"],
        "baseline": baseline.metric if baseline else None,
        "best": best.metric if best else None,
        "best_commit": best.commit if best else None,
        "best_number": best.number if best else None,
        "gain": gained,
        "gain_is_provisional": best is not None and best.number > 0 and not _confirmed(best),
        "confirmed": _confirmation(state),
        "noise": noise_of(state.experiments).sd if baseline and len(baseline.runs) > 1 else None,
        "experiments": len(tried),
        "kept": counts["keep"],
        "discarded": counts["discard"],
        "crashed": counts["crash"],
        "hours": hours,
        "per_hour": len(tried) / hours if hours > 0 else None,
        "cost": {"dollars": round(state.cost.dollars, 6), "calls": state.cost.calls, **_tokens(state)},
        "waiting": dict(state.waiting) if state.waiting else None,
        "away": dict(state.away) if state.away else None,
        "nothing": dict(state.nothing) if state.nothing else None,
        "ended": state.ended,
    }


def _confirmed(experiment: Experiment) -> bool:
    evidence = experiment.verdict.evidence
    return evidence is not None and evidence.confirmed


def _confirmation(state: State) -> dict[str, Any] | None:
    """What `confirm` found, if that was for what is the best now."""
    found, best = state.confirmation, state.incumbent
    return dict(found) if found and best and found["b"] == best.commit else None


def _tokens(state: State) -> dict[str, int]:
    return {"input_tokens": state.cost.input_tokens, "output_tokens": state.cost.output_tokens}
