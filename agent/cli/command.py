"""What every command has in common: its options in groups, its answer, and its errors as sentences."""

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
from agent.errors import AutoresearchError, UsageError, explain, fault
from agent.format import Colored, block

# What a view raises of a journal that holds what no session can have put there.
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
    """Make a function a command of the program, in a section of its help page; it returns its exit code, None for 0.

    Args:
        name: of the command, where it is not the function's.
        on: the part of the program that it belongs to.
        reads: it only shows what a journal tells, and what it cannot show is the journal's fault.
        measures: what it does is worth more than what it prints, and goes on when nobody reads that any more.
        envelope: whether an error under --json is the envelope that all commands share.
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
    """Let a command take its options in groups: a parameter that is a dataclass stands for an option for each field."""
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
    """Print what a command found: as the envelope that all commands share, or as lines for a person."""
    if as_json:
        found = {"data": data, "errors": [], "hints": []}
        print(json.dumps({"version": 1, "command": command, "status": "ok", **found}), flush=True)
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
        _tell(error, command, as_json)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # Whoever read the output has gone, as in `autoresearch status | head`.
        drop_output()
        code = 0
    except OSError as error:
        if Options.debug:
            raise
        _tell(explain(error), command, as_json)
        try:
            sys.stdout.flush()
        except OSError:
            drop_output()
        code = 1
    except DAMAGE as error:
        if Options.debug or not reads:
            raise
        _tell(AutoresearchError(f"the session's journal is damaged: {fault(error)}"), command, as_json)
        code = 1
    raise typer.Exit(code)


def _require_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: name the one with protocol.json in it, as in -C DIR")
    if not folder.exists():
        raise UsageError(f"there is no folder {folder}, so there is no protocol.json in it: name another with -C")


def _tell(error: AutoresearchError, command: str, as_json: bool) -> None:
    """Print an error on stderr, and its envelope on stdout where JSON is wanted."""
    if as_json:
        found = {"data": None, "errors": [str(error)], "hints": [error.hint] if error.hint else []}
        with contextlib.suppress(OSError):  # it may have been stdout that could not be written
            print(json.dumps({"version": 1, "command": command, "status": "error", **found}))
    print_error(error)
