"""The measurement under way, as data and as one line for a progress notification."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.errors import PreconditionError
from agent.execution.progress import reading
from agent.format import one_line
from agent.journal import lock
from agent.journal.paths import own_log, state_folder
from agent.journal.state import State
from agent.report.status import status
from agent.system.files import Unusable, last_lines

LOG_LINES = 5  # as on the live screen
LONGEST_LINE = 300
NOTHING: dict[str, Any] = {
    **dict.fromkeys(("number", "run", "of", "seconds", "done_at")),
    **dict.fromkeys(("done", "step", "loss", "tokens_per_second")),
    "last_line": "",
}


def under_way(folder: Path, tag: str | None) -> dict[str, Any]:
    """Return what a session measures now, with the figures in the log of the current run.

    Args:
        folder: the workspace.
        tag: the session; None takes the one that is running, or else the most recent one.

    Returns:
        The phase: `not running`, `setup`, `preparing`, `baseline`, `running` or `comparing`. The number of the
        experiment, or for a comparison the number of the run `of` how many. Seconds so far, the expected end, the
        fraction done, step, loss, tokens per second, and the last line of the log. What is unknown is None.
    """
    holder = lock.holder(state_folder(folder))
    if holder is None:
        return {"phase": "not running", **NOTHING}
    try:
        data, state = status(folder, tag or holder.tag, 0)
    except PreconditionError:
        return {"phase": "setup", **NOTHING}
    if data["running_pid"] is None:
        return {"phase": "not running", **NOTHING}
    return _comparison(folder, state) or _experiment(folder, state, data["now"])


def words(now: Mapping[str, Any]) -> str:
    """Return the measurement under way as one line: `#3 running for 110 s: 37 %, step 120, loss 4.1234`."""
    number = f"#{now['number']} " if now["number"] is not None else ""
    run = f", run {now['run']} of {now['of']}" if now["of"] is not None else ""
    seconds = f" for {now['seconds']:.0f} s" if now["seconds"] is not None else ""
    figures = [
        f"{now['done']:.0%}".replace("%", " %") if now["done"] is not None else "",
        f"step {now['step']}" if now["step"] is not None else "",
        f"loss {now['loss']:.4f}" if now["loss"] is not None else "",
        f"{now['tokens_per_second']:,.0f} tokens/s" if now["tokens_per_second"] is not None else "",
    ]
    said = ", ".join(filter(None, figures)) or now["last_line"]
    return f"{number}{now['phase']}{run}{seconds}{f': {said}' if said else ''}"


def _experiment(folder: Path, state: State, now: Mapping[str, Any] | None) -> dict[str, Any]:
    if now is None or state.pending is None or now["log"] is None:
        return {"phase": "preparing", **NOTHING, "number": now["number"] if now else None}
    known = {key: now[key] for key in ("number", "seconds", "done_at")}
    run = (state.pending.started or {}).get("run")
    phase = "running" if now["number"] else "baseline"
    return {"phase": phase, **NOTHING, **known, "run": run, **_figures(folder, now["log"])}


def _comparison(folder: Path, state: State) -> dict[str, Any] | None:
    comparison = state.comparison
    if comparison is None or not state.comparing or comparison.started is None:
        return None
    run = sum(map(len, comparison.runs.values())) + 1
    return {
        "phase": "comparing",
        **NOTHING,
        "run": run,
        "of": max(run, comparison.count * len(comparison.commits)),  # more if disturbed runs are replaced
        "seconds": max(0.0, time.time() - state.latest_at),
        "done_at": state.latest_at + comparison.started["expected"],
        **_figures(folder, comparison.started["log"]),
    }


def _figures(folder: Path, log: str) -> dict[str, Any]:
    try:
        lines = last_lines(own_log(folder, log), LOG_LINES)
    except (OSError, Unusable):
        return {}
    found = reading(lines)
    return {
        "done": found.done,
        "step": found.step,
        "loss": found.loss,
        "tokens_per_second": found.tokens_per_second,
        "last_line": one_line(lines[-1])[:LONGEST_LINE] if lines else "",
    }
