"""What becomes of a candidate whose run failed, before it is judged."""

from __future__ import annotations

from typing import Literal

from agent.journal.state import Pending
from agent.protocol.models import Safety

MOST_REVISIONS = 2
MOST_REPAIRS = 2


def owed(pending: Pending, safety: Safety) -> Literal["run", "revision", "repair"] | None:
    """The next step: a run, a revision with a smaller batch, a repair by its proposer, or none: it can be judged.

    Out of memory, or a GPU that went on failing: revised and run again, at most twice, where oomPolicy is reduce_batch.
    Any other crash: run once more where crashStatus is retry, then mended by its proposer, at most twice. The first run
    that succeeds ends it.
    """
    if len(pending.runs) <= pending.revisions:
        return "run"
    last = pending.runs[-1]
    # Once it has worked, a failure is no mistake to be mended: it is judged as a program that does not always run.
    if last.pruned is not None or any(run.error is None for run in pending.runs):
        return None
    if last.out_of_memory or last.fault:
        smaller = pending.revisions - pending.repairs
        return "revision" if safety.oom_policy == "reduce_batch" and smaller < MOST_REVISIONS else None
    repeated = len(pending.runs) - pending.revisions > 1
    if safety.crash_status == "retry" and not repeated:
        return "run"
    return "repair" if pending.number and pending.repairs < MOST_REPAIRS else None
