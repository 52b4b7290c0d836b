"""Score stored models on the holdout, a split that no run, proposer or verdict sees."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.errors import PreconditionError, in_one_line
from agent.execution import evaluation, integrity
from agent.execution.evaluation import Place, drop_models, model_of
from agent.execution.measure import Runner
from agent.journal.experiment import Run
from agent.repository.workspace import Workspace
from agent.room.sandbox import temporary_folder
from agent.system.files import read_bounded

LARGEST_RECORD = 2**20


def holdout_folder(snapshot: Path) -> Path | None:
    """Return the folder of a snapshot's holdout; None if it has none."""
    folder = snapshot.parent.parent / "holdouts" / snapshot.name
    return folder if (folder / "holdout.json").is_file() else None


def holdout_record(folder: Path) -> dict[str, Any]:
    """Return the content of holdout.json; empty if it is unreadable."""
    try:
        content = json.loads(read_bounded(folder / "holdout.json", LARGEST_RECORD))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def can_score(workspace: Workspace, commit: str, script: str) -> bool:
    """Return whether a harness's evaluator can score a stored model: those of earlier versions cannot.

    Args:
        script: the evaluator, relative to the workspace.
    """
    return evaluation.HOLDOUT_VARIABLE in (workspace.show(commit, script) or "")


def scored(runner: Runner, run: Run, log: Path, tick: Callable[[], None] = lambda: None) -> Run:
    """Return a run with its metric on the holdout, and delete its models.

    A command of `--holdout` has given it one already. Without a metric on the validation text it gets none.

    Args:
        log, tick: as in `score`.
    """
    try:
        if run.metric is None or run.holdout is not None:
            return run
        return replace(run, holdout=score(runner, log, tick))
    finally:
        drop_models(log)


def score(runner: Runner, log: Path, tick: Callable[[], None] = lambda: None) -> float | None:
    """Return the metric of a run's model on the holdout, and delete the model.

    Args:
        log: the log of the run.
        tick: called several times a second; may raise to stop it.

    Returns:
        None without a model or a holdout, or if it cannot be scored, which the user is told.
    """
    harness = runner.harness
    if harness is None or harness.holdout is None or model_of(log) is None:
        return None
    record = holdout_record(harness.holdout)
    try:
        integrity.require_prepared(harness.holdout, record)
        with temporary_folder(runner.workspace.folder / "holdout") as base:
            place = Place(runner.sandbox, base, runner.workspace.folder)
            event = evaluation.score(harness, place, log, runner.limit, tick)
    except (PreconditionError, OSError) as damage:  # nothing else depends on it
        event = {"reason": in_one_line(damage)}
    finally:
        drop_models(log)
    value = event.get("metric")
    known = event.get("holdout") == record.get("id")
    if event.get("event") == "holdout" and known and isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    runner.say(f"a model was not scored on the holdout: {str(event.get('reason', 'no answer'))[:200]}")
    return None
