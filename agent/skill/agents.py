"""The agents that the program can teach, and what each of them reads where.

Sources, read in November 2026: code.claude.com/docs (skills, mcp), developers.openai.com/codex (agents-md, mcp),
geminicli.com/docs (gemini-md, tools/mcp-server), opencode.ai/docs (skills, mcp-servers), cursor.com/docs (rules, mcp).
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agent.errors import UsageError
from agent.skill.guide import MARK, cursor_rule, guide, skill_file
from agent.skill.parts import Member, Part, Section, Table, Whole
from agent.system.invocation import NAME

SERVERS = "mcpServers"  # the key of Claude Code, Gemini CLI and Cursor
START_SECONDS = 60  # each agent starts the server at its own start, and `uv run` may have to install packages first
OPENCODE_SCHEMA = {"$schema": "https://opencode.ai/config.json"}


@dataclass(frozen=True)
class Agent:
    """An agent.

    Attributes:
        name: what a user calls it on the command line.
        title: its own name.
        commands: programs that start it.
    """

    name: str
    title: str
    commands: tuple[str, ...]

    def program(self) -> str | None:
        """Return the path of its program; None if it is not on PATH."""
        return next((found for each in self.commands if (found := shutil.which(each))), None)

    def parts(self, program: str, *, mcp: bool = True) -> list[Part]:
        """Return what this agent reads in a workspace.

        Args:
            program: what starts this program in the workspace, as a shell takes it.
            mcp: whether the entry of the server is part of it.
        """
        guides = {
            "claude": Whole(".claude/skills/autoresearch/SKILL.md", "guide", skill_file(program), MARK),
            "codex": _section("AGENTS.md", program),
            "gemini": _section("GEMINI.md", program),
            # Not in .opencode: OpenCode installs packages for plugins into a folder of that name.
            "opencode": Whole(".agents/skills/autoresearch/SKILL.md", "guide", skill_file(program), MARK),
            "cursor": Whole(".cursor/rules/autoresearch.mdc", "guide", cursor_rule(program), MARK),
        }
        return [guides[self.name], *([self._entry(shlex.split(program))] if mcp else [])]

    def _entry(self, words: Sequence[str]) -> Part:
        """Return the entry of the server. It starts where the agent does, and finds the workspace from there."""
        if self.name == "codex":
            return _table(".codex/config.toml", words)
        server: dict[str, Any] = {"command": words[0], "args": [*words[1:], "mcp"]}
        if self.name == "claude":
            return Member(".mcp.json", "mcp", (SERVERS, NAME), {"type": "stdio", **server})
        if self.name == "gemini":
            return Member(".gemini/settings.json", "mcp", (SERVERS, NAME), server)
        if self.name == "opencode":
            command = {"type": "local", "command": [*words, "mcp"], "timeout": START_SECONDS * 1000}
            return Member("opencode.json", "mcp", ("mcp", NAME), command, OPENCODE_SCHEMA)
        # Cursor documents this variable, but not the folder in which it starts a server.
        server["args"] = [*words[1:], "-C", "${workspaceFolder}", "mcp"]
        return Member(".cursor/mcp.json", "mcp", (SERVERS, NAME), {"type": "stdio", **server})


AGENTS = (
    Agent("claude", "Claude Code", ("claude",)),
    Agent("codex", "Codex", ("codex",)),
    Agent("gemini", "Gemini CLI", ("gemini",)),
    Agent("opencode", "OpenCode", ("opencode",)),
    Agent("cursor", "Cursor", ("cursor-agent", "cursor")),
)


def find_agent(name: str) -> Agent:
    """Return an agent by its name.

    Raises:
        UsageError: there is none of this name.
    """
    found = next((each for each in AGENTS if each.name == name), None)
    if found is None:
        raise UsageError(f"unknown agent {name!r}; choose from {', '.join(each.name for each in AGENTS)}")
    return found


def _section(path: str, program: str) -> Part:
    return Section(path, "guide", guide(program), f"<!-- {NAME} begin. {MARK} -->", f"<!-- {NAME} end -->")


def _table(path: str, words: Sequence[str]) -> Part:
    lines = [
        f"[mcp_servers.{NAME}]",
        f"command = {json.dumps(words[0])}",  # a JSON string of printable characters is one of TOML, too
        f"args = {json.dumps([*words[1:], 'mcp'])}",
        f"startup_timeout_sec = {START_SECONDS}",
    ]
    begin, end = f"# {NAME} begin. {MARK}", f"# {NAME} end"
    return Table(path, "mcp", "\n".join(lines), begin, end, keys=("mcp_servers", NAME))
