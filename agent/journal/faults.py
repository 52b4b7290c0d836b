"""The runs of a session that a fault of the GPU ended: how many, what they cost, and which of them count tonight."""

from __future__ import annotations

from dataclasses import dataclass, replace

from agent.journal.events import Event


@dataclass(frozen=True)
class Faults:
    """The faulted runs of a session.

    Attributes:
        runs: number of them.
        seconds: time lost: these runs and the pauses after them.
        tonight: how many of them are not the fault of one candidate. A person who starts an ended session again begins
            a new night; a resume after a kill, a reboot or a power failure does not.
        finished: number of runs tonight that ended otherwise.
        in_a_row: number since the last run that ended otherwise.
        until: Unix time at which the pause after the latest one ends; None without a pause.
        reason: the error of the latest one.
    """

    runs: int = 0
    seconds: float = 0.0
    tonight: int = 0
    finished: int = 0
    in_a_row: int = 0
    until: float | None = None
    reason: str = ""

    def after(self, event: Event, *, ended: bool) -> Faults:
        """Return the state after one more event of the journal.

        Args:
            ended: whether the session had ended before it.
        """
        data = event.data
        match event.kind:
            case "faulted":
                pause = data.get("pause", 0.0)
                return replace(
                    self,
                    runs=self.runs + 1,
                    seconds=self.seconds + data.get("seconds", 0.0) + pause,
                    tonight=self.tonight + 1,
                    in_a_row=self.in_a_row + 1,
                    until=event.at + pause if pause else None,
                    reason=str(data.get("reason") or ""),
                )
            case "measured" | "compared":
                provoked = data.get("provoked", 0)
                finished = self.finished + (not provoked and not data.get("reused", False))
                tonight = max(0, self.tonight - provoked)
                return replace(self, tonight=tonight, finished=finished, in_a_row=0, until=None)
            case "resumed" | "comparing" if ended:
                return replace(self, tonight=0, finished=0, in_a_row=0, until=None)
            case "started" | "running" | "ended" | "resumed":
                return replace(self, until=None)
        return self


NO_FAULTS = Faults()
