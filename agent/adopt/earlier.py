"""Find the kept changes of earlier sessions that a session started on, and whether a branch has them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.adopt.message import LEFT_OUT, TRAILER
from agent.errors import AutoresearchError, PreconditionError
from agent.journal.experiment import Value
from agent.journal.journal import read
from agent.journal.paths import journal_path
from agent.repository.refs import ROW, is_merged, refs_below
from agent.repository.workspace import Workspace
from agent.source.merging import carried_over
from agent.system.invocation import git_here, typed

# Subject of the last commit that a session adds to its branch, see `agent.cli.afterwards`.
ENTRY = re.compile(r"playbook: .+ of session \S+")


def split(history: Sequence[tuple[str, str, str]]) -> tuple[list[str], list[str]]:
    """Return the keeps of sessions among commits, and the commits that no session made.

    Args:
        history: hash, parents and subject of each commit, the latest first (`agent.repository.refs.history`).
    """
    rows = [(commit, parents, found) for commit, parents, said in history if (found := ROW.fullmatch(said))]
    keeps = [parents for _, parents, found in rows if found[1] != "0" and found[2] == "keep"]
    own = {*keeps, *(commit for commit, _, _ in rows)}
    own |= {commit for commit, _, said in history if ENTRY.fullmatch(said)}
    inside = {commit for commit, _, _ in history}
    return [each for each in keeps if each in inside], [commit for commit, _, _ in history if commit not in own]


def require_adopted(
    workspace: Workspace,
    session: Mapping[str, Any],
    at: tuple[str, str],
    keeps: Sequence[str],
    known: Mapping[str, Value],
) -> None:
    """Raise PreconditionError if a branch lacks the changes that a session started from.

    Its own changes alone were never measured without them.

    Args:
        at: the branch and its commit.
        keeps: the keeps of earlier sessions in the history of its base that the branch does not contain, latest first.
        known: values of the names that the harness defines.
    """
    branch, commit = at
    tags = _tags(workspace)
    marks = marks_of(workspace.folder, [(each, tags.get(each)) for each in keeps])
    if not keeps or is_merged(workspace, session["base"], [f"refs/heads/{branch}"], marks):
        return
    base, theirs = workspace.files(f"{keeps[-1]}^"), workspace.files(session["base"])
    # Whoever merged them by hand has left no mark.
    if carried_over((workspace.files(commit), base, theirs), known, workspace.merge) == ({}, []):
        return
    tag = tags.get(keeps[0], ("", 0))[0]
    home = f"`{typed(f'adopt --tag {tag}')}` first" if tag else f"merge {session['base'][:12]} into it by hand"
    see = f"{git_here(workspace.top)} log {branch}..{session['base'][:12]}"
    first = f"run {home}" if tag else f"{home} (see `{see}`)"
    raise PreconditionError(
        f"session {session['tag']} started from the best of {tag or 'a deleted session'}, "
        f"whose changes {branch} does not have",
        hint=f"{first}, then the same command again; or take its own changes alone with --provisional",
    )


def marks_of(folder: Path, keeps: Sequence[tuple[str, tuple[str, int] | None]]) -> list[Collection[str]]:
    """Return for each keep the lines of which an adopting commit has one, if it took the keep or chose not to.

    Args:
        folder: the workspace.
        keeps: commit of each, with the tag of its session and its number; None if they are unknown.
    """
    smaller = {tag: _smaller(journal_path(folder, tag)) for tag in {of[0] for _, of in keeps if of}}
    return [
        {*(f"{TRAILER}: {each}" for each in (commit, *(smaller[of[0]].get(of[1], ()) if of else ())))}
        | {f"{LEFT_OUT}: {commit}"}
        for commit, of in keeps
    ]


def _tags(workspace: Workspace) -> dict[str, tuple[str, int]]:
    """Return commit -> tag and number of all experiments of all sessions."""
    found = {}
    for ref, commit in refs_below(workspace, "refs/autoresearch").items():
        tag, _, number = ref.removeprefix("refs/autoresearch/").partition("/")
        if number.isdecimal():
            found[commit] = (tag, int(number))
    return found


def _smaller(journal: Path) -> dict[int, list[str]]:
    """Return the smaller recipes that leave out each keep, by its number.

    Who adopted one in an earlier version left the keep out as well, but the message did not mark it.
    """
    found: dict[int, list[str]] = {}
    try:
        known = list(read(journal))
    except (AutoresearchError, OSError):  # its folder is gone, or damaged
        return {}
    for event in known:
        name = {"ablated": "smaller", "promoted": "rest"}.get(event.kind)
        recipe: Mapping[str, Any] = (event.data.get(name) if name else None) or {}
        for number in recipe["without"] if recipe.get("offered") else ():
            found.setdefault(number, []).append(recipe["commit"])
    return found
