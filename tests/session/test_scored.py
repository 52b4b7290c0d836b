"""A session with the real harness: kept models are scored on the holdout, for the user alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.common import schemas
from tests.common.sessions import assert_consistent, events, journal
from tests.common.workspaces import Cli


def test_kept_models_are_scored_and_no_other(training: Path, cli: Cli) -> None:
    worse = 'sed -i "s/^RATE = 0.02 /RATE = 0.0002 /" train.py'
    for count, change in enumerate(('sed -i "s/^RATE = 0.0001 /RATE = 0.02 /" train.py', worse), start=1):
        agent = ("--proposer", "command", "--agent-cmd", change, "--training-seconds", "0.5")
        done = cli(training, "run", "--tag", "t", *agent, "--max-experiments", str(count))
        assert done.returncode == 0, done.stderr
    kinds = [
        (event["event"], event["number"]) for event in journal(training) if event["event"] in ("recorded", "scored")
    ]
    assert kinds == [("recorded", 0), ("scored", 0), ("recorded", 1), ("scored", 1), ("recorded", 2)]
    scored = events(training, "scored")
    assert not [fault for event in scored if (fault := schemas.fault("event", event))]
    assert all(abs(event["holdout"] - event["metric"]) < 0.5 for event in scored)
    state = training / ".autoresearch"
    assert not [*state.rglob("*model-*")]
    status = json.loads(cli(training, "status", "--json").stdout)["data"]
    assert status["holdout"]["gain"] == pytest.approx(scored[0]["holdout"] - scored[1]["holdout"])
    assert status["holdout"]["low"] is None
    assert "one run each" in cli(training, "status").stdout
    # What a proposer may read says nothing about it.
    assert "holdout" not in (training / "results.tsv").read_text()

    done = cli(training, "confirm", "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)["data"]
    assert (data["verdict"], data["why"], data["seeds"]) == ("confirmed", "", [43, 44, 45])
    assert data["holdout"]["low"] > 0
    assert abs(data["cost"]["gain"]) < 0.1
    assert data["holdout"]["gain"] == pytest.approx(data["gain"] - data["cost"]["gain"])
    assert not [*state.rglob("*model-*")]
    assert "on the holdout" in cli(training, "confirm").stdout
    # A model that cannot be scored confirms nothing.
    tokens = next((training.parent / "cache").glob("holdouts/*/holdout_00000.tokens.npy"))
    tokens.write_bytes(tokens.read_bytes()[:-1] + b"x")
    done = cli(training, "confirm", "2", "1", "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)["data"]
    assert (data["holdout"], data["verdict"]) == (None, "not confirmed")
    assert data["why"] == "not scored on the holdout"
    assert_consistent(training)
