"""The scheduler: the one process that all machines reach. It holds no data of a session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import dask
from distributed import Scheduler

from agent.errors import PreconditionError
from agent.fleet.security import security

# Its pages need no other machine. Port 0 is any free one.
PAGES = "127.0.0.1:0"
SETTINGS = {
    # A run that ends with its station is never given to another one: the decider decides that.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.admin.system-monitor.gil.enabled": False,
}


async def serve(host: str, port: int, tls: Path | None, ready: Callable[[str], None], stop: asyncio.Event) -> None:
    """Run a scheduler until `stop` is set.

    Args:
        host: the address to listen on; empty for all.
        port: 0 for any free one.
        ready: called with its address.

    Raises:
        PreconditionError: the port is not free.
    """
    with dask.config.set(SETTINGS):
        try:
            async with Scheduler(
                host=host or None,
                port=port,
                protocol="tls" if tls else "tcp",
                security=security(tls),
                dashboard=False,
                dashboard_address=PAGES,
            ) as scheduler:
                ready(scheduler.address)
                await stop.wait()
        except (OSError, RuntimeError) as error:
            raise PreconditionError(
                f"cannot listen on port {port}: {error}", hint="choose another with `--port`"
            ) from None
