"""Plan what changes in a workspace, and write it: nothing is written before every file was read and checked."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agent.errors import AutoresearchError, PreconditionError
from agent.protocol.load import load_protocol
from agent.skill.agents import AGENTS, Agent
from agent.skill.members import Unfit
from agent.skill.parts import Part
from agent.system.files import read_bounded, reason, write_whole
from agent.system.invocation import NAME, program, typed
from agent.system.names import is_gits

LARGEST_FILE = 2**20
Action = Literal["create", "change", "delete", "none"]


@dataclass(frozen=True)
class Change:
    """What happens to one file.

    Attributes:
        part: what is put there or taken away.
        file: the file itself, also if `part.path` is a link to it.
        before: its text; None if it does not exist.
        after: its text afterward; None if it is deleted.
        shared: the other agents that read this file, because a path of theirs or this one is a link.
    """

    part: Part
    file: Path
    before: str | None
    after: str | None
    shared: tuple[Agent, ...] = ()

    @property
    def action(self) -> Action:
        if self.before == self.after:
            return "none"
        return "create" if self.before is None else "delete" if self.after is None else "change"


def plan(folder: Path, parts: Sequence[Part], *, remove: bool = False) -> list[Change]:
    """Return the changes that install parts or remove them.

    Raises:
        PreconditionError: a file is outside the workspace, unreadable, or has something in the way.
    """
    found = []
    for part in parts:
        file, before = _read(folder, part)
        try:
            after = before if remove and before is None else part.take(before or "") if remove else part.put(before)
        except Unfit as fault:
            by_hand = "remove the part by hand" if remove else f"add by hand what `{typed('skill')} NAME` prints"
            raise PreconditionError(
                f"{part.path} {fault}",
                hint=f"fix the file and run the same command again, or {by_hand}",
            ) from None
        if after is None and before is not None and _is_linked(folder / part.path, file):
            after = ""  # without the file, a link of the user would lead to nothing
        found.append(Change(part, file, before, after, _others(folder, part, file)))
    return found


def apply(folder: Path, changes: Sequence[Change]) -> None:
    """Write the changes. Folders that are empty afterward are removed.

    Raises:
        PreconditionError: a file is not as it was planned with, as after an edit during the question. Nothing changes.
    """
    for each in changes:
        if _read(folder, each.part) != (each.file, each.before):
            raise PreconditionError(f"{each.part.path} has changed in the meantime", hint="run the same command again")
    for each in changes:
        if each.action == "none":
            continue
        if each.after is None:
            each.file.unlink()
            _remove_empty(each.file.parent, folder.resolve())
            continue
        each.file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(each.file, each.after)


def describe(folder: Path, agents: Sequence[Agent] = AGENTS) -> list[dict[str, Any]]:
    """Return which agents are on this machine, and what of theirs is installed in this workspace."""
    own = program(folder)
    return [
        {
            "name": agent.name,
            "title": agent.title,
            "program": agent.program(),
            "files": [
                {"path": part.path, "holds": part.holds, "state": _state(folder, part)} for part in agent.parts(own)
            ],
        }
        for agent in agents
    ]


def candidates(folder: Path, parts: Sequence[Part]) -> list[str]:
    """Return the files that a candidate could change, so that `try` would measure them as an edit.

    Raises:
        UsageError: the folder has no valid protocol.json.
    """
    surface = load_protocol(folder).mutable_surface
    return [part.path for part in parts if surface.allows(part.path)]


def strip(folder: Path) -> None:
    """Remove what is installed in a copy of the workspace, so that an agent which proposes there does not follow it."""
    for part in (part for agent in AGENTS for part in agent.parts(NAME)):
        with contextlib.suppress(AutoresearchError, OSError):
            apply(folder, plan(folder, [part], remove=True))


def _read(folder: Path, part: Part) -> tuple[Path, str | None]:
    """Return the file of a part, and its text. A link that stays in the workspace is followed."""
    top = folder.resolve()
    path = folder / part.path
    try:
        file = path.resolve()
        inside = file.relative_to(top).parts
        if any(map(is_gits, inside)) or (path.is_symlink() and not file.exists()):
            raise ValueError
    except (ValueError, RuntimeError, OSError):
        raise PreconditionError(
            f"{part.path} is a link that leads out of the workspace or to nothing", hint="remove the link"
        ) from None
    try:
        return file, read_bounded(file, LARGEST_FILE).decode("utf-8")
    except FileNotFoundError:
        return file, None
    except UnicodeDecodeError:
        raise PreconditionError(f"{part.path} is not UTF-8 text", hint="convert it to UTF-8") from None
    except OSError as error:
        raise PreconditionError(f"cannot read {part.path}: {reason(error)}") from None


def _is_linked(path: Path, file: Path) -> bool:
    """Return whether a path is a link to a file, or another one is in the folder of the file."""
    if path.is_symlink():
        return True
    with contextlib.suppress(OSError, RuntimeError):
        return any(each.is_symlink() and each.resolve() == file for each in file.parent.iterdir())
    return False


def _others(folder: Path, part: Part, file: Path) -> tuple[Agent, ...]:
    """Return the agents that read another path of the workspace which is the same file."""
    found = []
    for agent in AGENTS:
        paths = {each.path for each in agent.parts(NAME)} - {part.path}
        with contextlib.suppress(OSError, RuntimeError):
            if any((folder / path).resolve() == file for path in paths):
                found.append(agent)
    return tuple(found)


def _state(folder: Path, part: Part) -> str:
    try:
        return part.state(_read(folder, part)[1])
    except (AutoresearchError, Unfit):
        return "unreadable"


def _remove_empty(folder: Path, top: Path) -> None:
    with contextlib.suppress(OSError):
        while folder != top:
            folder.rmdir()
            folder = folder.parent
