"""Check that a candidate starts at all, before a run takes minutes.

Each Python file that a candidate may change must compile. The script of the protocol's command is also imported, in a
room like that of a run, without running its main part; if that takes more than a few seconds, it has started. Only
failures that the candidate causes count: if the room lacks something that the script needs, the incumbent fails on
import as well.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping

from agent.execution import fingerprint
from agent.execution.gpu_fault import LONGEST_LOG, fault_in
from agent.execution.measure import Attempt, Runner, execute, is_lost, require_disk_space, room_of
from agent.execution.process import Observer
from agent.format import plain
from agent.journal.paths import state_folder
from agent.protocol.models import Protocol
from agent.source.constants import unmarked
from agent.source.encoding import encoded
from agent.system.files import last_lines, read_end

SECONDS = 10.0
# Only commands of the form `uv run SCRIPT.py`, or an interpreter with a script, are imported.
SCRIPT = re.compile(r"(?P<start>uv run|\S*python[\d.]*) (?P<script>[\w./-]+\.py)\s*(?:>.*)?")
# A script imports from its own folder, but `-c` from the current one.
IMPORT = (
    "import os, runpy, sys; sys.path[0] = os.path.dirname(os.path.realpath({script!r})); "
    "runpy.run_path({script!r}, run_name='dry_check')"
)


def why_not(runner: Runner, files: Mapping[str, str], incumbent: str, tick: Callable[[], None]) -> str | None:
    """Return why the candidate would fail at once, in a sentence, or None if no reason is found.

    Args:
        files: path -> text of the files that it may change.
        incumbent: the commit on which it is based.
        tick: called several times a second.
    """
    return fault_of_sources(files) or _fails_by_itself(runner, files, incumbent, tick)


def fault_of_sources(files: Mapping[str, str]) -> str | None:
    """Return why a Python file of a candidate cannot be started, without starting it; None if no reason is found."""
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
                return f"{path} is encoded in {error.encoding}, which cannot represent {error.object[error.start]!r}"
    return None


def program(protocol: Protocol) -> tuple[list[str], str] | None:
    """Return the interpreter and the script of the protocol's command; None for any other kind of command."""
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
                "candidates are not imported before they run, as importing the incumbent in a room fails as well: "
                f"{known[incumbent]}"
            )
    return None if known[incumbent] else f"it fails on import: {failure}"


def _fails_at_import(runner: Runner, files: Mapping[str, str], incumbent: str, tick: Callable[[], None]) -> str | None:
    """Return the last output of the script with `files` on top of the incumbent, or None if importing it succeeds."""
    started = program(runner.protocol)
    if started is None:
        return None
    start, script = started
    # A separate key: the room of a current run or agent must not be removed as a leftover.
    key = state_folder(runner.workspace.folder) / "drycheck"
    with room_of(runner, incumbent, fingerprint.snapshot_folder(runner.protocol), files, key) as place:
        log = place.layout.folder / "log"
        command = shlex.join([*start, "-c", IMPORT.format(script=script)])
        watched = Observer(tick=lambda _: tick())
        try:
            ended = execute(runner, Attempt(place, log), watched, command=command, limit=SECONDS)
            text = read_end(log, LONGEST_LOG).decode(errors="replace")
        except FileNotFoundError:
            if is_lost(place):  # with its log, so that only a run can tell
                return None
            raise
        if not ended.returncode or fault_in(ended.returncode, text):
            return None  # a run repeats what the GPU failed
        said = plain(" | ".join(last_lines(log, 3))) or f"exit code {ended.returncode}"
    require_disk_space(key.parent)
    return said
