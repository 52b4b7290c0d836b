"""A workspace with sessions of several kinds, one of a thousand experiments, and their reports."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from agent.protocol.load import load_protocol
from agent.report.gather import gather
from agent.repository.workspace import Workspace
from agent.views.page.write import write_report
from tests.common.journals import HOSTILE, JournalBuilder
from tests.common.workspaces import commit_many, git, make_quick

LONG = 1000


class Made:
    """A workspace with sessions of several kinds, and their reports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_quick(folder)
        base = git(folder, "rev-parse", "HEAD")
        text = (folder / "train.py").read_text()
        (folder / "train.py").write_text(
            text.replace("RATE = 0.1", "RATE = 0.4").replace("import sys\n", "import sys\n\n# <b>\n")
        )
        git(folder, "commit", "-qam", "better")
        best = git(folder, "rev-parse", "HEAD")
        sessions = folder / ".autoresearch" / "sessions"
        commits = commit_many(folder, [f"{text}\n# {HOSTILE}\nRATE = {n}\n" for n in range(1, LONG + 1)])
        long = JournalBuilder("long", base, best, commits=commits, logs=sessions / "long")
        long.baseline().mixed(LONG).confirmed()
        night = JournalBuilder("night", base, best, seed=3).baseline().mixed(60)
        up = JournalBuilder("up", base, best, direction="maximize").baseline().mixed(40).confirmed()
        for tag, builder in (("long", long), ("night", night), ("up", up)):
            builder.save(sessions / tag / "journal.jsonl")
        self.workspace = Workspace(folder, load_protocol(folder))

    @functools.cache  # noqa: B019  # the instance lives as long as the tests of this module
    def data(self, *tags: str) -> dict[str, Any]:
        return gather(self.workspace, tags)

    @functools.cache  # noqa: B019
    def report(self, *tags: str) -> Path:
        return write_report(self.workspace, tags, self.folder.parent / "-".join(tags))[0]
