"""The untouched recipe, measured on this hardware and this data: kept until either changes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent import runner
from agent.errors import AutoresearchError
from agent.experiment import Run, digest
from agent.measure import Bench, measure


def measure_baseline(
    bench: Bench,
    fingerprint: dict[str, Any],
    started: Callable[[runner.Process], None],
    tick: Callable[[float], None],
) -> Run:
    """Run the recipe as it is; keep log and fingerprint. Raises AutoresearchError where it gives no metric."""
    record_path(bench).unlink(missing_ok=True)
    run = measure(bench, log_path(bench), started, tick)
    if run.error:
        raise AutoresearchError(
            f"the baseline has no result, so there is nothing to improve on: {run.error}; see {log_path(bench)}"
        )
    record = {
        "fingerprint": fingerprint,
        "digest": digest(bench.workspace.mutable_files()),
        "commit": bench.workspace.head,
        "run": dataclasses.asdict(run),
    }
    part = record_path(bench).with_suffix(".part")
    part.write_text(json.dumps(record, indent=2) + "\n")
    part.replace(record_path(bench))
    return run


def valid_baseline(bench: Bench, fingerprint: dict[str, Any]) -> Run | None:
    """The kept baseline, if it was measured with these very files under this very fingerprint."""
    try:
        record = json.loads(record_path(bench).read_bytes())
        same = record["fingerprint"] == fingerprint and record["digest"] == digest(bench.workspace.mutable_files())
        return Run(**record["run"]) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def log_path(bench: Bench) -> Path:
    return bench.workspace.folder / bench.protocol.provenance.baseline_artifact_path


def record_path(bench: Bench) -> Path:
    return log_path(bench).with_name("baseline.json")
