"""Several working trees of a repository: whose session, branch or rebase it is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.errors import PreconditionError
from agent.protocol.load import load_protocol
from agent.repository.ready import elsewhere, require_unedited
from agent.repository.workspace import Workspace
from agent.session import recovery
from tests.common.processes import other_git
from tests.common.workspaces import Cli, commit, git, go, require_git


def test_a_linked_worktree_and_a_branch_that_another_one_has(quick: Path, cli: Cli, tmp_path: Path) -> None:
    beside = tmp_path / "beside"
    git(quick, "worktree", "add", "--quiet", "-b", "side", str(beside))
    go(cli, beside, count=3)
    assert git(beside, "symbolic-ref", "HEAD") == "refs/heads/autoresearch/t"
    assert git(beside, "status", "--porcelain") == ""
    assert git(quick, "branch", "--show-current") == "main"
    refused = cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    assert refused.returncode == 3
    go(cli, quick, "u", 2)
    assert git(quick, "status", "--porcelain") == ""


@pytest.mark.parametrize("left", ["everything", "no refs", "the refs", "the journal and the branch", "the journal"])
def test_a_session_of_another_worktree_is_no_remains_of_one(quick: Path, cli: Cli, tmp_path: Path, left: str) -> None:
    beside = tmp_path / "beside"
    git(quick, "worktree", "add", "--quiet", "--detach", str(beside))
    go(cli, beside, count=1)
    if left in ("no refs", "the journal and the branch"):
        git(quick, "update-ref", "-d", "refs/autoresearch/t/1")
    if left in ("the journal and the branch", "the journal"):
        git(beside, "switch", "--quiet", "--detach")
    if left == "the journal":
        git(quick, "branch", "--quiet", "-D", "autoresearch/t")
    if left == "the refs":
        shutil.rmtree(beside / ".autoresearch")
    for more in (["--dry-run"], []):
        done = cli(quick, "run", "--tag", "t", "--max-experiments", "1", *more)
        assert done.returncode == 3
        what = "session t is" if "journal" in left else "autoresearch/t is checked out"
        assert f", and {what} in {beside}\n" in done.stderr
        assert done.stderr.splitlines()[-1] == "hint: choose another --tag"


def test_a_session_of_another_worktree_is_named_to_commands_about_it(quick: Path, cli: Cli, tmp_path: Path) -> None:
    beside = tmp_path / "beside"
    git(quick, "worktree", "add", "--quiet", "--detach", str(beside))
    go(cli, beside, count=1)
    done = cli(quick, "promote", "--tag", "t", "--training-seconds", "900")
    assert done.returncode == 3
    assert f"session t is in {beside}, and not in this workspace" in done.stderr


def test_a_session_of_another_workspace_in_the_repository_is_no_remains_of_one(quick: Path, cli: Cli) -> None:
    below = quick / "below"
    shutil.copytree(quick, below, ignore=shutil.ignore_patterns(".git", "below"))
    commit(quick)
    go(cli, below, count=1)
    git(quick, "switch", "--quiet", "main")
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    assert done.returncode == 3
    assert f", and session t is in {below}\n" in done.stderr
    assert done.stderr.splitlines()[-1] == "hint: choose another --tag"


@pytest.mark.parametrize("there", [True, False])
def test_a_session_whose_branch_another_worktree_has_goes_on_after_the_hint(
    quick: Path, cli: Cli, tmp_path: Path, there: bool
) -> None:
    beside = tmp_path / "beside"
    go(cli, quick, count=1)
    git(quick, "switch", "--quiet", "main")
    git(quick, "worktree", "add", "--quiet", str(beside), "autoresearch/t")
    if not there:
        shutil.rmtree(beside)
    for more in (["--dry-run"], []):
        done = cli(quick, "run", "--tag", "t", "--max-experiments", "2", *more)
        assert done.returncode == 3
        assert str(beside) in done.stderr
        assert "failed in" not in done.stderr
    (command,) = re.findall("`(git [^`]*)`", done.stderr)
    subprocess.run(command, shell=True, cwd=quick, check=True)
    go(cli, quick, count=2)


def test_a_branch_of_a_worktree_that_was_removed_by_hand_can_be_deleted(quick: Path, cli: Cli, tmp_path: Path) -> None:
    git(quick, "worktree", "add", "--quiet", "-b", "autoresearch/t", str(tmp_path / "beside"))
    shutil.rmtree(tmp_path / "beside")
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    (command,) = re.findall("`(git [^`]*)`", done.stderr)
    subprocess.run(command, shell=True, cwd=quick, check=True)
    go(cli, quick, count=1)


def test_a_worktree_that_stays_behind_the_branch_is_named(quick: Path, tmp_path: Path) -> None:
    workspace, beside = Workspace(quick, load_protocol(quick)), tmp_path / "beside"
    old = workspace.head
    git(quick, "worktree", "add", "--quiet", "-b", "autoresearch/t", str(beside))
    new = workspace.commit_results(old, "commit\tval_bpb\n", "rows")
    (said,) = recovery.move(workspace, "autoresearch/t", new, old)
    assert f"the files in {beside} stay behind autoresearch/t" in said
    (command,) = re.findall("`(git [^`]*)`", said)
    subprocess.run(command, shell=True, cwd=quick, check=True)
    assert git(beside, "status", "--porcelain") == ""
    assert recovery.move(workspace, "autoresearch/t", old, new) == []
    assert git(beside, "status", "--porcelain") == ""
    git(quick, "worktree", "remove", str(beside))
    assert recovery.move(workspace, "autoresearch/t", new, old) == []


@pytest.mark.parametrize("options", [(), ("--apply",), ("--update-refs",)])
def test_a_branch_that_a_rebase_will_move_is_refused(quick: Path, options: tuple[str, ...]) -> None:
    """Else the rebase could not be finished: git moves the branch only from where it found it."""
    workspace, linked = Workspace(quick, load_protocol(quick)), quick.parent / "linked"
    git(quick, "worktree", "add", "--quiet", "-b", "upstream", str(linked))
    (linked / "prepare.py").write_text("HARNESS = 1\n")
    git(linked, "commit", "--quiet", "-am", "theirs")
    (quick / "prepare.py").write_text("HARNESS = 2\n")
    git(quick, "commit", "--quiet", "-am", "ours")
    moved = "above" if "--update-refs" in options else "main"
    if moved == "above":
        git(quick, "switch", "--quiet", "-c", moved)
        git(quick, "commit", "--quiet", "--allow-empty", "-m", "on top of main")
    for folder in (quick, linked):
        git(quick, "switch", "--quiet", "--detach")
        git(folder, "switch", "--quiet", moved)
        rebase = ["git", "rebase", "--quiet", *options, "upstream"]
        assert subprocess.run(rebase, cwd=folder, capture_output=True, check=False).returncode == 1
        with pytest.raises(PreconditionError, match=f"main is being rebased in {folder}, which") as refused:
            require_unedited(workspace, "main", {})
        assert "finish or abort the rebase, then" in refused.value.hint
        git(folder, "rebase", "--abort")
        git(folder, "switch", "--quiet", "--detach")
        require_unedited(workspace, "main", {})


def test_worktree_with_a_line_feed_in_its_path_is_seen(quick: Path, tmp_path: Path) -> None:
    require_git(2, 36)
    beside = tmp_path / "be\nside"
    git(quick, "worktree", "add", "--quiet", "-b", "side", str(beside))
    assert elsewhere(Workspace(quick, load_protocol(quick)), "side") == beside


def test_worktrees_are_seen_by_an_older_git(quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = tmp_path / "beside"
    git(quick, "worktree", "add", "--quiet", "-b", "side", str(beside))
    old = other_git(tmp_path / "old", '*" worktree list "*" -z "*', "usage: git worktree list", 129)
    monkeypatch.setenv("PATH", f"{old}{os.pathsep}{os.environ['PATH']}")
    assert elsewhere(Workspace(quick, load_protocol(quick)), "side") == beside
