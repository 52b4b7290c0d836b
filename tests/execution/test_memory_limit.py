"""`--max-memory-gb` is enforced, or the program says that it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.common.sessions import journal, rows
from tests.common.workspaces import QUICK, Cli, commit_all

PEAK = 'print("peak_vram_mb:     2048.0")'


def printing(folder: Path, peak: str) -> None:
    (folder / "train.py").write_text(QUICK.replace(PEAK, peak))
    commit_all(folder, "memory")


def run(folder: Path, cli: Cli, *more: str, count: int = 3) -> tuple[int, str]:
    done = cli(folder, "run", "--tag", "t", "--max-experiments", str(count), "--verdict", "greedy", *more)
    return done.returncode, done.stderr


@pytest.mark.parametrize("peak", ["45,060.2", "\\x1b[1m45060.2\\x1b[0m"])
def test_memory_limit_applies_to_any_number_format(quick: Path, cli: Cli, peak: str) -> None:
    printing(quick, f'print("peak_vram_mb:     {peak}")')
    assert run(quick, cli, "--max-memory-gb", "2")[0] == 0
    assert [row["status"] for row in rows(quick)[1:]] == ["discard"] * 3
    assert {row["memory_gb"] for row in rows(quick)} == {"44.0"}
    reasons = [event["reason"] for event in journal(quick) if event["event"] == "judged"][1:]
    assert set(reasons) == {"needs 44.0 GB, --max-memory-gb is 2"}


@pytest.mark.parametrize("peak", ["", 'print("peak_vram_mb: 45.1 GB")', 'print("memory: 45060.2")'])
def test_unreadable_memory_metric_is_refused_after_baseline(quick: Path, cli: Cli, peak: str) -> None:
    printing(quick, peak)
    code, said = run(quick, cli, "--max-memory-gb", "2")
    assert code == 3
    assert "--max-memory-gb 2 cannot be enforced: the protocol's secondaryMetrics find no peak_vram_mb" in said
    assert sum(event["event"] == "started" for event in journal(quick)) == 1
    assert run(quick, cli, "--max-memory-gb", "2")[0] == 3
    # Without the limit, the session continues from the measured runs.
    assert run(quick, cli, count=1)[0] == 3  # the session keeps its flags
    assert run(quick, cli, "--max-memory-gb", "inf", count=1)[0] == 0
    assert sum(event["event"] == "started" for event in journal(quick)) == 2
    assert len(rows(quick)) == 2
    assert run(quick, cli, "--max-memory-gb", "2")[0] == 3


def test_candidate_without_memory_metric_is_not_kept(quick: Path, cli: Cli) -> None:
    silent = f"if (RATE, DEPTH, WIDTH) == (0.1, 4, 64):\n    {PEAK}"
    printing(quick, silent)
    assert run(quick, cli, "--max-memory-gb", "4")[0] == 0
    assert [row["status"] for row in rows(quick)[1:]] == ["discard"] * 3
