"""What must not change while a run goes on, and proof that it did not."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.machinery import all_suffixes
from pathlib import Path
from typing import Any

from agent.errors import PreconditionError, Violation

WEIGHTS = (".npz", ".npy", ".safetensors", ".gguf", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".h5")
Stamp = tuple[int, int, int, int]


@dataclass(frozen=True)
class Manifest:
    """Protected files before a run.

    contents: path -> bytes, or None where there was no such file. They are small (sources, a lock file) and kept
    whole, so that one which a run changed can be put back whether or not git knows it.
    modules: what Python can import from the folders of the workspace. A new one could stand in for a library, or for
    the harness, in the next run.
    weights: files that hold a model, by their names. The next run could go on from a new one.
    digests: path -> SHA-256 of every file in the snapshot's folder, empty where there is no snapshot.
    """

    contents: Mapping[Path, bytes | None]
    modules: Mapping[Path, frozenset[Path]]
    weights: Mapping[Path, frozenset[Path]]
    snapshot: Path | None
    digests: Mapping[Path, str | None]


def manifest(protected: Iterable[Path], folder: Path, snapshot: Path | None, record: Mapping[str, Any]) -> Manifest:
    """folder: where the command runs; record: the content of snapshot.json.

    Raises PreconditionError where the snapshot is not what its record says.
    """
    contents = {path: _read(path) for path in protected}
    folders = {folder, *(path.parent for path in contents if path.suffix == ".py")}
    digests = _digests(snapshot)
    if snapshot is not None:
        for name, file in record.get("files", {}).items():
            if digests.get(snapshot / name) != file["sha256"]:
                raise PreconditionError(
                    f"{snapshot / name} is not what was prepared: delete {snapshot} and run `uv run prepare.py`"
                )
    modules = {folder: _modules(folder) for folder in folders}
    return Manifest(contents, modules, {folder: _weights(folder)}, snapshot, digests)


def verify(before: Manifest, rescued: Path) -> None:
    """Raises Violation naming what a run changed, with protected files put back and what was new moved to `rescued`."""
    changed = []
    for path, content in before.contents.items():
        if _read(path) != content:
            changed.append(path.name)
            _restore(path, content)
    new = [path for folder, modules in before.modules.items() for path in sorted(_modules(folder) - modules)]
    after = _digests(before.snapshot)
    new += sorted(path for path in after if path not in before.digests)
    for path in new:
        rescued.mkdir(parents=True, exist_ok=True)
        shutil.move(path, rescued / path.name)
    changed += [path.name for path in (*new, *(p for p, digest in before.digests.items() if after.get(p) != digest))]
    if changed:
        raise Violation(f"the run changed {', '.join(changed)}, which it must not: it is void")


def put_aside(before: Manifest, kept: Path) -> None:
    """Move what a run has saved of its model to `kept`: each run begins with nothing but its code and the data."""
    for folder, weights in before.weights.items():
        for path in sorted(_weights(folder) - weights):
            target = kept / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)


def drop_bytecode(sources: Iterable[Path]) -> None:
    """Remove cached bytecode of `sources`, so that a run executes them and nothing that an earlier run left there.

    Python trusts a cache whose source has the same size and the same second of change: two candidates can.
    """
    for source in sources:
        for cached in source.parent.glob(f"__pycache__/{source.stem}.*.pyc"):
            cached.unlink(missing_ok=True)


def _modules(folder: Path) -> frozenset[Path]:
    suffixes = tuple(all_suffixes())
    found = [path for path in folder.iterdir() if path.name.endswith(suffixes)]
    return frozenset([*found, *(path.parent for suffix in suffixes for path in folder.glob(f"*/__init__{suffix}"))])


def _weights(folder: Path) -> frozenset[Path]:
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in files if name.endswith(WEIGHTS)]
    return frozenset(found)


def _digests(folder: Path | None) -> dict[Path, str | None]:
    return {path: _sha256(path, _stamp(path)) for path in folder.iterdir()} if folder else {}


@functools.cache
def _sha256(path: Path, _: Stamp) -> str | None:
    """Read again only where the stamp differs: the time of the last change of a file cannot be set back by a run."""
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


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def _restore(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
        return
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)
