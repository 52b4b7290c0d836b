"""Looks at a run while it goes on, and ends it where it has no chance left."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from agent.decision.estimate import estimate, unbiased
from agent.errors import Crashed, Pruned, TimedOut
from agent.journal.experiment import Experiment, Run
from agent.pruning.curves import Curve, CurveReader, average, broken, curve, overdue, too_late
from agent.pruning.prune import Finished, Rival, hopeless
from agent.system.files import open_plain, read_text

LARGEST_LOOK = 2**20  # bytes of a log that are read at a time
LARGEST_LOG = 2**27


class RunMonitor:
    """To be called with the seconds so far, several times a second. limit: the hard limit in seconds.

    budget: the seconds of training that the run was told. rival: None where a run is only ended for what its own curve
    shows. rises: whether its incumbent's curve has what breaks others, so that it means nothing in this program.
    """

    def __init__(
        self, log: Path, limit: float, budget: float | None, rival: Rival | None, *, rises: bool = False
    ) -> None:
        self._log, self._limit, self._budget, self._rival, self._rises = log, limit, budget, rival, rises
        self._reader = CurveReader()
        self._read = 0

    def __call__(self, seconds: float) -> None:
        """Raises Pruned, Crashed or TimedOut where the run may as well end now."""
        advanced = self._advance(seconds)
        so_far = self._reader.curve
        if reason := too_late(so_far, seconds, self._limit, self._budget):
            raise TimedOut(reason)
        if not advanced:
            return
        if not self._rises and (reason := broken(so_far)):
            raise Crashed(reason)
        if reason := overdue(so_far, seconds, self._limit):
            raise TimedOut(reason)
        if self._rival is None:
            return
        found = hopeless(so_far, self._rival)
        if found is not None:
            raise Pruned(found.reason, found.fraction, found.estimate)

    def _advance(self, seconds: float) -> bool:
        try:
            with open_plain(self._log) as file:
                if os.fstat(file.fileno()).st_size < self._read:  # it begins again
                    self._reader, self._read = CurveReader(), 0
                file.seek(self._read)
                new = file.read(LARGEST_LOOK)
        except OSError:
            return False
        self._read += len(new)
        return self._reader.feed(new, seconds)


class CurveCache:
    """The curves of finished runs, each read once."""

    def __init__(self) -> None:
        self._known: dict[str, Curve] = {}

    def of(self, runs: Sequence[Run]) -> Curve:
        return average([self._curve(run.log) for run in runs])

    def finished(
        self, experiments: Sequence[Experiment], changed: Callable[[Experiment, Experiment], Collection[str]]
    ) -> list[Finished]:
        """Every experiment with a curve and a metric, beside its incumbent of that time.

        changed: what the first of two changes in the second.
        """
        found: list[Finished] = []
        incumbent: Experiment | None = None
        for experiment in experiments:
            first = next((run for run in experiment.runs if run.metric is not None), None)
            own = self.of([first]) if first is not None else ()
            worth = estimate(incumbent) if incumbent is not None else None
            if incumbent is not None and worth is not None and first is not None and own:
                assert first.metric is not None
                beside = self.of(unbiased(incumbent) or incumbent.runs)
                found.append(Finished(own, first.metric, beside, worth, changed(experiment, incumbent)))
            if experiment.verdict.status == "keep":
                incumbent = experiment
        return found

    def _curve(self, log: str) -> Curve:
        if log not in self._known:
            try:
                self._known[log] = curve(read_text(Path(log), LARGEST_LOG))
            except OSError:
                self._known[log] = ()
        return self._known[log]
