"""Colour for lines that go to stdout: on a terminal that wants it, plain text everywhere else."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from agent.format import Colored, block
from agent.views.text import COLOURS


def colored(lines: Iterable[str | Text], *, raw: bool = False) -> list[str]:
    """The lines with the terminal's codes in them. Nothing is wrapped: a diff is copied as it is.

    What a run or a model wrote steers no terminal. raw: on a pipe the lines are as they are, for a diff to be applied.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        plain = [line.plain if isinstance(line, Text) else line for line in lines]
        return [Colored(line if raw else block(line)) for line in plain]
    with console.capture() as capture:
        for line in lines:
            text = line if isinstance(line, Text) else Text(line)
            text = Text(clean, style=text.style) if (clean := block(text.plain)) != text.plain else text
            console.print(text, soft_wrap=True)
    return [Colored(line) for line in capture.get().removesuffix("\n").split("\n")]


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
