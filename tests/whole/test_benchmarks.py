"""The benchmarks of the loop run. Short ones miss their targets, so only what they print is checked."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.common.workspaces import ROOT

BRIEF = {
    ("overhead", "--experiments", "3"): "3 experiments: overhead median",
    ("ahead", "--seconds", "0.2", "--experiments", "3", "--rounds", "1"): "experiments an hour:",
    ("soak", "--experiments", "30"): "30 experiments, overhead",
}


@pytest.mark.parametrize(("command", "said"), BRIEF.items(), ids=lambda value: value[0])
def test_benchmark_of_the_loop_runs(command: tuple[str, ...], said: str) -> None:
    name, *flags = command
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *flags], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert said in done.stdout
