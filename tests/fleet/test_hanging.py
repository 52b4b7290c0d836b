"""Stations that stay connected and hang, such as in a setup command: no other station and no end waits for them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.execution import setup
from agent.fleet import health
from agent.fleet.local import LocalFleet, local_stations
from agent.fleet.security import make_certificates
from agent.journal.journal import fold
from agent.journal.paths import journal_path
from tests.common.sessions import assert_consistent, events
from tests.common.stations import gated, going, set_train, started, until
from tests.common.workspaces import QUICK, ROOT, Cli, commit_all, quick_protocol, set_protocol

FLAGS = ("--no-keep-awake", "--sandbox", "off", "--fresh")
# The first station passes, and the second one hangs; it ends with the test.
ONE_HANGS = "mkdir $AUTORESEARCH_CACHE/first || sleep 6001"
# A decider whose patience is short.
PROGRAM = """
from agent.fleet import decider, health
health.SLOW_SECONDS = health.ABSENT_SECONDS = decider.ABSENT_SECONDS = 1.0
from agent.cli import start
start()
"""
# A station of a version that cannot say how far it is.
OLD = "from agent.station import control\ndel control.stage\nfrom agent.cli import start\nstart()"
SOON = ("--max-hours", "0.001")


@pytest.fixture(autouse=True)
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalFleet]:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(health, "SLOW_SECONDS", 1.0)
    with local_stations(2, tmp_path) as found:
        yield found


def flags(fleet: LocalFleet, *more: str) -> tuple[str, ...]:
    return ("run", "--tag", "t", "--scheduler", fleet.address, "--tls", str(fleet.tls), *FLAGS, *more)


def set_up_with(folder: Path, command: str) -> None:
    """Set the setup command, as if it had run in the workspace of the decider."""
    set_protocol(folder, environment={**quick_protocol()["environment"], "setupCommands": [command]})
    stamp = folder / ".autoresearch" / "create" / "setup"
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(setup._mark([command]))


def test_station_that_hangs_does_not_keep_a_session_from_its_end(quick: Path, cli: Cli, fleet: LocalFleet) -> None:
    set_up_with(quick, ONE_HANGS)
    done = cli(quick, *flags(fleet, "--max-experiments", "4"))
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    state = fold(journal_path(quick, "t"))
    assert (len(state.experiments), {*state.flight.candidates}, {*state.flight.leases}) == (5, set(), set())
    assert len({run["station"] for run in events(quick, "returned")}) == 1
    assert not events(quick, "lost")


@pytest.mark.parametrize("limit", [("--max-hours", "0.001"), ()])
def test_stations_that_all_hang_in_the_baseline_do_not_keep_a_session_from_its_end(
    quick: Path, fleet: LocalFleet, limit: tuple[str, ...]
) -> None:
    set_up_with(quick, "sleep 6002")
    env, path = {**os.environ, "PYTHONPATH": str(ROOT)}, journal_path(quick, "t")
    command = [sys.executable, "-c", PROGRAM, "-C", str(quick), *flags(fleet, *limit)]
    loop = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until(lambda: path.exists() and path.read_text().count('"leased"') == 2, "no lease")
    if not limit:
        loop.send_signal(signal.SIGINT)
    said, _ = loop.communicate(timeout=60)
    assert loop.returncode == (0 if limit else 130), said
    assert "takes no part any more: it has not begun its run" in said
    reason = "0.001 hours have passed" if limit else "stopped by Ctrl-C"
    assert [event["reason"] for event in events(quick, "ended")] == [reason]
    assert not fold(path).flight.leases


def test_station_that_hangs_does_not_keep_a_confirmation_from_its_end(
    quick: Path, cli: Cli, fleet: LocalFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTORESEARCH_CONFIRM", "1")
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(
        text.replace("RATE =", "SEED = 42\nRATE =", 1).replace("1.0 +", "1.0 + SEED / 1e5 +")
    )
    commit_all(quick, "seed")
    set_up_with(quick, ONE_HANGS)
    done = cli(quick, *flags(fleet, "--max-experiments", "2"))
    assert done.returncode == 0, done.stderr
    found = events(quick, "confirmed")[-1]
    assert found["runs"] == {"a": 3, "b": 3}
    assert len({run["station"] for run in events(quick, "compared")}) == 1
    assert not fold(journal_path(quick, "t")).flight.leases


def test_slow_setup_is_not_lost(quick: Path, cli: Cli, fleet: LocalFleet) -> None:
    """Its station measures as soon as it is prepared."""
    gate = quick.parent / "gate"
    wait = f"mkdir $AUTORESEARCH_CACHE/first || until [ -e {gate} ]; do sleep 0.1; done"
    set_up_with(quick, wait)
    text = (quick / "train.py").read_text()
    # A run on the prepared station, after a while, prepares the other one.
    (quick / "train.py").write_text(text.replace("loss =", f"open({str(gate)!r}, 'w') if DEPTH != 4 else 0\nloss =", 1))
    commit_all(quick, "gate")
    done = cli(quick, *flags(fleet, "--max-experiments", "12"))
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert not events(quick, "lost")
    assert len({run["station"] for run in events(quick, "returned")}) == 2


def test_run_of_a_station_that_never_answers_is_lost(
    quick: Path, cli: Cli, fleet: LocalFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as in a setup command that outlives the station's own limit, which this process does not share."""
    monkeypatch.setattr(health, "SENDING_SECONDS", 1.0)
    monkeypatch.setattr(health, "MOST_LIMITS", 0)
    monkeypatch.setattr(setup, "STATION_SECONDS", 1.0)
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace("loss =", "import time\ntime.sleep(0.5)\nloss =", 1))
    commit_all(quick, "slow")
    set_up_with(quick, ONE_HANGS)
    done = cli(quick, *flags(fleet, "--max-experiments", "8"))
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert {event["reason"] for event in events(quick, "lost")} == {"its station did not answer in time"}
    assert not fold(journal_path(quick, "t")).flight.candidates


def test_slow_setup_is_completed_although_its_candidate_gets_its_verdict(
    quick: Path, cli: Cli, fleet: LocalFleet, tmp_path: Path
) -> None:
    """Such as that of a clone that was deleted."""
    slow, runs, tries, gate = (tmp_path / each for each in ("slow", "runs", "tries", "gate"))
    set_up_with(quick, f"[ ! -e {slow} ] || {{ echo >> {tries}; until [ -e {gate} ]; do sleep 0.1; done; }}")
    note = f"import os\nopen({str(runs)!r}, 'a').write('x' * os.path.exists({str(slow)!r}))\n"
    note += f"if os.path.getsize({str(runs)!r}) > 12: open({str(gate)!r}, 'w')\nloss ="
    set_train(quick, QUICK.replace("loss =", note))
    assert cli(quick, *flags(fleet, "--max-experiments", "3")).returncode == 0
    before, last = len(events(quick, "returned")), sorted(fleet.logs)[-1]
    shutil.rmtree(tmp_path / "cache-stations" / "clones" / last)
    slow.touch()
    done = cli(quick, *flags(fleet, "--max-experiments", "24"))
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert len(tries.read_text().splitlines()) == 1
    assert last in {run["station"] for run in events(quick, "returned")[before:]}


def test_run_of_another_session_does_not_keep_a_session_from_its_end(quick: Path, tmp_path: Path) -> None:
    gate, other = tmp_path / "gate", shutil.copytree(quick, tmp_path / "other")
    set_train(other, gated(gate))
    with local_stations(1, tmp_path) as one:
        first = begun(other, *flags(one))
        until(lambda: going(other, *one.logs), "no run")
        second = begun(quick, *flags(one, *SOON))
        said, _ = second.communicate(timeout=60)
        assert second.returncode == 0, said
        assert "takes no part any more: it has not begun its run" in said
        first.terminate()
        first.communicate(timeout=60)


def test_run_of_a_station_that_cannot_say_how_far_it_is_goes_on(quick: Path, tmp_path: Path) -> None:
    set_train(quick, QUICK.replace("loss =", "import time\ntime.sleep(6)\nloss =", 1))
    with scheduler(tmp_path) as where, started("-c", OLD, "station", *where, ready="is ready", log=tmp_path / "w"):
        loop = begun(quick, "run", "--tag", "t", "--scheduler", *where, *FLAGS, *SOON)
        said, _ = loop.communicate(timeout=60)
    assert loop.returncode == 0, said
    assert len(fold(journal_path(quick, "t")).experiments) == 1
    assert not events(quick, "withdrawn")


@pytest.mark.parametrize("limit", [SOON, ()])
def test_run_that_goes_on_without_its_scheduler_is_taken_by_the_next_start(
    quick: Path, cli: Cli, tmp_path: Path, limit: tuple[str, ...]
) -> None:
    """The session ends all the same."""
    gate, path = tmp_path / "gate", journal_path(quick, "t")
    set_train(quick, gated(gate))
    port = free_port()
    with contextlib.ExitStack() as stack:
        with scheduler(tmp_path, port) as where:
            begin = ("-m", "agent", "station", *where, "--name", "w")
            stack.enter_context(started(*begin, ready="is ready", log=tmp_path / "w"))
            loop = begun(quick, "run", "--tag", "t", "--scheduler", *where, *FLAGS, *limit)
            until(lambda: going(quick, "w"), "no run")
        if not limit:
            loop.send_signal(signal.SIGINT)
        said, _ = loop.communicate(timeout=60)
        assert loop.returncode == (0 if limit else 130), said
        assert not events(quick, "withdrawn") + events(quick, "lost")
        assert {*fold(path).flight.leases} == {"1"}
        gate.touch()
        until(lambda: [*tmp_path.glob("cache-stations/records/w/*/*/1/answer.json")], "no answer")
        stack.enter_context(scheduler(tmp_path, port))
        until(lambda: (tmp_path / "w").read_text().count("is ready") == 2, "the station is not back")
        done = cli(quick, "run", "--tag", "t", "--scheduler", *where, *FLAGS, "--max-experiments", "0")
    assert done.returncode == 0, done.stderr
    returned = [run["lease"] for run in events(quick, "returned")]
    # On a fast machine, the baseline is repeated for its noise before the session ends.
    assert returned in (["1"], ["1", "2"])


def begun(folder: Path, *args: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM, "-C", str(folder), *args]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def free_port() -> int:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        return int(free.getsockname()[1])


@contextlib.contextmanager
def scheduler(folder: Path, port: int | None = None) -> Iterator[tuple[str, str, str]]:
    """Run a scheduler that does not come back by itself, and yield how to reach it."""
    port, tls = port or free_port(), folder / "tls"
    if not tls.exists():
        make_certificates(tls)
    start = ("-m", "agent", "station", "--start-scheduler", "--port", str(port), "--tls", str(tls))
    with started(*start, ready="is ready", log=folder / "scheduler"):
        yield f"127.0.0.1:{port}", "--tls", str(tls)
