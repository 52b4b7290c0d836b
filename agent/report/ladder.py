"""What the screens of a session with `--ladder` saved, and the wins that they probably lost."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from agent.decision.longer_training import why_ladder_ends
from agent.format import counted, duration
from agent.journal.experiment import Experiment
from agent.journal.state import State


def ladder_of(state: State) -> dict[str, Any] | None:
    """Return the figures of a session's screens as plain data; None without screens.

    `lost` is the sum of the forecast probabilities of a keep over the candidates that were discarded at the short rung:
    the expected number of lost wins. Controls, which went on although the forecast would have discarded them, check it.
    `saved` is the time of one full run for each of these candidates, minus that of all screens; negative if those took
    longer.
    """
    experiments = state.experiments
    own = [each.screens[-1] for each in experiments if each.screens]
    every = [screen for each in experiments for screen in (*each.screens, *each.heldout_screens)]
    if not every:
        return None
    out = [screen for screen in own if screen.then == "discard"]
    controls = [each for each in experiments if each.screens and each.screens[-1].then == "control"]
    full = [run.seconds for each in experiments for run in each.runs if run.error is None]
    seconds = sum(screen.run.seconds for screen in every)
    kept = sum(each.kept for each in experiments[1:])
    found = {
        "rung": every[-1].rung,
        "screened": len(own),
        "discarded": len(out),
        "seconds": seconds,
        "saved": len(out) * statistics.median(full) - seconds if full else -seconds,
        "kept": kept,
        "lost": sum(screen.chance or 0.0 for screen in out),
        "controls": len(controls),
        "controls_kept": sum(each.kept for each in controls),
        "edits": _by_edit(experiments),
    }
    # A resumed session may have another `--ladder`.
    rungs = list(dict.fromkeys(screen.rung for screen in out or own or every))
    own_budget = (state.session or {}).get("fingerprint", {}).get("training_seconds")
    why = why_ladder_ends(experiments, every[-1].rung, own_budget)
    return {**found, "line": _line(found, rungs) + (f"; ended: {why}" if why else "")}


def _by_edit(experiments: tuple[Experiment, ...]) -> dict[str, dict[str, int]]:
    """Return the number of screened and of discarded candidates by the kind of their edit."""
    found: dict[str, dict[str, int]] = {}
    for screen in (each.screens[-1] for each in experiments if each.screens):
        counts = found.setdefault(screen.edit, {"screened": 0, "discarded": 0})
        counts["screened"] += 1
        counts["discarded"] += screen.then == "discard"
    return found


def _line(found: dict[str, Any], rungs: Sequence[float]) -> str:
    """Format the figures: `12 of 20 screened candidates discarded at 60 s, which saved about 41m; ...`."""
    *others, last = (f"{rung:g} s" for rung in rungs)
    at = f"{', '.join(others)} and {last}" if others else last
    saved = found["saved"]
    time = f"which saved about {duration(saved)}" if saved >= 0 else f"which cost about {duration(-saved)} so far"
    wins = counted(found["kept"], "keep")
    said = [f"by forecast {found['lost']:.2g} wins lost beside {wins}"]
    if found["controls"]:
        said.append(f"{found['controls_kept']} of {counted(found['controls'], 'control')} kept")
    return (
        f"{found['discarded']} of {counted(found['screened'], 'screened candidate')} discarded at {at}, "
        f"{time}; {', '.join(said)}"
    )
