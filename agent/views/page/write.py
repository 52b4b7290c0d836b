"""Write the files of the report: the page, and the chart as SVG and PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent.journal.paths import journal_path, state_folder
from agent.report.gather import gather
from agent.repository.workspace import Workspace
from agent.system.files import write_whole
from agent.views.page import chart, page
from agent.views.page.embedded import embedded


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
        UsageError: sessions have different metrics.
    """
    data = gather(workspace, tags)
    folder = out or _folder(workspace, [session["tag"] for session in data["sessions"]])
    folder.mkdir(parents=True, exist_ok=True)
    svg, html = chart.alone(data["sessions"]), page.render(data, embedded(workspace, data["sessions"]))
    files = {"index.html": html.encode(), "progress.svg": svg.encode(), "progress.png": chart.png(svg)}
    for name, content in files.items():
        write_whole(folder / name, content, durable=False)
    return [folder / name for name in files]


def _folder(workspace: Workspace, tags: Sequence[str]) -> Path:
    if len(tags) == 1:
        return journal_path(workspace.folder, tags[0]).with_name("report")
    return state_folder(workspace.folder) / "report"
