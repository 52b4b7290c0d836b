"""`status` on a terminal: the figures, rows and stations of the live screen, as a page that stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from agent.decision.limits import of_note
from agent.format import Colored, one_line
from agent.journal.state import State
from agent.report.holdout import holdout_line
from agent.report.promotion import promotion_line
from agent.report.stations import StationStatus
from agent.views.color import labelled
from agent.views.terminal.ellipsis import wrapped
from agent.views.terminal.figures import figure_lines
from agent.views.terminal.progress_panel import Moment
from agent.views.terminal.rows import rows_table
from agent.views.terminal.stations import LEAST_STATIONS, stations_table

WIDEST = 120  # columns, so that a line is easy to read
MOST_ROWS, LEAST_ROWS = 20, 3


def status_page(
    state: State,
    data: dict[str, Any],
    rows: int | None,
    now: Sequence[str],
    stations: Sequence[StationStatus] = (),
) -> list[str]:
    """Return the lines of the page.

    Args:
        state: the session.
        data: its status, see `report.status`.
        rows: number of experiments to show; None for those that fit the window.
        now: lines about what it is doing, for the end of the page.
        stations: empty in a session of one machine.
    """
    console = Console(highlight=False)
    width, ascii_only = min(WIDEST, console.width), console.options.ascii_only
    moment = Moment(now=0.0, ends=of_note(data["limits"]).words() if data["limits"] else "", ascii=ascii_only)
    if state.away and data["running_pid"] is None:  # no loop will ask the model then
        state = replace(state, away={**state.away, "until": None})
    figures = figure_lines(state, moment, width, charted=False)
    if data["holdout"]:
        figures += labelled("holdout", holdout_line(data["holdout"]), width)
    if data["promotion"]:
        figures += labelled("promoted", promotion_line(data["promotion"], data["best_commit"]), width)
    if data["statement"]:
        figures += labelled("bound", data["statement"]["line"], width)
    if data["ladder"]:
        figures += labelled("ladder", data["ladder"]["line"], width)
    end: list[RenderableType] = [part for line in now for part in wrapped(one_line(line), width)]
    if stations:
        end = [*stations_table(stations, width, max(LEAST_STATIONS, console.height // 3)), Text(), *end]
    left = console.height - len(figures) - len(end) - 4  # two empty lines, the header and the prompt
    most = min(MOST_ROWS, max(LEAST_ROWS, left)) if rows is None else rows
    table = rows_table(state, most + 1, ascii_only=ascii_only, pinned=rows is None)
    with console.capture() as capture:
        for line in (*figures, Text(), *([table, Text()] if table.row_count else []), *end):
            console.print(line, width=width)
    return [Colored(line) for line in capture.get().removesuffix("\n").split("\n")]
