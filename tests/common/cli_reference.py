"""docs/cli.md, written from the commands themselves: their help texts, arguments, options, defaults and variables.

    uv run python -m tests.common.cli_reference docs/cli.md      writes the whole page

A test fails if the committed page differs.
"""

from __future__ import annotations

import argparse
import re
import runpy
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import typer

from agent.cli import app
from agent.cli.usage import FEW
from agent.format import one_line
from tests.common.workspaces import ROOT

WIDTH = 100  # columns of prose
COMMAND = "uv run python -m tests.common.cli_reference docs/cli.md"
OPTIONS = ("| Option | Default | Description |", "|---|---|---|")
# A part of a help text whose line ends stay: typer's mark of it.
LITERAL = "\b\n"
HEAD = f"""
# Commands

<!-- Written from agent/cli/ by `{COMMAND}` -->

Every command, argument and option of `autoresearch`, and of the two scripts of the workspace. The
same texts are printed by `autoresearch COMMAND --help`.

A flag wins over its environment variable, the variable over `protocol.json`, and that over the
default. Data goes to stdout; progress, `error:` and `hint:` lines go to stderr.
[Files and events](files.md#json-output) has the schema of every `--json` output, and
[Errors](errors.md) the common errors with their fixes.
"""
# Variables that no option reads.
VARIABLES = {
    "AUTORESEARCH_CACHE": ("prepare.py, runs", "Folder for prepared data, in place of `~/.cache/autoresearch`."),
    "AUTORESEARCH_DATA_URL": ("prepare.py", "Address of a mirror for the training data: the folder of parquet files."),
    "AUTORESEARCH_KEEP_ENV": ("runs", "Names of variables that runs may see, separated by commas."),
    "AUTORESEARCH_MODEL_KEY": ("--model", "API key for a server given by its address."),
    "AUTORESEARCH_READ": ("runs", "Further folders that runs may read, separated as in `PATH`."),
    "ANTHROPIC_API_KEY": ("--model", "API key for `anthropic:NAME`."),
    "ANTHROPIC_BASE_URL": ("--model", "Address to use for `anthropic:NAME`."),
    "LMSTUDIO_BASE_URL": ("--model", "Address to use for `lmstudio:NAME`."),
    "MLX_BASE_URL": ("--model", "Address to use for `mlx:NAME`."),
    "OLLAMA_BASE_URL": ("--model", "Address to use for `ollama:NAME`."),
    "OPENAI_API_KEY": ("--model", "API key for `openai:NAME`."),
    "OPENAI_BASE_URL": ("--model", "Address to use for `openai:NAME`."),
    "MLX_PTX_CACHE_DIR": ("runs", "Folder of compiled kernels for CUDA, which runs and the evaluator read."),
    "NO_COLOR": ("output", "Any value turns colors off."),
}
# What reads as code: flags, variables, and names of files.
CODE = re.compile(
    r"(?<![\w`./-])(--[a-z][\w-]*|AUTORESEARCH_\w+(?:=\w+(?:,\.\.\.)?)?"
    r"|[\w./-]*\w\.(?:py|jsonl?|tsv|csv|md|toml|html|svg|png|log)|\.autoresearch/[\w./-]*\w|stderr|stdout"
    r"|refs/[\w./-]*\w)(?![\w`/-])"
)


def page() -> str:
    """Return the whole page."""
    program = typer.main.get_command(app)
    commands = dict(_commands(program, "autoresearch"))
    parts = [HEAD.strip(), _contents(commands)]
    parts += [_section(path, command) for path, command in commands.items()]
    parts += [_script("prepare.py"), _script("train.py"), _variables(commands)]
    return "\n\n".join(parts) + "\n"


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield a command and those below it, by what a user types."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from _commands(inner, f"{path} {name}")


def _contents(commands: dict[str, Any]) -> str:
    """Return a table of the commands, by the sections of the program's help page."""
    rows, section = ["| Section | Command | Purpose |", "|---|---|---|"], ""
    for path, command in commands.items():
        section = getattr(command, "rich_help_panel", None) or section
        if not hasattr(command, "commands"):
            summary = one_line(_texts(command.help)[0])
            rows.append(f"| {section} | [`{path}`](#{path.replace(' ', '-')}) | {_prose(summary)} |")
    scripts = {"prepare.py": "Prepare the data and the tokenizer.", "train.py": "Train once, outside the loop."}
    for name, says in scripts.items():
        rows.append(f"| Scripts | [`uv run {name}`](#uv-run-{name.replace('.', '')}) | {says} |")
    return "\n".join(rows)


def _section(path: str, command: Any) -> str:
    name = path.rpartition(" ")[2]
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    about, examples = list[str](), ""
    for text in _texts(command.help):
        if text.startswith("Examples:"):
            examples = _examples(text)
        elif text.startswith(LITERAL):
            about.append(_literal(text.removeprefix(LITERAL)))
        else:
            about.append(_wrapped(one_line(text)))
    parts = [f"## {path}", about[0], f"```text\n{usage}\n```"]
    parts += [*about[1:], *([examples] if examples else []), *_options(command, context)]
    return "\n\n".join(parts)


def _texts(text: str) -> list[str]:
    """Return the paragraphs of a help text; a literal one begins with its mark, but for the examples."""
    found = re.split(r"\n\s*\n", textwrap.dedent(text).strip())
    return [each.removeprefix(LITERAL) if each.startswith(f"{LITERAL}Examples:") else each for each in found]


def _examples(text: str) -> str:
    """Return the examples as a block for the shell; what stands behind one is a comment."""
    title, _, rest = text.partition("\n")
    pairs = [re.split(r" {2,}", line, maxsplit=1) for line in textwrap.dedent(rest).splitlines()]
    return "\n".join([f"{title}\n", "```bash", *("  # ".join(pair) for pair in pairs), "```"])


def _literal(text: str) -> str:
    """Return a title and its indented lines as a table if each has a value and its meaning, else as a block."""
    title, _, rest = text.partition("\n")
    lines = re.sub(r"\n {3,}", " ", textwrap.dedent(rest)).splitlines()  # a meaning may go on in the next line
    pairs = [re.split(r" {2,}", line, maxsplit=1) for line in lines]
    if all(len(pair) == 2 for pair in pairs):
        rows = [f"| {_code(first)} | {_prose(second)} |" for first, second in pairs]
        return "\n".join([f"| {title.rstrip(':')} | Meaning |", "|---|---|", *rows])
    return "\n".join([f"{title}\n", "```text", *lines, "```"])


def _options(command: Any, context: Any) -> Iterator[str]:
    """Yield a table of the arguments and one of the options; of many options, one for each section."""
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and not each.hidden]
    if arguments:
        yield "\n".join(["| Argument | Description |", "|---|---|", *(_argument(each) for each in arguments)])
    sections: dict[str, list[str]] = {}
    for each in options:
        section = each.rich_help_panel if len(options) > FEW else None
        sections.setdefault(section or "", []).append(_option(each, context))
    for title, rows in sections.items():
        heading = [f"### {title}", ""] if title else []
        yield "\n".join([*heading, *OPTIONS, *rows])


def _argument(argument: Any) -> str:
    says = _sentence(_prose(one_line(argument.help or "")))
    return f"| {_code(argument.metavar or argument.name)}{'' if argument.required else ' (optional)'} | {says} |"


def _option(option: Any, context: Any) -> str:
    name, _, choices = option.get_help_record(context)[0].removesuffix(" <str>").partition(" <")
    says = [_sentence(_prose(one_line(option.help or "")))]
    if choices:
        name += " VALUE"
        says.append(f"One of {', '.join(map(_code, choices.rstrip('>').split('|')))}.")
    if option.min is not None and option.max is not None:
        says.append(f"From {option.min:g} to {option.max:g}.")
    elif option.min is not None:
        says.append(f"At least {option.min:g}.")
    if option.multiple:
        says.append("Repeatable.")
    if option.envvar:
        says.append(f"Variable: {_code(option.envvar)}.")
    return f"| {_code(name)} | {_default(option)} | {' '.join(each for each in says if each)} |"


def _default(option: Any) -> str:
    if option.required:
        return "required"
    if option.default is None:
        return ""
    if option.is_bool_flag and option.secondary_opts:
        return _code((option.opts if option.default else option.secondary_opts)[0])
    if option.default is False or callable(option.default):
        return ""
    return _code(str(option.default))


def _script(name: str) -> str:
    """Return the section of a script that reads its arguments with argparse."""
    parser = _parser(name)
    described = (parser.description or "").partition(" Usage:")[0].strip()
    options = [action for action in parser._actions if action.dest != "help"]
    usage = f"uv run {name}{' [OPTIONS]' if options else ''}"
    parts = [f"## uv run {name}", _wrapped(_sentence(one_line(described))), f"```text\n{usage}\n```"]
    if parser.epilog:
        parts.append(_wrapped(one_line(parser.epilog)))
    if options:
        parts.append("\n".join([*OPTIONS, *map(_action, options)]))
    return "\n\n".join(parts)


def _action(action: argparse.Action) -> str:
    kind = "VALUE" if action.choices else action.dest.upper()
    default = "" if action.default is None else _code(str(action.default))
    says = action.help or ""
    says = _sentence(_prose(says if re.match(r"\w+,", says) else f"{says[:1].upper()}{says[1:]}"))
    one_of = f" One of {', '.join(_code(str(each)) for each in action.choices)}." if action.choices else ""
    return f"| {_code(f'{action.option_strings[0]} {kind}')} | {default} | {says}{one_of} |"


class _Found(BaseException):
    """Carries a script's parser out of it, before the script does anything."""


def _parser(name: str) -> argparse.ArgumentParser:
    def stop(parser: argparse.ArgumentParser, *_: object, **__: object) -> NoReturn:
        raise _Found(parser)

    with patch.object(argparse.ArgumentParser, "parse_args", stop), patch.object(sys, "path", [str(ROOT), *sys.path]):
        try:
            runpy.run_path(str(ROOT / name), run_name="__main__")
        except _Found as found:
            parser: argparse.ArgumentParser = found.args[0]
            return parser
    raise AssertionError(f"{name} reads no arguments")


def _variables(commands: dict[str, Any]) -> str:
    """Return a table of every environment variable that the program reads."""
    read: dict[str, list[str]] = {}
    flags: dict[str, str] = {}
    for path, command in commands.items():
        for option in command.params:
            if option.envvar:
                read.setdefault(option.envvar, []).append(path.removeprefix("autoresearch "))
                flags[option.envvar] = option.opts[0]
    told = {name: (", ".join(map(_code, sorted(by))), f"Same as {_code(flags[name])}.") for name, by in read.items()}
    told |= {name: (_where(where), says) for name, (where, says) in VARIABLES.items()}
    rows = [f"| {_code(name)} | {where} | {says} |" for name, (where, says) in sorted(told.items())]
    return "\n".join(["## Environment variables", "", "| Variable | Read by | Meaning |", "|---|---|---|", *rows])


def _where(where: str) -> str:
    return ", ".join(_code(each) if re.search(r"[.-]", each) else each for each in where.split(", "))


def _wrapped(text: str) -> str:
    return textwrap.fill(_prose(text), WIDTH, break_long_words=False, break_on_hyphens=False)


def _prose(text: str) -> str:
    """Return a sentence of a help text as Markdown: names of files, flags and variables become code."""
    parts = re.split(r"(`[^`]*`|(?<!\w)'[^' ]+(?: [^']+)?'(?!\w))", text)  # no apostrophe begins a quotation
    return "".join(part if part.startswith("`") else _quoted(part) for part in parts).replace("|", "\\|")


def _quoted(text: str) -> str:
    if re.fullmatch(r"'[^']+[\s{:/-][^']*'", text):  # a command or an address
        return f"`{text[1:-1]}`"
    return CODE.sub(r"`\1`", text).replace("<", "&lt;").replace("*", "\\*")


def _sentence(text: str) -> str:
    return text if not text or text.endswith((".", "!", "`.")) else f"{text}."


def _code(text: str) -> str:
    """Return a code span; not every Markdown reads an escaped pipe in one, so that becomes an element."""
    if "|" not in text:
        return f"`{text}`"
    return f"<code>{text.replace('<', '&lt;').replace('>', '&gt;').replace('|', '&#124;')}</code>"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
