"""Keep or discard: the decision over what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from agent.experiment import Direction, Experiment, Run, Verdict
from agent.state import gain


def judge(runs: Sequence[Run], incumbent: Experiment, direction: Direction) -> Verdict:
    """Strictly better than the incumbent is kept; a run without a metric is a crash."""
    last = runs[-1]
    if last.metric is None:
        return Verdict("crash", last.error or "no metric")
    assert incumbent.metric is not None
    by = gain(incumbent.metric, last.metric, direction)
    if by > 0:
        return Verdict("keep", f"better by {by:.6g}; one run each, provisional")
    return Verdict("discard", "equal" if by == 0 else f"worse by {-by:.6g}")
