"""Parts of the live screen, most of which stay one line high: text that is too long ends in an ellipsis."""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from agent.format import flat

LABEL = 10  # columns
NO_BREAK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class FirstFitting:
    """The first of several texts that fits into the width. If none does, the last one ends in an ellipsis."""

    texts: Sequence[Text]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield next((text for text in self.texts if text.cell_len <= options.max_width), self.texts[-1])

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        most = min(options.max_width, max(text.cell_len for text in self.texts))
        return Measurement(min(1, most), most)


def line(text: str, style: str = "") -> Text:
    return Text(flat(text), style=style, no_wrap=True, overflow="ellipsis")


def wrapped(text: str, width: int, style: str = "") -> list[Text]:
    """Return the text on as many lines as it needs. A command between backquotes stays on one line if it fits."""
    whole = re.sub(r"`[^`]*`", lambda command: command[0].replace(" ", NO_BREAK), flat(text))
    found = textwrap.wrap(whole, max(1, width), break_on_hyphens=False)
    return [Text(each.replace(NO_BREAK, " "), style=style) for each in found]


def named(name: str, *parts: str | tuple[str, str]) -> Text:
    """Return a line with a dim name of at most LABEL characters and its value."""
    return Text.assemble((flat(name).ljust(LABEL), "dim"), *map(_flat, parts), no_wrap=True, overflow="ellipsis")


def parts(name: str, *texts: str) -> FirstFitting:
    """Return a line with a dim name and those of the texts, from the first one on, that fit."""
    kept = [text for text in texts if text]
    return FirstFitting([named(name, "  ".join(kept[:count])) for count in range(len(kept), 0, -1)] or [named(name)])


def _flat(part: str | tuple[str, str]) -> str | tuple[str, str]:
    return flat(part) if isinstance(part, str) else (flat(part[0]), part[1])


def sides(left: Text, right: Text) -> Table:
    table = Table.grid(expand=True, padding=(0, 1, 0, 0))
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column(no_wrap=True, justify="right")
    table.add_row(left, right)
    return table


def gap(lines: int) -> list[RenderableType]:
    return [Text() for _ in range(max(0, lines))]


def clock(at: float) -> str:
    return time.strftime("%H:%M", time.localtime(at))
