"""What a session found, as entries of the playbook: one for each change that it kept, with what held-out runs say."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agent.errors import AutoresearchError
from agent.format import brief, counted, one_line
from agent.journal.comparable import machine_in_words
from agent.journal.experiment import Experiment
from agent.journal.history import incumbent_before
from agent.journal.state import State
from agent.playbook.entries import (
    LARGEST_FILE,
    LONGEST_FIELD,
    LONGEST_TITLE,
    MOST_ENTRIES,
    Entry,
    Turn,
    is_playbook,
    key_of,
    open_fence,
    parse,
    sources_of,
    text_of,
    turns_of,
)
from agent.playbook.tried import is_named
from agent.report.gain import outcome, shows_gain, verdict_of
from agent.report.stations import machine_of
from agent.system.names import PLAYBOOK

LONGEST_SUBJECT, LONGEST_TAG = 80, 60
LONGEST_MACHINE = 200
HASH = 12  # digits of a commit
_COMMIT = re.compile(r"\bcommit ([0-9a-f]{7,64})\b")


@dataclass(frozen=True)
class Finding:
    """A kept change as an entry.

    Attributes:
        number: the experiment.
        commit: its full hash.
        turns: the value of the constant that it moved, as in the file; empty if it is no such move, or not confirmed.
    """

    number: int
    commit: str
    entry: Entry
    turns: str


def findings(state: State) -> list[Finding]:
    """Return an entry for each kept change; none before held-out runs have compared baseline and best."""
    kept, confirmation = state.keeps, state.confirmation
    if state.session is None or confirmation is None:
        return []
    return [_finding(state, each, confirmation, len(kept) - 1) for each in kept]


def added(content: bytes, found: Iterable[Finding]) -> tuple[bytes, list[int]]:
    """Return a playbook with the entries that it lacks at its end, and the numbers of their experiments.

    An entry that names the commit of an experiment in its source is that of the experiment, whatever a person made
    of the rest.

    Raises:
        AutoresearchError: the file is no playbook, has an open fence, or is full.
    """
    try:
        text = text_of(content)
    except OSError as error:
        raise AutoresearchError(f"{PLAYBOOK} {error}", hint="fix the file by hand") from None
    if not is_playbook(text):
        raise AutoresearchError(
            f"{PLAYBOOK} has no entries, and its heading does not say that it is a playbook",
            hint="begin it with the line `# Playbook` to let sessions add what they found",
        )
    entries = parse(text).entries
    # Those of entries that are left out as well, which would be added again and again.
    known = [mentioned for source in sources_of(text) for mentioned in _COMMIT.findall(source)]
    lacking = [each for each in found if not any(each.commit.startswith(mentioned) for mentioned in known)]
    new = [_renamed(each, {entry.key for entry in entries}) for each in lacking]
    if new and (fence := open_fence(text)) is not None:
        raise AutoresearchError(
            f"{PLAYBOOK} has an open fence in line {fence}, so entries after it would not be read",
            hint="close the fence with a line of the same signs and nothing else",
        )
    end = "\r\n" if b"\r\n" in content else "\n"
    more = "".join(f"\n{_written(each)}" for each in new).replace("\n", end).encode()
    whole = content if content.endswith(b"\n") or not content else content + end.encode()
    if new and (len(whole) + len(more) > LARGEST_FILE or len(entries) + len(new) > MOST_ENTRIES):
        raise AutoresearchError(
            f"{PLAYBOOK} is full: it may have {MOST_ENTRIES} entries and {LARGEST_FILE // 1024} KiB",
            hint="delete entries that are of no use any more",
        )
    return whole + more, [each.number for each in new]


def _finding(state: State, keep: Experiment, confirmation: Mapping[str, Any], others: int) -> Finding:
    assert state.session is not None
    tag, commit = state.session["tag"], keep.commit[:HASH]
    subject = one_line(keep.playbook or keep.description).strip("# \t")[:LONGEST_SUBJECT]
    what = keep.description if keep.proposer == "search" else f"{keep.description}. {keep.reasoning}".rstrip(". ")
    what = what or "a change of code"  # an entry without a text cannot be read
    origin = f"({tag[:LONGEST_TAG]} #{keep.number})"
    # With space for a commit, see `_renamed`.
    subject = subject[: LONGEST_TITLE - len(origin) - HASH - 2].rstrip() if key_of(subject) else "A kept change"
    entry = Entry(
        title=f"{subject} {origin}",
        what=_bounded(f'as in "{keep.playbook}": {what}' if keep.playbook else what),
        where=_bounded(_where(state)),
        effect=_bounded(_effect(state, keep, confirmation, others)),
        source=f"session {tag}, experiment #{keep.number}, commit {commit}",
    )
    return Finding(keep.number, keep.commit, entry, _turns(state, keep) if shows_gain(confirmation) else "")


def _effect(state: State, keep: Experiment, confirmation: Mapping[str, Any], others: int) -> str:
    """Return the gain of one change, with the interval of held-out runs: its own if nothing else was kept."""
    assert state.session is not None
    metric, found = state.session["metric"], outcome(state, keep)
    means, runs = confirmation.get("means", {}), confirmation.get("runs", {})
    whole = _interval(confirmation, means.get("a"))
    by = f"{runs.get('a')} and {runs.get('b')} held-out runs" if runs else "held-out runs"
    said = f"confirmed by {by}" if shows_gain(confirmation) else f"{by} say {verdict_of(confirmation)}"
    own = "the gain when it was kept is unknown"
    if found.gain is not None and found.against is not None and found.value is not None:
        own = f"{_percent(found.gain, found.against)} ({metric} {brief(found.against)} -> {brief(found.value)})"
    if not others:
        alone = f"{whole}, {said}; when kept {own}"
    else:
        rest = "the other kept change" if others == 1 else f"the {others} other kept changes"
        alone = f"{own} when kept; with {rest} {whole}, {said}"
    return alone if shows_gain(confirmation) else f"not confirmed: {alone}"


def _interval(confirmation: Mapping[str, Any], baseline: float | None) -> str:
    gain, low, high = (confirmation.get(name) for name in ("gain", "low", "high"))
    if gain is None:
        return "no gain known"
    if low is None or high is None:
        return _percent(gain, baseline)
    low, high = _percent(low, baseline), _percent(high, baseline)
    return f"{_percent(gain, baseline)} (95 % interval {low.removesuffix(' %')} to {high})"


def _percent(gain: float, of: float | None) -> str:
    """Return a gain as a percentage of what it is compared with; as it is if that is 0 or unknown."""
    return f"{brief(100 * gain / abs(of), 3)} %" if of else brief(gain)


def _where(state: State) -> str:
    assert state.session is not None
    about, stations = state.session.get("fingerprint", {}), state.flight.stations
    machine = machine_in_words(about)
    if stations:
        first = next(iter(stations.values()))
        machine = f"{counted(len(stations), 'station')}, the first of them {machine_of({**first.facts, 'host': None})}"
    parts = [machine[:LONGEST_MACHINE]]
    if about.get("training_seconds"):
        parts.append(f"{about['training_seconds']:g} s of training")
    if about.get("snapshot"):
        parts.append(f"data {str(about['snapshot'])[:HASH]}")
    return ", ".join(part for part in parts if part)


def _turns(state: State, keep: Experiment) -> str:
    """Return the value of the only constant that the search moved, if the best has it; empty for any other change."""
    before = incumbent_before(state.experiments, keep.number)
    old = before.parameters if before is not None else {}
    moved = [(name, value) for name, value in keep.parameters.items() if old.get(name) != value]
    made = (keep, *(each for each in state.experiments if each.number in keep.parts))
    if len(moved) != 1 or any(each.proposer != "search" for each in made):  # others may have changed code as well
        return ""
    key, value = moved[0]
    if state.incumbent is None or state.incumbent.parameters.get(key) != value:
        return ""  # a later change went further
    name = key.rpartition(":")[2]
    if sum(is_named(each, name) for each in keep.parameters) > 1:
        name = key
    turn = f'{name} "{value}"' if isinstance(value, str) else f"{name} {value}"
    # A text may hold what separates turns, or a quote.
    return turn if turns_of(turn) == (Turn(name, 0, value),) else ""


def _renamed(found: Finding, titles: Collection[str]) -> Finding:
    """Return it with its commit in its title if the playbook has that title already: of two, only the first is read.

    A session of the same tag in another clone, or an earlier one that was deleted, may have added it.
    """
    entry = found.entry
    if entry.key not in titles:
        return found
    return replace(found, entry=replace(entry, title=f"{entry.title} {found.commit[:HASH]}"))


def _written(found: Finding) -> str:
    entry = found.entry
    lines = [f"## {entry.title}", "", f"- what: {entry.what}"]
    lines += [f"- turns: {found.turns}"] if found.turns else []
    lines += [f"- where: {entry.where}", f"- effect: {entry.effect}", f"- source: {entry.source}"]
    return "\n".join(lines) + "\n"


def _bounded(text: str) -> str:
    return one_line(text)[:LONGEST_FIELD]
