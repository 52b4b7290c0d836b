"""The program as a whole: what stands before a command, and how each command prints and ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from agent.cli import streams
from agent.cli.usage import Commands, print_error
from agent.errors import explain
from agent.journal.paths import workspace_of
from agent.system.invocation import stand

RESEARCH, LOOK, PREPARE = "Research", "Look", "Prepare"  # the sections of the help page

app = typer.Typer(
    name="autoresearch",
    cls=Commands,
    help="The autonomous ML research loop that people trust overnight.\n\n"
    "It edits train.py, trains it for a fixed time, keeps what is better, reverts what is not, and writes a row for "
    "each experiment to results.tsv: all night, without asking anything. The rules are those of protocol.json.\n\n"
    "\b\n"
    "Examples:\n"
    "  autoresearch run --tag mar5 --until 07:00\n"
    "  autoresearch status --follow\n"
    "  autoresearch report --open\n\n"
    "\b\n"
    "Exit codes:\n"
    "  0    done, or a limit that was asked for is reached\n"
    "  1    something failed\n"
    "  2    wrong flags or arguments, or protocol.json is not valid\n"
    "  3    something has to be there first: a clean tree, data, a session\n"
    "  129, 130, 143   ended by a closed terminal, Ctrl-C, SIGTERM",
    epilog="`autoresearch COMMAND --help` tells more of each.",
    add_completion=True,
    rich_markup_mode=None,  # plain help: drawing it with rich takes longer than everything else
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        print(f"autoresearch {metadata.version('autoresearch')}")
        raise typer.Exit


class Options:
    """What stands before the command. here: the folder as it was named; folder: the workspace that it lies in."""

    here = folder = Path()
    debug = False


@app.callback()
def main(
    folder: Annotated[
        Path,
        typer.Option("-C", metavar="DIR", help="The workspace, where protocol.json is, or a folder inside it."),
    ] = Path(),
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version, and end.")
    ] = False,
) -> None:
    stand(folder if folder != Path() else None)
    Options.here, Options.folder, Options.debug = folder, workspace_of(folder), debug


def start() -> None:
    """The program itself."""
    streams.harden()
    try:
        app(prog_name="autoresearch")
    except OSError as error:  # a help page that cannot be written
        if Options.debug:
            raise
        print_error(explain(error))
        drop_output()
        sys.exit(1)


def drop_output() -> None:
    """Let Python find nothing to complain of when it empties standard output at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
