"""Keep the files that a user has a command write away from those that sessions research, run and record."""

from __future__ import annotations

from pathlib import Path

from agent.errors import UsageError
from agent.repository.workspace import Workspace
from agent.system.names import PROTOCOL, STATE


def require_no_part_of_session(out: Path, workspace: Workspace) -> None:
    """Check that writing a file replaces nothing that a session needs, and adds nothing to what git keeps.

    Raises:
        UsageError: it would; the message says what.
    """
    place = out.resolve()
    if place.is_relative_to(workspace.git.folder) or place.is_relative_to(workspace.top / ".git"):
        raise UsageError(f"--out {out} is in {workspace.git.folder}, which belongs to git", hint="choose another place")
    if not place.exists() or not place.is_relative_to(workspace.folder):
        return
    path = place.relative_to(workspace.folder).as_posix()
    needed = {
        "which sessions change": workspace.protocol.mutable_surface.allows(path),
        "which belongs to the harness": path in workspace.harness(workspace.head) or path == PROTOCOL,
        "which sessions write": path in workspace.records or path.split("/")[0] == STATE,
    }
    why = next((why for why, holds in needed.items() if holds), None)
    if why is not None:
        raise UsageError(f"--out {out} would replace {path}, {why}", hint="choose another file")
