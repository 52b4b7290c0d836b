"""Print journal events on stdout as NDJSON, one JSON object per line."""

from __future__ import annotations

from agent.journal.events import Event
from agent.journal.state import State


def show_ndjson(event: Event, _state: State) -> None:
    print(event.to_json(ascii_only=True), flush=True)
