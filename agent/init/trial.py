"""Run a command for a trial, in a room and under limits like those of the loop."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.errors import AutoresearchError, ExperimentError
from agent.execution.measure import Attempt, Runner, execute, read, require_success
from agent.execution.process import Observer
from agent.execution.setup import furniture, lines, run
from agent.format import one_line
from agent.protocol.extract import Stamp, stamp
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
        before: stamps of the files of the copy before it, by path relative to the workspace.
        files: content of the JSON files that it wrote, by path relative to the workspace.
    """

    seconds: float
    text: str
    before: Mapping[str, Stamp]
    files: dict[str, str]


@dataclass(frozen=True)
class Stage:
    """The room in which `init` runs setup commands and then the command.

    Attributes:
        before: stamps of the files of the copy when it was complete, by path relative to the workspace.
        folder: the copy of the workspace.
    """

    runner: Runner
    room: Room
    before: Mapping[str, Stamp]

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
        contents = _furniture(dataclasses.replace(untracked, names=names))
        place = furnish(sandbox, base, base / "tree", workspace.top, workspace.folder, contents)
        yield Stage(runner, place, _stamps(place.workspace))


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
    before = _stamps(stage.folder)
    seen = dict(stage.room.environment)
    if sandbox.hide:
        seen = variables.without_secrets(seen)
    if len(seen) < len(stage.room.environment):
        seen["UV_NO_SYNC"] = "1"  # as in a run: without its index uv cannot even check what setup has installed
    place = dataclasses.replace(stage.room, sandbox=sandbox, environment=seen)
    ended = execute(runner, Attempt(place, stage.log), Observer(tick=_telling(stage.log)))
    text = stage.log.read_text(errors="replace")
    require_success(ended, text)
    return Trial(ended.seconds, text, before, _written(stage, before))


def again(stage: Stage, protocol: Protocol, budget: float | None) -> float:
    """Repeat the run and return its metric, extracted like in the loop.

    Raises:
        AutoresearchError: the run failed or gave no metric.
    """
    try:
        ran = attempt(stage, protocol, budget, network=protocol.environment.constraints.network_policy == "full")
        return read(stage.room, protocol, protocol.metric, ran.text, ran.before)
    except ExperimentError as error:
        raise AutoresearchError(
            f"the second run of `{protocol.execution.command}` failed, unlike the first: {error}",
            hint="make sure that the command succeeds every time, or name another one with --command",
        ) from None


def changed_tracked(workspace: Workspace, stage: Stage) -> list[str]:
    """Return the tracked files that were changed since the stage was complete, relative to the workspace."""
    found = []
    for name in _listed(stage.folder):
        path = stage.folder / name
        with contextlib.suppress(OSError):
            status = path.lstat()
            same = stamp(path) == stage.before.get(name)
            if not stat.S_ISREG(status.st_mode) or same or not workspace.is_tracked(name):
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


def _written(stage: Stage, before: Mapping[str, Stamp]) -> dict[str, str]:
    """Return path -> text of the JSON files that this run wrote to the copy of the workspace."""
    found = {}
    for name in _listed(stage.folder):
        path = stage.folder / name
        with contextlib.suppress(OSError, UnicodeDecodeError):
            status = path.lstat()
            plain = stat.S_ISREG(status.st_mode) and status.st_size < LARGEST_JSON
            if path.suffix in (".json", ".jsonl") and plain and stamp(path) != before.get(name):
                found[name] = path.read_text()
    return found


def _stamps(folder: Path) -> dict[str, Stamp]:
    found = {name: stamp(folder / name) for name in _listed(folder)}
    return {name: known for name, known in found.items() if known is not None}


def _listed(folder: Path) -> list[str]:
    """Return the files below `folder`, relative to it, without hidden folders."""
    found: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [(Path(parent) / name).relative_to(folder).as_posix() for name in names]
        if len(found) > MOST_FILES:
            break
    return found
