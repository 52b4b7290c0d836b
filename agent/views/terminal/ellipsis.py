"""Parts of the live screen that stay one line high: text that is too long ends in an ellipsis."""

from __future__ import annotations

import time

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from agent.format import flat


def line(text: str, style: str = "") -> Text:
    return Text(flat(text), style=style, no_wrap=True, overflow="ellipsis")


def named(name: str, *parts: str | tuple[str, str]) -> Text:
    """Return a line with a dim name of at most ten characters and its value."""
    return Text.assemble((flat(name).ljust(10), "dim"), *map(_flat, parts), no_wrap=True, overflow="ellipsis")


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
