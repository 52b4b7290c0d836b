"""SIGKILL at random instants, over and over: in the end the record is that of a session nobody disturbed."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from agent.execution.process_tree import MARK
from tests.common.workspaces import ROOT, Cli, git
from tests.session.test_session import assert_consistent, rows


@pytest.mark.parametrize(
    ("kills", "experiments", "seed"), [(15, 8, 1), pytest.param(200, 250, 2, marks=pytest.mark.slow)]
)
def test_killed_at_random_instants(quick: Path, cli: Cli, kills: int, experiments: int, seed: int) -> None:
    count = str(experiments)
    assert cli(quick, "run", "--tag", "undisturbed", "--max-experiments", count).returncode == 0
    expected = [(row["val_bpb"], row["status"], row["description"]) for row in rows(quick)]
    git(quick, "checkout", "--quiet", "main")
    shutil.rmtree(quick / ".autoresearch" / "create")

    rng = random.Random(seed)
    command = [sys.executable, "-m", "agent", "run", "--tag", "t", "--max-experiments", count]
    for _ in range(kills):
        loop = subprocess.Popen(
            command,
            cwd=quick,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # The first third of a second goes into starting; the instants that matter come after.
        time.sleep(rng.uniform(0.25, 0.9))
        loop.kill()
        loop.wait()
    done = cli(quick, "run", "--tag", "t", "--max-experiments", count)
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert [(row["val_bpb"], row["status"], row["description"]) for row in rows(quick)] == expected
    assert not survivors(quick)


def survivors(folder: Path) -> list[int]:
    """Processes of any run of this workspace that still live, whichever room they are in."""
    rooms = f"autoresearch-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}-"
    found = []
    for process in psutil.process_iter():
        try:
            known = [process.cwd(), *process.cmdline(), *process.environ().values()]
            if MARK in process.environ() and any(str(folder) in each or rooms in each for each in known):
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found
