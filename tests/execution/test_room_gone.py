"""The folder for temporary files, with the room of a run, is deleted during a session."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.execution.gpu_fault import remedy
from agent.execution.measure import Runner, measure
from agent.execution.preflight import why_not
from agent.execution.process import Observer
from agent.protocol.load import load_protocol
from agent.repository.workspace import Workspace
from agent.room.sandbox import UNCONFINED, Sandbox, available
from agent.session.opening import prepared
from agent.system.files import remove_tree
from tests.common.sessions import assert_consistent, journal, rows
from tests.common.stations import set_train
from tests.common.workspaces import Cli

WAITS = "\nimport time\nwhile True:\n    time.sleep(0.05)\n    open('x', 'w').close()\n"


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def once(action: Callable[[], None], ready: Callable[[], bool]) -> Observer:
    """Return an observer that acts once in a run, when it is ready."""
    done = False

    def tick(_: float) -> None:
        nonlocal done
        if not done and ready():
            done = True
            action()

    return Observer(tick=tick)


@pytest.mark.parametrize("confined", [True, False])
def test_run_whose_room_is_deleted_is_a_fault_of_the_machine(
    quick: Path, scratch: Path, tmp_path: Path, confined: bool
) -> None:
    protocol, log = load_protocol(quick), tmp_path / "run.log"
    sandbox = Sandbox(available(True), network=True, hide=True) if confined else UNCONFINED
    with prepared(Runner(protocol, Workspace(quick, protocol), None, sandbox), setup=False) as ready:
        original = ready.workspace.head
        found = measure(ready, set_train(quick, WAITS), log, once(lambda: remove_tree(scratch), log.exists))
        assert (found.metric, found.fault) == (None, "machine")
        assert (found.error or "").startswith("the folder for temporary files was deleted")
        assert "TMPDIR" in remedy(found.fault, found.error or "")
        assert measure(ready, original, log).metric is not None, "in another folder"


def test_session_survives_the_loss_of_its_temporary_folder(quick: Path, cli: Cli, scratch: Path) -> None:
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "0").returncode == 0
    scratch.rename(scratch.with_name("moved"))
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "2")
    assert done.returncode == 0, done.stderr
    assert [row["status"] for row in rows(quick)].count("crash") == 0
    assert not [event for event in journal(quick) if event["event"] == "faulted"]
    assert_consistent(quick)


def test_dry_check_without_its_room_refuses_nothing(quick: Path, scratch: Path) -> None:
    protocol = load_protocol(quick)
    sandbox = Sandbox(available(True), network=True, hide=True)
    with prepared(Runner(protocol, Workspace(quick, protocol), None, sandbox), setup=False) as ready:
        observer = once(lambda: remove_tree(scratch), lambda: any(scratch.iterdir()))
        files = {"train.py": WAITS}
        assert why_not(ready, files, ready.workspace.head, lambda: observer.tick(0.0)) is None
        assert not scratch.exists()


def test_run_whose_log_is_deleted_is_a_fault_of_the_machine(quick: Path, tmp_path: Path) -> None:
    protocol, log = load_protocol(quick), tmp_path / "logs" / "run.log"
    with prepared(Runner(protocol, Workspace(quick, protocol), None), setup=False) as ready:
        original = ready.workspace.head
        found = measure(ready, set_train(quick, WAITS), log, once(lambda: remove_tree(log.parent), log.exists))
        assert (found.metric, found.fault) == (None, "machine")
        assert (found.error or "").startswith("the log of the run was deleted")
        assert measure(ready, original, log).metric is not None
