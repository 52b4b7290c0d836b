"""The live screen on a terminal, for the loop in this process or in another one."""

from __future__ import annotations

import os
import textwrap
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from agent.decision.limits import Limits
from agent.execution.progress import memory, reading
from agent.format import one_line
from agent.journal.events import Event
from agent.journal.state import State
from agent.report.eta import experiments_left
from agent.system.files import last_lines
from agent.system.invocation import typed
from agent.views.plain import event_lines
from agent.views.terminal.log_curve import LogCurve
from agent.views.terminal.progress_panel import Moment, under_way
from agent.views.terminal.screen import screen
from agent.views.text import COLOURS

HINT = "Ctrl-C stops after this experiment; a second Ctrl-C stops at once"
HINT_OF_STATIONS = "Ctrl-C stops after the candidates under way; a second Ctrl-C stops at once"
LATER = "Ctrl-C postpones the confirmation; a second Ctrl-C stops at once"
LEAVE = "Ctrl-C closes this view, the loop keeps running; stop it with `{stop}`"
# A low rate leaves the cores to training.
REFRESHES_PER_SECOND = 1
MEMORY_SECONDS = 3.0
LOG_LINES = 5
KEPT_LINES = 8
# Events that are printed again below the closed screen; the summary covers the rest.
LASTING = ("note", "ended", "failed", "interrupted", "away", "nothing")


def can_draw(stream: TextIO) -> bool:
    """Return whether the stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "dumb").lower() not in ("dumb", "unknown")


class Picture:
    """The screen of the latest state, redrawn each time so that it fits a resized window."""

    def __init__(self, limits: Limits, hint: str) -> None:
        self.state = State()
        self.message, self.hint = "", hint
        self._limits, self._began = limits, time.monotonic()
        self._memory: tuple[float, int | None] = (0.0, None)
        self._curve = LogCurve()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.state.session is not None:
            yield screen(self.state, self._moment(options.ascii_only), *console.size)

    def _moment(self, ascii_only: bool) -> Moment:
        found = under_way(self.state)
        started = found[0] if found else None
        tail = last_lines(Path(started["log"]), LOG_LINES) if started else []
        now = time.time()
        return Moment(
            now=now,
            reading=reading(tail),
            lines=tail,
            memory=self._held(started["pid"]) if started else None,
            forecast=experiments_left(self._limits, self.state, now, time.monotonic() - self._began),
            ends=self._limits.words(),
            message=self.message,
            hint=self.hint,
            curve=self._curve.of(Path(started["log"])) if started else (),
            ascii=ascii_only,
        )

    def _held(self, pid: int) -> int | None:
        at, held = self._memory
        if time.monotonic() - at >= MEMORY_SECONDS:
            held = memory(pid)
            self._memory = time.monotonic(), held
        return held


class LiveView:
    """A view of the journal that draws the live screen. It is a context manager.

    The screen opens with the first event of the session, since setup commands print before that. It closes on exit,
    also after an error, and the last notes are printed.
    """

    def __init__(self, limits: Limits) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._picture = Picture(limits, HINT)
        self._live: Live | None = None
        self._said: deque[str] = deque(maxlen=KEPT_LINES)

    def __enter__(self) -> LiveView:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            for line in self._said:
                self._say(line)

    def __call__(self, event: Event, state: State) -> None:
        self._picture.state = state
        said = event_lines(event, state) if event.kind != "started" else []
        if self._live is None and event.kind not in ("session", "resumed"):
            for line in said:
                self._say(line)
            return
        if event.kind in LASTING:
            self._said.extend(said)
        if event.kind == "note":
            self._note(event)
        elif event.kind in ("interrupted", "nothing", "faulted", "joined", "left", "lost"):
            self._picture.message = one_line(" ".join(said))
            if event.kind == "joined" and self._picture.hint == HINT:
                self._picture.hint = HINT_OF_STATIONS
        elif event.kind == "running" or (event.kind == "leased" and event.data.get("label") is not None):
            self._picture.message, self._picture.hint = "", LATER
        elif event.kind == "recorded":
            self._picture.message = ""
        if self._live is None:
            self._live = _live(self._console, self._picture)
        self._live.refresh()

    def _say(self, line: str) -> None:
        # Between words, so that a path or a command stays whole if it fits.
        parts = textwrap.wrap(one_line(line), self._console.width, break_long_words=False, break_on_hyphens=False)
        for index, part in enumerate(parts):
            text = Text(part)
            for status, colour in COLOURS.items() if index == 0 else ():
                text.highlight_regex(rf"^#\d+ {status}", f"bold {colour}")
            self._console.print(text, soft_wrap=True)

    def _note(self, event: Event) -> None:
        if event.data.get("ending"):
            self._picture.hint = one_line(event.data["text"])
        else:
            self._picture.message = one_line(event.data["text"])


def follow(load: Callable[[], State | None], wait: Callable[[], None], limits: Limits) -> None:
    """Show the live screen of a loop in another process.

    Args:
        load: returns the state of the session; None once the loop has ended.
        wait: waits until the state may have changed.
        limits: what ends the session, with hours as a time of day.
    """
    console = Console(highlight=False)
    picture = Picture(limits, LEAVE.format(stop=typed("stop")))
    state = load()
    if state is None:
        return
    picture.state = state
    live = _live(console, picture)
    try:
        while state is not None:
            picture.state = state
            live.refresh()
            wait()
            state = load()
    finally:
        live.stop()


def _live(console: Console, picture: Picture) -> Live:
    live = Live(
        picture, console=console, screen=True, refresh_per_second=REFRESHES_PER_SECOND, vertical_overflow="crop"
    )
    live.start(refresh=True)
    return live
