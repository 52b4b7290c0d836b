"""`station` makes this machine one of the stations of a session."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from agent.cli.command import command
from agent.cli.program import PREPARE, Options


@command(PREPARE)
def station(
    scheduler: Annotated[
        str | None,
        typer.Argument(metavar="ADDRESS", help="Address of the scheduler, such as tcp://studio.local:8786."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of this station; by default that of the machine.")
    ] = None,
    tls: Annotated[
        Path | None,
        typer.Option("--tls", envvar="AUTORESEARCH_TLS", metavar="DIR", help="Folder of the certificates."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow a connection without certificates, on a network that you trust.")
    ] = False,
    start_scheduler: Annotated[
        bool, typer.Option("--start-scheduler", help="Run the scheduler here instead of a station.")
    ] = False,
    port: Annotated[
        int, typer.Option(min=1, max=65535, metavar="PORT", help="Port of the scheduler that is started.")
    ] = 8786,
    make_certificates: Annotated[
        Path | None,
        typer.Option("--make-certificates", metavar="DIR", help="Write certificates for all machines, and exit."),
    ] = None,
) -> int:
    """Make this machine a station, which runs candidates for a session on another machine.

    Several machines share a session: one decides (`run --scheduler ADDRESS`), and each station runs one candidate at
    a time on its own accelerator. They meet at a scheduler, which runs on a machine that all of them reach. A station
    needs this program in the same version and the same prepared data, but no checkout: commits come with the orders.
    It stays until Ctrl-C, which lets the run finish; a second one ends it.

    Whoever reaches a scheduler can run commands on every station, so machines show each other a certificate.

    \b
    Examples:
      autoresearch station --make-certificates fleet         # once; copy the folder to each machine
      autoresearch station --start-scheduler --tls fleet     # on one machine
      autoresearch station studio.local --tls fleet          # on each station
      autoresearch run --tag mar5 --scheduler studio.local --tls fleet

    Several GPUs of this machine alone need none of this: `run --stations 4` starts everything. Needs the extra `fleet`.
    Exits with code 3 without it, or if the address needs certificates.
    """
    from agent.errors import UsageError
    from agent.system.extras import require_extra

    if (scheduler is not None) + start_scheduler + (make_certificates is not None) != 1:
        raise UsageError(
            "exactly one of ADDRESS, --start-scheduler and --make-certificates is required",
            hint="give the address of a scheduler to join it",
        )
    require_extra("fleet", "distributed")
    if make_certificates is not None:
        return _make(make_certificates)

    import asyncio

    from agent.execution.awake import kept_awake
    from agent.fleet import security
    from agent.fleet.quiet import silence
    from agent.fleet.worker import own_name, serve, work

    if start_scheduler:
        # A scheduler is for other machines, so its own address is no exception.
        security.require_closed(tls, insecure=insecure)
    if not Options.debug:
        silence()
    with kept_awake():
        if start_scheduler:
            return asyncio.run(serve(port, tls, _say))
        where = security.endpoint(scheduler or "", tls, insecure=insecure)
        return asyncio.run(work(where, name or own_name(), _say))


def _make(folder: Path) -> int:
    from agent.fleet.security import make_certificates
    from agent.system.invocation import here

    make_certificates(folder)
    print(f"wrote {here(folder)}: copy it to each machine, for --tls; whoever has it can run commands there")
    return 0


def _say(line: str) -> None:
    from datetime import datetime

    from agent.format import block

    print(f"{datetime.now():%H:%M:%S} {block(line)}", file=sys.stderr, flush=True)
