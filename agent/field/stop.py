"""End all parts of `field` at the first Ctrl-C, and when the time is up."""

from __future__ import annotations

import time

from agent.errors import Interrupted
from agent.session.signals import Interrupts


class Stop(Interrupts):
    """Requests to stop, one of which is the end of the time.

    Args:
        seconds: the time from now on.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._ends = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left; 0 if none are."""
        return max(0.0, self._ends - time.monotonic())

    def raise_if_immediate(self) -> None:
        """Stop the program if the user asked for it, or if the time is up.

        Raises:
            Interrupted: with exit code 0 if the time is up.
        """
        try:
            super().raise_if_immediate()
        except Interrupted as reason:
            raise Interrupted("stopped at once", reason.exit_code) from None
        if self.finishing:
            raise Interrupted("stopped by Ctrl-C", 130)
        if self.left() == 0.0:
            raise Interrupted("the time is up", 0)
