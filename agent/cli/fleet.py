"""Where the runs of a session are made: by this process, by stations of this machine, or by those of a scheduler."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.afterwards import confirm_gain
from agent.errors import Interrupted, PreconditionError
from agent.execution.measure import Runner
from agent.journal.state import State
from agent.loop import run_fleet, run_session
from agent.room.sandbox import Mode
from agent.session.session import Session
from agent.session.signals import IMMEDIATE
from agent.system.extras import require_extra

if TYPE_CHECKING:
    from agent.fleet.cluster import Cluster


@dataclass(frozen=True)
class StationsConfig:
    """The stations that make the runs.

    Attributes:
        count: number of stations on this machine; None with a scheduler.
        scheduler: address of a Dask scheduler that stations have joined.
        tls: folder of certificates.
        insecure: connect to another machine without TLS.
    """

    count: int | None = None
    scheduler: str | None = None
    tls: Path | None = None
    insecure: bool = False


def began_on_stations(state: State) -> bool | None:
    """Return whether the runs of a session are made by stations; None if none has begun."""
    if state.experiments:
        runs = state.experiments[0].runs
        return bool(runs[0].station) if runs else None
    if state.flight.leased:
        return True
    return None if state.pending is None else state.pending.candidate is not None


def require_same_kind(state: State, tag: str, stations: StationsConfig | None) -> None:
    """Check that a session which has begun on stations continues on stations, and one on this machine here.

    Raises:
        PreconditionError: it does not, so that its runs would not be comparable.
    """
    before, now = began_on_stations(state), stations is not None
    if before is None or before == now:
        return
    where = "on stations" if before else "without stations"
    raise PreconditionError(
        f"session {tag} was measured {where}, so new runs would not be comparable",
        hint="start another session with another --tag, which may start at its best with --from",
    )


def where(stations: StationsConfig | None, known: Collection[str] = ()) -> list[str]:
    """Return where the runs of a session would be made, as lines of its plan."""
    if stations is None:
        return []
    if stations.scheduler is not None:
        return [f"would measure on the stations at {stations.scheduler}"]
    from agent.fleet.local import places, sharing

    assert stations.count is not None
    names = ", ".join(each.name for each in places(stations.count, known))
    warning = sharing(stations.count)
    return [f"would measure on the stations {names}", *([warning] if warning else [])]


def require_measurable(stations: StationsConfig | None, runner: Runner, base: str) -> None:
    """Check that stations, if there are any, can measure a workspace, before anything is written.

    Args:
        base: the commit at which the session starts.

    Raises:
        PreconditionError: they cannot.
    """
    if stations is not None:
        from agent.fleet.ordering import require_sendable

        require_sendable(runner.workspace, base)


@contextlib.contextmanager
def joined(
    stations: StationsConfig | None, runner: Runner, sandbox: Mode, known: Collection[str]
) -> Iterator[Callable[[], Cluster] | None]:
    """Start the stations of this machine if it has any, and yield what connects to the scheduler; None without them.

    Args:
        runner: of the session.
        sandbox: of the stations.
        known: names of the session's stations so far.
    """
    if stations is None:
        yield None
        return
    require_extra("fleet", "distributed")
    from agent.fleet.cluster import Cluster
    from agent.fleet.local import local_stations, reserved, sharing
    from agent.fleet.security import OPEN

    address, tls, insecure = stations.scheduler, stations.tls, stations.insecure
    with contextlib.ExitStack() as stack:
        if address is None:
            assert stations.count is not None
            if warning := sharing(stations.count):
                runner.say(warning)
            stack.enter_context(reserved(stations.count, known))
            fleet = stack.enter_context(local_stations(stations.count, runner.workspace.folder, known))
            address, tls = fleet.address, fleet.tls
        constraints = runner.protocol.environment.constraints
        opens = constraints.network_policy == "full" or constraints.network_allowlist
        notes = [OPEN] if tls is None and sandbox != "off" and opens else []

        def connect() -> Cluster:
            cluster = Cluster.connect(address, tls, insecure=insecure)
            while notes:  # once, and of a scheduler that is known to have no certificates
                runner.say(notes.pop())
            return cluster

        yield connect


@dataclass(frozen=True)
class Work:
    """The loop, and the confirmation after it."""

    loop: Callable[[], None]
    confirm: Callable[[], int]


def work_of(session: Session, sandbox: Mode, connect: Callable[[], Cluster] | None, *, setup: bool) -> Work:
    """Return the work of a session: with stations or without."""
    if connect is None:
        return Work(lambda: run_session(session), lambda: confirm_gain(session))
    from agent.fleet.confirming import on_stations, pairs_for
    from agent.fleet.decider import Fleet
    from agent.fleet.ordering import Orders

    fleet = Fleet(session, connect, Orders(session, sandbox, setup=setup))

    def loop() -> None:
        try:
            run_fleet(fleet)
        except Interrupted:
            fleet.end_runs("the session was stopped")
            raise

    def confirm() -> int:
        code = confirm_gain(session, pairs_for(fleet), on_stations(fleet))
        if code in IMMEDIATE.values():  # after Ctrl-C they go on, and the next start takes what they returned
            fleet.end_runs("the session was stopped")
        return code

    return Work(loop, confirm)
