"""Take what a session found into the user's playbook: with the changes that are adopted, or by hand."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from agent.errors import AutoresearchError, PreconditionError
from agent.format import one_line
from agent.journal.journal import fold
from agent.journal.paths import find_session, journal_path
from agent.journal.state import State
from agent.playbook.entries import LARGEST_FILE
from agent.playbook.findings import added, findings
from agent.repository.workspace import Workspace
from agent.system.files import read_bounded, reason, write_whole
from agent.system.invocation import typed
from agent.system.names import PLAYBOOK


def extended(workspace: Workspace, state: State, numbers: Collection[int], at: str) -> tuple[bytes | None, str]:
    """Return the playbook of the commit `at` with what a session found, and why nothing can be added.

    Args:
        numbers: the kept experiments that count.

    Returns:
        The content, None if it does not change; and the reason, empty if there is none.
    """
    content, found = workspace.playbook(at), [each for each in findings(state) if each.number in numbers]
    if content is None or not found:
        return None, ""
    try:
        whole, new = added(content, found)
    except AutoresearchError as error:  # it is no playbook, or it is full
        return None, str(error)
    return (whole if new else None), ""


def add(folder: Path, tag: str) -> dict[str, Any]:
    """Add what a session found to the playbook in the checkout, and return what was done as plain data.

    Raises:
        PreconditionError: there is nothing to add, or no playbook that can be read.
    """
    tag = find_session(folder, tag)
    state = fold(journal_path(folder, tag))
    if state.incumbent is None or state.incumbent.number == 0:
        raise PreconditionError(f"session {tag} kept nothing better than the baseline, so it has nothing to add")
    found = findings(state)
    if not found:
        raise PreconditionError(
            f"no held-out runs of session {tag} have compared a kept change with the baseline",
            hint=f"run `{typed(f'confirm --tag {tag}')}` first",
        )
    path = folder / PLAYBOOK
    try:
        content = read_bounded(path, LARGEST_FILE)
    except FileNotFoundError:
        hint = f"create it: `echo '# Playbook' > {PLAYBOOK}`"
        raise PreconditionError(f"{PLAYBOOK} not found", hint=hint) from None
    except OSError as error:
        why = one_line(reason(error))
        raise PreconditionError(f"cannot read {PLAYBOOK}: {why}", hint="replace it with a text file") from None
    whole, numbers = added(content, found)
    if numbers:
        write_whole(path, whole)
    return {"tag": tag, "path": PLAYBOOK, "added": numbers}


def add_lines(data: dict[str, Any]) -> list[str]:
    if not data["added"]:
        return [f"{data['path']} has an entry for each change that session {data['tag']} kept"]
    shown = ", ".join(f"#{number}" for number in data["added"])
    return [f"added {shown} of session {data['tag']} to {data['path']}"]
