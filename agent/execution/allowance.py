"""How long a run may take beyond its training budget, given the earlier runs that it is compared with."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from agent.errors import Violation
from agent.journal.experiment import Run

INCUMBENT = "the incumbent"
# How the errors of runs begin that took too long until they handed over their model.
TOO_LATE = ("voided: it handed over ", "voided: it trained for ")
# The untimed part of a run may exceed its incumbent's by this fraction of the budget, but by no more than this many
# seconds. It may exceed the baseline's by this multiple of that, and its evaluation may take this multiple of what is
# allowed beside the baseline: else each keep would allow the next one more.
UNTIMED_SHARE, UNTIMED_SECONDS, UNTIMED_STEPS = 0.1, 10.0, 3
# The startup time of a program varies by this much, whatever its budget.
LEAST_UNTIMED_SECONDS = 1.0
# The evaluation may take this many times as long as the incumbent's: a larger model is slower, and the machine may be
# busy. Without a bound, a graph could contain steps of training, which the evaluator would compute after the budget.
EVALUATION_TIMES = 8
# The last step begins within the budget, and a candidate's step may take longer than its incumbent's.
MOST_STEPS = 2


@dataclass(frozen=True)
class References:
    """Earlier runs with which a run is compared.

    Attributes:
        own: runs of the incumbent, which limit the time before the handover.
        baseline: runs of the baseline, which limit it as well.
        other: runs of another commit. Comparing losses with theirs shows where this run gains; runs of the same commit
            would hide an unfair gain, such as from reading the evaluation text.
        side: name in sentences of the program that `own` are runs of.
    """

    own: tuple[Run, ...] = ()
    baseline: tuple[Run, ...] = ()
    other: tuple[Run, ...] = ()
    side: str = field(default=INCUMBENT, kw_only=True)


NO_REFERENCES = References()


@dataclass(frozen=True)
class Allowance:
    """The time that a run may take beyond its budget. All values are in seconds; None means unknown.

    Attributes:
        budget: the training budget.
        own: the untimed seconds of the reference, which is the incumbent or what `side` names.
        baseline: the untimed seconds of the baseline.
        overrun: by how much the reference exceeded its budget, from its first training text to its handover.
        evaluated: the seconds of the evaluation of the reference, or of the baseline if that took longer.
        first: those of the baseline.
        step: the duration of a step of the reference.
        side: name of the reference in sentences.
    """

    budget: float | None
    own: float | None = None
    baseline: float | None = None
    overrun: float | None = None
    evaluated: float | None = None
    step: float = 0.0
    side: str = INCUMBENT
    first: float | None = None

    @staticmethod
    def of(budget: float | None, references: References) -> Allowance:
        """Return the allowance of a run that is compared with these."""
        own, baseline = (_most(run.untimed for run in runs) for runs in (references.own, references.baseline))
        counts = [run.secondary["num_steps"] for run in references.own if run.secondary.get("num_steps")]
        steps = min(counts, default=0.0)
        step = budget / steps if budget and steps >= 1 else 0.0
        evaluated = _most(run.evaluated for run in (*references.own, *references.baseline))
        first = _most(run.evaluated for run in references.baseline)
        overrun = _most(run.overrun for run in references.own)
        return Allowance(budget, own, baseline, overrun, evaluated, step, references.side, first)

    @property
    def seconds(self) -> float:
        """The time from the start of the command to the handover, minus the budget, at most."""
        return math.inf if self.own is None else min(self.own + self._more, self._of_baseline)

    @property
    def _of_baseline(self) -> float:
        return math.inf if self.baseline is None else self.baseline + UNTIMED_STEPS * self._more

    @property
    def training(self) -> float:
        """The time from the first training text to the handover, minus the budget, at most."""
        if self.overrun is None:
            return math.inf
        return self.overrun + max(LEAST_UNTIMED_SECONDS, min(MOST_STEPS * self.step, self._more))

    @property
    def evaluation(self) -> float:
        """The time from the handover to the metric, at most."""
        return min(self._evaluation_beside(self.evaluated), UNTIMED_STEPS * self._evaluation_beside(self.first))

    def _evaluation_beside(self, seconds: float | None) -> float:
        return math.inf if seconds is None else EVALUATION_TIMES * seconds + self._more

    @property
    def _more(self) -> float:
        return max(LEAST_UNTIMED_SECONDS, min(UNTIMED_SHARE * (self.budget or 0.0), UNTIMED_SECONDS))

    def require(self, seconds: float) -> None:
        """Raise Violation if a run took longer.

        Args:
            seconds: from the start of the command to the handover.
        """
        if self.budget is not None and self.own is not None and seconds - self.budget > self.seconds:
            drifted = self.baseline is not None and self._of_baseline < self.own + self._more
            whose, known = ("the baseline", self.baseline) if drifted else (self.side, self.own)
            raise Violation(
                f"voided: it handed over its model after {seconds:.1f} s, {seconds - self.budget:.1f} s more than "
                f"its budget of {self.budget:g} s; {whose} takes {known:.1f} s more, and "
                f"{self.seconds:.1f} s are allowed"
            )

    def require_trained(self, seconds: float) -> None:
        """Raise Violation if a run trained for longer.

        Args:
            seconds: from its first training text to the handover.
        """
        if self.budget is not None and seconds - self.budget > self.training:
            raise Violation(
                f"voided: it trained for {seconds:.1f} s after its first text, {seconds - self.budget:.1f} s more "
                f"than its budget of {self.budget:g} s; {self.side} took {self.overrun or 0.0:.1f} s more, and "
                f"{self.training:.1f} s are allowed"
            )

    def require_evaluated(self, seconds: float) -> None:
        """Raise Violation if the evaluation took longer.

        Args:
            seconds: from the handover to the metric, or to now.
        """
        if seconds > self.evaluation:
            whose, known = self.side if "baseline" in self.side else f"{self.side} or the baseline", self.evaluated
            if self.evaluation < self._evaluation_beside(known):
                whose, known = "the baseline", self.first
            raise Violation(
                f"voided: its evaluation took more than {self.evaluation:.1f} s, which are allowed as that of "
                f"{whose} took {known or 0.0:.1f} s; a graph must not contain training"
            )


NO_ALLOWANCE = Allowance(None)


def _most(seconds: Iterable[float | None]) -> float | None:
    return max((each for each in seconds if each is not None), default=None)
