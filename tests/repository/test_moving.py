"""The session's branch moves while a person, another git or a killed loop works in the same checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.errors import AutoresearchError
from agent.protocol.load import load_protocol
from agent.repository import checkout, index
from agent.repository import git as git_module
from agent.repository.checkout import Checkout
from agent.repository.git import Git
from agent.repository.index import SCRATCH, sweep
from agent.repository.refs import delete_refs
from agent.repository.workspace import Workspace
from tests.common.stations import until
from tests.common.workspaces import Cli, commit, git, go


@pytest.mark.parametrize("edit", ["written", "deleted", "created anew"])
def test_what_a_person_writes_while_the_branch_moves_stays(quick: Path, edit: str) -> None:
    """Edit after the loop has looked at the file, when it renames the first of two."""
    workspace = Workspace(quick, load_protocol(quick))
    git(quick, "switch", "--quiet", "-c", "autoresearch/t")
    old, text = workspace.head, (quick / "train.py").read_text()
    kept = workspace.commit_candidate("refs/t/1", old, {"train.py": text.replace("RATE = 0.1", "RATE = 0.2")}, "kept")
    new = workspace.commit_results(kept, "commit\tval_bpb\n", "rows")
    armed = True

    def hear(event: str, args: tuple[Any, ...]) -> None:
        nonlocal armed
        if armed and event == "os.rename" and str(args[1]) == str(quick / "results.tsv"):
            armed = False
            if edit != "written":
                (quick / "train.py").unlink()
            if edit != "deleted":
                (quick / "train.py").write_text("mine\n")

    sys.addaudithook(hear)
    try:
        assert Checkout(workspace).advance("autoresearch/t", new, old) == ["train.py"]
    finally:
        armed = False
    assert git(quick, "rev-parse", "HEAD") == new
    if edit == "deleted":
        assert not (quick / "train.py").exists()
    else:
        assert (quick / "train.py").read_text() == "mine\n"
    assert (quick / "results.tsv").read_text() == "commit\tval_bpb\n"
    assert "RATE = 0.2" in git(quick, "show", ":train.py")


def test_what_a_person_stages_while_the_branch_moves_is_not_lost(quick: Path) -> None:
    """Git refuses, as it does while another git writes the index. Without a lock it would seem to succeed."""
    workspace = Workspace(quick, load_protocol(quick))
    git(quick, "switch", "--quiet", "-c", "autoresearch/t")
    old = workspace.head
    new = workspace.commit_results(old, "commit\tval_bpb\n", "rows")
    (quick / "mine.txt").write_text("mine\n")
    said: list[str] = []

    def hear(event: str, args: tuple[Any, ...]) -> None:
        if not said and event == "os.rename" and str(args[1]) == str(quick / "results.tsv"):
            said.append("")
            done = subprocess.run(["git", "add", "mine.txt"], cwd=quick, capture_output=True, text=True, check=False)
            said.append(done.stderr)

    sys.addaudithook(hear)
    assert Checkout(workspace).advance("autoresearch/t", new, old) == []
    assert "index.lock" in said[1]
    assert git(quick, "status", "--porcelain") == "?? mine.txt"
    git(quick, "add", "mine.txt")


@pytest.mark.parametrize("late", [False, True])
def test_checkout_stays_if_the_user_switches_while_the_branch_moves(quick: Path, late: bool) -> None:
    """Switch after the loop has looked at HEAD. Git sets HEAD last, when it has freed the index: `late`."""
    workspace = Workspace(quick, load_protocol(quick))
    git(quick, "switch", "--quiet", "-c", "autoresearch/t")
    old, text = workspace.head, (quick / "train.py").read_text()
    git(quick, "switch", "--quiet", "-c", "other")
    (quick / "notes.txt").write_text("mine\n")
    git(quick, "add", "notes.txt")
    commit(quick)
    git(quick, "switch", "--quiet", "autoresearch/t")
    kept = workspace.commit_candidate("refs/t/1", old, {"train.py": text.replace("RATE = 0.1", "RATE = 0.2")}, "kept")
    new = workspace.commit_results(kept, "commit\tval_bpb\n", "rows")
    steps: list[str] = []

    def hear(event: str, args: tuple[Any, ...]) -> None:
        if event != "subprocess.Popen" or len(steps) == 2:
            return
        if "--filters" in args[1] and not steps:
            steps.append("index")
            git(quick, "switch", "--quiet", "other")
            if late:
                git(quick, "symbolic-ref", "HEAD", "refs/heads/autoresearch/t")
        elif steps and "--quiet" in args[1] and "symbolic-ref" in args[1]:
            steps.append("HEAD")
            git(quick, "symbolic-ref", "HEAD", "refs/heads/other")

    sys.addaudithook(hear)
    assert Checkout(workspace).advance("autoresearch/t", new, old) == []
    assert steps == ["index", "HEAD"]
    assert git(quick, "rev-parse", "autoresearch/t") == new
    assert git(quick, "status", "--porcelain") == ""
    assert git(quick, "branch", "--show-current") == "other"


def test_checkout_with_a_staged_file_follows_the_branch(quick: Path) -> None:
    workspace = Workspace(quick, load_protocol(quick))
    git(quick, "switch", "--quiet", "-c", "autoresearch/t")
    new = workspace.commit_results(workspace.head, "commit\tval_bpb\n", "rows")
    (quick / "notes.txt").write_text("mine\n")
    git(quick, "add", "notes.txt")
    assert Checkout(workspace).advance("autoresearch/t", new, workspace.head) == []
    assert git(quick, "status", "--porcelain") == "A  notes.txt"
    assert git(quick, "show", "HEAD:results.tsv") == "commit\tval_bpb"


def test_files_that_git_was_told_to_leave_alone_stay_so(quick: Path) -> None:
    """Else the user's text would become an uncommitted change, and the session would refuse to go on."""
    workspace = Workspace(quick, load_protocol(quick))
    names = ["train.py", "prepare.py", "protocol.json", "pyproject.toml"]
    old = git(quick, "rev-parse", "HEAD")
    git(quick, "switch", "--quiet", "-c", "ahead")
    for name in names:
        (quick / name).write_text((quick / name).read_text() + "\n")
    commit(quick)
    new = git(quick, "rev-parse", "HEAD")
    git(quick, "switch", "--quiet", "main")
    git(quick, "update-index", "--skip-worktree", "train.py", "protocol.json")
    git(quick, "update-index", "--assume-unchanged", "prepare.py", "protocol.json")
    for name in ("train.py", "prepare.py"):
        (quick / name).write_text("mine = True\n")
    (quick / "protocol.json").unlink()  # as a sparse checkout does
    tags = git(quick, "ls-files", "-v")
    assert sorted(line[0] for line in tags.splitlines()) == ["H", "S", "h", "s"]
    checkout = Checkout(workspace)
    assert checkout.advance("main", new, old) == ["prepare.py", "protocol.json", "train.py"]
    assert git(quick, "ls-files", "-v") == tags
    assert git(quick, "write-tree") == git(quick, "rev-parse", f"{new}^{{tree}}")
    assert (quick / "train.py").read_text() == (quick / "prepare.py").read_text() == "mine = True\n"
    assert not (quick / "protocol.json").exists()
    assert checkout.changes() == []


def test_a_sparse_checkout_stays_sparse(quick: Path, cli: Cli) -> None:
    git(quick, "sparse-checkout", "set", "--no-cone", "/*", "!/train.py", "!/prepare.py")
    for count in (1, 2):
        go(cli, quick, count=count)
        assert git(quick, "ls-files", "-t", "train.py", "prepare.py").splitlines() == ["S prepare.py", "S train.py"]
        assert not (quick / "train.py").exists()
        assert git(quick, "status", "--porcelain") == ""
    assert git(quick, "show", "HEAD:train.py") != git(quick, "show", "main:train.py")


def test_the_branch_moves_after_a_git_that_writes_the_index(quick: Path, tmp_path: Path) -> None:
    """Its entry stays, and so does the loop's."""
    workspace = Workspace(quick, load_protocol(quick))
    git(quick, "switch", "--quiet", "-c", "autoresearch/t")
    old = workspace.head
    new = workspace.commit_results(old, "commit\tval_bpb\n", "rows")
    begun, gate = tmp_path / "begun", tmp_path / "gate"
    wait = f"touch {begun}; while [ ! -e {gate} ]; do sleep 0.02; done; cat"
    git(quick, "config", "filter.slow.clean", wait)
    (quick / ".git" / "info" / "attributes").write_text("mine.txt filter=slow\n")
    (quick / "mine.txt").write_text("mine\n")

    def hear(event: str, args: tuple[Any, ...]) -> None:
        if event == "os.link" and str(args[1]) == str(quick / ".git" / "index.lock"):
            gate.touch()

    with subprocess.Popen(["git", "add", "mine.txt"], cwd=quick) as adding:
        until(begun.exists, "git has not begun")
        sys.addaudithook(hear)
        assert Checkout(workspace).advance("autoresearch/t", new, old) == []
        gate.touch()
    assert adding.returncode == 0
    assert git(quick, "status", "--porcelain") == "A  mine.txt"


def test_a_lock_that_a_killed_git_has_left_ends_no_night(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "LOCK_SECONDS", 0.1)
    workspace = Workspace(quick, load_protocol(quick))
    git(quick, "switch", "--quiet", "-c", "autoresearch/t")
    old = workspace.head
    new = workspace.commit_results(old, "commit\tval_bpb\n", "rows")
    theirs = quick / ".git" / "index.lock"
    theirs.touch()
    assert Checkout(workspace).advance("autoresearch/t", new, old) == []
    sweep(workspace.git)
    assert theirs.exists()  # it may belong to a git that waits for an editor
    theirs.unlink()
    assert git(quick, "status", "--porcelain") == ""


def test_the_branch_moves_after_a_git_that_writes_its_ref(quick: Path) -> None:
    """`git gc` holds the lock for longer than git itself waits for it."""
    workspace = Workspace(quick, load_protocol(quick))
    git(quick, "switch", "--quiet", "-c", "autoresearch/t")
    old = workspace.head
    new = workspace.commit_results(old, "commit\tval_bpb\n", "rows")
    theirs = quick / ".git" / "refs" / "heads" / "autoresearch" / "t.lock"
    theirs.touch()
    tries: list[object] = []

    def hear(event: str, args: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen" and "update-ref" in args[1]:
            tries.append(args)
            if len(tries) == 2:
                theirs.unlink()

    sys.addaudithook(hear)
    assert Checkout(workspace).advance("autoresearch/t", new, old) == []
    assert git(quick, "rev-parse", "HEAD") == new
    assert len(tries) == 2


def test_a_ref_whose_lock_a_killed_git_has_left_is_named_with_the_remedy(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (checkout, git_module):
        monkeypatch.setattr(module, "LOCK_ATTEMPTS", 0)
    workspace = Workspace(quick, load_protocol(quick))
    git(quick, "switch", "--quiet", "-c", "autoresearch/t")
    old = workspace.head
    new = workspace.commit_results(old, "commit\tval_bpb\n", "rows")
    for ref, move in (
        ("refs/heads/autoresearch/t", lambda: Checkout(workspace).advance("autoresearch/t", new, old)),
        ("refs/autoresearch/t/1", lambda: workspace.keep("refs/autoresearch/t/1", new)),
    ):
        lock = quick / ".git" / f"{ref}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
        with pytest.raises(AutoresearchError, match=rf"^`git update-ref.*` failed in .*: {lock} exists$") as refused:
            move()
        assert f"delete it with `rm {lock}`" in refused.value.hint
        lock.unlink()
        move()


def test_a_branch_whose_name_is_not_utf_8_moves(quick: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    git(quick, "switch", "--quiet", "-c", name)
    workspace = Workspace(quick, load_protocol(quick))
    old = workspace.head
    new = workspace.commit_results(old, "commit\tval_bpb\n", "rows")
    assert Checkout(workspace).advance(name, new, old) == []
    assert git(quick, "rev-parse", "HEAD") == new
    delete_refs(workspace, {f"refs/heads/{name}": new})
    assert workspace.resolve(f"refs/heads/{name}") is None


def test_split_index_gets_no_part_for_each_commit(quick: Path) -> None:
    workspace = Workspace(quick, load_protocol(quick))
    git(quick, "config", "core.splitIndex", "true")
    git(quick, "switch", "--quiet", "-c", "autoresearch/t")
    git(quick, "update-index", "--split-index")
    before = {*(quick / ".git").glob("sharedindex.*")}
    for number in range(3):
        old = workspace.head
        new = workspace.commit_results(old, f"commit\tval_bpb\n{number}\n", "rows")
        assert Checkout(workspace).advance("autoresearch/t", new, old) == []
    assert {*(quick / ".git").glob("sharedindex.*")} <= before
    assert git(quick, "status", "--porcelain") == ""


def test_the_lock_of_a_killed_loop_is_swept(quick: Path) -> None:
    workspace = Workspace(quick, load_protocol(quick))
    left = quick / ".git" / "autoresearch-x"
    left.mkdir()
    (left / "held").touch()
    (quick / ".git" / "index.lock").hardlink_to(left / "held")
    sweep(workspace.git)
    assert not left.exists()
    git(quick, "add", "train.py")


def test_the_temporary_folder_of_an_earlier_version_is_swept(quick: Path) -> None:
    """It was killed before it held the index, so its folder has no file to lock."""
    left = quick / ".git" / f"{SCRATCH}x"
    left.mkdir()
    (left / "train.py.part").touch()
    sweep(Git(quick))
    assert not left.exists()


@pytest.mark.parametrize("event", ["open", "os.rename"])
def test_a_branch_moves_while_another_workspace_sweeps(quick: Path, event: str) -> None:
    """It sweeps when the temporary folder is about to be locked, or once the first file has left it."""
    workspace = Workspace(quick, load_protocol(quick))
    git(quick, "switch", "--quiet", "-c", "autoresearch/t")
    old = workspace.head
    new = workspace.commit_results(old, "commit\tval_bpb\n", "rows")
    seen: list[str] = []

    def hear(heard: str, args: tuple[Any, ...]) -> None:
        if not seen and heard == event and f".git/{SCRATCH}" in str(args[0]):
            seen.append(str(args[0]))
            sweep(workspace.git)

    sys.addaudithook(hear)
    assert Checkout(workspace).advance("autoresearch/t", new, old) == []
    assert seen
    assert git(quick, "status", "--porcelain") == ""
    assert not [*(quick / ".git").glob(f"{SCRATCH}*")]


def test_a_commit_that_a_person_makes_while_the_branch_moves_is_not_lost(quick: Path) -> None:
    workspace = Workspace(quick, load_protocol(quick))
    git(quick, "switch", "--quiet", "-c", "autoresearch/t")
    old = workspace.head
    new = workspace.commit_results(old, "commit\tval_bpb\n", "rows")
    git(quick, "commit", "--quiet", "--allow-empty", "-m", "theirs")
    theirs = workspace.head
    with pytest.raises(AutoresearchError):
        Checkout(workspace).advance("autoresearch/t", new, old)
    git(quick, "switch", "--quiet", "main")
    with pytest.raises(AutoresearchError):
        Checkout(workspace).advance("autoresearch/t", new, old)
    assert git(quick, "rev-parse", "autoresearch/t") == theirs
    assert not (quick / "results.tsv").exists()
