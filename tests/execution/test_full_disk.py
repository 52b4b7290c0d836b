"""Runs that end with a full disk, on a real file system that is small."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import AutoresearchError
from agent.execution.measure import LEAST_ROOM, Runner, measure
from agent.protocol.load import load_protocol
from agent.repository.workspace import Workspace
from agent.room.sandbox import Sandbox
from agent.session.opening import prepared
from tests.common.disks import small_disk
from tests.common.stations import set_train
from tests.common.training import make_training, script
from tests.common.workspaces import Cli, git

SIZE = 96 * 2**20
FILL = "\nimport time\nwith open(PLACE, 'wb') as file:\n    for _ in range(90):\n        file.write(bytes(2**20))\n"
# The loop ends a run that leaves too little room.
AND_WAIT = "    file.flush()\n    time.sleep(60)\n"


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small disk, which has the logs, and the rooms of runs."""
    with small_disk(tmp_path / "disk", SIZE) as folder:
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        yield folder


@pytest.fixture
def runner(quick: Path) -> Iterator[Runner]:
    protocol = load_protocol(quick)
    with prepared(Runner(protocol, Workspace(quick, protocol), None), setup=False) as ready:
        yield ready


def fill(runner: Runner, place: str) -> str:
    """Commit a script that fills the disk with a file, and return the hash."""
    return set_train(runner.workspace.folder, FILL.replace("PLACE", repr(place)) + AND_WAIT)


def test_candidate_that_fills_the_disk_crashes(runner: Runner, disk: Path) -> None:
    """Its files go with its room, so that the next run has a disk."""
    found = measure(runner, fill(runner, "big"), disk / "logs" / "run.log")
    assert (found.metric, found.error) == (None, "killed: it filled the disk")
    assert shutil.disk_usage(disk).free > LEAST_ROOM


def test_failed_run_on_a_disk_that_stays_full_is_not_the_candidates(runner: Runner, disk: Path) -> None:
    with pytest.raises(AutoresearchError, match=r"only \d+ MiB are free in .*/logs") as found:
        measure(runner, fill(runner, str(disk / "of another program")), disk / "logs" / "run.log")
    assert (found.value.hint or "").startswith("free some disk space, then run the same command again")


def test_no_run_begins_on_a_full_disk(runner: Runner, disk: Path) -> None:
    (disk / "of another program").write_bytes(bytes(SIZE - LEAST_ROOM + 2**20))
    with pytest.raises(AutoresearchError, match="MiB are free"):
        measure(runner, runner.workspace.head, disk / "logs" / "run.log")
    assert not (disk / "logs" / "run.log").exists()


def test_disk_of_the_rooms_counts_as_that_of_the_log_does(runner: Runner, disk: Path, tmp_path: Path) -> None:
    """A folder for temporary files is often another, smaller file system than the workspace's."""
    log = tmp_path / "elsewhere" / "run.log"
    found = measure(runner, fill(runner, "big"), log)
    assert (found.metric, found.error) == (None, "killed: it filled the disk")
    another = disk / "of another program"
    fails = f"{FILL.replace('PLACE', repr(str(another)))}raise SystemExit('no space is left')\n"
    commit = set_train(runner.workspace.folder, fails)
    with pytest.raises(AutoresearchError, match=rf"only \d+ MiB are free in {disk}$"):
        measure(runner, commit, log)
    ended = log.stat().st_mtime_ns
    with pytest.raises(AutoresearchError, match=rf"only \d+ MiB are free in {disk}$"):
        measure(runner, runner.workspace.head, log)
    assert log.stat().st_mtime_ns == ended, "no run began"


def test_incomplete_copy_of_the_data_ends_the_session_and_measures_nothing(quick: Path, disk: Path) -> None:
    """A run with a part of its data would get another metric, with no sign of why."""
    (quick / ".git" / "info" / "exclude").write_text("data.bin\n")
    (quick / "data.bin").write_bytes(bytes(50 * 2**20))
    (disk / "of another program").write_bytes(bytes(SIZE - 40 * 2**20))
    protocol = load_protocol(quick)
    bare = Runner(protocol, Workspace(quick, protocol), None, Sandbox(None, network=True, hide=True))
    with prepared(bare, setup=False) as ready, pytest.raises(AutoresearchError) as found:
        measure(ready, ready.workspace.head, quick / "run.log")
    assert str(found.value).startswith(f"cannot copy {quick / 'data.bin'} for a run: ")
    assert str(found.value).endswith("No space left on device")


TOO_LARGE = """
from harness import handover
from pathlib import Path
Path("large").write_bytes(bytes(40 * 2**20))
handover.ask(handover.at_work(), {"ask": "model", "rows": 64}, Path("large"))
"""


def test_model_that_does_not_fit_the_disk_crashes(
    embedded: Path, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs the space twice: in the room, and where the evaluator stores it."""
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(embedded))
    (disk / "of another program").write_bytes(bytes(20 * 2**20))
    make_training(tmp_path / "workspace", script("late", TOO_LARGE))
    protocol = load_protocol(tmp_path / "workspace")
    with prepared(Runner(protocol, Workspace(tmp_path / "workspace", protocol), None), setup=False) as ready:
        short = dataclasses.replace(ready, training_seconds=0.2)
        found = measure(short, ready.workspace.head, tmp_path / "run.log")
    # The loop may see the full disk before the evaluator says so.
    reasons = ("the model does not fit the disk of temporary files (TMPDIR)", "killed: it filled the disk")
    assert (found.metric, found.fault) == (None, "")
    assert found.error in reasons


@pytest.fixture
def full(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A workspace with a session on a disk without a free byte."""
    with small_disk(tmp_path / "full", SIZE) as disk:
        folder = disk / "workspace"
        shutil.copytree(finished, folder, symlinks=True)
        log = folder / ".autoresearch" / "sessions" / "t" / "experiments" / "0001" / "run-1.log"
        log.write_bytes(bytes(2**20))
        git(folder, "switch", "--quiet", "main")
        git(folder, "pack-refs", "--all")
        with contextlib.suppress(OSError), (disk / "of another program").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        yield folder


def test_session_is_deleted_on_a_full_disk(full: Path, program: Cli) -> None:
    done = program(full, "sessions", "--delete", "t", "--yes")
    assert done.returncode == 0, done.stderr
    assert not (full / ".autoresearch" / "sessions" / "t").exists()
    assert git(full, "for-each-ref", "refs/autoresearch", "refs/heads/autoresearch") == ""


def test_start_in_the_background_on_a_full_disk_says_why_it_failed(full: Path, program: Cli) -> None:
    done = program(full, "run", "--tag", "u", "--detach", "--max-experiments", "2")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "hint: free disk space (0 MiB are free in " in done.stderr
    assert not (full / ".autoresearch" / "sessions" / "u").exists()
