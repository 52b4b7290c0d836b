"""The command about the file of ideas: `playbook`."""

from __future__ import annotations

from typing import Annotated

import typer

from agent.cli import completion
from agent.cli.command import answer, command
from agent.cli.options import Json, Tag
from agent.cli.program import LOOK, Options
from agent.errors import UsageError


@command(LOOK, reads=True)
def playbook(
    tag: Tag = None,
    add: Annotated[
        str | None,
        typer.Option(
            metavar="TAG", help="Add what this session found to your playbook.md.", autocompletion=completion.tags
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """List the ideas of playbook.md, and what was tried of them.

    An entry is tried once an experiment of the session, or of one that it learned from, has cited it or moved one of
    its constants that way. `in the recipe` means that the best has its value already.

    Sessions add what they found on their own branch, and `adopt` takes it along. --add does it by hand, in your
    checkout, and keeps your edits.

    \b
    Examples:
      autoresearch playbook
      autoresearch playbook --tag mar5 --json
      autoresearch playbook --add mar5
    """
    folder = Options.folder.resolve()
    if add is not None and tag is not None:
        raise UsageError("--add and --tag are mutually exclusive", hint="drop --tag")
    if add is not None:
        from agent.adopt import playbook as findings

        done = findings.add(folder, add)
        answer(as_json, "playbook", done, findings.add_lines(done))
        return 0
    from agent.views.playbook import playbook_data, playbook_lines

    data = playbook_data(folder, tag)
    answer(as_json, "playbook", data, playbook_lines(data))
    return 0
