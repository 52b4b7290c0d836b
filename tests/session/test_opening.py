"""Setup commands: when they run, and what they may leave in the way of a new session."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from agent.errors import PreconditionError
from agent.journal.paths import journal_path
from tests.common.processes import start, wait_for
from tests.common.workspaces import Cli, commit_all, git, quick_protocol, set_protocol


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("echo mine > results.tsv", "results.tsv exists and git does not track it"),
        ("echo >> train.py", "the setup command `echo >> train.py` has changed train.py, which git tracks"),
        ("echo >> train.py", "the working tree has uncommitted changes (train.py)"),
        ("git branch autoresearch/t", "the branch autoresearch/t exists"),
    ],
)
def test_session_begins_on_nothing_that_its_set_up_left_in_the_way(
    quick: Path, program: Cli, command: str, says: str
) -> None:
    set_protocol(quick, environment=quick_protocol()["environment"] | {"setupCommands": [command]})
    done = program(quick, "run", "--tag", "t", "--max-experiments", "1", "--sandbox", "off")
    assert done.returncode == 3
    assert says in done.stderr
    assert git(quick, "branch", "--show-current") == "main"
    assert not journal_path(quick, "t").exists()


def test_set_up_commands_run_once_and_a_failing_one_is_named(quick: Path, program: Cli) -> None:
    environment = quick_protocol()["environment"] | {"setupCommands": ["echo prepared >> prepared.txt"]}
    set_protocol(quick, environment=environment)
    for count in ("1", "2"):
        assert program(quick, "run", "--tag", "t", "--max-experiments", count).returncode == 0
    assert (quick / "prepared.txt").read_text() == "prepared\n"
    git(quick, "checkout", "--quiet", "main")
    set_protocol(quick, environment=environment | {"setupCommands": ["exit 4"]})
    failed = program(quick, "run", "--tag", "u")
    assert failed.returncode == 1
    assert "`exit 4` failed with exit code 4" in failed.stderr
    assert program(quick, "run", "--tag", "u", "--no-setup", "--max-experiments", "0").returncode == 0


def test_a_setup_command_that_changes_a_tracked_file_is_named(quick: Path, program: Cli) -> None:
    """As `uv sync` does to a lock file that is out of date."""
    (quick / "lock.txt").write_text("1\n")
    git(quick, "add", "lock.txt")
    environment = {**quick_protocol()["environment"], "setupCommands": ["echo fine", "echo 2 > lock.txt"]}
    set_protocol(quick, environment=environment)
    done = program(quick, "run", "--tag", "t", "--max-experiments", "1")
    assert done.returncode == PreconditionError.exit_code
    assert "the setup command `echo 2 > lock.txt` has changed lock.txt, which git tracks\n" in done.stderr
    assert "the working tree has uncommitted changes (lock.txt)" in done.stderr
    commit_all(quick, "the lock file that it makes")
    done = program(quick, "run", "--tag", "t", "--max-experiments", "1")
    assert done.returncode == 0, done.stderr
    assert "setting up" not in done.stderr


def test_an_environment_outside_of_the_workspace_is_set_up_and_seen(quick: Path, program: Cli, tmp_path: Path) -> None:
    """As in a container, whose image names one in UV_PROJECT_ENVIRONMENT."""
    place = tmp_path / "opt" / "venv"
    made = 'echo home > "$UV_PROJECT_ENVIRONMENT/pyvenv.cfg"'
    train = (quick / "train.py").read_text()
    (quick / "train.py").write_text(f"print('sees', open({str(place / 'pyvenv.cfg')!r}).read())\n{train}")
    commit_all(quick, "sees it")
    set_protocol(quick, environment=quick_protocol()["environment"] | {"setupCommands": [made]})
    flags = ("run", "--tag", "t", "--max-experiments", "0")
    done = program(quick, *flags, UV_PROJECT_ENVIRONMENT=str(place))
    assert done.returncode == 0, done.stderr
    (place / "pyvenv.cfg").unlink()
    (place / "notes.txt").write_text("mine\n")  # a folder of something else is not opened
    set_protocol(quick, environment=quick_protocol()["environment"] | {"setupCommands": [f"{made}; true"]})
    (quick / ".autoresearch/create/setup").unlink(missing_ok=True)
    done = program(quick, *flags, UV_PROJECT_ENVIRONMENT=str(place))
    assert not (place / "pyvenv.cfg").exists()


@pytest.mark.parametrize("earlier", [False, True])
def test_a_baseline_that_was_killed_or_failed_does_not_lock_the_workspace(
    quick: Path, cli: Cli, *, earlier: bool
) -> None:
    """Its log lies outside of the state folder, where a file of the user could lie."""
    set_protocol(quick, provenance={**quick_protocol()["provenance"], "baselineArtifactPath": "b.log"})
    works = (quick / "train.py").read_text()
    (quick / "train.py").write_text(f"import time\ntime.sleep(1)\n{works}")
    commit_all(quick, "slow")
    loop = start(quick, "--max-experiments", "1")
    wait_for(quick, "started", 0)
    loop.kill()
    loop.communicate(timeout=60)
    forget(quick, earlier=earlier)
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    assert done.returncode == 0, done.stderr

    git(quick, "checkout", "--quiet", "main")
    (quick / "train.py").write_text(f"raise SystemExit(1)\n{works}")
    commit_all(quick, "fails")
    assert "the baseline failed" in cli(quick, "run", "--tag", "failed", "--max-experiments", "1").stderr
    forget(quick, earlier=earlier)
    git(quick, "checkout", "--quiet", "main")
    (quick / "train.py").write_text(works)
    commit_all(quick, "fixed")
    done = cli(quick, "run", "--tag", "fixed", "--max-experiments", "1")
    assert done.returncode == 0, done.stderr
    assert json.loads((quick / "baseline.json").read_text())["runs"]


def forget(folder: Path, *, earlier: bool) -> None:
    """Leave the log as a version before did: without a record, and of a session without an ID."""
    assert (folder / "b.log").exists()
    if earlier:
        (folder / "baseline.json").unlink(missing_ok=True)
        for journal in folder.glob(".autoresearch/sessions/*/journal.jsonl"):
            journal.write_text(re.sub(r', "id": "\w+"', "", journal.read_text(), count=1))


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_file_in_the_place_of_a_deleted_log_is_not_overwritten(
    quick: Path, cli: Cli, *, fails: bool, earlier: bool
) -> None:
    set_protocol(quick, provenance={**quick_protocol()["provenance"], "baselineArtifactPath": "b.log"})
    if fails:
        (quick / "train.py").write_text(f"raise SystemExit(1)\n{(quick / 'train.py').read_text()}")
        commit_all(quick, "fails")
    assert (cli(quick, "run", "--tag", "t", "--max-experiments", "1").returncode == 0) is not fails
    forget(quick, earlier=earlier and not fails)  # what failed in an earlier version is not told from a file
    (quick / "baseline.json").unlink(missing_ok=True)
    (quick / "b.log").write_text("mine\n")
    for command in (("baseline",), ("run", "--tag", "u", "--max-experiments", "1")):
        done = cli(quick, *command)
        assert done.returncode == 2, done.stderr
        assert "'b.log' exists and is not a baseline's log" in done.stderr
    assert (quick / "b.log").read_text() == "mine\n"
