"""The hard limit of a screen."""

from __future__ import annotations

import pytest

from agent.pruning.screens import limit_of

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("usual", "limit"),
    [
        (307, 180),  # in proportion to the training
        (150, 180),  # a recipe that ends early
        (500, 460),  # starting and evaluating take 200 s, which a screen takes as well
        (800, 900),  # at most that of a full run
    ],
)
def test_screen_gets_the_time_that_a_run_takes_beyond_its_training(usual: float, limit: float) -> None:
    assert limit_of(900, 60, 300, usual) == limit


def test_limit_of_a_screen_leaves_two_minutes_beyond_its_training() -> None:
    assert limit_of(400, 5, 300, 302) == 125
