"""`python -m agent` is `autoresearch`."""

from agent.cli import app

app(prog_name="autoresearch")
