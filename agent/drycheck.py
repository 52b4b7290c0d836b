"""Whether a candidate would start at all: asked before a run costs minutes.

Each changed Python file must compile; the script that the protocol's command runs is also imported, in a copy of the
workspace and in the sandbox, without running its main part. What goes on beyond a few seconds has started.
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from agent import runner
from agent.edits import unmarked
from agent.measure import Bench, last_lines

SECONDS = 10.0
# uv run SCRIPT.py, or an interpreter and a script: anything else is not imported.
SCRIPT = re.compile(r"(?P<start>uv run|\S*python[\d.]*) (?P<script>[\w./-]+\.py)\s*(?:>.*)?")
IMPORT = "import runpy, sys; sys.path.insert(0, ''); runpy.run_path({script!r}, run_name='dry_check')"


def why_not(bench: Bench, files: Mapping[str, str], tick: Callable[[], None]) -> str | None:
    """Why the candidate would fail at once, in a sentence; None where nothing speaks against it."""
    for path, text in files.items():
        if path.endswith(".py"):
            try:
                compile(unmarked(text), path, "exec", dont_inherit=True)
            except (SyntaxError, ValueError) as error:
                return f"{path} does not compile: {error}"
            except (RecursionError, MemoryError):
                return f"{path} does not compile: it is nested too deeply"
    return _fails_at_import(bench, files, tick)


def _fails_at_import(bench: Bench, files: Mapping[str, str], tick: Callable[[], None]) -> str | None:
    script = SCRIPT.fullmatch(bench.protocol.execution.command)
    if script is None:
        return None
    with tempfile.TemporaryDirectory(prefix="autoresearch-dry-") as name:
        folder = bench.workspace.export(Path(name) / "copy")
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8", newline="")
        start = shlex.split(script["start"])
        if start[0] == "uv":
            start = ["uv", "run", "--no-sync", "--project", str(bench.workspace.folder), "python"]
        command = shlex.join([*start, "-c", IMPORT.format(script=script["script"])])
        log = Path(name) / "log"
        temporary = Path(name) / "temporary"
        temporary.mkdir()
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
        return "it fails while it is imported: " + " | ".join(last_lines(log, 3))
