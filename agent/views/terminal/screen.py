"""The live screen as a pure function of state, moment and size."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from agent.format import cost, duration, figure, one_line
from agent.journal.state import State
from agent.report.gain import outcome, standing
from agent.report.summary import summarize
from agent.views.terminal.chart import best_path, charts, loss_chart
from agent.views.terminal.ellipsis import clock, gap, line, named, sides
from agent.views.terminal.progress_panel import Moment, progress_panel
from agent.views.text import COLOURS, against, faults, status_of

SPARKS, ASCII_SPARKS = "▁▂▃▄▅▆▇█", "_.-:=+*#"
# From this width on, the rows go next to the rest, which then takes LEFT columns.
WIDE, LEFT = 150, 84
# From this width on, charts go next to the figures, which take FIGURES columns if the charts can be CHART_LEAST wide.
CHARTED, FIGURES = 100, 68
CHART_LEAST, CHART_MOST = 32, 60
# From this height on, the loss goes below its run, in LOSS_BELOW lines.
HIGH, LOSS_BELOW = 34, 8
USUAL = 10  # lines of the charts, even if the figures beside them are fewer
GAP = 3
LEAST_ROWS = 3
MOST_PINNED = 5
LEAST_PINNED = 4  # rows that a window needs for keeps to stay in view
LONGEST_NAME = 12


def screen(state: State, moment: Moment, width: int, height: int) -> RenderableType:
    """Lay out the screen. Long lines end in an ellipsis, and the rows take the lines that are left.

    From CHARTED columns on, charts stand beside the figures; from WIDE columns on, the rows do, and the charts below.

    Args:
        state: the session.
        moment: what the screen shows besides the session.
        width: in columns.
        height: in lines.
    """
    bottom: list[RenderableType] = [
        *([line(moment.message, "bold")] if moment.message else []),
        *([line(moment.hint, "dim")] if moment.hint else []),
    ]
    height -= len(bottom)
    if width >= WIDE:
        return Group(_wide(state, moment, height), *bottom)
    side = min(CHART_MOST, max(CHART_LEAST, width - FIGURES)) if width >= CHARTED else 0
    above, used = _charted(state, moment, width, side, height) if side else ([], 0)
    if not above:
        above = _top(state, moment, width, height, charted=False)
        used = len(above)
    rows = _rows(state, height - used - 1, moment.ascii)
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


def _wide(state: State, moment: Moment, height: int) -> RenderableType:
    """Lay out the figures with the charts below them, and the rows to their right."""
    top = _top(state, moment, LEFT, height, charted=True)
    drawn = charts(state, moment.curve, LEFT, height - len(top) - 1, moment.ascii)
    if not drawn:
        top = _top(state, moment, LEFT, height, charted=False)
    left = [*top, *([Text(), *drawn] if drawn else [])]
    rows = _rows(state, height - 1, moment.ascii)
    return Group(_beside(Group(*left), rows, LEFT), *gap(height - max(len(left), rows.row_count)))


def _top(state: State, moment: Moment, room: int, height: int, *, charted: bool) -> list[RenderableType]:
    """Return the figures and the current run. In a low window, the current run takes precedence over the figures.

    Args:
        state: the session.
        moment: what the screen shows besides the session.
        room: in columns.
        height: most lines.
        charted: whether a chart shows the progress, so that no line has to.
    """
    now = [Text(), *progress_panel(state, moment)]
    figures = _standing(state, moment, room, charted=charted)[: max(2, height - len(now))]
    return [*figures, *now]


def _beside(left: RenderableType, right: RenderableType, width: int) -> Table:
    both = Table.grid(padding=(0, GAP, 0, 0), expand=True)
    both.add_column(width=width)
    both.add_column(ratio=1)
    both.add_row(left, right)
    return both


def _standing(state: State, moment: Moment, room: int, *, charted: bool) -> list[RenderableType]:
    """Return the lines about the session: best and baseline, gain and noise, progress, counts and forecast."""
    assert state.session is not None
    summary, stands = summarize(state), standing(state)
    what = f"{summary['metric']}, {'lower' if summary['direction'] == 'minimize' else 'higher'} is better"
    lines: list[RenderableType] = [sides(line(f"autoresearch {summary['tag']}", "bold"), line(what, "dim"))]
    if summary["baseline"] is None:
        ends = [named("ends", moment.ends)] if moment.ends else []
        return [*lines, line("measuring the baseline"), *ends]
    if summary["best_number"]:
        runs = f", mean of {summary['best_runs']} runs" if summary["best_runs"] > 1 else ""
        best = ((figure(summary["best"]), "bold"), f"  #{summary['best_number']}{runs}   ", ("baseline ", "dim"))
        lines += [named("best", *best, figure(summary["baseline"])), _gain(state)]
    else:
        lines.append(named("baseline", (figure(summary["baseline"]), "bold"), "  no improvement yet"))
    noise = (
        f"{figure(stands.noise, summary['baseline'])}, standard deviation of one run"
        if stands.noise
        else "not known yet"
    )
    lines.append(named("noise", noise))
    path = best_path(state.experiments)
    if len(set(path)) > 1 and not charted:
        lines.append(named("progress", _spark(path, room - 32, moment.ascii)))
    if summary["experiments"]:
        counts = f"{summary['kept']} kept, {summary['discarded']} discarded, {summary['crashed']} crashed"
        lines.append(named("tried", f"{summary['experiments']}: {counts}"))
    if summary["faults"]["runs"]:
        lines.append(named("repeated", faults(summary)))
    if moment.forecast and not state.comparison:
        lines.append(named("rate", moment.forecast))
    if moment.ends and not state.comparison:
        lines.append(named("ends", moment.ends))
    if summary["cost"]["calls"]:
        lines.append(named("cost", cost(summary["cost"])))
    if state.away:
        until = f" until {clock(state.away['until'])}" if state.away["until"] else ""
        away = f"{state.away['proposer']} is unavailable{until}, using the search: {one_line(state.away['reason'])}"
        lines.append(line(away, "bold red"))
    return lines


def _gain(state: State) -> Text:
    stands = standing(state)
    assert stands.apparent is not None and stands.baseline is not None
    like, percent = stands.baseline, f" ({stands.apparent / abs(stands.baseline):.2%})" if stands.baseline else ""
    percent, apparent = percent.replace("%", " %"), figure(stands.apparent, like)
    if stands.confirmed is None and stands.apparent <= 0:
        return named("gain", f"none yet: {apparent}{percent}")
    if stands.confirmed is None:
        return named("gain", f"{apparent}{percent} ", (stands.word, "bold"))
    low, high = (figure(end, like) for end in (stands.low, stands.high) if end is not None)
    interval = f", {low} to {high}; apparent {apparent}{percent}"
    return named("gain", (f"{figure(stands.confirmed, like)} confirmed", "bold green"), interval)


def _rows(state: State, most: int, ascii_only: bool) -> Table:
    """Return the header and the last experiments, the newest at the bottom, in at most `most` lines.

    If not all fit, the latest keeps before them stay in view, above a line that stands for the others.
    """
    numbers = _shown(state, max(0, most - 1))
    shown = [_row(state, index) if index is not None else _others(ascii_only) for index in numbers]
    if not shown or state.session is None:
        return Table.grid()
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    metric = state.session["metric"]
    titles = ("#", "verdict", metric if len(metric) <= LONGEST_NAME else "metric", "gain", "sigma", "took", "what")
    # Leave out the sigma column if no row has one.
    columns = [
        column for column in range(len(titles)) if titles[column] != "sigma" or any(row[column] for row in shown)
    ]
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
    kept = [each.number for each in state.experiments[1 : recent.start] if each.verdict.status == "keep"][-pins:]
    if not kept:
        return [*range(count - most, count)]
    # Lines that no keep needs go to the recent experiments.
    recent = range(count - (most - len(kept) - 1), count)
    kept = [number for number in kept if number < recent.start]
    if kept and recent.start - kept[-1] <= 2:  # the line for the others shows the only one, if there is one
        return [*kept, *range(kept[-1] + 1, count)]
    return [*kept, None, *recent]


def _others(ascii_only: bool) -> tuple[Text, ...]:
    return (Text("..." if ascii_only else "…", style="dim"), *(Text() for _ in range(6)))


def _row(state: State, index: int) -> tuple[Text, ...]:
    each = state.experiments[index]
    verdict, evidence, came = each.verdict.status, each.verdict.evidence, outcome(state, each)
    more = [status_of(each).removeprefix(verdict).strip(" ()")]
    if verdict == "crash" or (evidence is not None and evidence.how == "simplification"):
        more = [one_line(each.verdict.reason)]
    more += ["at equal steps"] if came.equal_steps else []
    more += against(state, each)
    said = "; ".join(filter(None, more))
    style = "" if verdict == "keep" else "dim"
    sigmas = "noise" if came.word == "within noise" else f"{abs(came.sigmas):.1f}" if came.sigmas is not None else ""
    return (
        Text(f"#{each.number}", style=style),
        Text(verdict, style=f"bold {COLOURS[verdict]}" if verdict != "discard" else style),
        Text(figure(came.value) if came.value is not None else "-", style=style),
        Text(figure(came.gain, came.value, "+") if came.gain is not None else "-", style=style),
        Text(sigmas, style=style),
        Text(duration(sum(run.seconds for run in each.runs)), style=style),
        Text(one_line(each.description) + (f" [{said}]" if said else ""), style=style),
    )


def _spark(values: Sequence[float], width: int, ascii_only: bool) -> str:
    """Draw a sparkline between its first and last value: `1.4012 ██▆▆▃▁ 1.2945`.

    Args:
        values: the values, in order.
        width: most characters between the two numbers.
        ascii_only: draw with ASCII characters only.
    """
    signs = ASCII_SPARKS if ascii_only else SPARKS
    count = max(1, min(width, len(values)))
    # Take the last value of each part, so that the line ends at the current value.
    taken = [values[(step + 1) * len(values) // count - 1] for step in range(count)]
    low, high = min(values), max(values)
    scale = (len(signs) - 1) / (high - low) if high > low else 0.0
    picture = "".join(signs[round((value - low) * scale)] for value in taken)
    return f"{values[0]:.4f} {picture} {values[-1]:.4f}"
