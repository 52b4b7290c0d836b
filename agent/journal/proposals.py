"""Proposals on disk: whole, and before the journal announces them, because one may have cost money."""

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
    """revision: 0 for what the proposer gave, then 1, 2, ... for smaller batches within it.

    Raises AutoresearchError where it cannot be written.
    """
    save(_path(journal, number, revision), dataclasses.asdict(proposal))


def save(path: Path, content: object) -> None:
    """As JSON, on the disk for good when this returns. Raises AutoresearchError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(content))
    except OSError as error:
        raise AutoresearchError(
            f"{path} cannot be written: {error.strerror}; make room or give back the rights, then run again"
        ) from None


def read(journal: Path, number: int, revision: int) -> Proposal:
    """Raises AutoresearchError where it is gone or damaged."""
    path = _path(journal, number, revision)
    try:
        proposal = Proposal(**json.loads(read_bounded(path, LARGEST_FILE)))
        if not all(isinstance(each, str) for pair in dict(proposal.files).items() for each in pair):
            raise ValueError
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise AutoresearchError(
            f"the proposal {path} cannot be read ({fault(error)}): put it back, or start another --tag"
        ) from None
    return proposal


def _path(journal: Path, number: int, revision: int) -> Path:
    return experiment_folder(journal, number) / (f"proposal-{revision}.json" if revision else "proposal.json")
