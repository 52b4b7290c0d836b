"""Run the recipe for `field`, and turn each run into figures."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.errors import AutoresearchError, ExperimentError, Interrupted
from agent.execution.fingerprint import fingerprint
from agent.execution.measure import Runner, measure
from agent.execution.process import Observer
from agent.field.machine import public
from agent.journal.experiment import Run
from agent.protocol.models import Metric, Protocol
from agent.session.baseline import measure_baseline

LONGEST_ERROR = 120  # characters
NUMBER = r"([0-9][0-9,]*(?:\.[0-9]+)?)"
# The summary of train.py, and the lines that say how long its parts took.
SUMMARY = ("training_seconds", "total_tokens_M", "mfu_percent", "num_steps", "peak_vram_mb")
PARTS = {
    "data": rf"^data: {NUMBER}s.*$",
    "first step": rf"^first step[^:\n]*: {NUMBER}s.*$",
    "evaluation": rf"^evaluation: {NUMBER}s.*$",
}


def with_figures(protocol: Protocol) -> Protocol:
    """Return the protocol with all figures of train.py's log as secondary metrics."""
    patterns = {**{name: rf"^{name}:\s+{NUMBER}" for name in SUMMARY}, **PARTS}
    known = {metric.name for metric in protocol.measurement.secondary_metrics}
    more = [
        Metric.model_validate({"name": name, "direction": "minimize", "extract": {"kind": "regex", "pattern": pattern}})
        for name, pattern in patterns.items()
        if name not in known
    ]
    secondary = [*protocol.measurement.secondary_metrics, *more]
    return protocol.model_copy(
        update={"measurement": protocol.measurement.model_copy(update={"secondary_metrics": secondary})}
    )


def limited(runner: Runner, training: float, limit: float) -> Runner:
    """Return a runner with this training budget, and with a time limit that is no longer than `limit` seconds."""
    shorter = runner.protocol.with_limit(float(max(1, round(min(limit, runner.limit)))))
    return replace(runner, protocol=shorter, training_seconds=training)


def measured(runner: Runner, commit: str, log: Path, batch: int | None, observer: Observer) -> dict[str, Any]:
    """Run a commit once and return its figures, or the reason of its failure.

    Raises:
        Interrupted: the user or the time stops the program.
    """
    began = time.monotonic()
    try:
        run = measure(runner, commit, log, observer)
    except Interrupted:
        raise
    except (AutoresearchError, OSError) as error:
        return figures(failed(error), batch, time.monotonic() - began)
    return figures(run, batch, time.monotonic() - began)


def repeated(
    runner: Runner, before: Sequence[Run], batch: int | None, observer: Observer
) -> tuple[Run, dict[str, Any]]:
    """Run the recipe as a baseline, which the session reuses, and return the run and its figures.

    Args:
        before: the earlier runs.

    Raises:
        Interrupted: the user or the time stops the program.
    """
    began = time.monotonic()
    workspace = runner.workspace
    found = fingerprint(runner.protocol, runner.training_seconds, workspace.harness_digest(workspace.head))
    try:
        run = measure_baseline(runner, found, before, observer)
    except Interrupted:
        raise
    except (AutoresearchError, OSError) as error:
        run = failed(error)
    return run, figures(run, batch, time.monotonic() - began)


def failed(error: AutoresearchError | OSError) -> Run:
    reason = str(error).removeprefix("the baseline failed: ")
    return Run(None, 0.0, error=f"the machine slept: {reason}" if isinstance(error, ExperimentError) else reason)


def figures(run: Run, batch: int | None, wall: float) -> dict[str, Any]:
    """Return the figures of a run as plain data. Unknown ones are None.

    Args:
        batch: tokens in a step; None if the recipe does not say.
        wall: seconds that the run took, with the room that it happened in.
    """
    told = run.secondary
    trained, steps = told.get("training_seconds", run.trained), told.get("num_steps")
    step = trained / steps if trained and steps else None
    tokens = batch
    if tokens is None and steps and told.get("total_tokens_M"):
        tokens = round(told["total_tokens_M"] * 1e6 / steps)
    return {
        "metric": run.metric,
        "error": public(run.error)[:LONGEST_ERROR] if run.error else None,
        "fault": run.fault or None,
        "steps": steps,
        "training_seconds": trained,
        "wall_seconds": round(wall, 2),
        "step_ms": None if step is None else round(1000 * step, 2),
        "tokens_per_second": None if step is None or tokens is None else round(tokens / step),
        "mfu_percent": told.get("mfu_percent"),
        "peak_mb": told.get("peak_vram_mb"),
        "lost": None if trained is None or run.error else _lost(run, wall, trained),
        "conditions": dict(run.conditions),
    }


def _lost(run: Run, wall: float, trained: float) -> dict[str, float]:
    """Return the seconds of a run that are not training: in total, and by part as far as the log tells."""
    parts = {name: run.secondary[name] for name in PARTS if name in run.secondary}
    parts["room"] = max(0.0, wall - run.seconds)
    total = max(0.0, wall - trained)
    parts["start and rest"] = max(0.0, total - math.fsum(parts.values()))
    return {"total": round(total, 2), **{name: round(value, 2) for name, value in parts.items()}}


def noise(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return mean, standard deviation and range of the metric and the steps; None with fewer than two such runs."""
    found = {name: [run[name] for run in runs if run[name] is not None] for name in ("metric", "steps")}
    if len(found["metric"]) < 2:
        return None
    return {name: _spread(values) if len(values) > 1 else None for name, values in found.items()}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {
        "runs": len(values),
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values),
        "low": min(values),
        "high": max(values),
    }


def mean_lost(runs: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """Return the mean time lost around a run, in total and by part; None if no run tells it."""
    told = [run["lost"] for run in runs if run["lost"]]
    names = dict.fromkeys(name for each in told for name in each)
    return {name: round(statistics.fmean(each.get(name, 0.0) for each in told), 2) for name in names} or None


def middle(runs: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Return the median of a figure over the runs that have it."""
    values = [run[name] for run in runs if run[name] is not None]
    return statistics.median(values) if values else None
