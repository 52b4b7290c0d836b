"""Each operation of the loop fails once: at most one error is printed, and the next start reaches the same result."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.common.fault_table import SAMPLE, try_all

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="the faults are Linux's")


def test_loop_survives_sampled_faults(tmp_path: Path) -> None:
    outcomes = try_all(tmp_path, choose=5)
    assert len(outcomes) == SAMPLE
    assert not [pair for pair in outcomes if pair[1].wrong]


@pytest.mark.slow
def test_loop_survives_every_fault(tmp_path: Path) -> None:
    outcomes = try_all(tmp_path, choose=slice(None))
    assert len(outcomes) > 200
    assert not [pair for pair in outcomes if pair[1].wrong]
