"""Shell completion of sessions and experiments, without heavy imports.

zsh evaluates completions, and a model may have written the description of an experiment, so only plain characters are
passed on.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import typer

from agent.errors import AutoresearchError
from agent.journal.paths import find_session, journal_path, tags_of, workspace_of
from agent.system.files import read_end

PLAIN = re.compile(r"[^A-Za-z0-9_ .,+>=-]+")
LARGEST_READ = 2**24  # bytes of a journal, counted from the end
WIDEST = 60  # characters of a description

Offers = list[tuple[str, str]]  # a value, and the description that zsh and fish show with it


def tags(ctx: typer.Context, incomplete: str) -> Offers:
    """Offer the sessions of the workspace, the most recent first."""
    names = [name for name in reversed(tags_of(_workspace(ctx))) if not PLAIN.search(name)]
    return [(name, "") for name in names if name.startswith(incomplete)]


def experiments(ctx: typer.Context, incomplete: str) -> Offers:
    """Offer `best`, `baseline` and the numbers of the session's experiments, the latest first."""
    folder = _workspace(ctx)
    if not tags_of(folder):  # an error's hint takes processes, and this is no error
        return []
    try:
        offers = _experiments(journal_path(folder, find_session(folder, ctx.params.get("tag"))))
    except (AutoresearchError, OSError):
        return []  # completion cannot show errors: the command itself reports them
    return [offer for offer in offers if offer[0].startswith(incomplete)]


def agents(incomplete: str) -> Offers:
    from agent.proposers.agent.presets import PRESETS

    return [(name, "") for name in PRESETS if name.startswith(incomplete)]


def taught(incomplete: str) -> Offers:
    from agent.skill.agents import AGENTS

    return [(each.name, each.title) for each in AGENTS if each.name.startswith(incomplete)]


def proposers(incomplete: str) -> Offers:
    return [(name, "") for name in ("search", "llm", "command", "hybrid") if name.startswith(incomplete)]


def _workspace(ctx: typer.Context) -> Path:
    return workspace_of(Path(ctx.find_root().params.get("folder") or "."))


def _experiments(journal: Path) -> Offers:
    """Read only two kinds of events: replaying a whole journal would be too slow for Tab."""
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
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue  # a torn or invalid line: the command itself reports it
    latest = [(str(number), PLAIN.sub(" ", " ".join(said[number]))[:WIDEST]) for number in sorted(said, reverse=True)]
    return [("best", "the best so far"), ("baseline", "the unchanged recipe"), *latest]
