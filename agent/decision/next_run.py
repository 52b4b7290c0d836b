"""Choose the next run before and during the test: one table, read from the top.

Each row prevents one way to waste a night: a machine whose state keeps changing, a slow run mistaken for a bad idea, an
incumbent that was lucky once or no longer runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Answer = Literal["candidate", "incumbent", "test", "discard"]

NEVER_THE_SAME = "the machine was never in the same state for it and the incumbent"
ITS_OWN_SWAP = "it makes the machine swap, which the incumbent does not"
TOO_FEW = "too few of its runs are comparable with the incumbent's"
UNMEASURED = "the incumbent could not be re-measured for the comparison"
# Limits within one experiment, so that a machine whose state keeps changing does not block the session.
MOST_DISTURBED, MOST_REBASES, MOST_ATTEMPTS, MOST_REFRESHES = 3, 3, 16, 16


@dataclass(frozen=True)
class Situation:
    """The runs of a candidate so far, and what must happen before the test.

    Attributes:
        attempts: runs of the candidate.
        refreshes: runs of the incumbent during this experiment.
        rebases: those of them that were accepted after the machine's state had changed.
        unlike: the candidate's latest run is not comparable with the incumbent's.
        slower: consecutive runs of the candidate since the last rebase that were slowed down by something else.
        faster: the incumbent's runs were the ones slowed down.
        swaps: the machine swapped clearly more in each run of the candidate than in the incumbent's, before and after
            the last rebase.
        lost: the incumbent has failed on each of its recent repeats.
        unsure: the noise is unknown, or estimated from too few repetitions.
        uncertain: the incumbent has too few runs for the difference in question.
        turn: the test needs more runs, and the incumbent is next.
    """

    attempts: int = 1
    refreshes: int = 0
    rebases: int = 0
    unlike: bool = False
    slower: int = 0
    faster: bool = False
    swaps: bool = False
    lost: bool = False
    unsure: bool = False
    uncertain: bool = False
    turn: bool = False

    @property
    def wants_incumbent(self) -> bool:
        return self.unlike or self.unsure or self.uncertain or self.turn


@dataclass(frozen=True)
class Row:
    """A rule of the table. The first row whose `when` holds gives the answer; `why` is the reason for a discard."""

    name: str
    when: Callable[[Situation], bool]
    then: Answer
    why: str = ""


TABLE = (
    Row("swap of its own", lambda s: s.unlike and s.swaps and s.rebases > 0, "discard", ITS_OWN_SWAP),
    Row("restless machine", lambda s: s.unlike and s.rebases >= MOST_REBASES, "discard", NEVER_THE_SAME),
    Row("endless attempts", lambda s: s.unlike and s.attempts >= MOST_ATTEMPTS, "discard", NEVER_THE_SAME),
    Row("disturbed run", lambda s: s.unlike and not s.faster and s.slower < MOST_DISTURBED, "candidate"),
    Row("lost incumbent", lambda s: s.lost, "test"),
    Row("endless refreshes", lambda s: s.wants_incumbent and s.refreshes >= MOST_REFRESHES, "discard", UNMEASURED),
    Row("machine as it is now", lambda s: s.unlike, "incumbent"),
    Row("unknown noise", lambda s: s.unsure, "incumbent"),
    Row("uncertain incumbent", lambda s: s.uncertain, "incumbent"),
    Row("incumbent's turn", lambda s: s.turn, "incumbent"),
    Row("nothing in the way", lambda _: True, "test"),
)


def next_run(situation: Situation) -> Row:
    """Return the row that decides: which side runs next, "test" if the test may decide, "discard" if nothing can."""
    return next(row for row in TABLE if row.when(situation))
