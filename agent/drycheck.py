"""Whether a candidate would start at all: asked before a run costs minutes.

Each changed Python file must compile; the script that the protocol's command runs is also imported, in a copy of what
git tracks and in the sandbox, without running its main part. What goes on beyond a few seconds has started. Only what
the candidate breaks counts: where the copy lacks something that the script wants, the incumbent fails in it as well.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

from agent import runner
from agent.edits import unmarked
from agent.measure import Bench, last_lines
from agent.paths import state_folder
from agent.proposers.notes import plain
from agent.protocol import Protocol
from agent.sandbox import temporary_folder

SECONDS = 10.0
# uv run SCRIPT.py, or an interpreter and a script: anything else is not imported.
SCRIPT = re.compile(r"(?P<start>uv run|\S*python[\d.]*) (?P<script>[\w./-]+\.py)\s*(?:>.*)?")
# A script finds the modules of its own folder, `-c` those of the current one.
IMPORT = (
    "import os, runpy, sys; sys.path[0] = os.path.dirname(os.path.realpath({script!r})); "
    "runpy.run_path({script!r}, run_name='dry_check')"
)


def why_not(bench: Bench, files: Mapping[str, str], incumbent: str, tick: Callable[[], None]) -> str | None:
    """Why the candidate would fail at once, in a sentence; None where nothing speaks against it.

    incumbent: the commit whose files HEAD has.
    """
    for path, text in files.items():
        if path.endswith(".py"):
            try:
                compile(unmarked(text), path, "exec", dont_inherit=True)
            except (SyntaxError, ValueError) as error:
                return f"{path} does not compile: {error}"
            except (RecursionError, MemoryError):
                return f"{path} does not compile: it is nested too deeply"
    return _fails_by_itself(bench, files, incumbent, tick)


def program(rules: Protocol, workspace: Path) -> tuple[list[str], str] | None:
    """What runs the protocol's script in a copy of the workspace, and the script; None for any other command.

    The environment is the workspace's own: uv would make the copy another one, and git does not track it.
    """
    found = SCRIPT.fullmatch(rules.execution.command)
    if found is None:
        return None
    start = shlex.split(found["start"])
    if start[0] == "uv":
        start = ["uv", "run", "--no-sync", "--project", str(workspace), "python"]
    elif "/" in start[0]:
        start = [str(workspace / rules.execution.cwd / start[0])]
    return start, found["script"]


def _fails_by_itself(bench: Bench, files: Mapping[str, str], incumbent: str, tick: Callable[[], None]) -> str | None:
    known = bench.imports
    failure = None if known.get(incumbent) else _fails_at_import(bench, files, tick)
    if failure is None:
        return None
    if incumbent not in known:
        off = any(known.values())
        known[incumbent] = _fails_at_import(bench, {}, tick)
        if known[incumbent] and not off:
            bench.say(
                "candidates are not imported before they run: in a copy of what git tracks the incumbent fails as well "
                f"({known[incumbent]})"
            )
    return None if known[incumbent] else f"it fails while it is imported: {failure}"


def _fails_at_import(bench: Bench, files: Mapping[str, str], tick: Callable[[], None]) -> str | None:
    """The last words of the script with `files` on top of what HEAD has; None where it does not fail."""
    started = program(bench.protocol, bench.workspace.folder)
    if started is None:
        return None
    start, script = started
    # A key of its own: what a run or an agent is at work in is nothing left over.
    with temporary_folder(state_folder(bench.workspace.folder) / "drycheck") as name:
        folder = bench.workspace.export(Path(name) / "copy")
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8", newline="")
        log = Path(name) / "log"
        temporary = Path(name) / "temporary"
        temporary.mkdir()
        command = shlex.join([*start, "-c", IMPORT.format(script=script)])
        ended = runner.run(
            bench.sandbox.command(command, folder, temporary, [bench.workspace.folder]),
            cwd=folder / bench.protocol.execution.cwd,
            log=log,
            limit=SECONDS,
            env=bench.sandbox.environment({**os.environ, "PYTHONUNBUFFERED": "1"}, temporary),
            started=lambda _: None,
            tick=lambda _: tick(),
        )
        if not ended.returncode:
            return None
        return plain(" | ".join(last_lines(log, 3))) or f"exit code {ended.returncode}"
