"""Handle a failed run of a candidate before it is judged: repeat it, reduce the batch, or repair it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from agent.execution.allowance import TOO_LATE
from agent.execution.conditions import hindered
from agent.execution.gpu_fault import described
from agent.execution.oom import smaller_batch
from agent.journal.experiment import KNEW, Proposal, Run, Value
from agent.journal.pending import Pending
from agent.journal.state import EDIT
from agent.proposers.search.space import tunable_parameters
from agent.protocol.models import Safety

MOST_REVISIONS = 2
MOST_REPAIRS = 2


def owed(
    pending: Pending, safety: Safety, reference: Sequence[Run] = ()
) -> Literal["run", "revision", "repair"] | None:
    """Return the next step before the verdict: a run, a revision with a smaller batch, or a repair by its proposer.

    A run that handed over its model too late is repeated once if other programs hindered it more than those of the
    incumbent, `reference`. If the run is out of memory or the GPU keeps failing, and oomPolicy is reduce_batch, the
    candidate is revised and repeated, at most twice. After any other crash it is repeated once if crashStatus is
    retry, then repaired by its proposer, at most twice. The first successful run ends this.

    Returns:
        None if it can be judged.
    """
    if len(pending.runs) <= pending.revisions:
        return "run"
    last = pending.runs[-1]
    # After a success, a failure is not repaired: the candidate is judged as a program that does not always run.
    if last.pruned is not None or any(run.error is None for run in pending.runs):
        return None
    repeated = len(pending.runs) - pending.revisions > 1
    if (last.error or "").startswith(TOO_LATE):  # which was so before it could know its metric
        busy = hindered([last], reference, equally_long=False, than="the incumbent")
        return "run" if busy and not repeated else None
    if last.voided or (last.error or "").startswith(KNEW):  # it could fail until its metric is a good one
        return None
    if last.out_of_memory or last.fault:
        smaller = pending.revisions - pending.repairs
        return "revision" if safety.oom_policy == "reduce_batch" and smaller < MOST_REVISIONS else None
    if safety.crash_status == "retry" and not repeated:
        return "run"
    return "repair" if pending.number and pending.repairs < MOST_REPAIRS else None


def smaller_candidate(pending: Pending, files: Mapping[str, str], constants: Mapping[str, Value]) -> Proposal | None:
    """Return the candidate with half the device batch; None if it has no batch to halve.

    Args:
        files: all mutable files of the candidate.
    """
    smaller = smaller_batch(files, constants)
    if smaller is None:
        return None
    texts, change = smaller
    fault = pending.runs[-1].fault
    description = f"{pending.description} ({change}: {described(fault) if fault else 'out of memory'})"
    return Proposal(texts, description, pending.reasoning, tunable_parameters({**files, **texts}, constants))


def is_own_mistake(pending: Pending, files: Collection[str], tail: str) -> bool:
    """Return whether the candidate's own code crashed, judging by the end of its log.

    Candidates of the search are not repaired: the search learns from the values that crash. Nor are edits made by hand.
    """
    return pending.proposer not in ("search", EDIT) and any(f'{path}", line ' in tail for path in files)
