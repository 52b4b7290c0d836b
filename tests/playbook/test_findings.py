"""What a session adds to the playbook: entries that can be read again, each change once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.errors import AutoresearchError
from agent.journal.experiment import Experiment, Run, Value, Verdict
from agent.journal.state import State
from agent.playbook.entries import LONGEST_TITLE, Turn, parse
from agent.playbook.findings import Finding, added, findings
from agent.playbook.tried import trials_of, tried

pytestmark = pytest.mark.quick

BASE, BEST = "a" * 40, "b" * 40
CONFIRMATION = {
    "a": BASE, "b": BEST, "means": {"a": 2.0, "b": 1.9}, "runs": {"a": 3, "b": 3}, "gain": 0.1, "low": 0.05,
    "high": 0.15, "verdict": "confirmed",
}  # fmt: skip


def found(
    description: str = "RATE 1 -> 2", tag: str = "t", commit: str = BEST, value: Value = 2, proposer: str = "search"
) -> list[Finding]:
    """Return what a session adds that has kept one change."""
    baseline = Experiment(
        0, "baseline", "baseline", BASE, "d", {"RATE": 1}, (Run(2.0, 1.0),), Verdict("keep", "baseline")
    )
    keep = Experiment(1, proposer, description, commit, "e", {"RATE": value}, (Run(1.9, 1.0),), Verdict("keep", "x"))
    session = {"tag": tag, "metric": "val_bpb", "direction": "minimize", "fingerprint": {}}
    return findings(State(session, experiments=(baseline, keep), confirmations={f"{BASE} {commit}": CONFIRMATION}))


@pytest.mark.parametrize("tag", ["t", "2026-11-27-evening-with-a-wider-model", "t" * 200])
def test_title_is_short_enough_to_be_read(tag: str) -> None:
    new = found("replace the activation of each block by a squared one, and widen the output " * 3, tag)
    whole, numbers = added(b"# Playbook\n", new)
    assert numbers == [1]
    book = parse(whole.decode())
    assert book.notes == ()
    (entry,) = book.entries
    assert len(entry.title) <= LONGEST_TITLE
    assert "#1)" in entry.title
    assert added(whole, new) == (whole, [])


@pytest.mark.parametrize(
    ("description", "what"), [("...", "a change of code"), ("\u2026", "\u2026"), (".5 dropout", ".5 dropout")]
)
def test_entry_of_any_description_can_be_read(description: str, what: str) -> None:
    whole, numbers = added(b"# Playbook\n", found(description, proposer="you"))
    book = parse(whole.decode())
    assert (numbers, book.notes) == ([1], ())
    assert [each.what for each in book.entries] == [what]


def test_entry_that_cannot_be_read_is_not_added_again() -> None:
    whole, _ = added(b"# Playbook\n", found())
    odd = whole.decode().replace("## RATE 1 -> 2 (t #1)", f"## {'x' * 200}")
    assert parse(odd).entries == ()
    assert added(odd.encode(), found()) == (odd.encode(), [])


def test_another_session_of_the_same_tag_gets_a_title_of_its_own() -> None:
    one, _ = added(b"# Playbook\n", found())
    two, numbers = added(one, found(commit="c" * 40))
    assert numbers == [1]
    book = parse(two.decode())
    assert book.notes == ()
    assert [each.title for each in book.entries] == ["RATE 1 -> 2 (t #1)", f"RATE 1 -> 2 (t #1) {'c' * 12}"]
    assert added(two, found(commit="c" * 40)) == (two, [])


def test_entries_behind_an_open_fence_are_refused() -> None:
    with pytest.raises(AutoresearchError, match="an open fence in line 3"):
        added(b"# Playbook\n\n```\nan example\n", found())
    closed = b"# Playbook\n\n```\nan example\n```\n"
    assert len(parse(added(closed, found())[0].decode()).entries) == 1


@pytest.mark.parametrize("value", ["SL, L", 'a "b"', "a=b", "a->b", "`a`", "x" * 100])
def test_text_that_no_turn_can_hold_turns_nothing(value: str) -> None:
    whole, _ = added(b"# Playbook\n", found(value=value))
    book = parse(whole.decode())
    assert book.notes == ()
    assert [each.turns for each in book.entries] == [()]


@pytest.mark.parametrize("value", ["SSL", "up", "a b", 0.001, 1e-7, 4])
def test_value_is_turned_to_by_the_next_session(value: Value) -> None:
    whole, _ = added(b"# Playbook\n", found(value=value))
    (entry,) = parse(whole.decode()).entries
    assert entry.turns == (Turn("RATE", 0, value),)


@pytest.mark.parametrize(
    ("others", "name"), [(("a.py:DEPTH",), "RATE"), (("a.py:RATE",), "m/b.py:RATE"), (("a b.py:RATE",), "m/b.py:RATE")]
)
def test_turn_names_the_file_if_several_have_the_constant(others: tuple[str, ...], name: str) -> None:
    kept = Verdict("keep", "x")
    before: dict[str, Value] = {"m/b.py:RATE": 1, **dict.fromkeys(others, 7)}
    baseline = Experiment(0, "baseline", "baseline", BASE, "d", before, (Run(2.0, 1.0),), kept)
    keep = Experiment(1, "search", "an idea", BEST, "f", {**before, "m/b.py:RATE": 2}, (Run(1.9, 1.0),), kept)
    session = {"tag": "t", "metric": "val_bpb", "direction": "minimize", "fingerprint": {}}
    state = State(session, experiments=(baseline, keep), confirmations={f"{BASE} {BEST}": CONFIRMATION})
    (entry,) = parse(added(b"# Playbook\n", findings(state))[0].decode()).entries
    assert entry.turns == (Turn(name, 0, 2),)
    trials = trials_of(state.experiments)
    assert [each.number for each in tried(replace(entry, source=""), trials)] == [1]
    elsewhere = replace(entry, source="", turns=(Turn(f"{others[0]}", 0, 2),))
    assert tried(elsewhere, trials) == []


@pytest.mark.parametrize(("proposer", "turns"), [("search", (Turn("RATE", 0, 2),)), ("llm", ())])
def test_near_miss_of_a_model_may_be_more_than_its_constant(proposer: str, turns: tuple[Turn, ...]) -> None:
    """The search has made it on a later keep, code and all."""
    kept, missed = Verdict("keep", "x"), Verdict("discard", "within noise")
    baseline = Experiment(0, "baseline", "baseline", BASE, "d", {"RATE": 1}, (Run(2.0, 1.0),), kept)
    miss = Experiment(1, proposer, "an idea", "c" * 40, "e", {"RATE": 2}, (Run(2.0, 1.0),), missed)
    keep = Experiment(2, "search", "#1: an idea", BEST, "f", {"RATE": 2}, (Run(1.9, 1.0),), kept, parts=(1,))
    session = {"tag": "t", "metric": "val_bpb", "direction": "minimize", "fingerprint": {}}
    confirmed = {f"{BASE} {BEST}": CONFIRMATION}
    new = findings(State(session, experiments=(baseline, miss, keep), confirmations=confirmed))
    assert [each.turns for each in parse(added(b"# Playbook\n", new)[0].decode()).entries] == [turns]
