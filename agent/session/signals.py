"""Record Ctrl-C, SIGTERM and a closed terminal as requests that the loop checks between its steps.

A handler that raised could interrupt a git operation. SIGINT is never ignored, because child processes would inherit
that.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

from agent.errors import Interrupted

IMMEDIATE = {signal.SIGTERM: 143, signal.SIGHUP: 129}


class Interrupts:
    """Requests to stop.

    Attributes:
        finishing: stop after the current experiment.
        on_first: called once, on the first Ctrl-C.
    """

    def __init__(self) -> None:
        self.finishing = False
        self.on_first: Callable[[], None] = lambda: None
        self._exit_code: int | None = None

    def install(self) -> None:
        for number in (signal.SIGINT, *IMMEDIATE):
            # Respect `nohup`, which ignores SIGHUP.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    def raise_if_immediate(self) -> None:
        """Stop the program if the user asked for it.

        Raises:
            Interrupted: after a second Ctrl-C, a SIGTERM or a SIGHUP.
        """
        if self._exit_code is not None:
            raise Interrupted("stopped immediately; run the same command again to continue", self._exit_code)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number in IMMEDIATE:
            self._exit_code = IMMEDIATE[signal.Signals(number)]
        elif self.finishing:
            self._exit_code = 130
        else:
            self.finishing = True
            self.on_first()
