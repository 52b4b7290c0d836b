"""Read a model's notes on its change: a few named lines, in one format for APIs and coding agents."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.format import counted, plain
from agent.journal.experiment import Value
from agent.source.constants import constants

NOTES_FORMAT = """\
DESCRIPTION: the change, in one line of at most 80 characters
HYPOTHESIS: why it should help, in one or two sentences
EXPECTED: the expected change of the metric, as a signed number, for example -0.004"""

LONGEST_DESCRIPTION = 120
LONGEST_HYPOTHESIS = 2000
LARGEST_EFFECT = 1e100  # a journal cannot hold all numbers
_NAMED = re.compile(r"(?im)^[ \t>*_#`\d.)-]*(description|hypothesis|expected|playbook)[ \t*_]*:[ \t*_]*(.*)$")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+(?![\d,]).*")
_DASHES = re.compile("[\u2010-\u2015\u2212\ufe58\ufe63\uff0d]")
# Not inside a word, such as val_bpb2, nor the part of a number that follows a comma. The sign in 1-2 or +/-1 is none.
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w./])[+-]|)(?<![^\W\d])(?<![\d.,])(?P<size>(?:\d+(?:,\d+)*\.?\d*|\.\d+)(?:e[+-]?\d+)?)"
    r"(?P<percent>\s*(?:%|percent))?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Notes:
    """A model's notes on its change; a missing line is empty or None.

    Attributes:
        expected: the predicted change of the metric.
        playbook: the title of the entry of the playbook that the change tries, as the model wrote it.
        is_complete: whether there are a hypothesis and a line on the effect, be it a range.
    """

    description: str = ""
    hypothesis: str = ""
    expected: float | None = None
    playbook: str = ""
    is_complete: bool = field(default=False, compare=False)


def parse_notes(text: str) -> Notes:
    """Return the first line of each name, without control characters and limited in length."""
    found: dict[str, str] = {}
    for name, value in _NAMED.findall(text):
        found.setdefault(name.lower(), plain(value))
    return Notes(
        description=found.get("description", "")[:LONGEST_DESCRIPTION],
        hypothesis=found.get("hypothesis", "")[:LONGEST_HYPOTHESIS],
        expected=_number(found.get("expected", "")),
        playbook=found.get("playbook", "")[:LONGEST_HYPOTHESIS],
        is_complete=bool(found.get("hypothesis") and found.get("expected")),
    )


def summary_of_change(old: Mapping[str, str], new: Mapping[str, str], known: Mapping[str, Value]) -> str:
    """Describe a change in one line if its author did not: constants with their values, otherwise the number of lines.

    Args:
        old, new: path -> text; only the files in `new` are compared.
        known: values of the names that the harness defines, which decide between the branches of an `if`.
    """
    changes, added, removed = [], 0, 0
    for path in sorted(new):
        before, after = constants(old.get(path, ""), known), constants(new[path], known)
        changes += [
            f"{name} {before[name].literal} -> {after[name].literal}"
            for name in after
            if name in before and after[name].value != before[name].value
        ]
        # Counted rather than aligned, which takes minutes for a rewritten file.
        lines, others = Counter(new[path].splitlines()), Counter(old.get(path, "").splitlines())
        added += (lines - others).total()
        removed += (others - lines).total()
    if changes and len(changes) == added == removed:
        return ", ".join(changes)[:LONGEST_DESCRIPTION]
    return f"{counted(added, 'line')} added, {removed} removed in {', '.join(sorted(new))}"[:LONGEST_DESCRIPTION]


def _number(text: str) -> float | None:
    """Return the number that a text means as a change: its only signed one, or else its only one, however written.

    A percentage is none, because it does not say of what. Several numbers are none: a wrong effect is worse than none.
    """
    text = re.sub(r"^([+-])\s+", r"\1", _DASHES.sub("-", text))
    found = {number["sign"] + number["size"] for number in _NUMBER.finditer(text) if not number["percent"]}
    meant = {_value(number) for number in [each for each in found if each[0] in "+-"] or found}
    value = meant.pop() if len(meant) == 1 else None
    return value if value is not None and abs(value) <= LARGEST_EFFECT else None


def _value(number: str) -> float | None:
    """Return the value of a number; None if it has commas that separate no thousands."""
    if "," in number and not _THOUSANDS.fullmatch(number):
        return None
    return float(number.replace(",", ""))
