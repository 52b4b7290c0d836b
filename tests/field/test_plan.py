"""How the minutes of `field` are divided among its parts."""

from __future__ import annotations

import itertools

import pytest

from agent.field.plan import LONGEST, MOST_EXPERIMENTS, RUNS, SHORTEST, SLOWER_SIZES, divide, plan_line

pytestmark = pytest.mark.quick


def test_twenty_minutes_have_room_for_every_part() -> None:
    plan = divide(1190, 20, (2, 4, 8))
    assert (plan.runs, plan.sizes, plan.left_out) == (RUNS, (2, 4, 8), ())
    assert plan.training == LONGEST
    assert plan.experiments >= 2


def test_no_plan_takes_longer_than_its_time() -> None:
    for seconds, around, sizes in itertools.product((0, 20, 60, 110, 300, 1190, 3600), (0, 1, 8, 60), ((), (2, 4, 8))):
        plan = divide(seconds, around, sizes)
        cost = plan.runs * (plan.training + around)
        cost += len(plan.sizes) * (plan.size_training + SLOWER_SIZES * around)
        cost += plan.experiments * (plan.training + around)
        assert cost <= seconds, (seconds, around, sizes)


def test_session_is_left_out_first_and_then_the_sizes() -> None:
    plan = divide(110, 4, (2, 4, 8))
    assert plan.left_out == ("session: no time",)
    assert plan.sizes == (2, 4, 8)
    plan = divide(80, 8, (2, 4, 8))
    assert plan.left_out == ("sizes: no time", "session: no time")
    assert plan.runs == RUNS


def test_short_time_has_fewer_runs_and_names_the_missing_ones() -> None:
    plan = divide(40, 8, (2, 4))
    assert (plan.runs, plan.training) == (3, SHORTEST)
    assert plan.left_out == ("2 runs of the recipe: no time", "sizes: no time", "session: no time")
    assert divide(0, 8, ()).runs == 0


def test_recipe_without_sizes_does_not_name_them() -> None:
    assert divide(1190, 20, ()).left_out == ()
    assert divide(40, 8, ()).left_out == ("2 runs of the recipe: no time", "session: no time")


def test_training_is_at_most_the_protocols_and_the_session_gets_the_rest() -> None:
    plan = divide(3600, 1, (2,), longest=2.0)
    assert (plan.training, plan.size_training, plan.experiments) == (2, 2, MOST_EXPERIMENTS)


def test_fraction_of_a_second_in_the_budget_leaves_time_for_every_part() -> None:
    plan = divide(3600, 1, (2,), longest=1.5)
    assert (plan.training, plan.size_training, plan.left_out) == (1.5, 1.5, ())


def test_runs_without_time_for_more_train_no_longer_than_the_protocol() -> None:
    plan = divide(30, 10, (), longest=2.0)
    assert (plan.runs, plan.training) == (2, 2.0)
    plan = divide(25, 10, (), longest=2.0)
    assert (plan.runs, plan.training) == (2, 2.0)


def test_line_names_parts_and_what_is_left_out() -> None:
    line = plan_line(divide(110, 4, (2, 4, 8)), "DEPTH")
    assert line == (
        "5 runs of the recipe with 9 s of training, then DEPTH 2, 4, 8 with 6 s of training each; "
        "left out: session: no time"
    )
