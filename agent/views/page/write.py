"""Write the files of the report: the page, and the chart as SVG and PNG."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from agent.errors import UsageError
from agent.journal.paths import journal_path, state_folder
from agent.report.gather import gather
from agent.repository.outputs import require_no_part_of_session
from agent.repository.workspace import Workspace
from agent.system.files import write_whole
from agent.views.page import chart, page
from agent.views.page.embedded import embedded

FILES = ("index.html", "progress.svg", "progress.png")
# The end of the title of every page, also of those of earlier versions.
MARK, LONGEST_HEAD = b"autoresearch</title>", 2**16


def write_report(workspace: Workspace, tags: Sequence[str], out: Path | None = None) -> list[Path]:
    """Write the page, and the chart as SVG and PNG.

    Args:
        workspace: the workspace.
        tags: the sessions; empty takes the most recent one.
        out: output folder; None takes `report` next to the session's journal, or `.autoresearch/report` for several.

    Returns:
        The three paths, the page first.

    Raises:
        PreconditionError: a session does not exist or has no baseline.
        UsageError: sessions have different metrics, or `out` has files that are not those of a report.
    """
    if out is not None:
        _require_ours(workspace, out)
    data = gather(workspace, tags)
    folder = out or _folder(workspace, [session["tag"] for session in data["sessions"]])
    folder.mkdir(parents=True, exist_ok=True)
    svg, html = chart.alone(data["sessions"]), page.render(data, embedded(workspace, data["sessions"]))
    for name, content in zip(FILES, (html.encode(), svg.encode(), chart.png(svg)), strict=True):
        write_whole((folder / name).resolve(), content, durable=False)
    return [folder / name for name in FILES]


def _require_ours(workspace: Workspace, out: Path) -> None:
    """Raise UsageError if a folder has files in place of the report's that are not those of an earlier one."""
    ours = False
    with contextlib.suppress(OSError), (out / FILES[0]).open("rb") as file:
        ours = MARK in file.read(LONGEST_HEAD)
    if ours:
        return
    for name in FILES:
        require_no_part_of_session(out / name, workspace)
        if os.path.lexists(out / name):
            raise UsageError(
                f"--out {out} would replace {out / name}, which is not part of a report",
                hint="choose another folder, or move the file away",
            )


def _folder(workspace: Workspace, tags: Sequence[str]) -> Path:
    if len(tags) == 1:
        return journal_path(workspace.folder, tags[0]).with_name("report")
    return state_folder(workspace.folder) / "report"
