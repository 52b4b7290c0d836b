"""Run a command for a trial, in a room and under limits like those of the loop."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
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
JSON = (".json", ".jsonl")
LEFT_BEHIND = {"__pycache__", "build", "dist", "results.tsv", "run.log", "protocol.json"}
RANDOM_NAME = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-")
TIMES = ("%Y%m%d", "%d%m%Y", "%m%d%Y", "%y%m%d", "%H%M%S")  # as the digits of a name give the time of a run
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
        dated: those of them whose path is another one in each run.
        rewritten: untracked files of the user that it wrote anew, relative to the workspace.
    """

    seconds: float
    text: str
    before: Mapping[str, Stamp]
    files: dict[str, str]
    dated: dict[str, str]
    rewritten: list[str]


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
def stage_of(workspace: Workspace, protocol: Protocol, sandbox: Sandbox, purpose: str = "init") -> Iterator[Stage]:
    """Open a room with the committed files and read-only access to untracked ones.

    Args:
        purpose: a word for the room. Two that are open at once have different ones.
    """
    runner = Runner(protocol, workspace, None, sandbox)
    untracked = untracked_files(workspace)
    names = tuple(name for name in untracked.names if LEFT_BEHIND.isdisjoint(Path(name).parts))
    with temporary_folder(workspace.folder / purpose) as base:
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
    before, began = _stamps(stage.folder), time.time()
    seen = dict(stage.room.environment)
    if sandbox.hide:
        seen = variables.without_secrets(seen)
    if len(seen) < len(stage.room.environment):
        seen["UV_NO_SYNC"] = "1"  # as in a run: without its index uv cannot even check what setup has installed
    place = dataclasses.replace(stage.room, sandbox=sandbox, environment=seen)
    ended = execute(runner, Attempt(place, stage.log), Observer(tick=_telling(stage.log)))
    text = stage.log.read_text(errors="replace")
    require_success(ended, text)
    written = _written(stage, before)
    dated = {name: written.pop(name) for name in _dated(written, began)}
    return Trial(ended.seconds, text, before, written, dated, _rewritten(stage))


def again(stage: Stage, protocol: Protocol, budget: float | None) -> float:
    """Repeat the run, in a room of its own like in the loop, and return its metric, extracted like there.

    Raises:
        AutoresearchError: the run failed or gave no metric.
    """
    path = protocol.metric.extract.path
    try:
        ran = attempt(stage, protocol, budget, network=protocol.environment.constraints.network_policy == "full")
        if path is not None and path.endswith(JSON) and path not in ran.files:
            raise AutoresearchError(
                f"`{protocol.execution.command}` wrote {path} in its first run and not in its second",
                hint=f"print {protocol.metric.name}, or write it to a path that is the same in each run",
            )
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
    places = {name: stage.folder / name for name in _listed(stage.folder)} | _in_layers(stage)
    for name, path in places.items():
        with contextlib.suppress(OSError, UnicodeDecodeError):
            status = path.lstat()
            plain = stat.S_ISREG(status.st_mode) and status.st_size < LARGEST_JSON
            if path.suffix in JSON and plain and stamp(path) != before.get(name):
                found[name] = path.read_text()
    return found


def _rewritten(stage: Stage) -> list[str]:
    """Return the untracked files of the user that changed in the room since it was complete."""
    workspace, layers = stage.runner.workspace, _in_layers(stage)
    changed = [name for name, known in stage.before.items() if stamp(stage.folder / name) not in (known, None)]
    changed += [name for name in layers if (workspace.folder / name).is_file()]
    tools = [name for name in changed if any(part in LEFT_BEHIND or part[0] == "." for part in Path(name).parts)]
    return sorted(name for name in {*changed} - {*tools} if not workspace.is_tracked(name))


def _in_layers(stage: Stage) -> dict[str, Path]:
    """Return the files written to untracked folders that the room shows copy-on-write, by path in the workspace."""
    found: dict[str, Path] = {}
    for shown in stage.room.layout.shown:
        if shown.kind == "cow" and shown.target.is_relative_to(stage.room.inside):
            within = shown.target.relative_to(stage.room.inside)
            for upper in [place / shown.layer / "upper" for place in stage.room.layout.scratch]:
                found |= {(within / name).as_posix(): upper / name for name in _listed(upper)}
    return found


def _dated(names: Iterable[str], began: float) -> set[str]:
    """Return the paths with the time of their run, or with a random name: they are others in the next run."""
    times = set()
    for second in range(int(began) - 1, int(time.time()) + 2):
        for zone in (time.localtime, time.gmtime):
            at = zone(second)
            times |= {time.strftime(form, at) for form in TIMES}
        times.add(str(second))

    def has_time(part: str) -> bool:
        digits = re.sub(r"\D", "", part)
        return any(each in digits for each in times)

    return {name for name in names if RANDOM_NAME.search(name) or any(map(has_time, Path(name).parts))}


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
