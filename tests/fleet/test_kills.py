"""SIGKILL of the decider before and after each kind of event: the next start finishes or undoes one step."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.fleet.local import LocalFleet, local_stations
from agent.journal.experiment import OVERTAKEN
from agent.journal.journal import fold
from agent.journal.paths import journal_path
from agent.station.records import ANSWER
from tests.common.sessions import assert_consistent, events
from tests.common.stations import until
from tests.common.workspaces import QUICK, ROOT, commit_all

# Kills the process before or after it writes an event of a kind for the n-th time.
HOOK = """
import os
import signal

if "KILL_AT" in os.environ:
    from agent.journal.journal import Journal

    kind, when, left = os.environ["KILL_AT"].split(":")
    left, real = int(left), Journal.append

    def append(self, name, **data):
        global left
        left -= name == kind
        if left == 0 and name == kind and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, name, **data)
        if left == 0 and name == kind:
            os.kill(os.getpid(), signal.SIGKILL)

    Journal.append = append
"""
SEEDED = QUICK.replace("RATE = 0.1", "SEED = 42\nRATE = 0.1").replace("loss = 1.0 +", "loss = 1.0 + SEED / 1e6 +")
ENDS = ("returned", "compared", "lost", "withdrawn")  # each lease ends by one of them


@pytest.fixture(scope="module")
def stations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    """Two stations that outlive their deciders."""
    home = tmp_path_factory.mktemp("stations")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTORESEARCH_CACHE", str(home / "cache"))
        with local_stations(2, home) as found:
            yield found


def run(folder: Path, hook: Path, fleet: LocalFleet, most: int, kill: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent", "-C", str(folder), "run", "--tag", "t", "--scheduler", fleet.address]
    command += [
        "--tls",
        str(fleet.tls),
        "--no-keep-awake",
        "--sandbox",
        "off",
        "--fresh",
        "--max-experiments",
        str(most),
    ]
    env = {**os.environ, "PYTHONPATH": f"{hook}{os.pathsep}{ROOT}", "AUTORESEARCH_CONFIRM": "1"}
    env |= {"KILL_AT": kill} if kill else {}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def assert_each_run_counts_once(folder: Path) -> None:
    """Check that nothing is lost or doubled: leases, candidates, experiments and their runs."""
    ended = Counter(event["lease"] for kind in ENDS for event in events(folder, kind))
    assert ended == Counter(event["lease"] for event in events(folder, "leased"))
    state = fold(journal_path(folder, "t"))
    assert not state.flight.leases
    assert not state.flight.candidates
    numbers = [each.candidate for each in state.experiments[1:]]
    assert sorted(numbers, key=str) == sorted((event["candidate"] for event in events(folder, "candidate")), key=str)
    digests = [each.digest for each in state.experiments]
    assert len(digests) == len({*digests})
    logs = Counter(run.log for each in state.measured for run in (*each.runs, *each.heldout_runs))
    assert set(logs.values()) == {1}
    assert {*logs} <= {event["log"] for event in events(folder, "leased")}


KINDS = (
    "session:1", "joined:1", "joined:2", "leased:1", "leased:4", "returned:1", "returned:3", "candidate:1",
    "candidate:2", "decided:1", "decided:2", "proposed:1", "proposed:2", "committed:1", "committed:2", "measured:1",
    "measured:2", "judged:1", "judged:2", "recorded:1", "recorded:2", "ended:1", "comparing:1", "compared:1",
    "compared:2", "compared:5", "confirmed:1",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", KINDS)
def test_killed_decider_finishes_or_undoes_one_step(
    quick: Path, tmp_path: Path, stations: LocalFleet, point: str, when: str
) -> None:
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HOOK)
    (quick / "train.py").write_text(SEEDED)
    commit_all(quick, "seed")
    kind, _, count = point.partition(":")
    killed = run(quick, hook, stations, 3, f"{kind}:{when}:{count}")
    assert killed.returncode == -9, killed.stderr
    done = run(quick, hook, stations, 3)
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert len(fold(journal_path(quick, "t")).experiments) == 4
    assert fold(journal_path(quick, "t")).confirmation is not None
    # What is left of the confirmation ends with the next start.
    assert run(quick, hook, stations, 4).returncode == 0
    assert_consistent(quick)
    assert len(fold(journal_path(quick, "t")).experiments) == 5
    assert_each_run_counts_once(quick)


def test_verdict_before_a_kill_is_recorded_before_later_ones(
    quick: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, stations: LocalFleet
) -> None:
    """The second candidate has won when the decider is killed; then the first one is measured, and wins as well."""
    hook, gate, path = tmp_path / "hook", tmp_path / "gate", journal_path(quick, "t")
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HOOK)
    waits = f"""
import json
import pathlib
import time

loss = 2.0 if (RATE, DEPTH, WIDTH) == (0.1, 4, 64) else 1.0 + RATE / 1e3 + DEPTH / 1e4 + WIDTH / 1e7
for line in pathlib.Path({str(path)!r}).read_text().splitlines():
    event = json.loads(line)
    if event["event"] == "candidate" and event["candidate"] == 1:
        first = {{"RATE": RATE, "DEPTH": DEPTH, "WIDTH": WIDTH}} == event["parameters"]
        while first and not pathlib.Path({str(gate)!r}).exists():
            time.sleep(0.05)
"""
    (quick / "train.py").write_text(QUICK.replace('print("---")', f'{waits}print("---")'))
    commit_all(quick, "wait")
    assert run(quick, hook, stations, 2, "decided:after:1").returncode == -9
    assert [event["candidate"] for event in events(quick, "decided")] == [2]
    gate.touch()
    lease = next(event["lease"] for event in events(quick, "leased") if event["candidate"] == 1)
    base = tmp_path_factory.getbasetemp()
    until(lambda: [*base.glob(f"stations*/cache-stations/records/*/*/*/{lease}/{ANSWER}")], "the station has no answer")
    done = run(quick, hook, stations, 3)
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    first, second = fold(path).experiments[1:3]
    assert (first.candidate, first.verdict.status) == (2, "keep")
    assert (second.candidate, second.verdict.status) == (1, "discard")
    # It may have one run by then, or the second one that a keep takes.
    assert OVERTAKEN.match(second.verdict.reason), second.verdict.reason
    assert " #0, but #1 was kept meanwhile" in second.verdict.reason
