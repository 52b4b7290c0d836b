"""The report's files: the page, and its chart on its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent.journal.paths import journal_path, state_folder
from agent.report.gather import gather
from agent.repository.workspace import Workspace
from agent.system.files import write_whole
from agent.views.page import chart, page


def write_report(workspace: Workspace, tags: Sequence[str], out: Path | None = None) -> list[Path]:
    """Write the page and the chart on its own, as SVG and PNG. Returns the three paths, the page first.

    Without `out` beside the session's journal, or in `.autoresearch/report` for several. Without tags the session last
    worked on. Raises PreconditionError where there is no such session, UsageError where two do not compare.
    """
    data = gather(workspace, tags)
    folder = out or _folder(workspace, [session["tag"] for session in data["sessions"]])
    folder.mkdir(parents=True, exist_ok=True)
    svg = chart.alone(data["sessions"])
    files = {"index.html": page.render(data).encode(), "progress.svg": svg.encode(), "progress.png": chart.png(svg)}
    for name, content in files.items():
        write_whole(folder / name, content, durable=False)
    return [folder / name for name in files]


def _folder(workspace: Workspace, tags: Sequence[str]) -> Path:
    if len(tags) == 1:
        return journal_path(workspace.folder, tags[0]).with_name("report")
    return state_folder(workspace.folder) / "report"
