"""Proposals on disk: whole, and before the journal announces them, because one may have cost money."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from agent.errors import AutoresearchError
from agent.experiment import Proposal
from agent.paths import experiment_folder


def write(journal: Path, number: int, revision: int, proposal: Proposal) -> None:
    """revision: 0 for what the proposer gave, then 1, 2, ... for smaller batches within it.

    Raises AutoresearchError where it cannot be written.
    """
    save(_path(journal, number, revision), dataclasses.asdict(proposal))


def save(path: Path, content: object) -> None:
    """As JSON, on the disk for good when this returns. Raises AutoresearchError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise AutoresearchError(
            f"{path} cannot be written: {error.strerror}; make room or give back the rights, then run again"
        ) from None


def read(journal: Path, number: int, revision: int) -> Proposal:
    return Proposal(**json.loads(_path(journal, number, revision).read_bytes()))


def _path(journal: Path, number: int, revision: int) -> Path:
    return experiment_folder(journal, number) / (f"proposal-{revision}.json" if revision else "proposal.json")
