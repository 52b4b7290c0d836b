"""What follows a failed run of a candidate before its verdict."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.errors import Violation
from agent.execution.allowance import Allowance
from agent.journal.experiment import Run
from agent.journal.pending import Pending
from agent.protocol.models import Safety
from agent.session.retries import owed

ALLOWANCE = Allowance(15.0, own=2.8, baseline=2.8, overrun=0.2, evaluated=1.0, step=0.1)
INCUMBENT = (Run(2.0, 20.0, conditions={"others": 0.1}),)
LATE: list[Callable[[float], None]] = [ALLOWANCE.require, ALLOWANCE.require_trained]


def failed(why: Callable[[float], None], others: float, seconds: float = 21.0) -> Run:
    with pytest.raises(Violation) as violation:
        why(60.0)
    return Run(None, seconds, error=str(violation.value), conditions={"others": others})


def step(*runs: Run) -> str | None:
    pending = Pending(1, "llm", "", "", {}, "", (), 0.0, runs=runs)
    return owed(pending, Safety.model_validate({"crashStatus": "retry", "oomPolicy": "reduce_batch"}), INCUMBENT)


@pytest.mark.parametrize("why", LATE)
def test_a_run_that_others_made_late_is_repeated_once(why: Callable[[float], None]) -> None:
    late = failed(why, others=1.5)
    assert step(late) == "run"
    assert step(late, late) is None
    assert step(late, Run(1.9, 20.0)) is None  # it has a metric: the verdict goes on
    assert step(failed(why, others=0.1)) is None
    assert step(failed(why, others=1.5, seconds=2.0)) is None  # too short to tell


def test_a_run_that_could_know_its_metric_is_not_repeated_however_busy_the_machine_is() -> None:
    assert step(failed(ALLOWANCE.require_evaluated, others=1.5)) is None
    changed = Run(None, 21.0, error="voided: it changed prepare.py, which belongs to the harness")
    assert step(changed) is None
