"""Stored models are scored on the holdout, in a room of their own, with the real harness."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from agent.execution import holdout
from agent.execution.evaluation import drop_models, model_of
from agent.execution.measure import Runner
from tests.common.training import run_script


def test_stored_model_is_scored_on_the_holdout_once(runner: Runner, tmp_path: Path) -> None:
    keeping = dataclasses.replace(runner, keeps_models=True)
    for change in ("", "batch_size = 7"):  # the graph has its own batch size
        result = run_script(keeping, "late", change)
        assert result.metric is not None, result.error
        assert model_of(Path(result.log)) is not None
        value = holdout.score(keeping, Path(result.log))
        assert value is not None
        assert abs(value - result.metric) < 0.3
        assert value != result.metric
        assert model_of(Path(result.log)) is None
        assert holdout.score(keeping, Path(result.log)) is None
    assert model_of(Path(run_script(runner, "late", "").log)) is None  # not asked for
    assert model_of(Path(run_script(keeping, "end", "sys.exit(1)").log)) is not None  # the session deletes it
    drop_models(tmp_path / "logs" / "run-1.log")
    assert not [*(tmp_path / "logs").glob("*model*")]


def test_damaged_holdout_costs_no_session(runner: Runner, tmp_path: Path) -> None:
    said: list[str] = []
    keeping = dataclasses.replace(runner, keeps_models=True, say=said.append)
    result = run_script(keeping, "late", "")
    tokens = next((tmp_path / "cache" / "holdouts").glob("*/*.tokens.npy"))
    content = bytearray(tokens.read_bytes())
    content[-1] ^= 1
    tokens.write_bytes(content)
    assert holdout.score(keeping, Path(result.log)) is None
    assert "does not match its hash" in said[0]
