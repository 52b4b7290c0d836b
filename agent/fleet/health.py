"""Which stations can measure: those that are here, have not failed repeatedly, and on which the incumbent runs.

A run that its station has not begun keeps no other station, and no end, waiting.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from agent.errors import AutoresearchError
from agent.execution import setup
from agent.journal.experiment import Run, succeeded
from agent.journal.flight import BASELINE, Lease
from agent.session.faults import MOST_IN_A_ROW
from agent.session.session import Session
from agent.station.state import Stage, Unsaid

ABSENT_SECONDS = 60.0  # how long stations may take to come back
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 600.0  # seconds that a station which cannot measure is left alone
MOST_FAILURES = 2  # in a row, of a station or of the incumbent there, after which it does not count as able

# A run that its station has not begun after so long is slow. Other stations take over its part from then on.
SLOW_SECONDS = 60.0
# To send an order, to make a clone and a copy of the workspace, and to send the answer.
SENDING_SECONDS = 1800.0
# The command, its evaluation and that on the holdout have the hard limit each.
MOST_LIMITS = 3


@dataclass(frozen=True)
class Failing:
    """A station that could not measure.

    Attributes:
        count: failures in a row; `faults` are those of its GPU.
        until: when it may try again, by the monotonic clock.
        reason: of the latest failure; empty before the first.
    """

    count: int = 0
    faults: int = 0
    until: float = 0.0
    reason: str = ""

    @property
    def lasts(self) -> bool:
        return self.count >= MOST_FAILURES or self.faults >= MOST_IN_A_ROW


WELL = Failing()


class Health:
    """The stations of a session that can measure, and why the others cannot.

    Args:
        session: whose stations they are.
        say_once: shows a note, unless it was shown before.
    """

    def __init__(self, session: Session, say_once: Callable[[str], None]) -> None:
        self._session, self._say_once = session, say_once
        self._failing: dict[str, Failing] = {}
        self._excused: frozenset[str] = frozenset()  # logs of earlier starts, whose failures do not count
        self._able_at = time.monotonic()

    def begin(self) -> None:
        """Try each station anew: why a run failed there in an earlier start may be gone."""
        state = self._session.state
        every = [*state.flight.kept.values()]
        for comparison in (state.comparison, *state.parked):
            every += comparison.runs.values() if comparison is not None else []
        leases = {lease.log for lease in state.flight.leases.values()}
        self._excused = frozenset(leases | {run.log for runs in every for run in runs})

    def look(self) -> None:
        """Note the time if a station can measure."""
        if self.able():
            self._able_at = time.monotonic()

    def here(self) -> list[str]:
        """Return the stations that are here."""
        return [name for name, each in self._session.state.flight.stations.items() if each.gone is None]

    def fit(self) -> list[str]:
        """Return the stations here on which the incumbent does not fail, so that candidates can be compared with it."""
        return [name for name in self.here() if not self._is_unfit(name)]

    def able(self) -> list[str]:
        """Return the fit stations that have not failed repeatedly."""
        return [name for name in self.fit() if not self._failing.get(name, WELL).lasts]

    def why_none(self) -> str | None:
        """Return why no station here can measure; None if one can, or if none is here."""
        here = self.here()
        if not here or self.able():
            return None
        reasons = [each.reason for name in here if (each := self._failing.get(name, WELL)).lasts]
        return reasons[0] if reasons else f"the incumbent fails: {self._failed(here)[-1].error}"

    @property
    def is_alone(self) -> bool:
        """Whether no station can measure, and none is waited for any longer if the session is to end."""
        late = time.monotonic() - self._able_at > ABSENT_SECONDS
        busy = {lease.station for lease in self._session.state.flight.leases.values()}
        return not self.able() and busy.isdisjoint(self.here()) and (late or self._session.interrupts.finishing)

    def require_fit(self) -> None:
        """Raise AutoresearchError once nothing can be compared.

        Either the incumbent fails on each station, or none of this machine, which no other can join, ever measured.
        """
        here = self.here()
        if here and not self.fit() and self.is_alone:
            name, failed = f"#{self._base}" if self._base else "the baseline", self._failed(here)[-1]
            raise AutoresearchError(f"{name} fails on each station: {failed.error}", hint=f"see the log {failed.log}")
        state = self._session.state
        if (
            state.flags.get("scheduler") is None
            and not state.experiments
            and self.is_alone
            and (why := self.why_none())
        ):
            hint = "fix the cause, then run the same command again"
            raise AutoresearchError(f"no station can measure the baseline: {why}", hint=hint)

    def may_try(self, name: str) -> bool:
        """Return whether the pause of a station is over."""
        return self._failing.get(name, WELL).until <= time.monotonic()

    def failed(self, name: str, reason: str, *, fault: bool = False) -> None:
        """Leave a station alone for a while that could not measure, or whose GPU failed, longer each time."""
        known = self._failing.get(name, WELL)
        count, faults = known.count + (not fault), known.faults + fault
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(count + faults - 1, 30))
        self._failing[name] = Failing(count, faults, time.monotonic() + pause, reason)

    def give_up(self, name: str, reason: str) -> None:
        """Ask nothing of a station any more that would keep the session from ending."""
        self._failing[name] = Failing(MOST_FAILURES, until=math.inf, reason=reason)
        # Another one that only failed may be back soon.
        if all(self._failing.get(each, WELL).until == math.inf for each in self._session.state.flight.stations):
            self._able_at = -math.inf

    def pause(self, name: str, seconds: float) -> None:
        """Leave a station alone for a moment, which is no failure of it."""
        self._failing[name] = replace(self._failing.get(name, WELL), until=time.monotonic() + seconds)

    def measured(self, name: str) -> None:
        """Forget the failures of a station that has measured."""
        self._failing.pop(name, None)

    def recent(self, number: int) -> list[Run]:
        """Return the held-out runs of a kept experiment, without those that failed in earlier starts."""
        return [run for run in self._session.state.flight.kept.get(number, ()) if self.counts(run)]

    def counts(self, run: Run) -> bool:
        """Return whether a run succeeded, or failed in this start."""
        return run.metric is not None or run.log not in self._excused

    @property
    def _base(self) -> int:
        """The number of the incumbent; before the baseline is recorded, that of the baseline."""
        incumbent = self._session.state.incumbent
        return incumbent.number if incumbent else BASELINE

    def _failed(self, names: list[str]) -> list[Run]:
        return [run for run in self.recent(self._base) if run.metric is None and run.station in names]

    def _is_unfit(self, name: str) -> bool:
        own = [run for run in self.recent(self._base) if run.station == name]
        unfit = len(own) >= MOST_FAILURES and not succeeded(own[-MOST_FAILURES:])
        if unfit:
            self._say_once(f"{name} takes no part for now: the incumbent fails there ({own[-1].error})")
        return unfit


@dataclass
class _Waiting:
    """A run that is waited for. Times are those of the monotonic clock.

    Attributes:
        since: when it was asked for, or was found to be measuring.
        ask: when its station is asked next how far it is.
        pause: seconds between the latest two questions.
        stage: what the station said last.
    """

    since: float
    ask: float
    pause: float
    stage: Stage | Unsaid = "unknown"


class Patience:
    """The runs that stations have been asked for, and how far they are.

    Args:
        session: whose runs they are.
        ask: returns how far the station of a run is with it.
        prepares: whether stations run the setup commands.
    """

    def __init__(self, session: Session, ask: Callable[[Lease], Stage | Unsaid], *, prepares: bool) -> None:
        self._session, self._ask, self._prepares = session, ask, prepares
        self._waiting: dict[str, _Waiting] = {}

    def look(self) -> None:
        """Ask stations how far they are: first after SLOW_SECONDS, then twice as long after it each time.

        A silent one takes long to ask, and one that has begun a run is not asked again.
        """
        leases, now = self._session.state.flight.leases, time.monotonic()
        self._waiting = {key: each for key, each in self._waiting.items() if key in leases}
        for key, lease in leases.items():
            known = self._waiting.setdefault(key, _Waiting(now, now + SLOW_SECONDS, SLOW_SECONDS))
            if known.stage == "measuring" or time.monotonic() < known.ask:
                continue
            known.stage, now = self._ask(lease), time.monotonic()
            if known.stage == "measuring":
                known.since = now
            if known.stage != "queued":
                known.pause *= 2
            known.ask = now + known.pause

    def is_preparing(self, lease: Lease) -> bool:
        """Return whether the station of a run says that it prepares it, and ask it if it has not been asked yet."""
        known = self._waiting.get(lease.lease)
        said = known.stage if known is not None and known.stage != "unknown" else self._ask(lease)
        return said == "preparing"

    def restart(self) -> None:
        """Wait for each run anew: nobody could answer for a while."""
        self._waiting.clear()

    def slow(self, *, ends: bool = False) -> list[Lease]:
        """Return the runs that their stations have not begun, although they could have.

        Args:
            ends: whether the session is to end, which does not wait for the run of another session either.
        """
        leases = self._session.state.flight.leases
        stages = ("preparing", "silent", "queued") if ends else ("preparing", "silent")
        return [leases[key] for key, each in self._waiting.items() if each.stage in stages and key in leases]

    def late(self) -> list[Lease]:
        """Return the runs that take longer than any that succeeds."""
        leases, now = self._session.state.flight.leases, time.monotonic()
        found = [key for key, each in self._waiting.items() if now - each.since > self._most(each)]
        return [leases[key] for key in found if key in leases]

    def _most(self, run: _Waiting) -> float:
        runner = self._session.runner
        measuring = MOST_LIMITS * runner.limit + SENDING_SECONDS
        if run.stage == "measuring" or not self._prepares:
            return measuring
        return measuring + setup.most_seconds(runner.protocol)
