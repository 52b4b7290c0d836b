"""Proposals on disk: written whole, before the journal announces them, because a proposal may have cost money."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from agent.errors import AutoresearchError, fault
from agent.format import one_line
from agent.journal.experiment import Proposal, digest
from agent.journal.flight import Candidate
from agent.journal.journal import Journal
from agent.journal.paths import experiment_folder
from agent.system.files import read_bounded, write_whole

LARGEST_FILE = 64 * 2**20
# 0 for the original proposal, then 1, 2, ... for its revisions and repairs. One that was made ahead has a file of its
# own, because an edit made by hand may take its number.
Revision = int | Literal["ahead"]


def write(journal: Path, number: int, revision: Revision, proposal: Proposal) -> None:
    """Save a proposal.

    Raises:
        AutoresearchError: it cannot be written.
    """
    content = {name: value for name, value in dataclasses.asdict(proposal).items() if name not in ("playbook", "parts")}
    save(_path(journal, number, revision), content | unknown_before(proposal))


def announce(journal: Journal, number: int, proposal: Proposal, files: Mapping[str, str], proposer: str) -> None:
    """Save a proposal, then journal it as the next experiment.

    Args:
        files: all mutable files of the candidate.
        proposer: who made it, if the proposal does not say so.
    """
    write(journal.path, number, 0, proposal)
    journal.append("proposed", number=number, **described(proposal, files, proposer))


def described(proposal: Proposal, files: Mapping[str, str], proposer: str) -> dict[str, Any]:
    """Return the fields of the event that announces a proposal; the arguments are those of `announce`."""
    return {
        "proposer": proposal.proposer or proposer,
        "description": one_line(proposal.description),
        "reasoning": proposal.reasoning,
        "parameters": dict(proposal.parameters),
        "digest": digest(files),
        "files": sorted(proposal.files),
        "expected": proposal.expected,
        **unknown_before(proposal),
    }


def unknown_before(of: Proposal | Candidate) -> dict[str, Any]:
    """Return the fields that earlier versions cannot read, if there is something in them."""
    found = {"playbook": of.playbook, "parts": list(of.parts)}
    return {name: value for name, value in found.items() if value}


def save(path: Path, content: object) -> None:
    """Write JSON durably: it survives a power loss once this returns.

    Raises:
        AutoresearchError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(content))
    except OSError as error:
        raise AutoresearchError(
            f"cannot write {path}: {error.strerror}",
            hint="free disk space or restore write permission, then run the same command again",
        ) from None


def read(journal: Path, number: int, revision: Revision) -> Proposal:
    """Read a proposal.

    Raises:
        AutoresearchError: it is missing or damaged.
    """
    path = _path(journal, number, revision)
    try:
        content = json.loads(read_bounded(path, LARGEST_FILE))
        proposal = Proposal(**{**content, "parts": tuple(content.get("parts", ()))})
        if not all(isinstance(each, str) for pair in dict(proposal.files).items() for each in pair):
            raise ValueError
        if not all(isinstance(each, int) for each in proposal.parts):
            raise ValueError
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise AutoresearchError(
            f"cannot read the proposal {path}: {fault(error)}",
            hint="restore the file, or start a session with another --tag",
        ) from None
    return proposal


def _path(journal: Path, number: int, revision: Revision) -> Path:
    return experiment_folder(journal, number) / (f"proposal-{revision}.json" if revision else "proposal.json")
