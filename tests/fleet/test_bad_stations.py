"""Stations that are odd or broken: names, facts and answers that a decider must not believe."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from agent.fleet import cluster as cluster_module
from agent.fleet import health
from agent.fleet.cluster import Cluster
from agent.fleet.local import LocalFleet, local_stations
from agent.journal.journal import fold
from agent.journal.paths import journal_path
from tests.common.sessions import assert_consistent, events
from tests.common.stations import set_train, started, until
from tests.common.workspaces import QUICK, Cli, commit_all

FLAGS = ("--no-keep-awake", "--sandbox", "off", "--fresh")


@pytest.fixture(autouse=True)
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalFleet]:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    with local_stations(1, tmp_path) as found:
        yield found


def station(fleet: LocalFleet, name: str, log: Path, before: str = "") -> AbstractContextManager[object]:
    """Start a station that does not end with this process's input, after the statements `before`."""
    config = {"kind": "station", "tls": str(fleet.tls), "address": fleet.address, "name": name}
    code = "from agent.fleet import child\nchild._end_with_parent = lambda: None\n"
    return started("-c", f"{before}\n{code}child.main({json.dumps(config)})", ready="ready", log=log)


def session(cli: Cli, folder: Path, fleet: LocalFleet, most: int) -> subprocess.CompletedProcess[str]:
    where = ("--scheduler", fleet.address, "--tls", str(fleet.tls))
    return cli(folder, "run", "--tag", "t", *where, *FLAGS, "--max-experiments", str(most))


@pytest.mark.parametrize(
    "name",
    ["../../../../../escaped", *(pytest.param(each, marks=pytest.mark.slow) for each in ("/tmp/x", "größe ✓", "a:1"))],
)
def test_odd_name_stays_in_the_folder_of_the_session(
    quick: Path, cli: Cli, fleet: LocalFleet, tmp_path: Path, name: str
) -> None:
    with station(fleet, name, tmp_path / "station.log"):
        done = session(cli, quick, fleet, 4)
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    logs = {event["station"]: Path(event["log"]).resolve() for event in events(quick, "leased")}
    assert name in logs
    home = (journal_path(quick, "t").parent / "stations").resolve()
    assert all(log.is_relative_to(home) and log.parent.parent == home for log in logs.values())


@pytest.mark.parametrize(
    "name", ["\x1b[31mred", *(pytest.param(each, marks=pytest.mark.slow) for each in ("x" * 300, "two\nlines", " "))]
)
def test_unusable_name_takes_no_part(quick: Path, cli: Cli, fleet: LocalFleet, tmp_path: Path, name: str) -> None:
    with station(fleet, name, tmp_path / "station.log"):
        done = session(cli, quick, fleet, 2)
    assert done.returncode == 0, done.stderr
    assert "has a name that is not one line of 1 to 100 characters" in done.stderr
    assert "\x1b" not in done.stderr
    assert [event["station"][:4] for event in events(quick, "joined")] == ["cpu0"]


def test_unusable_name_is_refused_at_the_station(cli: Cli, tmp_path: Path) -> None:
    done = cli(tmp_path, "station", "127.0.0.1:1", "--name", "two\nlines")
    assert done.returncode == 2
    assert "error: this station has a name" in done.stderr


# A station whose answers are changed before they are sent.
LIAR = """
import agent.station.work as work
real = work.measure_order
def measure_order(data, name, tick=lambda _: None):
    answer = real(data, name)
    run = answer["run"] or {}
    LIE
    return answer
work.measure_order = measure_order
"""
FACTS = """
import agent.station.control as control
real = control.facts
def facts(dask_worker=None):
    return {**real(dask_worker), "odd": FACT, "more": ["a", {"b": 1}]}
control.facts = facts
"""
KEPT = """
import agent.station.control as control
def collect(session, leases, dask_worker=None):
    return KEPT
control.collect = collect
"""
LIES = {
    "a metric that a journal cannot hold": "run['metric'] = 1e305",
    "an infinite metric": "run['metric'] = float('inf')",
    "no number": "run['metric'] = float('nan')",
    "a whole metric": "run['metric'] = 1",
    "a huge whole metric": "run['metric'] = 10**400",
    "negative seconds": "run['seconds'] = -5.0",
    "too many seconds": "run['seconds'] = 1e12",
    "a training time that a journal cannot hold": "run['trained'] = 1e200",
    "a long error": "run.update(metric=None, error='x' * 4001)",
    "terminal escapes": "run.update(metric=None, error='\\x1b[2J\\x1b]0;title\\x07' * 100)",
    "neither metric nor error": "run.update(metric=None, error=None)",
    "both metric and error": "run.update(error='but it failed')",
    "the lease of another run": "answer['lease'] = '1'",
    "a lease that never was": "answer['lease'] = 'never'",
    "the name of another station": "answer['station'] = 'cpu0'",
    "no answer": "answer = ['no', 'answer']",
    "an exception": "raise ValueError('\\x1b[31m' + 'x' * 5000)",
    "always lacking": "answer.update(run=None, failed='lacks', lacks=True)",
    "not able": "answer.update(run=None, failed='the disk is full\\n' * 50)",
}
# Those that are tested each time.
FEW = ("a metric that a journal cannot hold", "neither metric nor error", "the name of another station")


@pytest.mark.parametrize("lie", [each if each in FEW else pytest.param(each, marks=pytest.mark.slow) for each in LIES])
def test_broken_answer_does_not_damage_a_session(
    quick: Path, cli: Cli, fleet: LocalFleet, tmp_path: Path, lie: str
) -> None:
    with station(fleet, "liar", tmp_path / "station.log", LIAR.replace("LIE", LIES[lie])):
        done = session(cli, quick, fleet, 4)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stderr + done.stdout
    assert_consistent(quick)
    state = fold(journal_path(quick, "t"))
    assert not state.flight.candidates
    assert not state.flight.leases
    assert all(run.seconds >= 0 for each in state.measured for run in (*each.runs, *each.heldout_runs))
    sent = {event["lease"]: event["station"] for event in events(quick, "leased")}
    back = [event for event in events(quick, "returned") if event["station"] == "liar"]
    assert all(sent[event["lease"]] == "liar" for event in back)
    for event in back:  # each failed run says why, and no other does
        assert (event["metric"] is None) == bool(event["error"])


@pytest.mark.parametrize("fact", ["10**400", pytest.param("'\x1b[2J' * 1000", marks=pytest.mark.slow)])
def test_odd_fact_does_not_damage_a_session(
    quick: Path, cli: Cli, fleet: LocalFleet, tmp_path: Path, fact: str
) -> None:
    with station(fleet, "odd", tmp_path / "station.log", FACTS.replace("FACT", fact)):
        done = session(cli, quick, fleet, 2)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stderr
    assert_consistent(quick)
    assert {event["station"] for event in events(quick, "joined")} >= {"odd"}


def test_station_whose_gpu_fails_is_left_alone(
    quick: Path, cli: Cli, fleet: LocalFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would take every candidate, fail it at once, and be idle again."""
    monkeypatch.setattr(health, "FIRST_PAUSE", 600.0)
    lie = "run.update(metric=None, error='the device is lost', fault='machine')"
    with station(fleet, "broken", tmp_path / "station.log", LIAR.replace("LIE", lie)):
        done = session(cli, quick, fleet, 4)
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert [event["fault"] for event in events(quick, "lost") if event["station"] == "broken"] == ["machine"]
    assert not any("could not be measured" in event["reason"] for event in events(quick, "judged"))


# A station that does not say who it is the first time, as behind a firewall.
SILENT = """
import pathlib
import agent.station.control as control
real = control.facts
def facts(dask_worker=None):
    asked = pathlib.Path(ASKED)
    asked.write_text(asked.read_text() + "asked\\n" if asked.exists() else "asked\\n")
    if asked.read_text().count("asked") < 2:
        raise OSError("no route to host")
    return real(dask_worker)
control.facts = facts
"""


def test_station_that_does_not_say_who_it_is_is_asked_seldom(
    fleet: LocalFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time may take CALL_SECONDS, in which no other station gets work."""
    monkeypatch.setattr(cluster_module, "FIRST_RETRY", 600.0)
    asked = tmp_path / "asked"
    with station(fleet, "silent", tmp_path / "station.log", SILENT.replace("ASKED", repr(str(asked)))):
        cluster = Cluster.connect(fleet.address, fleet.tls)
        until(lambda: "silent" in cluster.stations(), "the station has not joined")
        for _ in range(3):
            assert cluster.stations()["silent"].fault == "does not answer: no route to host"
        assert asked.read_text() == "asked\n"
        cluster.close()
        monkeypatch.setattr(cluster_module, "FIRST_RETRY", 0.0)
        cluster = Cluster.connect(fleet.address, fleet.tls)
        until(lambda: cluster.stations()["silent"].fault == "", "the station was not asked again")
        cluster.close()


# Fails every run after its first one, as with a full card or a broken environment.
BREAKS = """work.runs = getattr(work, "runs", 0) + 1
    if work.runs > 1:
        run.update(metric=None, error="No module named 'mlx'")"""


# The same, and later it can measure nothing at all, so that the incumbent's run there is lost.
BREAKS_DOWN = f"""{BREAKS}
    if work.runs > 3:
        answer.update(run=None, failed="the disk is full")"""


@pytest.mark.parametrize(("lie", "most"), [(BREAKS, 12), (BREAKS_DOWN, 6)], ids=["breaks", "can measure nothing"])
def test_station_that_breaks_costs_one_candidate_and_not_the_night(
    quick: Path, cli: Cli, fleet: LocalFleet, tmp_path: Path, lie: str, most: int
) -> None:
    """It fails at once, so it would be idle first, and take every proposal. No candidate waits for it."""
    with station(fleet, "broken", tmp_path / "station.log", LIAR.replace("LIE", lie)):
        done = session(cli, quick, fleet, most)
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert len(events(quick, "recorded")) == most + 1
    assert len([event for event in events(quick, "judged") if event["status"] == "crash"]) <= 1
    if lie == BREAKS_DOWN:
        assert [event["reason"] for event in events(quick, "lost")][:1] == ["the disk is full"]
    else:
        back = [event for event in events(quick, "returned") if event["station"] == "broken"]
        assert sum(event["metric"] is None for event in back) >= 3
        assert "the incumbent fails there (No module named 'mlx')" in done.stderr


def test_candidates_that_crash_one_after_the_other_are_to_blame_once_the_incumbent_runs(
    quick: Path, cli: Cli, fleet: LocalFleet
) -> None:
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(
        text.replace("loss =", "if (RATE, DEPTH, WIDTH) != (0.1, 4, 64):\n    sys.exit(1)\nloss =")
    )
    commit_all(quick, "crash")
    done = session(cli, quick, fleet, 4)
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert [event["status"] for event in events(quick, "judged")][1:] == ["crash"] * 4
    assert sum(event["of"] is not None for event in events(quick, "returned")) >= 2


@pytest.mark.parametrize("lie", [LIES["neither metric nor error"], LIES["no answer"]])
def test_station_whose_answers_are_invalid_is_left_alone(
    quick: Path, cli: Cli, fleet: LocalFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    """Otherwise it would take run after run, and each would be measured twice."""
    monkeypatch.setattr(health, "FIRST_PAUSE", 600.0)
    # The session lasts for longer than the pause after any other loss.
    set_train(quick, QUICK.replace("loss =", "import time\ntime.sleep(1)\nloss ="))
    with station(fleet, "liar", tmp_path / "station.log", LIAR.replace("LIE", lie)):
        done = session(cli, quick, fleet, 4)
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert len([event for event in events(quick, "leased") if event["station"] == "liar"]) == 1
    assert [event["station"] for event in events(quick, "lost")] == ["liar"]
    assert not any("could not be measured" in event["reason"] for event in events(quick, "judged"))


@pytest.mark.parametrize(
    "kept", ["None", "{'finished': [1], 'running': 3}", "{'finished': {1: 2}, 'running': [[], 4]}"]
)
def test_odd_list_of_kept_answers_is_an_empty_one(fleet: LocalFleet, tmp_path: Path, kept: str) -> None:
    with station(fleet, "odd", tmp_path / "station.log", KEPT.replace("KEPT", kept)):
        cluster = Cluster.connect(fleet.address, fleet.tls)
        found = until(lambda: cluster.collect("s1", []).get("odd"), "the station has not answered")
        cluster.close()
    assert found == {"finished": {}, "running": []}
