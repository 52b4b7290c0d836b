"""Colour for lines that go to stdout: on a terminal that wants it, plain text everywhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from agent.views.text import COLOURS

CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


def painted(lines: Iterable[str | Text]) -> list[str]:
    """The lines with the terminal's codes in them, or as they are. Nothing is wrapped: a diff is copied as it is."""
    console = Console(highlight=False)
    if not console.is_terminal:
        return [line.plain if isinstance(line, Text) else line for line in lines]
    with console.capture() as capture:
        for line in lines:
            text = line if isinstance(line, Text) else Text(line)
            # What a run or a model wrote must not steer the terminal.
            text.plain = CONTROL.sub("?", text.plain)
            console.print(text, soft_wrap=True)
    return capture.get().removesuffix("\n").split("\n")


def diff_lines(diff: str) -> list[Text]:
    return [Text(line, style=_style(line)) for line in diff.split("\n")]


def status_text(text: str, status: str) -> Text:
    """The line with its status word in the status's colour; the word says the same without."""
    line = Text(text)
    line.highlight_words([status], f"bold {COLOURS.get(status, 'cyan')}")
    return line


def _style(line: str) -> str:
    if line.startswith(("+++", "---", "diff ", "index ")):
        return "bold"
    return {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
