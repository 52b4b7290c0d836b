"""The decider's side of the connection: orders to stations, answers back. It hides Dask from everything else."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import queue
import time
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from agent.errors import PreconditionError
from agent.fleet.quiet import silence
from agent.fleet.security import endpoint, require_agreement, security
from agent.format import one_line
from agent.station import control
from agent.station.orders import LARGEST_NUMBER, Answer, Invalid, Order
from agent.station.records import folder_name
from agent.station.state import Stage, Unsaid
from agent.station.work import measure_order
from agent.system.invocation import typed, version

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_SECONDS = 10
CALL_SECONDS = 15
END_SECONDS = 5  # to end all runs, for which a person waits
TICK_SECONDS = 0.2
FETCH_SECONDS = (3, 15, 45)  # an answer may cross a slow network; a station that has left sends none
LOOK_SECONDS = 1.0
FIRST_RETRY, LONGEST_RETRY = 5.0, 600.0  # seconds until a station that did not say who it is gets asked again
GONE_SECONDS = 5.0  # a station that is missing for so long is lost
LONGEST_TEXT, MOST_FACTS = 500, 50
LONGEST_NAME = 100  # characters
SHARED = "shares its name with another station: give it another --name"
BROKEN = "the connection to the scheduler broke"
RESOURCE = "station"


@dataclass(frozen=True)
class StationInfo:
    """A station that is connected now.

    Attributes:
        facts: of `control.facts`.
        fault: why it cannot be used; empty if it can.
    """

    name: str
    address: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""


@dataclass(frozen=True)
class Loss:
    """An order that gets no answer. If its station comes back, `collect` may still find one.

    Attributes:
        died: whether the station died or left during the run, which the run may have caused.
        failed: whether the station is there, but could not do it or sent no valid answer.
    """

    lease: str
    station: str
    reason: str
    died: bool = False
    failed: bool = False


@dataclass(frozen=True)
class _Silent:
    """A station that did not say who it is.

    Attributes:
        times: in a row.
        until: when it is asked again, by the monotonic clock: each time, all others wait for CALL_SECONDS.
    """

    info: StationInfo
    times: int
    until: float


@dataclass
class _Pending:
    future: Future[Any]
    station: str
    address: str
    seen: float


class Cluster:
    """The connection to a scheduler and its stations. Make it with `connect`.

    Attributes:
        tick: called several times a second while something is waited for; may raise Interrupted to end the wait.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.tick: Callable[[], None] = lambda: None
        self._pending: dict[str, _Pending] = {}
        self._ended: queue.SimpleQueue[str | Loss] = queue.SimpleQueue()
        self._known: dict[tuple[str, str], StationInfo] = {}
        self._silent: dict[tuple[str, str], _Silent] = {}
        self._workers_seen: dict[str, Any] = {}
        self._looked = 0.0

    @staticmethod
    def connect(address: str, tls: Path | None = None, *, insecure: bool = False, log: Path | None = None) -> Cluster:
        """Connect to a scheduler.

        Args:
            tls: folder of the certificates.
            insecure: allow an open connection to another machine.
            log: receives Dask's own messages; None drops them.

        Raises:
            PreconditionError: it is unreachable, or certificates are required.
        """
        where = endpoint(address, tls, insecure=insecure)
        silence(log)
        from distributed import Client

        hint = f"start one there with `{typed('station --start-scheduler')}`, and compare the address"
        try:
            require_agreement(where)  # Dask tries a closed port for as long as its time limit
            hint = "compare the address, and the versions of autoresearch and Dask on both machines"
            client = Client(
                where.address,
                security=security(where.tls),
                timeout=CONNECT_SECONDS,
                set_as_default=False,
                name="autoresearch",
            )
        except (OSError, TimeoutError, ValueError, RuntimeError) as error:
            raise PreconditionError(
                f"cannot connect to the scheduler at {where.address}: {_said(error)}", hint=hint
            ) from None
        return Cluster(client)

    @property
    def connected(self) -> bool:
        """Whether the scheduler is connected. If it is not, make a new Cluster once it is back."""
        return bool(self._client.status == "running")

    def stations(self) -> dict[str, StationInfo]:
        """Return the stations that are connected now, by name."""
        workers = {(address, str(about.get("id"))): about for address, about in self._workers().items()}
        now = time.monotonic()
        pausing = {key: each.info for key, each in self._silent.items() if key in workers and each.until > now}
        new = [key for key in workers if key not in self._known and key not in pausing]
        said = self._run(control.facts, [address for address, _ in new])
        for key in new:
            info = _info(str(workers[key].get("name")), key[0], said.get(key[0]))
            if info.facts:
                self._known[key] = info
                self._silent.pop(key, None)
            else:
                times = self._silent[key].times + 1 if key in self._silent else 1
                pause = min(LONGEST_RETRY, FIRST_RETRY * 2.0 ** min(times - 1, 30))
                self._silent[key] = _Silent(info, times, time.monotonic() + pause)
        found = [self._known[key] if key in self._known else self._silent[key].info for key in workers]
        shared = {name for name, count in Counter(each.name for each in found).items() if count > 1}
        # The names 7 and "7" are different for Dask.
        return {each.name: replace(each, fault=SHARED) if each.name in shared else each for each in found}

    def submit(self, station: str, order: Order) -> None:
        """Send an order to a station. Its answer, or its loss, comes from `next_answer`."""
        workers = self._workers()
        address = next((each for each, about in workers.items() if str(about.get("name")) == station), None)
        if address is None:
            self._ended.put(Loss(order.lease, station, "the station is not connected"))
            return
        has = RESOURCE in (workers[address].get("resources") or {})
        try:
            future = self._client.submit(
                measure_order,
                order.to_dict(),
                station,
                key=f"{order.session}-{order.lease}-{uuid.uuid4().hex[:8]}",
                workers=[address],
                allow_other_workers=False,
                retries=0,
                pure=False,
                resources={RESOURCE: 1} if has else None,
            )
        except Exception as error:  # the connection breaks in many ways
            self._ended.put(Loss(order.lease, station, f"could not be sent: {_said(error)}"))
            return
        self._pending[order.lease] = _Pending(future, station, address, time.monotonic())
        lease, ended = order.lease, self._ended
        future.add_done_callback(lambda _: ended.put(lease))

    def next_answer(self, timeout: float) -> Answer | Loss | None:
        """Return the next answer or loss; None if there is none within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            try:
                ended = self._ended.get(timeout=max(0.0, min(left, LOOK_SECONDS)))
            except queue.Empty:
                self._look()
                if left <= 0 and self._ended.empty():
                    return None
                continue
            if isinstance(ended, Loss):
                return ended
            pending = self._pending.pop(ended, None)
            if pending is not None:  # else it was given up before
                return self._result(ended, pending)

    def collect(self, session: str, leases: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return what stations keep of these runs, by station: `finished`, lease -> Answer, and `running`, leases."""
        return {name: _kept(data, name) for name, data in self._call(control.collect, session, [*leases]).items()}

    def stage(self, session: str, lease: str, station: str) -> Stage | Unsaid:
        """Return how far a station is with a run."""
        info = self.stations().get(station)
        if info is None or info.fault:
            return "unknown"
        said = self._run(control.stage, [info.address], session, lease)[info.address]
        # Without the scheduler nobody answers, and Dask's own errors of a connection are OSErrors.
        if isinstance(said, OSError) and self.connected:
            return "silent"
        return next((each for each in get_args(Stage) if each == said), "unknown")

    def cancel(self, session: str, lease: str, station: str) -> None:
        """End a run. Its answer says that it was cancelled."""
        if station not in self._call(control.cancel, session, lease, only=station) and lease in self._pending:
            self._lose(lease, "cancelled, while its station did not answer")

    def end(self, session: str, runs: Mapping[str, str]) -> set[str]:
        """End several runs, lease -> station, within END_SECONDS and without `tick`. Silent stations keep theirs.

        Nobody is asked who the stations are: each one that does not answer would take as long again. Where several
        share a name, all are asked, and those that do not have the run do nothing.

        Returns:
            The leases that a station was asked to end.
        """
        deadline = time.monotonic() + END_SECONDS
        if not self._workers_seen and self.connected:
            self._see(END_SECONDS, tick=lambda: None)
        seen = [(str(about.get("name")), address) for address, about in self._workers_seen.items() if self.connected]
        asked = [(lease, address) for lease, name in runs.items() for other, address in seen if other == name]
        left = max(LOOK_SECONDS, deadline - time.monotonic())

        async def end_all() -> list[Any]:
            calls = [self._client._run(control.cancel, session, lease, workers=[at]) for lease, at in asked]
            limited = [asyncio.wait_for(call, left) for call in calls]
            return await asyncio.gather(*limited, return_exceptions=True)

        said = self._wait(end_all, left + LOOK_SECONDS, tick=lambda: None)
        answers = said if isinstance(said, list) else []
        heard = {lease for (lease, _), each in zip(asked, answers, strict=False) if not isinstance(each, BaseException)}
        self._drop(lease for lease in runs if lease not in heard and lease in self._pending)
        return {lease for lease, _ in asked}

    def close(self) -> None:
        """Disconnect. Runs go on, and stations keep their answers."""
        try:
            self._client.close(timeout=CALL_SECONDS)
        except Exception:
            return  # it was broken already

    def _workers(self) -> dict[str, Any]:
        """Return address -> description of the workers that the scheduler knows; empty if it is gone.

        If it is only slow, these are the latest ones: no run is lost because of that.
        """
        if not self.connected:
            return {}
        self._see(CALL_SECONDS)
        return self._workers_seen

    def _see(self, seconds: float, tick: Callable[[], None] | None = None) -> None:
        """Ask the scheduler for its workers."""
        said = self._wait(self._identity, seconds, tick)
        if not isinstance(said, Exception):
            self._workers_seen = dict(said["workers"])

    async def _identity(self) -> Any:
        assert self._client.scheduler is not None
        return await self._client.scheduler.identity(n_workers=-1)  # by default it describes five workers only

    def _call(self, function: Callable[..., Any], *args: Any, only: str | None = None) -> dict[str, Any]:
        """Call a function on each usable station, or on one, and return what those that answer return."""
        names = {info.address: name for name, info in self.stations().items() if not info.fault}
        said = self._run(function, [each for each, name in names.items() if only in (None, name)], *args)
        return {names[address]: data for address, data in said.items() if not isinstance(data, BaseException)}

    def _run(self, function: Callable[..., Any], addresses: Sequence[str], *args: Any) -> dict[str, Any]:
        """Call a function on workers at the same time, and return address -> result or exception."""
        client = self._client

        async def call(address: str) -> Any:
            # One by one, since Dask waits for the slowest of a broadcast, and for ever for one that is asleep.
            said = await asyncio.wait_for(client._run(function, *args, workers=[address]), CALL_SECONDS)
            return said[address]

        async def call_all() -> list[Any]:
            return await asyncio.gather(*map(call, addresses), return_exceptions=True)

        if not addresses:
            return {}
        found = self._wait(call_all, 2 * CALL_SECONDS)
        if isinstance(found, Exception):
            found = [found] * len(addresses)
        return dict(zip(addresses, found, strict=True))

    def _wait(
        self, ask: Callable[[], Coroutine[Any, Any, Any]], seconds: float, tick: Callable[[], None] | None = None
    ) -> Any:
        """Return what a coroutine returns or raises within so many seconds, else a TimeoutError.

        Raises:
            Interrupted: `tick` ended the wait, which Dask's own `sync` does not allow.
        """
        loop = getattr(self._client.loop, "asyncio_loop", None)
        if loop is None or loop.is_closed():
            return RuntimeError("the connection is closed")
        doing, deadline = asyncio.run_coroutine_threadsafe(ask(), loop), time.monotonic() + seconds
        try:
            while not concurrent.futures.wait([doing], TICK_SECONDS).done:
                (tick or self.tick)()
                if time.monotonic() > deadline:
                    return TimeoutError(f"no answer within {seconds} s")
            return doing.exception() or doing.result()
        except concurrent.futures.CancelledError as error:
            return error
        finally:
            doing.cancel()

    def _look(self) -> None:
        """Give up the orders of stations that are gone."""
        now = time.monotonic()
        if not self._pending or now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        workers = self._workers()
        for lease, pending in [*self._pending.items()]:
            if pending.address in workers:
                pending.seen = now
            elif now - pending.seen > GONE_SECONDS:
                self._lose(lease, "the station is gone" if self.connected else "the scheduler is gone")

    def _lose(self, lease: str, reason: str) -> None:
        station = self._pending[lease].station
        self._drop([lease])
        self._ended.put(Loss(lease, station, reason))

    def _drop(self, leases: Iterable[str]) -> None:
        """Wait for some orders no longer."""
        futures = [self._pending.pop(lease).future for lease in [*leases]]
        if futures:  # the connection may be gone
            self._wait(lambda: self._client._cancel(futures), END_SECONDS, tick=lambda: None)

    def _result(self, lease: str, pending: _Pending) -> Answer | Loss:
        for seconds in FETCH_SECONDS:
            said = self._wait(pending.future._result, seconds)
            if isinstance(said, TimeoutError):
                if pending.address not in self._workers():
                    break
                continue
            if isinstance(said, Exception):  # KilledWorker, CancelledError, or what a worker raised
                died = type(said).__name__ in ("KilledWorker", "FutureLostError")
                return Loss(lease, pending.station, _reason(said), died, failed=not died)
            try:
                return _answer_of(said, lease, pending.station)
            except Invalid as reason:
                return Loss(lease, pending.station, f"sent an answer that is not valid: {reason}", failed=True)
        return Loss(lease, pending.station, "the station left before its answer was fetched")


def _kept(data: object, station: str) -> dict[str, Any]:
    """Return what a station keeps, as `collect` does; of anything odd, nothing."""
    said = data if isinstance(data, Mapping) else {}
    answers, leases = said.get("finished"), said.get("running")
    finished = {}
    for lease, answer in answers.items() if isinstance(answers, Mapping) else ():
        with contextlib.suppress(Invalid):
            if isinstance(lease, str):
                finished[lease] = _answer_of(answer, lease, station)
    running = [lease for lease in leases if isinstance(lease, str)] if isinstance(leases, list) else []
    return {"finished": finished, "running": running}


def _answer_of(data: object, lease: str, station: str) -> Answer:
    """Return the answer of a station to the order of a lease. Raises Invalid if it is none."""
    answer = Answer.from_dict(data)
    if answer.station != station or answer.lease != lease:
        # A station that cannot read an order does not know its lease.
        if not answer.failed or answer.station != station:
            raise Invalid(f"it is that of run {answer.lease} on {one_line(answer.station)[:LONGEST_NAME]}")
        answer = replace(answer, lease=lease)
    return answer


def fault_of_name(name: str) -> str:
    """Return why a station cannot have a name, which tables and messages show; empty if it can."""
    usable = 0 < len(name) <= LONGEST_NAME and name == one_line(name)
    return "" if usable else f"has a name that is not one line of 1 to {LONGEST_NAME} characters"


def _info(name: str, address: str, said: Any) -> StationInfo:
    """Return what is known about a station, from the result or exception of `control.facts`."""
    if fault := fault_of_name(name):
        return StationInfo(folder_name(name), address, fault=fault)
    if isinstance(said, ImportError):
        return StationInfo(name, address, fault="autoresearch is not installed there")
    if isinstance(said, BaseException) or not isinstance(said, Mapping):
        why = "a firewall may block its port" if isinstance(said, TimeoutError) else _said(said)
        return StationInfo(name, address, fault=f"does not answer: {why}")
    found = _plain(said)
    theirs = found.get("version")
    fault = "" if theirs == version() else f"has autoresearch {theirs}, and this is {version()}"
    return StationInfo(name, address, found, fault)


def _reason(error: Exception) -> str:
    kind = type(error).__name__
    words = {
        "KilledWorker": "the station died during the run",
        "FutureCancelledError": BROKEN,
        "CancelledError": BROKEN,
        "FutureLostError": "the station died during the run",
        "ModuleNotFoundError": "autoresearch is not installed there",
    }
    return words.get(kind) or f"{kind}: {_said(error)}"


def _said(error: object) -> str:
    with contextlib.suppress(Exception):  # as of a number of thousands of digits, or of a worker's own class
        return one_line(str(error))[:LONGEST_TEXT] or type(error).__name__
    return type(error).__name__


def _plain(data: Any, depth: int = 0) -> dict[str, Any]:
    """Return the texts, numbers and objects in what a station said about itself, bounded in number and length."""
    found: dict[str, Any] = {}
    named = ((key[:LONGEST_TEXT], value) for key, value in dict(data).items() if isinstance(key, str))
    for key, value in itertools.islice(named, MOST_FACTS):
        if isinstance(value, str):
            found[key] = one_line(value)[:LONGEST_TEXT]
        elif value is None or (isinstance(value, int | float) and abs(value) <= LARGEST_NUMBER):
            found[key] = value
        elif isinstance(value, Mapping) and depth == 0:
            found[key] = _plain(value, 1)
    return found
