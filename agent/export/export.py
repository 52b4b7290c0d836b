"""`export`: choose the table or the runs of the sessions, and write them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from agent.errors import UsageError
from agent.export import rows, tracked, trackers
from agent.export.formats import as_csv, as_jsonl, as_parquet
from agent.export.sessions import Session, load
from agent.export.table import Table
from agent.protocol.load import load_protocol
from agent.repository.outputs import require_no_part_of_session
from agent.repository.workspace import Workspace
from agent.system.files import write_whole

Of = Literal["experiments", "runs", "curves"]
Format = Literal["csv", "parquet", "jsonl"]


def content(folder: Path, tags: Sequence[str], of: Of, form: Format) -> Iterator[bytes]:
    """Return the parts of a file with the sessions' data.

    Raises:
        PreconditionError: a session does not exist or has no baseline.
        AutoresearchError: a journal is damaged.
    """
    workspace = Workspace(folder, load_protocol(folder))
    table = _table(load(workspace, tags), of, workspace)
    if form == "parquet":
        return iter([as_parquet(table)])
    return as_csv(table) if form == "csv" else as_jsonl(table)


def format_of(out: Path | None, form: Format | None) -> Format:
    """Return the format: the one that was named, or that of the file's ending; CSV without either, or for a device.

    Raises:
        UsageError: Parquet without a file, or a file with another ending and no format.
    """
    endings: dict[str, Format] = {"": "csv", ".csv": "csv", ".parquet": "parquet", ".jsonl": "jsonl"}
    chosen = form or endings.get(out.suffix.lower() if out and not _is_special(out) else "")
    if chosen is None:
        raise UsageError(
            f"the ending of {out} names no format", hint="end it in .csv, .jsonl or .parquet, or add --format csv"
        )
    if chosen == "parquet" and out is None:
        raise UsageError("--format parquet needs a file", hint="add --out FILE")
    return chosen


def require_writable(folder: Path, out: Path) -> None:
    """Raise UsageError if a file's folder does not exist, it is a folder, or sessions of the workspace need it."""
    if out.is_dir():
        raise UsageError(f"--out needs a file, and {out} is a folder", hint="name a file in it")
    if not out.parent.is_dir():
        raise UsageError(f"folder {out.parent} not found", hint="create it, or choose another with --out")
    require_no_part_of_session(out, Workspace(folder, load_protocol(folder)))


def write(out: Path, parts: Iterator[bytes]) -> None:
    """Write a file atomically, also behind a link. A pipe or a device, as /dev/stdout, is not replaced."""
    if _is_special(out):
        with out.open("wb") as file:
            file.writelines(parts)
        return
    write_whole(out.resolve(), b"".join(parts))


def _is_special(out: Path) -> bool:
    """Return whether a path names a pipe or a device, or is in /dev, where a replaced entry breaks the machine."""
    in_system = any(out.parent.resolve().is_relative_to(folder) for folder in ("/dev", "/proc"))
    return out.exists() and (in_system or not out.is_file())


def send(to: str, folder: Path, tags: Sequence[str], of: Of, out: Path | None) -> list[str]:
    """Hand sessions to a tracker, or their experiments if `of` is not "experiments". Return the lines to print."""
    workspace = Workspace(folder, load_protocol(folder))
    trackers.require(to, workspace.folder)
    artifact = workspace.protocol.provenance.baseline_artifact_path
    sessions = load(workspace, tags)
    if of == "experiments":
        runs = [tracked.of_session(each) for each in sessions]
    else:
        runs = [run for each in sessions for run in tracked.of_experiments(each, workspace.folder, artifact)]
    return trackers.send(to, runs, workspace.folder, out)


def _table(sessions: Sequence[Session], of: Of, workspace: Workspace) -> Table:
    if of == "curves":
        return rows.curves(sessions, workspace.folder, workspace.protocol.provenance.baseline_artifact_path)
    return rows.runs(sessions) if of == "runs" else rows.experiments(sessions)
