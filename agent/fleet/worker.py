"""The program of a station: a Dask worker that runs one order at a time, and comes back when its scheduler does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import signal
import time
from collections.abc import Callable
from pathlib import Path

import dask
from distributed import Worker

from agent.errors import PreconditionError
from agent.fleet import scheduler
from agent.fleet.cluster import RESOURCE
from agent.fleet.scheduler import PAGES, SETTINGS
from agent.fleet.security import OPEN, Endpoint, require_agreement, security
from agent.format import one_line
from agent.station.state import POLL_SECONDS, Station, station
from agent.system import temporary
from agent.system.hosts import is_loopback
from agent.system.invocation import typed

CONNECT_SECONDS, PAUSE_SECONDS = 10, 5.0
DELIVERY_SECONDS = 15.0  # to hand over the answer of the last run
LAST_WORDS_SECONDS = 3.0  # the same, for a run that was ended
ENDING_SECONDS = 15.0  # to kill a run
TAKEN = "name taken"  # Dask's own words
# A scheduler lists a station that lost its power for five minutes (`distributed.scheduler.worker-ttl`).
TAKEN_SECONDS = 360.0
NO_ANSWER = "it does not answer"


class Leaving:
    """Requests to leave: the first Ctrl-C lets the run finish; the second one, or SIGTERM, ends it.

    Attributes:
        code: the exit code.
    """

    def __init__(self, here: Station) -> None:
        self.code = 0
        self._here = here
        self.event = asyncio.Event()

    def install(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self.ask)
        for number, code in ((signal.SIGTERM, 143), (signal.SIGHUP, 129)):
            # Respect `nohup`, which ignores SIGHUP.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self.at_once, code)

    def ask(self) -> None:
        if self._here.leaving:
            self.at_once(130)
            return
        self.code, self._here.leaving = 130, True
        if self._here.active is not None:
            self._here.say("leaving after this run; Ctrl-C again ends it now")
        self.event.set()

    def at_once(self, code: int) -> None:
        self.code, self._here.leaving, self._here.ending = code, True, True
        self.event.set()


class Waiting:
    """Why a station is not connected, which it says once. What waiting does not change ends it before it has been."""

    def __init__(self, where: Endpoint, name: str, say: Callable[[str], None]) -> None:
        self._where, self._name, self._say = where, name, say
        self._told: set[str] = set()
        self._was_connected = False
        self._taken: float | None = None  # when its name was taken first, by the monotonic clock

    def succeeded(self) -> None:
        if self._where.tls is None and not self._was_connected:
            self._say(OPEN)
        self._was_connected, self._taken = True, None
        self._told.clear()

    def failed(self, error: Exception) -> None:
        """Say why. Raises PreconditionError if that will not change."""
        said = one_line(str(error.__cause__ or error))[:200] or NO_ANSWER
        if TAKEN in said:
            self._require_patience()
            still = f"the scheduler still lists a station with the name {self._name}; waiting for it to go"
            self._say_once(still, "; if another station has it, choose another with `--name`")
            return
        if isinstance(error, PreconditionError) and not self._was_connected:
            raise error
        self._say_once(f"waiting for the scheduler at {self._where.address}", f": {said}")

    def _require_patience(self) -> None:
        now = time.monotonic()
        self._taken = self._taken or now
        if not self._was_connected and now - self._taken > TAKEN_SECONDS:
            raise PreconditionError(
                f"the scheduler has a station with the name {self._name} already",
                hint="stop that one, or choose another name with `--name`. If this machine was restarted, keep "
                "the name and try again later: under another one, its earlier runs are not compared",
            )

    def _say_once(self, text: str, reason: str = "") -> None:
        if text not in self._told:
            self._told.add(text)
            self._say(text + reason)


def own_name() -> str:
    """Return the name of this machine, and of the GPU that this process may use if it is told one."""
    host = platform.node().split(".")[0] or "station"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return f"{host}-gpu{visible}" if visible.isdecimal() else host


async def serve(port: int, tls: Path | None, say: Callable[[str], None]) -> int:
    """Run a scheduler for other machines until a person ends it, and return the exit code."""
    leaving = Leaving(Station("scheduler"))
    leaving.install()

    def ready(address: str) -> None:
        flags = f"{address} --tls DIR" if tls else f"{address} --insecure"
        say(f"the scheduler is ready; on each station: {typed(f'station {flags}')}")
        say(f"and to start a session: {typed(f'run --tag TAG --scheduler {flags}')}")

    await scheduler.serve("", port, tls, ready, leaving.event)
    return leaving.code


async def work(where: Endpoint, name: str, say: Callable[[str], None], ready: Callable[[], None] = lambda: None) -> int:
    """Be a station until a person ends it.

    Args:
        ready: called after each connection.

    Returns:
        The exit code.

    Raises:
        PreconditionError: another station has this name, or the scheduler's certificate is not of this authority.
    """
    here = station(name)
    here.say = say
    leaving = Leaving(here)
    leaving.install()
    waiting = Waiting(where, name, say)
    with dask.config.set(SETTINGS), temporary.folder("autoresearch-station-") as scratch:
        while not leaving.event.is_set():
            worker = _worker(where, name, scratch)
            try:
                await _until(leaving.event, asyncio.to_thread(require_agreement, where))
                await _until(leaving.event, worker.start())
            except Exception as error:
                waiting.failed(error)
            else:
                if not leaving.event.is_set():
                    waiting.succeeded()
                    say(f"station {name} is ready at {where.address}")
                    ready()
                    await _until(leaving.event, worker.finished())
                    if not leaving.event.is_set():
                        say("the scheduler is gone; a run in progress goes on, and its answer is kept")
                if leaving.event.is_set():
                    await _finish(here, worker)
            await _close(worker)
            await _until(leaving.event, asyncio.sleep(PAUSE_SECONDS))
        await _finish(here, None)
    return leaving.code


def _worker(where: Endpoint, name: str, scratch: str) -> Worker:
    # A station of this machine's own scheduler must not listen to others.
    host = where.address.split("//")[1].rpartition(":")[0]
    return Worker(
        where.address,
        name=name,
        nthreads=1,
        resources={RESOURCE: 1},
        security=security(where.tls),
        local_directory=scratch,
        memory_limit=0,
        host="127.0.0.1" if is_loopback(host) else None,
        dashboard=False,
        dashboard_address=PAGES,
        death_timeout=CONNECT_SECONDS,
    )


async def _until(event: asyncio.Event, work: object) -> None:
    """Await `work`, but no longer than until `event` is set. Raises what `work` raises."""
    doing, waiting = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())  # type: ignore[call-overload]
    try:
        await asyncio.wait({doing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            await doing
    finally:
        for each in (doing, waiting):
            if not each.done():
                each.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await each


async def _finish(here: Station, worker: Worker | None) -> None:
    """Wait for the end of the current run, and until the decider has its answer."""
    ends = None
    while here.active is not None:
        if here.ending:
            ends = ends or asyncio.get_running_loop().time() + ENDING_SECONDS
            if asyncio.get_running_loop().time() > ends:
                return  # the run's watchdog kills it when this process ends
        await asyncio.sleep(POLL_SECONDS)
    until = asyncio.get_running_loop().time() + (LAST_WORDS_SECONDS if here.ending else DELIVERY_SECONDS)
    # The scheduler takes an answer from the worker only a moment after the run.
    while worker is not None and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(POLL_SECONDS)
        if not worker.state.tasks:
            return


async def _close(worker: Worker) -> None:
    with contextlib.suppress(Exception):
        await asyncio.wait_for(worker.close(executor_wait=False, timeout=CONNECT_SECONDS), 2 * CONNECT_SECONDS)
