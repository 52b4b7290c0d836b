"""Each direction is taken once before the model plans: which are left, in which order, and when it ends."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from agent.journal.experiment import Experiment, Run, Value, Verdict, digest
from agent.proposers.base import Context, Flying
from agent.proposers.earlier import Earlier
from agent.proposers.search.search import FIRST_STEPS, SearchProposer
from agent.proposers.search.space import space_of, tunable_parameters
from agent.proposers.search.untried import MOST_CHOICES, SIZES, untried

SOURCE = """RATE = 0.1  # search: 0.001..10 log
DEPTH = 4  # search: 1..16
SHARE = 0.0  # search: 0.0..0.4
PATTERN = "S"  # search: "S" | "L" | "SL"
MICRO_BATCH = 8  # search: 1..64 log
"""
FILES = {"train.py": SOURCE}
START = tunable_parameters(FILES, {})
FAULT = Run(None, 1.0, error="the machine slept", fault="machine")


def context(*changed: dict[str, Value], run: Run | None = None, **more: Any) -> Context:
    """Return what is known after the baseline and an experiment for each change, all discarded."""
    run = run or Run(1.1, 1.0)
    runs = [(START, Run(1.0, 1.0)), *(({**START, **change}, run) for change in changed)]
    history = tuple(
        Experiment(number, "search", "", "", digest({"": f"{number}"}), parameters, (each,), Verdict("discard", ""))
        for number, (parameters, each) in enumerate(runs)
    )
    return replace(Context(FIRST_STEPS + 1, 0, FILES, history[0], history, "minimize", {}), **more)


def left(known: Context, source: str = SOURCE) -> set[tuple[str, str]]:
    """Return the constants that move and where to."""
    space = space_of({"train.py": source}, {})
    start = space.values()
    found = set()
    for change in untried(space, known, known.earlier, random.Random(0)):
        assert len(change) == 1
        for key, value in change.items():
            was = start[key]
            to = str(value) if isinstance(value, str) else "up" if value > was else "down"  # type: ignore[operator]
            found.add((key, to))
    return found


ALL = {("RATE", "up"), ("RATE", "down"), ("DEPTH", "up"), ("DEPTH", "down"), ("SHARE", "up")}
ALL |= {("PATTERN", "L"), ("PATTERN", "SL")}


def test_everything_is_left_after_the_baseline_but_what_only_splits_a_step() -> None:
    assert left(context()) == ALL


def test_what_was_measured_in_any_candidate_is_not_left() -> None:
    known = context({"RATE": 0.2, "DEPTH": 2}, {"PATTERN": "L"}, {"SHARE": 0.1})
    assert left(known) == {("RATE", "down"), ("DEPTH", "up"), ("PATTERN", "SL")}


def test_beyond_a_kept_value_is_a_new_direction() -> None:
    known = context({"DEPTH": 6})
    assert ("DEPTH", "up") not in left(known)
    assert left(known, SOURCE.replace("DEPTH = 4", "DEPTH = 6")) >= {("DEPTH", "up")}
    assert ("DEPTH", "down") not in left(known, SOURCE.replace("DEPTH = 4", "DEPTH = 6"))


@pytest.mark.parametrize("run", [FAULT, Run(None, 1.0, error="crashed")])
def test_what_failed_is_not_forced_again(run: Run) -> None:
    assert left(context({"DEPTH": 6}, run=run)) == ALL - {("DEPTH", "up")}


@pytest.mark.parametrize(
    ("source", "ways"),
    [
        ("BIAS = -0.1  # search: 0.01..1 log\n", {("BIAS", "up")}),
        ("DECAY = 0.0  # search: 0.0001..0.1 log\n", {("DECAY", "up")}),
        ("LR = 0.12345  # search: 0.01..0.1\n", {("LR", "down")}),
        ("WIDTH = 65536  # search: 1024..65536\n", {("WIDTH", "down")}),
    ],
)
def test_step_goes_where_it_should(source: str, ways: set[tuple[str, str]]) -> None:
    files = {"train.py": source}
    base = replace(context().history[0], parameters=tunable_parameters(files, {}))
    assert left(replace(context(), history=(base,)), source) == ways


def test_what_an_assert_refuses_is_left_out() -> None:
    assert left(context(), SOURCE + "assert DEPTH <= 4\n") == ALL - {("DEPTH", "up")}


def test_other_sessions_and_candidates_in_flight_count() -> None:
    flight = (Flying(9, "", {**START, "RATE": 0.3}, digest(FILES), ("train.py",)),)
    earlier = (Earlier("mar5", 3, "discard", 1.2, 0.1, {**START, "DEPTH": 3}, "d", "", alike=True),)
    assert left(context(flight=flight)) == ALL - {("RATE", "up")}
    assert left(context(earlier=earlier)) == ALL - {("DEPTH", "down")}


@pytest.mark.parametrize(("alike", "counts"), [(True, True), (False, False)])
def test_failure_of_an_earlier_session_counts_under_the_same_conditions(alike: bool, counts: bool) -> None:
    """Another machine may have less memory, or another budget."""
    earlier = (Earlier("mar5", 3, "crash", None, None, {**START, "DEPTH": 5}, "d", "", alike=alike),)
    assert left(context(earlier=earlier)) == (ALL - {("DEPTH", "up")} if counts else ALL)


def test_directions_that_only_other_code_has_taken_are_untried() -> None:
    there = Earlier("mar5", 3, "discard", 1.2, 0.1, {**START, "DEPTH": 5}, "d", "", alike=False, same_code=False)
    assert left(context(earlier=(there,))) == ALL
    assert left(context(earlier=(replace(there, same_code=True),))) == ALL - {("DEPTH", "up")}


def test_long_choice_is_not_tried_in_full() -> None:
    names = [f"P{number}" for number in range(20)]
    source = f'KIND = "P0"  # search: {" | ".join(repr(name) for name in names)}\n'.replace("'", '"')
    files = {"train.py": source}
    known = tunable_parameters(files, {})
    base = context()
    few, many = (
        replace(base, history=tuple(replace(base.history[0], parameters={**known, "KIND": name}) for name in names[:n]))
        for n in (3, MOST_CHOICES)
    )
    assert len(left(few, source)) == 17
    assert left(many, source) == set()


def test_several_sizes_of_each_step_are_offered() -> None:
    drawn = [each["RATE"] for each in untried(space_of(FILES, {}), context(), (), random.Random(0)) if "RATE" in each]
    assert len(set(drawn)) == 2 * SIZES


@pytest.mark.parametrize(
    ("number", "turn"), [(20, False), (21, True), (22, False), (23, False), (24, False), (25, True)]
)
def test_one_of_several_stations_takes_untried_directions(number: int, turn: bool) -> None:
    flight = tuple(Flying(9 + n, "", {**START, "RATE": 0.3 + n}, f"{n}", ("train.py",)) for n in range(4))
    known = context({"RATE": 0.2}, {"RATE": 0.05}, {"RATE": 0.4}, {"RATE": 0.01})
    found = SearchProposer().ask(replace(known, number=number, flight=flight))
    assert found.reasoning.startswith("best direction of those never tried") == turn


@pytest.mark.parametrize("seed", range(4))
def test_session_takes_each_direction_before_the_model_plans(seed: int) -> None:
    files = {"train.py": SOURCE}
    base = Experiment(0, "search", "", "", digest(files), START, (Run(1.0, 1.0),), Verdict("keep", "baseline"))
    history = [base]
    reasons = []
    for number in range(1, FIRST_STEPS + 8):
        found = SearchProposer().ask(Context(number, seed, files, base, tuple(history), "minimize", {}))
        reasons.append(found.reasoning)
        about = (number, "search", "", "", digest({**files, **found.files}), found.parameters)
        history.append(Experiment(*about, (Run(1.1 + number / 100, 1.0),), Verdict("discard", "")))
    late = [each.startswith("best direction of those never tried") for each in reasons[FIRST_STEPS:]]
    assert late[0]
    assert late == sorted(late, reverse=True)
    assert not late[-1]
    space = space_of(files, {})
    assert untried(space, context(history=tuple(history)), (), random.Random(0)) == []
    assert {"L", "SL"} <= {each.parameters["PATTERN"] for each in history}
