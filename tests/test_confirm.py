"""Sessions whose metric is noisy: what is run again, what is confirmed, and what a kill in the middle leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.journal import read
from agent.paths import journal_path
from agent.state import replay
from tests.conftest import ROOT, Cli, git
from tests.test_session import assert_consistent, commit_all, journal, rows

NOISE = "import random\nloss += random.gauss(0, 0.05)\n"


@pytest.fixture
def noisy(quick: Path) -> Path:
    """The quick workspace with a standard deviation of 0.05 in its metric, of 2.1 at the baseline."""
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace('print("---")', f'{NOISE}print("---")'))
    commit_all(quick, "noise")
    return quick


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in journal(folder) if event["event"] == kind]


def test_a_noisy_session_measures_again_and_confirms(noisy: Path, cli: Cli) -> None:
    done = cli(noisy, "run", "--tag", "t", "--max-experiments", "8", "--confirm")
    assert done.returncode == 0, done.stderr
    assert_consistent(noisy)
    state = replay(read(journal_path(noisy, "t")))
    assert len(state.experiments[0].runs) == 2 and (noisy / ".autoresearch" / "create" / "baseline_run-2.log").exists()
    measured = events(noisy, "measured")
    again = [event for event in measured if "of" in event]
    assert again and "the incumbent #" in done.stderr
    kept = [e for e in state.experiments[1:] if e.verdict.status == "keep"]
    assert kept and all(e.verdict.evidence is not None for e in kept)
    for row, experiment in zip(rows(noisy), state.experiments, strict=True):
        assert float(row["val_bpb"]) == pytest.approx(experiment.metric, abs=1e-6)
    confirmed = events(noisy, "confirmed")[0]
    assert len(events(noisy, "compared")) == 6 and confirmed["runs"] == {"a": 3, "b": 3}
    assert confirmed["low"] < confirmed["gain"] < confirmed["high"] and 0.005 < confirmed["noise"] < 0.5
    data = json.loads(cli(noisy, "status", "--json").stdout)["data"]
    assert data["confirmed"]["gain"] == confirmed["gain"] and data["noise"] > 0
    assert f"{confirmed['gain']:.4g} {confirmed['verdict']}" in done.stdout


def test_the_classic_rule_takes_one_run_each(noisy: Path, cli: Cli) -> None:
    done = cli(noisy, "run", "--tag", "t", "--max-experiments", "4", "--verdict", "greedy")
    assert done.returncode == 0, done.stderr
    assert len(events(noisy, "measured")) == 5 and not events(noisy, "compared")
    assert_consistent(noisy)


def test_confirm_and_ablate_by_hand(quick: Path, cli: Cli) -> None:
    assert cli(quick, "confirm").returncode == 3
    cli(quick, "run", "--tag", "t", "--max-experiments", "4")
    state = replay(read(journal_path(quick, "t")))
    best, baseline = state.incumbent, state.baseline
    assert best and baseline and best.metric is not None and baseline.metric is not None and best.number > 0
    done = cli(quick, "confirm", "--runs", "2", "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)["data"]
    assert data["verdict"] == "confirmed" and data["gain"] == pytest.approx(baseline.metric - best.metric, abs=1e-5)
    assert (data["a"], data["b"]) == (baseline.commit, best.commit)
    with_itself = json.loads(cli(quick, "confirm", best.commit, best.commit[:8], "--json").stdout)["data"]
    assert with_itself["gain"] == 0 and with_itself["verdict"] == "not confirmed"
    wrong = cli(quick, "confirm", "nothing")
    assert wrong.returncode == 2 and "'nothing' is no commit here" in wrong.stderr and "Traceback" not in wrong.stderr
    ablated = cli(quick, "ablate", "--json")
    assert ablated.returncode == 0, ablated.stderr
    found = json.loads(ablated.stdout)["data"]
    kept = [e for e in state.experiments[1:] if e.verdict.status == "keep"]
    assert [entry["number"] for entry in found["changes"]] == [e.number for e in kept]
    assert any(entry["verdict"] in ("pays", "undone by a later change") for entry in found["changes"])
    assert "pays" in cli(quick, "ablate").stdout
    assert_consistent(quick)


def test_an_idle_change_is_offered_for_removal(quick: Path, cli: Cli) -> None:
    """A kept change whose gain a later one took away: RATE is moved, then the loss stops depending on it."""
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace("(RATE - 0.4) ** 2", "(WIDTH < 100) * (RATE - 0.4) ** 2"))
    commit_all(quick, "rate matters only while the width is small")
    moves = iter(("s/^RATE = 0.1 /RATE = 0.3 /", "s/^WIDTH = 64 /WIDTH = 256 /"))
    for count, move in enumerate(moves, start=1):
        agent = ("--proposer", "command", "--agent-cmd", f'sed -i "{move}" train.py')
        done = cli(quick, "run", "--tag", "t", *agent, "--max-experiments", str(count))
        assert done.returncode == 0, done.stderr
    assert [row["status"] for row in rows(quick)] == ["keep"] * 3
    found = json.loads(cli(quick, "ablate", "--json").stdout)["data"]
    assert [entry["verdict"] for entry in found["changes"]] == ["not shown to pay", "pays"]
    smaller = found["smaller"]
    assert smaller["offered"] and smaller["without"] == [1] and smaller["gain"] == 0
    offered = git(quick, "show", f"{smaller['commit']}:train.py")
    assert "RATE = 0.1 " in offered and "WIDTH = 256 " in offered


def start(folder: Path, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "agent", *args]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_until(folder: Path, holds: Callable[[list[dict[str, Any]]], bool]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if journal_path(folder, "t").exists() and holds(journal(folder)):
            return
        time.sleep(0.02)
    raise AssertionError("the journal did not get there")


@pytest.mark.parametrize(("event", "count"), [("started", 8), ("running", 3)])
def test_killed_while_the_incumbent_or_a_side_runs(noisy: Path, cli: Cli, event: str, count: int) -> None:
    """`started` with `of` is the incumbent beside a candidate; `running` is one side of the confirmation."""
    text = (noisy / "train.py").read_text()
    (noisy / "train.py").write_text(text.replace('print("---")', 'import time\ntime.sleep(0.4)\nprint("---")'))
    commit_all(noisy, "slower")
    command = ("run", "--tag", "t", "--max-experiments", str(count), "--confirm")
    loop = start(noisy, *command)

    def there(found: list[dict[str, Any]]) -> bool:
        last = found[-1] if found else {}
        return last.get("event") == event and (event == "running" or "of" in last)

    wait_until(noisy, there)
    loop.send_signal(signal.SIGKILL)
    loop.communicate()
    done = cli(noisy, *command)
    assert done.returncode == 0, done.stderr
    assert_consistent(noisy)
    assert len(rows(noisy)) == count + 1 and len(events(noisy, "confirmed")) == 1
    if event == "running":
        assert len(events(noisy, "compared")) == 6
