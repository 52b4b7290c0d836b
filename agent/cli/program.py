"""The program as a whole: what stands before a command, and how each command prints and ends."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from agent.cli import streams
from agent.cli.usage import Commands, Page
from agent.errors import AutoresearchError, UsageError, explain, fault
from agent.format import Colored, block, one_line
from agent.journal.paths import workspace_of
from agent.system.invocation import stand

# What a view raises of a journal that holds what no session can have put there.
DAMAGE = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(MemoryError, RecursionError, TypeError, ValueError),
)
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
    no_args_is_help=True,
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
        print(f"error: {explain(error)}", file=sys.stderr)
        _drop_output()
        sys.exit(1)


def command(section: str, name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command of the program, in a section of its help page. name: where it is not the function's."""
    return app.command(name, cls=Page, rich_help_panel=section)


def answer(as_json: bool, command: str, data: dict[str, Any], lines: list[str]) -> None:
    """Print what a command found: as the envelope that all commands share, or as lines for a person."""
    if as_json:
        print(json.dumps({"version": 1, "command": command, "status": "ok", "data": data, "errors": []}), flush=True)
    else:
        print("\n".join(line if isinstance(line, Colored) else block(line) for line in lines), flush=True)


def finish(
    work: Callable[[], int], command: str, as_json: bool, *, reads: bool = False, measures: bool = False
) -> None:
    """Do a command's work and exit; an error is its sentence on stderr and its exit code.

    reads: it only shows what a journal tells, and what it cannot show is the journal's fault. measures: what it does
    is worth more than what it prints, and goes on when nobody reads that any more.
    """
    if measures:
        streams.keep_going()
    try:
        _require_folder(Options.here)
        code = work()
    except AutoresearchError as error:
        if Options.debug:
            raise
        _tell(str(error), command, as_json)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # Whoever read the output has gone, as in `autoresearch status | head`.
        _drop_output()
        code = 0
    except OSError as error:
        if Options.debug:
            raise
        _tell(explain(error), command, as_json)
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        code = 1
    except DAMAGE as error:
        if Options.debug or not reads:
            raise
        _tell(f"the session's journal is damaged, so it cannot be shown: {fault(error)}", command, as_json)
        code = 1
    raise typer.Exit(code)


def _drop_output() -> None:
    """Let Python find nothing to complain of when it empties standard output at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _require_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: name the one with protocol.json in it, as in -C DIR")
    if not folder.exists():
        raise UsageError(f"there is no folder {folder}, so there is no protocol.json in it: name another with -C")


def _tell(sentence: str, command: str, as_json: bool) -> None:
    """An error: its envelope on stdout where JSON is wanted, and its sentence on stderr."""
    if as_json:
        envelope = {"version": 1, "command": command, "status": "error", "data": None, "errors": [sentence]}
        with contextlib.suppress(OSError):  # it may have been stdout that could not be written
            print(json.dumps(envelope))
    print(f"error: {one_line(sentence)}", file=sys.stderr)
