"""Edits made by hand, on disk: what `try` has accepted, from then until the working tree is brought up to its verdict.

An edit is written before anything slow begins. The next start of the session measures it, whether that is `try` or
`run`, so that a killed process loses nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import AutoresearchError, fault
from agent.journal.paths import experiment_folder
from agent.journal.proposals import LARGEST_FILE, save
from agent.system.files import read_bounded

NAME = "edit.json"


@dataclass(frozen=True)
class Edit:
    """An edit of the mutable files, made by a person or by an agent that works in the checkout.

    Attributes:
        files: path relative to the workspace -> the complete new text.
        commit: full hash of a commit with these files; the candidate's own commit may be another.
        left_alone: other changed files, which are no part of it.
        notes: what its author should know.
        in_checkout: whether the working tree had these files, and not only commits on the session's branch.
        restored: the files that were put back to the incumbent after the verdict; None until the working tree is
            brought up to the verdict.
        newer: the files that were left as they are, because they were edited in the meantime.
    """

    files: Mapping[str, str]
    description: str
    reasoning: str
    commit: str
    left_alone: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    in_checkout: bool = True
    restored: tuple[str, ...] | None = None
    newer: tuple[str, ...] = ()

    @property
    def settled(self) -> bool:
        return self.restored is not None


def write(journal: Path, number: int, edit: Edit) -> None:
    """Save an edit as experiment `number` of a session.

    Raises:
        AutoresearchError: it cannot be written.
    """
    save(_path(journal, number), dataclasses.asdict(edit))


def read(journal: Path, number: int) -> Edit | None:
    """Return the edit that is experiment `number`, or None if the experiment is another proposal.

    Raises:
        AutoresearchError: the file is damaged.
    """
    path = _path(journal, number)
    try:
        return _edit(json.loads(read_bounded(path, LARGEST_FILE)))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise AutoresearchError(
            f"cannot read the edit {path}: {fault(error)}",
            hint="restore the file, or delete it if the edit is not needed",
        ) from None


def drop(journal: Path, number: int) -> None:
    _path(journal, number).unlink(missing_ok=True)


def unsettled(journal: Path) -> dict[int, Edit]:
    """Return number -> edit of those that are waiting, in progress, or measured but not settled, in order."""
    found = {number: read(journal, number) for number in _numbers(journal)}
    return {number: edit for number, edit in found.items() if edit is not None and not edit.settled}


def files(journal: Path) -> set[str]:
    """Return the paths of all files of the session's edits that can be read. The working tree may still have them."""
    found = set[str]()
    for number in _numbers(journal):
        with contextlib.suppress(AutoresearchError):
            edit = read(journal, number)
            found |= {*edit.files} if edit is not None else set()
    return found


def _numbers(journal: Path) -> list[int]:
    names = (path.parent.name for path in journal.parent.glob(f"experiments/[0-9]*/{NAME}"))
    return sorted(int(name) for name in names if name.isdecimal())


def _edit(content: dict[str, Any]) -> Edit:
    restored = content["restored"]
    edit = Edit(
        files=dict(content["files"]),
        description=content["description"],
        reasoning=content["reasoning"],
        commit=content["commit"],
        left_alone=tuple(map(str, content["left_alone"])),
        notes=tuple(map(str, content["notes"])),
        in_checkout=bool(content["in_checkout"]),
        restored=None if restored is None else tuple(map(str, restored)),
        newer=tuple(map(str, content["newer"])),
    )
    texts = (*edit.files, *edit.files.values(), edit.description, edit.reasoning, edit.commit)
    if not all(isinstance(each, str) for each in texts):
        raise ValueError("a text is missing")
    return edit


def _path(journal: Path, number: int) -> Path:
    return experiment_folder(journal, number) / NAME
