"""A workspace that version 0.1.0 wrote, kept in tests/data/version-0.1.0, is read, resumed and reported as before.

Its session `ended` finished and was confirmed; `cut` was killed during its sixth experiment.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agent.execution.fingerprint import fingerprint
from agent.protocol.load import load_protocol
from tests.common.in_process import call
from tests.common.workspaces import ROOT, git

DATA = ROOT / "tests" / "data" / "version-0.1.0"
# Entries that differ between machines: these were written on another machine.
MACHINE = ("chip", "cores", "memory_gb", "os", "mlx", "backend")


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The repository with its refs, the killed session's branch checked out, and the state folder next to it."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch", "none")
    git(folder, "config", "user.name", "Tester")
    git(folder, "config", "user.email", "tester@example.invalid")
    git(folder, "fetch", "--quiet", str(DATA / "repository.bundle"), "refs/*:refs/*")
    git(folder, "checkout", "--quiet", "autoresearch/cut")
    shutil.copytree(DATA / "state", folder / ".autoresearch")
    here = {name: value for name, value in fingerprint(load_protocol(folder), 300.0, "").items() if name in MACHINE}
    for path in (folder / ".autoresearch").rglob("*.json*"):
        lines = path.read_text().replace("@WORKSPACE@", str(folder)).splitlines()
        texts = ["\n".join(lines)] if path.suffix == ".json" else lines
        path.write_text("\n".join(json.dumps(as_if_here(json.loads(text), here)) for text in texts) + "\n")
    return folder


def as_if_here(content: dict[str, Any], here: dict[str, Any]) -> dict[str, Any]:
    if "fingerprint" in content:
        content["fingerprint"] |= here
    return content


def events(folder: Path, tag: str) -> list[dict[str, Any]]:
    text = (folder / ".autoresearch" / "sessions" / tag / "journal.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def data_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    data: dict[str, Any] = json.loads(done.stdout)["data"]
    return data


@pytest.mark.parametrize("tag", ["ended", "cut"])
def test_status_says_what_it_said_then(earlier: Path, tag: str) -> None:
    then = json.loads((DATA / f"status-{tag}.json").read_text())["data"]
    now = data_of(call(earlier, "status", "--tag", tag, "--json"))
    # Rows also contain the later value of an incumbent that was re-measured.
    assert [re.sub(r", against [\d.]+", "", line) for line in now.pop("lines")] == then.pop("lines")
    assert now.pop("faults")["runs"] == 0  # which that version did not state
    assert [now.pop(name) for name in ("holdout", "promotion", "ladder")] == [None] * 3  # which it did not have
    assert now.pop("statement")["experiments"] == now["experiments"]  # nor this
    assert (now.pop("from"), now.pop("learned"), now.pop("next")) == (None, [], None)  # nor these
    assert now.pop("stations") == []  # nor these
    assert now.pop("comparison") is None  # nor this
    # Its rate also took the time of the held-out runs after the loop, which only one of the two has.
    at = {event["event"]: event["at"] for event in events(earlier, tag)}
    loop = then["hours"] - (at["confirmed"] - at["comparing"] if tag == "ended" else 0.0) / 3600
    assert now.pop("per_hour") == pytest.approx(then.pop("per_hour") * then["hours"] / loop, rel=1e-6)
    assert now == then


def test_report_and_show_read_the_session(earlier: Path) -> None:
    (session,) = data_of(call(earlier, "report", "--tag", "ended", "--json"))["sessions"]
    then = json.loads((DATA / "status-ended.json").read_text())["data"]
    assert [session[key] for key in ("best", "gain", "confirmed")] == [
        then[key] for key in ("best", "gain", "confirmed")
    ]
    assert [row["status"] for row in session["rows"]] == [row["status"] for row in then["rows"]]
    shown = call(earlier, "show", "6", "--tag", "ended")
    assert shown.returncode == 0
    assert "DEPTH is more than this memory holds" in shown.stdout


def test_killed_session_goes_on_with_all_it_had(earlier: Path) -> None:
    before = [event for event in events(earlier, "cut") if event["event"] == "recorded"]
    rows = git(earlier, "show", "autoresearch/cut:results.tsv")
    done = call(earlier, "run", "--tag", "cut", "--max-experiments", "7")
    assert done.returncode == 0, done.stderr
    after = [event for event in events(earlier, "cut") if event["event"] == "recorded"]
    assert after[: len(before)] == before
    assert [event["number"] for event in after] == list(range(8))
    assert git(earlier, "show", "autoresearch/cut:results.tsv").startswith(rows)
    assert git(earlier, "status", "--porcelain") == ""


def test_ended_session_goes_on(earlier: Path) -> None:
    done = call(earlier, "run", "--tag", "ended", "--max-experiments", "13")
    assert done.returncode == 0, done.stderr
    assert [event["number"] for event in events(earlier, "ended") if event["event"] == "recorded"] == list(range(14))


def test_kept_baseline_is_reused(earlier: Path) -> None:
    git(earlier, "checkout", "--quiet", "main")
    done = call(earlier, "run", "--tag", "next", "--max-experiments", "0")
    assert done.returncode == 0, done.stderr
    assert "reusing the baseline" in done.stderr
    assert [event["reused"] for event in events(earlier, "next") if event["event"] == "measured"] == [True, True]
