"""Watch a run in progress, and end it if it can no longer win."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from agent.decision.estimate import estimate, unbiased
from agent.errors import Crashed, Pruned, TimedOut
from agent.journal.experiment import Experiment, Run
from agent.pruning.curves import Curve, CurveReader, average, broken, curve, overdue, too_late
from agent.pruning.prune import MOST_HISTORY, Finished, Rival, hopeless
from agent.system.files import open_plain, read_text

LARGEST_LOOK = 2**20  # bytes of a log read at a time
LARGEST_LOG = 2**27  # bytes
MOST_CURVES = 4 * MOST_HISTORY  # in memory


class RunMonitor:
    """A check to be called several times a second with the duration of the run so far.

    Args:
        log: the log of the run.
        limit: the hard limit in seconds; inf if the log's fractions are known to be none of the training.
        budget: seconds of training that the run was given; None if the protocol has none.
        rival: the incumbent to beat; None to end the run only for failures visible in its own curve.
        rises: the incumbent's own curve looks broken, so such curves mean nothing in this program.
    """

    def __init__(
        self, log: Path, limit: float, budget: float | None, rival: Rival | None, *, rises: bool = False
    ) -> None:
        self._log, self._limit, self._budget, self._rival, self._rises = log, limit, budget, rival, rises
        self._reader = CurveReader()
        self._read = 0

    def __call__(self, seconds: float) -> None:
        """Raise the error that ends the run, if it should end now.

        Args:
            seconds: duration of the run so far.

        Raises:
            Pruned: it can no longer beat the rival.
            Crashed: its loss is not finite or has diverged.
            TimedOut: it cannot end before its hard limit.
        """
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
                if os.fstat(file.fileno()).st_size < self._read:  # the log was started over
                    self._reader, self._read = CurveReader(), 0
                file.seek(self._read)
                new = file.read(LARGEST_LOOK)
        except OSError:
            return False
        self._read += len(new)
        return self._reader.feed(new, seconds)


class CurveCache:
    """The curves of finished runs. Each log is read once.

    Args:
        is_lost: returns whether the log of a run now holds another run.
    """

    def __init__(self, is_lost: Callable[[Run], bool] = lambda _: False) -> None:
        self._known: dict[str, Curve] = {}
        self._without: set[str] = set()  # logs that have no curve
        self._is_lost, self._lost = is_lost, dict[tuple[str, float], bool]()

    def of(self, runs: Sequence[Run]) -> Curve:
        return average([self._curve(run.log) for run in runs])

    def of_own(self, runs: Sequence[Run]) -> Curve:
        """Return the same without the runs whose logs are lost; empty if no other is left."""
        for run in runs:
            if (run.log, run.seconds) not in self._lost:
                self._lost[run.log, run.seconds] = self._is_lost(run)
        return self.of([run for run in runs if not self._lost[run.log, run.seconds]])

    def finished(
        self, experiments: Sequence[Experiment], changed: Callable[[Experiment, Experiment], Collection[str]]
    ) -> list[Finished]:
        """Return the latest MOST_HISTORY experiments with a curve and a metric, each with its incumbent at the time.

        Args:
            changed: returns the edits of the first experiment relative to the second.
        """
        found: list[Finished] = []
        beside: dict[int, Curve] = {}
        for experiment, incumbent in reversed(_with_incumbents(experiments)):
            first = next((run for run in experiment.runs if run.metric is not None and not experiment.voided), None)
            own = self.of([first]) if first is not None else ()
            worth = estimate(incumbent)
            if worth is None or first is None or not own:
                continue
            if incumbent.number not in beside:
                beside[incumbent.number] = self.of_own(unbiased(incumbent) or incumbent.runs)
            assert first.metric is not None
            found.append(Finished(own, first.metric, beside[incumbent.number], worth, changed(experiment, incumbent)))
            if len(found) == MOST_HISTORY:
                break
        return found[::-1]

    def _curve(self, log: str) -> Curve:
        if log in self._without:
            return ()
        known = self._known.pop(log, ())
        if not known:
            with contextlib.suppress(OSError):
                known = curve(read_text(Path(log), LARGEST_LOG))
        if not known:
            self._without.add(log)
            return ()
        self._known[log] = known  # the latest is the last to be dropped
        if len(self._known) > MOST_CURVES:
            del self._known[next(iter(self._known))]
        return known


def _with_incumbents(experiments: Sequence[Experiment]) -> list[tuple[Experiment, Experiment]]:
    """Return each experiment that had an incumbent, with that."""
    found: list[tuple[Experiment, Experiment]] = []
    incumbent: Experiment | None = None
    for experiment in experiments:
        if incumbent is not None:
            found.append((experiment, incumbent))
        if experiment.kept:
            incumbent = experiment
    return found
