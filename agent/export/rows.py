"""The tables of sessions: a row for each experiment, each run, or each point of a learning curve."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.decision.difference import by_seed
from agent.export.sessions import Measured, Session
from agent.export.table import Column, Extra, Kind, Table
from agent.format import one_line
from agent.journal.experiment import Evidence, Experiment, Run, Value, mean
from agent.journal.history import incumbent_before
from agent.journal.paths import is_overwritten, own_log
from agent.journal.state import State
from agent.pruning.curves import Curve, curve
from agent.report.gain import metric_of, outcome
from agent.session.confirm import latest_runs
from agent.system.files import read_end

LARGEST_LOG = 2**26  # bytes, counted from the end
Z = 1.96  # of a normal distribution, for an interval of 95 %

EXPERIMENT: Mapping[str, Kind] = {
    "tag": "text",
    "number": "int",
    "at": "time",
    "status": "text",
    "reason": "text",
    "metric": "float",
    "metric_name": "text",
    "direction": "text",
    "gain": "float",
    "gain_low": "float",
    "gain_high": "float",
    "sigmas": "float",
    "confirmed": "bool",
    "holdout": "float",
    "holdout_when_kept": "float",
    "pruned": "float",
    "rung": "float",
    "estimate": "float",
    "expected": "float",
    "runs": "int",
    "seconds": "float",
    "memory_gb": "float",
    "incumbent": "int",
    "commit": "text",
    "parent": "text",
    "proposer": "text",
    "description": "text",
    "code_changed": "bool",
    "model_calls": "int",
    "dollars": "float",
}
RUN: Mapping[str, Kind] = {
    "tag": "text",
    "number": "int",
    "run": "int",
    "role": "text",
    "beside": "int",
    "at": "time",
    "metric": "float",
    "holdout": "float",
    "seconds": "float",
    "trained": "float",
    "error": "text",
    "pruned": "float",
    "estimate": "float",
    "seed": "int",
    "source": "text",
    "out_of_memory": "bool",
    "unconfined": "bool",
    "fault": "text",
    "commit": "text",
    "station": "text",
}
POINT: Mapping[str, Kind] = {
    "tag": "text",
    "number": "int",
    "run": "int",
    "role": "text",
    "fraction": "float",
    "step": "int",
    "seconds": "float",
    "loss": "float",
}


def experiments(sessions: Sequence[Session]) -> Table:
    """Return a row for each experiment, in order."""
    every = [(session, each) for session in sessions for each in session.state.experiments]
    families = [{"secondary": _secondary(e.runs), "constant": e.parameters} for _, e in every]
    extra = Extra(families, EXPERIMENT)
    found = (
        (*_ordered(_experiment(session, each), EXPERIMENT), *extra.values(row))
        for (session, each), row in zip(every, families, strict=True)
    )
    return Table((*_columns(EXPERIMENT), *extra.columns), found)


def runs(sessions: Sequence[Session]) -> Table:
    """Return a row for each run, in the order in which they ended."""
    every = [(session, each) for session in sessions for each in session.runs]
    # By the journal: stations return a run before it is known whose it is, so one that ended earlier may come later.
    known = [(session, each) for session in sessions for each in sorted(session.runs, key=lambda run: run.place)]
    extra = Extra([_families(session, each) for session, each in known], RUN)
    found = (
        (*_ordered(_run(session.tag, each), RUN), *extra.values(_families(session, each))) for session, each in every
    )
    return Table((*_columns(RUN), *extra.columns), found)


def curves(sessions: Sequence[Session], workspace: Path, artifact: str | None) -> Table:
    """Return a row for each point of each run's learning curve. Logs are read one at a time, as the rows are."""

    def found() -> Iterator[tuple[Any, ...]]:
        for session in sessions:
            for each in session.runs:
                for point in curve_of(each.run, workspace, artifact):
                    at = point.fraction * each.run.trained if each.run.trained is not None else None
                    place = (session.tag, each.number, each.index, each.role)
                    yield (*place, point.fraction, whole(point.step), at, point.loss)

    return Table(_columns(POINT), found())


def curve_of(run: Run, workspace: Path, artifact: str | None) -> Curve:
    """Return the learning curve in the log of a run; empty if it has none, or its log is not here any more.

    Args:
        artifact: the protocol's path of the baseline's log, see `own_log`.
    """
    if not run.log or is_overwritten(workspace, artifact, run):
        return ()
    try:
        text = read_end(own_log(workspace, run.log, artifact), LARGEST_LOG)
    except OSError:
        return ()
    return curve(text.decode(errors="replace"))


def whole(step: float) -> int | None:
    """Return a step number as printed; None if it is not printed, or too large to be one."""
    return int(step) if math.isfinite(step) and 0 <= step < 1e15 else None


def _experiment(session: Session, each: Experiment) -> Mapping[str, Any]:
    state = session.state
    assert state.session is not None
    came, before = outcome(state, each), incumbent_before(state.experiments, each.number)
    low, high = _interval(each.verdict.evidence)
    spent, secondary = state.cost_of(each), _secondary(each.runs)
    memory = secondary.get("peak_vram_mb")
    return {
        "tag": session.tag,
        "number": each.number,
        "at": session.recorded.get(each.number),
        "status": each.verdict.status,
        "reason": one_line(each.verdict.reason),
        "metric": metric_of(state, each),
        "metric_name": one_line(state.session["metric"]),
        "direction": state.session["direction"],
        "gain": came.gain,
        "gain_low": low,
        "gain_high": high,
        "sigmas": came.sigmas,
        "confirmed": came.sure if each.number and each.kept else None,
        "holdout": _holdout(state, each.commit),
        "holdout_when_kept": state.scored.get(each.number, {}).get("holdout"),
        "pruned": next((run.pruned for run in reversed(each.runs) if run.pruned is not None), None),
        "rung": each.rung,
        "estimate": next((run.estimate for run in _estimated(each)), None),
        "expected": each.expected,
        "runs": len(each.runs),
        "seconds": each.seconds,
        "memory_gb": round(memory / 1024, 3) if memory is not None and math.isfinite(memory) else None,
        "incumbent": came.incumbent,
        "commit": each.commit,
        "parent": before.commit if before else None,
        "proposer": one_line(each.proposer),
        "description": one_line(each.description),
        "code_changed": session.code.get(each.number),
        "model_calls": spent.calls,
        "dollars": spent.dollars,
    }


def _estimated(each: Experiment) -> list[Run]:
    """Return the runs that were not trained in full, and have an estimate, the latest first."""
    return [run for run in reversed((*(e.run for e in each.screens), *each.runs)) if run.estimate is not None]


def _run(tag: str, each: Measured) -> Mapping[str, Any]:
    run = each.run
    return {
        "tag": tag,
        "number": each.number,
        "run": each.index,
        "role": each.role,
        "beside": each.beside,
        "at": each.at,
        "metric": run.metric,
        "holdout": run.holdout,
        "seconds": run.seconds,
        "trained": run.trained,
        "error": one_line(run.error) if run.error else None,
        "pruned": run.pruned,
        "estimate": run.estimate,
        "seed": run.seed,
        "source": run.source or None,
        "out_of_memory": run.out_of_memory,
        "unconfined": run.unconfined,
        "fault": run.fault or None,
        "commit": each.commit,
        "station": one_line(run.station) or None,
    }


def _interval(evidence: Evidence | None) -> tuple[float | None, float | None]:
    """Return the interval of 95 % around the gain of a verdict; None without a known noise."""
    if evidence is None:
        return None, None
    if evidence.noise == 0.0:
        return evidence.gain, evidence.gain
    if evidence.sigmas is None:
        return None, None
    error = evidence.noise * math.sqrt(1 / evidence.runs + 1 / evidence.incumbent_runs + (evidence.doubt or 0.0))
    return evidence.gain - Z * error, evidence.gain + Z * error


def _holdout(state: State, commit: str) -> float | None:
    """Return the mean on the holdout of the runs that `confirm` counts, as it computes it; None without any."""
    # On stations a pair of runs is one observation, elsewhere a seed.
    every = [(None if run.station else run.seed, run.holdout) for run in latest_runs(state, commit)]
    scored = by_seed([(seed, value) for seed, value in every if value is not None])
    return mean(scored) if scored else None


def _families(session: Session, each: Measured) -> Mapping[str, Mapping[str, Value]]:
    constants = _parameters(session, each.number)
    return {"secondary": each.run.secondary, "condition": each.run.conditions, "constant": constants}


def _secondary(made: Sequence[Run]) -> Mapping[str, float]:
    return made[-1].secondary if made else {}


def _parameters(session: Session, number: int | None) -> Mapping[str, Value]:
    """Return the constants of an experiment. One in progress has no row yet, and none of them."""
    if number is None or number >= len(session.state.experiments):
        return {}
    return session.state.experiments[number].parameters


def _columns(fixed: Mapping[str, Kind]) -> tuple[Column, ...]:
    return tuple(Column(name, kind) for name, kind in fixed.items())


def _ordered(values: Mapping[str, Any], fixed: Mapping[str, Kind]) -> Iterator[Any]:
    return (values[name] for name in fixed)
