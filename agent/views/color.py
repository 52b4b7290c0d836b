"""Color lines for stdout if it is a terminal that supports it."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from agent.format import Colored, block
from agent.views.text import COLOURS

LABEL = 10  # characters of a label on the closing page
LEAST_TEXT = 20
COMMANDS = ("view", "adopt", "confirm", "go on", "resume")


def colored(lines: Iterable[str | Text], *, on_pipe: str | None = None) -> list[str]:
    """Return lines with terminal escapes for their colors. Lines are never wrapped, so that a diff can be copied.

    Escape sequences written by a run or a model are stripped.

    Args:
        lines: text, plain or with styles.
        on_pipe: on a pipe, return this text unchanged instead: a `Text` has no carriage returns, so that a diff of
            lines that end in them could not be applied.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        plain = [line.plain if isinstance(line, Text) else line for line in lines]
        return [Colored(line) for line in ([*map(block, plain)] if on_pipe is None else [on_pipe])]
    with console.capture() as capture:
        for line in lines:
            text = line if isinstance(line, Text) else Text(line)
            text = Text(clean, style=text.style) if (clean := block(text.plain)) != text.plain else text
            console.print(text, soft_wrap=True)
    return [Colored(line) for line in capture.get().removesuffix("\n").split("\n")]


def diff_lines(diff: str) -> list[Text]:
    return [Text(line, style=_style(line)) for line in diff.split("\n")]


def status_text(text: str, status: str) -> Text:
    """Return the line with its status word colored."""
    line = Text(text)
    line.highlight_words([status], f"bold {COLOURS.get(status, 'cyan')}")
    return line


def closing_page(lines: Iterable[str]) -> list[str]:
    """Return the closing page of `run` for a terminal: dim labels, text wrapped beside them, bold commands.

    Commands are not wrapped, so that they can be copied. Of lines with the same label only the first one shows it.
    """
    width = shutil.get_terminal_size().columns
    shown = [Text()]  # apart from the notes above it
    before = ""
    for line in lines:
        label, value = line[:LABEL], line[LABEL:]
        name = "" if label == before else label
        if not line:
            shown.append(Text())
        elif label.strip() in COMMANDS:
            shown.append(Text.assemble((name.ljust(LABEL), "dim"), (value, "bold")))
        else:
            shown += labelled(name, value, width)
        before = label
    return colored(shown)


def labelled(label: str, value: str, width: int) -> list[Text]:
    """Return a dim label of at most LABEL columns followed by its text, which is wrapped to the right of it."""
    room = max(LEAST_TEXT, width - LABEL - 1)
    # Between words, so that a path or a command stays whole.
    parts = textwrap.wrap(value, room, break_long_words=False, break_on_hyphens=False) or [""]
    names = [label.ljust(LABEL), *[" " * LABEL] * (len(parts) - 1)]
    return [Text.assemble((name, "dim"), part) for name, part in zip(names, parts, strict=True)]


def _style(line: str) -> str:
    if line.startswith(("+++", "---", "diff ", "index ")):
        return "bold"
    return {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
