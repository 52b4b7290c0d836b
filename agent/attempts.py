"""How often a candidate is run before it is judged."""

from __future__ import annotations

from typing import Literal

from agent.protocol import Safety
from agent.state import Pending

MOST_REVISIONS = 2


def owed(pending: Pending, safety: Safety) -> Literal["run", "revision"] | None:
    """The next step for a candidate: a run, a revision with a smaller batch, or none because it can be judged.

    Out of memory: revised and run again, at most twice, where oomPolicy is reduce_batch. Any other crash: run once
    more where crashStatus is retry. The first run that succeeds ends it.
    """
    if len(pending.runs) <= pending.revisions:
        return "run"
    last = pending.runs[-1]
    if last.error is None:
        return None
    if last.out_of_memory:
        return "revision" if safety.oom_policy == "reduce_batch" and pending.revisions < MOST_REVISIONS else None
    repeated = len(pending.runs) - pending.revisions > 1
    return "run" if safety.crash_status == "retry" and not repeated else None
