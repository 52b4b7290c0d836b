"""What becomes of a candidate whose run failed, before it is judged: a run more, a smaller batch, a repair."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from agent.execution.gpu_fault import described
from agent.execution.oom import smaller_batch
from agent.journal.experiment import Proposal, Value
from agent.journal.state import Pending
from agent.proposers.search.space import tunable_parameters
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


def smaller_candidate(pending: Pending, files: Mapping[str, str], constants: Mapping[str, Value]) -> Proposal | None:
    """The candidate with half the device batch; None where it has none to halve. files: all mutable ones."""
    smaller = smaller_batch(files, constants)
    if smaller is None:
        return None
    texts, change = smaller
    fault = pending.runs[-1].fault
    description = f"{pending.description} ({change}: {described(fault) if fault else 'out of memory'})"
    return Proposal(texts, description, pending.reasoning, tunable_parameters({**files, **texts}, constants))


def is_own_mistake(pending: Pending, files: Collection[str], tail: str) -> bool:
    """Whether the candidate's own code crashed, by the log's end. Values that crash are a lesson for the search."""
    return pending.proposer != "search" and any(f'{path}", line ' in tail for path in files)
