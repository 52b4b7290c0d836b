"""What every step of a session works with."""

from __future__ import annotations

from dataclasses import dataclass

from agent.execution.measure import Runner
from agent.journal.journal import Journal
from agent.session.signals import Interrupts


@dataclass(frozen=True)
class Workbench:
    """What runs, where it is written down, and who may want it to end."""

    runner: Runner
    journal: Journal
    interrupts: Interrupts
