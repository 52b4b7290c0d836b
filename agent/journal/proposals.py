"""Proposals on disk: written whole, before the journal announces them, because a proposal may have cost money."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from agent.errors import AutoresearchError, fault
from agent.journal.experiment import Proposal
from agent.journal.paths import experiment_folder
from agent.system.files import read_bounded, write_whole

LARGEST_FILE = 64 * 2**20


def write(journal: Path, number: int, revision: int, proposal: Proposal) -> None:
    """Save a proposal.

    Args:
        revision: 0 for the original proposal, then 1, 2, ... for its revisions and repairs.

    Raises:
        AutoresearchError: it cannot be written.
    """
    save(_path(journal, number, revision), dataclasses.asdict(proposal))


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


def read(journal: Path, number: int, revision: int) -> Proposal:
    """Read a proposal.

    Raises:
        AutoresearchError: it is missing or damaged.
    """
    path = _path(journal, number, revision)
    try:
        proposal = Proposal(**json.loads(read_bounded(path, LARGEST_FILE)))
        if not all(isinstance(each, str) for pair in dict(proposal.files).items() for each in pair):
            raise ValueError
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise AutoresearchError(
            f"cannot read the proposal {path}: {fault(error)}",
            hint="restore the file, or start a session with another --tag",
        ) from None
    return proposal


def _path(journal: Path, number: int, revision: int) -> Path:
    return experiment_folder(journal, number) / (f"proposal-{revision}.json" if revision else "proposal.json")
