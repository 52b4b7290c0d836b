"""A session on real stations of this machine: rows, refs and tree are those of a session of one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from agent.cli.launch import RunConfig, session_config
from agent.errors import PreconditionError
from agent.fleet.local import places, reserved
from agent.fleet.ordering import Orders, require_no_submodules, require_sendable
from agent.fleet.verdicts import Verdicts
from agent.journal.experiment import Run
from agent.journal.flight import Lease
from agent.journal.journal import Journal, fold
from agent.journal.paths import journal_path
from agent.proposers.choose import ProposerConfig, choose_proposer
from agent.protocol.load import load_protocol
from agent.repository.workspace import Workspace
from agent.session.opening import open_runner
from agent.session.session import Session
from agent.station.orders import Answer, Order
from agent.station.records import records_folder
from tests.common import schemas
from tests.common.processes import survivors
from tests.common.sessions import assert_consistent, events, journal, rows
from tests.common.station_journals import StationsBuilder
from tests.common.stations import SLOW, going, set_train, until
from tests.common.workspaces import ROOT, Cli, commit_all, git, make_repository, quick_protocol

# The number depends on the station: machines differ in speed, and so in level.
STATIONS = '''"""Prints a metric that depends on the constants and on the core."""

import os

RATE = 0.1  # search: 0.001..10 log
DEPTH = 4  # search: 1..16
WIDTH = 64  # search: 8..512
LEVEL = 0.5 * min(os.sched_getaffinity(0))

loss = 1.0 + LEVEL + (RATE - 0.4) ** 2 + 0.05 * (DEPTH - 7) ** 2 + 0.001 * abs(WIDTH - 256)
print(f"val_bpb:          {loss:.6f}")
'''
FLAGS = ("--stations", "2", "--no-keep-awake", "--sandbox", "off", "--fresh")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))


def start(folder: Path, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "agent", "-C", str(folder), "run", "--tag", "t", *args]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_session_on_two_stations_is_one_record(quick: Path, cli: Cli) -> None:
    done = cli(quick, "run", "--tag", "t", *FLAGS, "--max-experiments", "8")
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert len(rows(quick)) == 9
    assert {run["station"] for run in events(quick, "returned")} == {"cpu0", "cpu1"}
    assert [fault for line in journal(quick) if (fault := schemas.fault("event", line)) is not None] == []
    state = fold(journal_path(quick, "t"))
    assert not state.flight.candidates
    assert not state.flight.leases
    # Each run is counted once, and each verdict came in its own row.
    leases = [event["lease"] for event in events(quick, "returned")]
    assert len(leases) == len(set(leases))
    assert not survivors(quick)


def test_only_differences_within_a_station_are_evidence(tmp_path: Path, cli: Cli) -> None:
    folder = tmp_path / "levels"
    folder.mkdir()
    (folder / "train.py").write_text(STATIONS)
    (folder / "prepare.py").write_text("HARNESS = True\n")
    (folder / "protocol.json").write_text(json.dumps(quick_protocol(), indent=2))
    make_repository(folder)
    done = cli(folder, "run", "--tag", "t", *FLAGS, "--max-experiments", "10")
    assert done.returncode == 0, done.stderr
    assert_consistent(folder)
    state = fold(journal_path(folder, "t"))
    assert state.baseline is not None
    reference = state.baseline.runs[0]
    assert reference.metric is not None

    def loss(values: dict[str, float]) -> float:
        return (values["RATE"] - 0.4) ** 2 + 0.05 * (values["DEPTH"] - 7) ** 2 + 0.001 * abs(values["WIDTH"] - 256)

    start_loss = loss({"RATE": 0.1, "DEPTH": 4, "WIDTH": 64})
    best = start_loss
    for experiment in state.experiments[1:]:
        values = {name: float(value) for name, value in experiment.parameters.items()}
        # Every number is on the scale of the station that measured the baseline first.
        assert experiment.metric == pytest.approx(reference.metric - start_loss + loss(values), abs=2e-6)
        if experiment.verdict.status == "keep":
            assert loss(values) < best
            best = loss(values)
    assert best < start_loss


def test_killed_decider_takes_what_finished_meanwhile(quick: Path, cli: Cli) -> None:
    text = (quick / "train.py").read_text().replace("import sys\n", "import sys\nimport time\n\ntime.sleep(0.5)\n", 1)
    (quick / "train.py").write_text(text)
    commit_all(quick, "slower")
    for _ in range(4):
        loop = start(quick, *FLAGS, "--max-experiments", "6")
        before = len(events(quick, "leased")) if journal_path(quick, "t").exists() else 0
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and loop.poll() is None:
            if journal_path(quick, "t").exists() and len(events(quick, "leased")) >= before + 2:
                break
            time.sleep(0.05)
        loop.kill()
        loop.wait()
        assert loop.stdout is not None
        loop.stdout.close()
    done = cli(quick, "run", "--tag", "t", *FLAGS, "--max-experiments", "6")
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert len(rows(quick)) == 7
    ended = [event["lease"] for kind in ("returned", "lost", "withdrawn") for event in events(quick, kind)]
    assert sorted(ended) == sorted(event["lease"] for event in events(quick, "leased"))
    assert not survivors(quick)


def test_first_ctrl_c_gives_candidates_in_flight_their_verdict(quick: Path) -> None:
    loop = start(quick, *FLAGS)
    assert loop.stdout is not None
    for line in loop.stdout:
        if "#2 " in line:
            loop.send_signal(signal.SIGINT)
            break
    said = loop.stdout.read()
    assert loop.wait(timeout=60) == 130, said
    loop.stdout.close()
    assert_consistent(quick)
    assert not fold(journal_path(quick, "t")).flight.candidates
    assert not survivors(quick)


def test_session_stays_on_stations_or_without(quick: Path, cli: Cli) -> None:
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "1").returncode == 0
    done = cli(quick, "run", "--tag", "t", *FLAGS, "--max-experiments", "2")
    assert done.returncode == 3
    assert "was measured without stations" in done.stderr


def test_stations_of_another_session_are_refused_to_a_second_one(quick: Path, cli: Cli, tmp_path: Path) -> None:
    other = shutil.copytree(quick, tmp_path / "other")
    set_train(other, SLOW)
    first = start(other, *FLAGS)
    until(lambda: going(other, "cpu0"), "no run")
    done = cli(quick, "run", "--tag", "t", *FLAGS, "--max-experiments", "1")
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-2:] == [
        "error: another session of this machine has a station cpu0, which measures for one at a time",
        "hint: run the same command again when that session has ended",
    ]
    assert not journal_path(quick, "t").exists()
    first.terminate()
    said, _ = first.communicate(timeout=60)
    assert first.returncode == 143, said
    done = cli(quick, "run", "--tag", "t", *FLAGS, "--max-experiments", "1")
    assert done.returncode == 0, done.stderr


def add_submodule(folder: Path, helper: Path, name: str) -> None:
    make_repository(helper)
    git(folder, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(helper), name)
    git(folder, "commit", "--quiet", "-m", "a submodule")


def test_submodules_are_refused_before_the_session_begins(quick: Path, cli: Cli, tmp_path: Path) -> None:
    """A station would have an empty folder, and each run of the baseline would fail."""
    (tmp_path / "helper").mkdir()
    (tmp_path / "helper" / "helper.py").write_text("K = 2\n")
    add_submodule(quick, tmp_path / "helper", "lib")
    done = cli(quick, "run", "--tag", "t", *FLAGS, "--max-experiments", "1")
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-2:] == [
        "error: the workspace has submodules, which stations do not get: lib",
        "hint: commit the files instead, or leave out `--stations` and `--scheduler`",
    ]
    assert not journal_path(quick, "t").exists()
    assert git(quick, "branch", "--list", "autoresearch/*") == ""
    # The same tag is free for a session without stations.
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "1", "--fresh").returncode == 0


def filtered(folder: Path, other: Path) -> Path:  # noqa: ARG001
    (folder / ".gitattributes").write_text("*.bin filter=large\n")
    (folder / "data.bin").write_text("data\n")
    git(folder, "add", "--all")
    commit_all(folder, "large files")
    git(folder, "config", "filter.large.smudge", "sed s/data/DATA/")
    git(folder, "config", "filter.large.required", "yes")
    (folder / ".gitattributes").write_text("")  # what a station checks out has those of the commit
    git(folder, "update-index", "--assume-unchanged", ".gitattributes")
    return folder


def shallow(folder: Path, other: Path) -> Path:
    set_train(folder, (folder / "train.py").read_text() + "\n")
    git(folder, "clone", "--quiet", "--depth", "1", folder.as_uri(), str(other))
    return other


def partial_without_its_remote(folder: Path, other: Path) -> Path:
    set_train(folder, (folder / "train.py").read_text() + "\n")
    git(folder, "config", "uploadpack.allowFilter", "true")
    git(folder, "clone", "--quiet", "--filter=blob:none", folder.as_uri(), str(other))
    folder.rename(other.with_name("gone"))
    return other


@pytest.mark.parametrize("more", [(), ("--dry-run",)], ids=["run", "dry run"])
@pytest.mark.parametrize(
    ("make", "error", "hint"),
    [
        (
            filtered,
            "stations do not get the files of git's filter large: data.bin",
            "commit the files without it, or leave out `--stations` and `--scheduler`",
        ),
        (shallow, "is a shallow clone, so the commits lack their history", " fetch --unshallow`, then run the same"),
        (
            partial_without_its_remote,
            "is a partial clone, and git cannot get what it lacks of its history",
            " fetch --refetch --no-filter`, then run the same",
        ),
    ],
    ids=["filter", "shallow", "partial"],
)
def test_commits_that_no_station_could_check_out_are_refused_before_the_session_begins(
    quick: Path, cli: Cli, tmp_path: Path, make: Callable[[Path, Path], Path], error: str, hint: str, more: list[str]
) -> None:
    folder = make(quick, tmp_path / "other")
    done = cli(folder, "run", "--tag", "t", *FLAGS, "--max-experiments", "1", *more)
    assert done.returncode == 3, done.stderr
    said = done.stderr.splitlines()[-2:]
    assert error in said[0]
    assert hint in said[1]
    assert not journal_path(folder, "t").exists()
    assert git(folder, "branch", "--list", "autoresearch/*") == ""


def test_what_bundles_bring_is_not_refused(quick: Path, tmp_path: Path) -> None:
    """Filters that only clean, need not be there, or that no file has, and a partial clone whose remote answers."""
    (quick / ".gitattributes").write_text("*.py filter=strip\n*.json filter=keys\n")
    git(quick, "add", "--all")
    set_train(quick, (quick / "train.py").read_text() + "\n")
    git(quick, "config", "uploadpack.allowFilter", "true")
    git(quick, "clone", "--quiet", "--filter=blob:none", quick.as_uri(), str(tmp_path / "other"))
    configured = [("strip.clean", "sed s/a/b/"), ("strip.smudge", "sed s/b/a/"), ("strip.smudge", "cat")]
    configured += [("strip.required", "true"), ("large.process", "large"), ("large.required", "true")]
    configured += [("keys.smudge", "sed s/b/a/"), ("keys.required", "true"), ("keys.required", "no")]
    for key, value in configured:
        git(tmp_path / "other", "config", "--add", f"filter.{key}", value)
    workspace = Workspace(tmp_path / "other", load_protocol(tmp_path / "other"))
    require_sendable(workspace, workspace.head)


def test_filter_that_comes_later_does_not_keep_a_session_from_going_on(quick: Path, cli: Cli) -> None:
    (quick / ".gitattributes").write_text("*.py filter=large\n")
    git(quick, "add", "--all")
    commit_all(quick, "attributes")
    assert cli(quick, "run", "--tag", "t", *FLAGS, "--max-experiments", "1").returncode == 0
    for key, value in (("clean", "cat"), ("smudge", "sed s/a/a/"), ("required", "true")):
        git(quick, "config", f"filter.large.{key}", value)
    done = cli(quick, "run", "--tag", "t", *FLAGS, "--max-experiments", "2", "--dry-run")
    assert done.returncode == 0, done.stderr
    done = cli(quick, "run", "--tag", "new", *FLAGS, "--max-experiments", "1", "--dry-run")
    assert done.returncode == 3, done.stderr


def test_partial_clone_that_has_all_is_not_packed_at_each_start(
    quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    set_train(quick, (quick / "train.py").read_text() + "\n")
    git(quick, "config", "uploadpack.allowFilter", "true")
    git(quick, "clone", "--quiet", "--filter=blob:none", quick.as_uri(), str(other))
    said, tools = tmp_path / "said.txt", tmp_path / "tools"
    tools.mkdir()
    (tools / "git").write_text(f'#!/bin/sh\necho "$*" >> {said}\nexec {shutil.which("git")} "$@"\n')
    (tools / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    workspace = Workspace(other, load_protocol(other))
    require_sendable(workspace, workspace.head)
    assert "pack-objects --revs" in said.read_text()
    said.unlink()
    require_sendable(workspace, workspace.head)
    assert "--missing=print" in said.read_text()
    assert "pack-objects" not in said.read_text()
    assert "?" not in git(other, "rev-list", "--objects", "--missing=print", "HEAD")


@pytest.mark.parametrize("known", [False, True])
def test_answers_of_an_earlier_version_are_taken_over_although_names_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, known: bool
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (name,) = (each.name for each in places(1))
    kept = tmp_path / "cache/stations/records" / name / "answer.json"
    if known:
        kept.parent.mkdir(parents=True)
        kept.write_text("{}")
    with reserved(1):
        assert (records_folder(name) / "answer.json").exists() == known


def test_submodules_beside_the_workspace_are_not_refused(tmp_path: Path) -> None:
    top = tmp_path / "repository"
    (top / "work").mkdir(parents=True)
    (top / "work" / "protocol.json").write_text(json.dumps(quick_protocol()))
    make_repository(top)
    (tmp_path / "helper").mkdir()
    (tmp_path / "helper" / "helper.py").write_text("K = 2\n")
    add_submodule(top, tmp_path / "helper", "docs")
    workspace = Workspace(top / "work", load_protocol(top / "work"))
    require_no_submodules(workspace, workspace.head)
    (tmp_path / "helper" / "other").touch()
    add_submodule(top, tmp_path / "helper", "work/lib")
    with pytest.raises(PreconditionError, match="do not get: lib"):
        require_no_submodules(workspace, workspace.head)


def test_baseline_that_fails_everywhere_ends_the_session(quick: Path, cli: Cli) -> None:
    (quick / "train.py").write_text((quick / "train.py").read_text().replace("sys.exit(0)", "sys.exit(1)"))
    commit_all(quick, "broken")
    done = cli(quick, "run", "--tag", "t", *FLAGS)
    assert done.returncode == 1
    assert "error: the baseline failed on cpu" in done.stderr
    assert git(quick, "status", "--porcelain", "--untracked-files=no") == ""
    assert not survivors(quick)


def test_baseline_is_measured_again_once_what_it_lacked_is_there(quick: Path, cli: Cli, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    check = f"import pathlib\nassert not pathlib.Path({str(broken)!r}).exists(), 'no driver'\nloss ="
    (quick / "train.py").write_text((quick / "train.py").read_text().replace("loss =", check, 1))
    commit_all(quick, "needs a driver")
    for _ in range(2):
        done = cli(quick, "run", "--tag", "t", *FLAGS, "--max-experiments", "1")
        assert done.returncode == 1, done.stderr
        assert "no driver" in done.stderr
    broken.unlink()
    done = cli(quick, "run", "--tag", "t", *FLAGS, "--max-experiments", "1")
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert len(rows(quick)) == 2


def test_memory_limit_that_cannot_be_enforced_is_refused_each_time(quick: Path, cli: Cli) -> None:
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace('print("peak_vram_mb:     2048.0")\n', ""))
    commit_all(quick, "no memory")
    for _ in range(2):
        done = cli(quick, "run", "--tag", "t", *FLAGS, "--max-experiments", "1", "--max-memory-gb", "8")
        assert done.returncode == 3, done.stderr
        assert "--max-memory-gb 8 cannot be enforced" in done.stderr
    assert len(rows(quick)) == 1


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--stations", "2", "--scheduler", "tcp://127.0.0.1:1"), "mutually exclusive"),
        (("--tls", "certificates"), "needs --scheduler"),
        (("--insecure",), "needs --scheduler"),
    ],
)
def test_contradicting_flags(quick: Path, cli: Cli, flags: tuple[str, ...], why: str) -> None:
    done = cli(quick, "run", "--tag", "t", *flags)
    assert done.returncode == 2
    assert why in done.stderr


def test_unreachable_scheduler_is_one_sentence(quick: Path, cli: Cli) -> None:
    done = cli(quick, "run", "--tag", "t", "--scheduler", "tcp://127.0.0.1:1")
    assert done.returncode == 3
    assert "error: cannot connect to the scheduler" in done.stderr
    assert "Traceback" not in done.stderr


def in_turn(tmp_path: Path, *changes: str) -> tuple[str, ...]:
    """Return the flags of an agent that makes these changes of train.py one after the other."""
    script, count = tmp_path / "agent.sh", tmp_path / "count"
    count.write_text("0")
    cases = "".join(f"{number}) sed -i '{change}' train.py;;\n" for number, change in enumerate(changes))
    script.write_text(f'n=$(cat {count}); echo $((n + 1)) > {count}\ncase "$n" in\n{cases}esac\n')
    return "--proposer", "command", "--agent-cmd", f"sh {script}"


@pytest.mark.parametrize(
    ("second", "wins"),
    [
        ("s/^WIDTH = .*/WIDTH = 128  # search: 8..512/", True),
        ("s/^DEPTH = .*/DEPTH = 6  # search: 1..16/", False),
    ],
)
def test_winner_on_an_old_base(quick: Path, cli: Cli, tmp_path: Path, second: str, wins: bool) -> None:
    """Two candidates win against the baseline at the same time: the second is merged onto the first, if it can be."""
    wait = f"""
import pathlib
import time

journal = pathlib.Path({str(journal_path(quick, "t"))!r})
while (DEPTH, WIDTH) != (4, 64) and journal.read_text().count('"event": "candidate"') < 2:
    time.sleep(0.05)  # until both are in flight
"""
    text = (quick / "train.py").read_text().replace("\nloss = ", f"{wait}\nloss = ", 1)
    (quick / "train.py").write_text(text)
    commit_all(quick, "wait")
    agent = in_turn(tmp_path, "s/^DEPTH = .*/DEPTH = 5  # search: 1..16/", second)
    done = cli(quick, "run", "--tag", "t", *FLAGS, *agent, "--max-experiments", "5")
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    state = fold(journal_path(quick, "t"))
    first, other = state.experiments[1], state.experiments[2]  # which of them wins first is up to the stations
    assert first.verdict.status == "keep"
    assert other.verdict.status == "discard"
    # Whether it was repeated before the first one was kept is up to the stations.
    overtaken = r"(better than|promising against) #0, but #1 was kept meanwhile"
    assert re.match(overtaken, other.verdict.reason)
    row = next(line for line in done.stderr.splitlines() if line.startswith(f"#{other.number} discard"))
    assert re.search(rf"\[{overtaken}", row)
    merges = [event for event in events(quick, "candidate") if event["merged"] is not None]
    if wins:
        assert merges[0]["parameters"] == {**state.experiments[0].parameters, "DEPTH": 5, "WIDTH": 128}
        again = next(each for each in state.experiments if each.digest == merges[0]["digest"])
        assert again.verdict.evidence is not None
        assert again.verdict.evidence.gain > 0
    elif other.parameters["DEPTH"] == 6:  # the better one came last
        assert ", and they conflict: measured again against that as candidate " in other.verdict.reason
        assert merges[0]["digest"] == other.digest
    else:
        assert "conflicts with #1 in train.py" in other.verdict.reason
        assert other.is_open
        assert all(event["description"] != other.description for event in merges)


def test_better_of_two_that_conflict_is_kept_although_it_came_last(quick: Path, cli: Cli, tmp_path: Path) -> None:
    wait = f"""
import pathlib
import time

journal = pathlib.Path({str(journal_path(quick, "t"))!r})
if not DEPTH in (4, 5, 6) or (RATE, WIDTH) != (0.1, 64):
    loss += 10  # what the search proposes meanwhile
while DEPTH == 5 and journal.read_text().count('"event": "candidate"') < 2:
    time.sleep(0.05)  # until both are in flight
while DEPTH == 6 and '"reason": "better by' not in journal.read_text():
    time.sleep(0.05)  # until DEPTH = 5 is kept
"""
    text = (quick / "train.py").read_text().replace("\nprint(", f"{wait}\nprint(", 1)
    (quick / "train.py").write_text(text)
    commit_all(quick, "wait")
    better, worse = (f"s/^DEPTH = .*/DEPTH = {depth}  # search: 1..16/" for depth in (6, 5))
    three = ("--stations", "3", *FLAGS[2:], *in_turn(tmp_path, better, worse))
    done = cli(quick, "run", "--tag", "t", *three, "--max-experiments", "8")
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    state = fold(journal_path(quick, "t"))
    values = {**state.experiments[0].parameters, "DEPTH": 6}
    first, again = (each for each in state.experiments if each.parameters == values)
    assert first.verdict.status == "discard"
    assert re.search(r", and they conflict: measured again against that as candidate \d+ \(", first.verdict.reason)
    assert again.kept
    assert again.runs
    assert state.incumbent == again


def test_winner_that_has_what_was_kept_does_not_conflict_with_it(quick: Path, cli: Cli, tmp_path: Path) -> None:
    wait = f"""
import pathlib
import time

journal = pathlib.Path({str(journal_path(quick, "t"))!r})
if (RATE, DEPTH, WIDTH) not in ((0.1, 4, 64), (0.1, 5, 64), (0.1, 5, 128)):
    loss += 10  # what the search proposes meanwhile
while (DEPTH, WIDTH) == (5, 64) and journal.read_text().count('"event": "candidate"') < 2:
    time.sleep(0.05)  # until both are in flight
while (DEPTH, WIDTH) == (5, 128) and '"reason": "better by' not in journal.read_text():
    time.sleep(0.05)  # until DEPTH = 5 is kept
"""
    text = (quick / "train.py").read_text().replace("\nprint(", f"{wait}\nprint(", 1)
    (quick / "train.py").write_text(text)
    commit_all(quick, "wait")
    part = "s/^DEPTH = .*/DEPTH = 5  # search: 1..16/"
    whole = f"{part}; s/^WIDTH = .*/WIDTH = 128  # search: 8..512/"
    three = ("--stations", "3", *FLAGS[2:], *in_turn(tmp_path, whole, part))
    done = cli(quick, "run", "--tag", "t", *three, "--max-experiments", "8")
    assert done.returncode == 0, done.stderr
    state = fold(journal_path(quick, "t"))
    values = {**state.experiments[0].parameters, "DEPTH": 5, "WIDTH": 128}
    first, again = (each for each in state.experiments if each.parameters == values)
    assert first.digest == again.digest
    assert re.search(r"kept meanwhile: measured again on top of that as candidate \d+ \(", first.verdict.reason)
    assert again.kept


def test_promising_candidate_of_an_old_base_is_merged_at_once(quick: Path, cli: Cli, tmp_path: Path) -> None:
    """Its run ends after another one was kept. It is not clearly better, but no second run is made on the old base."""
    more = f"""
import pathlib
import time

station = pathlib.Path.cwd().parent.name.rsplit("-", 1)[0]  # each has a clone of its own
if (DEPTH, WIDTH) == (4, 64):  # the baseline: up and down in turn on each station
    count = pathlib.Path({str(tmp_path)!r}) / station
    count.touch()
    loss += (-1) ** count.stat().st_size * 0.03
    count.write_text(count.read_text() + ".")
if not {{DEPTH, WIDTH}} <= {{4, 5, 64, 150}} or RATE != 0.1:
    loss += 10  # what the search proposes meanwhile
journal = pathlib.Path({str(journal_path(quick, "t"))!r})
while (DEPTH, WIDTH) == (5, 64) and "WIDTH 64 -> 150" not in journal.read_text():
    time.sleep(0.05)  # until both are in flight
while (DEPTH, WIDTH) == (4, 150) and '"reason": "better by' not in journal.read_text():
    time.sleep(0.05)  # until DEPTH = 5 is kept
"""
    text = (quick / "train.py").read_text().replace("\nprint(", f"{more}\nprint(", 1)
    (quick / "train.py").write_text(text)
    commit_all(quick, "wait")
    agent = in_turn(
        tmp_path,
        "s/^DEPTH = .*/DEPTH = 5  # search: 1..16/",
        "s/^WIDTH = .*/WIDTH = 150  # search: 8..512/",
    )
    three = ("--stations", "3", *FLAGS[2:], *agent)
    done = cli(quick, "run", "--tag", "t", *three, "--max-experiments", "8")
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    state = fold(journal_path(quick, "t"))
    merge = next(event for event in events(quick, "candidate") if event["merged"] is not None)
    assert merge["parameters"] == {**state.experiments[0].parameters, "DEPTH": 5, "WIDTH": 150}
    first = next(each for each in state.experiments if each.parameters["WIDTH"] == 150)
    assert first.verdict.status == "discard"
    assert first.verdict.reason.startswith("promising against #0, but #")
    assert "(promising: +0.0" in first.verdict.reason
    assert len(first.runs) == 1
    assert first.overtaken is not None


def test_no_station_waits_for_a_model_that_thinks(quick: Path, cli: Cli, tmp_path: Path) -> None:
    """While the agent makes its proposal, the search keeps the stations busy."""
    text = (quick / "train.py").read_text().replace("import sys\n", "import sys\nimport time\n\ntime.sleep(1)\n", 1)
    (quick / "train.py").write_text(text)
    commit_all(quick, "slower")
    script = tmp_path / "agent.sh"
    returned = f"grep -c '.event.: .returned.' {journal_path(quick, 't')}"
    change = "sed -i 's/^print(.---.)/loss -= 0.01\\n&/' train.py"
    script.write_text(f"while [ $({returned}) -lt 8 ]; do sleep 0.1; done; {change}\n")
    agent = ("--proposer", "hybrid", "--share", "0.9", "--agent-cmd", f"sh {script}", "--ahead")
    done = cli(quick, "run", "--tag", "t", *FLAGS, *agent, "--max-experiments", "14")
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    who = [event["proposer"] for event in events(quick, "candidate")]
    assert {"command", "search"} <= set(who)
    begun = next(event["at"] for event in events(quick, "preparing"))
    made = next(event["at"] for event in events(quick, "prepared"))
    between = [event for event in events(quick, "returned") if begun < event["at"] < made]
    assert len(between) >= 3


def test_proposal_that_cannot_be_imported_becomes_a_row(quick: Path, cli: Cli, tmp_path: Path) -> None:
    """Thrown away, it would be proposed and paid again, because its author never learned of it."""
    agent = in_turn(tmp_path, "s/^import sys/import sys, no_such_module/", "s/^WIDTH = 64/WIDTH = 32/")
    done = cli(quick, "run", "--tag", "t", *FLAGS, *agent, "--ahead", "--max-experiments", "2")
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert sorted(row["status"] for row in rows(quick)) == ["crash", "discard", "keep"]
    reasons = [each.verdict.reason for each in fold(journal_path(quick, "t")).experiments]
    assert any("No module named 'no_such_module'" in reason for reason in reasons)
    assert not events(quick, "outdated")


def test_session_waits_for_a_model_once_the_search_has_nothing_left(quick: Path, cli: Cli, tmp_path: Path) -> None:
    text = (quick / "train.py").read_text().replace("# search: 0.001..10 log", "# search: off")
    text = text.replace("# search: 8..512", "# search: off").replace("# search: 1..16", "# search: 4..5")
    (quick / "train.py").write_text(text)
    commit_all(quick, "two programs")
    script, recorded = tmp_path / "agent.sh", f"grep -c '.event.: .recorded.' {journal_path(quick, 't')}"
    change = "sed -i 's/^print(.---.)/loss -= 0.01\\n&/' train.py"
    script.write_text(f"while [ $({recorded}) -lt 2 ]; do sleep 0.1; done; sleep 2; {change}\n")
    agent = ("--proposer", "hybrid", "--share", "0.99", "--agent-cmd", f"sh {script}", "--ahead")
    done = cli(quick, "run", "--tag", "t", *FLAGS, *agent, "--max-experiments", "2")
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert [event["proposer"] for event in events(quick, "candidate")] == ["search", "command"]


def test_plan_names_the_stations(quick: Path, cli: Cli) -> None:
    done = cli(quick, "run", "--tag", "t", "--stations", "2", "--dry-run")
    assert done.returncode == 0
    assert "would measure on the stations cpu0, cpu1" in done.stdout


def test_verdict_is_by_the_runs_that_there_are_and_not_by_their_number(quick: Path) -> None:
    """While a run comes in from one station, a failed one is forgiven on another, on which the incumbent was lost."""
    head = git(quick, "rev-parse", "HEAD")
    (quick / "train.py").write_text((quick / "train.py").read_text().replace("RATE = 0.1", "RATE = 0.2"))
    commit_all(quick, "rate")
    made = StationsBuilder("studio", "mini", base=head)
    made.run("studio", 1.5, of=0).record(None, "keep")
    for name, metric in (("studio", 1.501), ("studio", 1.499), ("mini", 1.5), ("mini", 1.501)):
        made.run(name, metric, of=0)
    crashed, close = (made.propose(commit=git(quick, "rev-parse", "HEAD")) for _ in range(2))
    made.run("mini", None, candidate=crashed).run("studio", 1.498, candidate=close)
    made.write.save(journal_path(quick, "t"))
    with open_runner(quick, "t", None, "off") as runner, closing(Journal(journal_path(quick, "t"))) as journal:
        proposer = choose_proposer(ProposerConfig(), journal, runner.workspace, runner.sandbox)
        session = Session(runner, journal, proposer, session_config(RunConfig("t"), runner.protocol))
        verdicts = Verdicts(session, lambda: ["studio", "mini"])
        assert verdicts.of(session.state.flight.candidates[close]) is None
        already = len(made.write.lines)
        lost = made.lease("mini", of=0)
        made.run("studio", 1.9, candidate=close)
        made.add("lost", lease=lost, station="mini", reason="it slept", fault="", **made.of_lease[lost], label=None)
        for line in map(json.loads, made.write.lines[already:]):
            journal.append(line.pop("event"), **{name: value for name, value in line.items() if name != "at"})
        found = verdicts.of(session.state.flight.candidates[close])
    assert found is not None
    assert found.status == "discard"


def test_orders_name_the_program_that_a_run_is_compared_with(quick: Path) -> None:
    head = git(quick, "rev-parse", "HEAD")
    (quick / "train.py").write_text((quick / "train.py").read_text().replace("RATE = 0.1", "RATE = 0.2"))
    commit_all(quick, "rate")
    made = StationsBuilder("studio", base=head)
    made.run("studio", 1.5, of=0).record(None, "keep")
    better, old = (made.propose(commit=git(quick, "rev-parse", "HEAD")) for _ in range(2))
    made.run("studio", 1.4, candidate=better).record(better, "keep")
    new = made.propose(1)
    made.write.save(journal_path(quick, "t"))
    whose: list[tuple[dict[str, int | str], str]] = [
        ({"candidate": new}, "the incumbent"),
        ({"of": 1}, "the incumbent"),
        ({"candidate": old}, "the baseline"),
        ({"of": 0}, "the baseline"),
        ({"label": "a"}, "the baseline"),
        ({"label": "b"}, "the best"),
    ]
    with open_runner(quick, "t", None, "off") as runner, closing(Journal(journal_path(quick, "t"))) as journal:
        proposer = choose_proposer(ProposerConfig(), journal, runner.workspace, runner.sandbox)
        orders = Orders(Session(runner, journal, proposer, session_config(RunConfig("t"), runner.protocol)))
        orders.begin()
        commits = [each.commit for each in journal.state.experiments]
        for about, side in whose:
            commit = commits[0] if about.get("label") == "a" else commits[1]
            sent = orders.order(Lease("9", "studio", commit, "9.log", 10.0, **cast(dict[str, Any], about)))
            assert (about, sent.side) == (about, side)


def test_new_session_takes_no_answers_of_a_deleted_one_with_its_process_id(quick: Path, cli: Cli) -> None:
    """Like in a container, in which each loop has the same process ID: the stations keep answers of the first one."""
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace("loss =", "import random\nloss = random.random() +", 1))
    commit_all(quick, "another number each time")
    found = []
    for _ in range(2):
        done = cli(quick, "run", "--tag", "t", *FLAGS[2:], "--stations", "1", "--max-experiments", "0")
        assert done.returncode == 0, done.stderr
        found.append(events(quick, "returned")[0]["metric"])
        first = events(quick, "session")[0]
        git(quick, "checkout", "-q", "main")
        assert cli(quick, "sessions", "--delete", "t", "--yes").returncode == 0
    assert found[0] != found[1]
    assert first["pid"] == os.getpid()


def test_sessions_of_an_earlier_version_keep_their_name_on_stations(quick: Path) -> None:
    """Else the answers that stations hold for one that goes on would be measured again."""
    made = StationsBuilder("studio", base=git(quick, "rev-parse", "HEAD"))
    made.write.save(journal_path(quick, "t"))
    with open_runner(quick, "t", None, "off") as runner, closing(Journal(journal_path(quick, "t"))) as journal:
        proposer = choose_proposer(ProposerConfig(), journal, runner.workspace, runner.sandbox)
        session = Session(runner, journal, proposer, session_config(RunConfig("t"), runner.protocol))
        orders = Orders(session)
        orders.begin()
        about = session.state.session
        assert about is not None
        assert "id" not in about
        named = {name: about.get(name) for name in ("tag", "base", "pid", "fingerprint")}
        digest = hashlib.sha256(json.dumps(named, sort_keys=True, default=str).encode()).hexdigest()
        assert orders.session == f"t-{digest[:16]}"


def test_order_of_a_session_with_very_many_leases_names_the_newest_that_are_settled(quick: Path) -> None:
    made = StationsBuilder("studio", base=git(quick, "rev-parse", "HEAD"))
    made.run("studio", of=0).record(None, "keep")
    made.write.save(journal_path(quick, "t"))
    with open_runner(quick, "t", None, "off") as runner, closing(Journal(journal_path(quick, "t"))) as journal:
        proposer = choose_proposer(ProposerConfig(), journal, runner.workspace, runner.sandbox)
        session = Session(runner, journal, proposer, session_config(RunConfig("t"), runner.protocol))
        orders = Orders(session)
        orders.begin()
        flight = dataclasses.replace(journal.state.flight, leased=150_000)
        journal.state = dataclasses.replace(journal.state, flight=flight)
        commit = journal.state.experiments[0].commit
        sent = orders.order(Lease("150001", "studio", commit, "9.log", 10.0, of=0))
        assert Order.from_dict(sent.to_dict()) == sent
        assert {"150000", "149000"} <= {*sent.settled}
        assert "1" not in sent.settled


def test_failed_run_of_the_incumbent_replaces_no_earlier_ones() -> None:
    lease = Lease("1", "studio", "c" * 40, "1.log", 10.0, of=0, rebase=True)
    answers = [Answer("1", "studio", run) for run in (Run(None, 1.0, error="boom"), Run(1.5, 1.0))]
    assert [Orders(cast(Session, None)).run_of(each, lease).rebased for each in answers] == [False, True]


def test_verdicts_fall_while_a_model_is_asked_for_what_the_search_has_not(
    quick: Path, cli: Cli, tmp_path: Path
) -> None:
    """It is not the model's turn, and the only candidate of the search is measured until the model is asked."""
    text = (quick / "train.py").read_text().replace("# search: 0.001..10 log", "# search: off")
    text = text.replace("# search: 8..512", "# search: off").replace("# search: 1..16", "# search: 4..5")
    begun, asked = (
        tmp_path / "begun",
        "import pathlib\nimport time\n\nwhile DEPTH == 5 and not pathlib.Path(BEGUN).exists():",
    )
    wait = asked.replace("BEGUN", repr(str(begun))) + "\n    time.sleep(0.05)\nloss ="
    (quick / "train.py").write_text(text.replace("loss =", wait, 1))
    commit_all(quick, "two programs")
    script, recorded = tmp_path / "agent.sh", f"grep -c '.event.: .recorded.' {journal_path(quick, 't')}"
    change = "sed -i 's/^print(.---.)/loss -= 0.01\\n&/' train.py"
    script.write_text(f"touch {begun}; while [ $({recorded}) -lt 2 ]; do sleep 0.1; done; {change}\n")
    agent = ("--proposer", "hybrid", "--share", "0", "--agent-cmd", f"sh {script}", "--agent-timeout", "60")
    done = cli(quick, "run", "--tag", "t", *FLAGS, *agent, "--max-experiments", "2")
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert [event["proposer"] for event in events(quick, "candidate")] == ["search", "command"]
