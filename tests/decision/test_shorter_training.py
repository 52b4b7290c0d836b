"""Screens that take as long as full runs end the ladder."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.decision.longer_training import why_ladder_ends, why_not_shorter
from agent.journal.experiment import Run, Screen
from tests.common.experiments import kept

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("screen", "full", "ends"),
    [
        (100.0, 340.0, False),  # 40 s of starting and compiling in both
        (100.0, 380.0, False),  # compiled once more in the full run
        (180.0, 340.0, False),  # or in the screen
        (340.0, 341.0, True),
        (280.0, 340.0, True),
        (100.0, 240.0, False),  # ends before its budget
        (238.0, 240.0, True),
        (50.0, 51.0, False),  # ends within the short one
    ],
)
def test_screens_that_save_little_of_the_difference_are_not_shorter(screen: float, full: float, ends: bool) -> None:
    assert (why_not_shorter(60, 300, [Run(1.0, screen)], [Run(1.0, full)]) is not None) == ends


def test_told_training_counts_more_than_the_time_of_the_command() -> None:
    full = [Run(1.0, 900.0, trained=300.1)]
    assert why_not_shorter(60, 300, [Run(1.0, 400.0, trained=300.2)], full) is not None
    assert why_not_shorter(60, 300, [Run(1.0, 890.0, trained=60.1)], full) is None
    # The shortest counts, and those that failed do not.
    assert why_not_shorter(60, 300, [Run(1.0, 900.0), Run(1.0, 80.0)], full) is None
    assert why_not_shorter(60, 300, [Run(None, 80.0, error="killed"), Run(1.0, 900.0)], full) is not None
    assert why_not_shorter(60, 300, [Run(None, 80.0, error="killed")], full) is None


def test_latest_incumbent_with_screens_at_the_rung_decides() -> None:
    same, shorter = (Screen(60.0, Run(1.0, seconds)) for seconds in (310.0, 70.0))
    late = Screen(60.0, Run(None, 180.0, error="timed out: killed after the hard limit of 180 s"))
    first = replace(kept(0, [1.0]), runs=(Run(1.0, 310.0),))
    stays = replace(first, number=1)

    def ends(*screens: Screen, before: Screen = shorter) -> bool:
        experiments = [replace(first, heldout_screens=(before,)), replace(stays, heldout_screens=screens)]
        return why_ladder_ends(experiments, 60.0, 300.0) is not None

    assert not ends()
    assert ends(before=same)
    assert ends(same)
    assert not ends(shorter, before=same)
    assert not ends(late, late)
    assert ends(late, late, late)
    assert not ends(replace(same, rung=100.0))
