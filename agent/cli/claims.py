"""Evidence that travels: `claim` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.command import command
from agent.cli.options import Tag
from agent.cli.program import RESEARCH, Options
from agent.format import block


@command(RESEARCH)
def claim(
    tag: Tag = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder to write; by default claim-TAG in the current folder."),
    ] = None,
) -> int:
    """Write the evidence for a confirmed gain.

    Writes one small folder: the commits of baseline and best with their history, the protocol, the identifier of the
    data, all held-out runs with their logs, and the machine. Anyone can check it with `verify`. It contains no path and
    no name of yours except those in commits and logs. The session must be confirmed.

    \b
    Examples:
      autoresearch claim
      autoresearch claim --tag mar5 --out claims/mar5
    """
    from agent.claim.write import write_claim

    print("\n".join(map(block, write_claim(Options.folder, tag, out))))
    return 0
