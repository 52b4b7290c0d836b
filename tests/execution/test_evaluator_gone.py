"""Runs whose evaluator is killed by something else, with the real harness."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from agent.execution.gpu_fault import remedy
from agent.execution.measure import Runner, measure
from agent.execution.process import Observer
from agent.room.sandbox import UNCONFINED
from tests.common.training import script
from tests.common.workspaces import git


def killer(kills: Callable[[list[str]], bool]) -> Observer:
    """Returns an observer that kills the evaluator's processes with such a command, as soon as there are any."""
    killed = False

    def tick(_: float) -> None:
        nonlocal killed
        for each in () if killed else psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                command = each.cmdline()
                if any("evaluator.py" in word for word in command) and kills(command):
                    each.kill()
                    killed = True

    return Observer(tick=tick)


def training(runner: Runner, steps: str = "") -> str:
    workspace = runner.workspace
    text = {"train.py": script("middle", steps)}
    return workspace.commit_candidate("refs/t/1", workspace.head, text, "a script")


@pytest.mark.parametrize("patient", [False, True])
def test_evaluator_that_is_killed_is_a_fault_of_the_machine(runner: Runner, tmp_path: Path, patient: bool) -> None:
    """Its run is repeated: no run in a sandbox can have caused that."""
    ready = replace(runner, patient=patient)
    found = measure(ready, training(runner), tmp_path / "run.log", killer(lambda command: "--work" not in command))
    assert (found.metric, found.fault) == (None, "machine")
    assert (found.error or "").startswith("the evaluator was killed or crashed before it answered: ")
    assert remedy(found.fault, found.error or "").startswith("find out what ends processes here")


def test_full_memory_of_a_run_is_its_own_although_its_evaluator_was_killed_too(runner: Runner, tmp_path: Path) -> None:
    """Without a sandbox, the run itself does what a system that lacks memory would do."""
    steps = f"""
import os, sys, psutil
for each in psutil.Process({os.getpid()}).children(recursive=True):
    words = each.cmdline()
    if any("evaluator.py" in word for word in words) and "--work" not in words:
        each.kill()
print("MemoryError: no room", file=sys.stderr, flush=True)
os._exit(1)
"""
    found = measure(replace(runner, sandbox=UNCONFINED), training(runner, steps), tmp_path / "run.log")
    assert (found.out_of_memory, found.fault) == (True, "")
    assert (found.error or "").startswith("out of memory: exit code 1: MemoryError: no room")


def test_worker_that_is_killed_during_the_training_costs_no_run(runner: Runner, tmp_path: Path) -> None:
    found = measure(runner, training(runner), tmp_path / "run.log", killer(lambda command: "--work" in command))
    assert found.error is None
    assert found.metric is not None


def test_crash_with_the_words_of_a_missing_evaluator_stays_the_candidates(runner: Runner, tmp_path: Path) -> None:
    commit = training(runner, "raise SystemExit('the evaluator does not answer')")
    found = measure(runner, commit, tmp_path / "run.log")
    assert (found.metric, found.fault) == (None, "")
    assert git(runner.workspace.folder, "status", "--porcelain", "-uno") == ""
