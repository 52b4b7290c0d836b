"""Wrong flags and arguments in one sentence, like every other error; help pages in sections."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from typer._click.exceptions import NoArgsIsHelpError, UsageError  # typer has its own click, and shows no more of it
from typer._click.formatting import HelpFormatter
from typer.core import TyperCommand, TyperGroup, _TyperParameter

from agent.format import one_line
from agent.system.invocation import program

FEW = 12  # options that a page without sections can hold

Rows = list[tuple[str, str]]


class Commands(TyperGroup):
    """The program's commands; the parser's usage lines are left to --help."""

    def main(self, *args: Any, **more: Any) -> Any:
        try:
            code = super().main(*args, **{**more, "standalone_mode": False})
        except NoArgsIsHelpError as no_command:
            no_command.show()
            sys.exit(2)
        except UsageError as error:
            what = one_line(error.format_message()).rstrip(".")
            inside = error.ctx.command_path.partition(" ")[2] if error.ctx else ""
            print(f"error: {what}: see `{' '.join([program(), *inside.split(), '--help'])}`", file=sys.stderr)
            sys.exit(2)
        except typer.Abort:
            sys.exit(130)
        sys.exit(code if isinstance(code, int) else 0)

    def _main_shell_completion(self, *args: Any, **more: Any) -> None:
        if any(name.endswith("_COMPLETE") for name in os.environ):
            _complete_quickly()
        super()._main_shell_completion(*args, **more)

    def format_commands(self, ctx: Any, formatter: HelpFormatter) -> None:
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

    def format_options(self, ctx: Any, formatter: HelpFormatter) -> None:
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


def _complete_quickly() -> None:
    """Leave out what takes typer most of the time after Tab, and changes nothing that is offered.

    It loads pydantic to convert values that stand on the line, and Rich to take its markup out of help texts, which
    here have none.
    """
    from typer import _completion_classes

    setattr(_TyperParameter, "process_value", lambda _self, _ctx, value: value)  # noqa: B010
    setattr(_completion_classes, "_sanitize_help_text", str)  # noqa: B010


def _section(command_or_option: Any, otherwise: str) -> str:
    return getattr(command_or_option, "rich_help_panel", None) or otherwise


def _write(formatter: HelpFormatter, sections: dict[str, Rows]) -> None:
    for title, rows in sections.items():
        with formatter.section(title):
            formatter.write_dl(rows)
