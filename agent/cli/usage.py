"""Usage errors in plain words, and help pages in sections."""

from __future__ import annotations

import os
import re
import sys
from types import ModuleType
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from agent.errors import AutoresearchError, UsageError
from agent.format import one_line
from agent.system.invocation import program

FEW = 12  # the most options that a help page lists without sections

# What a value must be, by the parser's (pydantic's) type of error.
_EXPECTED = {
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "float_parsing": "a number",
    "bool_parsing": "true or false",
    "greater_than_equal": "at least {ge:g}",
    "less_than_equal": "at most {le:g}",
}
_COMMAND = re.compile(r"No such command '(?P<name>.*?)'(?:\. Did you mean (?P<similar>.*)\?)?")
_TYPE = re.compile(r" <[^<>]*>$")  # the parser's name of an argument's type, as in `N <int range>`
_EXTRA = re.compile(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)")

Rows = list[tuple[str, str]]


class Commands(TyperGroup):
    """A group of commands that reports a usage error in two lines and leaves usage to --help."""

    def main(self, *args: Any, **more: Any) -> Any:
        if any(name.endswith("_COMPLETE") for name in os.environ):
            _complete_quickly()
        try:
            code = super().main(*args, **{**more, "standalone_mode": False})
        except typer.TyperException as error:  # the parser's own: an error of a command ends in a typer.Exit
            print_error(in_plain_words(error))
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
    """A command whose options, if there are many, are listed in sections by their `rich_help_panel`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            if getattr(error, "ctx", None) is None:  # the hint names this command's help page
                setattr(error, "ctx", ctx)  # noqa: B010
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, Rows] = {}
        options = self.get_params(ctx)
        for each in options:
            record = each.get_help_record(ctx)
            if record is not None:
                name, says = record
                kind = f"{each.param_type_name.capitalize()}s"
                section = _section(each, kind) if len(options) > FEW else kind
                sections.setdefault(section, []).append((_TYPE.sub("", name), says))
        _write(formatter, sections)


def print_error(error: AutoresearchError) -> None:
    """Print an error on stderr, and its hint on a second line."""
    print(f"error: {one_line(str(error))}", file=sys.stderr)
    if error.hint:
        print(f"hint: {one_line(error.hint)}", file=sys.stderr)


def in_plain_words(error: typer.TyperException) -> UsageError:
    """Reword an error of the argument parser: `--share must be at most 1, got 2`."""
    context = getattr(error, "ctx", None)
    inside = context.command_path.split()[1:] if context else []
    see = f"see `{' '.join([program(), *inside, '--help'])}`"
    said = one_line(error.format_message()).rstrip(".")
    parameter, option = getattr(error, "param", None), getattr(error, "option_name", None)
    if isinstance(parameter, TyperArgument | TyperOption):
        name = _name(parameter)
        if "Missing" in said:
            return UsageError(f"missing {parameter.param_type_name} {name}", hint=see)
        return UsageError(_wrong_value(error, parameter, name, context), hint=see)
    if option is not None and "No such option" in said:
        similar = getattr(error, "possibilities", None) or ()
        return UsageError(f"unknown option {option}", hint=_similar(sorted(similar), see))
    if option is not None:
        needs = "takes no value" if "does not take" in said else "needs a value"
        return UsageError(f"{option} {needs}", hint=see)
    if found := _COMMAND.fullmatch(said):
        similar = re.findall(r"'(.*?)'", found["similar"] or "")
        return UsageError(f"unknown command {found['name']!r}", hint=_similar(similar, see))
    if found := _EXTRA.fullmatch(said):
        return UsageError(f"unexpected argument {found[1]!r}", hint=see)
    return UsageError(said[:1].lower() + said[1:], hint=see)


def _wrong_value(error: typer.TyperException, parameter: TyperArgument | TyperOption, name: str, context: Any) -> str:
    """Return the expected kind of value and the value, if the parser reports them; else its own message."""
    source = context.get_parameter_source(parameter.name) if context else None
    if source is not None and source.name == "ENVIRONMENT" and isinstance(parameter.envvar, str):
        name = parameter.envvar
    details: list[Any] = getattr(error.__cause__, "errors", list)()
    if not details:
        said = str(getattr(error, "message", error)).rstrip(".")
        return f"{name}{' ' if said.startswith('must be ') else ': '}{said}"
    first = details[0]
    kind, limits, value = first["type"], first.get("ctx", {}), first.get("input")
    if parameter.type_descriptor.choices and kind == "value_error":
        *others, last = map(str, parameter.type_descriptor.choices)
        return f"{name} must be {', '.join(others)} or {last}, got {value!r}"
    if kind in _EXPECTED:
        shown = repr(value) if "parsing" in kind else value
        return f"{name} must be {_EXPECTED[kind].format(**limits)}, got {shown}"
    return f"{name}: {str(first['msg']).removeprefix('Value error, ')}"


def _name(parameter: TyperArgument | TyperOption) -> str:
    """Return the name of a parameter on the command line: its longest flag, or an argument's name."""
    if isinstance(parameter, TyperOption):
        return max(parameter.opts, key=len)
    return str(parameter.display_name_raw)


def _similar(names: list[str], see: str) -> str:
    if not names:
        return see
    *others, last = (f"`{name}`" for name in names)
    meant = f"{', '.join(others)} or {last}" if others else last
    return f"did you mean {meant}? See{see.removeprefix('see')}"


def _complete_quickly() -> None:
    """Skip the slowest steps of typer after Tab, which do not change the offers.

    That is loading pydantic, to convert the values on the line, and loading Rich, to strip markup from help texts,
    which contain none here.
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
