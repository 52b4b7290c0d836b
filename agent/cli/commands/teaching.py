"""`skill` teaches coding agents to research in this workspace."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli import completion
from agent.cli.command import answer, command
from agent.cli.options import Json
from agent.cli.program import PREPARE, Options
from agent.errors import PreconditionError, UsageError
from agent.format import one_line
from agent.system.invocation import typed

if TYPE_CHECKING:
    from agent.skill.agents import Agent
    from agent.skill.install import Change


@command(PREPARE)
def skill(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="AGENT",
            help="claude, codex, gemini, opencode or cursor; without it, all are listed.",
            autocompletion=completion.taught,
        ),
    ] = None,
    install: Annotated[bool, typer.Option("--install", help="Write the files, after a question.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove what --install wrote, after a question.")] = False,
    mcp: Annotated[
        bool | None,
        typer.Option("--mcp/--no-mcp", help="Add the MCP server, too; by default if the extra mcp is installed."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Write or remove without a question.")] = False,
    as_json: Json = False,
) -> int:
    """Teach a coding agent to research here.

    For an agent that you start yourself in this workspace. It learns the cycle from a short guide: read the state, edit
    train.py, measure the edit with `try`, read the verdict. The guide is a file of its own or a marked section, in the
    place where this agent looks; the entry of the server of `autoresearch mcp` is one key in its settings.

    Without --install it prints what would be written. --install and --remove name the files and ask. Everything else in
    these files stays as it is, and nothing outside the workspace is written.

    \b
    Examples:
      autoresearch skill
      autoresearch skill claude
      autoresearch skill claude --install
      autoresearch skill codex --remove --yes

    Exits with code 1 if you answer no, 2 without a terminal or --yes, 3 if a file has something in the way.
    """
    from agent.skill.agents import AGENTS, find_agent
    from agent.skill.install import describe

    folder = Options.folder.resolve()
    if install and remove:
        raise UsageError("--install and --remove are mutually exclusive", hint="drop one of them")
    if yes and not (install or remove):
        raise UsageError("--yes needs --install or --remove", hint="drop it")
    if name is not None:
        if install or remove:
            return _carry_out(folder, find_agent(name), mcp, remove=remove, yes=yes, as_json=as_json)
        return _print(folder, find_agent(name), mcp, as_json=as_json)
    if install or remove:
        names = ", ".join(each.name for each in AGENTS)
        raise UsageError(f"{'--install' if install else '--remove'} needs an agent", hint=f"name one of {names}")
    found = describe(folder)
    answer(as_json, "skill", {"agents": found, "files": [], "notes": []}, _listed(found))
    return 0


def _print(folder: Path, agent: Agent, mcp: bool | None, *, as_json: bool) -> int:
    """Print what `--install` would write. The text of a single file is all that is on stdout."""
    from agent.skill.install import Change, describe, plan
    from agent.system.invocation import program

    changes, notes = [], _missing_extra(mcp)
    for part in agent.parts(program(folder), mcp=_with_mcp(mcp)):
        try:
            changes += plan(folder, [part])
        except PreconditionError as error:
            changes.append(Change(part, folder / part.path, None, None))
            notes.append(f"--install would refuse: {error}")
    if not as_json:
        _tell([_line(each) for each in changes], notes, "would ")
    lines = [each.part.shown().rstrip("\n") for each in changes]
    if len(changes) > 1:
        lines = [f"==> {each.part.path} <==\n{text}\n" for each, text in zip(changes, lines, strict=True)]
    answer(as_json, "skill", _data(describe(folder, [agent]), changes, notes), lines)
    return 0


def _carry_out(folder: Path, agent: Agent, mcp: bool | None, *, remove: bool, yes: bool, as_json: bool) -> int:
    """Install or remove the files of an agent after a question."""
    from agent.skill.install import apply, candidates, describe, plan
    from agent.system.invocation import program

    parts = agent.parts(program(folder), mcp=remove or _with_mcp(mcp))
    open_to_candidates = [] if remove else candidates(folder, parts)
    changes = plan(folder, parts, remove=remove)
    notes = [] if remove else _missing_extra(mcp)
    notes += [f"a candidate may change {path}: add it to forbiddenGlobs" for path in open_to_candidates]
    todo = [each for each in changes if each.action != "none"]
    notes += [_shared(each, agent, remove=remove) for each in todo for agent in each.shared]
    if todo and not yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            flag = "--remove" if remove else "--install"
            raise UsageError(f"{flag} asks for confirmation on a terminal only", hint="add --yes")
        _tell([_line(each) for each in todo], notes, "would ")
        if not typer.confirm("Remove it?" if remove else "Write it?", err=True):
            print("nothing was changed", file=sys.stderr)
            return 1
    apply(folder, todo)
    said = [_line(each, done=True) for each in todo]
    nothing = f"nothing of {agent.title} is installed" if remove else f"already installed for {agent.title}"
    answer(as_json, "skill", _data(describe(folder, [agent]), changes, notes), said or [nothing])
    if not as_json:
        _tell([], notes)
    return 0


def _with_mcp(mcp: bool | None) -> bool:
    return find_spec("mcp") is not None if mcp is None else mcp


def _missing_extra(mcp: bool | None) -> list[str]:
    if mcp is False or find_spec("mcp") is not None:
        return []
    left = "left out the MCP server" if mcp is None else "the MCP server cannot start"
    how = "`uv sync --extra mcp` in a checkout, or `uv tool install '.[mcp]'` there for an installed tool"
    return [f"{left}, because the extra mcp is not installed: run {how}"]


def _line(change: Change, *, done: bool = False) -> str:
    """Return what happens to a file, or happened: "create .mcp.json"."""
    action = "leave" if change.action == "none" else change.action
    return f"{f'{action}d' if done else action} {change.part.path}"


def _shared(change: Change, other: Agent, *, remove: bool) -> str:
    """Say that another agent reads the file, too, and how it gets the part again."""
    said = f"{other.title} reads the same file as {change.part.path}, through a link"
    return f"{said}: `{typed(f'skill {other.name} --install')}` restores its part" if remove else said


def _tell(lines: list[str], notes: list[str], would: str = "") -> None:
    for line in (*(f"{would}{each}" for each in lines), *(f"note: {each}" for each in notes)):
        print(one_line(line), file=sys.stderr, flush=True)


def _data(agents: list[dict[str, Any]], changes: list[Change], notes: list[str]) -> dict[str, Any]:
    files = [{"path": each.part.path, "action": each.action, "text": each.part.shown()} for each in changes]
    return {"agents": agents, "files": files, "notes": notes}


def _listed(agents: list[dict[str, Any]]) -> list[str]:
    """Return the table of agents: which are on this machine, and what of theirs is installed here."""
    rows = []
    for each in agents:
        states = ", ".join(f"{file['path']} {file['state']}" for file in each["files"])
        rows.append(f"{each['name']:<9} {'found' if each['program'] else 'not found':<10} {states}")
    return [*rows, "", f"to install one: `{typed('skill NAME --install')}`"]
