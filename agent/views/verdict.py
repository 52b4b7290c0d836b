"""The text output of `try` and `wait`: one experiment with its verdict, and what became of the edit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.text import Text

from agent.format import named, one_line
from agent.journal.journal import fold
from agent.journal.paths import journal_path
from agent.report.verdict import result
from agent.system.invocation import typed
from agent.views.color import status_text
from agent.views.text import row


def experiment_result(folder: Path, tag: str, number: int) -> dict[str, Any]:
    """Return the data of `try --json`, including the experiment's row once it has its verdict."""
    data, state = result(folder, tag, number), fold(journal_path(folder, tag))
    return {**data, "line": row(state, number) if number < len(state.experiments) else None}


def result_lines(data: dict[str, Any]) -> list[str | Text]:
    number, tag, verdict = data["number"], data["tag"], data["verdict"]
    if verdict is None or data["line"] is None:
        lines: list[str | Text] = [
            one_line(f"#{number} of session {tag}: {data['description']}"),
            f"the edit is safe under {data['ref']}, and process {data['pid']} measures it",
        ]
        after = [f"wait      {typed(f'wait {number} --tag {tag}')}"]
    else:
        lines = [status_text(one_line(data["line"]), verdict["status"])]
        lines += [one_line(f"verdict   {verdict['reason']}")] if verdict["reason"] else []
        after = [f"details   {typed(f'show {number} --tag {tag}')}"]
    if verdict is not None and verdict["status"] == "keep":
        lines.append(f"kept      on {data['branch']}, commit {data['commit'][:12]}")
    if data["restored"]:
        lines.append(one_line(f"put back  {named(data['restored'])}; get the edit back with `{data['get_back']}`"))
    elif verdict is not None and verdict["status"] != "keep" and data["ref"]:
        lines.append(f"edit      kept under {data['ref']}")
    if data["newer"]:
        lines.append(one_line(f"edited    {named(data['newer'])} in the meantime, so it stays as it is"))
    if data["left_alone"]:
        lines.append(one_line(f"not part  {named(data['left_alone'])}: left alone"))
    lines += [one_line(f"note      {text}") for text in data["notes"]]
    return [*lines, *after]
