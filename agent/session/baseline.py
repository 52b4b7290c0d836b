"""The baseline: the untouched recipe, measured on this hardware and data, and reused until either changes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from agent.errors import AutoresearchError
from agent.execution.measure import Runner, measure
from agent.execution.process import UNOBSERVED, Observer
from agent.journal.comparable import HARNESS, comparable
from agent.journal.experiment import Run, Value, digest
from agent.journal.journal import Journal
from agent.journal.paths import BASELINE, LARGEST_BASELINE
from agent.room.room import is_installed, stamp_of
from agent.system.files import read_bounded, write_whole
from agent.system.invocation import here
from agent.system.names import STATE

LARGEST_SOURCE = 2**16  # bytes


def propose_baseline(journal: Journal, files: Mapping[str, str], parameters: Mapping[str, Value], **more: Any) -> None:
    """Make the unchanged recipe the first experiment of a session; `more` are fields of the event."""
    journal.append(
        "proposed",
        number=0,
        proposer="baseline",
        description="baseline",
        reasoning="",
        parameters=dict(parameters),
        digest=digest(files),
        files=[],
        **more,
    )


def measure_baseline(
    runner: Runner,
    fingerprint: dict[str, Any],
    before: Sequence[Run],
    observer: Observer = UNOBSERVED,
    commit: str | None = None,
) -> Run:
    """Run the baseline once, and save all of its runs with the fingerprint for later sessions.

    Args:
        fingerprint: the conditions of the measurement.
        before: earlier runs of the baseline.
        commit: the commit to run; None for HEAD.

    Returns:
        The run. If a fault of the GPU ended it, nothing is saved, and it must be repeated.

    Raises:
        AutoresearchError: the run has no metric for another reason.
    """
    log = log_path(runner, len(before) + 1)
    commit = commit or runner.workspace.head
    if not before:
        _forget(runner, fingerprint, commit)
    run = measure(runner, commit, log, observer)
    if run.fault:
        return run
    if run.error:
        raise AutoresearchError(f"the baseline failed: {run.error}", hint=f"see the log {here(log)}")
    _save(runner, fingerprint, commit, [*before, run])
    return run


def _forget(runner: Runner, fingerprint: Mapping[str, Any], commit: str) -> None:
    """Delete the record of the baseline before its log is overwritten.

    Outside of the state folder, the record also tells that the log is no file of the user (`agent.protocol.load`). It
    must do so even if the run is killed or fails, so it stays there, without runs.
    """
    record = record_path(runner)
    if PurePosixPath(runner.protocol.provenance.baseline_artifact_path).parts[0] == STATE:
        record.unlink(missing_ok=True)
        return
    record.parent.mkdir(parents=True, exist_ok=True)
    _save(runner, fingerprint, commit, [])


def _save(runner: Runner, fingerprint: Mapping[str, Any], commit: str, runs: Sequence[Run]) -> None:
    record = {
        "fingerprint": fingerprint,
        "digest": digest(runner.workspace.files(commit)),
        "commit": commit,
        "untracked": stamp_of(runner.untracked, runner.workspace.top),
        "packages": _packages(runner),
        "runs": [dataclasses.asdict(each) for each in runs],
    }
    path = record_path(runner)
    path.parent.mkdir(parents=True, exist_ok=True)  # which may have been deleted with the log
    write_whole(path, json.dumps(record, indent=2) + "\n")


def valid_baseline(runner: Runner, fingerprint: dict[str, Any], commit: str) -> list[Run]:
    """Return the saved runs of the baseline if all that a run may read is the same; else an empty list.

    That is the fingerprint, all files of the commit but those that only people and this program read, the untracked
    files, and the versions of packages installed in the workspace. Fingerprints of an earlier version lack the harness.
    It is then read from the measured commit, if that still exists.
    """
    try:
        record = json.loads(read_bounded(record_path(runner), LARGEST_BASELINE))
        workspace, measured = runner.workspace, str(record["commit"])
        before = {HARNESS: workspace.harness_digest(measured), **record["fingerprint"]}
        same = comparable(before, fingerprint) and record["digest"] == digest(workspace.files(commit))
        same = same and not workspace.changed_beside(measured, commit, every=True)
        beside = {"untracked": stamp_of(runner.untracked, workspace.top), "packages": _packages(runner)}
        # A version before recorded none of these.
        same = same and all(record.get(name, stamp) == stamp for name, stamp in beside.items())
        return [Run(**run) for run in record["runs"]] if same else []
    except (OSError, ValueError, KeyError, TypeError, AutoresearchError):
        return []


def _packages(runner: Runner) -> str:
    """Return a SHA-256 over the versions of packages in environments of the workspace and the top of its repository."""
    checkout = runner.untracked.source or runner.workspace.top
    folders = {checkout, checkout / runner.workspace.folder.relative_to(runner.workspace.top)}
    places = [place for folder in folders for place in folder.iterdir() if is_installed(place)]
    found = {
        f"{record.relative_to(place)}\0{_source_of(record)}"
        for place in places
        for record in place.glob("lib*/python*/*-packages/*-info")  # named after package and version
    }
    return hashlib.sha256("\n".join(sorted(found)).encode(errors="surrogateescape")).hexdigest()


def _source_of(record: Path) -> str:
    """Return where a package was installed from, as for one of git its commit; empty for a registry."""
    try:
        return read_bounded(record / "direct_url.json", LARGEST_SOURCE).decode(errors="replace")
    except OSError:
        return ""


def log_path(runner: Runner, run: int = 1) -> Path:
    """Return the log of the baseline's run 1, 2, ...: the first at the protocol's path, the others next to it."""
    path = runner.workspace.folder / runner.protocol.provenance.baseline_artifact_path
    return path if run == 1 else path.with_name(f"{path.stem}-{run}{path.suffix}")


def record_path(runner: Runner) -> Path:
    return log_path(runner).with_name(BASELINE)
