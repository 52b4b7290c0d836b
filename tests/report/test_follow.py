"""`status` and `status --follow` next to a session in setup, and the limits that they show."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agent.decision.limits import Limits, noted, of_note
from agent.journal import lock
from agent.journal.paths import journal_path, state_folder
from tests.common.forked import Forked
from tests.common.in_process import call
from tests.common.journals import JournalBuilder
from tests.common.sessions import keep_in_turn
from tests.common.stations import until
from tests.common.workspaces import ROOT, Cli, commit_all, git, quick_protocol


def begun(folder: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "agent", *args],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until_it_waits(follower: subprocess.Popen[str]) -> None:
    assert follower.stderr is not None
    assert "waiting for the session to start" in follower.stderr.readline()


@pytest.fixture
def setting_up(quick: Path) -> Path:
    """A workspace whose setup commands wait until a file `go` exists."""
    wait = "until test -e go; do sleep 0.1; done"
    environment = {"setupCommands": [wait], "constraints": {"networkPolicy": "full"}}
    (quick / "protocol.json").write_text(json.dumps(quick_protocol(environment=environment)))
    git(quick, "commit", "--quiet", "-am", "a long setup")
    return quick


def test_follow_waits_for_a_session_that_sets_up(setting_up: Path) -> None:
    # Long enough that a follower, which looks every half a second, sees it run.
    loop = begun(setting_up, "run", "--tag", "t", "--max-experiments", "6", "--patience", "9", "--max-hours", "3")
    while lock.holder(state_folder(setting_up)) is None:
        time.sleep(0.1)
    told = call(setting_up, "status")
    assert told.returncode == 3
    assert "has not started yet" in told.stderr
    assert "ended before" not in told.stderr
    assert "cannot be stopped yet" in call(setting_up, "stop").stderr
    followers = [begun(setting_up, "status", "--follow"), begun(setting_up, "status", "--follow", "--tag", "t")]
    for follower in followers:
        wait_until_it_waits(follower)
    (setting_up / "go").touch()
    for follower in followers:
        shown, _ = follower.communicate(timeout=60)
        assert follower.returncode == 0
        assert "6 experiments are done" in shown.splitlines()[-1], shown
        assert "ends after 6 experiments, or at " in shown
        assert "after 9 experiments in a row without a keep" in shown
    assert loop.wait(timeout=60) == 0


def test_stop_names_how_to_end_a_command_that_runs_no_session(quick: Path) -> None:
    (quick / "train.py").write_text("import time\ntime.sleep(60)\n")
    git(quick, "commit", "--quiet", "-am", "slow")
    measuring = begun(quick, "baseline")
    while lock.holder(state_folder(quick)) is None:
        time.sleep(0.05)
    for command in (["stop"], ["run", "--tag", "t"]):
        told = call(quick, *command)
        assert told.returncode == 3
        assert f"end it with `kill -INT {measuring.pid}`" in told.stderr, told.stderr
    assert measuring.stderr is not None
    assert any("measuring the baseline" in line for line in measuring.stderr)
    measuring.send_signal(signal.SIGINT)
    assert "stopped before the baseline was measured" in measuring.communicate(timeout=60)[1]
    assert measuring.returncode == 130


def test_loop_is_found_and_stopped_after_its_folder_was_deleted(quick: Path, tmp_path: Path) -> None:
    go, began = tmp_path / "go", tmp_path / "began"
    code = (quick / "train.py").read_text()
    wait = f"import os, time\nopen({str(began)!r}, 'w').close()\nwhile not os.path.exists({str(go)!r}):\n"
    (quick / "train.py").write_text(wait + "    time.sleep(0.05)\n" + code)
    git(quick, "commit", "--quiet", "-am", "waits")
    loop = begun(quick, "run", "--tag", "t", "--max-experiments", "9", "--sandbox", "off")
    while not began.exists():
        time.sleep(0.05)
        assert loop.poll() is None
    git(quick, "clean", "-fdxq")
    refused = call(quick, "run", "--tag", "u")
    assert f"process {loop.pid} (session t)" in refused.stderr
    assert "has not started yet" in call(quick, "status").stderr
    stopped = call(quick, "stop")
    assert f"session t (process {loop.pid}) stops" in stopped.stdout + stopped.stderr
    go.touch()
    _, said = loop.communicate(timeout=60)
    assert loop.returncode == 0, said
    assert "stopped by `autoresearch stop`" in said
    assert lock.holder(state_folder(quick)) is None
    assert not [*(quick / ".git").glob("autoresearch-*.json")]


def test_follow_started_first_finds_the_session_that_comes(quick: Path) -> None:
    follower = begun(quick, "status", "--follow")
    wait_until_it_waits(follower)
    assert call(quick, "run", "--tag", "t", "--max-experiments", "1").returncode == 0
    shown, _ = follower.communicate(timeout=60)
    assert follower.returncode == 0
    assert "1 experiment is done" in shown


def test_follow_prefers_the_session_that_begins_to_one_that_is_over(setting_up: Path) -> None:
    (setting_up / "go").touch()
    assert begun(setting_up, "run", "--tag", "old", "--max-experiments", "1").wait(timeout=60) == 0
    git(setting_up, "checkout", "--quiet", "main")
    (setting_up / "go").unlink()
    (state_folder(setting_up) / "create" / "setup").unlink()
    loop = begun(setting_up, "run", "--tag", "new", "--max-experiments", "1")
    while lock.holder(state_folder(setting_up)) is None:
        time.sleep(0.1)
    follower = begun(setting_up, "status", "--follow")
    wait_until_it_waits(follower)
    (setting_up / "go").touch()
    shown, _ = follower.communicate(timeout=60)
    assert shown.startswith("new  ")
    assert "learned from old" in shown
    assert "old  " not in shown
    assert loop.wait(timeout=60) == 0


def test_follow_without_any_session_ends_with_its_sentence(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.report.status.LONGEST_START", 0.5)
    done = call(quick, "status", "--follow")
    assert done.returncode == 3
    assert "no sessions in" in done.stderr


def test_limits_are_noted_and_read_back() -> None:
    now = time.time()
    assert of_note(noted(Limits(3, 3600.0, now + 60, 5, 1.5), now)) == Limits(3, None, now + 60, 5, 1.5)
    assert of_note(noted(Limits(seconds=10.0), now)) == Limits(until=now + 10)
    assert of_note({"experiments": "many", "until": 1e300, "patience": None, "target": float("nan")}) == Limits()
    assert Limits().words() == ""
    assert noted(Limits(), now) == {}
    assert Limits(experiments=100, target=1.2).words() == "after 100 experiments, or at the target 1.2"


def test_runs_that_others_replaced_are_not_counted_as_done(quick: Path) -> None:
    builder = JournalBuilder("t").baseline().keep()
    builder.write.at = time.time()
    builder.write("comparing", commits={"a": builder.base, "b": builder.best}, files=[], count=2)
    for label in "abbab":  # the last one replaces a disturbed one
        builder.write("compared", label=label, run=1, metric=1.0, seconds=300.0)
    builder.write.save(journal_path(quick, "t"))
    with lock.hold(state_folder(quick), "t"):
        assert "confirming: baseline and best #1, 4 of 4 runs done" in call(quick, "status").stdout


def test_status_says_that_the_gain_is_being_confirmed(quick: Path, cli: Cli, tmp_path: Path) -> None:
    text = (quick / "train.py").read_text().replace("RATE = 0.1", "SEED = 42\nRATE = 0.1", 1)
    gate = tmp_path / "go"  # what held-out runs of the best wait for
    wait = f"import pathlib, time\nwhile SEED != 42 and RATE != 0.1 and not pathlib.Path({str(gate)!r}).exists():"
    (quick / "train.py").write_text(text.replace('print("---")', f'{wait}\n    time.sleep(0.05)\nprint("---")', 1))
    commit_all(quick, "held-out runs that wait")
    keep_in_turn(quick, cli, "s/^RATE = 0.1 /RATE = 0.3 /")

    def comparison() -> dict[str, Any] | None:
        found: dict[str, Any] | None = json.loads(cli(quick, "status", "--json").stdout)["data"]["comparison"]
        return found

    assert comparison() is None
    confirming = Forked(quick, ["confirm", "--runs", "4", "--sandbox", "off"], os.environ)
    found = until(lambda: (now := comparison()) and now["now"] == "best #1" and now, "a run of the best")
    assert (found["doing"], found["runs"], found["sides"]) == ("confirming", 8, ["baseline", "best #1"])
    says = r"(?m)^confirming: best #1, run [1-8] of 8, for [0-9.]+s, done at about [0-9:]{8}$"
    assert re.search(says, cli(quick, "status").stdout)
    gate.touch()
    confirming.communicate(timeout=60)
    assert confirming.returncode == 0
    assert comparison() is None
