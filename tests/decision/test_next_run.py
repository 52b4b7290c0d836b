"""The next run: the table, row by row."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from agent.decision.next_run import (
    MOST_ATTEMPTS,
    MOST_DISTURBED,
    MOST_REBASES,
    MOST_REFRESHES,
    TABLE,
    Answer,
    Situation,
    next_run,
)

ROWS = [
    ("nothing in the way", Situation(), "test"),
    ("incumbent's turn", Situation(turn=True), "incumbent"),
    ("uncertain incumbent", Situation(uncertain=True, turn=True), "incumbent"),
    ("unknown noise", Situation(unsure=True, uncertain=True), "incumbent"),
    ("disturbed run", Situation(unlike=True, slower=MOST_DISTURBED - 1), "candidate"),
    ("machine as it is now", Situation(unlike=True, slower=MOST_DISTURBED), "incumbent"),
    ("machine as it is now", Situation(unlike=True, faster=True), "incumbent"),
    ("swap of its own", Situation(unlike=True, swaps=True, rebases=1), "discard"),
    ("machine as it is now", Situation(unlike=True, swaps=True, slower=MOST_DISTURBED), "incumbent"),
    ("restless machine", Situation(unlike=True, rebases=MOST_REBASES), "discard"),
    ("endless attempts", Situation(unlike=True, attempts=MOST_ATTEMPTS), "discard"),
    ("endless refreshes", Situation(turn=True, refreshes=MOST_REFRESHES), "discard"),
    ("endless refreshes", Situation(unlike=True, slower=MOST_DISTURBED, refreshes=MOST_REFRESHES), "discard"),
    ("lost incumbent", Situation(lost=True, unsure=True, refreshes=MOST_REFRESHES), "test"),
    ("lost incumbent", Situation(lost=True, unlike=True, slower=MOST_DISTURBED), "test"),
]


@pytest.mark.parametrize(("name", "situation", "then"), ROWS)
def test_row_answers_its_situation(name: str, situation: Situation, then: Answer) -> None:
    row = next_run(situation)
    assert (row.name, row.then) == (name, then)


def test_every_row_is_reached() -> None:
    assert {name for name, _, _ in ROWS} == {row.name for row in TABLE}


def test_incumbent_that_fails_is_never_asked_for_again() -> None:
    flags = itertools.product((False, True), repeat=5)
    for unlike, faster, unsure, uncertain, turn in flags:
        for slower in (0, MOST_DISTURBED):
            lost = Situation(
                lost=True, unlike=unlike, faster=faster, unsure=unsure, uncertain=uncertain, turn=turn, slower=slower
            )
            assert next_run(lost).then != "incumbent"


def test_experiment_ends_on_a_machine_that_never_rests() -> None:
    """Each answer increases a bounded count, so the test always ends."""
    situation, runs = Situation(unlike=True), 0
    while (row := next_run(situation)).then in ("candidate", "incumbent"):
        runs += 1
        if row.then == "candidate":
            situation = replace(situation, attempts=situation.attempts + 1, slower=situation.slower + 1)
        else:
            situation = replace(situation, refreshes=situation.refreshes + 1, rebases=situation.rebases + 1, slower=0)
    assert row.then == "discard"
    assert runs <= MOST_ATTEMPTS + MOST_REBASES
