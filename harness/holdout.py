"""Make the holdout of a snapshot: a third split by document, which no run, proposer or verdict sees.

It lies beside the snapshot, whose id stays the same, in CACHE_DIR/holdouts/<first 12 digits of the id>/:
    holdout.json              its rule, constants, and size and hash of every file below
    holdout_00000.tokens.npy  like the files of the other splits
    holdout_00000.offsets.npy

Only `prepare.py` as a program makes it, and only the evaluator reads it.
"""

import hashlib
import itertools
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness.loader import (
    PACKING_DOCUMENTS,
    Array,
    Shards,
    documents_in_rows,
    offsets_path,
    shards_of,
    whole_rows,
)
from harness.settings import CACHE_DIR

SCHEMA = 1  # version of holdout.json
REST = "validation documents that the metric does not use"
# A smaller holdout would say little: its fraction of the tokens of the metric.
LEAST_SHARE = 8
SPARE = 2  # as much text as the rows need is taken this many times, because documents are cropped
NAME = "holdout_00000.tokens.npy"


def folder_of(snapshot: str) -> Path:
    """Return where the holdout of a snapshot is, by its id."""
    return CACHE_DIR / "holdouts" / snapshot[:12]


def made(snapshot: str) -> dict[str, Any] | None:
    """Return the content of holdout.json; None if the holdout is missing or incomplete."""
    folder = folder_of(snapshot)
    try:
        record: dict[str, Any] = json.loads((folder / "holdout.json").read_bytes())
        whole = all((folder / name).stat().st_size == file["bytes"] for name, file in record["files"].items())
        return record if whole and record["schema"] == SCHEMA and record["snapshot"] == snapshot else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def make(snapshot: dict[str, Any], rule: str, documents: Iterable[Array]) -> dict[str, Any] | None:
    """Make the holdout of a snapshot.

    Args:
        snapshot: content of its snapshot.json.
        rule: how the documents were chosen.
        documents: the tokens of each. Copies are left out, also those of documents that the metric uses.

    Returns:
        The content of holdout.json; None if the documents fill too few rows.
    """
    seq_len, wanted = snapshot["MAX_SEQ_LEN"], snapshot["EVAL_TOKENS"] // snapshot["MAX_SEQ_LEN"]
    validation = shards_of(CACHE_DIR / "snapshots" / snapshot["id"][:12], "val")
    used = documents_in_rows(validation, seq_len + 1, wanted)
    known, kind = {_tokens(validation, *each) for each in used}, validation[0][0].dtype
    chosen, most = [np.empty(0, kind)], (SPARE * wanted + PACKING_DOCUMENTS) * (seq_len + 1)
    for document in documents:
        if (text := document.astype(kind).tobytes()) not in known:
            known.add(text)
            chosen.append(document.astype(kind))
            most -= min(len(document), seq_len + 1)
        if most <= 0:
            break
    offsets = np.cumsum([0, *map(len, chosen[1:])], dtype=np.int64)
    rows = whole_rows([(np.concatenate(chosen), offsets)], seq_len, wanted)
    if rows * LEAST_SHARE < wanted:
        return None
    building = CACHE_DIR / "building" / f"holdout-{snapshot['id'][:12]}"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    np.save(building / NAME, np.concatenate(chosen))
    np.save(offsets_path(building / NAME), offsets)
    files = {path.name: _about(path) for path in sorted(building.glob("*.npy"))}
    content = {
        "schema": SCHEMA,
        "snapshot": snapshot["id"],
        "rule": rule,
        "EVAL_TOKENS": rows * seq_len,
        "files": files,
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    record = {"id": digest, **content}
    (building / "holdout.json").write_text(json.dumps(record, indent=2))
    target = folder_of(snapshot["id"])
    target.parent.mkdir(exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    building.replace(target)
    return record


def rest(snapshot: str) -> Iterator[Array]:
    """Yield the tokens of all validation documents of a snapshot, of which `make` leaves out those in use."""
    for tokens, offsets in shards_of(CACHE_DIR / "snapshots" / snapshot[:12], "val"):
        for begin, end in itertools.pairwise(offsets.tolist()):
            yield tokens[begin:end]


def _tokens(shards: Shards, shard: int, start: int) -> bytes:
    tokens, offsets = shards[shard]
    end = offsets[np.searchsorted(offsets, start, side="right")]
    return bytes(tokens[start:end].tobytes())


def _about(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
