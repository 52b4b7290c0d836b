"""Stations on this machine: their shares of it, and their end."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from agent.errors import AutoresearchError, PreconditionError
from agent.fleet import local
from agent.fleet.cluster import Cluster, StationInfo
from agent.fleet.local import Child, LocalFleet, Place, local_stations, places, sharing
from agent.fleet.security import make_certificates
from tests.common.processes import gone
from tests.common.stations import started, until

HOLDER = """
import sys, time
from pathlib import Path
from agent.fleet.local import local_stations
with local_stations(1, Path(sys.argv[1])):
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.mark.quick
@pytest.mark.skipif(sys.platform != "linux", reason="cores are shared out on Linux")
def test_stations_share_the_cores_and_no_core_is_in_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    mine = os.sched_getaffinity(0)
    found = places(len(mine))
    assert [each.name for each in found] == [f"cpu{number}" for number in range(len(mine))]
    assert sorted(core for each in found for core in each.cores) == sorted(mine)
    assert sharing(len(mine)) is None


@pytest.mark.quick
def test_more_stations_than_cores_share_them_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    count = len(os.sched_getaffinity(0)) + 1
    found = places(count)
    assert len({each.name for each in found}) == count
    assert all(len(each.cores) == 1 for each in found)
    assert f"{count} stations share" in (sharing(count) or "")
    assert {each.name for each in found}.isdisjoint(each.name for each in places(count - 1))


@pytest.mark.quick
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_another_share_of_cores_is_another_station(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert places(1)[0].name not in {each.name for each in places(len(os.sched_getaffinity(0)))}


@pytest.mark.quick
def test_stations_take_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-5")
    first, second = places(2)
    assert first == Place("gpu2", gpu="2")
    assert (re.fullmatch("gpu-[0-9a-f]{8}", second.name) is not None, second.gpu) == (True, "GPU-5")
    with pytest.raises(PreconditionError, match="has 2 GPUs"):
        places(3)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("visible", "names"),
    [("0,1", ["gpu0", "gpu1"]), ("2,3", ["gpu2", "gpu3"]), ("3,2", ["gpu3", "gpu2"]), ("1,1", ["gpu0", "gpu1"])],
)
def test_another_card_is_another_station(monkeypatch: pytest.MonkeyPatch, visible: str, names: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [(each.name, each.gpu) for each in places(2)] == [*zip(names, visible.split(","), strict=True)]
    assert places(1) == places(2)[:1]


@pytest.mark.quick
def test_another_uuid_is_another_station(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sessions have a card each. One of an earlier version, which counted them, goes on with its names."""
    found = []
    for card in ("GPU-aaaa", "GPU-bbbb", "MIG-GPU-aaaa/1/0"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", card)
        found += places(1)
        assert places(1, ["gpu0"]) == [Place("gpu0", gpu=card)]
        assert places(1, [found[-1].name, "gpu0"]) == found[-1:]
        assert places(1, ["gpu-12345678"]) == found[-1:]
    assert len({each.name for each in found}) == 3


@pytest.mark.parametrize(
    ("config", "named"),
    [({"kind": "scheduler"}, "the scheduler"), ({"kind": "station", "name": "gpu2"}, "station gpu2")],
)
def test_part_that_does_not_start_is_named(tmp_path: Path, config: dict[str, str], named: str) -> None:
    child = Child({**config, "tls": str(tmp_path), "address": "tls://127.0.0.1:1"}, {}, tmp_path / "log")
    try:
        with pytest.raises(AutoresearchError, match=f"^{named} did not start: "):
            child.ready()
    finally:
        child.end()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "terminated"])
def test_stations_end_with_their_decider(tmp_path: Path, number: signal.Signals) -> None:
    log, cache = tmp_path / "log", str(tmp_path / "cache")
    env = {"AUTORESEARCH_CACHE": cache, "CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(tmp_path)}
    with started("-c", HOLDER, str(tmp_path), ready="up", log=log, **env) as decider:
        children = psutil.Process(decider.pid).children(recursive=True)
        assert len(children) >= 2
        decider.send_signal(number)
        decider.wait(60)
        assert not psutil.wait_procs(children, timeout=60)[1]
    # What a kill leaves, such as the key of its certificates, goes at the next start.
    (old,) = [each.name for each in tmp_path.glob("autoresearch-*")]
    with started("-c", HOLDER, str(tmp_path), ready="up", log=log, **env):
        left = [each.name for each in tmp_path.glob("autoresearch-*")]
    assert old not in left


def test_parts_that_are_frozen_are_killed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(local, "ENDING_SECONDS", 5.0)
    with local_stations(3, tmp_path) as fleet:
        parts = [each for each in psutil.Process().children() if str(fleet.tls) in " ".join(each.cmdline())]
        assert len(parts) == 4
        for each in parts:
            each.suspend()
        began = time.monotonic()
    assert time.monotonic() - began < 2 * local.ENDING_SECONDS
    assert not any(each.is_running() for each in parts)


@pytest.mark.parametrize("kind", ["station", "scheduler"])
def test_part_that_dies_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))

    def stations(fleet: LocalFleet) -> list[StationInfo]:
        try:
            cluster = Cluster.connect(fleet.address, fleet.tls)
        except AutoresearchError:
            return []
        found = [each for each in cluster.stations().values() if not each.fault]
        cluster.close()
        return found

    with local_stations(1, tmp_path) as fleet:
        before = until(lambda: stations(fleet), "the station")[0]
        victim = next(each for each in psutil.Process().children() if f'"{kind}"' in " ".join(each.cmdline()))
        victim.kill()
        until(lambda: gone(victim.pid), "its death")
        if kind == "station":
            until(lambda: any(each.facts["pid"] != before.facts["pid"] for each in stations(fleet)), "another one")
        else:
            until(lambda: stations(fleet), "the station at the same address")


class Watched(Child):
    """A child that counts how often it is started again."""

    tries = 0

    def start_again(self) -> None:
        self.tries += 1
        super().start_again()


def test_part_that_cannot_be_started_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "PAUSE_SECONDS", 0.05)
    make_certificates(tmp_path / "tls")
    child = Watched({"kind": "scheduler", "tls": str(tmp_path / "tls")}, {}, tmp_path / "log")
    ended = threading.Event()
    keeper = threading.Thread(target=local._keep, args=([child], ended), daemon=True)
    try:
        child.ready()
        python, every = sys.executable, psutil.Process().children()
        victim = next(each for each in every if str(tmp_path / "tls") in " ".join(each.cmdline()))
        monkeypatch.setattr(sys, "executable", "/no/such/python")
        victim.kill()
        keeper.start()
        until(lambda: child.tries > 1, "it was given up")
        monkeypatch.setattr(sys, "executable", python)
        until(lambda: not child.is_dead, "it is not started again")
        assert child.ready().startswith("tls://")
    finally:
        ended.set()
        if keeper.is_alive():
            keeper.join()
        child.end()
