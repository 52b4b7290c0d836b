"""Ctrl-C, SIGTERM and a closed terminal, as wishes that the loop looks at between its steps.

A handler that raised could do so in the middle of a git operation. SIGINT is never ignored: children would inherit it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

from agent.errors import Interrupted

IMMEDIATE = {signal.SIGTERM: 143, signal.SIGHUP: 129}


class Interrupts:
    """finishing: end after this experiment. `on_first` is called once, when that is asked for."""

    def __init__(self) -> None:
        self.finishing = False
        self.on_first: Callable[[], None] = lambda: None
        self._exit_code: int | None = None

    def install(self) -> None:
        for number in (signal.SIGINT, *IMMEDIATE):
            # `nohup` has a closed terminal ignored, and that is obeyed.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    def raise_if_immediate(self) -> None:
        """Raises Interrupted after a second Ctrl-C, a SIGTERM or a SIGHUP."""
        if self._exit_code is not None:
            raise Interrupted("stopped at once; `run` with the same --tag goes on from here", self._exit_code)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number in IMMEDIATE:
            self._exit_code = IMMEDIATE[signal.Signals(number)]
        elif self.finishing:
            self._exit_code = 130
        else:
            self.finishing = True
            self.on_first()
