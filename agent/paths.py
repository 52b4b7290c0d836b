"""Where the program keeps what it knows: `.autoresearch/` in the workspace, ignored by git."""

from __future__ import annotations

from pathlib import Path

from agent.errors import PreconditionError


def state_folder(workspace: Path) -> Path:
    return workspace / ".autoresearch"


def journal_path(workspace: Path, tag: str) -> Path:
    return state_folder(workspace) / "sessions" / tag / "journal.jsonl"


def experiment_folder(journal: Path, number: int) -> Path:
    return journal.parent / "experiments" / f"{number:04d}"


def stop_file(journal: Path) -> Path:
    """Its existence asks the session's loop to end after the experiment under way."""
    return journal.with_name("stop")


def find_session(workspace: Path, tag: str | None) -> str:
    """The tag that is meant: the one named, or the session that was last worked on. Raises PreconditionError."""
    journals = sorted(
        (state_folder(workspace) / "sessions").glob("*/journal.jsonl"), key=lambda path: path.stat().st_mtime
    )
    tags = [path.parent.name for path in journals]
    if not tags:
        raise PreconditionError(f"there is no session in {workspace} yet: start one with `autoresearch run --tag NAME`")
    if tag is None:
        return tags[-1]
    if tag not in tags:
        raise PreconditionError(f"there is no session {tag} in {workspace}; there is {', '.join(sorted(tags))}")
    return tag
