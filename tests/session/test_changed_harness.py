"""A changed harness measures something else: earlier baselines, curves and sessions do not count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.journal.history import experiments_before
from agent.journal.journal import fold, read
from agent.journal.paths import journal_path
from tests.common.workspaces import Cli, git, quick_protocol

BASELINE = Path(".autoresearch/create/baseline.json")


@pytest.fixture
def judged(quick: Path) -> Path:
    """A workspace with a harness of two files."""
    (quick / "prepare.py").write_text("import metric\n")
    (quick / "metric.py").write_text("SCALE = 1\n")
    (quick / "notes.txt").write_text("")
    git(quick, "add", "-A")
    git(quick, "commit", "--quiet", "-m", "a harness of two files")
    return quick


def run(cli: Cli, folder: Path, tag: str) -> Any:
    return cli(folder, "run", "--tag", tag, "--max-experiments", "1")


def is_reused(folder: Path, tag: str) -> bool:
    return any(event.data.get("reused") for event in read(journal_path(folder, tag)) if event.kind == "measured")


def fingerprint_of(folder: Path, tag: str) -> Any:
    session = fold(journal_path(folder, tag)).session
    assert session is not None
    return session["fingerprint"]


def change(folder: Path, name: str) -> None:
    """Commit another version of `name` on the main branch, where the next session starts."""
    git(folder, "checkout", "--quiet", "main")
    with (folder / name).open("a") as file:
        file.write("# changed\n")
    git(folder, "commit", "--quiet", "--all", "-m", f"change {name}")


def forget_harness(folder: Path, tag: str) -> None:
    """Leave the record as an earlier version did."""
    for path in (journal_path(folder, tag), folder / BASELINE):
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.suffix == ".jsonl" else []
        for record in lines or [json.loads(path.read_text())]:
            (record.get("data", record)).get("fingerprint", {}).pop("harness", None)
            if not lines:
                path.write_text(json.dumps(record))
        if lines:
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(("name", "reused"), [("prepare.py", False), ("metric.py", False), ("notes.txt", True)])
def test_baseline_is_reused_while_the_harness_is_the_same(judged: Path, cli: Cli, name: str, reused: bool) -> None:
    assert run(cli, judged, "a").returncode == 0
    change(judged, name)
    done = run(cli, judged, "b")
    assert done.returncode == 0, done.stderr
    assert is_reused(judged, "b") is reused
    assert (fingerprint_of(judged, "a") == fingerprint_of(judged, "b")) == reused


@pytest.mark.parametrize(("name", "known"), [("metric.py", False), ("notes.txt", True)])
def test_sessions_of_another_harness_are_no_history(judged: Path, cli: Cli, name: str, known: bool) -> None:
    run(cli, judged, "a")
    change(judged, name)
    run(cli, judged, "b")
    found = experiments_before(journal_path(judged, "b"), fingerprint_of(judged, "b"), 100)
    assert bool(found) == known


def test_session_goes_on_though_the_harness_changed_elsewhere(judged: Path, cli: Cli) -> None:
    run(cli, judged, "a")
    change(judged, "metric.py")
    done = cli(judged, "run", "--tag", "a", "--max-experiments", "2")
    assert done.returncode == 0, done.stderr
    assert len(fold(journal_path(judged, "a")).experiments) == 3


def test_session_of_an_earlier_version_goes_on(judged: Path, cli: Cli) -> None:
    run(cli, judged, "a")
    forget_harness(judged, "a")
    assert "harness" not in fingerprint_of(judged, "a")
    done = cli(judged, "run", "--tag", "a", "--max-experiments", "2")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "reused"), [("metric.py", False), ("notes.txt", True)])
def test_baseline_of_an_earlier_version_counts_by_the_harness_of_its_commit(
    judged: Path, cli: Cli, name: str, reused: bool
) -> None:
    run(cli, judged, "a")
    forget_harness(judged, "a")
    change(judged, name)
    run(cli, judged, "b")
    assert is_reused(judged, "b") == reused


def test_baseline_of_an_earlier_version_is_measured_again_where_its_commit_is_gone(judged: Path, cli: Cli) -> None:
    run(cli, judged, "a")
    forget_harness(judged, "a")
    record = json.loads((judged / BASELINE).read_text())
    (judged / BASELINE).write_text(json.dumps({**record, "commit": "0" * 40}))
    git(judged, "checkout", "--quiet", "main")
    done = run(cli, judged, "b")
    assert done.returncode == 0, done.stderr
    assert not is_reused(judged, "b")


AGENT = "import pathlib\npathlib.Path({path!r}).write_text('SCALE = 2\\n')\n"


@pytest.mark.parametrize("path", ["metric.py", "prepare.py", "numpy.py"])
def test_agent_changes_nothing_that_the_harness_imports(judged: Path, cli: Cli, tmp_path: Path, path: str) -> None:
    surface = {"allowedGlobs": ["train.py", "**/*.py"], "forbiddenGlobs": []}
    (judged / "protocol.json").write_text(json.dumps(quick_protocol(mutableSurface=surface)))
    (judged / "metric.py").write_text("import numpy\n")
    git(judged, "commit", "--quiet", "--all", "-m", "a metric of numpy, and a wide glob")
    script = tmp_path / "agent.py"
    script.write_text(
        AGENT.format(path=path) + "text = pathlib.Path('train.py').read_text()\n"
        "pathlib.Path('train.py').write_text(text.replace('RATE = 0.1', 'RATE = 0.3'))\n"
    )
    done = cli(
        judged,
        "run",
        "--tag",
        "t",
        "--max-experiments",
        "1",
        "--proposer",
        "command",
        "--agent-cmd",
        f"python {script}",
    )
    assert done.returncode == 0, done.stderr
    assert f"{path}, which is not a mutable file" in done.stderr
    (experiment,) = fold(journal_path(judged, "t")).experiments[1:]
    assert [*experiment.files] == ["train.py"]
