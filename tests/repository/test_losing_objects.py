"""Objects that another git deletes before a ref keeps them, or of which a power cut leaves an empty file."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.errors import AutoresearchError
from agent.protocol.load import load_protocol
from agent.repository.loose import remove_empty_objects
from agent.repository.workspace import Workspace
from tests.common.workspaces import git, require_git


def empty(folder: Path, *names: str) -> None:
    """Empty the files of objects."""
    for name in names:
        found = git(folder, "rev-parse", name)
        file = folder / ".git" / "objects" / found[:2] / found[2:]
        file.chmod(0o644)
        file.write_bytes(b"")


@contextmanager
def pruning(folder: Path, before: str, times: int) -> Iterator[list[str]]:
    """Delete all objects that no ref keeps before each of the first calls of a git command."""
    done: list[str] = []
    active = True

    def hear(event: str, args: tuple[Any, ...]) -> None:
        if active and event == "subprocess.Popen" and before in args[1] and len(done) < times:
            done.append("")
            subprocess.run(["git", "prune", "--expire=now"], cwd=folder, check=True)

    sys.addaudithook(hear)
    try:
        yield done
    finally:
        active = False


@pytest.mark.parametrize("before", ["update-index", "write-tree", "commit-tree", "update-ref"])
@pytest.mark.parametrize("times", [1, 3])
def test_commit_survives_pruning_before_its_ref_is_set(quick: Path, before: str, times: int) -> None:
    workspace = Workspace(quick, load_protocol(quick))
    with pruning(quick, before, times) as done:
        commit = workspace.commit_candidate("refs/t/1", workspace.head, {"train.py": "RATE = 0.2\n"}, "a try")
    assert len(done) == times
    assert git(quick, "rev-parse", "refs/t/1") == commit
    git(quick, "prune", "--expire=now")
    assert git(quick, "show", f"{commit}:train.py") == "RATE = 0.2"
    assert "error" not in git(quick, "fsck")


def test_rows_survive_pruning_before_the_branch_has_them(quick: Path) -> None:
    workspace = Workspace(quick, load_protocol(quick))
    new = workspace.commit_results(workspace.head, "commit\tval_bpb\n", "rows", "refs/t/head")
    git(quick, "prune", "--expire=now")
    assert git(quick, "show", f"{new}:results.tsv") == "commit\tval_bpb"


def test_commit_that_is_pruned_each_time_is_an_error_without_a_ref(quick: Path) -> None:
    workspace = Workspace(quick, load_protocol(quick))
    with pruning(quick, "update-ref", 10**6), pytest.raises(AutoresearchError, match=r"no longer has|losing parts"):
        workspace.commit_candidate("refs/t/1", workspace.head, {"train.py": "RATE = 0.2\n"}, "a try")
    assert git(quick, "for-each-ref", "refs/t") == ""


@pytest.mark.parametrize("parts", [("", ":train.py"), ("", "^{tree}"), ("", "^{tree}", ":train.py")])
def test_empty_files_of_objects_are_written_again(quick: Path, parts: tuple[str, ...]) -> None:
    workspace = Workspace(quick, load_protocol(quick))
    files, head = {"train.py": "RATE = 0.2\n"}, workspace.head
    lost = workspace.commit_candidate("refs/t/1", head, files, "a try")
    assert workspace.is_whole(lost, files)
    empty(quick, *(f"{lost}{part}" for part in reversed(parts)))
    assert workspace.damaged({lost: files, head: files}) == [lost]
    commit = workspace.commit_candidate("refs/t/1", head, files, "a try")
    assert workspace.damaged({commit: files}) == []
    assert git(quick, "show", "refs/t/1:train.py") == "RATE = 0.2"


def test_each_object_and_ref_is_synced_to_the_disk(quick: Path, tmp_path: Path) -> None:
    """Otherwise the journal, which is synced, names a commit that a power cut takes away."""
    require_git(2, 36)
    trace = tmp_path / "trace"
    workspace = Workspace(quick, load_protocol(quick))
    workspace.git._env["GIT_TRACE2_EVENT"] = str(trace)
    workspace.commit_candidate("refs/t/1", workspace.head, {"train.py": "RATE = 0.2\n"}, "a try")
    synced = [line for line in trace.read_text().splitlines() if '"category":"fsync"' in line]
    assert sum(int(re.findall(r'"value":"(\d+)"', line)[0]) for line in synced) >= 4  # blob, tree, commit, ref


def test_object_that_another_git_is_writing_stays(quick: Path) -> None:
    workspace = Workspace(quick, load_protocol(quick))
    commit = workspace.head
    being_written, lost = (quick / ".git" / "objects" / commit[:2] / name for name in ("tmp_obj_Ab3dE6", "0" * 38))
    being_written.touch()
    lost.touch()
    remove_empty_objects(workspace.git)
    assert being_written.exists()
    assert not lost.exists()
