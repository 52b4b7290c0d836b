"""Write an agent's edits to the working tree, and take them out again if they cannot be measured."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath

from agent.errors import PreconditionError, UsageError
from agent.format import one_line
from agent.journal.journal import fold
from agent.journal.paths import find_session, journal_path
from agent.proposers.model.blocks import apply, like
from agent.proposers.model.placing import UnusableEdit
from agent.protocol.load import load_protocol
from agent.repository.edit import LARGEST_FILE, in_checkout
from agent.repository.workspace import Workspace
from agent.source.encoding import decoded, encoded
from agent.system.files import read_bounded, reason, write_whole
from agent.system.names import fault_of_path, linked_part

MOST_FILES = 20
LONGEST_BLOCKS = 2**20


@contextlib.contextmanager
def written(folder: Path, tag: str | None, files: Mapping[str, str], blocks: str) -> Iterator[None]:
    """Write edits to the working tree. If the body raises an error, put back what was there.

    Args:
        folder: the workspace.
        tag: the session that the edits belong to; None for the most recent one.
        files: path -> the complete new text of a file.
        blocks: search and replace blocks, which edit those texts, and the other files as they are in the working tree.

    Raises:
        UsageError: a file may not be changed, or a block does not fit.
        PreconditionError: a complete text would replace changes that git does not have.
    """
    if len(files) > MOST_FILES or len(blocks) > LONGEST_BLOCKS:
        raise UsageError(
            f"too many edits: at most {MOST_FILES} files and {LONGEST_BLOCKS // 2**20} MiB of blocks",
            hint="change less at a time, or edit the files in the working tree",
        )
    workspace = Workspace(folder, load_protocol(folder))
    safe = [workspace.head, *_incumbents(folder, tag)]
    unsaved = set.intersection(*({*in_checkout(workspace, commit).files} for commit in safe))
    for path in files:
        if path in unsaved:
            raise PreconditionError(
                f"{one_line(path)} has changes that no experiment has, and the new text would replace them",
                hint="measure them first with start_experiment without edits, or send search and replace blocks",
            )
    for path in files:
        _require_allowed(workspace, safe, path)
        _require_room(workspace.folder, path, files)
    files = {path: _like_present(workspace.folder / path, text) for path, text in files.items()}
    texts = {**files, **(_replaced(workspace, safe, files, blocks) if blocks.strip() else {})}
    for path in {*texts} - {*files}:
        _require_allowed(workspace, safe, path)
    new = {path: _content(path, text) for path, text in texts.items()}
    before = {path: _present(folder / path) for path in new}
    created = {parent for path in new for parent in (folder / path).parents if not parent.exists()}
    try:
        for path, content in new.items():
            _write(folder, path, content)
        yield
    except BaseException:
        _put_back(folder, before, new)
        for each in sorted(created, reverse=True):  # those inside first
            with contextlib.suppress(OSError):
                each.rmdir()
        raise


def _incumbents(folder: Path, tag: str | None) -> list[str]:
    """Return the best commit of the session; empty if it has not begun."""
    try:
        state = fold(journal_path(folder, find_session(folder, tag)))
    except PreconditionError:
        return []
    return [state.incumbent.commit] if state.incumbent and state.incumbent.commit else []


def _like_present(file: Path, text: str) -> str:
    """Return a text with the byte order mark and the line ends of the file that it replaces."""
    content = _present(file)
    with contextlib.suppress(UnicodeDecodeError):
        return text if content is None else like(decoded(file.name, content), text.replace("\r\n", "\n"))
    return text


def _replaced(workspace: Workspace, commits: list[str], files: Mapping[str, str], blocks: str) -> dict[str, str]:
    names = {path for commit in commits for path in workspace.files(commit)}
    names |= {path for commit in commits for path in in_checkout(workspace, commit).files}
    now = {}
    for path in sorted(names):
        content = None if linked_part(workspace.folder, path) else _present(workspace.folder / path)
        if content is not None:
            now[path] = decoded(path, content)
    now |= files
    try:
        return apply(blocks, now, lambda path: path in now)
    except UnusableEdit as error:
        raise UsageError(f"the edits cannot be applied: {one_line(str(error))}", hint="read the file again") from None


def _require_allowed(workspace: Workspace, commits: list[str], path: str) -> None:
    """Raise UsageError if a candidate may not change a file."""
    allowed = ", ".join(workspace.protocol.mutable_surface.allowed_globs)
    hint = f"change only files that match {allowed}"
    shown = one_line(path)[:200]
    fault = fault_of_path(path) or ("" if Path(path).as_posix() == path else "is not the shortest form of a path")
    if fault:
        raise UsageError(f"the path {shown!r} {fault}", hint="give the path of a file, relative to the workspace")
    if linked_part(workspace.folder, path) is not None:
        raise UsageError(f"{shown} is a link or behind one", hint=hint)
    known = any(path in workspace.files(commit) for commit in commits)
    refusal = workspace.refusal(commits[-1], [path])
    if refusal and not known:
        raise UsageError(f"the edit {one_line(refusal)}", hint=hint)
    if (workspace.folder / path).is_dir():
        raise UsageError(f"{shown} is a folder", hint="choose another name")
    if not known and os.path.lexists(workspace.folder / path):
        raise UsageError(f"{shown} exists, and git does not have it", hint="choose another name, or commit it")


def _require_room(folder: Path, path: str, files: Collection[str]) -> None:
    """Raise UsageError if a file is in the place of a folder above another.

    Args:
        files: those of the edit.
    """
    shown = one_line(path)[:200]
    for parent in map(str, PurePosixPath(path).parents):
        if parent in files or (os.path.lexists(folder / parent) and not (folder / parent).is_dir()):
            raise UsageError(
                f"{shown} cannot be created: {one_line(parent)[:200]} is a file", hint="choose another folder"
            )


def _content(path: str, text: str) -> bytes:
    """Return the new content of a file. Raises UsageError if the text cannot be stored."""
    shown = one_line(path)[:200]
    try:
        content = encoded(path, text)
    except UnicodeError:
        raise UsageError(f"{shown} lacks a character in its encoding", hint="use another one") from None
    if len(content) > LARGEST_FILE or "\0" in text:
        raise UsageError(f"{shown} is not text of at most {LARGEST_FILE // 2**20} MiB", hint="make it smaller")
    return content


def _present(path: Path) -> bytes | None:
    return read_bounded(path, LARGEST_FILE) if os.path.lexists(path) else None


def _write(folder: Path, path: str, content: bytes) -> None:
    try:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(folder / path, content)
    except OSError as error:
        raise PreconditionError(f"cannot write {one_line(path)[:200]}: {reason(error)}") from None


def _put_back(folder: Path, before: Mapping[str, bytes | None], new: Mapping[str, bytes]) -> None:
    """Restore each file that still has the content that was written to it."""
    for path, content in before.items():
        with contextlib.suppress(OSError):
            if _present(folder / path) != new[path]:
                continue
            if content is None:
                (folder / path).unlink()
            else:
                write_whole(folder / path, content)
