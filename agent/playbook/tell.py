"""Put entries of the playbook into words, within bounds: for the briefing of a model, and for the list on a screen."""

from __future__ import annotations

from collections.abc import Iterable

from agent.format import plain
from agent.playbook.entries import Entry

MOST_TOLD, LONGEST_TOLD = 25, 8000  # entries, characters of all of them
LONGEST_LINE = 400


def told(entries: Iterable[Entry]) -> list[str]:
    """Return a line for each of the first entries: `Halve the batch [1.2 %; TOTAL_BATCH_SIZE down]: what; where`."""
    lines: list[str] = []
    left = LONGEST_TOLD
    for entry in list(entries)[:MOST_TOLD]:
        line = described(entry)[:LONGEST_LINE]
        left -= len(line) + 1
        if left < 0:
            break
        lines.append(line)
    return lines


def described(entry: Entry) -> str:
    about = "; ".join(part for part in (entry.effect, ", ".join(map(str, entry.turns))) if part)
    where = f" ({entry.where})" if entry.where else ""
    return plain(f"{entry.title}{f' [{about}]' if about else ''}: {entry.what}{where}")
