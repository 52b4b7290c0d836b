"""What must not change while a run goes on, and proof that it did not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.errors import Violation


@dataclass(frozen=True)
class Manifest:
    """Protected files before a run.

    contents: path -> bytes, or None where there was no such file. They are small (sources, a lock file) and kept
    whole, so that one which a run changed can be put back whether or not git knows it.
    stamps: path -> size and time of change, for the snapshot's files, which are too large to read each time.
    """

    contents: Mapping[Path, bytes | None]
    stamps: Mapping[Path, tuple[int, int]]


def manifest(protected: Iterable[Path], snapshot: Iterable[Path]) -> Manifest:
    return Manifest(
        contents={path: _read(path) for path in protected},
        stamps={path: _stamp(path) for path in snapshot},
    )


def verify(before: Manifest) -> None:
    """Raises Violation naming what a run changed; protected files are put back first."""
    changed = []
    for path, content in before.contents.items():
        if _read(path) != content:
            changed.append(path.name)
            _restore(path, content)
    changed += [path.name for path, stamp in before.stamps.items() if _stamp(path) != stamp]
    if changed:
        raise Violation(f"the run changed {', '.join(changed)}, which it must not: it is void")


def drop_bytecode(sources: Iterable[Path]) -> None:
    """Remove cached bytecode of `sources`, so that a run executes them and nothing that an earlier run left there.

    Python trusts a cache whose source has the same size and the same second of change: two candidates can.
    """
    for source in sources:
        for cached in source.parent.glob(f"__pycache__/{source.stem}.*.pyc"):
            cached.unlink(missing_ok=True)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        return None


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return (-1, 0)
    return (stat.st_size, stat.st_mtime_ns)


def _restore(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
        return
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)
