"""Notify the user of a new best, of trouble and of the end, without delaying or breaking the loop."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

from agent.errors import PreconditionError, UsageError
from agent.format import one_line
from agent.journal.events import Event
from agent.journal.state import State
from agent.report.summary import summarize
from agent.system.placeholders import require_unquoted
from agent.views.text import headline

# Timeout of a notification command, and the longest that the end of a session waits for the last ones.
LONGEST_SECONDS = 10.0
CRASHES = 3
LONGEST_TEXT = 240
_PROGRAM = re.compile(r"[\w.+/-]+")
# In a shell command, the placeholders become variables: their values are never read as code.
_VARIABLES = {"{title}": "NOTIFY_TITLE", "{text}": "NOTIFY_TEXT"}
APPLESCRIPT = ("on run argv", "display notification (item 2 of argv) with title (item 1 of argv)", "end run")


class Notifier:
    """A view of the journal that sends notifications. It is a context manager.

    Args:
        ways: `bell`, `desktop`, or commands with {title} and {text}.
        platform: as `sys.platform`.

    Raises:
        UsageError: a command cannot be parsed, its program is not found, or a placeholder is in quotes.
        PreconditionError: desktop notifications need a program that is not installed.
    """

    def __init__(self, ways: Sequence[str], platform: str = sys.platform) -> None:
        self._bell = "bell" in ways
        self._commands = [_command(way, platform) for way in ways if way != "bell"]
        self._running: list[threading.Thread] = []
        self._away = self._failed = False
        # How the loop ended. What follows, such as held-out runs, may take as long as a part of it.
        self._ended: str | None = None
        self._unconfirmed = ""  # why held-out runs say nothing about the gain
        self._state = State()

    def __enter__(self) -> Notifier:
        return self

    def __exit__(self, *_: object) -> None:
        """Notify of the end, however what followed the loop went, and wait until the last ones are delivered."""
        if self._ended is not None:
            why = f"; not confirmed: {self._unconfirmed}" if self._unconfirmed else ""
            self._send("done", f"{self._ended}. {headline(summarize(self._state))}{why}")
        deadline = time.monotonic() + LONGEST_SECONDS + 1
        for thread in self._running:
            thread.join(max(0.0, deadline - time.monotonic()))

    def __call__(self, event: Event, state: State) -> None:
        self._state = state
        said = self._worth_saying(event, state)
        if said is not None and state.session is not None:
            self._send(*said)

    def _send(self, title: str, text: str) -> None:
        assert self._state.session is not None
        title = one_line(f"autoresearch {self._state.session['tag']}: {title}")[:LONGEST_TEXT]
        text = one_line(text)[:LONGEST_TEXT]
        # The live screen replaces sys.stderr.
        terminal = sys.__stderr__
        if self._bell and terminal is not None and terminal.isatty():
            with contextlib.suppress(OSError):
                terminal.write("\a")
                terminal.flush()
        self._running = [thread for thread in self._running if thread.is_alive()]
        for command in self._commands:
            # Each command gets a thread that waits for it, and kills it if it hangs.
            thread = threading.Thread(target=_deliver, args=(command, {"{title}": title, "{text}": text}), daemon=True)
            thread.start()
            self._running.append(thread)

    def _worth_saying(self, event: Event, state: State) -> tuple[str, str] | None:
        match event.kind:
            case "recorded":
                return _recorded(state)
            case "away":
                known, self._away = self._away, True
                said = f"{event.data['proposer']} is unavailable: {event.data['reason']}"
                return None if known else ("trouble", said)
            case "back":
                self._away = False
            case "failed":
                self._failed = True
                return "trouble", f"session failed: {event.data['reason']}"
            case "note" if "unconfirmed" in event.data:
                self._unconfirmed = event.data["unconfirmed"]
                return ("trouble", f"gain not confirmed: {self._unconfirmed}") if event.data.get("fault") else None
            case "ended" if not self._failed and state.session is not None:
                self._ended = event.data["reason"]
        return None


def _recorded(state: State) -> tuple[str, str] | None:
    last = state.experiments[-1]
    if last.number > 0 and last.kept:
        return "new best", f"#{last.number} {last.description}. {headline(summarize(state))}"
    crashed = [each.verdict.status == "crash" for each in state.experiments[-CRASHES - 1 :]]
    # Notify once, when the streak reaches this length, and not for every further crash.
    if crashed[-CRASHES:] == [True] * CRASHES and crashed[0] is not True:
        return "trouble", f"{CRASHES} crashes in a row, the last one: {last.verdict.reason}"
    return None


def _command(way: str, platform: str) -> list[str]:
    """Return the command line of a notification, with the placeholders {title} and {text}."""
    if way == "desktop":
        if platform == "darwin":
            script = [part for line in APPLESCRIPT for part in ("-e", line)]
            return ["osascript", *script, "{title}", "{text}"]
        if shutil.which("notify-send") is None:
            raise PreconditionError(
                "--notify desktop needs notify-send, which is not installed",
                hint="install it with `sudo apt-get install libnotify-bin`, or use `--notify bell`",
            )
        return ["notify-send", "--app-name=autoresearch", "{title}", "{text}"]
    try:
        word = next(iter(shlex.split(way)), "")
    except ValueError as error:
        raise UsageError(f"--notify {way!r} is not a valid command: {error}") from None
    if not word or (_PROGRAM.fullmatch(word) and shutil.which(word) is None):
        raise UsageError(f"--notify must be bell, desktop or a command; program {word!r} not found")
    require_unquoted("--notify", way, *_VARIABLES)
    for place, variable in _VARIABLES.items():
        way = way.replace(place, f'"${variable}"')
    return ["/bin/sh", "-c", way]


def _deliver(command: Sequence[str], values: Mapping[str, str]) -> None:
    """Run a command with the values of its placeholders."""
    # As bytes: the user's locale may lack a character of a text.
    told = {place: value.encode(errors="replace") for place, value in values.items()}
    filled = [told[part] if part in told else os.fsencode(part) for part in command]
    env = {**os.environb, **{variable.encode(): told[place] for place, variable in _VARIABLES.items()}}
    quiet = subprocess.DEVNULL
    with contextlib.suppress(OSError):
        process = subprocess.Popen(filled, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True, env=env)
        try:
            process.wait(timeout=LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
