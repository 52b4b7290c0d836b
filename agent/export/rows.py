"""The tables of sessions: a row for each experiment, each run, or each point of a learning curve."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from agent.comparison.evidence import latest_runs
from agent.decision.difference import by_seed
from agent.decision.student_t import quantile
from agent.export.sessions import Measured, Session
from agent.export.table import Column, Extra, Kind, Table
from agent.format import one_line
from agent.journal.experiment import Evidence, Experiment, Run, Value, mean
from agent.journal.history import incumbent_before
from agent.journal.paths import is_overwritten, own_log
from agent.journal.state import State
from agent.pruning.curves import Curve, curve
from agent.report.gain import Outcome, metric_of, outcome
from agent.system.files import read_end

LARGEST_LOG = 2**26  # bytes, counted from the end
Z = 1.96  # of a normal distribution, for an interval of 95 %

Row = TypeVar("Row")
Columns = Mapping[str, tuple[Kind, Callable[[Row], Any]]]  # name -> kind, and the value in a row
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


class _Experiment(NamedTuple):
    session: Session
    each: Experiment
    came: Outcome


class _Run(NamedTuple):
    session: Session
    each: Measured


def experiments(sessions: Sequence[Session]) -> Table:
    """Return a row for each experiment, in order."""
    every = [(session, each) for session in sessions for each in session.state.experiments]
    families = [{"secondary": _secondary(e.runs), "constant": e.parameters} for _, e in every]
    extra = Extra(families, EXPERIMENT)
    found = (
        (*_values(EXPERIMENT, _Experiment(session, each, outcome(session.state, each))), *extra.values(row))
        for (session, each), row in zip(every, families, strict=True)
    )
    return Table((*_columns(EXPERIMENT), *extra.columns), found)


def runs(sessions: Sequence[Session]) -> Table:
    """Return a row for each run, in the order in which they ended."""
    every = [(session, each) for session in sessions for each in session.runs]
    # By the journal: stations return a run before it is known whose it is, so one that ended earlier may come later.
    known = [(session, each) for session in sessions for each in sorted(session.runs, key=lambda run: run.place)]
    extra = Extra([_families(session, each) for session, each in known], RUN)
    found = ((*_values(RUN, _Run(session, each)), *extra.values(_families(session, each))) for session, each in every)
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

    return Table(tuple(Column(name, kind) for name, kind in POINT.items()), found())


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


def _first(found: Iterable[float | None]) -> float | None:
    return next((value for value in found if value is not None), None)


def _latest_first(each: Experiment) -> Iterator[Run]:
    return reversed((*(e.run for e in each.screens), *each.runs))


def _opened(session: Session) -> Mapping[str, Any]:
    assert session.state.session is not None
    return session.state.session


def _parent(state: State, each: Experiment) -> str | None:
    before = incumbent_before(state.experiments, each.number)
    return before.commit if before else None


def _memory_gb(each: Experiment) -> float | None:
    memory = _secondary(each.runs).get("peak_vram_mb")
    return round(memory / 1024, 3) if memory is not None and math.isfinite(memory) else None


def _interval(evidence: Evidence | None) -> tuple[float | None, float | None]:
    """Return the interval of 95 % around the gain of a verdict; None without a known noise."""
    if evidence is None:
        return None, None
    if evidence.noise == 0.0:
        return evidence.gain, evidence.gain
    if evidence.sigmas is None:
        return None, None
    error = evidence.noise * math.sqrt(1 / evidence.runs + 1 / evidence.incumbent_runs + (evidence.doubt or 0.0))
    # Earlier versions kept no degrees of freedom.
    width = error * (Z if evidence.degrees is None else quantile(0.975, max(evidence.degrees, 1.0)))
    return evidence.gain - width, evidence.gain + width


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


def _columns(fixed: Columns[Row]) -> tuple[Column, ...]:
    return tuple(Column(name, kind) for name, (kind, _) in fixed.items())


def _values(fixed: Columns[Row], row: Row) -> Iterator[Any]:
    return (value(row) for _, value in fixed.values())


EXPERIMENT: Columns[_Experiment] = {
    "tag": ("text", lambda row: row.session.tag),
    "number": ("int", lambda row: row.each.number),
    "at": ("time", lambda row: row.session.recorded.get(row.each.number)),
    "status": ("text", lambda row: row.each.verdict.status),
    "reason": ("text", lambda row: one_line(row.each.verdict.reason)),
    "metric": ("float", lambda row: metric_of(row.session.state, row.each)),
    "metric_name": ("text", lambda row: one_line(_opened(row.session)["metric"])),
    "direction": ("text", lambda row: _opened(row.session)["direction"]),
    "gain": ("float", lambda row: row.came.gain),
    "gain_low": ("float", lambda row: _interval(row.each.verdict.evidence)[0]),
    "gain_high": ("float", lambda row: _interval(row.each.verdict.evidence)[1]),
    "sigmas": ("float", lambda row: row.came.sigmas),
    "confirmed": ("bool", lambda row: row.came.sure if row.each.number and row.each.kept else None),
    "holdout": ("float", lambda row: _holdout(row.session.state, row.each.commit)),
    "holdout_when_kept": ("float", lambda row: row.session.state.scored.get(row.each.number, {}).get("holdout")),
    "pruned": ("float", lambda row: _first(run.pruned for run in reversed(row.each.runs))),
    "rung": ("float", lambda row: row.each.rung),
    "estimate": ("float", lambda row: _first(run.estimate for run in _latest_first(row.each))),
    "expected": ("float", lambda row: row.each.expected),
    "runs": ("int", lambda row: len(row.each.runs)),
    "seconds": ("float", lambda row: row.each.seconds),
    "memory_gb": ("float", lambda row: _memory_gb(row.each)),
    "incumbent": ("int", lambda row: row.came.incumbent),
    "commit": ("text", lambda row: row.each.commit),
    "parent": ("text", lambda row: _parent(row.session.state, row.each)),
    "proposer": ("text", lambda row: one_line(row.each.proposer)),
    "description": ("text", lambda row: one_line(row.each.description)),
    "code_changed": ("bool", lambda row: row.session.code.get(row.each.number)),
    "model_calls": ("int", lambda row: row.session.state.cost_of(row.each).calls),
    "dollars": ("float", lambda row: row.session.state.cost_of(row.each).dollars),
}
RUN: Columns[_Run] = {
    "tag": ("text", lambda row: row.session.tag),
    "number": ("int", lambda row: row.each.number),
    "run": ("int", lambda row: row.each.index),
    "role": ("text", lambda row: row.each.role),
    "beside": ("int", lambda row: row.each.beside),
    "at": ("time", lambda row: row.each.at),
    "metric": ("float", lambda row: row.each.run.metric),
    "holdout": ("float", lambda row: row.each.run.holdout),
    "seconds": ("float", lambda row: row.each.run.seconds),
    "trained": ("float", lambda row: row.each.run.trained),
    "error": ("text", lambda row: one_line(row.each.run.error) if row.each.run.error else None),
    "pruned": ("float", lambda row: row.each.run.pruned),
    "estimate": ("float", lambda row: row.each.run.estimate),
    "seed": ("int", lambda row: row.each.run.seed),
    "source": ("text", lambda row: row.each.run.source or None),
    "out_of_memory": ("bool", lambda row: row.each.run.out_of_memory),
    "unconfined": ("bool", lambda row: row.each.run.unconfined),
    "fault": ("text", lambda row: row.each.run.fault or None),
    "commit": ("text", lambda row: row.each.commit),
    "station": ("text", lambda row: one_line(row.each.run.station) or None),
}
