"""The live screen as a pure function of state, moment and size."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agent.journal.state import State
from agent.views.terminal.chart import LOSS_LINES, best_path, charts, loss_chart
from agent.views.terminal.ellipsis import gap, line, wrapped
from agent.views.terminal.figures import figure_lines
from agent.views.terminal.progress_panel import Moment, progress_panel
from agent.views.terminal.rows import rows_table
from agent.views.terminal.stations import stations_panel

# From this width on, the rows go next to the rest, which then takes LEFT columns.
WIDE, LEFT = 150, 84
# From this width on, charts go next to the figures, which take FIGURES columns if the charts can be CHART_LEAST wide.
CHARTED, FIGURES = 100, 68
CHART_LEAST, CHART_MOST = 32, 60
# From this height on, the loss has a place of its own: LOSS_BELOW lines below its run, in a wide window below the rows.
HIGH, LOSS_BELOW = 34, 8
USUAL = 10  # lines of the charts, even if the figures beside them are fewer
CALM = 20  # from this height on, a line stays empty above the hint
GAP = 3
LEAST_ROWS = 3
# With stations: lines that the figures leave to the rows, and the part of the height that the stations may take.
ROWS_BELOW, STATIONS = 6, 0.42


def screen(state: State, moment: Moment, width: int, height: int) -> RenderableType:
    """Lay out the screen. Long lines but the hint end in an ellipsis, and the rows take the lines that are left.

    From CHARTED columns on, charts stand beside the figures; from WIDE columns on, the rows do, and the best below.

    Args:
        state: the session.
        moment: what the screen shows besides the session.
        width: in columns.
        height: in lines.
    """
    bottom: list[RenderableType] = [
        *([line(moment.message, "bold")] if moment.message else []),
        *wrapped(moment.hint, width, "dim"),  # its end names what stops the loop
    ]
    bottom = [Text(), *bottom] if bottom and height >= CALM else bottom
    height -= len(bottom)
    if width >= WIDE:
        return Group(_wide(state, moment, width, height), *bottom)
    side = min(CHART_MOST, max(CHART_LEAST, width - FIGURES)) if width >= CHARTED else 0
    above, used = _charted(state, moment, width, side, height) if side else ([], 0)
    if not above:
        above = _top(state, moment, width, height, charted=False)
        used = len(above)
    rows = rows_table(state, height - used - 1, ascii_only=moment.ascii)
    below: list[RenderableType] = [Text(), rows] if height - used - 1 > LEAST_ROWS and rows.row_count else []
    used += 1 + rows.row_count if below else 0
    return Group(*above, *below, *gap(height - used), *bottom)


def _charted(state: State, moment: Moment, width: int, side: int, height: int) -> tuple[list[RenderableType], int]:
    """Return the figures beside the charts, and their number of lines; nothing if no chart can be drawn.

    In a high window the loss stands below its run, and the best has all lines beside both.
    """
    room = width - side - GAP
    top = _top(state, moment, room, height, charted=True)
    loss = loss_chart(moment.curve, room, LOSS_BELOW, moment.ascii) if height >= HIGH else []
    left: list[RenderableType] = [*top, Text(), *loss] if loss else top
    drawn = charts(state, () if loss else moment.curve, side, min(height, max(len(left), USUAL)), moment.ascii)
    if not drawn:
        return left if loss else [], len(left)
    return [_beside(Group(*left), Group(*drawn), room)], max(len(left), len(drawn))


def _wide(state: State, moment: Moment, width: int, height: int) -> RenderableType:
    """Lay out the figures with the best below them, and to their right the rows, with the loss below in a high window.

    The place of the loss stays empty between runs, so that no row moves. The loss has the place of the best until there
    is one.
    """
    below = LOSS_LINES if height >= HIGH and len(best_path(state.experiments)) > 1 else 0
    loss = loss_chart(moment.curve, width - LEFT - GAP, below, moment.ascii)
    top = _top(state, moment, LEFT, height, charted=True)
    drawn = charts(state, () if loss else moment.curve, LEFT, height - len(top) - 1, moment.ascii)
    if not drawn:
        top = _top(state, moment, LEFT, height, charted=False)
    left = [*top, *([Text(), *drawn] if drawn else [])]
    rows = rows_table(state, height - below - 1, ascii_only=moment.ascii)
    right = [*([rows] if rows.row_count else []), *gap(height - rows.row_count - len(loss)), *loss]
    return Group(_beside(Group(*left, *gap(height - len(left))), Group(*right), LEFT))


def _top(state: State, moment: Moment, room: int, height: int, *, charted: bool) -> list[RenderableType]:
    """Return the figures and the current run. In a low window, the current run takes precedence over the figures.

    A session with stations has a line for each of them.

    Args:
        state: the session.
        moment: what the screen shows besides the session.
        room: in columns.
        height: most lines.
        charted: whether a chart shows the progress, so that no line has to.
    """
    now, reserved = [Text(), *progress_panel(state, moment)], 0
    if state.flight.stations:
        now = [Text(), *stations_panel(state, moment.now, room, int(STATIONS * height))]
        reserved = ROWS_BELOW
    figures = figure_lines(state, moment, room, charted=charted)[: max(2, height - len(now) - reserved)]
    return [*figures, *now]


def _beside(left: RenderableType, right: RenderableType, width: int) -> Table:
    both = Table.grid(padding=(0, GAP, 0, 0), expand=True)
    both.add_column(width=width)
    both.add_column(ratio=1)
    both.add_row(left, right)
    return both
