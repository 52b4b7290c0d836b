"""The system's tools that keep it awake, replaced on PATH by scripts that record how they are called."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from agent.execution.awake import kept_awake
from agent.execution.conditions import Clock, clock, conditions, swapped

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(("platform", "tool"), [("darwin", "caffeinate"), ("linux", "systemd-inhibit")])
def test_keep_awake_tool_runs_while_session_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, tool: str
) -> None:
    noted = tmp_path / "noted"
    script = tmp_path / tool
    script.write_text(f'#!/bin/sh\necho "$$ $@" > {noted}.part; mv {noted}.part {noted}\nexec sleep 600\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with kept_awake(platform):
        deadline = time.monotonic() + 20
        while not noted.exists() and time.monotonic() < deadline:
            os.sched_yield()
        pid, *words = noted.read_text().split()
    assert str(os.getpid()) in " ".join(words)
    assert ("-is" in words) is (platform == "darwin")
    assert "-d" not in words
    assert not Path(f"/proc/{pid}").exists() or platform == "darwin"


def test_keep_awake_raises_nothing_without_a_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for platform in ("darwin", "linux", "plan9"):
        with kept_awake(platform):
            pass


def test_thermal_throttling_is_recorded_on_mac(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "pmset"
    tool.write_text(
        "#!/bin/sh\n[ \"$*\" = '-g therm' ] && printf 'CPU_Scheduler_Limit = 100\\nCPU_Speed_Limit = 62\\n'\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert conditions(clock())["speed_limit"] == 62


def test_conditions_are_plain_numbers() -> None:
    found = conditions(clock())
    assert "load" in found
    assert "others" in found
    assert found["swapped_gb"] >= 0
    assert all(isinstance(value, float | int) for value in found.values())


def test_swap_that_grew_or_was_written_counts_and_swap_that_shrank_does_not() -> None:
    def at(used: int, written: int) -> Clock:
        return Clock(0.0, 0.0, 0.0, 0.0, (used * 2**30, written * 2**30))

    assert swapped(at(1, 0), at(3, 0)) == 2.0
    assert swapped(at(3, 0), at(1, 0)) == 0.0
    assert swapped(at(8, 5), at(8, 9)) == 4.0
    assert swapped(Clock(0.0, 0.0, 0.0, 0.0), at(1, 1)) is None
