"""`mcp` serves a workspace to coding agents."""

from __future__ import annotations

from agent.cli.command import command
from agent.cli.program import PREPARE, Options


@command(PREPARE)
def mcp() -> int:
    """Serve this workspace to coding agents over MCP.

    An agent's program starts it and speaks to it on standard input and output. Its tools give an agent the briefing,
    measure its edits as `try` does, and read the results. Training goes on if the agent disconnects.

    \b
    Examples:
      autoresearch mcp
      autoresearch -C /path/to/recipe mcp

    Needs the extra `mcp`; exits with code 3 without it. Exits with code 2 if the folder has no valid protocol.json.
    """
    from agent.protocol.load import load_protocol
    from agent.system.extras import require_extra

    require_extra("mcp", "mcp")
    load_protocol(Options.folder)
    from agent.mcp.server import serve

    serve(Options.folder)
    return 0
