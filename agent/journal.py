"""The durable record of a session: one event a line, on disk before what it announces happens."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from agent.errors import AutoresearchError
from agent.events import Event
from agent.state import State, replay, step

View = Callable[[Event, State], None]


class Journal:
    """Appends events, folds them into `state` and tells the views."""

    def __init__(self, path: Path, views: Sequence[View] = ()) -> None:
        self.path = path
        self.state = replay(read(path))
        self._views = views
        self._file: IO[str] | None = None

    def append(self, kind: str, **data: Any) -> None:
        """Returns once the event is on the disk. Raises AutoresearchError where it cannot be written."""
        event = Event(kind, round(time.time(), 3), data)
        try:
            file = self._file or self._open()
            file.write(event.to_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            raise AutoresearchError(
                f"{self.path} cannot be written: {error.strerror}; make room or give back the rights, then run again: "
                "the session goes on where it stopped"
            ) from None
        self.state = step(self.state, event)
        self._show(event)

    def show(self, kind: str, **data: Any) -> None:
        """Tell the views something that is not worth keeping."""
        self._show(Event(kind, time.time(), data))

    def close(self) -> None:
        # What could not be written has been reported where it was; closing only tries it once more.
        if self._file:
            with contextlib.suppress(OSError):
                self._file.close()

    def _show(self, event: Event) -> None:
        for view in self._views:
            view(event, self.state)

    def _open(self) -> IO[str]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        drop_torn_line(self.path)
        self._file = self.path.open("a", encoding="utf-8")
        return self._file


def read(path: Path) -> Iterator[Event]:
    """The events of a journal. A torn last line is left out; raises AutoresearchError on any other that is no event."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    for number, line in enumerate(lines[:-1], start=1):
        try:
            data = json.loads(line)
            yield Event(data.pop("event"), data.pop("at"), data)
        except (ValueError, KeyError, AttributeError):
            raise AutoresearchError(
                f"line {number} of {path} is not an event; the journal is the record of the session and is not "
                "rewritten: mend that line by hand, or start another --tag"
            ) from None


def drop_torn_line(path: Path) -> int:
    """Remove a line that power loss cut short: it announced something that then did not happen. Returns its bytes."""
    if not path.exists():
        return 0
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    return len(content) - whole
