"""Wrong flags and arguments in one sentence, like every other error."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer._click.exceptions import NoArgsIsHelpError, UsageError  # typer has its own click, and shows no more of it
from typer.core import TyperGroup


class Commands(TyperGroup):
    """The program's commands; the parser's usage lines are left to --help."""

    def main(self, *args: Any, **more: Any) -> Any:
        try:
            code = super().main(*args, **{**more, "standalone_mode": False})
        except NoArgsIsHelpError as no_command:
            no_command.show()
            sys.exit(2)
        except UsageError as error:
            what = " ".join(error.format_message().split()).rstrip(".")
            where = error.ctx.command_path if error.ctx else "autoresearch"
            print(f"error: {what}: see `{where} --help`", file=sys.stderr)
            sys.exit(2)
        except typer.Abort:
            sys.exit(130)
        sys.exit(code if isinstance(code, int) else 0)
