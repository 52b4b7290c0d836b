"""Whose run comes next, before and while the test decides: one table, read from the top.

Each row stands for one way in which a night has lost its time, or its head: a machine that is never the same, a slow
run taken for a bad idea, an incumbent that was lucky once or runs no more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Answer = Literal["candidate", "incumbent", "test", "discard"]

NEVER_THE_SAME = "the machine was never the same for it and the incumbent"
UNMEASURED = "the incumbent could not be measured again to compare it with"
# Within one experiment: a machine that is never the same for long must not hold up the night.
MOST_DISTURBED, MOST_REBASES, MOST_ATTEMPTS, MOST_REFRESHES = 3, 3, 16, 16


@dataclass(frozen=True)
class Situation:
    """What has been run for a candidate, and what stands between it and the test.

    Args:
        attempts: runs of the candidate.
        refreshes: runs of the incumbent during this experiment.
        rebases: those of them that took the machine as it was then.
        unlike: the candidate's latest run does not compare with the incumbent's.
        slower: runs of the candidate in a row, since the last rebase, that something beside them slowed down.
        faster: it is the incumbent's runs that were slowed down.
        lost: the incumbent has failed each time that it was run again lately.
        unsure: nothing, or too little, tells the noise.
        doubtful: too few runs stand behind the incumbent for what is to be told apart.
        turn: the test asks for more runs, and it is the incumbent's turn.
    """

    attempts: int = 1
    refreshes: int = 0
    rebases: int = 0
    unlike: bool = False
    slower: int = 0
    faster: bool = False
    lost: bool = False
    unsure: bool = False
    doubtful: bool = False
    turn: bool = False

    @property
    def wants_incumbent(self) -> bool:
        return self.unlike or self.unsure or self.doubtful or self.turn


@dataclass(frozen=True)
class Row:
    """The first row whose `when` holds gives the answer. why: of a discard, as a verdict says it."""

    name: str
    when: Callable[[Situation], bool]
    then: Answer
    why: str = ""


TABLE = (
    Row("restless machine", lambda s: s.unlike and s.rebases >= MOST_REBASES, "discard", NEVER_THE_SAME),
    Row("endless attempts", lambda s: s.unlike and s.attempts >= MOST_ATTEMPTS, "discard", NEVER_THE_SAME),
    Row("disturbed run", lambda s: s.unlike and not s.faster and s.slower < MOST_DISTURBED, "candidate"),
    Row("lost incumbent", lambda s: s.lost, "test"),
    Row("endless refreshes", lambda s: s.wants_incumbent and s.refreshes >= MOST_REFRESHES, "discard", UNMEASURED),
    Row("machine as it is now", lambda s: s.unlike, "incumbent"),
    Row("unknown noise", lambda s: s.unsure, "incumbent"),
    Row("doubtful incumbent", lambda s: s.doubtful, "incumbent"),
    Row("incumbent's turn", lambda s: s.turn, "incumbent"),
    Row("nothing in the way", lambda _: True, "test"),
)


def next_run(situation: Situation) -> Row:
    """The row that decides: whose run comes next, "test" where the test may decide, "discard" where nothing can."""
    return next(row for row in TABLE if row.when(situation))
