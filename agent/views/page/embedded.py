"""The data behind the page's script: one JSON object per session, bounded in size and inert inside HTML."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.errors import AutoresearchError
from agent.format import plain
from agent.journal.experiment import Direction, Value
from agent.journal.state import State
from agent.proposers.search.alignment import renamed
from agent.proposers.search.importance import Importance, importances
from agent.proposers.search.space import Space, space_of
from agent.pruning.curves import Point, point
from agent.report.close_up import CloseUp, close_ups
from agent.repository.workspace import Workspace
from agent.session.context import known_constants
from agent.system.files import read_bounded
from agent.views.page.markers import kind_of, value_of

BUDGET = 2_400_000  # bytes of the data of all sessions
# Characters that a diff, a reasoning or a log may keep: the largest of these with which all of it fits.
CAPS = (20_000, 6_000, 3_000, 1_500, 800, 400, 200, 0)
MOST_POINTS, ALL_POINTS = 48, 60_000  # of one learning curve, and of all of them
LARGEST_LOG = 2**23  # bytes; a larger log gives no curve
LONGEST_VALUE = 60
Session = Mapping[str, Any]


def embedded(workspace: Workspace, sessions: Sequence[Session]) -> list[dict[str, Any]]:
    """Return what the script shows of each session of `report.gather`, ready for JSON.

    Raises:
        AutoresearchError: a journal is damaged.
    """
    found = [close_ups(workspace, session["tag"]) for session in sessions]
    points = min(MOST_POINTS, ALL_POINTS // max(1, sum(len(every) for _, every in found)))
    made = [
        _session(session, workspace, state, every, points)
        for session, (state, every) in zip(sessions, found, strict=True)
    ]
    texts = [row[key] for each in made for row in each["rows"] for key in ("why", "diff", "log") if row[key]]
    cap = _cap(texts, BUDGET - sum(len(in_html({**each, "rows": _without_texts(each["rows"])})) for each in made))
    for each in made:
        for row in each["rows"]:
            row["short"] = [key for key in ("why", "diff", "log") if row[key] and len(row[key]) > cap]
            for key in row["short"]:
                row[key] = _shortened(row[key], cap, end=key == "log")
    return made


def in_html(data: Any) -> str:
    """Return JSON that no HTML parser takes for a tag or a comment."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _session(
    session: Session, workspace: Workspace, state: State, every: Sequence[CloseUp], points: int
) -> dict[str, Any]:
    direction: Direction = "minimize" if session["direction"] == "minimize" else "maximize"
    space = _space(workspace, state)
    ranked = importances(space, state.experiments, direction)
    names = [each.dimension.key for each in ranked]
    keys = names if space is None else [dimension.key for dimension in space.dimensions]
    every = [replace(each, parameters=renamed(keys, each.parameters)) for each in every]
    return {
        "tag": session["tag"],
        "metric": session["metric"],
        "down": direction == "minimize",
        "noise": _number(session["noise"]),
        "best": session["best_number"],
        "constants": [_constant(each, every, session["best_number"]) for each in ranked],
        "rows": [_row(row, each, names, points) for row, each in zip(session["rows"], every, strict=True)],
    }


def _space(workspace: Workspace, state: State) -> Space | None:
    """Return the space that the search has at the best version; None if that cannot be read, or has other constants."""
    best = state.incumbent
    if best is None:
        return None
    try:
        space = space_of(workspace.files(best.commit), known_constants(workspace.protocol))
    except AutoresearchError:
        return None
    return space if {dimension.key for dimension in space.dimensions} <= best.parameters.keys() else None


def _constant(found: Importance, every: Sequence[CloseUp], best: int | None) -> dict[str, Any]:
    dimension = found.dimension
    return {
        "name": plain(dimension.key)[:LONGEST_VALUE],
        "log": dimension.log or dimension.kind == "power",
        "choices": [_value(choice) for choice in dimension.choices] if dimension.kind == "choice" else None,
        "tried": found.tried,
        "share": found.share,
        "low": found.low,
        "high": found.high,
        "first": _value(every[0].parameters.get(dimension.key)),
        "last": _value(every[best].parameters.get(dimension.key)) if best is not None else None,
    }


def _row(row: Session, each: CloseUp, names: Sequence[str], points: int) -> dict[str, Any]:
    return {
        "n": row["number"],
        "s": row["status"],
        "k": kind_of(row),
        "v": _number(value_of(row)),
        "m": _number(row["metric"]),
        "g": _number(row["effect"]),
        "t": _number(row["seconds"]),
        "by": plain(row["proposer"]),
        "p": [_value(each.parameters.get(name)) for name in names],
        "runs": [[run.side, _number(run.metric), _number(run.seconds), run.note] for run in each.runs],
        "more": each.more,
        "why": each.reasoning,
        "diff": each.diff,
        "log": "\n".join(each.tail),
        "c": _curve(each.log, each.seconds, points) if each.log else None,
    }


def _curve(log: Path, seconds: float | None, most: int) -> dict[str, Any] | None:
    """Return the learning curve of a log at up to `most` of its lines; None if it has none.

    Returns:
        `x` per mille of the training, `y` losses, `steps` as printed or None, `seconds` of the whole training.
    """
    try:
        lines = read_bounded(log, LARGEST_LOG).replace(b"\r", b"\n").split(b"\n")
    except OSError:
        return None
    lines = [line for line in lines if b"loss" in line and len(line) < 1000]
    if len(lines) > most > 1:
        lines = [lines[round(i * (len(lines) - 1) / (most - 1))] for i in range(most)]
    found: list[Point] = []
    for line in lines:
        new = point(line.decode(errors="replace"))
        if new is not None and math.isfinite(new.loss) and (not found or new.fraction > found[-1].fraction):
            found.append(new)
    if len(found) < 2:
        return None
    steps = [each.step for each in found]
    return {
        "x": [round(1000 * each.fraction) for each in found],
        "y": [float(f"{each.loss:.4g}") for each in found],
        "steps": [int(step) for step in steps] if all(0 <= step < 1e12 for step in steps) else None,
        "seconds": _number(seconds),
    }


def _cap(texts: Sequence[str], room: int) -> int:
    """Return the most characters that each text may keep, so that together they take at most `room` bytes as JSON."""
    sizes = [(len(text), len(in_html(text).encode(errors="replace"))) for text in texts]
    fitting = (cap for cap in CAPS if sum(size * min(1.0, cap / length) for length, size in sizes) <= room)
    return next(fitting, 0)


def _shortened(text: str, cap: int, end: bool) -> str:
    """Return the whole lines within the first `cap` characters, or the last ones, as a log's end says how it ended."""
    if end:
        kept = text[len(text) - cap :]
        return kept.partition("\n")[2] if "\n" in kept else kept
    return text[:cap].rpartition("\n")[0] or text[:cap]


def _without_texts(rows: Sequence[Session]) -> list[dict[str, Any]]:
    return [{**row, "why": "", "diff": "", "log": "", "short": []} for row in rows]


def _number(value: float | None) -> float | None:
    """Return a number with seven digits, which JSON can hold; None for one that is not finite."""
    return float(f"{value:.7g}") if value is not None and math.isfinite(value) else None


def _value(value: Value | None) -> Value | None:
    if isinstance(value, str):
        return plain(value)[:LONGEST_VALUE]
    if value is None or isinstance(value, bool):
        return value
    return value if isinstance(value, int) and abs(value) < 2**53 else _number(float(value))
