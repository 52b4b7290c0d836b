"""Print one line per event, for pipes and logs."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from agent.format import counted, duration, figure, one_line
from agent.journal.events import Event
from agent.journal.state import State, side
from agent.report.stations import machine_of, work
from agent.views.text import instead, row, upcoming

MOST_NAMED = 5


def show_plain(event: Event, state: State) -> None:
    for line in event_lines(event, state):
        print(one_line(line), file=sys.stderr, flush=True)


def event_lines(event: Event, state: State) -> list[str]:
    """Return the lines to print for an event."""
    data = event.data
    match event.kind:
        case "session":
            return [f"starting session {data['tag']} on new branch {data['branch']} from {data['base'][:7]}"]
        case "resumed":
            return [f"resuming session after {counted(max(0, len(state.experiments) - 1), 'experiment')}"]
        case "started":
            assert state.pending is not None
            return [_start(data, state.pending.description)]
        case "measured" if "of" in data:
            return [f"#{data['number']} repeat of incumbent #{data['of']}: {_result(data)}"]
        case "measured" if data["number"] and data["error"] is None and data["run"] > 1 and not data.get("station"):
            return [f"#{data['number']} run {data['run']}: {_result(data)}"]
        case "screened":
            return _screen(data)
        case "running":
            return [f"{_side(state, data)} running, run {data['run']}, about {duration(data['expected'])}"]
        case "compared":
            where = f" on {data['station']}" if data.get("station") else ""
            return [f"{_side(state, data)} run {data['run']}{where}: {_result(data)}"]
        case "recorded":
            return [row(state, len(state.experiments) - 1)]
        case "interrupted":
            return [f"#{data['number']} interrupted: {data['reason']}"]
        case "faulted":
            who = _side(state, data) if "label" in data else f"#{data['number']}"
            who += f" repeat of incumbent #{data['of']}" if "of" in data else ""
            then = f"repeated in {duration(data['pause'])}" if data["pause"] else "not repeated"
            return [f"{who} {then}: {data['reason']}"]
        case "ended":
            return [f"ended: {data['reason']}"]
        case "waiting":
            until = time.strftime("%H:%M:%S", time.localtime(data["until"]))
            return [f"{data['proposer']} will be retried at {until}: {data['reason']}"]
        case "away":
            until = time.strftime("%H:%M", time.localtime(data["until"])) if data["until"] else "the session ends"
            return [f"{data['proposer']} unavailable until {until}, {instead(state)}: {data['reason']}"]
        case "back":
            return [f"{data['proposer']} is available again"]
        case "nothing":
            what = f"had no usable proposal for #{data['number']}"
            return [f"{data['proposer']} {what}, {instead(state)}: {data['reason']}"]
        case "unmended":
            return [f"#{data['number']} not repaired by {data['proposer']}: {data['reason']}"]
        case "dropped":
            more = f"; and {data['count'] - MOST_NAMED} more" if data["count"] > MOST_NAMED else ""
            did = "; ".join(data["what"][:MOST_NAMED])
            return [f"#{data['number']} {data['proposer']}: ignored: it {did}{more}"]
        case "preparing" | "prepared":
            return [f"next proposal {upcoming(state.prepared, state.preparing)}"]
        case "outdated":
            return [f"next proposal thrown away: {data['reason']}"]
        case "note":
            return [data["text"]]
    return _of_stations(event, state)


def _start(data: Mapping[str, Any], what: str) -> str:
    """Return the line for the start of a run or screen of an experiment, described by `what`."""
    again = f", run {data['run']}" if data["run"] > 1 else ""
    if "of" in data:
        again, repeat = "", "" if "rung" in data else "repeat of "
        what = f"{repeat}incumbent #{data['of']} for comparison"
    doing = f"screening at {data['rung']:g} s" if "rung" in data else f"running{again}"
    return f"#{data['number']} {doing}, about {duration(data['expected'])}: {what}"


def _screen(data: Mapping[str, Any]) -> list[str]:
    """Return the line for the end of a screen; none for a discard, which has its row."""
    at = f"at {data['rung']:g} s"
    if "of" in data:
        return [f"#{data['number']} screen of incumbent #{data['of']} {at}: {_result(data)}"]
    goes = "as a control" if data["then"] == "control" else "to the full rung"
    return [f"#{data['number']} screen {at}: {_result(data)}, goes on {goes}"] if data["then"] != "discard" else []


def _of_stations(event: Event, state: State) -> list[str]:
    """Return the lines for an event of a station."""
    data = event.data
    match event.kind:
        case "joined":
            about = machine_of(data["facts"])
            return [f"{data['station']} joined" + (f": {about}" if about else "")]
        case "left":
            return [f"{data['station']} left: {data['reason']}"]
        case "leased":
            what = _work(state, data)
            known = state.flight.candidates.get(data["candidate"]) if data.get("candidate") is not None else None
            more = f": {known.description}" if known is not None else ""
            return [f"{data['station']} runs {what}, about {duration(data['expected'])}{more}"]
        case "returned":
            return [f"{data['station']} returned {_work(state, data)}: {_result(data)}"]
        case "withdrawn":
            return [f"{data['station']} ends {_work(state, data)}: {data['reason']}"]
        case "lost":
            return [f"{data['station']} lost {_work(state, data)}: {data['reason']}"]
    return []


def _work(state: State, data: Mapping[str, Any]) -> str:
    return work(state, data.get("candidate"), data.get("of"), data.get("label"))


def _side(state: State, data: Mapping[str, Any]) -> str:
    label, commits = data["label"], state.comparison.commits if state.comparison else {}
    return side(state, label, commits.get(label, label))


def _result(data: Mapping[str, Any]) -> str:
    return figure(data["metric"]) if data["metric"] is not None else str(data["error"])
