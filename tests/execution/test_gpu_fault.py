"""Faults of a GPU or its driver: the run is repeated, then with a smaller batch, and never counts as a crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.decision.decide import DecisionConfig, judge
from agent.execution import measure
from agent.execution.gpu_fault import fault_in
from agent.journal.experiment import Fault, Run, Verdict
from agent.pruning.monitor import RunMonitor
from tests.common.experiments import case, kept
from tests.common.sessions import assert_consistent, journal, rows
from tests.common.workspaces import QUICK, Cli, commit_all, set_protocol

METAL = (
    "libc++abi: terminating due to uncaught exception of type std::runtime_error: "
    "[METAL] Command buffer execution failed: "
)
TIMEOUT = f"{METAL}Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)."
INTERACTIVITY = f"{METAL}Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)"
VICTIM = f"{METAL}Discarded (victim of GPU error/recovery) (00000005:kIOGPUCommandBufferCallbackErrorInnocentVictim)"
IGNORED = (
    f"{METAL}Ignored (for causing prior/excessive GPU errors) "
    "(00000004:kIOGPUCommandBufferCallbackErrorSubmissionsIgnored)"
)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (TIMEOUT, "watchdog"),
        (INTERACTIVITY, "watchdog"),
        (f"{METAL}Caused GPU Hang Error (00000003:kIOGPUCommandBufferCallbackErrorHang)", "watchdog"),
        ("RuntimeError: CUDA error: the launch timed out and was terminated", "watchdog"),
        (VICTIM, "machine"),
        (IGNORED, "machine"),
        ("RuntimeError: CUDA error: uncorrectable ECC error encountered", "machine"),
        ("RuntimeError: CUDA error: all CUDA-capable devices are busy or unavailable", "machine"),
        ("RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable", "machine"),
        (
            "Unable to determine the device handle for GPU: GPU is lost.",
            "machine",
        ),
        ("Failed to initialize NVML: Driver/library version mismatch", "machine"),
        ("RuntimeError: CUDA error: an illegal memory access was encountered", ""),
        ("RuntimeError: CUDA error: device-side assert triggered", ""),
        (f"{METAL}Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)", ""),
        ("TimeoutError: the data took too long", ""),
    ],
)
def test_recorded_texts_are_recognised(text: str, fault: Fault) -> None:
    assert fault_in(134, f"step 1\n{text}\n") == fault
    assert fault_in(0, text) == ""


STAYS = """DEVICE_BATCH_SIZE = 8  # search: off
seen = SEEN
tried = len(open(seen).read()) if os.path.exists(seen) else 0
if RATE != 0.1 and DEVICE_BATCH_SIZE > LEAST and tried < TIMES:
    open(seen, "a").write("x")
    sys.exit(WORDS)
loss ="""
FAULTY = QUICK.replace("loss =", STAYS).replace("import sys", "import os, sys")
FAULTY = FAULTY.replace("# search: 1..16", "# search: off").replace("# search: 8..512", "# search: off")


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file that outlives a run, and shorten the pause before a repeated run."""
    monkeypatch.setattr(measure, "PAUSE_SECONDS", 0.3)
    folder = tmp_path / "outlives"
    folder.mkdir()
    monkeypatch.setenv("AUTORESEARCH_READ", str(folder))
    return folder / "seen"


def session(
    folder: Path, cli: Cli, seen: Path, words: str, times: int, least: int, policy: str = "reduce_batch"
) -> str:
    text = FAULTY.replace("SEEN", repr(str(seen))).replace("TIMES", str(times)).replace("LEAST", str(least))
    (folder / "train.py").write_text(text.replace("WORDS", repr(words)))
    set_protocol(folder, safety={"oomPolicy": policy, "crashStatus": "discard"})
    done = cli(folder, "run", "--tag", "t", "--max-experiments", "1", "--verdict", "greedy", "--sandbox", "off")
    assert done.returncode == 0, done.stderr
    assert_consistent(folder)
    return done.stderr


@pytest.mark.parametrize("words", [TIMEOUT, INTERACTIVITY, VICTIM, IGNORED])
def test_transient_fault_is_measured_again(quick: Path, cli: Cli, seen: Path, words: str) -> None:
    said = session(quick, cli, seen, words, times=1, least=0)
    assert rows(quick)[1]["status"] == "keep"
    assert "repeating the run" in said
    events = [event["event"] for event in journal(quick) if event.get("number") == 1]
    assert events.count("started") == 2
    assert events.count("measured") == 1
    assert "DEVICE_BATCH_SIZE" not in rows(quick)[1]["description"]


@pytest.mark.parametrize(("words", "why"), [(TIMEOUT, "watchdog"), (VICTIM, "the GPU failed")])
def test_lasting_fault_halves_batch(quick: Path, cli: Cli, seen: Path, words: str, why: str) -> None:
    session(quick, cli, seen, words, times=99, least=4)
    row = rows(quick)[1]
    assert row["status"] == "keep"
    assert "DEVICE_BATCH_SIZE 8 -> 4" in row["description"]
    assert why in row["description"]


@pytest.mark.parametrize(("policy", "least"), [("reduce_batch", 0), ("fail", 4)])
def test_unresolved_fault_is_not_a_crash(quick: Path, cli: Cli, seen: Path, policy: str, least: int) -> None:
    session(quick, cli, seen, TIMEOUT, 99, least, policy)
    assert rows(quick)[1]["status"] == "discard"
    reason = next(e["reason"] for e in journal(quick) if e["event"] == "judged" and e["number"] == 1)
    assert reason.startswith("could not be measured here: the GPU's watchdog")
    assert "METAL" in reason


def test_baseline_is_measured_again_after_fault(quick: Path, cli: Cli, seen: Path) -> None:
    text = FAULTY.replace("RATE != 0.1 and ", "").replace("SEEN", repr(str(seen))).replace("TIMES", "1")
    (quick / "train.py").write_text(text.replace("LEAST", "0").replace("WORDS", repr(VICTIM)))
    commit_all(quick, "faulty")
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "0", "--sandbox", "off")
    assert done.returncode == 0, done.stderr
    assert len(rows(quick)) == 1, done.stderr


def test_a_run_that_a_fault_ended_is_no_evidence_against_one_that_was_not() -> None:
    base, faulted = kept(0, [2.0, 2.01]), Run(None, 1.0, error="the GPU failed", fault="machine")
    assert judge(case(base, [Run(1.9, 9.0), faulted]), DecisionConfig()) == "candidate"
    given_up = judge(case(base, [Run(1.9, 9.0), faulted, faulted]), DecisionConfig())
    assert isinstance(given_up, Verdict)
    assert given_up.status == "discard"


def test_restarted_log_is_read_from_start(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text("".join(f"step {n}/100 loss: {9 - n / 20}\n" for n in range(50)))
    watch = RunMonitor(log, 900.0, 300.0, None)
    watch(1.0)
    log.write_text("step 1/100 loss: 9.0\n")
    watch(2.0)
    assert [round(point.loss, 2) for point in watch._reader.curve] == [9.0]
