"""What a station is doing now: its lock, its current run, and requests to end it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from agent.errors import AutoresearchError, Interrupted
from agent.system.files import locked

POLL_SECONDS = 0.2
CANCELLED = "the run was cancelled"
LEAVING = "the station is leaving"
# How far a station is with a run: it waits for another one, it is being prepared, or its command has begun.
Stage = Literal["queued", "preparing", "measuring"]
# It is connected and does not answer; or it is not reached, or is of a version that cannot say.
Unsaid = Literal["silent", "unknown"]


@dataclass(frozen=True)
class Active:
    """The current run."""

    session: str
    lease: str


@dataclass
class Station:
    """One station of this process.

    Attributes:
        leaving: whether new orders are refused.
        ending: whether the current run is ended, too.
        say: shows a line to the person at the station.
        measuring: whether the command of the current run has begun.
        cancelled: session and lease of orders that shall not run, or end, oldest first.
    """

    name: str
    leaving: bool = False
    ending: bool = False
    say: Callable[[str], None] = lambda _: None
    active: Active | None = None
    measuring: bool = False
    cancelled: dict[tuple[str, str], None] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def running(self, session: str, lease: str, log: Path) -> Iterator[None]:
        """Wait until no other run is active, and be the active one during the block.

        Raises:
            Interrupted: it was cancelled, or the station leaves.
            AutoresearchError: another process of this machine is the same station.
        """
        while not self._lock.acquire(timeout=POLL_SECONDS):
            self.require_going(session, lease)
        try:
            if self.leaving:
                raise Interrupted(LEAVING, 130)
            self.require_going(session, lease)
            with _machine_lock(self.name, log):
                self.active = Active(session, lease)
                yield
        finally:
            self.active, self.measuring = None, False
            self.cancelled.pop((session, lease), None)
            self._lock.release()

    def require_going(self, session: str, lease: str) -> None:
        """Raise Interrupted if the run of a lease shall end."""
        if self.ending:
            raise Interrupted(LEAVING, 130)
        if (session, lease) in self.cancelled:
            raise Interrupted(CANCELLED, 130)


_stations: dict[str, Station] = {}


def station(name: str) -> Station:
    """Return the station of this name in this process."""
    return _stations.setdefault(name, Station(name))


@contextlib.contextmanager
def _machine_lock(name: str, log: Path) -> Iterator[None]:
    """Hold the lock of a station among the processes of this machine.

    Args:
        log: of the run: the lock is four folders above it.
    """
    folder = log.parents[3]
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock") as free:
        if not free:
            raise AutoresearchError(
                f"another process of this machine runs as station {name}", hint="give each station a name of its own"
            )
        yield
