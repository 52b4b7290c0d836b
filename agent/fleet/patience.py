"""How long a run is waited for: one that its station has not begun keeps no other station, and no end, waiting."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from agent.execution import setup
from agent.journal.flight import Lease
from agent.session.session import Session
from agent.station.state import Stage

# A run that its station has not begun after so long is slow. Other stations take over its part from then on.
SLOW_SECONDS = 60.0
# To send an order, to make a clone and a copy of the workspace, and to send the answer.
SENDING_SECONDS = 1800.0
# The command, its evaluation and that on the holdout have the hard limit each.
MOST_LIMITS = 3


@dataclass
class _Waiting:
    """A run that is waited for. Times are those of the monotonic clock.

    Attributes:
        since: when its part that has a limit began: preparing, or measuring.
        ask: when its station is asked next how far it is.
        pause: seconds between the latest two questions.
        stage: what the station said last; None if it said nothing.
    """

    since: float
    ask: float
    pause: float
    asked: bool = False
    stage: Stage | None = None


class Patience:
    """The runs that stations have been asked for, and how far they are.

    Args:
        session: whose runs they are.
        ask: returns how far the station of a run is with it; None if it does not answer.
        prepares: whether stations run the setup commands.
    """

    def __init__(self, session: Session, ask: Callable[[Lease], Stage | None], *, prepares: bool) -> None:
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
            known.stage, known.asked = self._ask(lease), True
            now = time.monotonic()
            if known.stage in ("measuring", "queued"):
                known.since = now  # the run of another session has its own limit
            if known.stage == "queued":
                known.pause = SLOW_SECONDS / 2
            known.pause *= 2
            known.ask = now + known.pause

    def restart(self) -> None:
        """Wait for each run anew: nobody could answer for a while."""
        self._waiting.clear()

    def slow(self) -> list[Lease]:
        """Return the runs that their stations have not begun, although they could have."""
        leases = self._session.state.flight.leases
        slow = [key for key, each in self._waiting.items() if each.asked and each.stage not in ("measuring", "queued")]
        return [leases[key] for key in slow if key in leases]

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
