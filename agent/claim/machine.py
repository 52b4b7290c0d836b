"""Describe a machine and its data without names and paths of its user."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agent.claim.models import Data, Machine
from agent.errors import PreconditionError
from agent.execution import fingerprint
from agent.journal.paths import cache_folder
from agent.protocol.models import Protocol
from agent.system.files import read_bounded
from agent.system.invocation import typed

SOURCES = ("climbmix", "tinystories", "embedded")
LARGEST_RECORD = 2**20


def machine_of(found: Mapping[str, Any]) -> Machine:
    """Return the part of a fingerprint that describes the machine."""
    names = {"mlx_variables": "", "macos": None}
    return Machine(**{name: found.get(name, names.get(name)) for name in Machine.model_fields})


def data_of(protocol: Protocol, wanted: str | None) -> Data | None:
    """Return the prepared data that a session used; None if it used none.

    Args:
        wanted: the identifier of its snapshot.

    Raises:
        PreconditionError: another snapshot is current.
    """
    record = fingerprint.snapshot(protocol)
    if wanted is None:
        return None
    if record.get("id") != wanted:
        raise PreconditionError(
            f"the session was measured on snapshot {wanted[:12]}, which is not the current one",
            hint=f"prepare it again with `uv run prepare.py`, then run `{typed('claim')}`",
        )
    request = record.get("request", {})
    source = request.get("source")
    return Data(
        id=wanted,
        source=source if source in SOURCES else "folder",
        num_shards=request.get("num_shards"),
        profile=record["profile"],
    )


def holdout_id(snapshot: str | None) -> str | None:
    """Return the identifier of the holdout of a snapshot; None if it has none."""
    if snapshot is None:
        return None
    path = cache_folder() / "holdouts" / snapshot[:12] / "holdout.json"
    try:
        found = json.loads(read_bounded(path, LARGEST_RECORD))
    except (OSError, ValueError):
        return None
    name = found.get("id") if isinstance(found, dict) else None
    return name if isinstance(name, str) else None
