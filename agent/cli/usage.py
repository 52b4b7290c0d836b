"""Wrong flags and arguments in one sentence, like every other error; help pages in sections."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from agent.errors import AutoresearchError, UsageError
from agent.format import one_line
from agent.system.invocation import program

FEW = 12  # options that a page without sections can hold

Rows = list[tuple[str, str]]


class Commands(TyperGroup):
    """The program's commands; the parser's usage lines are left to --help."""

    def main(self, *args: Any, **more: Any) -> Any:
        if any(name.endswith("_COMPLETE") for name in os.environ):
            _complete_quickly()
        try:
            code = super().main(*args, **{**more, "standalone_mode": False})
        except typer.TyperException as error:  # wrong usage: what the program itself refuses ends in a typer.Exit
            what = one_line(error.format_message()).rstrip(".")
            context = getattr(error, "ctx", None)
            inside = context.command_path.partition(" ")[2] if context else ""
            print_error(UsageError(what, hint=f"see `{' '.join([program(), *inside.split(), '--help'])}`"))
            sys.exit(2)
        except typer.Abort:
            sys.exit(130)
        sys.exit(code if isinstance(code, int) else 0)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            print(self.get_help(ctx), file=sys.stderr)
            raise typer.Exit(2)
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, Rows] = {}
        names = self.list_commands(ctx)
        room = formatter.width - 6 - max(map(len, names))
        for name in names:
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                row = (name, command.get_short_help_str(room))
                sections.setdefault(_section(command, "Commands"), []).append(row)
        _write(formatter, sections)


class Page(TyperCommand):
    """A command; where it has many options they stand in sections, by their `rich_help_panel`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, Rows] = {}
        options = self.get_params(ctx)
        for each in options:
            record = each.get_help_record(ctx)
            if record is not None:
                name, says = record
                kind = f"{each.param_type_name.capitalize()}s"
                section = _section(each, kind) if len(options) > FEW else kind
                sections.setdefault(section, []).append((name.removesuffix(" <str>"), says))
        _write(formatter, sections)


def print_error(error: AutoresearchError) -> None:
    """Print what failed on stderr, and below it what fixes it."""
    print(f"error: {one_line(str(error))}", file=sys.stderr)
    if error.hint:
        print(f"hint: {one_line(error.hint)}", file=sys.stderr)


def _complete_quickly() -> None:
    """Leave out what takes typer most of the time after Tab, and changes nothing that is offered.

    It loads pydantic to convert values that stand on the line, and Rich to take its markup out of help texts, which
    here have none.
    """
    for kind in (TyperArgument, TyperOption):
        setattr(kind, "process_value", lambda _self, _ctx, value: value)  # noqa: B010
    plain = ModuleType("typer.rich_utils")
    setattr(plain, "rich_render_text", str)  # noqa: B010
    sys.modules[plain.__name__] = plain


def _section(command_or_option: Any, otherwise: str) -> str:
    return getattr(command_or_option, "rich_help_panel", None) or otherwise


def _write(formatter: Any, sections: dict[str, Rows]) -> None:
    for title, rows in sections.items():
        with formatter.section(title):
            formatter.write_dl(rows)
