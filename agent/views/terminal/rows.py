"""The experiments as rows of a table: the latest ones, and the latest keeps before them."""

from __future__ import annotations

from rich.console import JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from agent.format import duration, figure, one_line
from agent.journal.experiment import Experiment
from agent.journal.state import State
from agent.report.gain import outcome
from agent.views.terminal.ellipsis import FirstFitting
from agent.views.text import COLOURS, against, status_of

MOST_PINNED = 5
LEAST_PINNED = 4  # rows that a window needs for keeps to stay in view
LONGEST_NAME = 12
SIGMA = 4  # the column that is left out if no row has one


def rows_table(state: State, most: int, *, ascii_only: bool, pinned: bool = True) -> Table:
    """Return the header and the last experiments, the newest at the bottom.

    Args:
        state: the session.
        most: lines, with the header.
        ascii_only: use ASCII characters only.
        pinned: if not all fit, the latest keeps before them stay in view, above a line that stands for the others.
    """
    count, room = len(state.experiments), max(0, most - 1)
    numbers = _shown(state, room) if pinned else [*range(max(0, count - room), count)]
    shown = [_row(state, index) if index is not None else _others(ascii_only) for index in numbers]
    if not shown or state.session is None:
        return Table.grid()
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    metric = state.session["metric"]
    titles = ("#", "verdict", metric if len(metric) <= LONGEST_NAME else "metric", "gain", "sigma", "took", "what")
    # Leave out the sigma column if no row has one.
    columns = [column for column in range(len(titles)) if column != SIGMA or any(row[column] for row in shown)]
    for column in columns[:-1]:
        justify: JustifyMethod = "left" if titles[column] == "verdict" else "right"
        table.add_column(justify=justify, no_wrap=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_row(*(Text(titles[column], style="dim") for column in columns))
    for row in shown:
        table.add_row(*(row[column] for column in columns))
    return table


def _shown(state: State, most: int) -> list[int | None]:
    """Return the experiments to show, by index; None stands for those left out between two of them."""
    count = len(state.experiments)
    if count <= most or most < LEAST_PINNED:
        return [*range(max(0, count - most), count)]
    pins = min(MOST_PINNED, most // 3)
    recent = range(count - (most - pins - 1), count)
    kept = [each.number for each in state.experiments[1 : recent.start] if each.kept][-pins:]
    if not kept:
        return [*range(count - most, count)]
    # Lines that no keep needs go to the recent experiments.
    recent = range(count - (most - len(kept) - 1), count)
    kept = [number for number in kept if number < recent.start]
    if kept and recent.start - kept[-1] <= 2:  # the line for the others shows the only one, if there is one
        return [*kept, *range(kept[-1] + 1, count)]
    return [*kept, None, *recent]


def _others(ascii_only: bool) -> tuple[RenderableType, ...]:
    return (Text("..." if ascii_only else "…", style="dim"), *(Text() for _ in range(6)))


def _row(state: State, index: int) -> tuple[RenderableType, ...]:
    each = state.experiments[index]
    verdict, came = each.verdict.status, outcome(state, each)
    style = "" if verdict == "keep" else "dim"
    sigmas = "noise" if came.word == "within noise" else f"{abs(came.sigmas):.1f}" if came.sigmas is not None else ""
    return (
        Text(f"#{each.number}", style=style),
        Text(verdict, style=f"bold {COLOURS[verdict]}" if verdict != "discard" else style),
        Text(figure(came.value) if came.value is not None else "-", style=style),
        Text(figure(came.gain, came.value, "+") if came.gain is not None else "-", style=style),
        Text(sigmas, style=style),
        Text(duration(each.seconds), style=style),
        _what(state, each, style),
    )


def _what(state: State, each: Experiment, style: str) -> RenderableType:
    """Return the description with its remarks. Those about the comparison are left out where they do not fit."""
    verdict, evidence, came = each.verdict.status, each.verdict.evidence, outcome(state, each)
    told = [status_of(each).removeprefix(verdict).strip(" ()")]
    if verdict == "crash" or (evidence is not None and evidence.how == "simplification"):
        told = [one_line(each.verdict.reason)]
    elif each.overtaken is not None:
        told = [one_line(each.overtaken)]
    compared = [*(["at equal steps"] if came.equal_steps else []), *against(state, each)]
    remarks = [list(filter(None, told))]
    remarks += [[*remarks[0], *compared[:count]] for count in range(1, len(compared) + 1)]
    texts = [one_line(each.description) + (f" [{'; '.join(said)}]" if said else "") for said in reversed(remarks)]
    return FirstFitting([Text(text, style=style, no_wrap=True, overflow="ellipsis") for text in texts])
