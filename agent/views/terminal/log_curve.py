"""The learning curve of the run in progress, read from its growing log."""

from __future__ import annotations

import os
from pathlib import Path

from agent.pruning.curves import Curve, CurveReader
from agent.system.files import open_plain

MOST_AT_ONCE = 2**20  # bytes for each redrawing, so that a large log does not take time from the training


class LogCurve:
    """The curve of one log at a time. Each byte is read once, and of a long log only the end."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._reader, self._place = CurveReader(), 0

    def of(self, path: Path) -> Curve:
        """Return the curve so far; empty if the log cannot be read."""
        try:
            with open_plain(path) as file:
                size = os.fstat(file.fileno()).st_size
                if path != self._path or size < self._place:
                    self._path, self._reader, self._place = path, CurveReader(), max(0, size - MOST_AT_ONCE)
                file.seek(self._place)
                new = file.read(MOST_AT_ONCE)
        except OSError:
            return ()
        self._place += len(new)
        self._reader.feed(new)
        return self._reader.curve
