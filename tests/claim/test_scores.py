"""Runs of a verification with the real harness are scored on the holdout."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.claim.replicate import Setting, replicate
from agent.execution.measure import Runner
from agent.protocol.load import load_protocol
from agent.repository.workspace import Workspace
from agent.session.opening import prepared
from agent.session.signals import Interrupts
from tests.common.claims import deciding
from tests.common.training import make_training, slow_learner
from tests.common.workspaces import commit_all, git


@pytest.fixture
def folder(tmp_path: Path, embedded: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace that trains a very small model, so slowly that a higher rate is a clear win."""
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(embedded))
    make_training(tmp_path / "workspace", slow_learner())
    return tmp_path / "workspace"


def test_every_run_is_scored_and_no_model_stays(folder: Path, tmp_path: Path) -> None:
    baseline = git(folder, "rev-parse", "HEAD")
    text = (folder / "train.py").read_text()
    (folder / "train.py").write_text(text.replace("RATE = 0.0001", "RATE = 0.02"))
    commit_all(folder, "a higher rate")
    protocol = load_protocol(folder)
    said: list[str] = []
    with prepared(Runner(protocol, Workspace(folder, protocol), 0.5, say=said.append), setup=False) as runner:
        commits = {"a": baseline, "b": git(folder, "rev-parse", "HEAD")}
        setting = Setting(runner, commits, {}, False, None, tmp_path / "logs", Interrupts(), said.append)
        found = replicate(setting, deciding((6.0, 6.01), (5.0, 5.01)), 2)
    scores = [(pair.holdout_a, pair.holdout_b) for pair in found.pairs]
    assert len(scores) == 2, said
    assert all(b is not None and a is not None and b < a for a, b in scores), said
    assert found.interval("minimize", holdout=True) is not None
    assert not [*(tmp_path / "logs").glob("*model-*")]
