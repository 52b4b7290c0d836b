"""The evaluator of the real harness in its own room: its variables, its limits, and models scored on the holdout."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import psutil
import pytest

from agent.execution import evaluation, holdout
from agent.execution.evaluation import drop_models, model_of
from agent.execution.measure import Runner
from agent.room.room import make_parts
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


def test_evaluator_has_the_devices_and_libraries_of_a_run_and_no_key(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {"CUDA_VISIBLE_DEVICES": "7", "MLX_ENABLE_TF32": "0", "LD_LIBRARY_PATH": str(tmp_path / "libraries")}
    for name, value in {**shown, "OPENAI_API_KEY": "key", "MLX_API_KEY": "key", "HF_TOKEN": "key"}.items():
        monkeypatch.setenv(name, value)
    base = tmp_path / "room"
    base.mkdir()
    make_parts(base)
    assert runner.harness is not None
    place = evaluation.Place(runner.sandbox, base, runner.workspace.folder)
    with evaluation.evaluator(runner.harness, place, None, tmp_path / "run-1.log", keeps_model=False):
        every = psutil.Process().children(recursive=True)
        found = [each.environ() for each in every if any("evaluator.py" in word for word in each.cmdline())]
    assert found
    assert all(shown.items() <= each.items() and "key" not in each.values() for each in found)
