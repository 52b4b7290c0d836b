"""The ways in which a session of stations ends before its time, and what goes on after it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agent.cli.launch import RunConfig, session_config
from agent.fleet import cluster as cluster_module
from agent.fleet import health, local
from agent.fleet.cluster import Cluster
from agent.fleet.decider import Fleet
from agent.fleet.local import LocalFleet, local_stations
from agent.fleet.ordering import Orders
from agent.journal.journal import Journal, fold
from agent.journal.paths import journal_path
from agent.proposers.choose import choose_proposer
from agent.session.opening import open_runner, prepared
from agent.session.session import Session
from tests.common.sessions import assert_consistent, confirmed, events
from tests.common.stations import SLOW, WAIT_SECONDS, gated, going, marked, set_train, until
from tests.common.workspaces import QUICK, ROOT, Cli, git

FLAGS = ("--no-keep-awake", "--sandbox", "off", "--fresh")
# Its baseline is quick, and each candidate waits for a file.
WAITS = """import pathlib, time
while (RATE, DEPTH, WIDTH) != (0.1, 4, 64) and not pathlib.Path(GATE).exists():
    time.sleep(0.05)
loss ="""
LATER = QUICK.replace("loss =", WAITS)


@pytest.fixture(autouse=True)
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalFleet]:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    with local_stations(1, tmp_path) as found:
        yield found


def command(folder: Path, fleet: LocalFleet, *more: str) -> list[str]:
    where = ("--scheduler", fleet.address, "--tls", str(fleet.tls))
    return [sys.executable, "-m", "agent", "-C", str(folder), "run", "--tag", "t", *where, *FLAGS, *more]


def begin(folder: Path, fleet: LocalFleet, leases: int) -> subprocess.Popen[str]:
    """Start a session, and return once a station has been asked for so many runs."""
    env, path = {**os.environ, "PYTHONPATH": str(ROOT)}, journal_path(folder, "t")
    loop = subprocess.Popen(
        command(folder, fleet), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    until(lambda: path.exists() and path.read_text().count('"leased"') >= leases, "no lease")
    return loop


def pid_of(fleet: LocalFleet) -> int:
    cluster = Cluster.connect(fleet.address, fleet.tls)
    try:
        return next(int(each.facts["pid"]) for each in cluster.stations().values())
    finally:
        cluster.close()


def station_of(fleet: LocalFleet, name: str) -> psutil.Process:
    wanted = (str(fleet.tls), f'"name": "{name}"')
    ours = psutil.Process().children()
    return next(each for each in ours if all(part in " ".join(each.cmdline()) for part in wanted))


def ended(loop: subprocess.Popen[str]) -> str:
    said, _ = loop.communicate(timeout=60)
    return said


@pytest.mark.parametrize(("signals", "code"), [((signal.SIGINT, signal.SIGINT), 130), ((signal.SIGTERM,), 143)])
def test_second_ctrl_c_ends_the_runs_on_stations(
    quick: Path, fleet: LocalFleet, signals: tuple[signal.Signals, ...], code: int
) -> None:
    set_train(quick, SLOW)
    loop, pid = begin(quick, fleet, 1), pid_of(fleet)
    run = until(lambda: marked(pid), "no run on the station")
    assert loop.stdout is not None
    for each in signals[:-1]:
        loop.send_signal(each)
        assert any("press Ctrl-C again" in line for line in loop.stdout)
    loop.send_signal(signals[-1])
    said = ended(loop)
    assert loop.returncode == code, said
    assert "Traceback" not in said
    assert not psutil.wait_procs(run, timeout=20)[1]
    assert not fold(journal_path(quick, "t")).flight.leases


@pytest.mark.parametrize("frozen", ["stations", "scheduler"])
@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM,)], ids=["ctrl-c", "term"])
def test_second_ctrl_c_waits_for_all_silent_stations_together(
    quick: Path, monkeypatch: pytest.MonkeyPatch, frozen: str, signals: tuple[signal.Signals, ...]
) -> None:
    monkeypatch.setattr(local, "ENDING_SECONDS", 0.5)
    set_train(quick, SLOW)
    with local_stations(3, quick) as three:
        loop = begin(quick, three, 3)
        until(lambda: all(going(quick, name) for name in three.logs), "no run")
        children = [each for each in psutil.Process().children() if each.pid != loop.pid]
        ours = [each for each in children if str(three.tls) in " ".join(each.cmdline())]
        for part in ours:
            if ('"scheduler"' in " ".join(part.cmdline())) == (frozen == "scheduler"):
                part.suspend()
        began = time.monotonic()
        assert loop.stdout is not None
        for each in signals[:-1]:
            loop.send_signal(each)
            assert any("press Ctrl-C again" in line for line in loop.stdout)
        loop.send_signal(signals[-1])
        said, _ = loop.communicate(timeout=120)
        assert time.monotonic() - began < 20, said  # one silent station alone took 15 s
    assert loop.returncode == (130 if len(signals) == 2 else 143), said
    assert "Traceback" not in said
    state = fold(journal_path(quick, "t"))
    assert not state.flight.leases
    assert len(events(quick, "withdrawn")) == 3


def test_second_ctrl_c_ends_runs_of_an_earlier_start_before_a_silent_station_is_known(quick: Path) -> None:
    set_train(quick, SLOW)
    with local_stations(2, quick) as two:
        former = begin(quick, two, 2)
        until(lambda: all(going(quick, name) for name in two.logs), "no run")
        former.kill()
        former.communicate()
        silent, healthy = two.logs
        parts = {name: station_of(two, name) for name in two.logs}
        runs = marked(parts[healthy].pid)
        assert runs
        parts[silent].suspend()
        loop = begin(quick, two, 2)
        until(lambda: len(events(quick, "left")) == 2, "not resumed")  # it asks who the stations are, and one is silent
        assert loop.stdout is not None
        loop.send_signal(signal.SIGINT)
        assert any("press Ctrl-C again" in line for line in loop.stdout)
        loop.send_signal(signal.SIGINT)
        said = ended(loop)
        assert loop.returncode == 130, said
        assert not psutil.wait_procs(runs, timeout=20)[1]
        parts[silent].kill()
    assert healthy in {event["station"] for event in events(quick, "withdrawn")}


def test_run_that_nobody_could_be_asked_to_end_is_not_noted_as_ended(fleet: LocalFleet) -> None:
    connected = Cluster.connect(fleet.address, fleet.tls)
    try:
        (name,) = fleet.logs
        assert connected.end("s1", {"1": name, "2": "elsewhere"}) == {"1"}
    finally:
        connected.close()
    assert connected.end("s1", {"1": name}) == set()


def test_first_ctrl_c_does_not_wait_for_stations_that_are_gone(quick: Path, cli: Cli, fleet: LocalFleet) -> None:
    gate = quick.parent / "gate"
    set_train(quick, LATER.replace("GATE", repr(str(gate))))
    loop, pid = begin(quick, fleet, 3), pid_of(fleet)
    os.kill(pid, signal.SIGKILL)
    until(lambda: events(quick, "left"), "the station is still here")
    loop.send_signal(signal.SIGINT)
    said = ended(loop)
    assert loop.returncode == 130, said
    assert "1 candidate not decided without a station" in said
    assert len(fold(journal_path(quick, "t")).flight.candidates) == 1
    # The next start measures it.
    gate.touch()
    with local_stations(1, quick) as other:
        done = cli(quick, *command(quick, other, "--max-experiments", "2")[5:])
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert not fold(journal_path(quick, "t")).flight.candidates


def test_moved_workspace_writes_nothing_at_its_old_place(quick: Path, cli: Cli, fleet: LocalFleet) -> None:
    """A run under way returns to the session where it is now."""
    gate = quick.parent / "gate"
    set_train(quick, LATER.replace("GATE", repr(str(gate))))
    loop = begin(quick, fleet, 3)
    loop.kill()
    ended(loop)
    moved = quick.rename(quick.parent / "moved")
    gate.touch()
    done = cli(moved, *command(moved, fleet, "--max-experiments", "1")[5:])
    assert done.returncode == 0, done.stderr
    assert_consistent(moved)
    assert not quick.exists()
    for event in events(moved, "returned")[:3]:
        log = Path(event["log"])
        assert (moved / log.relative_to(moved if log.is_relative_to(moved) else quick)).is_file()


def test_incumbent_that_fails_on_each_station_ends_the_session(
    quick: Path, cli: Cli, fleet: LocalFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be compared any more. Once the cause is gone, the next start goes on."""
    monkeypatch.setattr(health, "ABSENT_SECONDS", 1.0)
    broken = quick.parent / "broken"
    check = f"import pathlib\nassert DEPTH != 4 or not pathlib.Path({str(broken)!r}).exists(), 'no driver'\nloss ="
    set_train(quick, QUICK.replace("loss =", check))
    agent = ("--proposer", "command", "--agent-cmd", f"touch {broken}; sed -i 's/^DEPTH = .*/DEPTH = 5/' train.py")
    run = command(quick, fleet, *agent, "--max-experiments", "1")[5:]
    done = cli(quick, *run)
    assert done.returncode == 1, done.stderr
    [name] = fleet.logs
    assert f"{name} takes no part for now: the incumbent fails there" in done.stderr
    assert "error: the baseline fails on each station: " in done.stderr
    assert len(fold(journal_path(quick, "t")).flight.candidates) == 1
    broken.unlink()
    done = cli(quick, *run)
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert len(fold(journal_path(quick, "t")).experiments) == 2


def test_limit_ends_a_session_whose_stations_cannot_measure(
    quick: Path, cli: Cli, fleet: LocalFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "ABSENT_SECONDS", 1.0)
    monkeypatch.setattr(health, "FIRST_PAUSE", 0.1)
    (tmp_path / "cache-stations").write_text("in the way of their clones and records")
    done = cli(quick, *command(quick, fleet, "--max-hours", "0.001")[5:])
    assert done.returncode == 0, done.stderr
    assert [event["reason"] for event in events(quick, "ended")] == ["0.001 hours have passed"]
    assert not fold(journal_path(quick, "t")).experiments


def test_baseline_that_no_station_of_this_machine_can_measure_ends_the_session(
    quick: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "ABSENT_SECONDS", 1.0)
    monkeypatch.setattr(health, "FIRST_PAUSE", 0.1)
    (tmp_path / "cache-stations").write_text("in the way of their clones and records")
    run = ("run", "--tag", "t", "--stations", "2", *FLAGS, "--max-hours", "0.01")
    done = cli(quick, *run)
    assert done.returncode == 1, done.stderr
    assert "error: no station can measure the baseline: " in done.stderr
    assert "hint: fix the cause, then run the same command again" in done.stderr
    (tmp_path / "cache-stations").unlink()
    done = cli(quick, *run, "--max-experiments", "1")
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)


def test_confirmation_here_does_not_use_halves_of_pairs_on_stations(
    quick: Path, cli: Cli, fleet: LocalFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A confirmation on stations is interrupted; `confirm` measures whole pairs on this machine."""
    monkeypatch.setenv("AUTORESEARCH_CONFIRM", "1")
    gate = quick.parent / "gate"
    slow = "import pathlib, time\nwhile SEED > 43 and not pathlib.Path(GATE).exists():\n    time.sleep(0.05)\nloss ="
    text = QUICK.replace("RATE =", "SEED = 42\nRATE =").replace("loss =", slow.replace("GATE", repr(str(gate))))
    set_train(quick, text.replace("1.0 +", "1.0 + SEED / 1e5 +"))
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = command(quick, fleet, "--max-experiments", "2")
    loop = subprocess.Popen(run, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    path = journal_path(quick, "t")
    until(lambda: path.exists() and path.read_text().count('"compared"') == 2, "no pair")
    loop.send_signal(signal.SIGINT)
    said = ended(loop)
    assert loop.returncode == 130, said
    gate.touch()
    data = confirmed(quick, cli, "--tag", "t")
    assert data["runs"] == {"a": 3, "b": 3}
    assert data["low"] <= data["gain"] <= data["high"]
    done = cli(quick, *run[5:])
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)


def test_confirmation_goes_on_with_its_pairs_on_fewer_stations(
    quick: Path, cli: Cli, fleet: LocalFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first pair is complete, and the others wait for a file, when four stations leave."""
    monkeypatch.setenv("AUTORESEARCH_CONFIRM", "1")
    gate = quick.parent / "gate"
    slow = "import pathlib, time\nwhile SEED > 43 and not pathlib.Path(GATE).exists():\n    time.sleep(0.05)\nloss ="
    text = QUICK.replace("RATE =", "SEED = 42\nRATE =").replace("loss =", slow.replace("GATE", repr(str(gate))))
    set_train(quick, text.replace("1.0 +", "1.0 + SEED / 1e5 +"))
    path = journal_path(quick, "t")
    with local_stations(4, quick) as four:
        run = command(quick, four, "--max-experiments", "2")
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        loop = subprocess.Popen(run, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        until(lambda: path.exists() and path.read_text().count('"compared"') == 2, "no pair")
        loop.send_signal(signal.SIGINT)
        said = ended(loop)
    assert loop.returncode == 130, said
    gate.touch()
    done = cli(quick, *command(quick, fleet, "--max-experiments", "2")[5:])
    assert done.returncode == 0, done.stderr
    assert [event["count"] for event in events(quick, "comparing")] == [4, 4]
    found = events(quick, "confirmed")[-1]
    assert found["runs"] == {"a": 4, "b": 4}
    assert len(events(quick, "compared")) == 8


def test_confirmation_goes_on_with_the_run_that_is_under_way(
    quick: Path, fleet: LocalFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was interrupted after its first pair, and the station went on with the next run."""
    monkeypatch.setenv("AUTORESEARCH_CONFIRM", "1")
    gate, path = quick.parent / "gate", journal_path(quick, "t")
    slow = "import pathlib, time\nwhile SEED > 43 and not pathlib.Path(GATE).exists():\n    time.sleep(0.05)\nloss ="
    text = QUICK.replace("RATE =", "SEED = 42\nRATE =").replace("loss =", slow.replace("GATE", repr(str(gate))))
    set_train(quick, text.replace("1.0 +", "1.0 + SEED / 1e5 +"))
    env, run = {**os.environ, "PYTHONPATH": str(ROOT)}, command(quick, fleet, "--max-experiments", "2")
    first = subprocess.Popen(run, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    # The first pair was asked for and returned, the next run was asked for.
    until(lambda: path.exists() and path.read_text().count('"label": "') == 5, "no third run")
    first.send_signal(signal.SIGINT)
    said = ended(first)
    assert first.returncode == 130, said
    second = subprocess.Popen(run, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until(lambda: path.read_text().count('"event": "ended"') == 2, "the loop has not ended")
    gate.touch()
    said = ended(second)
    assert second.returncode == 0, said
    assert events(quick, "confirmed")[-1]["runs"] == {"a": 3, "b": 3}
    asked = [event["lease"] for event in events(quick, "leased") if event["label"] is not None]
    assert sorted(asked) == sorted(event["lease"] for event in events(quick, "compared"))


def test_confirmation_that_is_terminated_ends_its_runs(
    quick: Path, fleet: LocalFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTORESEARCH_CONFIRM", "1")
    path, slow = journal_path(quick, "t"), "import time\nif SEED > 43:\n    time.sleep(600)\nloss ="
    text = QUICK.replace("RATE =", "SEED = 42\nRATE =").replace("loss =", slow)
    set_train(quick, text.replace("1.0 +", "1.0 + SEED / 1e5 +"))
    env, run = {**os.environ, "PYTHONPATH": str(ROOT)}, command(quick, fleet, "--max-experiments", "2")
    loop = subprocess.Popen(run, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until(lambda: path.exists() and path.read_text().count('"label": "') == 5, "no third run")
    pid = events(quick, "joined")[0]["facts"]["pid"]
    until(lambda: marked(pid), "no run on the station")
    loop.send_signal(signal.SIGTERM)
    said = ended(loop)
    assert loop.returncode == 143, said
    asked = {event["lease"] for event in events(quick, "leased") if event["label"] is not None}
    left = asked - {event["lease"] for event in events(quick, "compared")}
    assert left
    assert left == {event["lease"] for event in events(quick, "withdrawn")}
    until(lambda: not marked(pid), "the run has not ended")


def test_confirmation_repeats_a_run_that_failed_in_an_earlier_start(
    quick: Path, cli: Cli, fleet: LocalFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTORESEARCH_CONFIRM", "1")
    broken = quick.parent / "broken"
    broken.touch()
    check = f"import pathlib\nassert SEED != 43 or not pathlib.Path({str(broken)!r}).exists(), 'no driver'\nloss ="
    text = QUICK.replace("RATE =", "SEED = 42\nRATE =").replace("loss =", check)
    set_train(quick, text.replace("1.0 +", "1.0 + SEED / 1e5 +"))
    run = command(quick, fleet, "--max-experiments", "2")[5:]
    done = cli(quick, *run)
    assert "gain not confirmed: baseline failed on " in done.stderr, done.stderr
    broken.unlink()
    done = cli(quick, *run)
    assert done.returncode == 0, done.stderr
    assert events(quick, "confirmed")[-1]["runs"] == {"a": 3, "b": 3}
    assert_consistent(quick)


def test_answer_for_a_comparison_that_is_over_frees_its_station(quick: Path, cli: Cli, fleet: LocalFleet) -> None:
    run = command(quick, fleet, "--max-experiments", "2")[5:]
    assert cli(quick, *run).returncode == 0
    path = journal_path(quick, "t")
    latest = events(quick, "leased")[-1]
    kept = next(iter((quick.parent / "cache-stations" / "records").glob(f"*/*/*/{latest['lease']}/answer.json")))
    shutil.copytree(kept.parent, kept.parent.parent / "99")
    answer = json.loads(kept.read_text())
    (kept.parent.parent / "99" / "answer.json").write_text(json.dumps({**answer, "lease": "99"}))
    lease = {**latest, "lease": "99", "candidate": None, "of": None, "label": "b", "seed": None, "rebase": False}
    with path.open("a") as file:
        file.write(json.dumps(lease) + "\n")
    done = cli(quick, *run[:-1], "3")
    assert done.returncode == 0, done.stderr
    assert [event["reason"] for event in events(quick, "lost") if event["lease"] == "99"] == ["its comparison is over"]
    assert_consistent(quick)


@pytest.mark.parametrize("fails", ["echo nothing", "exit 3"])
def test_holdout_that_fails_everywhere_ends_the_confirmation(
    quick: Path, cli: Cli, fleet: LocalFleet, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    monkeypatch.setenv("AUTORESEARCH_CONFIRM", "1")
    done = cli(quick, *command(quick, fleet, "--max-experiments", "1", "--holdout", fails)[5:])
    assert done.returncode == 0, done.stderr
    assert "gain not confirmed: no station can measure: the command of --holdout failed" in done.stderr
    assert_consistent(quick)


def test_command_for_the_holdout_scores_the_runs_of_a_station(
    quick: Path, cli: Cli, fleet: LocalFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTORESEARCH_CONFIRM", "1")
    writes = """print(f"val_bpb: {loss + 1:.6f}", file=open("score.txt", "w"))\nprint("---")"""
    set_train(quick, QUICK.replace('print("---")', writes))
    done = cli(quick, *command(quick, fleet, "--max-experiments", "3", "--holdout", "cat score.txt")[5:])
    assert done.returncode == 0, done.stderr
    runs = events(quick, "compared")
    assert runs
    assert all(run["holdout"] == pytest.approx(run["metric"] + 1) for run in runs)
    assert events(quick, "confirmed")[-1]["verdict"] == "confirmed"


def test_two_sessions_share_a_scheduler(quick: Path, tmp_path: Path, fleet: LocalFleet) -> None:
    other = shutil.copytree(quick, tmp_path / "other")  # even the same commits
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    loops = [
        subprocess.Popen(
            command(folder, fleet, "--max-experiments", "4"),
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for folder in (quick, other)
    ]
    said = [ended(loop) for loop in loops]
    assert [loop.returncode for loop in loops] == [0, 0], said
    for folder in (quick, other):
        assert_consistent(folder)
        assert len(fold(journal_path(folder, "t")).experiments) == 5
        assert all(str(folder) in event["log"] for event in events(folder, "returned"))


def test_copy_of_a_session_gets_no_answers_of_its_original(
    quick: Path, cli: Cli, tmp_path: Path, fleet: LocalFleet
) -> None:
    """The leases of both have the same names, and the station keeps the answers of the original."""
    assert cli(quick, *command(quick, fleet, "--max-experiments", "1")[5:]).returncode == 0
    copy = shutil.copytree(quick, tmp_path / "copy")
    assert cli(quick, *command(quick, fleet, "--max-experiments", "4")[5:]).returncode == 0
    agent = ("--proposer", "command", "--agent-cmd", "sed -i 's/^WIDTH = .*/WIDTH = 257/' train.py")
    done = cli(copy, *command(copy, fleet, "--max-experiments", "2", *agent)[5:])
    assert done.returncode == 0, done.stderr
    assert_consistent(copy)
    for experiment in fold(journal_path(copy, "t")).measured:
        text = git(copy, "show", f"{experiment.commit}:train.py").replace("sys.exit(0)", "")
        said = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout
        for run in (*experiment.runs, *experiment.heldout_runs):
            assert f"val_bpb:          {run.metric:.6f}" in said


def test_stop_is_not_forgotten_while_candidates_are_under_way(quick: Path, cli: Cli) -> None:
    """It is noticed while an agent works on the next proposal, and the candidate in flight needs further runs."""
    gate, count = quick.parent / "gate", quick.parent / "count"
    set_train(quick, LATER.replace("GATE", repr(str(gate))))
    stop = journal_path(quick, "t").with_name("stop")
    script = quick.parent / "agent.sh"
    script.write_text(
        f"echo >> {count}; n=$(wc -l < {count})\n"
        f'if [ "$n" = 2 ]; then touch {stop} {gate}; sleep 60; fi\n'
        'sed -i "s/^WIDTH = .*/WIDTH = $((64 + n))/" train.py\n'
    )
    agent = ("--proposer", "command", "--agent-cmd", f"sh {script}", "--no-ahead")
    with local_stations(2, quick) as two:
        done = cli(quick, *command(quick, two, *agent, "--max-experiments", "6")[5:])
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert len(fold(journal_path(quick, "t")).experiments) == 2
    assert events(quick, "ended")[-1]["reason"] == "stopped by `autoresearch stop`"


def test_run_goes_on_while_the_connection_breaks_and_comes_back(
    quick: Path, fleet: LocalFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decider notices neither, because it waits for a proposal."""
    # On a busy machine, a scheduler needs longer to start than Dask tries to reach it.
    monkeypatch.setattr(cluster_module, "CONNECT_SECONDS", 10 * WAIT_SECONDS)
    gate = quick.parent / "gate"
    set_train(quick, gated(gate))
    with open_runner(quick, "t", None, "off") as opened, prepared(opened, setup=False) as runner:
        config, store = RunConfig("t", fresh=True), Journal(journal_path(quick, "t"))
        proposer = choose_proposer(config.proposer, store, runner.workspace, runner.sandbox)
        session = Session(runner, store, proposer, session_config(config, runner.protocol))
        cluster = Cluster.connect(fleet.address, fleet.tls)
        decider = Fleet(session, lambda: cluster, Orders(session, "off"))

        def idle() -> list[str]:
            decider.meet()
            return decider.idle()

        def measured() -> object:
            decider.receive()
            return session.state.flight.kept

        decider.recover()
        until(idle, "no station")
        decider.assign()
        until(lambda: going(quick, *decider.health.here()), "the run has not started")
        decider._began -= health.ABSENT_SECONDS  # as if the session was older
        ours = [each for each in psutil.Process().children() if str(fleet.tls) in " ".join(each.cmdline())]
        next(each for each in ours if '"scheduler"' in " ".join(each.cmdline())).kill()
        until(lambda: not cluster.connected, "it is still connected")
        until(lambda: cluster.connected, "it is not connected again")
        decider.receive()
        gate.touch()
        until(measured, "its run is lost")
        [run] = session.state.flight.kept[0]
        assert run.metric == 1.732
        assert not events(quick, "lost")
        store.close()
    cluster.close()
