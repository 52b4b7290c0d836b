"""The lines about the session: best and baseline, gain and noise, progress, counts, forecast, what it builds on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from agent.format import cost, figure, one_line
from agent.journal.state import State
from agent.report.gain import Gain, standing
from agent.report.summary import summarize
from agent.views.terminal.chart import best_path
from agent.views.terminal.ellipsis import LABEL, FirstFitting, clock, line, named, sides
from agent.views.terminal.progress_panel import Moment
from agent.views.text import DETERMINISTIC, background, faults, instead

SPARKS, ASCII_SPARKS = "▁▂▃▄▅▆▇█", "_.-:=+*#"


def figure_lines(state: State, moment: Moment, room: int, *, charted: bool) -> list[RenderableType]:
    """Return the lines about the session, the most important ones first.

    Args:
        state: the session.
        moment: what the screen shows besides the session.
        room: in columns.
        charted: whether a chart shows the progress, so that no line has to.
    """
    assert state.session is not None
    summary, stands = summarize(state), standing(state)
    what = f"{summary['metric']}, {'lower' if summary['direction'] == 'minimize' else 'higher'} is better"
    lines: list[RenderableType] = [sides(line(f"autoresearch {summary['tag']}", "bold"), line(what, "dim"))]
    if summary["baseline"] is None:
        ends = [named("ends", moment.ends)] if moment.ends else []
        return [*lines, line("measuring the baseline"), *ends, *_background(summary)]
    if summary["best_number"]:
        runs = f", mean of {summary['best_runs']} runs" if summary["best_runs"] > 1 else ""
        best = ((figure(summary["best"]), "bold"), f"  #{summary['best_number']}{runs}   ", ("baseline ", "dim"))
        lines += [named("best", *best, figure(summary["baseline"])), _gain(state)]
    else:
        lines.append(named("baseline", (figure(summary["baseline"]), "bold"), "  no improvement yet"))
    lines.append(named("noise", _noise(stands)))
    path = best_path(state.experiments)
    if len(set(path)) > 1 and not charted:
        lines.append(named("progress", _spark(path, room - LABEL, moment.ascii)))
    if summary["experiments"]:
        counts = f"{summary['kept']} kept, {summary['discarded']} discarded, {summary['crashed']} crashed"
        lines.append(named("tried", f"{summary['experiments']}: {counts}"))
    if summary["faults"]["runs"]:
        lines.append(named("repeated", faults(summary)))
    if not state.comparing:
        lines += _forecast(moment, room)
    if summary["cost"]["calls"]:
        lines.append(named("cost", cost(summary["cost"])))
    if state.away:
        until = f" until {clock(state.away['until'])}" if state.away["until"] else ""
        away = f"{state.away['proposer']} is unavailable{until}, {instead(state)}: {one_line(state.away['reason'])}"
        lines.append(line(away, "bold red"))
    return [*lines, *_background(summary)]


def _forecast(moment: Moment, room: int) -> list[RenderableType]:
    """Return the rate and what ends the session, on one line if that is wide enough."""
    rate, ends = moment.forecast or "", moment.ends
    if ends and rate.endswith(f" by {ends.removeprefix('at ')}"):
        ends = ""  # the rate says it
    both = f"{rate}; ends {ends}"
    if rate and ends and LABEL + len(both) <= room:
        return [named("rate", both)]
    return [named(label, text) for label, text in (("rate", rate), ("ends", ends)) if text]


def _background(summary: Mapping[str, Any]) -> list[RenderableType]:
    lines = [background(summary, in_short=short).partition(" ") for short in (False, True)]
    return [FirstFitting([named(label, text) for label, _, text in lines])] if lines[0][0] else []


def _noise(stands: Gain) -> str:
    if stands.noise is None:
        return "not known yet"
    return f"{figure(stands.noise, stands.baseline)}, standard deviation of one run" if stands.noise else DETERMINISTIC


def _gain(state: State) -> Text:
    stands = standing(state)
    assert stands.apparent is not None and stands.baseline is not None
    like, percent = stands.baseline, f" ({stands.apparent / abs(stands.baseline):.2%})" if stands.baseline else ""
    percent, apparent = percent.replace("%", " %"), figure(stands.apparent, like)
    if stands.heldout is None and stands.apparent <= 0:
        return named("gain", f"none yet: {apparent}{percent}")
    if stands.heldout is None:
        return named("gain", f"{apparent}{percent} ", (stands.verdict or stands.word, "bold"))
    low, high = (figure(end, like) for end in (stands.low, stands.high) if end is not None)
    interval = f", {low} to {high}; apparent {apparent}{percent}"
    style = "bold" if stands.confirmed is None else "bold green"
    return named("gain", (f"{figure(stands.heldout, like)} {stands.verdict or stands.word}", style), interval)


def _spark(values: Sequence[float], width: int, ascii_only: bool) -> str:
    """Draw a sparkline: `██▆▆▃▁`.

    Args:
        values: the values, in order.
        width: most characters.
        ascii_only: draw with ASCII characters only.
    """
    signs = ASCII_SPARKS if ascii_only else SPARKS
    count = max(1, min(width, len(values)))
    # Take the last value of each part, so that the line ends at the current value.
    taken = [values[(step + 1) * len(values) // count - 1] for step in range(count)]
    low, high = min(values), max(values)
    scale = (len(signs) - 1) / (high - low) if high > low else 0.0
    return "".join(signs[round((value - low) * scale)] for value in taken)
