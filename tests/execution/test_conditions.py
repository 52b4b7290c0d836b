"""The user or another program works in the same repository while the loop runs."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.execution.conditions import Clock
from agent.execution.measure import Runner
from agent.room import confine
from agent.room.sandbox import supervised
from tests.common.processes import start, wait_for
from tests.common.sessions import assert_consistent, journal, rows
from tests.common.training import run_script
from tests.common.workspaces import ROOT, Cli, commit_all, git


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file whose existence lets the experiments of `slow` continue. Runs see its folder."""
    folder = tmp_path / "signals"
    folder.mkdir()
    monkeypatch.setenv("AUTORESEARCH_READ", str(folder))
    return folder / "go"


@pytest.fixture
def slow(quick: Path, go: Path) -> Path:
    """Make a workspace whose experiments wait until a file exists, so that no test depends on timing."""
    text = (quick / "train.py").read_text()
    wait = f"import os, time\nwhile RATE != 0.1 and not os.path.exists({str(go)!r}):\n    time.sleep(0.02)\nloss = "
    only = text.replace("# search: 1..16", "# search: off").replace("8..512", "off")
    (quick / "train.py").write_text(only.replace("loss = ", wait))
    commit_all(quick, "waits")
    return quick


def test_commit_on_session_branch_stops_loop_and_is_kept(slow: Path, go: Path, cli: Cli) -> None:
    loop = start(slow, "--max-experiments", "2")
    wait_for(slow, "started", 1)
    (slow / "notes.md").write_text("mine")
    git(slow, "add", "notes.md")
    git(slow, "commit", "--quiet", "-m", "mine")
    mine = git(slow, "rev-parse", "HEAD")
    go.touch()
    _, errors = loop.communicate(timeout=60)
    assert loop.returncode == 3
    assert "the session left it at" in errors
    assert "Traceback" not in errors
    assert git(slow, "rev-parse", "HEAD") == mine
    assert (slow / "notes.md").read_text() == "mine"
    again = cli(slow, "run", "--tag", "t", "--max-experiments", "2")
    assert again.returncode == 3
    assert "git update-ref" in again.stderr
    git(slow, "branch", "kept", mine)
    left = again.stderr.split("`git update-ref refs/heads/autoresearch/t ")[1].split("`")[0]
    git(slow, "reset", "--quiet", "--hard", left)
    assert cli(slow, "run", "--tag", "t", "--max-experiments", "2").returncode == 0
    assert_consistent(slow)
    runs = sum(e["event"] == "measured" and e["number"] == 1 and "of" not in e for e in journal(slow))
    assert runs == (2 if rows(slow)[1]["status"] == "keep" else 1)


def test_deleted_branch_stops_loop_and_can_be_restored(slow: Path, go: Path, cli: Cli) -> None:
    loop = start(slow, "--max-experiments", "2")
    wait_for(slow, "started", 1)
    git(slow, "update-ref", "-d", "refs/heads/autoresearch/t")
    go.touch()
    _, errors = loop.communicate(timeout=60)
    assert loop.returncode == 3
    assert "Traceback" not in errors
    assert "was deleted" in errors
    left = errors.split("`git update-ref refs/heads/autoresearch/t ")[1].split("`")[0]
    git(slow, "update-ref", "refs/heads/autoresearch/t", left)
    assert cli(slow, "run", "--tag", "t", "--max-experiments", "2").returncode == 0
    assert_consistent(slow)


def test_user_can_work_in_checkout_during_experiments(quick: Path, tmp_path: Path) -> None:
    """Edits, new and deleted files and commits on other branches stay as they are and are not measured."""
    (quick / "program.md").write_text("goal\n")
    (quick / "notes.md").write_text("notes\n")
    git(quick, "add", "program.md", "notes.md")
    commit_all(quick, "notes")
    git(quick, "branch", "elsewhere")
    elsewhere = tmp_path / "elsewhere"
    git(quick, "worktree", "add", "--quiet", str(elsewhere), "elsewhere")
    loop = start(quick, "--max-experiments", "10")
    wait_for(quick, "recorded", 1)
    mine = "print('val_bpb: 0.000001')\nRATE = 5.0  # mine\n"
    (quick / "train.py").write_text(mine)
    (quick / "program.md").write_text("goal\nand more\n")
    (quick / "numpy.py").write_text("raise SystemExit('measured')\n")
    (quick / "notes.md").unlink()
    (elsewhere / "train.py").write_text("RATE = 7.0\n")
    commit_all(elsewhere, "elsewhere")
    tip = git(elsewhere, "rev-parse", "HEAD")
    _, errors = loop.communicate(timeout=120)
    assert loop.returncode == 0, errors
    assert (quick / "train.py").read_text() == mine
    assert (quick / "program.md").read_text() == "goal\nand more\n"
    assert (quick / "numpy.py").exists()
    assert not (quick / "notes.md").exists()
    assert git(quick, "rev-parse", "elsewhere") == tip
    assert git(quick, "symbolic-ref", "--short", "HEAD").endswith("/t")
    theirs = {"M train.py", "M program.md", "D notes.md", "?? numpy.py"}
    assert {line.strip() for line in git(quick, "status", "--porcelain").splitlines()} == theirs
    assert len(rows(quick)) == 11
    assert all(float(row["val_bpb"]) > 0.5 for row in rows(quick))
    assert "crash" not in {row["status"] for row in rows(quick)}
    for row in rows(quick):
        assert "mine" not in git(quick, "show", f"{row['commit']}:train.py")
    assert "train.py has uncommitted changes" in errors


def test_another_branch_may_be_checked_out_meanwhile(slow: Path, go: Path) -> None:
    loop = start(slow, "--max-experiments", "2")
    wait_for(slow, "started", 1)
    git(slow, "checkout", "--quiet", "main")
    (slow / "notes.md").write_text("mine")
    git(slow, "add", "notes.md")
    git(slow, "commit", "--quiet", "-m", "mine")
    go.touch()
    loop.communicate(timeout=60)
    assert loop.returncode == 0
    assert git(slow, "symbolic-ref", "--short", "HEAD") == "main"
    assert git(slow, "status", "--porcelain") == ""
    git(slow, "checkout", "--quiet", "autoresearch/t")
    assert_consistent(slow)
    assert len(rows(slow)) == 3


def test_results_edited_during_a_run_stay_as_they_are(slow: Path, go: Path) -> None:
    loop = start(slow, "--max-experiments", "2")
    wait_for(slow, "started", 1)
    table = (slow / "results.tsv").read_text() + "my remark\n"
    (slow / "results.tsv").write_text(table)
    go.touch()
    _, errors = loop.communicate(timeout=60)
    assert loop.returncode == 0
    assert "results.tsv has uncommitted changes" in errors
    assert (slow / "results.tsv").read_text() == table
    git(slow, "checkout", "results.tsv")
    assert_consistent(slow)
    assert len(rows(slow)) == 3


def test_results_edited_between_sessions_are_not_overwritten(quick: Path, cli: Cli) -> None:
    cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    table = (quick / "results.tsv").read_text()
    (quick / "results.tsv").write_text(table + "my remark\n")
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "2")
    assert done.returncode == 3
    assert "uncommitted changes (results.tsv)" in done.stderr
    assert (quick / "results.tsv").read_text() == table + "my remark\n"
    (quick / "results.tsv").write_text(table[:40])
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "2").returncode == 0
    assert_consistent(quick)


def test_index_lock_is_awaited_then_named(quick: Path, cli: Cli) -> None:
    lock = quick / ".git" / "index.lock"
    lock.touch()
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    assert done.returncode == 1
    assert "index.lock" in done.stderr
    assert "Traceback" not in done.stderr
    lock.unlink()
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "1").returncode == 0
    assert_consistent(quick)


def test_a_damaged_journal_is_named_and_left_alone(quick: Path, cli: Cli) -> None:
    cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    path = quick / ".autoresearch/sessions/t/journal.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    damaged = "".join([*lines[:3], "\x00\x00garbage\n", *lines[4:]])
    path.write_text(damaged)
    for command in (["run", "--tag", "t"], ["status"]):
        done = cli(quick, *command)
        assert done.returncode == 1
        assert "line 4 of" in done.stderr
        assert "Traceback" not in done.stderr
    assert path.read_text() == damaged


def test_file_in_place_of_folder_is_reported_in_one_sentence(quick: Path, cli: Cli) -> None:
    cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    folder = quick / ".autoresearch/sessions/t/experiments/0002"
    folder.touch()
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "2")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"error: cannot write {folder / 'proposal.json'}: " in done.stderr
    folder.unlink()
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "2").returncode == 0
    assert_consistent(quick)


@pytest.mark.skipif(confine.version() == 0, reason="mode bits do not bind root, and there is no Landlock")
@pytest.mark.parametrize("writable", [(), (".git",), (".autoresearch",)], ids=["nothing", "git", "state"])
def test_read_only_folder_is_reported_in_one_sentence(
    quick: Path, cli: Cli, tmp_path: Path, writable: tuple[str, ...]
) -> None:
    cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    folders = [str(temporary), "/dev", *(str(quick / name) for name in writable)]
    spec = {"cwd": str(quick), "confined": True, "read": ["/"], "write": folders}
    command = [sys.executable, "-m", "agent", "run", "--tag", "t", "--max-experiments", "2", "--sandbox", "off"]
    done = subprocess.run(
        supervised(spec, command, tmp_path),
        cwd=quick,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    error = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "denied" in error.lower()
    assert all(line.startswith("hint: ") for line in done.stderr.partition(error)[2].splitlines()[1:])
    assert "Traceback" not in done.stderr
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "2").returncode == 0
    assert_consistent(quick)


def test_conditions_of_a_run_are_those_until_its_handover(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that knows its metric could make the machine look busy, to be measured again."""
    seen = tmp_path / "seen"
    seen.mkdir()
    monkeypatch.setenv("AUTORESEARCH_READ", str(seen))
    readings: list[float] = []

    def read(_: Clock, running: float) -> dict[str, float]:
        readings.append(running)
        (seen / "now").touch()
        return {"others": float(len(readings))}

    code = f"while not os.path.exists({str(seen / 'now')!r}):\n    time.sleep(0.02)"
    result = run_script(dataclasses.replace(runner, read=read), "end", code)  # after the handover, until it is read
    assert result.metric is not None, result.error
    assert result.conditions == {"others": 1.0}
    assert len(readings) == 1
    assert readings[0] > 0  # the CPU time of the run, which has not ended


@pytest.mark.skipif(sys.platform != "linux", reason="cores can be chosen on Linux")
def test_station_on_some_cores_counts_those_only() -> None:
    """What another station of the same machine does on its own cores is no disturbance."""
    code = (
        "import os, psutil; os.sched_setaffinity(0, {0}); from agent.execution.conditions import clock\n"
        "names = ('user', 'nice', 'system', 'irq', 'softirq')\n"
        "busy = lambda: sum(getattr(psutil.cpu_times(percpu=True)[0], name) for name in names)\n"
        "before, found, after = busy(), clock().busy, busy()\n"
        "assert before <= found <= after or len(psutil.cpu_times(percpu=True)) == 1, (before, found, after)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
