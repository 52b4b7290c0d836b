"""A decider and two stations on hosts of their own, with TLS: cables are pulled, and processes killed at random."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.journal.journal import fold
from agent.journal.paths import journal_path
from tests.common.network import Network, can_make_namespaces, network
from tests.common.processes import survivors
from tests.common.sessions import assert_consistent, events, rows
from tests.common.workspaces import ROOT, commit_all

WAIT = 120.0
STATIONS = ("studio", "mini")


class Fleet:
    """The processes of one fleet, each on its own host. They are killed and started again by name."""

    def __init__(self, net: Network, folder: Path, home: Path, experiments: int) -> None:
        self._net, self._folder, self._home, self._experiments = net, folder, home, experiments
        self._tls = home / "tls"
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        agent, tls, address = (sys.executable, "-m", "agent"), ("--tls", str(self._tls)), self._net.hosts["decider"]
        where = f"tcp://{address}:8786"
        commands = {
            "scheduler": (*agent, "station", "--start-scheduler", *tls),
            **{each: (*agent, "station", where, "--name", each, *tls) for each in STATIONS},
            "decider": (
                *(*agent, "-C", str(self._folder), "run", "--tag", "t", "--scheduler", where, *tls, "--fresh"),
                *("--no-keep-awake", "--max-experiments", str(self._experiments)),
            ),
        }
        host = name if name in STATIONS else "decider"
        (self._home / name).mkdir(exist_ok=True)
        env = {"AUTORESEARCH_CACHE": str(self._home / name / "cache"), "PYTHONPATH": str(ROOT)}
        log = self._home / f"{name}.log"
        self._running[name] = self._net.start(host, *commands[name], cwd=self._home, log=log, **env)

    def alive(self, name: str) -> bool:
        return self._running[name].poll() is None

    def kill(self, name: str) -> None:
        self._running[name].kill()
        self._running[name].wait()

    def wait(self, name: str) -> int:
        return self._running[name].wait(timeout=600)

    def end(self) -> None:
        for name, process in self._running.items():
            if process.poll() is None:
                process.terminate() if name != "decider" else process.kill()
        for process in self._running.values():
            process.wait(timeout=60)

    def log(self, name: str) -> str:
        return (self._home / f"{name}.log").read_text(errors="replace")


def until(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + WAIT
    while not (found := true()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


@pytest.mark.skipif(not can_make_namespaces(), reason="making network namespaces is not permitted")
@pytest.mark.parametrize(
    ("kills", "cuts", "seed"), [(3, 2, 1), pytest.param(50, 20, 2, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_nothing_is_lost_or_doubled(quick: Path, tmp_path: Path, kills: int, cuts: int, seed: int) -> None:
    text = (quick / "train.py").read_text().replace("import sys\n", "import sys\nimport time\n\ntime.sleep(0.7)\n", 1)
    (quick / "train.py").write_text(text)
    commit_all(quick, "slower")
    rng, home = random.Random(seed), tmp_path / "home"
    home.mkdir()
    certificates = [sys.executable, "-m", "agent", "station", "--make-certificates", str(home / "tls")]
    subprocess.run(certificates, cwd=ROOT, check=True, capture_output=True)
    experiments = 8 + kills
    with network("decider", *STATIONS) as net:
        fleet = Fleet(net, quick, home, experiments)
        try:
            fleet.start("scheduler")
            assert until(lambda: "tls://" in fleet.log("scheduler")), fleet.log("scheduler")
            for name in (*STATIONS, "decider"):
                fleet.start(name)
            assert until(lambda: journal_path(quick, "t").exists() and len(events(quick, "returned")) >= 2), fleet.log(
                "decider"
            )
            blows = ["decider"] * kills + ["station"] * kills + ["cable"] * cuts
            rng.shuffle(blows)
            for blow in blows:
                time.sleep(rng.uniform(0.2, 2.5))
                name = rng.choice(STATIONS)
                if blow == "cable":
                    cut = rng.choice([*STATIONS, "decider"])
                    net.plug(cut, connected=False)
                    time.sleep(rng.uniform(0.5, 6))
                    net.plug(cut, connected=True)
                    continue
                fleet.kill("decider" if blow == "decider" else name)
                fleet.start("decider" if blow == "decider" else name)
            if not fleet.alive("decider"):
                fleet.start("decider")
            assert fleet.wait("decider") == 0, fleet.log("decider")[-3000:]
        finally:
            fleet.end()
    assert_consistent(quick)
    assert len(rows(quick)) == experiments + 1
    assert "Traceback" not in "".join(map(fleet.log, ("decider", *STATIONS, "scheduler")))
    state = fold(journal_path(quick, "t"))
    assert not state.flight.leases
    ended = Counter(event["lease"] for kind in ("returned", "lost", "withdrawn") for event in events(quick, kind))
    assert ended == Counter(event["lease"] for event in events(quick, "leased"))
    # Each run that came back is part of one experiment, once.
    logs = Counter(run.log for each in state.measured for run in (*each.runs, *each.heldout_runs))
    returned = {event["log"] for event in events(quick, "returned")}
    assert set(logs) <= returned
    assert max(logs.values()) == 1
    assert not survivors(quick)
    assert not survivors(home)
