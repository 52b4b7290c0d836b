"""doctor and doctor --repair on the states in which kills, and people, leave a session."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from agent.fingerprint import backend
from agent.paths import journal_path
from agent.runner import MARK
from tests.conftest import ROOT, Cli, git
from tests.test_session import assert_consistent, journal, rows


def checks(folder: Path, cli: Cli, *args: str) -> dict[str, dict[str, Any]]:
    done = cli(folder, "doctor", "--json", *args)
    assert "Traceback" not in done.stderr, done.stderr
    found = {check["name"]: check for check in json.loads(done.stdout)["data"]["checks"]}
    assert done.returncode == any(check["status"] == "broken" for check in found.values())
    return found


def cut(folder: Path, events: int) -> None:
    """As if the loop had died after so many events."""
    path = journal_path(folder, "t")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:events]))


def test_all_is_well(quick: Path, cli: Cli) -> None:
    (before,) = (check for name, check in checks(quick, cli).items() if name == "tree")
    assert before["status"] == "ok"
    cli(quick, "run", "--tag", "t", "--max-experiments", "3")
    found = checks(quick, cli)
    assert {check["status"] for check in found.values()} == {"ok"}
    assert {"protocol", "tree", "t: journal", "t: branch", "t: rows", "t: commits"} == set(found)
    done = cli(quick, "doctor", "--repair")
    assert done.returncode == 0 and done.stdout.startswith("did      nothing: all was in order")


def test_a_step_left_half_done_is_finished_by_hand(quick: Path, cli: Cli) -> None:
    cli(quick, "run", "--tag", "t", "--max-experiments", "2")
    expected = rows(quick)
    last = max(number for number, event in enumerate(journal(quick)) if event["event"] == "recorded")
    old = [event["head"] for event in journal(quick) if event["event"] == "recorded"][-2]
    cut(quick, last + 1)
    git(quick, "update-ref", "refs/heads/autoresearch/t", old)
    (quick / "results.tsv").write_text((quick / "results.tsv").read_text()[:30])
    with journal_path(quick, "t").open("a") as file:
        file.write('{"event": "prop')
    git(quick, "update-ref", "-d", "refs/autoresearch/t/1")
    found = checks(quick, cli)
    assert {name for name, check in found.items() if check["status"] == "warning"} == {
        "tree", "t: journal", "t: branch", "t: commits"
    }  # fmt: skip
    assert found["t: branch"]["command"] == "autoresearch doctor --repair --tag t"
    done = cli(quick, "doctor", "--repair")
    assert done.returncode == 0, done.stderr
    for what in ("dropped the half-written last line", "moved autoresearch/t", "results.tsv", "refs/autoresearch/t/1"):
        assert any(line.startswith("did ") and what in line for line in done.stdout.splitlines()), what
    assert {check["status"] for check in checks(quick, cli).values()} == {"ok"}
    assert_consistent(quick)
    assert rows(quick) == expected


def test_an_orphan_is_found_and_ended(quick: Path, cli: Cli) -> None:
    cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    started = max(number for number, event in enumerate(journal(quick)) if event["event"] == "started")
    before = [event for event in journal(quick)[:started] if event["event"] == "recorded"][-1]["head"]
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={**os.environ, MARK: "x"}) as run:
        lines = journal_path(quick, "t").read_text().splitlines()[: started + 1]
        event = {**json.loads(lines[-1]), "pid": run.pid, "born": psutil.Process(run.pid).create_time()}
        journal_path(quick, "t").write_text("\n".join([*lines[:-1], json.dumps(event)]) + "\n")
        git(quick, "update-ref", "refs/heads/autoresearch/t", before)
        git(quick, "checkout", "--quiet", before, "--", ".")
        assert "outlived its loop" in checks(quick, cli)["t: run"]["message"]
        done = cli(quick, "doctor", "--repair")
        assert done.returncode == 0, done.stderr
        assert f"ended the orphaned run with pid {run.pid}" in done.stdout
        assert run.wait(timeout=30) != 0
    assert "is proposed and not recorded" in done.stdout
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "1").returncode == 0
    assert_consistent(quick)


def test_what_a_person_did_is_explained_and_left_alone(quick: Path, cli: Cli) -> None:
    cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    git(quick, "commit", "--quiet", "--allow-empty", "-m", "mine")
    mine = git(quick, "rev-parse", "HEAD")
    found = checks(quick, cli)["t: branch"]
    assert found["status"] == "broken" and found["command"].startswith("git update-ref refs/heads/autoresearch/t ")
    refused = cli(quick, "doctor", "--repair")
    assert refused.returncode == 3 and "keep what is new" in refused.stderr
    assert git(quick, "rev-parse", "HEAD") == mine
    subprocess.run(found["command"].split(), cwd=quick, check=True)
    assert checks(quick, cli)["t: branch"]["status"] == "ok"


def test_a_damaged_journal_is_named_and_not_rewritten(quick: Path, cli: Cli) -> None:
    cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    path = journal_path(quick, "t")
    damaged = path.read_text().replace('"event"', '"evnt"', 2)
    path.write_text(damaged)
    assert "line 1 of" in checks(quick, cli)["t: journal"]["message"]
    done = cli(quick, "doctor", "--repair")
    assert done.returncode == 1 and "line 1 of" in done.stderr and "Traceback" not in done.stderr
    assert path.read_text() == damaged
    (quick / "protocol.json").write_text("{")
    assert checks(quick, cli)["workspace"]["status"] == "broken"


def test_the_blas_is_reported(quick: Path, cli: Cli) -> None:
    (quick / "blas.py").write_text((ROOT / "blas.py").read_text())
    found = checks(quick, cli)
    if sys.platform == "linux" and backend() == "cpu":
        assert found["blas"]["status"] == "ok" and "openblas" in found["blas"]["message"]
        (quick / "blas.py").write_text("def load():\n    return None\n")
        slow = checks(quick, cli)["blas"]
        assert (slow["status"], slow["command"]) == ("warning", "uv sync")
    else:
        assert found.get("blas", {"status": "ok"})["status"] == "ok"
