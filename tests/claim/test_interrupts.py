"""A request to stop a verification is noticed between its runs, however short they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.claim.replicate import Setting, replicate
from agent.errors import Interrupted
from agent.execution.measure import Runner
from agent.protocol.load import load_protocol
from agent.repository.workspace import Workspace
from agent.session.opening import prepared
from agent.session.signals import Interrupts
from tests.common.claims import deciding
from tests.common.workspaces import git


class Asked(Interrupts):
    """A first Ctrl-C once a file exists."""

    def __init__(self, file: Path) -> None:
        self.file = file
        super().__init__()

    @property
    def finishing(self) -> bool:
        return self.file.exists()

    @finishing.setter
    def finishing(self, _: bool) -> None:
        pass


def logs_when_asked(quick: Path, logs: Path, file: Path) -> list[str]:
    """Return the logs of a verification that is asked to stop once a file exists."""
    protocol, head = load_protocol(quick), git(quick, "rev-parse", "HEAD")
    with prepared(Runner(protocol, Workspace(quick, protocol), None), setup=False) as runner:
        setting = Setting(runner, {"a": head, "b": head}, {}, False, None, logs, Asked(file), lambda _: None)
        with pytest.raises(Interrupted, match="0 finished pairs of runs are dropped"):
            replicate(setting, deciding((6.0, 6.01), (5.0, 5.01)), 2)
    return sorted(path.name for path in logs.glob("*.log"))


def test_nothing_runs_after_a_request(quick: Path, tmp_path: Path) -> None:
    assert logs_when_asked(quick, tmp_path / "logs", quick) == []


def test_request_during_a_short_run_ends_the_pair(quick: Path, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    assert logs_when_asked(quick, logs, logs / "a-1.log") == ["a-1.log"]
