"""Stations that stay connected and hang, such as in a setup command: no other station and no end waits for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.execution import setup
from agent.fleet import health
from agent.fleet.local import LocalFleet, local_stations
from agent.journal.journal import fold
from agent.journal.paths import journal_path
from tests.common.sessions import assert_consistent, events
from tests.common.stations import until
from tests.common.workspaces import ROOT, Cli, commit_all, quick_protocol, set_protocol

FLAGS = ("--no-keep-awake", "--sandbox", "off", "--fresh")
# The first station passes, and the second one hangs; it ends with the test.
ONE_HANGS = "mkdir $AUTORESEARCH_CACHE/first || sleep 6001"
# A decider whose patience is short.
PROGRAM = "import agent.fleet.health as health\nhealth.SLOW_SECONDS = 1.0\nfrom agent.cli import start\nstart()"


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
