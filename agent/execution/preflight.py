"""Whether a candidate would start at all: asked before a run costs minutes.

Each changed Python file must compile; the script that the protocol's command runs is also imported, in a room
as a run has it, without running its main part. What goes on beyond a few seconds has started. Only what
the candidate breaks counts: where the copy lacks something that the script wants, the incumbent fails in it as well.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping

from agent.execution import fingerprint
from agent.execution.measure import Attempt, Runner, execute, room_of
from agent.execution.process import Observer
from agent.format import plain
from agent.journal.paths import state_folder
from agent.protocol.models import Protocol
from agent.source.constants import unmarked
from agent.source.encoding import encoded
from agent.system.files import last_lines

SECONDS = 10.0
# uv run SCRIPT.py, or an interpreter and a script: anything else is not imported.
SCRIPT = re.compile(r"(?P<start>uv run|\S*python[\d.]*) (?P<script>[\w./-]+\.py)\s*(?:>.*)?")
# A script finds the modules of its own folder, `-c` those of the current one.
IMPORT = (
    "import os, runpy, sys; sys.path[0] = os.path.dirname(os.path.realpath({script!r})); "
    "runpy.run_path({script!r}, run_name='dry_check')"
)


def why_not(runner: Runner, files: Mapping[str, str], incumbent: str, tick: Callable[[], None]) -> str | None:
    """Why the candidate would fail at once, in a sentence; None where nothing speaks against it.

    incumbent: the commit that it changes.
    """
    for path, text in files.items():
        if path.endswith(".py"):
            try:
                compile(unmarked(text), path, "exec", dont_inherit=True)
            except (SyntaxError, ValueError) as error:
                return f"{path} does not compile: {error}"
            except (RecursionError, MemoryError):
                return f"{path} does not compile: it is nested too deeply"
            try:
                encoded(path, text)
            except UnicodeEncodeError as error:
                return f"{path} is in {error.encoding}, which has no {error.object[error.start]!r}"
    return _fails_by_itself(runner, files, incumbent, tick)


def program(protocol: Protocol) -> tuple[list[str], str] | None:
    """The interpreter that the protocol's command starts, and its script; None for any other command."""
    found = SCRIPT.fullmatch(protocol.execution.command)
    if found is None:
        return None
    start = shlex.split(found["start"])
    return ["uv", "run", "python"] if start[0] == "uv" else start, found["script"]


def _fails_by_itself(runner: Runner, files: Mapping[str, str], incumbent: str, tick: Callable[[], None]) -> str | None:
    known = runner.imports
    failure = None if known.get(incumbent) else _fails_at_import(runner, files, incumbent, tick)
    if failure is None:
        return None
    if incumbent not in known:
        off = any(known.values())
        known[incumbent] = _fails_at_import(runner, {}, incumbent, tick)
        if known[incumbent] and not off:
            runner.say(
                "candidates are not imported before they run: in a room of its own the incumbent fails as well "
                f"({known[incumbent]})"
            )
    return None if known[incumbent] else f"it fails while it is imported: {failure}"


def _fails_at_import(runner: Runner, files: Mapping[str, str], incumbent: str, tick: Callable[[], None]) -> str | None:
    """The last words of the script with `files` on top of what the incumbent has; None where it does not fail."""
    started = program(runner.protocol)
    if started is None:
        return None
    start, script = started
    # A key of its own: what a run or an agent is at work in is nothing left over.
    key = state_folder(runner.workspace.folder) / "drycheck"
    with room_of(runner, incumbent, fingerprint.snapshot_folder(runner.protocol), files, key) as place:
        log = place.layout.folder / "log"
        command = shlex.join([*start, "-c", IMPORT.format(script=script)])
        watched = Observer(tick=lambda _: tick())
        ended = execute(runner, Attempt(place, log), watched, command=command, limit=SECONDS)
        if not ended.returncode:
            return None
        return plain(" | ".join(last_lines(log, 3))) or f"exit code {ended.returncode}"
