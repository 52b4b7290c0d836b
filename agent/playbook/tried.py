"""What was tried of the playbook: an experiment has cited an entry, or has moved one of its constants that way."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from agent.journal.experiment import Experiment, Value
from agent.journal.history import change_of, incumbent_before
from agent.playbook.entries import MOST_NOTES, Entry, Turn, key_of
from agent.system.names import PLAYBOOK

# As `findings` writes the source of an entry.
_ORIGIN = re.compile(r"\bsession [\w.-]{1,200}, experiment #\d{1,9}, commit ([0-9a-f]{7,64})\b")


@dataclass(frozen=True)
class Trial:
    """What an experiment has moved, and what became of it.

    Attributes:
        tag: its session; empty for the session at hand.
        status: its verdict; empty while it is measured.
        change: its metric minus that of its incumbent; None if unknown.
        cites: the title of the entry that it tries; empty for none.
        before, after: the constants of its incumbent, and its own.
        commit: its full hash; empty if unknown.
    """

    tag: str
    number: int
    status: str
    change: float | None
    cites: str
    before: Mapping[str, Value]
    after: Mapping[str, Value]
    commit: str = ""

    @cached_property
    def moves(self) -> Sequence[tuple[str, Value, Value]]:
        """Each constant that it moved, with the value before and after."""
        pairs = ((key, self.before.get(key), value) for key, value in self.after.items())
        return [(key, old, value) for key, old, value in pairs if old is not None and not _equal(value, old)]

    @cached_property
    def cited(self) -> str:
        """The key of the entry that it cites."""
        return key_of(self.cites)


def trials_of(history: Sequence[Experiment]) -> list[Trial]:
    """Return the experiments of a session. Those that a fault of the machine ended have tried nothing."""
    found = []
    for each in history[1:]:
        if each.ended_by_fault:
            continue
        incumbent = incumbent_before(history, each.number)
        before = incumbent.parameters if incumbent is not None else {}
        status, change = each.verdict.status, change_of(history, each)
        found.append(Trial("", each.number, status, change, each.playbook, before, each.parameters, each.commit))
    return found


def tried(entry: Entry, trials: Iterable[Trial]) -> list[Trial]:
    """Return those of the experiments that tried an entry."""
    origin, key = _ORIGIN.search(entry.source), entry.key
    return [
        each
        for each in trials
        if each.cited == key
        or any(has_moved(turn, each) for turn in entry.turns)
        # By its commit alone: #3 of a session mar5 may be that of another clone.
        or (origin is not None and each.commit.startswith(origin[1]))
    ]


def untried(entries: Iterable[Entry], trials: Sequence[Trial], parameters: Mapping[str, Value]) -> list[Entry]:
    """Return the entries that no experiment has tried and the incumbent does not have, best first.

    Args:
        parameters: the constants of the incumbent.
    """
    left = [each for each in entries if not tried(each, trials) and not is_in(each, parameters)]
    return sorted(left, key=_rank)


def misfits(entries: Iterable[Entry], parameters: Mapping[str, Value]) -> list[str]:
    """Return a sentence for each turn to a value of another kind than the constant's, as in `RATE half`.

    Args:
        parameters: the constants of the recipe.
    """
    found = []
    for entry in entries:
        for turn in entry.turns:
            values = _of(turn, parameters)
            word = isinstance(turn.value, str) and not any(isinstance(value, str) for value in values)
            flag = isinstance(turn.value, bool) and not any(isinstance(value, str | bool) for value in values)
            if values and (word or flag):
                kind = "True or False" if all(isinstance(value, bool) for value in values) else "a number"
                found.append(
                    f"{PLAYBOOK}, line {entry.line}: {turn.name} is {kind}, so `{turn.name} {turn.value}` turns nothing"
                )
    return found[:MOST_NOTES]


def is_in(entry: Entry, parameters: Mapping[str, Value]) -> bool:
    """Return whether a recipe has an entry already: one of its constants has the value."""
    return any(
        turn.direction == 0 and _equal(value, turn.value) for turn in entry.turns for value in _of(turn, parameters)
    )


def has_moved(turn: Turn, trial: Trial) -> bool:
    """Return whether an experiment has moved a constant of this name as the turn says."""
    for key, old, value in trial.moves:
        if not is_named(key, turn.name):
            continue
        if turn.direction == 0:
            if _equal(value, turn.value):
                return True
        elif not isinstance(value, str) and not isinstance(old, str) and (value > old) == (turn.direction > 0):
            return True
    return False


def is_named(key: str, name: str) -> bool:
    """Return whether a constant has a name. If several files have constants, its key is `path:NAME`."""
    return key == name or key.endswith(f":{name}")


def _of(turn: Turn, parameters: Mapping[str, Value]) -> list[Value]:
    return [value for key, value in parameters.items() if is_named(key, turn.name)]


def _equal(one: Value | None, other: Value | None) -> bool:
    """Return whether two values are the same: 1 is 1.0, but not True."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _rank(entry: Entry) -> tuple[int, float]:
    """Sort the largest published gain first, then what has none, then what has lost elsewhere."""
    gain = entry.gain
    if gain is None or gain == 0:
        return 1, 0.0
    return (0 if gain > 0 else 2), -gain
