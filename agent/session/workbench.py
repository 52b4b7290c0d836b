"""The objects that every step of a session uses."""

from __future__ import annotations

from dataclasses import dataclass

from agent.execution.measure import Runner
from agent.journal.comparison import Rung
from agent.journal.journal import Journal
from agent.session.signals import Interrupts


@dataclass(frozen=True)
class Workbench:
    """The runner, the journal, and the requests to stop.

    Attributes:
        rung: the rung of its comparisons; None for the session's own.
    """

    runner: Runner
    journal: Journal
    interrupts: Interrupts
    rung: Rung | None = None
