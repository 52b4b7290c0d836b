"""Figures of a machine, as `field` measures them: built without a run."""

from __future__ import annotations

from typing import Any

from agent.field.runs import mean_lost, noise

CONDITIONS = {"others": 0.1, "swapped_gb": 0.0, "load": 1.5}


def run_figures(metric: float | None = 1.9, **changes: Any) -> dict[str, Any]:
    """Return the figures of a run; without a metric it has failed."""
    found: dict[str, Any] = {
        "metric": metric,
        "error": None if metric is not None else "crashed: exit code 1",
        "fault": None,
        "steps": 26.0,
        "training_seconds": 10.0,
        "wall_seconds": 14.5,
        "step_ms": 400.0,
        "tokens_per_second": 20480,
        "mfu_percent": 41.8,
        "peak_mb": 251.4,
        "lost": {"total": 4.5, "evaluation": 2.5, "start and rest": 2.0},
        "conditions": CONDITIONS,
    }
    if metric is None:
        empty = ("steps", "training_seconds", "step_ms", "tokens_per_second", "mfu_percent", "peak_mb", "lost")
        found |= dict.fromkeys(empty)
    return {**found, **changes}


def field_figures(**changes: Any) -> dict[str, Any]:
    """Return all figures of a machine; `changes` replace parts of them."""
    runs = changes.get("runs", [run_figures(1.9 + 0.01 * number) for number in range(5)])
    found: dict[str, Any] = {
        "version": 1,
        "program": "0.1.0",
        "minutes": 20.0,
        "seconds": 1190.0,
        "stopped": None,
        "machine": {"chip": "Apple M4, 10 cores", "memory": "16.0 GB, 9.1 GB free", "mlx": "0.32.4, backend metal"},
        "sandbox": {"says": "each run in its own room, writes confined by Seatbelt", "missing": []},
        "metric": "val_bpb",
        "direction": "minimize",
        "training_seconds": 60.0,
        "first": run_figures(2.1),
        "runs": runs,
        "noise": noise(runs),
        "lost": mean_lost(runs),
        "constant": "DEPTH",
        "sizes": [{"value": value, "run": run_figures()} for value in (2, 4)],
        "session": {
            "experiments": 6,
            "kept": 1,
            "discarded": 4,
            "crashed": 1,
            "baseline": 1.92,
            "best": 1.8,
            "gain": 0.12,
            "provisional": True,
            "noise": 0.0158,
            "runs": 8,
            "faults": 0,
            "seconds": 430.0,
            "ended": "6 experiments are done",
        },
        "left_out": [],
    }
    return {**found, **changes}
