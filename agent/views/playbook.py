"""Show the playbook: its entries, and what this workspace has tried of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.errors import PreconditionError
from agent.format import figure, one_line
from agent.journal.experiment import Value
from agent.journal.journal import fold
from agent.journal.paths import find_session, journal_path
from agent.journal.state import State, gain
from agent.playbook.entries import Entry, read_book
from agent.playbook.tried import Trial, is_in, misfits, trials_of, tried
from agent.proposers import earlier
from agent.report.gain import outcome
from agent.system.names import PLAYBOOK

MOST_SHOWN = 4
WIDE = 48
UNTRIED, TRIED, HELD = "untried", "tried", "in the recipe"


def playbook_data(folder: Path, tag: str | None) -> dict[str, Any]:
    """Return the entries and what became of them, as plain data.

    Args:
        tag: the session; None takes the most recent one, if there is any.

    Raises:
        PreconditionError: the named session does not exist.
    """
    trials: list[Trial] = []
    parameters: Mapping[str, Value] = {}
    state = State()
    try:
        tag = find_session(folder, tag)
    except PreconditionError:
        if tag is not None:
            raise
    if tag is not None:
        path = journal_path(folder, tag)
        state = fold(path)
        trials = trials_of(state.experiments)
        trials += earlier.trials_elsewhere(earlier.read(path)) if state.learned else []
        parameters = state.incumbent.parameters if state.incumbent is not None else {}
    book = read_book(folder)
    entries = [_row(each, tried(each, trials), state, held=is_in(each, parameters)) for each in book.entries]
    notes = [*book.notes, *misfits(book.entries, parameters)]
    return {"tag": tag, "path": PLAYBOOK, "exists": book.exists, "entries": entries, "notes": notes}


def playbook_lines(data: Mapping[str, Any]) -> list[str]:
    """Return a line for each entry, `#3 keep +0.012300  1.2 %  Halve the batch`, then what could not be read."""
    if not data["exists"]:
        return [f"this workspace has no {data['path']}"]
    rows = [(_state(each), _cut(each["effect"]), each["title"]) for each in data["entries"]]
    first, second = (max((len(row[place]) for row in rows), default=0) for place in (0, 1))
    lines = [f"{state:<{first}}  {effect:<{second}}  {title}" for state, effect, title in rows]
    left = sum(each["state"] == UNTRIED for each in data["entries"])
    of = f" in session {data['tag']}" if data["tag"] else ""
    count = "1 entry" if len(rows) == 1 else f"{len(rows)} entries"
    return [one_line(line) for line in (*lines, f"{count}, {left} not tried{of}", *data["notes"])]


def _row(entry: Entry, found: Sequence[Trial], state: State, *, held: bool) -> dict[str, Any]:
    return {
        "title": entry.title,
        "what": entry.what,
        "turns": ", ".join(map(str, entry.turns)),
        "where": entry.where,
        "effect": entry.effect,
        "source": entry.source,
        "line": entry.line,
        "state": TRIED if found else HELD if held else UNTRIED,
        "trials": [
            {"tag": each.tag or None, "number": each.number, "status": each.status, "gain": _gain(state, each)}
            for each in found
        ],
    }


def _gain(state: State, trial: Trial) -> float | None:
    """Return the gain of an experiment over the incumbent of its time, as its row shows it; None if unknown."""
    if not trial.tag:
        return outcome(state, state.experiments[trial.number]).gain
    # Sessions of another direction are not learned from.
    return None if trial.change is None or state.session is None else gain(0, trial.change, state.session["direction"])


def _cut(effect: str) -> str:
    return effect if len(effect) <= WIDE else f"{effect[: WIDE - 1]}…"


def _state(row: Mapping[str, Any]) -> str:
    if row["state"] != TRIED:
        return str(row["state"])
    shown = [_trial(each) for each in row["trials"][:MOST_SHOWN]]
    more = len(row["trials"]) - MOST_SHOWN
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _trial(each: Mapping[str, Any]) -> str:
    where = f"{each['tag']} " if each["tag"] else ""
    by = f" {figure(each['gain'], sign='+')}" if each["gain"] is not None else ""
    return f"{where}#{each['number']} {each['status']}{by}"
