"""Evidence that travels: `claim` writes it, `verify` replicates it on another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.command import answer, command
from agent.cli.options import Json, SandboxMode, Setup, Tag
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
    no name of yours except those in commits and logs. The gain must be confirmed.

    \b
    Examples:
      autoresearch claim
      autoresearch claim --tag mar5 --out claims/mar5
    """
    from agent.claim.write import write_claim

    print("\n".join(map(block, write_claim(Options.folder, tag, out))))
    return 0


@command(RESEARCH, measures=True)
def verify(
    claim: Annotated[Path, typer.Argument(metavar="CLAIM", help="The folder that `claim` wrote.")],
    seeds: Annotated[
        int, typer.Option(min=2, max=100, metavar="N", help="Pairs of runs at most, each with a new seed.")
    ] = 8,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Attestation to write; by default in the claim's folder."),
    ] = None,
    setup: Setup = True,
    sandbox: SandboxMode = "auto",
    as_json: Json = False,
) -> int:
    """Check a claim, and repeat its runs here.

    Checks that the figures follow from the logs, that the commits change only what they may, and that they have the
    harness of your HEAD. Makes the claim's data if it is missing. Then runs baseline and best alternately with new
    seeds, confined like every run, until an interval that is valid whenever it is read shows the gain or rules it
    out. Writes the result as an attestation into the claim's folder.

    Use it in a clone of the claim's repository. Your checkout, branches, sessions and current data do not change.

    \b
    Examples:
      autoresearch verify claim-mar5
      autoresearch verify claim-mar5 --seeds 4 --json

    \b
    Exit codes:
      0    replicated
      1    not replicated, cannot tell, or the claim contradicts itself
      2    not a claim
      3    another protocol or harness, or the data or the baseline fails
           here
      4    the GPU keeps failing the baseline
      130  Ctrl-C
      143  SIGTERM
    """
    from agent.claim.verify import VerifyConfig
    from agent.claim.verify import verify as verified

    data = verified(Options.folder, claim, VerifyConfig(seeds, sandbox, setup, out))
    answer(as_json, "verify", data, [data["says"], f"wrote {data['path']}"])
    return 0 if data["verdict"] == "replicated" else 1
