"""Check that runs use exactly the data that was prepared, and leave alone the files that measure them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from stat import S_IFMT
from typing import Any

from agent.errors import PreconditionError, Violation

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


def seals(folder: Path, paths: Iterable[str]) -> dict[str, Stamp]:
    """Return what `require_sealed` compares of files that a run may not change.

    Args:
        paths: relative to `folder`. Submodules, which are folders, and files that are not there are left out.
    """
    found = {path: _seal(folder / path) for path in paths if not (folder / path).is_dir()}
    return {path: seal for path, seal in found.items() if seal is not None}


def require_sealed(folder: Path, before: Mapping[str, Stamp]) -> None:
    """Raise Violation if a run, whose own files measure it, wrote to one of the files of `before`, or replaced it.

    Nothing is read. Commands may change permissions and links of these files, so a run that puts back bytes and time is
    not seen.
    """
    for path, seal in before.items():
        if _seal(folder / path) != seal:
            raise Violation(f"voided: it changed {path}, which belongs to the harness")


def _seal(path: Path) -> Stamp | None:
    try:
        about = path.lstat()
    except (OSError, ValueError):
        return None
    return (about.st_size, about.st_mtime_ns, S_IFMT(about.st_mode), about.st_ino)
