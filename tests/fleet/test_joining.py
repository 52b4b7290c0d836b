"""What a station and `run` say if they cannot join a scheduler, and whether they wait."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import PreconditionError
from agent.fleet.cluster import Cluster
from agent.fleet.local import Child, LocalFleet, local_stations
from agent.fleet.security import NO_TLS, OPEN, Endpoint, make_certificates, require_agreement
from agent.room import sandbox
from tests.common.stations import WAIT_SECONDS, started, until
from tests.common.workspaces import ROOT, Cli, git, quick_protocol, set_protocol

SCHEDULER = """
import asyncio
from agent.fleet.scheduler import serve
asyncio.run(serve("127.0.0.1", 0, None, lambda address: print("at", address, "", flush=True), asyncio.Event()))
"""
# A station that waits for its name for so many seconds, and tries often.
STATION = """
from agent.fleet import worker
worker.TAKEN_SECONDS, worker.PAUSE_SECONDS = {seconds}, 0.2
from agent.cli import start
start()
"""


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalFleet]:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    with local_stations(1, tmp_path) as found:
        yield found


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[str]:
    log = tmp_path / "scheduler.log"
    with started("-c", SCHEDULER, ready="at tcp", log=log):
        yield re.findall(r"at (tcp://\S+)", log.read_text())[0]


def station(*args: str, seconds: float = 600.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", STATION.format(seconds=seconds)]
    return subprocess.run(
        [*command, "station", *args], cwd=ROOT, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
    )


def test_certificate_of_another_authority_is_the_reason(fleet: LocalFleet, tmp_path: Path) -> None:
    other = tmp_path / "other"
    make_certificates(other)
    with pytest.raises(PreconditionError, match=r"its certificate is not of the authority in ca\.pem") as refused:
        Cluster.connect(fleet.address, other)
    assert "start one there" not in refused.value.hint
    done = station(fleet.address, "--tls", str(other), "--name", "w")
    assert done.returncode == 3
    assert "its certificate is not of the authority in ca.pem" in done.stderr
    assert "waiting" not in done.stderr


def test_scheduler_that_requires_a_certificate_is_the_reason(fleet: LocalFleet) -> None:
    address = fleet.address.replace("tls", "tcp")
    with pytest.raises(PreconditionError, match="it requires a certificate") as refused:
        Cluster.connect(address)
    assert "--tls DIR" in refused.value.hint
    done = station(address, "--name", "w")
    assert done.returncode == 3
    assert "it requires a certificate" in done.stderr
    assert OPEN not in done.stderr


def test_scheduler_without_certificates_is_the_reason(plain: str, tmp_path: Path) -> None:
    make_certificates(tmp_path / "tls")
    with pytest.raises(PreconditionError, match="it does not speak TLS"):
        Cluster.connect(plain, tmp_path / "tls")
    done = station(plain, "--tls", str(tmp_path / "tls"), "--name", "w")
    assert done.returncode == 3
    assert "it does not speak TLS" in done.stderr
    Cluster.connect(plain).close()


def test_hung_up_is_waited_for_and_other_words_are_the_reason(tmp_path: Path) -> None:
    """Such as a tunnel whose other end does not run yet, and a web server."""
    make_certificates(tmp_path / "tls")
    for says, fault in ((b"", ""), (b"HTTP/1.1 400 Bad Request\r\n\r\n", NO_TLS), (b"SSH-2.0-OpenSSH_9\r\n", NO_TLS)):
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as peer:
            address = f"tls://127.0.0.1:{peer.getsockname()[1]}"
            threading.Thread(target=answer, args=(peer, says), daemon=True).start()
            with pytest.raises(PreconditionError, match=NO_TLS) if fault else contextlib.nullcontext():
                require_agreement(Endpoint(address, tmp_path / "tls"))


def answer(peer: socket.socket, says: bytes) -> None:
    """Take one connection, read its greeting, and close it after these words."""
    connection, _ = peer.accept()
    with connection, contextlib.suppress(ConnectionResetError):
        connection.recv(4096)
        connection.sendall(says)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(4096)


def test_closed_port_is_waited_for_by_a_station_and_not_by_a_decider(fleet: LocalFleet, tmp_path: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        address = f"tls://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(PreconditionError, match="refused") as refused:
        Cluster.connect(address, fleet.tls)
    assert "start one there" in refused.value.hint
    log = tmp_path / "log"
    with started("-m", "agent", "station", address, "--tls", str(fleet.tls), ready="waiting for", log=log):
        assert "refused" in log.read_text()


def test_taken_name_is_waited_for(fleet: LocalFleet, tmp_path: Path) -> None:
    """Such as that of its former self, before its machine lost its power."""
    log, more = tmp_path / "log", ("station", fleet.address, "--tls", str(fleet.tls), "--name", "far")
    config = {"kind": "station", "address": fleet.address, "name": "far", "tls": str(fleet.tls), "cores": []}
    former = Child(config, {}, tmp_path / "former.log")
    try:
        former.ready()
        with started(
            "-c", STATION.format(seconds=600), *more, ready="still lists a station with the name far", log=log
        ) as again:
            former.end()
            until(lambda: "station far is ready" in log.read_text(), log.read_text())
            assert again.poll() is None
    finally:
        former.end()


def test_taken_name_ends_a_station_in_the_end_and_ctrl_c_at_once(fleet: LocalFleet, tmp_path: Path) -> None:
    [name] = fleet.logs
    done = station(fleet.address, "--tls", str(fleet.tls), "--name", name, seconds=0.5)
    assert done.returncode == 3
    assert f"error: the scheduler has a station with the name {name} already" in done.stderr
    assert "If this machine was restarted, keep the name" in done.stderr
    log, more = tmp_path / "log", ("station", fleet.address, "--tls", str(fleet.tls), "--name", name)
    with started("-m", "agent", *more, ready="still lists", log=log) as waits:
        assert "if another station has it, choose another with `--name`" in log.read_text()
        waits.send_signal(2)
        assert waits.wait(10) == 130


@pytest.mark.skipif(sandbox.available(False) is None, reason="no sandbox closes the network here")
def test_candidates_that_reach_an_open_scheduler_are_noted(
    quick: Path, cli: Cli, plain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    limits = ("--max-experiments", "0", "--no-keep-awake", "--fresh")
    with started("-m", "agent", "station", plain, "--name", "w", ready="is ready", log=tmp_path / "log"):
        assert OPEN in (tmp_path / "log").read_text()
        for tag, policy in (("a", "offline"), ("b", "full")):
            environment = quick_protocol()["environment"]
            environment["constraints"]["networkPolicy"] = policy
            git(quick, "checkout", "-q", "main")
            set_protocol(quick, environment=environment)
            done = cli(quick, "run", "--tag", tag, "--scheduler", plain, *limits)
            assert done.returncode == 0, done.stderr
            assert (OPEN in done.stderr) == (policy == "full"), done.stderr


@pytest.mark.skipif(sandbox.available(True) is None, reason="no sandbox works here")
def test_candidates_that_cannot_reach_a_scheduler_are_not_noted(
    quick: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler of `--stations` has certificates, which no run sees."""
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    environment = quick_protocol()["environment"]
    environment["constraints"]["networkPolicy"] = "full"
    look = "import glob\nassert not glob.glob('/tmp/autoresearch-*/tls') + glob.glob(TMP)\nloss ="
    text = (quick / "train.py").read_text()
    look = look.replace("TMP", repr(f"{tempfile.gettempdir()}/autoresearch-*/tls"))
    (quick / "train.py").write_text(text.replace("loss =", look, 1))
    set_protocol(quick, environment=environment)
    done = cli(quick, "run", "--tag", "t", "--stations", "1", "--max-experiments", "0", "--no-keep-awake", "--fresh")
    assert done.returncode == 0, done.stderr
    assert OPEN not in done.stderr
