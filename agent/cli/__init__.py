"""Commands and flags only. Everything else is imported when a command needs it, so that `--help` is instant.

Each module holds the commands of one topic. Importing it registers them with `program.app`, in the order of the help
page.
"""

from agent.cli import running, measuring, claims, reading, preparing, protocol  # noqa: F401, I001  # the help page's order
from agent.cli.program import app, start

__all__ = ["app", "start"]
