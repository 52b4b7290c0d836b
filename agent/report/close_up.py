"""The record of each experiment for the page: its runs and those it was compared with, its diff and its log."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.errors import AutoresearchError
from agent.format import one_line
from agent.journal.comparison import run_of
from agent.journal.events import Event
from agent.journal.experiment import Experiment, Run, Value
from agent.journal.journal import read_and_fold
from agent.journal.paths import journal_path, log_of
from agent.journal.state import State
from agent.report.gather import readable
from agent.report.stations import shown_name
from agent.repository.workspace import Workspace
from agent.system.files import last_lines

# Limits per experiment on what models and runs wrote; the page shortens further if all of it is too much.
MOST_RUNS, LONGEST_NOTE = 40, 200
TAIL_LINES, LONGEST_LINE = 14, 240
LONGEST_TEXT = 20_000  # characters of a diff or a reasoning


@dataclass(frozen=True)
class ShownRun:
    """A run that belongs to the record of an experiment.

    Attributes:
        side: whose run it was, for what, and on which station if any: "candidate", "incumbent #7", "held out", "as
            incumbent, beside #12", "candidate on studio".
        note: why it has no metric, or after which part it was pruned; empty for neither.
    """

    side: str
    metric: float | None
    seconds: float
    note: str


@dataclass(frozen=True)
class CloseUp:
    """What the page shows of one experiment beyond its row.

    Attributes:
        reasoning: the proposer's, as text.
        parameters: values of the constants.
        runs: at most MOST_RUNS. Those in comparisons come last, and are the last to be left out.
        more: number of its runs that are left out.
        diff: the unified diff to the parent; None for the baseline, and if its commit is missing.
        tail: the last lines of the log of the last run.
        log: the log of the first run with a metric, or else of the last run; None if it is not in this workspace
            any more.
        seconds: training seconds of that run as it reported them; None if it did not.
    """

    number: int
    reasoning: str
    parameters: Mapping[str, Value]
    runs: tuple[ShownRun, ...]
    more: int
    diff: str | None
    tail: tuple[str, ...]
    log: Path | None
    seconds: float | None


def close_ups(workspace: Workspace, tag: str) -> tuple[State, list[CloseUp]]:
    """Return the state of a session, and what the page shows of each experiment, in order."""
    events, state = read_and_fold(journal_path(workspace.folder, tag))
    runs = _runs(events)
    diffs: Mapping[str, str] = {}
    with contextlib.suppress(AutoresearchError):  # without git the rest is still shown
        diffs = workspace.changes([e.commit for e in state.experiments[1:]])
    artifact = workspace.protocol.provenance.baseline_artifact_path
    return state, [_close_up(workspace, artifact, state, each, runs, diffs) for each in state.experiments]


def _close_up(
    workspace: Workspace,
    artifact: str | None,
    state: State,
    experiment: Experiment,
    runs: Mapping[int, Sequence[ShownRun]],
    diffs: Mapping[str, str],
) -> CloseUp:
    shown = next((run for run in experiment.runs if run.metric is not None), None)
    last_screen = experiment.screens[-1].run if experiment.screens else None
    final = experiment.runs[-1] if experiment.runs else last_screen
    shown = shown or final
    last = log_of(workspace.folder, artifact, final) if final else None
    tail = last_lines(last, TAIL_LINES) if last else []
    diff = diffs.get(experiment.commit) if experiment.number > 0 else None
    during, compared = [*runs.get(experiment.number, ()), *_kept(state, experiment)], _compared(state, experiment)
    listed = (*during[: max(0, MOST_RUNS - len(compared))], *compared[:MOST_RUNS])
    trained = (shown.trained or shown.secondary.get("training_seconds")) if shown else None
    return CloseUp(
        number=experiment.number,
        reasoning=readable(experiment.reasoning)[:LONGEST_TEXT].strip(),
        parameters=experiment.parameters,
        runs=listed,
        more=len(during) + len(compared) - len(listed),
        diff=None if diff is None else readable(diff[:LONGEST_TEXT]),
        tail=tuple(readable(line)[:LONGEST_LINE] for line in tail),
        log=last if shown is final or shown is None else log_of(workspace.folder, artifact, shown),
        seconds=trained,
    )


def _runs(events: Sequence[Event]) -> dict[int, list[ShownRun]]:
    """Return experiment -> the runs during it, of the candidate and of the incumbent, and of itself as incumbent."""
    found: dict[int, list[ShownRun]] = defaultdict(list)
    for event in events:
        if event.kind not in ("measured", "screened"):
            continue
        number, of, run = event.data["number"], event.data.get("of"), run_of(event.data)
        shorter = f", trained for {event.data['rung']:g} s" if event.kind == "screened" else ""
        found[number].append(_shown(("candidate" if of is None else f"incumbent #{of}") + shorter, run))
        if of is not None:
            found[of].append(_shown(f"as incumbent, beside #{number}{shorter}", run))
    return found


def _kept(state: State, experiment: Experiment) -> list[ShownRun]:
    """Return its runs as incumbent on stations."""
    return [_shown("as incumbent", run) for run in state.flight.kept.get(experiment.number, ())]


def _compared(state: State, experiment: Experiment) -> list[ShownRun]:
    """Return the runs of its commit in comparisons."""
    return [
        _shown("held out" if each.rung is None else "promoted", run)
        for each, run in state.runs_in_comparisons(experiment.commit)
    ]


def _shown(side: str, run: Run) -> ShownRun:
    note = run.error or (f"pruned at {run.pruned:.0%}" if run.pruned is not None else "")
    side += f" on {readable(shown_name(run.station))}" if run.station else ""
    return ShownRun(side, run.metric, run.seconds, one_line(readable(note))[:LONGEST_NOTE])
