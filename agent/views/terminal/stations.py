"""The stations of a session as a table: a line for each, with what it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from agent.format import brief, duration, figure
from agent.journal.state import State, side
from agent.report.stations import StationStatus, stations_of
from agent.views.terminal.ellipsis import clock, line, named
from agent.views.text import upcoming

NAME, DOING = "station", "doing"
LONGEST_NAME = 14
LEAST_STATIONS = 4  # lines of the table in a low window, with its header
# From these widths on there is room for when a run ends, and for the number of runs.
ENDS, RUNS = 72, 84


def stations_panel(state: State, now: float, width: int, most: int) -> list[RenderableType]:
    """Return the lines about what the stations do.

    Args:
        state: a session with stations.
        now: Unix time.
        width: in columns.
        most: lines; the busiest stations are shown if not all fit.
    """
    if state.ended is not None and not state.flight.leases and not state.comparing:
        return [line(f"ended: {state.ended}", "bold")]
    lines, ahead = _comparison(state), upcoming(state.prepared, state.preparing)
    lines += [named("next", ahead)] if ahead else []
    table = stations_table(stations_of(state, now), width, max(LEAST_STATIONS, most - len(lines)))
    return [*lines, *table]


def stations_table(stations: Sequence[StationStatus], width: int, most: int) -> list[RenderableType]:
    """Return the header, a line for each station, and one that counts those left out.

    Args:
        stations: in the order of the session.
        width: in columns.
        most: lines in all.
    """
    shown = list(stations)
    if len(shown) > most - 1:
        shown = sorted(stations, key=_busyness, reverse=True)[: max(1, most - 2)]
    titles, doing = [NAME, DOING, "for", "ends", "runs", "noise", "used"], "runs now"
    if not any(each.here for each in stations):
        titles, doing = [NAME, DOING, "runs", "noise", "level", "used"], "machine"
    elif width < RUNS:
        titles = [title for title in titles if title != "runs" and (title != "ends" or width >= ENDS)]
    rows = [{title: Text(doing if title == DOING else title, "dim") for title in titles}, *map(_cells, shown)]
    wide = {title: max(row[title].cell_len for row in rows) for title in titles}
    left = [each for each in stations if each not in shown]
    return [*(_line(row, wide) for row in rows), *([line(_others(left), "dim")] if left else [])]


def _line(row: Mapping[str, Text], wide: Mapping[str, int]) -> Table:
    """Return a row as a line of its own, so that a panel has as many parts as lines."""
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    for title, width in wide.items():
        if title == DOING:
            table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        else:
            justify: JustifyMethod = "left" if title == NAME else "right"
            table.add_column(no_wrap=True, overflow="ellipsis", justify=justify, width=min(width, LONGEST_NAME))
    table.add_row(*(row[title] for title in wide))
    return table


def _cells(station: StationStatus) -> dict[str, Text]:
    now = station.running
    style = "" if station.here else "dim"
    doing = Text("idle" if station.here else f"gone: {station.gone}" if station.gone else station.machine, "dim")
    if now is not None:
        name = Text(now.name, style="bold" if now.kind == "candidate" else "")
        doing = Text.assemble(name, f"  {now.description}") if now.description else name
    return {
        NAME: Text(station.name, style=f"{style} cyan".strip()),
        DOING: doing,
        "for": Text(duration(now.seconds) if now else "-", style=style),
        "ends": Text(clock(now.done_at) if now else "-", style=style),
        "runs": Text(f"{station.runs:,}", style=style),
        "noise": Text("-" if station.noise is None else brief(station.noise, 2), style=style),
        "level": Text("-" if station.level is None else figure(station.level, sign="+"), style=style),
        "used": Text(used(station), style=style),
    }


def used(station: StationStatus) -> str:
    """Format the fraction of time that a station was busy: `97 %`."""
    return "-" if station.used is None else f"{100 * station.used:.0f} %"


def _busyness(station: StationStatus) -> tuple[bool, bool, float]:
    return station.running is not None, station.here, station.busy


def _others(left: Sequence[StationStatus]) -> str:
    gone, idle = sum(not each.here for each in left), sum(each.here and each.running is None for each in left)
    said = [f"{gone} gone"] if gone else []
    said += [f"{idle} idle"] if idle else []
    return f"and {len(left)} more" + (f", {', '.join(said)}" if said else "")


def _comparison(state: State) -> list[RenderableType]:
    """Return the lines about a comparison in progress: its sides, with their mean so far."""
    comparison = state.comparison
    if comparison is None or not state.comparing:
        return []
    names = {label: side(state, label, commit) for label, commit in comparison.commits.items()}
    done = min((len(comparison.runs.get(label, ())) for label in names), default=0)
    pairs = f", {done} of {comparison.count} pairs" if len(names) == 2 else ""
    return [line(f"{comparison.doing} with held-out runs: {' and '.join(names.values())}{pairs}", "bold")]
