"""A session with the real harness, promoted to three times its training: evaluator, time limits and holdout."""

from __future__ import annotations

import json
from pathlib import Path

from tests.common.sessions import assert_consistent, events
from tests.common.workspaces import Cli


def test_gain_of_trained_models_transfers(training: Path, cli: Cli) -> None:
    change = 'sed -i "s/^RATE = 0.0001 /RATE = 0.02 /" train.py'
    agent = ("--proposer", "command", "--agent-cmd", change, "--training-seconds", "0.5")
    done = cli(training, "run", "--tag", "t", *agent, "--max-experiments", "1")
    assert done.returncode == 0, done.stderr
    done = cli(training, "promote", "--training-seconds", "1.5", "--each", "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)["data"]
    whole, (change_of_rate,) = data["whole"], data["changes"]
    assert (whole["verdict"], whole["why"], whole["seeds"]) == ("transfers", "", [43, 44, 45])
    assert whole["holdout"]["low"] > 0
    assert abs(whole["cost"]["gain"]) < 0.1
    assert (change_of_rate["verdict"], change_of_rate["constants"]) == ("transfers", ["RATE"])
    assert change_of_rate["judged"] == whole
    assert data["conditions"] == "1.5 s of training"
    compared = events(training, "compared")
    assert {run["source"] for run in compared} == {"attested"}
    assert all(run["seconds"] > 1.5 for run in compared)
    assert not [*(training / ".autoresearch").rglob("*model-*")]
    assert_consistent(training)
