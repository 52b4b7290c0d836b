"""Sessions as the runs of an experiment tracker: names, configurations, and values over steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.export.rows import curve_of, whole
from agent.export.sessions import Measured, Session
from agent.format import one_line
from agent.journal.experiment import Experiment, Value
from agent.pruning.curves import Curve
from agent.report.gain import metric_of, outcome

PER_MILLE = 1000  # steps of a curve whose log prints no step numbers
# Names of other values, or of a tracker's own: Trackio's are the last two, those of wandb begin with an underscore.
TAKEN = frozenset({"best", "gain", "kept", "seconds", "loss", "step", "timestamp"})


@dataclass(frozen=True)
class Step:
    """Values at one step, by name. `at` is Unix time in seconds."""

    step: int
    at: float
    values: Mapping[str, float]


@dataclass(frozen=True)
class Tracked:
    """A run as a tracker shows it.

    Attributes:
        name: the session's tag, or TAG/NUMBER for one experiment.
        group: the session's tag.
        config: the constants, and what else does not change.
        steps: values in the order of their steps.
    """

    name: str
    group: str
    config: Mapping[str, Value]
    steps: Sequence[Step]


def of_session(session: Session) -> Tracked:
    """Return a session as one run, in which a step is an experiment."""
    state = session.state
    assert state.session is not None
    best = state.incumbent or state.experiments[0]
    metric, steps, so_far = one_line(state.session["metric"]), list[Step](), math.nan
    shown = _shown(metric)
    for each in state.experiments:
        so_far = each.metric if each.kept and each.metric is not None else so_far
        values = {
            shown: metric_of(state, each),
            "best": so_far,
            "gain": outcome(state, each).gain,
            "kept": float(each.kept),
            "seconds": each.seconds,
        }
        steps.append(Step(each.number, session.recorded.get(each.number, state.latest_at), _finite(values)))
    about: dict[str, Value] = {"tag": session.tag, "metric": metric, "direction": state.session["direction"]}
    return Tracked(session.tag, session.tag, _config(about, best), steps)


def of_experiments(session: Session, workspace: Path, artifact: str | None) -> list[Tracked]:
    """Return each experiment as a run: the learning curve of its first run with a metric, then its result."""
    return [_of_experiment(session, each, workspace, artifact) for each in session.state.experiments]


def _of_experiment(session: Session, each: Experiment, workspace: Path, artifact: str | None) -> Tracked:
    assert session.state.session is not None
    own = [run for run in session.runs if run.number == each.number and run.role == "selection"]
    shown = next((run for run in own if run.run.metric is not None), own[-1] if own else None)
    steps = _curve(shown, curve_of(shown.run, workspace, artifact)) if shown is not None else []
    metric = _shown(one_line(session.state.session["metric"]))
    result = _finite({metric: metric_of(session.state, each), "gain": outcome(session.state, each).gain})
    at = session.recorded.get(each.number, session.state.latest_at)
    last = steps.pop() if steps else Step(0, at, {})
    steps.append(Step(last.step, at, {**last.values, **result}))
    about: dict[str, Value] = {"tag": session.tag, "number": each.number, "status": each.verdict.status}
    return Tracked(f"{session.tag}/{each.number:04d}", session.tag, _config(about, each), steps)


def _curve(measured: Measured, points: Curve) -> list[Step]:
    """Return the losses by the steps that the log prints; by thousandths of the training if those do not grow."""
    finite = [point for point in points if math.isfinite(point.loss)]
    printed = [whole(point.step) for point in finite]
    numbers = [number for number in printed if number is not None]
    if len(numbers) < len(finite) or any(a >= b for a, b in itertools.pairwise(numbers)):
        numbers = [round(PER_MILLE * point.fraction) for point in finite]
    began = measured.at - measured.run.seconds
    found = {
        number: Step(number, began + point.fraction * measured.run.seconds, {"loss": point.loss})
        for number, point in zip(numbers, finite, strict=True)
    }
    return list(found.values())


def _shown(metric: str) -> str:
    """Return the name of a metric as trackers get it: with a prefix if it is taken, as in tables."""
    return f"metric.{metric}" if metric in TAKEN or metric.startswith("_") else metric


def _config(about: Mapping[str, Value], each: Experiment) -> dict[str, Value]:
    """Return what does not change in a run: what is known of it, and the constants of an experiment.

    A constant whose name is taken gets a prefix, as in tables.
    """
    texts = {"proposer": each.proposer, "description": each.description, "commit": each.commit}
    found: dict[str, Value] = {**about, **{name: one_line(text) for name, text in texts.items()}}
    for name, value in each.parameters.items():
        name = one_line(name)
        while name in found:
            name = f"constant.{name}"
        found[name] = one_line(value) if isinstance(value, str) else value
    return found


def _finite(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
