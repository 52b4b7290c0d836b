"""Orders measured on this machine, without Dask between."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import shutil
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import pytest

from agent.errors import AutoresearchError, Interrupted
from agent.execution import setup
from agent.execution.measure import Runner
from agent.journal.experiment import Run
from agent.journal.paths import stations_folder
from agent.protocol.load import load_protocol
from agent.repository.bundle import write_order_bundle
from agent.repository.workspace import Workspace
from agent.room import sandbox
from agent.room.sandbox import Way
from agent.station import control, records
from agent.station.control import MOST_CANCELLED, cancel, collect, facts
from agent.station.orders import Answer, Leased, Order
from agent.station.state import Active, station
from agent.station.work import _why, measure_order
from tests.common.agents import NEEDS_ONE
from tests.common.stations import order, set_train
from tests.common.training import script
from tests.common.workspaces import QUICK, commit_all, git, make_repository, quick_protocol, set_protocol

WAYS: list[Any] = [
    pytest.param(way, marks=pytest.mark.skipif(not sandbox.works(way, False), reason=f"{way} does not work here"))
    for way in ("namespaces", "bubblewrap", "Landlock")
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))


def measured(sent: Order, name: str = "a") -> Answer:
    return Answer.from_dict(measure_order(sent.to_dict(), name))


def test_run_is_measured_and_kept(quick: Path) -> None:
    found = measured(order(quick))
    assert found.run is not None
    assert (found.run.metric, found.run.station, found.run.source) == (1.732, "a", "from the log")
    assert records.read_kept(records.run_folder("a", "toy", "s1", "r1")) == found
    assert collect("s1", ["r1"], "a") == {"finished": {"r1": found.to_dict()}, "running": []}
    assert collect("other", ["r1"], "a") == {"finished": {}, "running": []}
    assert station("a").active is None
    assert facts("a")["name"] == "a"


def test_variables_of_a_hook_do_not_make_the_clone_elsewhere(
    quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = order(quick)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    found = measured(sent)
    assert found.run is not None
    assert found.run.metric == 1.732
    assert not (tmp_path / "elsewhere").exists()


def test_files_of_an_order_lie_on_top_of_its_commit(quick: Path) -> None:
    found = measured(order(quick, files={"train.py": QUICK.replace("DEPTH = 4", "DEPTH = 7")}))
    assert found.run is not None
    assert found.run.metric == 1.282


def test_failed_run_is_the_candidates(quick: Path) -> None:
    set_train(quick, "raise SystemExit('no')\n")
    found = measured(order(quick))
    assert (found.failed, found.run and found.run.metric) == ("", None)
    assert found.run is not None
    assert (found.run.error or "").startswith("crashed: exit code 1")


def test_same_order_twice_is_one_run(quick: Path) -> None:
    assert measured(order(quick)) == measured(order(quick, bundle=None))


def test_run_that_ends_while_its_answers_are_collected_is_not_lost() -> None:
    here = station("a")
    here.active = Active("s1", "r1")

    def end(frame: FrameType, event: str, _: object) -> None:
        if event == "return" and frame.f_code is records.kept.__code__:
            here.active = None  # its answer is on disk, a moment too late

    sys.setprofile(end)
    try:
        found = collect("s1", ["r1"], "a")
    finally:
        sys.setprofile(None)
    assert here.active is None
    assert found == {"finished": {}, "running": ["r1"]}


def test_stage_of_a_run(quick: Path) -> None:
    here = station("a")
    try:
        assert control.stage("s1", "r1", "a") == "preparing"
        here.active = Active("s1", "r1")
        assert [control.stage(*each, "a") for each in (("s1", "r1"), ("s2", "r1"))] == ["preparing"] * 2
        here.measuring = True
        assert control.stage("s1", "r1", "a") == "measuring"
        assert control.stage("s2", "r1", "a") == "queued"
        assert control.stage("s1", "r2", "a") == "preparing"  # r1 was ended, and is still there
    finally:
        here.active, here.measuring = None, False
    assert measured(order(quick)).run is not None
    assert control.stage("s1", "r1", "a") == "measuring"  # its answer is on its way
    assert control.stage("s1", "r2", "a") == "preparing"


def test_runs_that_others_are_compared_with_are_kept(quick: Path) -> None:
    first, homes = measured(order(quick, "r1")), [records.run_folder("a", "toy", "s1", f"r{n}") for n in (1, 2)]
    assert first.run is not None
    measured(order(quick, "r2"))
    for age, home in enumerate(homes):
        os.utime(home, (age, age))
    measured(order(quick, "r3", other=(Leased(first.run, "r1"),)))
    records.prune("a", records.run_folder("a", "toy", "s1", "r3"), most=2)
    assert [path.name for path in records.kept("a", "s1")] == ["r1", "r3"]


def test_later_commits_come_as_small_bundles(quick: Path) -> None:
    first = git(quick, "rev-parse", "HEAD")
    assert measured(order(quick)).run is not None
    second = set_train(quick, QUICK.replace("DEPTH = 4", "DEPTH = 7"))
    small = write_order_bundle(Workspace(quick, load_protocol(quick)), second, [first])
    assert len(small) < len(order(quick).bundle or b"")
    sent = order(quick, "r2", bundle=small, base=first)
    found = measured(sent)
    assert found.run is not None
    assert found.run.metric == 1.282
    # Another station has nothing of that.
    assert measured(sent, "b").lacks
    assert measured(dataclasses.replace(sent, bundle=order(quick).bundle), "b").run is not None


def test_damaged_clone_is_made_anew(quick: Path) -> None:
    """A kill in the middle of a checkout leaves a lock, which git never removes; a power cut takes objects."""
    assert measured(order(quick, "r1")).run is not None
    clone = records.clone_folder("a", "toy")
    set_train(quick, QUICK.replace("DEPTH = 4", "DEPTH = 7"))
    (clone / ".git" / "index.lock").touch()
    assert measured(order(quick, "r2")).run is not None
    assert not (clone / ".git" / "index.lock").exists()
    for path in (clone / ".git" / "objects").rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            path.unlink()
    assert measured(order(quick, "r3", bundle=None)).lacks
    assert measured(order(quick, "r3")).run is not None


def test_card_that_cannot_be_asked_now_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another name, as that of the processor, would make its earlier runs incomparable."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ntest -e {tmp_path}/well || exec sleep 60\necho NVIDIA H100\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setattr(control, "GPU_SECONDS", 1)
    assert "accelerator" not in facts("a")
    (tmp_path / "well").touch()
    monkeypatch.undo()
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert facts("a")["accelerator"] == "NVIDIA H100"
    (tmp_path / "well").unlink()
    assert facts("a")["accelerator"] == "NVIDIA H100"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert facts("a")["accelerator"] != "NVIDIA H100"


def test_only_answers_that_are_asked_for_are_sent(quick: Path) -> None:
    for lease in ("r1", "r2"):
        assert measured(order(quick, lease)).run is not None
    assert [*collect("s1", ["r2", "r9"], "a")["finished"]] == ["r2"]


def test_bundle_that_is_none_is_the_stations_failure(quick: Path) -> None:
    assert "is not a git bundle" in measured(order(quick, bundle=b"nothing")).failed
    assert measured(order(quick)).run is not None


def test_bundle_of_another_commit_is_refused(quick: Path) -> None:
    found = measured(order(quick, commit="a" * 40))
    assert "holds other commits" in found.failed


def test_other_snapshot_and_version_are_refused(quick: Path) -> None:
    found = measured(order(quick, snapshot="abc"))
    assert (found.run, found.failed.partition(";")[0]) == (None, "a has snapshot none, the session has abc")
    assert "has autoresearch" in measured(order(quick, version="9")).failed


def test_data_that_is_no_order_gets_an_answer() -> None:
    found = Answer.from_dict(measure_order({"lease": "../x"}, "a"))
    assert found.failed.startswith("sent an order that is not valid: ")


def test_setup_runs_once_for_equal_bases_and_again_after_its_files_change(quick: Path, tmp_path: Path) -> None:
    made = tmp_path / "cache" / "made"
    environment = {**quick_protocol()["environment"], "setupCommands": [f"echo once >> {made}"]}
    set_protocol(quick, environment=environment)
    assert measured(order(quick, "r1")).run is not None
    set_train(quick, QUICK.replace("DEPTH = 4", "DEPTH = 7"))
    assert measured(order(quick, "r2")).run is not None
    assert made.read_text() == "once\n"
    (quick / "prepare.py").write_text("HARNESS = 2\n")
    commit_all(quick, "harness")
    assert measured(order(quick, "r3")).run is not None
    assert made.read_text() == "once\nonce\n"
    (quick / "prepare.py").write_text("HARNESS = 3\n")
    commit_all(quick, "harness")
    assert measured(order(quick, "r4", setup=False)).run is not None
    assert made.read_text() == "once\nonce\n"


def test_setup_that_hangs_ends_when_its_run_is_cancelled(quick: Path, tmp_path: Path) -> None:
    environment = {**quick_protocol()["environment"], "setupCommands": [f"echo $$ > {tmp_path}/cache/pid; sleep 6543"]}
    set_protocol(quick, environment=environment)
    started = tmp_path / "cache" / "pid"

    def cancel_it(_: float) -> None:
        if started.exists() and started.read_text():
            cancel("s1", "r1", "a")

    answer = Answer.from_dict(measure_order(order(quick).to_dict(), "a", cancel_it))
    assert (answer.run, bool(answer.failed)) == (None, True)
    assert not [each for each in psutil.process_iter(["cmdline"]) if "6543" in (each.info["cmdline"] or ())]


def test_setup_that_hangs_ends_after_a_limit(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "STATION_SECONDS", 0.5)
    set_protocol(quick, environment={**quick_protocol()["environment"], "setupCommands": ["sleep 6544", "true"]})
    assert measured(order(quick)).failed == "the setup commands took more than 1.0s"
    assert not [each for each in psutil.process_iter(["cmdline"]) if "6544" in (each.info["cmdline"] or ())]


def test_stage_of_a_run_says_whether_its_command_has_begun(quick: Path, tmp_path: Path) -> None:
    line = f"until [ -e {tmp_path}/cache/seen ]; do sleep 0.05; done"
    set_protocol(quick, environment={**quick_protocol()["environment"], "setupCommands": [line]})
    set_train(quick, QUICK.replace("loss =", "import time\ntime.sleep(0.5)\nloss ="))
    said = []

    def look(_: float) -> None:
        said.append((control.stage("s1", "r1", "a"), control.stage("s1", "r2", "a"), control.stage("s2", "r1", "a")))
        (tmp_path / "cache").mkdir(exist_ok=True)
        (tmp_path / "cache" / "seen").touch()

    assert Answer.from_dict(measure_order(order(quick).to_dict(), "a", look)).run is not None
    assert list(dict.fromkeys(said)) == [("preparing",) * 3, ("measuring", "preparing", "queued")]
    assert control.stage("s1", "r1", "a") == "measuring"  # its answer is on its way


def test_setup_that_fails_is_the_stations_failure(quick: Path) -> None:
    environment = {**quick_protocol()["environment"], "setupCommands": ["exit 7"]}
    set_protocol(quick, environment=environment)
    assert "the setup command `exit 7` failed" in measured(order(quick)).failed


def test_workspace_below_the_top_of_its_repository(tmp_path: Path) -> None:
    folder = tmp_path / "repository" / "deep" / "work"
    folder.mkdir(parents=True)
    (folder / "protocol.json").write_text(json.dumps(quick_protocol()))
    (folder / "train.py").write_text(QUICK)
    (folder / "prepare.py").write_text("")
    make_repository(tmp_path / "repository")
    found = measured(order(folder, prefix="deep/work"))
    assert found.run is not None
    assert found.run.metric == 1.732


def test_repository_with_sha_256(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    git(tmp_path, "init", "--quiet", "--object-format=sha256", "--initial-branch=main", str(folder))
    (folder / "protocol.json").write_text(json.dumps(quick_protocol()))
    (folder / "train.py").write_text(QUICK)
    (folder / "prepare.py").write_text("")
    make_repository(folder)
    first = git(folder, "rev-parse", "HEAD")
    assert measured(order(folder)).run is not None
    second = set_train(folder, QUICK.replace("DEPTH = 4", "DEPTH = 7"))
    small = write_order_bundle(Workspace(folder, load_protocol(folder)), second, [first])
    found = measured(order(folder, "r2", bundle=small))
    assert found.run is not None
    assert found.run.metric == 1.282


def private_repository(tmp_path: Path, quick: Path) -> list[Path]:
    """Measure a run for another repository on two stations; return its clones and what is kept of its runs."""
    private = shutil.copytree(quick, tmp_path / "private")
    (private / "prepare.py").write_text("SECRET = 'zebra'\n")
    commit_all(private, "a secret")
    for name in ("a", "b"):
        assert measured(order(private, repository="private"), name).run is not None
    clones = [records.clone_folder(name, "private") for name in ("a", "b")]
    return [*clones, *(records.run_folder(name, "private", "s1", "r1") for name in ("a", "b"))]


def use_way(monkeypatch: pytest.MonkeyPatch, way: Way) -> None:
    monkeypatch.setattr(sandbox, "available", lambda *_: way)


@pytest.mark.parametrize("named", [False, True], ids=["", "their folder is named"])
@pytest.mark.parametrize("way", WAYS)
def test_run_does_not_see_other_clones(
    quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way, named: bool
) -> None:
    if named:
        monkeypatch.setenv("AUTORESEARCH_READ", str(tmp_path))
    others = private_repository(tmp_path, quick)
    (quick / "peek").symlink_to(stations_folder() / "clones" / "b")
    (quick / "look").symlink_to(others[0])
    git(quick, "add", "peek", "look")
    folders = ["peek", "look", *(str(tmp_path / name) for name in ("cache", "cache-stations"))]
    peek = (
        f"import os\nfor place in {[*map(str, others)]!r}:\n"
        "    for path in (place + '/.git/HEAD', place + '/prepare.py', place + '/answer.json'):\n"
        "        try:\n            print('seen', path, open(path).read())\n"
        "        except OSError:\n            pass\n"
        f"for folder in {folders!r}:\n"
        "    for path, _, names in os.walk(folder):\n"
        "        if names and '/clones/a/toy' not in path:\n            print('seen', path, names)\n"
        "loss ="
    )
    (tmp_path / "cache" / "data").mkdir(parents=True)
    (tmp_path / "cache" / "data" / "text").write_text("for all")
    set_train(quick, QUICK.replace("loss =", f"print(open({str(tmp_path / 'cache/data/text')!r}).read())\n{peek}"))
    use_way(monkeypatch, way)
    found = measured(order(quick, sandbox="auto"))
    assert found.run is not None
    assert (found.run.unconfined, found.run.metric) == (False, 1.732), found.log.decode()
    assert b"for all" in found.log
    seen = [line for line in found.log.decode().splitlines() if line.startswith("seen ")]
    assert not [line for line in seen if "/cache/data " not in line], seen


@pytest.mark.parametrize("way", WAYS)
def test_setup_changes_no_other_clone_and_no_answer(
    quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    others = private_repository(tmp_path, quick)
    before = {path: path.read_bytes() for place in others for path in place.rglob("*") if path.is_file()}
    attack = "; ".join(
        f"echo x >> {place / name}" for place in others for name in (".git/config", "train.py", "answer.json", "new")
    )
    read = "; ".join(f"cat {path}" for path in before if path.name in ("HEAD", "answer.json"))
    data = tmp_path / "cache" / "data"
    lines = [f"({attack}; {read}; true) > said", f"echo data > {data}", "echo built > built"]
    set_protocol(quick, environment={**quick_protocol()["environment"], "setupCommands": lines})
    use_way(monkeypatch, way)
    found = measured(order(quick, sandbox="auto"))
    assert found.run is not None, found.failed
    after = {path: path.read_bytes() for place in others for path in place.rglob("*") if path.is_file()}
    assert after == before
    own = records.clone_folder("a", "toy")
    assert ((own / "said").read_text(), (own / "built").read_text(), data.read_text()) == ("", "built\n", "data\n")


def test_answers_of_the_version_before_are_found(quick: Path, tmp_path: Path) -> None:
    """They were within the cache, and so were the clones, which come again."""
    found = measured(order(quick))
    earlier = tmp_path / "cache" / "stations"
    earlier.parent.mkdir()
    stations_folder().rename(earlier)
    assert collect("s1", ["r1"], "a")["finished"] == {"r1": found.to_dict()}
    assert measured(order(quick, bundle=None)) == found
    assert measured(order(quick, "r2")).run is not None
    assert not earlier.exists()


@NEEDS_ONE
def test_run_does_not_see_what_a_station_keeps_of_others(quick: Path) -> None:
    assert measured(order(quick)).run is not None
    kept = records.records_folder("a")
    peek = f"import pathlib\nprint('seen', sorted(map(str, pathlib.Path({str(kept)!r}).rglob('*'))))\nloss ="
    set_train(quick, QUICK.replace("loss =", peek))
    found = measured(order(quick, "r2", sandbox="auto"))
    assert found.run is not None
    assert b"seen []" in found.log


def test_model_is_attested_and_scored_on_the_holdout(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real harness, with a real training, beside an earlier run of the same station."""
    assert runner.harness is not None
    holdout = runner.harness.holdout is not None
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    known = {
        "snapshot": runner.harness.record["id"],
        "training_seconds": 0.3,
        "setup": False,
        "holdout": holdout,
        "sandbox": "auto",
    }
    folder = runner.workspace.folder
    set_train(folder, script())
    first = measured(order(folder, "r1", **known))
    assert first.run is not None
    assert (first.run.error, first.run.source) == (None, "attested")
    assert (first.run.holdout is not None) == holdout
    kept = records.run_folder("a", "toy", "s1", "r1")
    assert {path.name for path in kept.iterdir()} == {"answer.json", "run.log", "run.losses.npy"}
    second = measured(order(folder, "r2", **known, other=(Leased(first.run, "r1"),), settled=("r1",)))
    assert second.run is not None
    assert second.run.source == "attested"
    assert {path.name for path in kept.iterdir()} == {"run.losses.npy"}


def test_voided_run_names_the_program_that_the_order_compares_it_with(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runner.harness is not None
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    folder, quick_one = runner.workspace.folder, Run(2.0, 1.0, {"num_steps": 1e6}, untimed=0.1, overrun=0.0)
    set_train(folder, script("late", "time.sleep(1.2)"))
    known = {"snapshot": runner.harness.record["id"], "training_seconds": 0.3, "setup": False}
    found = measured(order(folder, "r1", **known, own=(Leased(quick_one),), side="the best"))
    assert found.run is not None
    assert "; the best takes 0.1 s more" in (found.run.error or ""), found.run.error


def test_cancel_counts_after_a_thousand_that_ended_nothing() -> None:
    for number in range(MOST_CANCELLED + 5):
        cancel("s1", f"r{number}", "long")
    with pytest.raises(Interrupted):
        station("long").require_going("s1", f"r{MOST_CANCELLED + 4}")
    station("long").require_going("s1", "r0")
    assert len(station("long").cancelled) == MOST_CANCELLED


def test_full_disk_of_a_station_is_its_own_and_nobody_repeats_a_command_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache-stations").mkdir()
    said = _why(OSError(errno.ENOSPC, "No space left on device"))
    assert re.fullmatch(rf"No space left on device; free disk space \([\d,]+ MiB are free in {tmp_path}/.*\)", said)
    hint = "free some disk space, then run the same command again; the session continues from here"
    assert _why(AutoresearchError("only 2 MiB are free", hint=hint)) == "only 2 MiB are free; free some disk space"
    assert _why(AutoresearchError("no git", hint="install git")) == "no git; install git"
