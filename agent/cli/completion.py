"""What the shell offers after Tab: sessions and experiments of the workspace, read without loading anything heavy.

zsh evaluates what it is offered, and what stands beside an experiment was written by a model: only plain characters
of it are handed on.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import typer

from agent.errors import AutoresearchError
from agent.journal.paths import find_session, journal_path, state_folder, workspace_of
from agent.system.files import read_end

PLAIN = re.compile(r"[^A-Za-z0-9_ .,+>=-]+")
LARGEST_READ = 2**24  # bytes of a journal, from its end
WIDEST = 60  # characters of what stands beside an offer

Offers = list[tuple[str, str]]  # a value, and what zsh and fish say beside it


def tags(ctx: typer.Context, incomplete: str) -> Offers:
    """The sessions of the workspace, the one last worked on first."""
    journals = (state_folder(_workspace(ctx)) / "sessions").glob("*/journal.jsonl")
    found = sorted(journals, key=lambda path: path.lstat().st_mtime, reverse=True)
    names = [path.parent.name for path in found if not PLAIN.search(path.parent.name)]
    return [(name, "") for name in names if name.startswith(incomplete)]


def experiments(ctx: typer.Context, incomplete: str) -> Offers:
    """`best`, `baseline` and the numbers of the session that is meant, the latest first; nothing without one."""
    folder = _workspace(ctx)
    try:
        offers = _experiments(journal_path(folder, find_session(folder, ctx.params.get("tag"))))
    except (AutoresearchError, OSError):
        return []  # Tab is no place for a sentence: the command itself says what is wrong
    return [offer for offer in offers if offer[0].startswith(incomplete)]


def agents(incomplete: str) -> Offers:
    from agent.proposers.agent.presets import PRESETS

    return [(name, "") for name in PRESETS if name.startswith(incomplete)]


def proposers(incomplete: str) -> Offers:
    return [(name, "") for name in ("search", "llm", "command", "hybrid") if name.startswith(incomplete)]


def _workspace(ctx: typer.Context) -> Path:
    return workspace_of(Path(ctx.find_root().params.get("folder") or "."))


def _experiments(journal: Path) -> Offers:
    """From two kinds of events alone: folding a long journal into a state takes longer than a person waits for Tab."""
    said: dict[int, list[str]] = {}
    for line in read_end(journal, LARGEST_READ).splitlines():
        if b'"proposed"' not in line and b'"judged"' not in line:
            continue
        try:
            event = json.loads(line)
            if event["event"] == "proposed":
                said[int(event["number"])] = ["under way", str(event["description"])]
            elif event["event"] == "judged":
                said[int(event["number"])][0] = str(event["status"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # a torn line, or one that is no event: the command itself says what is wrong
    latest = [(str(number), PLAIN.sub(" ", " ".join(said[number]))[:WIDEST]) for number in sorted(said, reverse=True)]
    return [("best", "the best so far"), ("baseline", "the recipe as it was"), *latest]
