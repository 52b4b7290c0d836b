"""Make the holdout of a snapshot: a third split by document, which no run, proposer or verdict sees.

It lies beside the snapshot, whose id stays the same, in CACHE_DIR/holdouts/<first 12 digits of the id>/:
    holdout.json              its rule, constants, and size and hash of every file below
    holdout_00000.tokens.npy  like the files of the other splits
    holdout_00000.offsets.npy

Only `prepare.py` as a program makes it, and only the evaluator reads it.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from harness.loader import Shards, documents_in_rows, offsets_path, shards_of, whole_rows
from harness.settings import CACHE_DIR

SCHEMA = 1  # version of holdout.json
REST = "validation documents that the metric does not use"
# A smaller holdout would say little: its fraction of the tokens of the metric.
LEAST_SHARE = 8
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


def make(snapshot: dict[str, Any], rule: str, write: Callable[[Path], None]) -> dict[str, Any] | None:
    """Make the holdout of a snapshot.

    Args:
        snapshot: content of its snapshot.json.
        rule: how the documents were chosen.
        write: writes their tokens to a path, and the offsets to `offsets_path` of it.

    Returns:
        The content of holdout.json; None if the documents fill too few rows.
    """
    building = CACHE_DIR / "building" / f"holdout-{snapshot['id'][:12]}"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    write(building / NAME)
    seq_len, tokens = snapshot["MAX_SEQ_LEN"], snapshot["EVAL_TOKENS"]
    rows = whole_rows(shards_of(building, "holdout"), seq_len, tokens // seq_len)
    if rows * seq_len * LEAST_SHARE < tokens:
        shutil.rmtree(building)
        return None
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


def write_rest(directory: Path, max_seq_len: int, eval_tokens: int, path: Path) -> None:
    """Write the validation documents of a snapshot of which the metric uses no part, and no copy."""
    shards = shards_of(directory, "val")
    used = documents_in_rows(shards, max_seq_len + 1, eval_tokens // max_seq_len)
    dtype = shards[0][0].dtype
    known, rest = {_tokens(shards, *each) for each in used}, [np.empty(0, dtype)]
    for shard, (_, offsets) in enumerate(shards):
        for start in offsets[:-1].tolist():
            if (shard, start) not in used and (text := _tokens(shards, shard, start)) not in known:
                known.add(text)
                rest.append(np.frombuffer(text, dtype))
    np.save(path, np.concatenate(rest))
    np.save(offsets_path(path), np.cumsum([0, *map(len, rest[1:])], dtype=np.int64))


def _tokens(shards: Shards, shard: int, start: int) -> bytes:
    tokens, offsets = shards[shard]
    end = offsets[np.searchsorted(offsets, start, side="right")]
    return bytes(tokens[start:end].tobytes())


def _about(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
