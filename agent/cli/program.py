"""The program itself: its help page, the options before the command, and its start."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from agent.cli import streams
from agent.cli.usage import Commands, print_error
from agent.journal.paths import pin_cache, workspace_of
from agent.system.invocation import stand

RESEARCH, LOOK, PREPARE = "Research", "Inspect", "Set up"  # the sections of the help page

app = typer.Typer(
    name="autoresearch",
    cls=Commands,
    help="Run an autonomous ML research loop overnight.\n\n"
    "It edits train.py, trains it for a fixed time, keeps what beats the noise, reverts the rest, and adds a "
    "row for each experiment to results.tsv. It never prompts. protocol.json sets the rules.\n\n"
    "\b\n"
    "Examples:\n"
    "  autoresearch run --tag mar5 --until 07:00\n"
    "  autoresearch status --follow\n"
    "  autoresearch report --open\n\n"
    "\b\n"
    "Exit codes:\n"
    "  0    success, or a limit is reached\n"
    "  1    failure\n"
    "  2    invalid flags, arguments or protocol.json\n"
    "  3    unmet precondition: uncommitted changes, missing data, no session\n"
    "  4    the GPU keeps failing\n"
    "  5    timeout of `wait`: the experiment is still running\n"
    "  129, 130, 143   ended by a closed terminal, Ctrl-C, SIGTERM",
    epilog="Run `autoresearch COMMAND --help` for the options of a command.",
    add_completion=True,
    rich_markup_mode=None,  # plain help: drawing it with rich takes longer than everything else
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from agent.system.invocation import version

        print(f"autoresearch {version()}")
        raise typer.Exit


class Options:
    """The options before the command.

    Attributes:
        here: the folder as the user named it.
        folder: the workspace that contains it.
    """

    here = folder = Path()
    debug = False


@app.callback()
def main(
    folder: Annotated[
        Path,
        typer.Option("-C", metavar="DIR", help="Workspace (the folder with protocol.json), or a folder inside it."),
    ] = Path(),
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version and exit.")
    ] = False,
) -> None:
    pin_cache()
    stand(folder if folder != Path() else None)
    Options.here, Options.folder, Options.debug = folder, workspace_of(folder), debug


def start() -> None:
    """Run the program."""
    streams.harden()
    try:
        app(prog_name="autoresearch")
    except OSError as error:  # a help page that cannot be written
        if Options.debug:
            raise
        print_error(streams.explain_output(error))
        drop_output()
        sys.exit(1)


def drop_output() -> None:
    """Discard unwritten output, so that Python does not report an error when it flushes stdout at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
