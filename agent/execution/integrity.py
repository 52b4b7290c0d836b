"""Check that runs use exactly the data that was prepared."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.errors import PreconditionError

Stamp = tuple[int, int, int, int]


def require_prepared(snapshot: Path | None, record: Mapping[str, Any]) -> None:
    """Raise PreconditionError if a file of `snapshot` does not match its hash in `record`, its snapshot.json."""
    files = record.get("files", {})
    if snapshot is None or not isinstance(files, dict):
        return
    for name, file in files.items():
        path = snapshot / name
        if "/" in name or _sha256(path, _stamp(path)) != file.get("sha256"):
            raise PreconditionError(
                f"{path} does not match its hash in snapshot.json",
                hint=f"delete {snapshot} and run `uv run prepare.py`",
            )


@functools.cache
def _sha256(path: Path, _: Stamp) -> str | None:
    """Return the hash of a file, cached by its stamp: a run cannot set back the time of a file's last change."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        return None


def _stamp(path: Path) -> Stamp:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return (-1, 0, 0, 0)
    return (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
