"""Recorded logs are told as faults of the GPU, as memory, or as mistakes of the candidate."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.errors import ExperimentError, Faulted, Violation
from agent.execution.allowance import Allowance
from agent.execution.evaluation import Evaluator, lacked_room, refusal
from agent.execution.gpu_fault import FULL_DISK, LONGEST_LOG, described, fault_in, fault_of_evaluator, remedy
from agent.execution.oom import ran_out
from agent.journal.experiment import Fault, Run
from agent.session.faults import hopeless
from tests.common.machine_faults import KINDS, LOGS, log_of

pytestmark = pytest.mark.quick

RECORDED = [pytest.param(path, id=f"{path.parent.name}-{path.stem}") for path in LOGS]
TIMEOUT, MISALIGNED = log_of("watchdog/metal_timeout"), log_of("kernel/cuda_misaligned")


@pytest.mark.parametrize("path", RECORDED)
def test_recorded_log_is_told_as_its_folder_says(path: Path) -> None:
    text, kind = path.read_text(), path.parent.name
    for returncode in (1, -6, 134):
        assert fault_in(returncode, text) == (kind if kind in KINDS else "")
        assert ran_out(returncode, text) == (kind == "memory")
    assert fault_in(0, text) == ""
    assert fault_in(None, text) == ""


def test_every_kind_has_its_words_and_its_remedy() -> None:
    kinds: tuple[Fault, ...] = ("watchdog", "kernel", "leak", "machine")
    assert set(kinds) == set(KINDS)
    assert len({described(kind) for kind in kinds}) == len({remedy(kind) for kind in kinds}) == len(kinds)


def test_long_log_is_told_by_its_end() -> None:
    assert fault_in(1, "step 1\n" * LONGEST_LOG + TIMEOUT) == "watchdog"
    assert fault_in(1, TIMEOUT + "step 1\n" * LONGEST_LOG) == ""
    assert fault_in(1, "Traceback (most recent call last):\n" + "  File\n" * 100_000) == ""


def test_fault_in_the_evaluator_is_told_from_a_refused_model(tmp_path: Path) -> None:
    log = tmp_path / "evaluator.log"
    reason = "the model cannot be evaluated: RuntimeError: " + MISALIGNED.splitlines()[-1].partition(": ")[2]
    assert fault_of_evaluator(reason, log) == "kernel"
    assert fault_of_evaluator("the model predicts tokens that it has not seen", log) == ""
    died = "the model crashed the process that evaluated it"
    log.write_text("")
    assert fault_of_evaluator(died, log) == ""
    log.write_text(log_of("watchdog/metal_interactivity_aborted"))
    assert fault_of_evaluator(died, log) == "watchdog"


@pytest.mark.parametrize(("kind", "expected"), [("watchdog/metal_interactivity", Faulted), ("own/shape", Violation)])
def test_run_whose_evaluation_a_fault_ended_is_not_voided(
    tmp_path: Path, kind: str, expected: type[ExperimentError]
) -> None:
    reason = f"the model cannot be evaluated: {log_of(kind).splitlines()[-1]}"
    said = f"print({json.dumps({'event': 'refused', 'reason': reason})!r}, flush=True)"
    with subprocess.Popen([sys.executable, "-c", said], stdout=subprocess.PIPE) as process:
        process.wait()
        error = refusal(Evaluator(tmp_path / "socket", tmp_path / "evaluator.log", process))
    assert type(error) is expected
    assert reason in str(error)


def test_run_whose_model_the_evaluator_cannot_store_is_not_voided(tmp_path: Path) -> None:
    event = {"event": "refused", "reason": "the evaluator cannot store the model: No space", "fault": "disk"}
    said = f"print({json.dumps(event)!r}, flush=True)"
    with subprocess.Popen([sys.executable, "-c", said], stdout=subprocess.PIPE) as process:
        process.wait()
        error = refusal(Evaluator(tmp_path / "socket", tmp_path / "evaluator.log", process))
    assert isinstance(error, Faulted)
    assert str(error) == f"{FULL_DISK} in the evaluation: {event['reason']}"
    ended = hopeless(Run(None, 1.0, error=str(error), fault=error.fault), "6 runs in a row")
    assert str(ended) == f"{FULL_DISK} in 6 runs in a row, the last time with: {error}"
    assert ended.hint.startswith("free some disk space, also in TMPDIR; then run the same command again")


@pytest.mark.parametrize(
    ("size", "of_others", "candidates"),
    [
        ("small", 0, True),  # it has filled the disk itself: what it wrote to is gone with its processes
        ("large", 0, True),
        ("large", 2**40, False),
        ("larger", 2**40, True),
        ("unknown", 2**40, False),  # the disk failed
    ],
)
def test_full_disk_is_a_fault_if_others_filled_it(tmp_path: Path, size: str, of_others: int, candidates: bool) -> None:
    free = shutil.disk_usage(tmp_path).free
    sizes = {"small": 2**10, "large": free + 2**39, "larger": free + 2**41}
    event: dict[str, object] = {"event": "refused", "reason": "No space", "fault": "disk"}
    event |= {"bytes": sizes[size]} if size in sizes else {}
    said = f"print({json.dumps(event)!r}, flush=True)"
    with subprocess.Popen([sys.executable, "-c", said], stdout=subprocess.PIPE) as process:
        process.wait()
        found = Evaluator(tmp_path / "socket", tmp_path / "evaluator.log", process, free + of_others)
        assert lacked_room(found) is candidates


def test_model_that_came_too_late_is_repeated_for_no_fault(tmp_path: Path) -> None:
    event = {"event": "refused", "reason": "No space", "fault": "disk"}
    said = f"print({json.dumps(event)!r}, flush=True)"
    with subprocess.Popen([sys.executable, "-c", said], stdout=subprocess.PIPE) as process:
        process.wait()
        found = Evaluator(tmp_path / "socket", tmp_path / "evaluator.log", process)
        in_time = refusal(found, Allowance(300.0, own=5.0), time.monotonic() - 301)
        late = refusal(found, Allowance(300.0, own=5.0), time.monotonic() - 1000)
    assert (type(in_time), type(late)) == (Faulted, Violation)
    assert str(late).startswith("voided: it handed over its model after 1000")
