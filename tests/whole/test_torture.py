"""SIGKILL at random instants, repeatedly: the record ends up the same as in an undisturbed session."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.common.processes import survivors
from tests.common.sessions import assert_consistent, rows
from tests.common.workspaces import ROOT, git


def run_whole(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run the program to its end: 250 experiments take minutes on a busy machine."""
    command, env = [sys.executable, "-m", "agent", *args], {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize(
    ("kills", "experiments", "seed"), [(15, 8, 1), pytest.param(200, 250, 2, marks=pytest.mark.slow)]
)
def test_session_survives_random_kills(quick: Path, kills: int, experiments: int, seed: int) -> None:
    count = str(experiments)
    assert run_whole(quick, "run", "--tag", "undisturbed", "--max-experiments", count).returncode == 0
    expected = [(row["val_bpb"], row["status"], row["description"]) for row in rows(quick)]
    git(quick, "checkout", "--quiet", "main")
    shutil.rmtree(quick / ".autoresearch" / "create")

    rng = random.Random(seed)
    command = [sys.executable, "-m", "agent", "run", "--tag", "t", "--fresh", "--max-experiments", count]
    for _ in range(kills):
        loop = subprocess.Popen(
            command,
            cwd=quick,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # Starting takes the first third of a second; the interesting instants come after that.
        time.sleep(rng.uniform(0.25, 0.9))
        loop.kill()
        loop.wait()
    done = run_whole(quick, "run", "--tag", "t", "--fresh", "--max-experiments", count)
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert [(row["val_bpb"], row["status"], row["description"]) for row in rows(quick)] == expected
    assert not survivors(quick)
