"""SIGKILL at random instants of `try`: the next `try` or `run` finishes or undoes one step, and no edit is lost.

uv run pytest tests/whole/test_try_killed.py -m slow      50 kills, a minute on two cores
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from agent.journal.journal import fold
from agent.journal.paths import journal_path
from tests.common.processes import survivors
from tests.common.sessions import assert_consistent, rows
from tests.common.tries import edit, kept_by_branch
from tests.common.workspaces import ROOT, commit_all, git


def begun(folder: Path, *args: str) -> subprocess.Popen[bytes]:
    command, env = [sys.executable, "-m", "agent", *args], {**os.environ, "PYTHONPATH": str(ROOT)}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=folder, env=env, stdout=quiet, stderr=quiet)


def whole(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command, env = [sys.executable, "-m", "agent", *args], {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)


def is_safe(folder: Path, edited: str) -> bool:
    """Return whether an edit is in the working tree or under a ref."""
    if (folder / "train.py").read_text() == edited:
        return True
    refs = git(folder, "for-each-ref", "--format=%(refname)", "refs/autoresearch", "refs/heads").splitlines()
    found = (
        subprocess.run(["git", "show", f"{ref}:train.py"], cwd=folder, capture_output=True, text=True, check=False)
        for ref in refs
    )
    return any(each.stdout == edited for each in found)


def tried(folder: Path) -> list[str]:
    return [each.description for each in fold(journal_path(folder, "t")).experiments]


def _last_event(path: Path) -> str:
    lines = path.read_text().splitlines() if path.exists() else []
    return str(json.loads(lines[-1])["event"]) if lines else "none"


@pytest.mark.parametrize(("kills", "seed"), [(4, 1), pytest.param(50, 2, marks=pytest.mark.slow)])
def test_edit_survives_random_kills(quick: Path, kills: int, seed: int) -> None:
    rng, instants = random.Random(seed), Counter[str]()
    (quick / "notes.txt").write_text("mine")
    edit(quick, "import sys\n", "import sys\nimport time\n\ntime.sleep(0.1)\n")
    commit_all(quick, "takes a tenth of a second")
    number = 0
    while instants.total() < kills:
        number += 1
        where = rng.choice(["main", "autoresearch/t"] if number > 1 else ["main"])
        if git(quick, "branch", "--show-current") != where:
            git(quick, "checkout", "--quiet", "--force", where)
        best = (quick / "train.py").read_text() if number == 1 else kept_by_branch(quick, "t")
        edited = f"{best.rstrip()}  # {number}\n" if rng.random() < 0.5 else f"N{number} = {number}\n{best}"
        edited = edited if rng.random() < 0.7 else edited.replace("DEPTH = 4", "DEPTH = 1")
        (quick / "train.py").write_text(edited)
        if where != "main" and rng.random() < 0.4:
            commit_all(quick, "a commit of mine")
        loop = begun(quick, "try", "--tag", "t", "-m", f"edit {number}")
        # The start takes a third of a second; the interesting instants come after that.
        time.sleep(rng.uniform(0.3, 0.8))
        running = loop.poll() is None  # a kill after its end is none
        loop.kill()
        loop.wait()
        path = journal_path(quick, "t")
        instants[_last_event(path)] += running
        assert is_safe(quick, edited), number
        assert (quick / "notes.txt").read_text() == "mine"
        if rng.random() < 0.3 and f"edit {number}" in (path.read_text() if path.exists() else ""):
            done = whole(quick, "run", "--tag", "t", "--max-experiments", str(number))
        else:
            done = whole(quick, "try", "--tag", "t", "-m", f"edit {number}")
        # Killed after its last step, nothing is left to do.
        over = done.returncode == 3 and "no edit to measure" in done.stderr
        assert done.returncode == 0 or over, done.stderr
        assert tried(quick) == ["baseline", *(f"edit {each}" for each in range(1, number + 1))], done.stderr
        assert is_safe(quick, edited), number
        assert (quick / "train.py").read_text() == kept_by_branch(quick, "t"), done.stderr
    git(quick, "checkout", "--quiet", "--force", "autoresearch/t")
    assert_consistent(quick, tag="t")
    assert len(rows(quick)) == number + 1
    assert not survivors(quick)
    print(f"killed after the event: {dict(instants)}")
