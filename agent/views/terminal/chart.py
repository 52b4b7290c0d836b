"""The charts of the live screen, in characters that every terminal font has: the best so far, and a run's loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.text import Text

from agent.decision.estimate import estimate
from agent.format import brief
from agent.journal.experiment import Experiment
from agent.journal.state import State
from agent.pruning.curves import Curve
from agent.report.gain import standing
from agent.views.terminal.ellipsis import line

LEAST_LINES = 5  # of one chart, with its title
BEST_LINES, LOSS_LINES = 36, 12  # at most
DIGITS = 5
EARLY = 0.05  # of the training: the loss falls so fast that showing all of it would leave the rest flat
# The line of the best: along, from one level to the next, between them.
ALONG, DOWN, UP, BETWEEN = "─", ("┐", "└"), ("┘", "┌"), "│"
BARS, ASCII_BARS = " ▁▂▃▄▅▆▇█", " .:-=+*##"

Cell = tuple[str, str]  # a character and its style
Grid = list[list[Cell]]


def charts(state: State, curve: Curve, width: int, height: int, ascii_only: bool) -> list[Text]:
    """Return the lines of the charts that there is something to show and room for, the best above the loss.

    Args:
        state: the session.
        curve: the learning curve of the run in progress; empty if there is none.
        width: in columns.
        height: most lines.
        ascii_only: draw with ASCII characters only.
    """
    best = best_chart(state, width, height, ascii_only)
    loss = loss_chart(curve, width, height, ascii_only)
    if not best or not loss or height <= 2 * LEAST_LINES:
        return best or loss
    loss = loss_chart(curve, width, (height - 1) // 2, ascii_only)
    return [*best_chart(state, width, height - 1 - len(loss), ascii_only), Text(), *loss]


def best_path(experiments: Sequence[Experiment]) -> list[float]:
    """Return the metric of the incumbent after each experiment, from the first one that has a metric."""
    path: list[float] = []
    for each in experiments:
        if each.kept and each.metric is not None:
            path.append(each.metric)
        elif path:
            path.append(path[-1])
    return path


def best_chart(state: State, width: int, height: int, ascii_only: bool) -> list[Text]:
    """Draw the best so far as steps, the other experiments as points, and the noise around the best as a band.

    Returns nothing without room or before the first experiment.
    """
    path, rows = best_path(state.experiments), min(height, BEST_LINES) - 1
    if height < LEAST_LINES or len(path) < 2:
        return []
    noise = standing(state).noise or 0.0
    low, high = _scale(path, noise)
    labels = _gutter(low, high)
    columns = width - len(labels[0])
    grid: Grid = [[(" ", "")] * columns for _ in range(rows)]

    def row(value: float) -> int:
        return round((high - min(high, max(low, value))) / (high - low) * (rows - 1))

    places = [index * (columns - 1) // max(1, len(path) - 1) for index in range(len(path))]
    levels = _levels([row(value) for value in path], places, columns)
    band = round(noise / (high - low) * (rows - 1))
    for column, level in enumerate(levels if band else ()):
        for near in range(max(0, level - band), min(rows, level + band + 1)):
            grid[near][column] = (":" if ascii_only else "░", "dim")
    crashed = False
    for each, column in zip(state.experiments[len(state.experiments) - len(path) :], places, strict=True):
        value = estimate(each)
        if each.verdict.status == "crash":
            grid[rows - 1][column], crashed = ("x", "red"), True
        elif each.verdict.status == "discard" and value is not None and math.isfinite(value):
            grid[row(value)][column] = ("." if ascii_only else "·", "")
    _steps(grid, levels, ascii_only)
    legend = ["- best, . others" if ascii_only else "─ best, · others"]
    legend += ["x crashed"] if crashed else []
    legend += [": noise" if ascii_only else "░ noise"] if band else []
    every = f"#{len(state.experiments) - len(path)} to #{len(state.experiments) - 1}"
    return [_title(", ".join(legend), every, width), *_lines(grid, labels, rows)]


def loss_chart(curve: Curve, width: int, height: int, ascii_only: bool) -> list[Text]:
    """Draw the loss of a run over its training as bars; the part that is still to come stays empty.

    Returns nothing without room or before the second line of progress.
    """
    losses = [point for point in curve if math.isfinite(point.loss)]
    if height < LEAST_LINES or len(losses) < 2:
        return []
    signs, rows = ASCII_BARS if ascii_only else BARS, min(height, LOSS_LINES) - 1
    fractions, values = [point.fraction for point in losses], [point.loss for point in losses]
    late = [value for at, value in zip(fractions, values, strict=True) if at >= EARLY] or values
    low, high = min(late), max(late)
    if high <= low:
        high = low + (abs(low) or 1.0) * 0.01
    labels = _gutter(low, high)
    columns = width - len(labels[0])
    grid: Grid = [[(" ", "")] * columns for _ in range(rows)]
    place = 0
    for column in range(min(columns, math.ceil(fractions[-1] * columns))):
        while place + 1 < len(fractions) and fractions[place + 1] * columns <= column + 1:
            place += 1
        share = (min(high, max(low, values[place])) - low) / (high - low)
        # The lowest value is one eighth high, so that it is visible.
        eighths = 1 + round(share * (8 * rows - 1))
        for level in range(rows):
            grid[rows - 1 - level][column] = (signs[max(0, min(8, eighths - 8 * level))], "dim cyan")
    title = f"loss of this run, {brief(values[-1], DIGITS)} at {fractions[-1]:.0%}".replace("%", " %")
    return [line(title, "dim"), *_lines(grid, labels, rows)]


def _scale(path: Sequence[float], noise: float) -> tuple[float, float]:
    """Return the values at the lower and upper edge: those of the best and three times the noise around it.

    Others stand at the edge.
    """
    low, high = min(path), max(path)
    margin = max(3 * noise, 0.04 * (high - low)) or (abs(high) or 1.0) * 0.01
    return low - margin, high + margin


def _levels(rows: Sequence[int], places: Sequence[int], columns: int) -> list[int]:
    """Return the row of the line in each column: that of the last experiment up to it."""
    levels, index = [], 0
    for column in range(columns):
        while index + 1 < len(places) and places[index + 1] <= column:
            index += 1
        levels.append(rows[index])
    return levels


def _steps(grid: Grid, levels: Sequence[int], ascii_only: bool) -> None:
    style, before = "bold green", levels[0]
    for column, level in enumerate(levels):
        if level == before:
            grid[level][column] = ("-" if ascii_only else ALONG, style)
            continue
        for between in range(min(level, before) + 1, max(level, before)):
            grid[between][column] = ("|" if ascii_only else BETWEEN, style)
        first, last = ("+", "+") if ascii_only else DOWN if level > before else UP
        grid[before][column], grid[level][column] = (first, style), (last, style)
        before = level


def _gutter(low: float, high: float) -> tuple[str, str]:
    """Return the labels of the upper and the lower edge, equally wide."""
    upper, lower = brief(high, DIGITS), brief(low, DIGITS)
    width = max(len(upper), len(lower))
    return f"{upper.rjust(width)} ", f"{lower.rjust(width)} "


def _title(legend: str, every: str, width: int) -> Text:
    """Return the legend with the experiments at the end of the line, below which the last of them is drawn."""
    room = width - len(legend) - 2
    return line(f"{legend}  {every:>{room}}" if len(every) <= room else legend, "dim")


def _lines(grid: Grid, labels: tuple[str, str], rows: int) -> list[Text]:
    empty = " " * len(labels[0])
    names = [labels[0], *[empty] * (rows - 2), labels[1]]
    return [
        Text.assemble((name, "dim"), *cells, no_wrap=True, overflow="crop")
        for name, cells in zip(names, grid, strict=True)
    ]
