"""Each operation of the loop fails once: at most one error is printed, and the next start reaches the same result."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.common.fault_table import SAMPLE, try_all
from tests.common.fault_trials import try_out
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


@pytest.mark.slow
def test_loop_survives_every_fault(tmp_path: Path) -> None:
    outcomes = try_all(tmp_path, choose=slice(None))
    assert len(outcomes) > 200
    assert not [pair for pair in outcomes if pair[1].wrong]
