"""Shared parts of all commands: grouped options, output as lines or JSON, errors as `error:` and `hint:` lines."""

from __future__ import annotations

import contextlib
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Any, get_type_hints

import typer

from agent.cli import streams
from agent.cli.program import Options, app, drop_output
from agent.cli.usage import Page, print_error
from agent.errors import AutoresearchError, Interrupted, UsageError, fault
from agent.format import Colored, block
from agent.system.invocation import typed

# What a view may raise on a journal with events that no session can have written.
DAMAGE = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(MemoryError, RecursionError, TypeError, ValueError),
)

Command = Callable[..., "int | None"]


def command(
    section: str | None,
    name: str | None = None,
    *,
    on: typer.Typer = app,
    reads: bool = False,
    measures: bool = False,
    envelope: bool = True,
) -> Callable[[Command], Command]:
    """Register a function as a command of the program. It returns its exit code, or None for 0.

    Args:
        section: section of the help page; None for none.
        name: name of the command; None takes the function's.
        on: the group of commands that it belongs to.
        reads: the command only reads a journal, so an unexpected exception means that the journal is damaged.
        measures: the command does work that is worth finishing, so it continues when its output cannot be written.
        envelope: print errors under --json as the envelope that all commands share.
    """

    def register(function: Command) -> Command:
        flat = flattened(function)
        called = name or function.__name__
        title = called if on is app else f"{on.info.name} {called}"

        @wraps(flat)
        def run(**values: Any) -> None:
            as_json = envelope and bool(values.get("as_json"))
            finish(lambda: flat(**values) or 0, title, as_json, reads=reads, measures=measures)

        on.command(called, cls=Page, rich_help_panel=section)(run)
        return function

    return register


def flattened(function: Command) -> Command:
    """Replace each parameter that is a dataclass by one option for each of its fields."""
    signature = inspect.signature(function, eval_str=True)
    flat: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for each in signature.parameters.values():
        if not is_dataclass(each.annotation):
            flat.append(each.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[each.name] = each.annotation
        hints = get_type_hints(each.annotation, include_extras=True)
        flat += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=hints[field.name],
            )
            for field in fields(each.annotation)
        ]

    @wraps(function)
    def call(**values: Any) -> int | None:
        made = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        return function(**made, **values)

    setattr(call, "__signature__", signature.replace(parameters=flat))  # noqa: B010
    call.__annotations__ = {each.name: each.annotation for each in flat}
    return call


def answer(as_json: bool, command: str, data: dict[str, Any], lines: list[str]) -> None:
    """Print the result of a command, as the JSON envelope that all commands share or as lines of text."""
    if as_json:
        found = {"data": data, "errors": [], "hints": []}
        print(json.dumps({"version": 1, "command": command, "status": "ok", **found}), flush=True)
    else:
        print("\n".join(line if isinstance(line, Colored) else block(line) for line in lines), flush=True)


def defaults(context: typer.Context) -> set[str]:
    """Return the names of the options that were given neither on the command line nor in a variable."""
    found = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in found.items() if source is not None and source.name.startswith("DEFAULT")}


def again(context: typer.Context, *without: str) -> list[str]:
    """Return the arguments that call the same command with the same options, for another process of this program.

    Args:
        context: the call.
        without: names of parameters to leave out. Variables are left out, because processes inherit them.
    """
    words = ["-C", str(Options.here)] if Options.here != Path() else []
    words += ["--debug"] if Options.debug else []
    words += context.command_path.split()[1:]
    for each in context.command.params:
        source, value = context.get_parameter_source(str(each.name)), context.params.get(str(each.name))
        if source is None or source.name != "COMMANDLINE" or each.name in without:
            continue
        if isinstance(value, bool):
            words.append(max(each.opts if value else each.secondary_opts, key=len))
        else:
            values = value if isinstance(value, list | tuple) else [value]
            words += [f"{max(each.opts, key=len)}={one}" for one in values]
    return words


def finish(
    work: Callable[[], int], command: str, as_json: bool, *, reads: bool = False, measures: bool = False
) -> None:
    """Do the work of a command, print its error if it fails, and exit with its code.

    Args:
        work: does the work and returns the exit code.
        command: name of the command in the JSON envelope.
        as_json: print an error as JSON, too.
        reads: see `command`.
        measures: see `command`.
    """
    if measures:
        streams.keep_going()
    try:
        _require_folder(Options.here)
        code = work()
    except AutoresearchError as error:
        if Options.debug:
            raise
        _tell(error, command, as_json)
        code = error.exit_code
    except KeyboardInterrupt:
        if measures and as_json:
            _tell(Interrupted("stopped by Ctrl-C", 130), command, as_json)
        code = 130
    except BrokenPipeError:
        # The reader has closed the pipe, as in `autoresearch status | head`.
        drop_output()
        code = 0
    except OSError as error:
        if Options.debug:
            raise
        _tell(streams.explain_output(error), command, as_json)
        try:
            sys.stdout.flush()
        except OSError:
            drop_output()
        code = 1
    except DAMAGE as error:
        if Options.debug or not reads:
            raise
        damaged = f"the journal of the session is damaged: {fault(error)}"
        _tell(AutoresearchError(damaged, hint=f"check the session with `{typed('doctor')}`"), command, as_json)
        code = 1
    raise typer.Exit(code)


def _require_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"-C needs a folder, and {folder} is a file", hint="give the folder that holds protocol.json")
    if not folder.exists():
        raise UsageError(f"folder {folder} not found", hint="give the folder that holds protocol.json with -C")


def _tell(error: AutoresearchError, command: str, as_json: bool) -> None:
    """Print an error on stderr and, under --json, its envelope on stdout."""
    if as_json:
        found = {"data": None, "errors": [str(error)], "hints": [error.hint] if error.hint else []}
        with contextlib.suppress(OSError):  # the error may be that stdout cannot be written
            print(json.dumps({"version": 1, "command": command, "status": "error", **found}))
    print_error(error)
