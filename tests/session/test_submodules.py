"""A session measures a commit with the submodules that it names, whatever happens to them in the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import PreconditionError
from tests.common.processes import start, wait_for
from tests.common.sessions import assert_consistent, events, rows
from tests.common.workspaces import Cli, commit_all, git, repository

FLAGS = ("--tag", "t", "--verdict", "greedy", "--no-confirm")


@pytest.fixture
def moved(quick: Path, tmp_path: Path) -> Path:
    """A workspace whose metric depends on a submodule that has a second commit."""
    lib = repository(tmp_path / "lib", {"mod.py": "OFFSET = 1.0\n"})
    git(quick, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(lib), "lib")
    train = (quick / "train.py").read_text()
    (quick / "train.py").write_text(f"import sys\nsys.path.insert(0, 'lib')\nimport mod\n{train}")
    commit_all(quick, "with a submodule")
    return quick


def move(folder: Path) -> None:
    (folder / "lib" / "mod.py").write_text("OFFSET = 0.5\n")
    git(folder / "lib", "-c", "user.name=x", "-c", "user.email=x@x", "commit", "--quiet", "-am", "better")


def test_a_resumed_session_refuses_a_submodule_at_another_commit(moved: Path, cli: Cli) -> None:
    assert cli(moved, "run", *FLAGS, "--max-experiments", "1").returncode == 0
    before = rows(moved)
    move(moved)
    done = cli(moved, "run", *FLAGS, "--max-experiments", "2")
    assert done.returncode == PreconditionError.exit_code
    assert "the submodule lib is at" in done.stderr
    assert rows(moved) == before
    git(moved, "submodule", "--quiet", "update", "lib")
    (moved / "lib" / "mod.py").write_text("OFFSET = 0.2\n")
    done = cli(moved, "run", *FLAGS, "--max-experiments", "2")
    assert "the submodule lib has uncommitted changes" in done.stderr
    git(moved / "lib", "checkout", "--quiet", ".")
    assert cli(moved, "run", *FLAGS, "--max-experiments", "2").returncode == 0
    assert_consistent(moved)


def test_a_submodule_that_moves_during_a_session_ends_it(moved: Path, cli: Cli) -> None:
    loop = start(moved, *FLAGS, "--max-experiments", "500")
    wait_for(moved, "recorded", 2)
    move(moved)
    code = loop.wait(timeout=60)
    assert code == PreconditionError.exit_code, code
    assert "the submodule lib is at" in events(moved, "ended")[-1]["reason"]
    measured = len(rows(moved))
    git(moved, "submodule", "--quiet", "update", "lib")
    assert cli(moved, "run", *FLAGS, "--max-experiments", str(measured)).returncode == 0
    assert_consistent(moved)
    move(moved)
    assert "the submodule lib is at" in cli(moved, "confirm", "--tag", "t").stderr
