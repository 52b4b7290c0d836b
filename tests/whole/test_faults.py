"""Each operation of the loop fails once: at most one error is printed, and the next start reaches the same result."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.common.fault_table import SAMPLE, try_all
from tests.common.fault_trials import faults, operations, try_out
from tests.common.faults import Fault
from tests.common.workspaces import make_quick

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="the faults are Linux's")


def test_loop_survives_sampled_faults(tmp_path: Path) -> None:
    outcomes = try_all(tmp_path, choose=5)
    assert len(outcomes) == SAMPLE
    assert not [pair for pair in outcomes if pair[1].wrong]


def test_loop_ends_where_git_cannot_say_which_branch_is_checked_out(tmp_path: Path) -> None:
    """The fourth and fifth time are within the move of the branch, before and under the lock of the index."""
    make_quick(tmp_path / "fresh")
    for nth in (4, 5):
        workspace = tmp_path / str(nth)
        shutil.copytree(tmp_path / "fresh", workspace)
        outcome = try_out(workspace, Fault("git", "symbolic-ref", nth, "EIO"), lambda _: "")
        assert (outcome.code, outcome.again, outcome.wrong) == (1, 0, "")


def test_loop_goes_on_without_its_lock_and_note_in_the_git_folder(tmp_path: Path) -> None:
    make_quick(tmp_path / "fresh")
    shutil.copytree(tmp_path / "fresh", tmp_path / "plain")
    found = operations(tmp_path / "plain", tmp_path / "counts")
    # The first such name is the lock. Later ones are folders of git commands, without which these cannot go on.
    chosen = [each for each in faults(found) if each.name == ".git/N.json" or (each.name, each.nth) == (".git/N", 1)]
    assert {each.kind for each in chosen} >= {"open", "remove"}
    for number, fault in enumerate(chosen):
        workspace = tmp_path / str(number)
        shutil.copytree(tmp_path / "fresh", workspace)
        outcome = try_out(workspace, fault, lambda _: "")
        assert (outcome.code, outcome.again, outcome.wrong) == (0, 0, ""), fault


@pytest.mark.slow
def test_loop_survives_every_fault(tmp_path: Path) -> None:
    outcomes = try_all(tmp_path, choose=slice(None))
    assert len(outcomes) > 200
    assert not [pair for pair in outcomes if pair[1].wrong]
