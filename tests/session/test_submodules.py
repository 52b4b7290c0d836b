"""A session measures a commit with the submodules that it names, whatever happens to them in the checkout."""

from __future__ import annotations

import re
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


def test_the_way_back_works_from_a_branch_that_has_another_commit_of_the_submodule(moved: Path, cli: Cli) -> None:
    assert cli(moved, "run", *FLAGS, "--max-experiments", "1").returncode == 0
    git(moved, "switch", "--quiet", "main")
    move(moved)
    git(moved, "commit", "--quiet", "-am", "the better one")
    done = cli(moved, "confirm", "--tag", "t")
    back = re.search(r"`git (-C lib checkout [0-9a-f]{12})`", done.stderr)
    assert back, done.stderr
    git(moved, *back[1].split(), "--quiet")
    done = cli(moved, "confirm", "--tag", "t")
    assert "submodule" not in done.stderr, done.stderr
    git(moved, "submodule", "--quiet", "update")
    assert git(moved, "status", "--porcelain") == ""


@pytest.mark.parametrize("ignore", ["all", "dirty"])
def test_what_git_is_told_to_ignore_of_a_submodule_ends_no_session(moved: Path, cli: Cli, ignore: str) -> None:
    git(moved, "config", "-f", ".gitmodules", "submodule.lib.ignore", ignore)
    commit_all(moved, "ignore it")
    if ignore == "all":
        move(moved)
    (moved / "lib" / "mod.py").write_text("OFFSET = 0.7\n")
    done = cli(moved, "run", *FLAGS, "--max-experiments", "1")
    assert done.returncode == 0, done.stderr
