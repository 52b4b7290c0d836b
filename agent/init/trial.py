"""Run a command for a trial, in a room and under limits like those of the loop."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.errors import AutoresearchError, ExperimentError
from agent.execution.measure import Attempt, Runner, execute, read, require_success
from agent.execution.process import Observer
from agent.execution.setup import furniture, lines, run
from agent.format import one_line
from agent.protocol.models import Protocol
from agent.repository.workspace import Workspace
from agent.room import variables
from agent.room.room import Furniture, Room, UntrackedFiles, furnish, make_parts, untracked_files
from agent.room.sandbox import Sandbox, temporary_folder
from agent.system.files import last_lines

TOLD_EVERY = 15.0
LARGEST_JSON, MOST_FILES = 2**20, 100_000
LEFT_BEHIND = {"__pycache__", "build", "dist", "results.tsv", "run.log", "protocol.json"}
NO_NETWORK = (
    "Temporary failure in name resolution",
    "Name or service not known",
    "nodename nor servname provided",
    "Network is unreachable",
    "Failed to establish a new connection",
)


@dataclass(frozen=True)
class Trial:
    """The result of a run.

    Attributes:
        seconds: duration.
        text: the log.
        since: Unix time at which it started.
        files: content of the JSON files that it wrote, by path relative to the workspace.
    """

    seconds: float
    text: str
    since: float
    files: dict[str, str]


@dataclass(frozen=True)
class Stage:
    """The room in which `init` runs setup commands and then the command.

    Attributes:
        since: Unix time at which the copy of the workspace was complete.
        folder: the copy of the workspace.
    """

    runner: Runner
    room: Room
    since: float

    @property
    def folder(self) -> Path:
        return self.room.workspace

    @property
    def log(self) -> Path:
        return self.room.layout.folder / "log"


@contextlib.contextmanager
def stage_of(workspace: Workspace, protocol: Protocol, sandbox: Sandbox) -> Iterator[Stage]:
    """Open a room with the committed files and read-only access to untracked ones."""
    runner = Runner(protocol, workspace, None, sandbox)
    untracked = untracked_files(workspace)
    names = tuple(name for name in untracked.names if LEFT_BEHIND.isdisjoint(Path(name).parts))
    with temporary_folder(workspace.folder / "init") as base:
        make_parts(base)
        workspace.export(base / "tree", workspace.head)
        contents = _furniture(UntrackedFiles(names))
        place = furnish(sandbox, base, base / "tree", workspace.top, workspace.folder, contents)
        yield Stage(runner, place, time.time())


def _furniture(untracked: UntrackedFiles) -> Furniture:
    more = furniture()
    variables = {**more.variables, "PYTHONUNBUFFERED": "1"}
    return dataclasses.replace(more, kind="setup", untracked=untracked, variables=variables)


def prepare(stage: Stage, protocol: Protocol, say: Callable[[str], None]) -> None:
    """Run the setup commands in the room.

    Raises:
        AutoresearchError: a command failed; the message names it.
    """
    with_network = dataclasses.replace(stage.room, sandbox=dataclasses.replace(stage.room.sandbox, network=True))
    for command in lines(protocol):
        say(f"setting up: {command}")
        run(with_network, command)


def attempt(stage: Stage, protocol: Protocol, budget: float | None, *, network: bool) -> Trial:
    """Run the command once.

    Args:
        stage: the room.
        protocol: holds the command.
        budget: seconds of training that are passed to the command, None for its default.
        network: whether the command gets network access.

    Raises:
        ExperimentError: the command failed.
    """
    sandbox = dataclasses.replace(stage.room.sandbox, network=network or stage.room.sandbox.network)
    runner = dataclasses.replace(stage.runner, protocol=protocol, training_seconds=budget)
    since = time.time()
    seen = dict(stage.room.environment)
    if sandbox.hide:
        seen = variables.without_secrets(seen)
    if len(seen) < len(stage.room.environment):
        seen["UV_NO_SYNC"] = "1"  # as in a run: without its index uv cannot even check what setup has installed
    place = dataclasses.replace(stage.room, sandbox=sandbox, environment=seen)
    ended = execute(runner, Attempt(place, stage.log), Observer(tick=_telling(stage.log)))
    text = stage.log.read_text(errors="replace")
    require_success(ended, text)
    return Trial(ended.seconds, text, since, _written(stage, since))


def again(stage: Stage, protocol: Protocol, budget: float | None) -> float:
    """Repeat the run and return its metric, extracted like in the loop.

    Raises:
        AutoresearchError: the run failed or gave no metric.
    """
    try:
        ran = attempt(stage, protocol, budget, network=protocol.environment.constraints.network_policy == "full")
        return read(stage.room, protocol, protocol.metric, ran.text, ran.since)
    except ExperimentError as error:
        raise AutoresearchError(
            f"the second run of `{protocol.execution.command}` failed, unlike the first: {error}",
            hint="make sure that the command succeeds every time, or name another one with --command",
        ) from None


def changed_tracked(workspace: Workspace, stage: Stage, since: float) -> list[str]:
    """Return the tracked files that were changed after the Unix time `since`, relative to the workspace."""
    found = []
    for name in _listed(stage.folder):
        path = stage.folder / name
        with contextlib.suppress(OSError):
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_mtime < since or not workspace.is_tracked(name):
                continue
            before = workspace.show(workspace.head, name)
            if before is not None and before.encode(errors="surrogateescape") != path.read_bytes():
                found.append(name)
    return sorted(found)


def tail(stage: Stage, count: int) -> list[str]:
    """Return the last lines of the log of `attempt`, which is deleted with the room."""
    return last_lines(stage.log, count)


def wants_network(stage: Stage) -> bool:
    said = "\n".join(tail(stage, 60))
    return any(sign in said for sign in NO_NETWORK)


def _telling(log: Path) -> Callable[[float], None]:
    """Return a callback that prints the last line of the log every TOLD_EVERY seconds."""
    due = TOLD_EVERY

    def tick(seconds: float) -> None:
        nonlocal due
        if seconds >= due:
            due += TOLD_EVERY
            print(f"  {seconds:.0f} s  {one_line(''.join(last_lines(log)))[:100]}", file=sys.stderr, flush=True)

    return tick


def _written(stage: Stage, since: float) -> dict[str, str]:
    """Return path -> text of the JSON files that this run wrote to the copy of the workspace."""
    found = {}
    for name in _listed(stage.folder):
        path = stage.folder / name
        with contextlib.suppress(OSError, UnicodeDecodeError):
            status = path.lstat()
            plain = stat.S_ISREG(status.st_mode) and status.st_size < LARGEST_JSON
            if path.suffix in (".json", ".jsonl") and plain and status.st_mtime >= since:
                found[name] = path.read_text()
    return found


def _listed(folder: Path) -> list[str]:
    """Return the files below `folder`, relative to it, without hidden folders."""
    found: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [(Path(parent) / name).relative_to(folder).as_posix() for name in names]
        if len(found) > MOST_FILES:
            break
    return found
