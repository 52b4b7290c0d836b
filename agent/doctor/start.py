"""Check what would stop `run` before its first result: files and branches in its way, programs and scripts missing."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator
from itertools import takewhile

from agent.doctor.check import Check
from agent.errors import AutoresearchError, in_one_line
from agent.execution.measure import command_of
from agent.execution.setup import is_due, lines
from agent.journal.paths import journal_path, next_tag, require_own_state, state_folder
from agent.protocol.load import require_runnable
from agent.protocol.models import Protocol
from agent.repository.workspace import Workspace
from agent.session.opening import require_startable
from agent.system.ask import ask

ANY_TAG = "NAME"  # as in hints: the session that `doctor` has in mind has no tag yet
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
EXPANDED = re.compile(r"[$`*?\[~{]")  # the shell makes another word of it
OPERATORS = {*"();<>|&"}
SCRIPT = re.compile(r".+\.(py|sh|bash|[cm]?js|ts|rb|pl|jl|R|lua|php)")


def checks(workspace: Workspace, protocol: Protocol) -> Iterator[Check]:
    """Yield what would stop a new session: nothing if it can start. The state of the working tree is another check."""
    tag = next_tag(workspace.folder, ANY_TAG) if journal_path(workspace.folder, ANY_TAG).exists() else ANY_TAG
    branch = protocol.provenance.git_workflow.branch_pattern.replace("<tag>", tag)
    required: list[Callable[[], None]] = [
        lambda: require_runnable(protocol),
        workspace.git.require_recent,
        workspace.git.require_writable,
        lambda: require_own_state(workspace.folder),
        lambda: require_startable(workspace, branch, tag, switch=False),
    ]
    for require in required:
        try:
            require()
        except AutoresearchError as error:
            yield Check("start", "broken", f"no session can start: {in_one_line(error)}")
            break
    yield from _commands(workspace, protocol)


def _commands(workspace: Workspace, protocol: Protocol) -> Iterator[Check]:
    """Yield what the commands of the protocol name and this machine lacks."""
    place, setup = protocol.execution.cwd, lines(protocol)
    due = is_due(protocol, state_folder(workspace.folder))
    if not (workspace.folder / place).is_dir():
        yield _missing("command", f"execution.cwd is {place}, which is not a folder", provided=due)
        return
    commands = [("setup", line, ".", index > 0) for index, line in enumerate(setup)]
    commands.append(("command", command_of(protocol), place, due))
    for name, command, folder, provided in commands:
        if fault := _fault(workspace, command, folder):
            yield _missing(name, f"`{command}` cannot run: {fault}", provided=provided)


def _missing(name: str, message: str, *, provided: bool) -> Check:
    """Return the check of something missing, which setup commands that run before it may still provide."""
    return Check(name, "warning", f"{message}, unless set-up adds it") if provided else Check(name, "broken", message)


def _fault(workspace: Workspace, command: str, folder: str) -> str | None:
    """Return which program or script at the start of a command is missing, in words."""
    words = _first_words(command)
    if not words or EXPANDED.search(words[0]):
        return None
    program, place = words[0], workspace.folder / folder
    known = os.access(place / program, os.X_OK) if "/" in program else ask(*_asking(program)) is not None
    if not known and program != "uv":  # it has a check of its own
        return f"{program} is not found" + ("" if "/" in program else " on PATH")
    rest = words[2:] if words[:2] == ["uv", "run"] else words[1:]
    script = next((word for word in rest if not word.startswith("-")), "")
    is_named = SCRIPT.fullmatch(script) is not None and not EXPANDED.search(script)
    if is_named and not (place / script).exists():
        return f"{script} is not found in {folder if folder != '.' else 'the workspace'}"
    return None


def _asking(program: str) -> list[str]:
    """Return a command that succeeds if the shell knows a program: on PATH, built in, or a word of its language."""
    return ["/bin/sh", "-c", 'command -v "$1"', "sh", program]


def _first_words(command: str) -> list[str]:
    """Return the words of the first simple command of a line for the shell, without the variables that it sets."""
    read = shlex.shlex(command, posix=True, punctuation_chars=True)
    read.whitespace_split = True
    read.commenters = ""
    try:
        words = [*takewhile(lambda word: not OPERATORS.issuperset(word), read)]
    except ValueError:
        return []
    return [word for word in words if not ASSIGNMENT.fullmatch(word)]
