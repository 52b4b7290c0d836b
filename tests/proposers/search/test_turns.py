"""The search turns the constants of the playbook first: which move, in which order, and each once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.journal.experiment import Experiment, Run, Value, Verdict, digest
from agent.playbook.entries import parse
from agent.proposers.base import Context, Flying
from agent.proposers.earlier import Earlier
from agent.proposers.search.search import SearchProposer
from agent.proposers.search.space import space_of

pytestmark = pytest.mark.quick

SOURCE = """RATE = 0.1  # search: 0.001..10 log
DEPTH = 4  # search: 1..16
SHARE = 0.5  # search: 0.0..1.0
ROWS = 64  # search: 4..256 log
BATCH = 128  # search: 32..1024 log
DEVICE_BATCH = 128  # search: 4..256 log
TABLE = 8  # search: 0 | 2 | 8 | 32
KIND = "a"  # search: "a" | "b"
WIDTH = 512
assert BATCH % DEVICE_BATCH == 0
"""
FILES = {"train.py": SOURCE}
BASE: dict[str, Value] = {
    "RATE": 0.1, "DEPTH": 4, "SHARE": 0.5, "ROWS": 64, "BATCH": 128, "DEVICE_BATCH": 128, "TABLE": 8, "KIND": "a",
    "WIDTH": 512,
}  # fmt: skip
BASELINE = Experiment(
    0, "baseline", "baseline", "0", digest(FILES), BASE, (Run(1.0, 1.0),), Verdict("keep", "baseline")
)


def context(book: str, history: tuple[Experiment, ...] = (BASELINE,), **more: Any) -> Context:
    incumbent = [each for each in history if each.verdict.status == "keep"][-1]
    entries = parse(book).entries
    return Context(len(history), 0, FILES, incumbent, history, "minimize", {}, playbook=entries, **more)


def written(*turns: str) -> str:
    """Return a playbook with one entry for each move, the best first."""
    parts = (f"## Idea {n}\n- what: x\n- turns: {turn}\n- effect: {100 - n} %\n" for n, turn in enumerate(turns, 1))
    return "\n".join(parts)


def moved(turn: str) -> dict[str, Value]:
    """Return what the search changes for a playbook of one entry; empty if it proposes something else."""
    found = SearchProposer().ask(context(written(turn)))
    changes = {key: value for key, value in found.parameters.items() if BASE[key] != value}
    return changes if found.playbook else {}


@pytest.mark.parametrize(
    ("turn", "changes"),
    [
        ("RATE up", {"RATE": 0.15}),
        ("RATE down", {"RATE": 0.0667}),
        ("RATE 0.3", {"RATE": 0.3}),
        ("RATE 20", {}),
        ("RATE 0.03125", {"RATE": 0.03125}),
        ("DEPTH up", {"DEPTH": 5}),
        ("DEPTH 3.5", {}),
        ("SHARE up", {"SHARE": 0.65}),
        ("SHARE 1", {"SHARE": 1.0}),
        ("ROWS down", {"ROWS": 32}),
        ("ROWS 48", {}),
        ("TABLE up", {"TABLE": 32}),
        ("TABLE down", {"TABLE": 2}),
        ("TABLE 3", {}),
        ("KIND b", {"KIND": "b"}),
        ("KIND up", {}),
        ("RATE True", {}),
        ("BATCH down", {"BATCH": 64, "DEVICE_BATCH": 64}),
        ("MISSING up, DEPTH down", {"DEPTH": 3}),
        ("KIND up, DEPTH down", {"DEPTH": 3}),
        ("MISSING up", {}),
    ],
)
def test_move_is_within_the_range_of_its_constant(turn: str, changes: dict[str, Value]) -> None:
    assert moved(turn) == changes


def test_refused_step_is_made_longer() -> None:
    files = {"train.py": "DEPTH = 4  # search: 1..16\nassert DEPTH % 4 == 0\n"}
    base = replace(BASELINE, parameters={"DEPTH": 4}, digest=digest(files))
    about = context(written("DEPTH up"), (base,))
    found = SearchProposer().ask(replace(about, files=files))
    assert (found.parameters, found.playbook) == ({"DEPTH": 8}, "Idea 1")


def test_entries_come_first_best_first_each_once() -> None:
    book = written("RATE up", "DEPTH up", "NONE up", "SHARE 0.5", "RATE 0.3")
    history: tuple[Experiment, ...] = (BASELINE,)
    cited = []
    for number in range(1, 6):
        found = SearchProposer().ask(context(book, history))
        cited.append(found.playbook)
        assert found.reasoning == f"entry of the playbook: {found.playbook}" or not found.playbook
        done = Experiment(
            number, "search", "", str(number), digest({**FILES, **found.files}), found.parameters, (Run(2.0, 1.0),),
            Verdict("discard", "worse"), playbook=found.playbook,
        )  # fmt: skip
        history = (*history, done)
    # The third has no constant here, and the fourth is in the recipe.
    assert cited == ["Idea 1", "Idea 2", "Idea 5", "", ""]


def test_what_is_measured_elsewhere_or_was_tried_in_another_session_is_not_turned() -> None:
    book = written("RATE up", "DEPTH up", "SHARE up")
    flying = Flying(1, "", {**BASE, "RATE": 0.15}, "x", ("train.py",), playbook="Idea 1")
    base = Earlier("mar5", 0, "keep", 1.0, None, BASE, "x", "baseline", alike=True)
    lost = Earlier("mar5", 1, "discard", 1.1, 0.1, {**BASE, "DEPTH": 6}, "y", "DEPTH 4 -> 6", alike=True)
    assert SearchProposer().ask(context(book, flight=(flying,), earlier=(base, lost))).playbook == "Idea 3"
    other = replace(lost, alike=False)
    assert SearchProposer().ask(context(book, flight=(flying,), earlier=(base, other))).playbook == "Idea 2"


def test_seen_candidate_is_skipped() -> None:
    changed = digest(space_of(FILES, {}).apply({"RATE": 0.15}))
    odd = replace(BASELINE, number=1, digest=changed, parameters={}, verdict=Verdict("crash", ""))
    assert SearchProposer().ask(context(written("RATE up", "DEPTH up"), (BASELINE, odd))).playbook == "Idea 2"


def test_what_lost_where_it_was_published_is_left_to_the_search() -> None:
    book = "## Lost\n- what: x\n- turns: RATE up\n- effect: -1 %\n"
    assert SearchProposer().ask(context(book)).playbook == ""


def test_search_without_a_playbook_is_unchanged() -> None:
    for number in range(1, 12):
        alone = replace(context(""), number=number)
        assert SearchProposer().ask(alone) == SearchProposer().ask(replace(context(written("NONE up")), number=number))


def test_proposal_depends_on_playbook_and_history_alone() -> None:
    asked = [SearchProposer().ask(replace(context(written("RATE up")), seed=seed)) for seed in range(3)]
    assert asked[0] == asked[1] == asked[2]


@pytest.mark.parametrize(
    ("line", "turn", "value"),
    [
        ("X = 0.0  # search: 0.0001..0.1 log", "up", 0.00015),
        ("X = 0.0  # search: 0.0001..0.1 log", "down", None),
        ("X = 0.0  # search: 0.0001..0.1 log", "0.00001", None),
        ("X = 0.0  # search: 0.2..0.4", "up", 0.23),
        ("X = -3  # search: 1..8 log", "up", 2),
        ("X = 9  # search: 1..8", "down", 7),
        ("X = 9  # search: 1..8", "up", None),
        ("X = 64  # search: 4..16 log", "down", 8),
        ("X = 0.12345  # search: 0.01..0.12345", "up", None),
    ],
)
def test_turn_of_a_value_outside_its_range_leads_into_it(line: str, turn: str, value: Value | None) -> None:
    files = {"train.py": f"{line}\nFLAG = True\n"}
    space = space_of(files, {})
    base = replace(BASELINE, digest=digest(files), parameters=space.values())
    found = SearchProposer().ask(replace(context(written(f"X {turn}"), (base,)), files=files))
    assert (found.parameters["X"] if found.playbook else None) == value
