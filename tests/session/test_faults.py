"""Runs that a fault of the GPU ended are repeated, a candidate that provokes faults crashes, a sick machine ends it."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent.decision.decide import DecisionConfig, judge
from agent.errors import MachineFault
from agent.execution.process import run_command
from agent.journal.events import Event
from agent.journal.experiment import Run, Verdict
from agent.journal.faults import NO_FAULTS, Faults
from agent.journal.journal import fold, read
from agent.journal.paths import journal_path, stop_file
from agent.journal.state import State
from agent.report.timing import time_spent
from agent.session import faults
from tests.common.experiments import case, kept
from tests.common.journals import as_named
from tests.common.machine_faults import Plan, faulty, log_of
from tests.common.processes import start, wait_for
from tests.common.sessions import assert_consistent, events, journal, keep_in_turn, rows
from tests.common.workspaces import QUICK, Cli, commit_all, set_protocol

TIMEOUT, VICTIM = log_of("watchdog/metal_timeout"), log_of("machine/metal_innocent_victim")
MISALIGNED, LEAK = log_of("kernel/cuda_misaligned"), log_of("leak/metal_resource_limit")
KINDS = [pytest.param(text, id=text[-40:].strip()) for text in (TIMEOUT, VICTIM, MISALIGNED, LEAK)]
FLAGS = ("--tag", "t", "--verdict", "greedy", "--sandbox", "off")
OF_CANDIDATES = "RATE != 0.1"
# Only RATE is searched, so that every candidate changes it.
ONE = QUICK.replace("# search: 1..16", "# search: off").replace("# search: 8..512", "# search: off")
WITH_BATCH = ONE.replace("RATE =", "DEVICE_BATCH_SIZE = 8  # search: off\nRATE =")


@pytest.fixture
def plan(tmp_path: Path, quick: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """What the runs of `quick` fail with. Pauses are shortened."""
    monkeypatch.setattr(faults, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(faults, "LONGEST_PAUSE", 0.05)
    found = Plan(tmp_path / "outlives")
    (quick / "train.py").write_text(faulty(found, WITH_BATCH))
    commit_all(quick, "fails as planned")
    return found


def run(folder: Path, cli: Cli, count: int, *args: str, code: int = 0) -> str:
    done = cli(folder, "run", *FLAGS, "--max-experiments", str(count), *args)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def state_of(folder: Path) -> State:
    return fold(journal_path(folder, "t"))


def reason(folder: Path, number: int = 1) -> str:
    return str(next(e["reason"] for e in events(folder, "judged") if e["number"] == number))


def test_pause_doubles_up_to_its_limit() -> None:
    pauses = [faults.pause_after(count) for count in range(1, 2000)]
    assert pauses[:4] == [3.0, 6.0, 12.0, 24.0]
    assert max(pauses) == pauses[-1] == faults.LONGEST_PAUSE


@pytest.mark.parametrize("text", KINDS)
def test_transient_fault_is_measured_again(quick: Path, cli: Cli, plan: Plan, text: str) -> None:
    plan.fail(text, when=OF_CANDIDATES)
    said = run(quick, cli, 1)
    assert rows(quick)[1]["status"] == "keep"
    assert "DEVICE_BATCH_SIZE" not in rows(quick)[1]["description"]
    kinds = [event["event"] for event in journal(quick) if event.get("number") == 1]
    assert kinds == ["proposed", "committed", "started", "faulted", "started", "measured", "judged", "recorded"]
    assert "#1 repeated in 0.0s: " in said
    assert "repeated  1 run after faults of the GPU, " in said
    assert_consistent(quick)


@pytest.mark.parametrize("text", [MISALIGNED, LEAK, VICTIM])
def test_candidate_that_provokes_faults_crashes_and_the_session_goes_on(
    quick: Path, cli: Cli, plan: Plan, text: str
) -> None:
    plan.fail(when=OF_CANDIDATES, always=text)
    run(quick, cli, 2)
    assert [row["status"] for row in rows(quick)] == ["keep", "crash", "crash"]
    assert reason(quick).startswith("crashed 6 times in a row while #0 ran: ")
    assert [event["provoked"] for event in journal(quick) if "provoked" in event] == [6, 6]
    assert [event["of"] for event in events(quick, "measured") if "of" in event] == [0] * 4
    assert state_of(quick).faults.tonight == 0
    assert_consistent(quick)


def test_provoked_watchdog_halves_batch(quick: Path, cli: Cli, plan: Plan) -> None:
    plan.fail(when=f"{OF_CANDIDATES} and DEVICE_BATCH_SIZE > 4", always=TIMEOUT)
    run(quick, cli, 1)
    row = rows(quick)[1]
    assert row["status"] == "keep"
    assert "DEVICE_BATCH_SIZE 8 -> 4: the GPU's watchdog" in row["description"]


@pytest.mark.parametrize("policy", ["reduce_batch", "fail"])
def test_provoked_watchdog_without_a_remedy_is_not_a_crash(quick: Path, cli: Cli, plan: Plan, policy: str) -> None:
    if policy != "reduce_batch":  # which is the default
        set_protocol(quick, safety={"oomPolicy": policy, "crashStatus": "discard"})
    plan.fail(when=OF_CANDIDATES, always=TIMEOUT)
    run(quick, cli, 1)
    assert rows(quick)[1]["status"] == "discard"
    assert reason(quick).startswith("could not be measured here: the GPU's watchdog")
    assert "METAL" in reason(quick)


def test_candidate_is_not_blamed_if_the_incumbent_fails_too(quick: Path, cli: Cli, plan: Plan) -> None:
    run(quick, cli, 0)
    plan.fail(*[MISALIGNED] * (faults.SUSPICIOUS + 2))
    run(quick, cli, 1)
    assert [event.get("of") for event in events(quick, "faulted")] == [None] * faults.SUSPICIOUS + [0, 0]
    assert [row["status"] for row in rows(quick)] == ["keep", "keep"]
    assert_consistent(quick)


def test_candidate_is_not_blamed_for_a_few_faults_early_in_a_night(quick: Path, cli: Cli, plan: Plan) -> None:
    plan.fail(VICTIM, TIMEOUT, MISALIGNED, LEAK, TIMEOUT, when=OF_CANDIDATES)
    run(quick, cli, 1)
    assert [row["status"] for row in rows(quick)] == ["keep", "keep"]


@pytest.mark.parametrize(
    ("others", "finished", "needed"), [(0, 1, 9), (0, 2, 7), (0, 20, 3), (1, 30, 4), (0, 1000, 2), (30, 40, 11)]
)
def test_faults_in_a_row_that_a_candidate_needs_to_be_blamed(others: int, finished: int, needed: int) -> None:
    pending = case(kept(0, [2.0]), []).pending

    def own(count: int) -> bool:
        counts = Faults(tonight=others + count, finished=finished)
        return faults.is_own(State(faults=counts), replace(pending, faulted=count))

    assert [own(count) for count in (needed - 1, needed)] == [False, True]


def test_baseline_is_measured_again_after_fault(quick: Path, cli: Cli, plan: Plan) -> None:
    plan.fail(VICTIM, TIMEOUT)
    run(quick, cli, 0)
    assert len(rows(quick)) == 1
    assert [event["number"] for event in events(quick, "faulted")] == [0, 0]


def test_baseline_that_always_fails_ends_the_session_and_the_next_run_measures_it(
    quick: Path, cli: Cli, plan: Plan
) -> None:
    plan.fail(always=VICTIM)
    said = run(quick, cli, 1, code=MachineFault.exit_code)
    count = faults.MOST_IN_A_ROW
    assert f"error: the GPU failed in {count} runs in a row, the last time with: the GPU or its driver failed" in said
    assert "hint: restart the machine; check an NVIDIA card with `nvidia-smi`; then run the same command" in said
    assert len(events(quick, "faulted")) == count
    assert state_of(quick).ended is not None
    plan.fail()
    run(quick, cli, 1)
    assert_consistent(quick)
    assert len(rows(quick)) == 2


def test_sick_machine_ends_the_night_and_the_next_run_resumes_its_experiment(
    quick: Path, cli: Cli, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(quick, cli, 1)
    monkeypatch.setattr(faults, "MOST_A_NIGHT", 9)
    plan.fail(always=TIMEOUT)
    said = run(quick, cli, 3, code=MachineFault.exit_code)
    assert "the GPU failed in 9 runs tonight, the last time with: the GPU's watchdog stopped it" in said
    assert "pmset displaysleepnow" in said
    state = state_of(quick)
    assert state.pending is not None
    assert state.pending.number == 2
    assert len(rows(quick)) == 2
    status = cli(quick, "status")
    assert "repeated 9 runs after faults of the GPU, " in status.stdout
    shown = json.loads(cli(quick, "status", "--json").stdout)["data"]["faults"]
    assert shown == {"runs": 9, "seconds": pytest.approx(lost(quick)), "until": None}

    plan.fail(*[TIMEOUT] * 2)
    run(quick, cli, 3)
    assert len([event for event in events(quick, "proposed") if event["number"] == 2]) == 1
    assert "crash" not in [row["status"] for row in rows(quick)]
    assert len(rows(quick)) == 4
    assert_consistent(quick)


def lost(folder: Path) -> float:
    return float(sum(event["seconds"] + event["pause"] for event in events(folder, "faulted")))


def test_report_states_the_time_lost(quick: Path, cli: Cli, plan: Plan) -> None:
    plan.fail(VICTIM, TIMEOUT, MISALIGNED, when=OF_CANDIDATES)
    run(quick, cli, 1)
    spent = time_spent(read(journal_path(quick, "t")), as_named)
    assert spent.faults >= lost(quick) > 0
    assert spent.crashes == spent.interruptions == 0


def test_runs_of_a_comparison_are_repeated(quick: Path, cli: Cli, plan: Plan) -> None:
    run(quick, cli, 3)
    plan.fail(VICTIM, TIMEOUT)
    done = cli(quick, "confirm", "--runs", "2", "--sandbox", "off")
    assert done.returncode == 0, done.stderr
    assert [event["label"] for event in events(quick, "faulted")] == ["a", "a"]
    assert len(events(quick, "compared")) == 4
    assert "baseline repeated in 0.0s: the GPU or its driver failed" in done.stderr


def test_repeats_of_one_side_alone_are_said(quick: Path, cli: Cli, plan: Plan) -> None:
    """A run that knows its training loss may fake a fault to be repeated."""
    plan.fail(VICTIM, when=OF_CANDIDATES)
    run(quick, cli, 1)
    assert rows(quick)[1]["status"] == "keep"
    status = json.loads(cli(quick, "status", "--json").stdout)["data"]
    assert status["reservations"] == ["unconfined", "repeated after faults"]
    assert "repeated after faults" in cli(quick, "status").stdout
    plan.fail(VICTIM, when=OF_CANDIDATES)
    done = cli(quick, "confirm", "--runs", "2", "--sandbox", "off")
    assert ", repeated after faults: 95 % interval" in done.stdout
    assert events(quick, "confirmed")[-1]["reservations"] == ["unconfined", "repeated after faults"]
    plan.fail(VICTIM)  # the first run of `a`
    assert cli(quick, "confirm", "--runs", "2", "--sandbox", "off").returncode == 0
    assert events(quick, "confirmed")[-1]["reservations"] == ["unconfined"]


def test_comparison_ends_on_a_sick_machine_and_continues_later(quick: Path, cli: Cli, plan: Plan) -> None:
    run(quick, cli, 3)
    plan.fail(always=VICTIM, when=OF_CANDIDATES)
    done = cli(quick, "confirm", "--runs", "2", "--sandbox", "off")
    assert done.returncode == MachineFault.exit_code
    assert f"the GPU failed in {faults.MOST_IN_A_ROW} runs in a row" in done.stderr
    plan.fail()
    assert cli(quick, "confirm", "--runs", "2", "--sandbox", "off").returncode == 0
    assert len(events(quick, "compared")) == 4


def test_confirmation_at_the_end_of_a_session_continues_after_a_sick_machine(quick: Path, cli: Cli, plan: Plan) -> None:
    run(quick, cli, 0)
    plan.fail(always=VICTIM, when="RATE == 0.1")
    said = run(quick, cli, 3, "--confirm", code=MachineFault.exit_code)
    assert f"gain not confirmed: the GPU failed in {faults.MOST_IN_A_ROW} runs in a row" in said
    assert state_of(quick).ended is not None
    plan.fail()
    run(quick, cli, 3, "--confirm")
    assert state_of(quick).confirmation is not None
    assert len(rows(quick)) == 4


def test_ablation_blames_the_variant_that_provokes_faults(quick: Path, cli: Cli, plan: Plan) -> None:
    (quick / "train.py").write_text(faulty(plan, QUICK))
    commit_all(quick, "searches all constants")
    run(quick, cli, 12)
    best = state_of(quick).incumbent
    assert best is not None
    own = " and ".join(f"{name} == {value!r}" for name, value in best.parameters.items())
    plan.fail(always=MISALIGNED, when=f"not ({own})")
    done = cli(quick, "ablate", "--sandbox", "off")
    assert done.returncode == 0, done.stderr
    assert "without it the run fails: a kernel failed on the GPU" in done.stdout
    assert any(event.get("provoked") == faults.MOST_IN_A_ROW for event in events(quick, "compared"))


def test_promotion_of_changes_that_all_provoke_faults_ends_with_a_verdict(quick: Path, cli: Cli, plan: Plan) -> None:
    seeded = QUICK.replace("import sys", "import sys\n\nSEED = 1  # search: off")
    (quick / "train.py").write_text(faulty(plan, seeded.replace("loss = 1.0", "loss = 0 * SEED + 1.0")))
    commit_all(quick, "has a seed")
    keep_in_turn(quick, cli, "s/^RATE = 0.1 /RATE = 0.3 /", "s/^WIDTH = 64 /WIDTH = 256 /", flags=("--sandbox", "off"))
    plan.fail(always=MISALIGNED, when="(RATE, WIDTH) != (0.1, 64)")
    done = cli(quick, "promote", "--training-seconds", "400", "--runs", "2", "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)["data"]
    assert data["whole"]["verdict"] == "does not transfer"
    assert [each["verdict"] for each in data["changes"]] == ["undecided", "undecided"]


def test_baseline_command_is_repeated(quick: Path, cli: Cli, plan: Plan) -> None:
    plan.fail(VICTIM)
    done = cli(quick, "baseline", "--sandbox", "off")
    assert done.returncode == 0, done.stderr
    assert "repeating the run in 0.0s: the GPU or its driver failed" in done.stderr
    plan.fail(always=VICTIM)
    done = cli(quick, "baseline", "--sandbox", "off")
    assert done.returncode == MachineFault.exit_code
    assert "in 6 runs in a row" in done.stderr


@pytest.mark.parametrize(("asked", "code"), [("one Ctrl-C", 130), ("two Ctrl-C", 130), ("stop", 0)])
def test_request_to_stop_ends_a_session_that_keeps_failing(
    quick: Path, cli: Cli, plan: Plan, asked: str, code: int
) -> None:
    """The pauses of this process are real: it ends after the first, or during it after the second Ctrl-C."""
    run(quick, cli, 0)
    plan.fail(always=VICTIM)
    loop = start(quick, *FLAGS[2:], "--max-experiments", "1")
    wait_for(quick, "faulted", 1)
    if asked == "stop":
        stop_file(journal_path(quick, "t")).touch()
    else:
        loop.send_signal(signal.SIGINT)
    while asked == "two Ctrl-C" and loop.poll() is None:
        time.sleep(0.05)  # a signal that comes before the last one was handled is lost
        loop.send_signal(signal.SIGINT)
    assert loop.wait(timeout=60) == code
    assert len(events(quick, "faulted")) == (1 if asked == "two Ctrl-C" else 2)
    assert events(quick, "faulted")[-1]["pause"] == (3.0 if asked == "two Ctrl-C" else 0.0)
    assert state_of(quick).ended is not None
    plan.fail()
    run(quick, cli, 1)
    assert [row["status"] for row in rows(quick)] == ["keep", "keep"]
    assert_consistent(quick)


def test_request_to_stop_during_a_pause_finishes_the_experiment(quick: Path, cli: Cli, plan: Plan) -> None:
    run(quick, cli, 0)
    plan.fail(VICTIM)
    loop = start(quick, *FLAGS[2:], "--max-experiments", "5")
    wait_for(quick, "faulted", 1)
    loop.send_signal(signal.SIGINT)
    assert loop.wait(timeout=60) == 130
    assert len(rows(quick)) == 2


def sleep_in_each_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clock of runs jump as if the machine slept in each of them, and ask the session to stop in the third."""
    looks = [0]

    def wall() -> float:
        looks[0] += 1
        if looks[0] == 6:
            stop_file(journal_path(folder, "t")).touch()
        assert looks[0] < 100, "the session goes on"
        return time.time() + 20 * looks[0]

    monkeypatch.setattr(run_command, "__kwdefaults__", {"wall": wall})


def test_request_to_stop_ends_a_session_whose_machine_sleeps_in_each_run(
    quick: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(quick, cli, 0)
    with monkeypatch.context() as asleep:
        sleep_in_each_run(quick, asleep)
        assert "the machine slept for" in run(quick, cli, 1)
    assert len(events(quick, "measured")) == 1
    run(quick, cli, 1)
    assert len(rows(quick)) == 2
    assert_consistent(quick)


def test_request_to_stop_ends_a_comparison_whose_machine_sleeps_in_each_run(
    quick: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_in_turn(quick, cli, "s/^RATE = .*/RATE = 0.5/")
    with monkeypatch.context() as asleep:
        sleep_in_each_run(quick, asleep)
        done = cli(quick, "confirm", "--tag", "t")
        assert "stopped by `autoresearch stop`" in done.stdout + done.stderr


def folded(*kinds: str, ended: bool = False) -> Faults:
    found = NO_FAULTS
    for kind in kinds:
        found = found.after(Event(kind, 100.0, {"seconds": 2.0, "pause": 3.0}), ended=ended)
    return found


def test_count_goes_on_after_a_kill_and_begins_anew_after_the_end() -> None:
    assert folded("faulted", "faulted", "resumed", "faulted") == Faults(3, 15.0, tonight=3, in_a_row=3, until=103.0)
    assert folded("faulted", "resumed", "faulted", ended=True) == Faults(2, 10.0, tonight=1, in_a_row=1, until=103.0)
    assert folded("faulted", "measured", "faulted", "compared") == Faults(2, 10.0, tonight=2, finished=2)
    assert folded("faulted", "started").until is None


def test_candidate_that_keeps_faulting_is_no_evidence_for_a_crash() -> None:
    base, faulted = kept(0, [2.0, 2.01]), Run(None, 1.0, error="the GPU failed", fault="watchdog")
    verdict = judge(case(base, [Run(1.9, 9.0), faulted]), DecisionConfig())
    assert isinstance(verdict, Verdict)
    assert verdict.status == "discard"
