"""Stations on this machine: their shares of it, and their end."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from agent.errors import PreconditionError
from agent.fleet.local import Place, places
from tests.common.stations import started

HOLDER = """
import time
from agent.fleet.local import local_stations
with local_stations(1):
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
    with pytest.raises(PreconditionError, match="each station needs its own"):
        places(len(mine) + 1)


@pytest.mark.quick
def test_stations_take_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-5")
    assert places(2) == [Place("gpu0", gpu="2"), Place("gpu1", gpu="GPU-5")]
    with pytest.raises(PreconditionError, match="has 2 GPUs"):
        places(3)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "terminated"])
def test_stations_end_with_their_decider(tmp_path: Path, number: signal.Signals) -> None:
    log, cache = tmp_path / "log", str(tmp_path / "cache")
    with started("-c", HOLDER, ready="up", log=log, AUTORESEARCH_CACHE=cache, CUDA_VISIBLE_DEVICES="") as decider:
        children = psutil.Process(decider.pid).children(recursive=True)
        assert len(children) >= 2
        decider.send_signal(number)
        decider.wait(60)
        assert not psutil.wait_procs(children, timeout=60)[1]
