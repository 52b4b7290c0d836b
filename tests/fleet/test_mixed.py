"""A session that stations measure, and commands that would measure on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.journal.journal import fold
from agent.journal.paths import journal_path
from tests.common.sessions import rows
from tests.common.stations import SLOW, set_train, until
from tests.common.workspaces import ROOT, Cli

HERE = ("--no-keep-awake", "--sandbox", "off", "--fresh")
FLAGS = ("--stations", "1", *HERE)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))


def killed_in_the_baseline(folder: Path, kind: str, *flags: str) -> None:
    """Run a session until its first run has begun, and kill it."""
    command = [sys.executable, "-m", "agent", "-C", str(folder), "run", "--tag", "t", *flags]
    env, quiet = {**os.environ, "PYTHONPATH": str(ROOT)}, subprocess.DEVNULL
    loop = subprocess.Popen(command, env=env, stdout=quiet, stderr=quiet)
    path = journal_path(folder, "t")
    until(lambda: path.exists() and f'"{kind}"' in path.read_text(), f"no event {kind}")
    loop.send_signal(signal.SIGKILL)
    loop.wait()


def test_edit_is_not_measured_in_a_session_of_stations(quick: Path, cli: Cli) -> None:
    assert cli(quick, "run", "--tag", "t", *FLAGS, "--max-experiments", "1").returncode == 0
    (quick / "train.py").write_text((quick / "train.py").read_text().replace("WIDTH = 64", "WIDTH = 128"))
    done = cli(quick, "try", "--tag", "t")
    assert done.returncode == 3
    assert "session t measures on stations, so an edit cannot be compared here" in done.stderr
    assert len(rows(quick)) == 2
    assert fold(journal_path(quick, "t")).pending is None
    # By default the edit gets a session of its own.
    done = cli(quick, "try", "--json")
    assert done.returncode == 0, done.stderr
    assert '"tag": "try"' in done.stdout
    assert len(fold(journal_path(quick, "t")).experiments) == 2


def test_session_that_began_here_does_not_go_on_with_stations(quick: Path, cli: Cli) -> None:
    set_train(quick, SLOW)
    killed_in_the_baseline(quick, "started", *HERE)
    done = cli(quick, "run", "--tag", "t", *FLAGS, "--max-experiments", "1")
    assert done.returncode == 3, done.stderr
    assert "session t was measured without stations, so new runs would not be comparable" in done.stderr
