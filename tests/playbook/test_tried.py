"""Which entries of the playbook an experiment has tried, and in which order the others are told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.journal.experiment import Experiment, Run, Value, Verdict
from agent.playbook.entries import Entry, parse
from agent.playbook.tell import LONGEST_TOLD, MOST_TOLD, told
from agent.playbook.tried import misfits, trials_of, tried, untried

pytestmark = pytest.mark.quick

BASE: dict[str, Value] = {"RATE": 0.1, "DEPTH": 4, "KIND": "a", "FLAG": True}
BASELINE = Experiment(0, "baseline", "baseline", "0", "0", BASE, (Run(1.0, 1.0),), Verdict("keep", "baseline"))


def entry(turns: str = "", title: str = "Idea", effect: str = "") -> Entry:
    (found,) = parse(f"## {title}\n- what: x\n- turns: {turns}\n- effect: {effect}\n").entries
    return found


def experiment(number: int, status: Any = "discard", cites: str = "", **changes: Any) -> Experiment:
    runs = (Run(1.0 + number / 100, 1.0),)
    return Experiment(
        number, "search", "", str(number), "", {**BASE, **changes}, runs, Verdict(status, ""), playbook=cites
    )


@pytest.mark.parametrize(
    ("turns", "changes", "is_tried"),
    [
        ("RATE up", {"RATE": 0.2}, True),
        ("RATE down", {"RATE": 0.2}, False),
        ("RATE 0.2", {"RATE": 0.2}, True),
        ("RATE 0.3", {"RATE": 0.2}, False),
        ("OTHER up, RATE up", {"RATE": 0.2}, True),
        ("DEPTH up", {"RATE": 0.2}, False),
        ("KIND b", {"KIND": "b"}, True),
        ("KIND up", {"KIND": "b"}, False),
        ("FLAG down", {"FLAG": False}, True),
        ("DEPTH 1", {"FLAG": False}, False),
        ("ATE up", {"RATE": 0.2}, False),
    ],
)
def test_entry_is_tried_once_its_constant_was_moved_that_way(
    turns: str, changes: dict[str, Any], is_tried: bool
) -> None:
    assert bool(tried(entry(turns), trials_of([BASELINE, experiment(1, **changes)]))) is is_tried


def test_text_for_a_constant_without_texts_is_named() -> None:
    turns = ("RATE half", "DEPTH x2, FLAG on", "KIND b, FLAG true, RATE 0.2, OTHER c")
    text = "".join(f"## {title}\n- what: x\n- turns: {each}\n" for title, each in zip("abc", turns, strict=True))
    assert misfits(parse(text).entries, BASE) == [
        "playbook.md, line 1: RATE is a number, so `RATE half` turns nothing",
        "playbook.md, line 4: DEPTH is a number, so `DEPTH x2` turns nothing",
        "playbook.md, line 4: FLAG is True or False, so `FLAG on` turns nothing",
    ]
    assert misfits(parse(text).entries, {}) == []


def test_moves_count_from_the_incumbent_of_their_time() -> None:
    history = [BASELINE, experiment(1, "keep", RATE=0.2), experiment(2, RATE=0.15)]
    trials = trials_of(history)
    assert [each.number for each in tried(entry("RATE up"), trials)] == [1]
    assert [each.number for each in tried(entry("RATE down"), trials)] == [2]


def test_cited_entry_is_tried_whatever_moved() -> None:
    trials = trials_of([BASELINE, experiment(1, "crash", cites="the IDEA")])
    assert tried(entry(title="The idea"), trials)
    assert not tried(entry(title="Another idea"), trials)


def test_finding_of_a_session_was_tried_there() -> None:
    found = replace(entry(), source="session t, experiment #1, commit abcdef123456")
    own = trials_of([BASELINE, replace(experiment(1), commit="abcdef123456" + "0" * 28)])
    copied = replace(own[0], tag="u", number=7)
    namesakes = [replace(own[0], tag=tag, commit=commit) for tag in ("", "t") for commit in ("", "f" * 40)]
    assert [len(tried(found, [each])) for each in (*own, copied, *namesakes)] == [1, 1, 0, 0, 0, 0]
    assert not tried(found, trials_of([BASELINE, experiment(1)]))


def test_fault_of_the_machine_tries_nothing() -> None:
    broken = replace(experiment(1, "crash", RATE=0.2), runs=(Run(None, 1.0, error="x", fault="machine"),))
    assert trials_of([BASELINE, broken]) == []


def test_constants_of_several_files_have_their_path() -> None:
    before, after = {"a.py:RATE": 0.1}, {"a.py:RATE": 0.2}
    base = replace(BASELINE, parameters=before)
    moved = replace(experiment(1), parameters=after)
    assert tried(entry("RATE up"), trials_of([base, moved]))


def test_untried_are_told_best_first_and_without_what_the_recipe_has() -> None:
    entries = [
        entry(title="none"),
        entry(title="lost", effect="-1 %"),
        entry(title="small", effect="0.1 %"),
        entry(title="time", effect="20 % less time"),
        entry("DEPTH 4", title="has it", effect="9 %"),
        entry("RATE up", title="tried", effect="8 %"),
        entry(title="large", effect="3 %"),
    ]
    trials = trials_of([BASELINE, experiment(1, RATE=0.2)])
    assert [each.title for each in untried(entries, trials, BASE)] == ["large", "time", "small", "none", "lost"]


def test_what_is_told_is_bounded() -> None:
    many = [replace(entry(title=f"Idea {number}"), what="x" * 600) for number in range(100)]
    lines = told(many)
    assert 0 < len(lines) <= MOST_TOLD
    assert sum(map(len, lines)) <= LONGEST_TOLD
    assert told([entry("RATE up", effect="1 %")]) == ["Idea [1 %; RATE up]: x"]
