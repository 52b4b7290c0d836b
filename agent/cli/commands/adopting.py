"""The command that brings a session's changes into the user's branch: `adopt`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from agent.cli import completion
from agent.cli.command import answer, command
from agent.cli.options import Json, Tag
from agent.cli.program import RESEARCH, Options


@dataclass(frozen=True)
class KindFlags:
    """Flags that say what `adopt` takes."""

    provisional: Annotated[
        bool, typer.Option("--provisional", help="Adopt changes whose gain is not confirmed; the message says so.")
    ] = False
    minimal: Annotated[bool, typer.Option("--minimal", help="Take the smaller recipe that `ablate` found.")] = False
    promoted: Annotated[bool, typer.Option("--promoted", help="Take what `promote` has shown to transfer.")] = False


@command(RESEARCH)
def adopt(
    kind: KindFlags,
    which: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="N",
            help="Numbers of kept experiments, or `best`, the default: all of them. With --promoted, the number of a "
            "promotion; by default the latest.",
            autocompletion=completion.experiments,
        ),
    ] = None,
    tag: Tag = None,
    onto: Annotated[
        str | None,
        typer.Option(metavar="BRANCH", help="Branch to commit on; by default the one that the session began on."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Commit the kept changes of a session on your branch.

    Makes one commit, whose message names the changes, the gain with its interval, the runs, the machine and the data.
    If your branch has moved on, constants are merged by value and the rest as text; a conflict changes nothing.
    results.tsv stays on the session's branch. What the session found is added to your playbook.md, if you have one.

    The gain must be confirmed by `confirm`. Your checkout follows if it is on that branch; it must have no uncommitted
    changes.

    \b
    Examples:
      autoresearch adopt
      autoresearch adopt --minimal --onto main
      autoresearch adopt 3 7 --provisional

    Exits with code 3 if the session kept nothing, the gain is not confirmed or the changes conflict.
    """
    from agent.adopt.adopt import Wish, adopt, adopt_lines

    data = adopt(Options.folder.resolve(), tag, Wish(which or (), onto, kind.provisional, kind.minimal, kind.promoted))
    answer(as_json, "adopt", data, adopt_lines(data))
    return 0
