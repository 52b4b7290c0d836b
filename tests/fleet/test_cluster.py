"""Orders through a real Dask cluster on loopback, and the ways in which one gets lost."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent.fleet import cluster as cluster_module
from agent.fleet.cluster import Cluster, Loss
from agent.fleet.facts import facts_of
from agent.fleet.local import LocalFleet, local_stations
from agent.station.orders import Answer
from tests.common.stations import SLOW, gated, going, marked, order, set_train, started, until
from tests.common.workspaces import ROOT

WAIT = 60.0
# A decider that sends an order and then waits for ever.
DECIDER = """
import json, sys, time
from pathlib import Path
from agent.fleet.cluster import Cluster
from agent.station.orders import Order
data = json.loads(Path(sys.argv[3]).read_text())
data["bundle"] = Path(sys.argv[4]).read_bytes()
cluster = Cluster.connect(sys.argv[1], Path(sys.argv[2]))
cluster.submit("cpu0", Order.from_dict(data))
print("sent", flush=True)
time.sleep(600)
"""


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalFleet]:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    with local_stations(2, tmp_path) as found:
        yield found


@pytest.fixture
def cluster(fleet: LocalFleet) -> Iterator[Cluster]:
    found = Cluster.connect(fleet.address, fleet.tls)
    yield found
    found.close()


def answered(cluster: Cluster) -> Answer:
    found = cluster.next_answer(WAIT)
    assert isinstance(found, Answer), found
    return found


def test_two_stations_measure_at_once(cluster: Cluster, quick: Path) -> None:
    stations = cluster.stations()
    assert {*stations} == {"cpu0", "cpu1"}
    assert all(each.fault == "" and each.facts["machine"]["chip"] for each in stations.values())
    for name in stations:
        cluster.submit(name, order(quick, f"r-{name}"))
    found = {answer.station: answer for answer in (answered(cluster), answered(cluster))}
    assert {name: answer.lease for name, answer in found.items()} == {"cpu0": "r-cpu0", "cpu1": "r-cpu1"}
    for name, answer in found.items():
        assert answer.run is not None
        assert (answer.run.metric, answer.run.station, answer.run.log) == (1.732, name, "")
        assert b"val_bpb:          1.732000" in answer.log
    assert cluster.next_answer(0.0) is None


@pytest.mark.quick
@pytest.mark.parametrize(
    "facts",
    [{"version": 10**5000}, {10**5000: "key"}, {"machine": {"cores": 10**5000, 3: "x"}}, {"version": float("nan")}],
    ids=["number", "key", "nested", "nan"],
)
def test_odd_facts_of_a_station_are_a_fault_of_it(facts: dict[Any, Any]) -> None:
    found = cluster_module._info("studio", "tcp://10.0.0.1:5", facts)
    assert found.fault.startswith("has autoresearch None, and this is ")
    assert json.dumps(facts_of(found)) == "{}"


@pytest.mark.quick
def test_numbers_of_thousands_of_digits_in_place_of_an_answer_end_no_session() -> None:
    large = 10**5000
    for said in (large, [large], ValueError(large)):
        assert cluster_module._info("studio", "tcp://10.0.0.1:5", said).fault.startswith("does not answer: ")
    assert cluster_module._reason(ValueError(large)) == "ValueError: ValueError"
    assert cluster_module._kept({"finished": {large: {}, "1": large}, "running": [large, "2"]}, "studio") == {
        "finished": {},
        "running": ["2"],
    }


def test_station_asks_for_commits_that_it_lacks(cluster: Cluster, quick: Path) -> None:
    cluster.submit("cpu0", order(quick, "r1", bundle=None))
    assert answered(cluster).lacks
    cluster.submit("cpu0", order(quick, "r2"))
    assert answered(cluster).run is not None
    cluster.submit("cpu0", order(quick, "r3", bundle=None))
    assert answered(cluster).run is not None


def test_order_for_an_unknown_station_is_lost(cluster: Cluster, quick: Path) -> None:
    cluster.submit("cpu7", order(quick))
    assert cluster.next_answer(WAIT) == Loss("r1", "cpu7", "the station is not connected")


def test_killed_station_is_a_loss_and_leaves_no_process(cluster: Cluster, quick: Path) -> None:
    set_train(quick, SLOW)
    cluster.submit("cpu0", order(quick))
    until(lambda: going(quick, "cpu0"), "the run has not started")
    pid = cluster.stations()["cpu0"].facts["pid"]
    run = marked(pid)
    assert run
    os.kill(pid, signal.SIGKILL)
    assert cluster.next_answer(WAIT) == Loss("r1", "cpu0", "the station died during the run", died=True)
    assert not psutil.wait_procs(run, timeout=WAIT)[1]
    # A new process may be the station by now.
    assert pid not in {each.facts.get("pid") for each in cluster.stations().values()}
    cluster.submit("cpu1", order(quick, "r2", files={"train.py": (quick / "train.py").read_text().replace("600", "0")}))
    assert answered(cluster).run is not None


def test_cancelled_run_ends_with_its_processes(cluster: Cluster, quick: Path) -> None:
    set_train(quick, SLOW)
    cluster.submit("cpu0", order(quick))
    until(lambda: going(quick, "cpu0"), "the run has not started")
    run = marked(cluster.stations()["cpu0"].facts["pid"])
    cluster.cancel("s1", "r1", "cpu0")
    assert answered(cluster).failed == "the run was cancelled"
    assert not psutil.wait_procs(run, timeout=WAIT)[1]
    assert cluster.collect("s1", ["r1", "r2"])["cpu0"] == {"finished": {}, "running": []}


def test_killed_decider_collects_what_its_stations_finish(
    fleet: LocalFleet, cluster: Cluster, quick: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    set_train(quick, gated(gate))
    sent = order(quick)
    (tmp_path / "order.json").write_text(json.dumps({**sent.to_dict(), "bundle": None}))
    (tmp_path / "bundle").write_bytes(sent.bundle or b"")
    paths = [str(fleet.tls), str(tmp_path / "order.json"), str(tmp_path / "bundle")]
    with started("-c", DECIDER, fleet.address, *paths, ready="sent", log=tmp_path / "decider.log") as decider:
        until(lambda: going(quick, "cpu0"), "the run has not started")
        decider.kill()
        decider.wait()
    assert cluster.collect("s1", ["r1", "r2"])["cpu0"] == {"finished": {}, "running": ["r1"]}
    gate.touch()
    found = until(lambda: cluster.collect("s1", ["r1", "r2"])["cpu0"]["finished"], "the run has not ended")
    assert found["r1"].run.metric == 1.732
    assert b"val_bpb" in found["r1"].log
    # The same order again is the same run, and a later one drops it.
    cluster.submit("cpu0", sent)
    assert answered(cluster).run == found["r1"].run
    cluster.submit("cpu0", order(quick, "r2", settled=("r1",)))
    assert answered(cluster).lease == "r2"
    assert {*cluster.collect("s1", ["r1", "r2"])["cpu0"]["finished"]} == {"r2"}


def test_second_order_waits_for_the_first(cluster: Cluster, quick: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    set_train(quick, gated(gate))
    cluster.submit("cpu0", order(quick, "r1"))
    until(lambda: going(quick, "cpu0"), "the run has not started")
    cluster.submit("cpu0", order(quick, "r2"))
    assert cluster.next_answer(0.5) is None
    assert cluster.collect("s1", ["r1", "r2"])["cpu0"]["running"] == ["r1"]
    gate.touch()
    assert [answered(cluster).lease, answered(cluster).lease] == ["r1", "r2"]


def test_station_that_is_asked_to_leave_finishes_its_run(cluster: Cluster, quick: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    set_train(quick, gated(gate))
    cluster.submit("cpu0", order(quick))
    until(lambda: going(quick, "cpu0"), "the run has not started")
    pid = cluster.stations()["cpu0"].facts["pid"]
    os.kill(pid, signal.SIGINT)
    gate.touch()
    assert answered(cluster).run is not None
    until(lambda: "cpu0" not in cluster.stations(), "the station has not left")


def test_station_that_is_told_to_leave_at_once_kills_its_run(cluster: Cluster, quick: Path) -> None:
    set_train(quick, SLOW)
    cluster.submit("cpu0", order(quick))
    until(lambda: going(quick, "cpu0"), "the run has not started")
    pid = cluster.stations()["cpu0"].facts["pid"]
    run = marked(pid)
    os.kill(pid, signal.SIGTERM)
    lost = cluster.next_answer(WAIT)
    assert isinstance(lost, Loss) or (lost is not None and lost.failed == "the station is leaving")
    assert not psutil.wait_procs(run, timeout=WAIT)[1]


def test_scheduler_that_dies_loses_orders_and_prints_nothing(
    fleet: LocalFleet, cluster: Cluster, quick: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    set_train(quick, SLOW)
    cluster.submit("cpu0", order(quick))
    until(lambda: going(quick, "cpu0"), "the run has not started")
    port = int(fleet.address.rpartition(":")[2])
    mine = [child for child in psutil.Process().children() if _listens(child, port)]
    mine[0].kill()
    lost = cluster.next_answer(WAIT)
    assert isinstance(lost, Loss)
    assert "scheduler" in lost.reason
    until(lambda: not cluster.connected, "the end of the connection is not noticed")
    assert cluster.stations() == {}
    cluster.submit("cpu0", order(quick, "r2"))
    assert isinstance(cluster.next_answer(WAIT), Loss)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def test_slow_scheduler_loses_no_station(fleet: LocalFleet, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {*cluster.stations()} == {"cpu0", "cpu1"}
    monkeypatch.setattr("agent.fleet.cluster.CALL_SECONDS", 1)
    port = int(fleet.address.rpartition(":")[2])
    scheduler = next(child for child in psutil.Process().children() if _listens(child, port))
    scheduler.suspend()
    try:
        assert {*cluster.stations()} == {"cpu0", "cpu1"}
    finally:
        scheduler.resume()


def test_worker_of_a_plain_dask_cluster_is_a_station(
    fleet: LocalFleet, cluster: Cluster, quick: Path, tmp_path: Path
) -> None:
    tls = [f"--tls-{key}={fleet.tls / name}" for key, name in (("ca-file", "ca.pem"), ("cert", "certificate.pem"))]
    args = ["-m", "dask", "worker", fleet.address, *tls, f"--tls-key={fleet.tls / 'key.pem'}", "--name=plain"]
    more = ["--no-nanny", "--nthreads=4", f"--local-directory={tmp_path}"]
    with started(*args, *more, ready="Registered to", log=tmp_path / "worker.log"):
        cluster.submit("plain", order(quick))
        found = answered(cluster)
        assert found.run is not None
        assert found.run.station == "plain"


def test_killed_worker_of_a_plain_dask_scheduler_is_a_loss(
    quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a scheduler waits for ever for a worker that it may not replace."""
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    set_train(quick, SLOW)
    serve = ["-m", "dask", "scheduler", "--host=127.0.0.1", "--port=0", "--no-dashboard"]
    with started(*serve, ready="Scheduler at", log=tmp_path / "scheduler.log"):
        address = re.findall(r"tcp://127\.0\.0\.1:\d+", (tmp_path / "scheduler.log").read_text())[0]
        work = ["-m", "dask", "worker", address, "--name=plain", "--no-nanny", f"--local-directory={tmp_path}"]
        with started(*work, ready="Registered to", log=tmp_path / "worker.log") as worker:
            cluster = Cluster.connect(address)
            cluster.submit("plain", order(quick))
            until(lambda: going(quick, "plain"), "the run has not started")
            worker.kill()
            assert cluster.next_answer(WAIT) == Loss("r1", "plain", "the station is gone")
            cluster.close()


def test_station_of_another_version_is_named_as_unusable(cluster: Cluster, quick: Path) -> None:
    cluster.submit("cpu0", dataclasses.replace(order(quick), version="0.0.1"))
    assert "has autoresearch" in answered(cluster).failed


def test_unreachable_scheduler_is_one_sentence() -> None:
    command = "from agent.fleet.cluster import Cluster; Cluster.connect('tcp://127.0.0.1:1')"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("agent.errors.PreconditionError: cannot connect to the scheduler at tcp://127.0.0.1:1: ")


def _listens(process: psutil.Process, port: int) -> bool:
    return any(each.status == "LISTEN" and each.laddr.port == port for each in process.net_connections())
