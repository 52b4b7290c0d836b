"""`autoresearch station`: its flags, and a station and a scheduler as a person starts them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.fleet.cluster import Cluster
from agent.station.orders import Answer
from tests.common.stations import SLOW, gated, going, marked, order, set_train, started, until
from tests.common.workspaces import ROOT, Cli, git


@pytest.mark.quick
def test_exactly_one_way_is_required(cli: Cli, tmp_path: Path) -> None:
    for args in ([], ["localhost", "--start-scheduler"], ["localhost", "--make-certificates", "x"]):
        done = cli(tmp_path, "station", *args)
        assert (done.returncode, "exactly one of" in done.stderr) == (2, True)


@pytest.mark.quick
def test_port_belongs_to_the_scheduler_that_is_started(cli: Cli, tmp_path: Path) -> None:
    done = cli(tmp_path, "station", "localhost", "--port", "9000")
    assert (done.returncode, "--port is that of --start-scheduler" in done.stderr) == (2, True)


@pytest.mark.quick
def test_open_connections_beyond_this_machine_are_refused(cli: Cli, tmp_path: Path) -> None:
    for args in (["10.0.0.1"], ["--start-scheduler"], ["studio.local", "--tls", "missing"]):
        done = cli(tmp_path, "station", *args)
        assert (done.returncode, "--make-certificates" in done.stderr) == (3, True)
    assert cli(tmp_path, "station", "http://x").returncode == 2


@pytest.mark.quick
def test_certificates_are_made_once(cli: Cli, tmp_path: Path) -> None:
    done = cli(tmp_path, "station", "--make-certificates", "fleet")
    assert (done.returncode, "copy it to each machine" in done.stdout) == (0, True)
    assert "git" not in done.stderr
    assert cli(tmp_path, "station", "--make-certificates", "fleet").returncode == 3


@pytest.mark.quick
def test_certificates_in_a_repository_are_noted(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    git(tmp_path / "code", "init", "--quiet")
    for folder in ("code/fleet", "code"):
        done = cli(tmp_path, "station", "--make-certificates", folder)
        assert done.returncode == 0
        assert f"{folder} is in a git repository: do not commit the key, or move the folder" in done.stderr


@pytest.mark.quick
def test_missing_extra_is_named(tmp_path: Path) -> None:
    without = "import sys; sys.modules['distributed'] = None; from agent.cli import start; start()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", without, "-C", str(tmp_path), "station", "localhost"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, "")
    error, hint = done.stderr.splitlines()
    assert error == "error: the extra fleet is not installed"
    assert "uv sync --extra fleet" in hint


def test_station_works_leaves_and_comes_back(cli: Cli, quick: Path, tmp_path: Path) -> None:
    """A scheduler dies in the middle of a run: the run goes on, and the next scheduler finds its answer."""
    assert cli(tmp_path, "station", "--make-certificates", "fleet").returncode == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tls, address = str(tmp_path / "fleet"), f"127.0.0.1:{port}"
    serve = ["-m", "agent", "station", "--start-scheduler", "--port", str(port), "--tls", tls]
    work = ["-m", "agent", "station", address, "--tls", tls, "--name", "studio"]
    gate, cache = tmp_path / "gate", str(tmp_path / "cache")
    set_train(quick, gated(gate))
    with (
        started(*serve, ready="the scheduler is ready", log=tmp_path / "one.log") as scheduler,
        started(*work, ready="is ready at", log=tmp_path / "studio.log", AUTORESEARCH_CACHE=cache) as station,
    ):
        taken = subprocess.run([sys.executable, *work], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (taken.returncode, "has a station with the name studio" in taken.stderr) == (3, True)
        cluster = Cluster.connect(address, tmp_path / "fleet")
        cluster.submit("studio", order(quick))
        until(lambda: going(quick, "studio"), "the run has not started")
        scheduler.send_signal(signal.SIGINT)
        assert scheduler.wait(60) == 130
        cluster.close()
        gate.touch()
        with started(*serve, ready="the scheduler is ready", log=tmp_path / "two.log"):
            cluster = Cluster.connect(address, tmp_path / "fleet")
            until(cluster.stations, "the station has not come back")
            found = until(lambda: cluster.collect("s1", ["r1"])["studio"]["finished"], "its answer is lost")
            assert found["r1"].run.metric == 1.732
            set_train(quick, SLOW)
            cluster.submit("studio", order(quick, "r2"))
            until(lambda: going(quick, "studio"), "the run has not started")
            run = marked(station.pid)
            station.send_signal(signal.SIGINT)
            until(lambda: "leaving after this run" in (tmp_path / "studio.log").read_text(), "it says nothing")
            station.send_signal(signal.SIGINT)
            assert station.wait(60) == 130
            assert all(not os.path.exists(f"/proc/{each.pid}") or not each.is_running() for each in run)  # noqa: PTH110
            lost = cluster.next_answer(60)
            assert lost is not None
            assert not isinstance(lost, Answer) or lost.failed == "the station is leaving"
            cluster.close()
    lines = (tmp_path / "studio.log").read_text().splitlines()
    assert not any("Traceback" in line for line in lines)
    assert sum("run r1: 1.732" in line for line in lines) == 1


@pytest.mark.skipif(shutil.which("nohup") is None, reason="nohup is not installed")
def test_hang_up_ends_neither_scheduler_nor_station_under_nohup(cli: Cli, quick: Path, tmp_path: Path) -> None:
    assert cli(tmp_path, "station", "--make-certificates", "fleet").returncode == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tls, address, gate = str(tmp_path / "fleet"), f"127.0.0.1:{port}", tmp_path / "gate"
    nohup = ["-c", "import os, sys; os.execvp('nohup', ['nohup', sys.executable, '-m', 'agent', *sys.argv[1:]])"]
    serve = [*nohup, "station", "--start-scheduler", "--port", str(port), "--tls", tls]
    work = [*nohup, "station", address, "--tls", tls, "--name", "studio"]
    set_train(quick, gated(gate))
    with (
        started(*serve, ready="the scheduler is ready", log=tmp_path / "scheduler.log") as scheduler,
        started(
            *work, ready="is ready at", log=tmp_path / "studio.log", AUTORESEARCH_CACHE=str(tmp_path / "cache")
        ) as station,
    ):
        cluster = Cluster.connect(address, tmp_path / "fleet")
        cluster.submit("studio", order(quick))
        until(lambda: going(quick, "studio"), "the run has not started")
        for process in (scheduler, station):
            process.send_signal(signal.SIGHUP)
        time.sleep(1)  # they would leave at once
        gate.touch()
        answer = cluster.next_answer(60)
        assert isinstance(answer, Answer)
        assert answer.run is not None
        assert answer.run.metric == 1.732
        assert (scheduler.poll(), station.poll()) == (None, None)
        cluster.close()
