"""The message of an adopting commit, from journals of every kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.adopt.choice import Choice
from agent.adopt.message import LONGEST_LINE, MOST_LINES, message_of
from agent.journal.journal import fold
from agent.journal.state import State
from tests.common.journals import JournalBuilder

pytestmark = pytest.mark.quick


def state_of(path: Path, keeps: int, *, confirmed: bool) -> State:
    builder = JournalBuilder("mar5").baseline()
    for _ in range(keeps):
        builder.keep()
    (builder.confirmed() if confirmed else builder).save(path)
    return fold(path)


def choice_of(state: State) -> Choice:
    assert state.incumbent is not None
    keeps = [each for each in state.experiments[1:] if each.verdict.status == "keep"]
    return Choice({}, keeps, [], state.incumbent.commit, state.confirmation)


def test_confirmed_gain_is_in_subject_and_body(tmp_path: Path) -> None:
    state = state_of(tmp_path / "journal.jsonl", 3, confirmed=True)
    subject, blank, *body = message_of(state, choice_of(state)).splitlines()
    assert subject.startswith("Adopt 3 changes of session mar5: val_bpb ")
    assert not blank
    assert "provisional" not in subject
    assert any(line.startswith("Gain: ") and " confirmed, 95 % interval " in line for line in body)
    assert f"Autoresearch-Commit: {'b' * 40}" in body


def test_unconfirmed_gain_is_called_provisional(tmp_path: Path) -> None:
    state = state_of(tmp_path / "journal.jsonl", 1, confirmed=False)
    message = message_of(state, choice_of(state))
    assert message.splitlines()[0].endswith(", provisional")
    assert "Gain: provisional, not confirmed by held-out runs" in message


def test_message_is_bounded(tmp_path: Path) -> None:
    state = state_of(tmp_path / "journal.jsonl", MOST_LINES + 5, confirmed=True)
    message = message_of(state, choice_of(state))
    assert "- and 5 more" in message
    assert max(map(len, message.splitlines())) <= LONGEST_LINE
