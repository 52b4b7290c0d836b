"""How long a run may take beyond its training budget."""

from __future__ import annotations

import pytest

from agent.errors import Violation
from agent.execution.allowance import Allowance, References
from agent.journal.experiment import Run

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        (None, "the incumbent takes 40.0 s more"),
        (35.0, "the incumbent takes 40.0 s"),
        (2.0, "the baseline takes 2.0 s"),
    ],
)
def test_late_model_is_refused_with_the_bound_that_it_exceeds(baseline: float | None, words: str) -> None:
    allowance = Allowance(300.0, 40.0, baseline)
    allowance.require(300.0 + allowance.seconds)
    with pytest.raises(Violation, match=f"{words}.* and {allowance.seconds:.1f} s are allowed"):
        allowance.require(301.0 + allowance.seconds)


def test_sentence_names_the_program_that_took_as_long() -> None:
    slow = Run(2.0, 300.0, {"num_steps": 100.0}, untimed=40.0, overrun=1.0)
    allowance = Allowance.of(300.0, References((slow, Run(None, 1.0)), side="the best"))
    assert (allowance.seconds, allowance.training) == (50.0, 7.0)
    with pytest.raises(Violation, match=r"; the best takes 40\.0 s more, and 50\.0 s are allowed"):
        allowance.require(351.0)
    with pytest.raises(Violation, match=r"; the best took 1\.0 s more, and 7\.0 s are allowed"):
        allowance.require_trained(308.0)


def test_evaluation_may_take_eight_times_as_long() -> None:
    """A model may be larger and the machine busy, but a graph must not train while it is evaluated."""
    quick, slow = (Run(2.0, 300.0, evaluated=seconds) for seconds in (5.0, 8.0))
    allowance = Allowance.of(300.0, References((quick,), (slow,)))
    allowance.require_evaluated(8 * 8.0 + 10.0)
    with pytest.raises(Violation, match=r"more than 74\.0 s, .* that of the incumbent or the baseline took 8\.0 s"):
        allowance.require_evaluated(74.1)
    Allowance.of(300.0, References((Run(2.0, 300.0),))).require_evaluated(1e6)


def test_keeps_do_not_add_up_to_an_evaluation_without_a_bound() -> None:
    """Else each keep whose evaluation takes eight times as long would allow the next one eight times that."""
    baseline, second = (Run(2.0, 300.0, evaluated=seconds) for seconds in (10.0, 90.0))
    allowance = Allowance.of(300.0, References((second,), (baseline,)))
    allowance.require_evaluated(3 * 90.0)
    with pytest.raises(Violation, match=r"more than 270\.0 s, which are allowed as that of the baseline took 10\.0 s"):
        allowance.require_evaluated(270.1)
