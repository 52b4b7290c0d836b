"""The command line: its flags, launch and what follows. The rest is imported on use, so that `--help` is instant."""

from agent.cli.commands import running, trying, measuring, adopting, claims, reading, playbook, exporting  # noqa: F401, I001  # the help page's order
from agent.cli.commands import preparing, serving, stations, teaching, protocol  # noqa: F401
from agent.cli.program import app, start

__all__ = ["app", "start"]
