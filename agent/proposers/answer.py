"""What a model says about its change: a few named lines, the same from an API and from a coding agent."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from agent.format import plain
from agent.source.constants import constants

NOTES_FORMAT = """\
DESCRIPTION: what changes, in one line of at most 80 characters
HYPOTHESIS: why it should help, in a sentence or two
EXPECTED: by how much the metric should change, as a signed number, for example -0.004"""

LONGEST_DESCRIPTION = 120
LONGEST_HYPOTHESIS = 2000
_NAMED = re.compile(r"(?im)^[ \t>*_#`\d.)-]*(description|hypothesis|expected)[ \t*_]*:[ \t*_]*(.*)$")
_NUMBER = re.compile(r"[+\-\u2212]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


@dataclass(frozen=True)
class Notes:
    """expected: the change of the metric that it predicts. None or empty where it says nothing."""

    description: str = ""
    hypothesis: str = ""
    expected: float | None = None


def parse_notes(text: str) -> Notes:
    """The first of each named line. What a model writes is data: control characters go, lengths are bounded."""
    found: dict[str, str] = {}
    for name, value in _NAMED.findall(text):
        found.setdefault(name.lower(), plain(value))
    return Notes(
        description=found.get("description", "")[:LONGEST_DESCRIPTION],
        hypothesis=found.get("hypothesis", "")[:LONGEST_HYPOTHESIS],
        expected=_number(found.get("expected", "")),
    )


def summary_of_change(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """What changed, in a line, where its author does not say: constants by their values, else lines by their number."""
    changes, added, removed = [], 0, 0
    for path in sorted(new):
        before, after = constants(old.get(path, ""), {}), constants(new[path], {})
        changes += [
            f"{name} {before[name].literal} -> {after[name].literal}"
            for name in after
            if name in before and after[name].value != before[name].value
        ]
        # Counted and not aligned: that takes minutes for a file that was written anew.
        lines, others = Counter(new[path].splitlines()), Counter(old.get(path, "").splitlines())
        added += (lines - others).total()
        removed += (others - lines).total()
    if changes and len(changes) == added == removed:
        return ", ".join(changes)[:LONGEST_DESCRIPTION]
    return f"{added} lines added, {removed} removed in {', '.join(sorted(new))}"[:LONGEST_DESCRIPTION]


def _number(text: str) -> float | None:
    found = _NUMBER.search(text)
    value = float(found[0].replace("\u2212", "-")) if found else math.nan
    return value if math.isfinite(value) else None
