"""`station` makes this machine one of the stations of a session."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from agent.cli.command import command
from agent.cli.options import ConnectionFlags
from agent.cli.program import PREPARE, Options
from agent.system.hosts import PORT


@command(PREPARE)
def station(
    connection: ConnectionFlags,
    scheduler: Annotated[
        str | None,
        typer.Argument(metavar="ADDRESS", help="Address of the scheduler, such as tcp://studio.local:8786."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of this station; by default that of the machine.")
    ] = None,
    start_scheduler: Annotated[
        bool, typer.Option("--start-scheduler", help="Run the scheduler here instead of a station.")
    ] = False,
    port: Annotated[
        int, typer.Option(min=1, max=65535, metavar="PORT", help="Port of the scheduler that is started.")
    ] = PORT,
    make_certificates: Annotated[
        Path | None,
        typer.Option("--make-certificates", metavar="DIR", help="Write certificates for all machines, and exit."),
    ] = None,
) -> int:
    """Run candidates for a session of another machine.

    Several machines share a session: one decides (`run --scheduler ADDRESS`), and each station runs one candidate at
    a time. They meet at a scheduler, which runs on a machine that all of them reach. A station needs this version of
    the program and the same prepared data, but no checkout. It stays until Ctrl-C, which lets the run finish; a second
    one ends it. Whoever reaches a scheduler can run commands on every station, so machines show a certificate.

    \b
    Examples:
      autoresearch station --make-certificates ~/fleet
      autoresearch station --start-scheduler --tls ~/fleet
      autoresearch station studio.local --tls ~/fleet
      autoresearch run --tag mar5 --scheduler studio.local --tls ~/fleet

    Make the certificates once, outside of the workspace, and copy their folder to each machine. For GPUs of this
    machine, `run --stations 4` starts everything. Needs the extra `fleet`; exits with code 3 without it, or if the
    address needs certificates.
    """
    from agent.errors import UsageError
    from agent.system.extras import require_extra

    if (scheduler is not None) + start_scheduler + (make_certificates is not None) != 1:
        raise UsageError(
            "exactly one of ADDRESS, --start-scheduler and --make-certificates is required",
            hint="give the address of a scheduler to join it",
        )
    if port != PORT and not start_scheduler:
        raise UsageError("--port is that of --start-scheduler", hint="give the port with the address: `HOST:PORT`")
    require_extra("fleet", "distributed")
    if make_certificates is not None:
        return _make(make_certificates)
    return _serve(port, connection) if start_scheduler else _work(scheduler or "", name, connection)


def _serve(port: int, connection: ConnectionFlags) -> int:
    import asyncio

    from agent.execution.awake import kept_awake
    from agent.fleet.quiet import silence
    from agent.fleet.security import require_closed
    from agent.fleet.worker import serve

    # A scheduler is for other machines, so that an address of this one is no exception.
    require_closed(connection.tls, insecure=connection.insecure)
    if not Options.debug:
        silence()
    with kept_awake():
        return asyncio.run(serve(port, connection.tls, _say))


def _work(address: str, name: str | None, connection: ConnectionFlags) -> int:
    import asyncio

    from agent.errors import UsageError
    from agent.execution.awake import kept_awake
    from agent.fleet.cluster import fault_of_name
    from agent.fleet.quiet import silence
    from agent.fleet.security import endpoint
    from agent.fleet.worker import own_name, work

    if name is not None and (fault := fault_of_name(name)):
        raise UsageError(f"this station {fault}", hint="choose another with `--name`")
    where = endpoint(address, connection.tls, insecure=connection.insecure)
    if not Options.debug:
        silence()
    _say(f"connecting to the scheduler at {where.address}")  # an address without an answer takes a while to fail
    with kept_awake():
        return asyncio.run(work(where, name or own_name(), _say))


def _make(folder: Path) -> int:
    from agent.fleet.security import make_certificates
    from agent.system.invocation import here

    make_certificates(folder)
    if any((each / ".git").exists() for each in (folder.resolve(), *folder.resolve().parents)):
        _say(f"{here(folder)} is in a git repository: do not commit the key, or move the folder")
    print(f"wrote {here(folder)}: copy it to each machine, for --tls; whoever has it can run commands there")
    return 0


def _say(line: str) -> None:
    from datetime import datetime

    from agent.format import block

    print(f"{datetime.now():%H:%M:%S} {block(line)}", file=sys.stderr, flush=True)
