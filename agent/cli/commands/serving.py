"""`mcp` serves a workspace to coding agents."""

from __future__ import annotations

from agent.cli.command import command
from agent.cli.program import PREPARE, Options


@command(PREPARE)
def mcp() -> int:
    """Serve this workspace to coding agents over MCP.

    An agent's program starts it and speaks to it on standard input and output. Its tools give an agent the briefing,
    measure its edits as `try` does, and read the results. A training goes on if the agent disconnects.

    \b
    Examples:
      autoresearch mcp
      autoresearch -C /path/to/recipe mcp

    Needs the extra `mcp`; exits with code 3 without it. Exits with code 2 if the folder has no valid protocol.json.
    """
    from importlib.util import find_spec

    from agent.errors import PreconditionError
    from agent.protocol.load import load_protocol

    if find_spec("mcp") is None:
        raise PreconditionError(
            "the extra mcp is not installed",
            hint="run `uv sync --extra mcp` in a checkout, or `uv tool install '.[mcp]'` there for an installed tool",
        )
    load_protocol(Options.folder)
    from agent.mcp.server import serve

    serve(Options.folder)
    return 0
