"""Runs of a verification with the real harness are scored on the holdout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from agent.claim.replicate import Setting, replicate
from agent.execution.measure import Runner
from agent.protocol.load import load_protocol
from agent.repository.workspace import Workspace
from agent.session.opening import prepared
from agent.session.signals import Interrupts
from tests.common.claims import deciding
from tests.common.training import TRAIN
from tests.common.workspaces import ROOT, commit_all, git, make_repository, quick_protocol


@pytest.fixture
def folder(tmp_path: Path, embedded: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace that trains a very small model, so slowly that a higher rate is a clear win."""
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(embedded))
    folder = tmp_path / "workspace"
    folder.mkdir()
    shutil.copy(ROOT / "prepare.py", folder)
    shutil.copytree(ROOT / "harness", folder / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    text = TRAIN.replace("optim.AdamW(0.02)", "optim.AdamW(RATE)")
    for place in ("top", "middle", "late", "end"):
        text = text.replace(f"{{{place}}}", "")
    (folder / "train.py").write_text(text.replace("tokenizer = Tok", "RATE = 0.0001\ntokenizer = Tok"))
    protocol = quick_protocol()
    protocol["meta"]["archetype"] = "ml_train"
    (folder / "protocol.json").write_text(json.dumps(protocol))
    make_repository(folder)
    return folder


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
