"""The view of `status`: lines of text, or the live screen of a loop in another process."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.decision.limits import of_note
from agent.format import cost, counted, duration, one_line
from agent.journal import lock
from agent.journal.journal import fold
from agent.journal.paths import find_session, journal_path, state_folder
from agent.journal.state import State
from agent.report.holdout import holdout_line
from agent.report.promotion import promotion_line
from agent.report.stations import StationStatus, stations_of
from agent.report.status import status, wait_for_change
from agent.system.invocation import typed
from agent.views.text import background, faults, headline, instead, row, run_words, station_line, upcoming

ROWS = 20


def session_status(workspace: Path, tag: str | None, rows: int | None) -> tuple[dict[str, Any], list[str]]:
    """Return the data of `status --json`, with a line of text for each of the last experiments, and the lines to print.

    Args:
        workspace: the workspace.
        tag: the session; None for the most recent one.
        rows: number of experiments; None for ROWS, or on a terminal, where the lines are a page, for those that fit.
    """
    most = ROWS if rows is None else rows
    data, state = status(workspace, tag, most)
    first = max(0, len(state.experiments) - most)
    data = {**data, "lines": [row(state, index) for index in range(first, len(state.experiments))]}
    stations = stations_of(state, time.time(), running=data["running_pid"] is not None)
    if not sys.stdout.isatty():
        return data, _lines(data, stations, instead(state))
    from agent.views.terminal.status_page import status_page  # slow to import

    return data, status_page(state, data, rows, _now(data), stations)


def _lines(data: dict[str, Any], stations: Sequence[StationStatus], meanwhile: str) -> list[str]:
    rate = f", {data['per_hour']:.1f} an hour" if data["per_hour"] else ""
    counts = f"{data['kept']} kept, {data['discarded']} discarded, {data['crashed']} crashed"
    shown = [
        f"{data['tag']}  {headline(data)}",
        f"{counted(data['experiments'], 'experiment')}: {counts}{rate}",
        *([data["statement"]["line"]] if data["statement"] else []),
        *([f"ladder: {data['ladder']['line']}"] if data["ladder"] else []),
        *data["lines"],
    ]
    if said := background(data):
        shown.append(said)
    if data["holdout"]:
        shown.append(f"holdout {holdout_line(data['holdout'])}")
    if data["promotion"]:
        shown.append(f"promoted {promotion_line(data['promotion'], data['best_commit'])}")
    if data["cost"]["calls"]:
        shown.append(cost(data["cost"]))
    if data["faults"]["runs"]:
        shown.append(f"repeated {faults(data)}")
    if away := data["away"]:
        ends = away["until"] if data["running_pid"] else None  # without a loop, nobody asks the model then
        until = f" until {time.strftime('%H:%M', time.localtime(ends))}" if ends else ""
        shown.append(f"{away['proposer']} is unavailable{until}, {meanwhile}: {away['reason']}")
    if data["limits"] and (ends := of_note(data["limits"]).words()):
        shown.append(f"ends {ends}")
    return [one_line(line) for line in (*shown, *map(station_line, stations), *_now(data))]


def _now(data: dict[str, Any]) -> list[str]:
    """Return the lines about what the session is doing."""
    shown: list[str] = []
    if until := data["faults"]["until"]:
        shown.append(f"the next repeat begins at {time.strftime('%H:%M:%S', time.localtime(until))}")
    if data["waiting"]:
        shown.append(f"{data['waiting']['proposer']} will be retried: {data['waiting']['reason']}")
    if data["nothing"]:
        nothing = data["nothing"]
        shown.append(f"{nothing['proposer']} had no usable proposal for #{nothing['number']}: {nothing['reason']}")
    if following := data["next"]:
        ready = following["ready"]
        shown.append(f"next proposal {upcoming(following if ready else None, None if ready else following)}")
    now = data["now"]
    if now:
        until = time.strftime("%H:%M:%S", time.localtime(now["done_at"])) if now["done_at"] else "?"
        shown.append(
            f"running #{now['number']} for {duration(now['seconds'])}, done at about {until}: {now['description']}"
        )
    elif data["comparison"]:
        shown.append(_comparing(data["comparison"]))
    elif data["running_pid"]:
        shown.append("running")
    else:
        resume = f"run --tag {data['tag']}"
        shown.append(f"not running: {data['ended'] or f'interrupted; resume it with `{typed(resume)}`'}")
    return shown


def _comparing(found: dict[str, Any]) -> str:
    """Format the comparison under way: `confirming: baseline, run 2 of 6, for 12s, done at about 10:02:17`."""
    if found["now"] is None:
        done = min(found["done"], found["runs"])  # without those that others replaced
        return f"{found['doing']}: {' and '.join(found['sides'])}, {done} of {found['runs']} runs done"
    run = run_words(found["done"] + 1, found["runs"])
    until = time.strftime("%H:%M:%S", time.localtime(found["done_at"]))
    return f"{found['doing']}: {found['now']}, {run}, for {duration(found['seconds'])}, done at about {until}"


def watch(workspace: Path, tag: str | None) -> None:
    """Show the live screen until the loop ends. Without a terminal, return at once."""
    tag = find_session(workspace, tag)
    path = journal_path(workspace, tag)

    def load() -> State | None:
        holder = lock.holder(state_folder(workspace))
        return fold(path).as_of(holder.born) if holder is not None and holder.tag == tag else None

    holder = lock.holder(state_folder(workspace))
    if holder is None or not sys.stdout.isatty():
        return
    from agent.views.terminal.live import can_draw, follow  # slow to import

    if can_draw(sys.stdout):
        follow(load, lambda: wait_for_change(workspace, tag), of_note(holder.limits or {}))
