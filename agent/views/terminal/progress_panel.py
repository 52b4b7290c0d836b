"""The current experiment on the live screen: its proposal, its progress and its latest figures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from agent.decision.estimate import unbiased
from agent.execution.gpu_fault import beyond_gpu
from agent.execution.progress import Reading
from agent.format import duration, figure, one_line
from agent.journal.comparison import PendingComparison
from agent.journal.experiment import Experiment, Run, mean, metrics
from agent.journal.faults import Faults
from agent.journal.pending import Pending
from agent.journal.state import State, side
from agent.pruning.curves import Curve
from agent.views.terminal.ellipsis import LABEL, FirstFitting, clock, line, named, parts, sides
from agent.views.text import run_words, upcoming

GB, MB = 2**30, 2**20


@dataclass(frozen=True)
class Moment:
    """What the screen shows besides the state of the session.

    Attributes:
        now: Unix time.
        reading: figures from the log of the current run.
        lines: the last lines of that log.
        memory: memory of the run in bytes; None if unknown.
        forecast: experiments left, see `agent.report.eta`.
        ends: the limits of the session.
        message: the latest note.
        hint: what Ctrl-C does.
        curve: the learning curve of the current run; empty without one.
        ascii: draw with ASCII characters only.
    """

    now: float
    reading: Reading = field(default_factory=Reading)
    lines: Sequence[str] = ()
    memory: int | None = None
    forecast: str | None = None
    ends: str = ""
    message: str = ""
    hint: str = ""
    curve: Curve = ()
    ascii: bool = False


@dataclass(frozen=True)
class Bar:
    """A progress bar of the available width. The rest has its own character, so that it is visible without color."""

    done: float
    ascii: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        full, rest = "#-" if self.ascii else "━─"
        count = round(self.done * options.max_width)
        yield Text.assemble((full * count, "green"), (rest * (options.max_width - count), "dim"))


def under_way(state: State) -> tuple[Mapping[str, Any], float] | None:
    """Return the current run, of an experiment or a comparison, and its start in Unix time."""
    comparison, pending = state.comparison, state.pending
    if comparison is not None and comparison.started is not None:
        return comparison.started, state.latest_at
    if pending is not None and pending.started is not None and pending.started_at is not None:
        return pending.started, pending.started_at
    return None


def progress_panel(state: State, moment: Moment) -> list[RenderableType]:
    """Return the lines for the current experiment, for the confirmation, or for the time between experiments."""
    if state.comparison is not None and state.comparing:
        return _comparing(state, state.comparison, moment)
    if state.faults.until is not None and state.pending is None:
        return [_pause(state.faults)]
    if state.pending is None:
        number, waited = len(state.experiments), duration(max(0.0, moment.now - state.latest_at))
        doing = f"#{number}  waiting for a proposal for {waited}" if number else "starting"
        return [line(f"ended: {state.ended}" if state.ended else doing, "bold")]
    return _trying(state, state.pending, moment)


def _trying(state: State, pending: Pending, moment: Moment) -> list[RenderableType]:
    what = Text.assemble((f"#{pending.number}  ", "bold cyan"), (one_line(pending.description), "bold"))
    by = f"by {pending.proposer}" if pending.number else ""
    lines: list[RenderableType] = [sides(what, line(by, "dim"))]
    why = next((each.strip() for each in pending.reasoning.splitlines() if each.strip()), "")
    if why:
        lines.append(named("why", one_line(why)))
    if metrics(pending.runs):
        lines.append(_so_far("so far", pending.runs, _against(state.incumbent)))
    found = under_way(state)
    if found is None and state.faults.until is not None:
        return [*lines, _pause(state.faults)]
    if found is None:
        return [*lines, line("starting the run" if pending.verdict is None else "recording the result", "dim")]
    which = "incumbent" if "of" in found[0] else "screen" if "rung" in found[0] else f"run {found[0]['run']}"
    following = upcoming(state.prepared, state.preparing)
    return [*lines, *_running(*found, which, moment), *([named("next", following)] if following else [])]


def _pause(faults: Faults) -> Text:
    at = time.strftime("%H:%M:%S", time.localtime(faults.until))
    return line(f"{beyond_gpu(faults.reason) or 'the GPU failed'}: the run is repeated at {at}", "bold red")


def _comparing(state: State, comparison: PendingComparison, moment: Moment) -> list[RenderableType]:
    names = {label: side(state, label, commit) for label, commit in comparison.commits.items()}
    what = f"{comparison.doing} with held-out runs: {' and '.join(names.values())}, alternating"
    lines: list[RenderableType] = [line(what, "bold")]
    lines += [_so_far(names[label], runs, "") for label, runs in comparison.runs.items() if runs]
    found = under_way(state)
    if found is None and state.faults.until is not None:
        return [*lines, _pause(state.faults)]
    if found is None:
        return [*lines, line("between two runs", "dim")]
    run = run_words(sum(map(len, comparison.runs.values())) + 1, comparison.count * len(names))
    lines.append(named("now", f"{names[found[0]['label']]}, {run}"))
    return [*lines, *_running(*found, "", moment)]


def _against(best: Experiment | None) -> str:
    """Format what the runs are compared with: the mean of the incumbent's held-out runs."""
    if best is None or best.metric is None:
        return ""
    values = metrics(unbiased(best)) if not best.runs[-1].station else []
    values = values or [best.metric]
    runs = f", {len(values)} runs" if len(values) > 1 else ""
    return f"  against {figure(mean(values))} of #{best.number}{runs}"


def _so_far(label: str, runs: Sequence[Run], against: str) -> RenderableType:
    """Return a line with the values of the runs, or their mean if they do not fit."""
    values = metrics(runs)
    every = "  ".join(map(figure, values))
    short = f"{figure(mean(values))}, mean of {len(values)} runs" if len(values) > 1 else every
    return FirstFitting([named(label, text + against) for text in (every, short)])


def _running(started: Mapping[str, Any], since: float, which: str, moment: Moment) -> list[RenderableType]:
    """Return the bar and the figures of a run, and the last line of its log if that has no known figures."""
    seconds, expected = max(0.0, moment.now - since), max(1e-9, started["expected"])
    reading = moment.reading
    done = reading.done if reading.done is not None else min(1.0, seconds / expected)
    bar = Table.grid(expand=True, padding=(0, 1, 0, 0))
    bar.add_column(no_wrap=True, width=LABEL - 1)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True, min_width=33)  # so that the bar does not jump when the words change
    taken = f"{100 * done:3.0f} %  {_time(reading, seconds, expected)}"
    bar.add_row(Text(which, style="dim"), Bar(done, moment.ascii), taken)
    figures = (
        f"loss {reading.loss:.4f}" if reading.loss is not None else "",
        f"{reading.tokens_per_second:,.0f} tokens/s" if reading.tokens_per_second is not None else "",
        f"done about {clock(since + expected)}",
        _size(moment.memory) if moment.memory else "",
    )
    lines: list[RenderableType] = [bar, parts("", *figures)]
    latest = one_line(moment.lines[-1]) if moment.lines else ""
    return [*lines, named("", (latest, "dim"))] if latest and reading == Reading() else lines


def _time(reading: Reading, seconds: float, expected: float) -> str:
    """Format time used and time left: of the training if the log reports it, else of the run, by earlier runs."""
    taken, rest = duration(seconds), expected - seconds
    if reading.done is not None and reading.done >= 0.995:
        return f"{taken}, trained, " + (f"{duration(rest)} to the end" if rest > 0 else "at its end")
    if reading.left:
        return f"{taken}, {duration(reading.left)} of training left"
    return f"{taken}, about {duration(rest)} left" if rest > 0 else f"{taken}, longer than expected"


def _size(held: int) -> str:
    return f"{held / GB:.1f} GB" if held >= GB else f"{held / MB:.0f} MB"
