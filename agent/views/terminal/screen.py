"""The live screen as a pure function of state, moment and size."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from agent.format import cost, duration, figure, one_line
from agent.journal.experiment import Experiment
from agent.journal.state import State
from agent.report.gain import outcome, standing
from agent.report.summary import summarize
from agent.views.terminal.ellipsis import clock, gap, line, named, sides
from agent.views.terminal.progress_panel import Moment, progress_panel
from agent.views.text import COLOURS, against, faults, status_of

SPARKS, ASCII_SPARKS = "▁▂▃▄▅▆▇█", "_.-:=+*#"
# From this width on, the rows go next to the rest, which then takes LEFT columns.
WIDE, LEFT = 150, 84
LEAST_ROWS = 3
LONGEST_NAME = 12


def screen(state: State, moment: Moment, width: int, height: int) -> RenderableType:
    """Lay out the screen. Long lines end in an ellipsis, and the rows take the lines that are left.

    Args:
        state: the session.
        moment: what the screen shows besides the session.
        width: in columns.
        height: in lines.
    """
    wide = width >= WIDE
    room = LEFT if wide else width
    now = [Text(), *progress_panel(state, moment)]
    bottom: list[RenderableType] = [
        *([line(moment.message, "bold")] if moment.message else []),
        *([line(moment.hint, "dim")] if moment.hint else []),
    ]
    # In a low window, the current run and the hint take precedence over the figures.
    figures = _standing(state, moment, room)[: max(2, height - len(now) - len(bottom))]
    top: list[RenderableType] = [*figures, *now]
    if wide:
        both = Table.grid(padding=(0, 3, 0, 0), expand=True)
        both.add_column(width=LEFT)
        both.add_column(ratio=1)
        rows = _rows(state, height - len(bottom) - 1)
        both.add_row(Group(*top), rows)
        return Group(both, *gap(height - max(len(top), rows.row_count) - len(bottom)), *bottom)
    left = height - len(top) - len(bottom) - 1
    rows = _rows(state, left)
    below: list[RenderableType] = [Text(), rows] if left > LEAST_ROWS and rows.row_count else []
    used = len(top) + len(bottom) + (1 + rows.row_count if below else 0)
    return Group(*top, *below, *gap(height - used), *bottom)


def _standing(state: State, moment: Moment, room: int) -> list[RenderableType]:
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
    path = _path(state.experiments)
    if len(set(path)) > 1:
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


def _rows(state: State, most: int) -> Table:
    """Return the header and the last experiments, the newest at the bottom, in at most `most` lines."""
    first = max(0, len(state.experiments) - max(0, most - 1))
    shown = [_row(state, index) for index in range(first, len(state.experiments))]
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


def _path(experiments: Sequence[Experiment]) -> list[float]:
    """Return the metric of the incumbent after each experiment."""
    path: list[float] = []
    for each in experiments:
        if each.verdict.status == "keep" and each.metric is not None:
            path.append(each.metric)
        elif path:
            path.append(path[-1])
    return path


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
