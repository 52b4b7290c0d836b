"""The workspace, opened for one process alone, with what its runs need."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from agent import lock, protocol
from agent.errors import PreconditionError
from agent.measure import Bench
from agent.paths import state_folder
from agent.sandbox import Mode, choose
from agent.setup import set_up
from agent.workspace import Workspace


@contextlib.contextmanager
def open_bench(folder: Path, tag: str, training_seconds: float | None, sandbox: Mode) -> Iterator[Bench]:
    """The workspace, held for this process alone."""
    rules = protocol.load(folder)
    protocol.require_runnable(rules)
    workspace = Workspace(folder, rules)
    try:
        confined = choose(sandbox, rules.environment.constraints)
        with lock.hold(state_folder(workspace.folder), tag):
            workspace.exclude([".autoresearch/", "run.log"])
            yield Bench(rules, workspace, training_seconds or rules.training_seconds, confined)
    finally:
        workspace.close()


def prepare(bench: Bench, *, setup: bool) -> None:
    """The protocol's set-up commands, if they are due and wanted. Raises PreconditionError without a lock file."""
    folder = bench.workspace.folder
    if setup:
        set_up(bench.protocol, folder, state_folder(folder), lambda line: print(line, file=sys.stderr, flush=True))
    # `uv run` writes a missing uv.lock, and a run that writes a forbidden file is void.
    lock_file = folder / "uv.lock"
    forbidden = lock_file in bench.workspace.protected_files()
    if forbidden and not lock_file.exists() and bench.protocol.execution.command.startswith("uv run"):
        raise PreconditionError(f"{lock_file} is missing: run `uv sync`, or start without --no-setup")
