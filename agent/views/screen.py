"""The live screen as a picture of a state: what it shows depends on its arguments alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Group, JustifyMethod, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agent.experiment import Experiment
from agent.progress import Reading
from agent.results import one_line
from agent.standing import standing
from agent.state import Pending, State
from agent.summary import summarize
from agent.views.text import COLOURS, cost, duration

SPARKS, ASCII_SPARKS = "▁▂▃▄▅▆▇█", "_.-:=+*#"
# From this width on the rows stand beside the rest, which then takes so much.
WIDE, LEFT = 150, 84
LEAST_ROWS = 3
GB, MB = 2**30, 2**20


@dataclass(frozen=True)
class Moment:
    """What the state does not hold. now: Unix time. lines: the end of the log of the run under way. memory: bytes.

    forecast: see `agent.forecast`. message: the latest that a person may want to know. hint: what Ctrl-C does.
    """

    now: float
    reading: Reading = field(default_factory=Reading)
    lines: Sequence[str] = ()
    memory: int | None = None
    forecast: str | None = None
    message: str = ""
    hint: str = ""
    ascii: bool = False


def screen(state: State, moment: Moment, width: int, height: int) -> RenderableType:
    """Every line is one line high: what is too long ends in an ellipsis, and the rows take the lines that are left."""
    wide = width >= WIDE
    room = LEFT if wide else width
    current = [Text(), *_current(state, moment)]
    bottom: list[RenderableType] = [
        *([_line(moment.message, "bold")] if moment.message else []),
        *([_line(moment.hint, "dim")] if moment.hint else []),
    ]
    # On a low window what runs now and what Ctrl-C does come before the figures.
    figures = _standing(state, moment, room)[: max(2, height - len(current) - len(bottom))]
    top: list[RenderableType] = [*figures, *current]
    if wide:
        both = Table.grid(padding=(0, 3, 0, 0), expand=True)
        both.add_column(width=LEFT)
        both.add_column(ratio=1)
        both.add_row(Group(*top), _rows(state, height - len(bottom) - 1))
        used = max(len(top), min(len(state.experiments), height - len(bottom) - 1))
        return Group(both, *_gap(height - used - len(bottom)), *bottom)
    left = height - len(top) - len(bottom) - 1
    rows: list[RenderableType] = [Text(), _rows(state, left)] if left >= LEAST_ROWS else []
    used = len(top) + len(bottom) + (1 + min(left, len(state.experiments)) if rows else 0)
    return Group(*top, *rows, *_gap(height - used), *bottom)


def _standing(state: State, moment: Moment, room: int) -> list[RenderableType]:
    """Where the session stands: what it is, best and baseline, gain and noise, the way there, counts and outlook."""
    assert state.session is not None
    summary, stands = summarize(state), standing(state)
    what = f"{summary['metric']}, {'lower' if summary['direction'] == 'minimize' else 'higher'} is better"
    lines: list[RenderableType] = [_sides(Text(f"autoresearch {summary['tag']}", style="bold"), _line(what, "dim"))]
    if summary["baseline"] is None:
        return [*lines, _line("measuring the baseline")]
    best = Text.assemble(
        ("best      ", "dim"), (f"{summary['best']:.6f}", "bold"), f"  #{summary['best_number']}   ",
        ("baseline ", "dim"), f"{summary['baseline']:.6f}",
    )  # fmt: skip
    lines += [best, _gain(state)]
    noise = f"{stands.noise:.6f}, standard deviation of one run" if stands.noise else "not known yet"
    lines.append(Text.assemble(("noise     ", "dim"), noise))
    path = _path(state.experiments)
    if len(path) > 1:
        lines.append(Text.assemble(("way       ", "dim"), _spark(path, room - 32, moment.ascii)))
    counts = f"{summary['kept']} kept, {summary['discarded']} discarded, {summary['crashed']} crashed"
    lines.append(Text.assemble(("tried     ", "dim"), f"{summary['experiments']}: {counts}"))
    if moment.forecast:
        lines.append(Text.assemble(("rate      ", "dim"), moment.forecast))
    if summary["cost"]["calls"]:
        lines.append(Text.assemble(("cost      ", "dim"), cost(summary["cost"])))
    if state.away:
        until = f" until {_clock(state.away['until'])}" if state.away["until"] else ""
        away = f"{state.away['proposer']} is away{until}, the search proposes: {one_line(state.away['reason'])}"
        lines.append(_line(away, "bold red"))
    for each in lines:
        _one_line_high(each)
    return lines


def _gain(state: State) -> Text:
    stands, baseline = standing(state), state.baseline
    assert stands.apparent is not None and baseline is not None and baseline.metric is not None
    percent = f" ({100 * stands.apparent / abs(baseline.metric):.2f} %)" if baseline.metric else ""
    line = Text.assemble(("gain      ", "dim"))
    if stands.confirmed is not None:
        line.append(f"{stands.confirmed:.6f} confirmed", "bold green")
        line.append(f", {stands.low:.6f} to {stands.high:.6f}; apparent {stands.apparent:.6f}{percent}")
    elif stands.apparent:
        line.append(f"{stands.apparent:.6f}{percent}")
        line.append(f" {stands.word}", "bold")
    else:
        line.append("none yet")
    return line


def _current(state: State, moment: Moment) -> list[RenderableType]:
    """The experiment under way: what, by whom, why, how far, and the run's latest figures."""
    pending, comparison = state.pending, state.comparison
    if comparison is not None and comparison.started is not None:
        done = sum(map(len, comparison.runs.values()))
        of = f"run {done + 1} of {comparison.count * len(comparison.commits)}, now {comparison.started['label']}"
        return [_line(f"fresh runs in turn, to confirm what was found: {of}", "bold")]
    if pending is None:
        number, waited = len(state.experiments), duration(max(0.0, moment.now - state.latest_at))
        doing = f"#{number}  being proposed, since {waited}" if number else "starting"
        return [_line(f"ended: {state.ended}" if state.ended else doing, "bold")]
    what = Text.assemble((f"#{pending.number}  ", "bold cyan"), (pending.description, "bold"))
    lines: list[RenderableType] = [_sides(what, _line(f"by {pending.proposer}", "dim"))]
    why = next((line.strip() for line in pending.reasoning.splitlines() if line.strip()), "")
    if why:
        lines.append(Text.assemble(("why       ", "dim"), one_line(why)))
    if pending.started is None or pending.started_at is None:
        lines.append(_line("its run starts" if pending.verdict is None else "being recorded", "dim"))
    else:
        lines += _running(pending, moment)
    for each in lines:
        _one_line_high(each)
    return lines


def _running(pending: Pending, moment: Moment) -> list[RenderableType]:
    assert pending.started is not None and pending.started_at is not None
    seconds, expected = max(0.0, moment.now - pending.started_at), max(1e-9, pending.started["expected"])
    reading = moment.reading
    done = reading.done if reading.done is not None else min(1.0, seconds / expected)
    if reading.left:
        left = f"{duration(reading.left)} of training left"
    else:
        left = f"{duration(max(0.0, expected - seconds))} left"
    bar = Table.grid(expand=True, padding=(0, 1, 0, 0))
    bar.add_column(no_wrap=True)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True)
    picture = ProgressBar(total=1.0, completed=done, style="dim", complete_style="green", finished_style="green")
    bar.add_row(_which(pending), picture, f"{done:4.0%}  {duration(seconds)}, {left}")
    figures = [
        f"loss {reading.loss:.4f}" if reading.loss is not None else "",
        f"{reading.tokens_per_second:,.0f} tokens/s" if reading.tokens_per_second is not None else "",
        _size(moment.memory) if moment.memory else "",
        f"done at about {_clock(pending.started_at + expected)}",
    ]
    latest = one_line(moment.lines[-1]) if moment.lines else ""
    quoted = [_line(f"          {latest}", "dim")] if latest and reading == Reading() else []
    return [bar, Text("          " + "   ".join(each for each in figures if each)), *quoted]


def _which(pending: Pending) -> Text:
    assert pending.started is not None
    if pending.started.get("of") is not None:
        return Text(f"best #{pending.started['of']} again")
    return Text(f"run {pending.started['run']}".ljust(9), style="dim")


def _rows(state: State, most: int) -> Table:
    """The last experiments, the newest at the bottom, as many as there are lines for."""
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    columns: tuple[JustifyMethod, ...] = ("right", "left", "right", "right", "right", "right")
    for justify in columns:
        table.add_column(justify=justify, no_wrap=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for index in range(max(0, len(state.experiments) - max(0, most)), len(state.experiments)):
        table.add_row(*_row(state.experiments, index))
    return table


def _row(experiments: Sequence[Experiment], index: int) -> tuple[Text, ...]:
    each = experiments[index]
    status, evidence, metric = each.verdict.status, each.verdict.evidence, each.metric
    before = next((e.metric for e in reversed(experiments[:index]) if e.verdict.status == "keep"), None)
    if evidence is not None:
        before = evidence.incumbent_mean
    what = each.description + (f" [{one_line(each.verdict.reason)}]" if status == "crash" else "")
    style = "" if status == "keep" else "dim"
    return (
        Text(f"#{each.number}", style=style),
        Text(status, style=f"bold {COLOURS[status]}" if status != "discard" else style),
        Text(f"{metric:.6f}" if metric is not None else "-", style=style),
        Text(f"{metric - before:+.6f}" if metric is not None and before is not None else "-", style=style),
        Text(
            f"{evidence.sigmas:.1f} sigma" if evidence is not None and evidence.sigmas is not None else "", style=style
        ),
        Text(duration(sum(run.seconds for run in each.runs)), style=style),
        Text(what, style=style),
    )


def _path(experiments: Sequence[Experiment]) -> list[float]:
    """The best of each time."""
    path: list[float] = []
    for each in experiments:
        if each.verdict.status == "keep" and each.metric is not None:
            path.append(each.metric)
        elif path:
            path.append(path[-1])
    return path


def _spark(values: Sequence[float], width: int, ascii_only: bool) -> str:
    """`1.4012 ██▆▆▃▁ 1.2945`: at most `width` signs between its ends, the height is the value."""
    signs = ASCII_SPARKS if ascii_only else SPARKS
    count = max(1, min(width, len(values)))
    # The last value of each part, so that the end is where the session is now.
    taken = [values[(step + 1) * len(values) // count - 1] for step in range(count)]
    low, high = min(values), max(values)
    scale = (len(signs) - 1) / (high - low) if high > low else 0.0
    picture = "".join(signs[round((value - low) * scale)] for value in taken)
    return f"{values[0]:.4f} {picture} {values[-1]:.4f}"


def _sides(left: Text, right: Text) -> Table:
    sides = Table.grid(expand=True, padding=(0, 1, 0, 0))
    sides.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    sides.add_column(no_wrap=True, justify="right")
    sides.add_row(left, right)
    return sides


def _line(text: str, style: str = "") -> Text:
    return Text(one_line(text) if text.strip() == text else text, style=style, no_wrap=True, overflow="ellipsis")


def _one_line_high(line: RenderableType) -> None:
    if isinstance(line, Text):
        line.no_wrap, line.overflow = True, "ellipsis"


def _gap(lines: int) -> list[Text]:
    return [Text() for _ in range(max(0, lines))]


def _size(held: int) -> str:
    return f"{held / GB:.1f} GB of memory" if held >= GB else f"{held / MB:.0f} MB of memory"


def _clock(at: float) -> str:
    return time.strftime("%H:%M", time.localtime(at))
