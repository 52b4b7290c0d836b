"""Merge three versions of a source: constants by their values, the rest as text.

A textual merge alone conflicts wherever two constants stand on neighboring lines, or one changed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from agent.journal.experiment import Value
from agent.source.constants import Constant, branches_of, constants, parsed, refuses, settled

Values = Literal["both", "theirs", "ours"]
# (ours, base, theirs) -> the merged text, or None if the changes conflict; see `Workspace.merge`.
Merge = Callable[[str, str, str], str | None]


def merged(
    texts: tuple[str, str, str], known: Mapping[str, Value], merge: Merge, *, values: Values = "both"
) -> str | None:
    """Return the first text with the changes from the second to the third, or None if they conflict.

    Args:
        texts: ours, base and theirs.
        known: values of the names that the harness defines.
        merge: merges what is not a constant.
        values: "both": a constant that both changed is a conflict. "theirs": it gets their value. "ours": every
            constant keeps our value.
    """
    ours, base, theirs = (constants(text, known) for text in texts)
    shared = ours.keys() & base.keys() & theirs.keys()
    final = {}
    for name in shared:
        if values == "ours" or same(base[name], theirs[name]) or same(ours[name], theirs[name]):
            final[name] = ours[name].literal
        elif same(ours[name], base[name]) or values == "theirs":
            final[name] = theirs[name].literal
        else:
            return None
    # With the same literals in all three, constants cannot conflict as text.
    level = {name: base[name].literal for name in shared}
    mine, before, after = (settled(text, known, lambda each: level.get(each.name, each.literal)) for text in texts)
    text = mine if before == after else after if mine == before else merge(mine, before, after)
    if text is None:
        return None
    text = settled(text, known, lambda each: final.get(each.name, each.literal))
    # What one side changed may leave a constant of the other without effect, or give its value to another branch.
    found = constants(text, known)
    if any(name not in found or found[name].literal != final[name] for name in shared):
        return None
    if values == "ours":
        return text
    sides = {name: theirs if final[name] == theirs[name].literal else ours for name in shared}
    differ = [name for name in shared if not same(ours[name], theirs[name])]
    try:
        there = [branches_of(texts[2] if sides[n] is theirs else texts[0], sides[n][n]) for n in differ]
        return text if there == [branches_of(text, found[n]) for n in differ] else None
    except RecursionError:  # a test is nested too deeply to spell
        return None


def carried_over(
    versions: tuple[Mapping[str, str], Mapping[str, str], Mapping[str, str]], known: Mapping[str, Value], merge: Merge
) -> tuple[dict[str, str], list[str]]:
    """Return what the first version must alter to make the changes from the second to the third.

    Args:
        versions: path -> text of ours, base and theirs.
        known: values of the names that the harness defines.
        merge: merges what is not a constant.

    Returns:
        path -> new text, and the paths whose changes conflict. A file that only theirs lacks is a conflict.
    """
    found, conflicts = dict[str, str](), []
    for path in sorted({*versions[1], *versions[2]}):
        ours, base, theirs = (version.get(path) for version in versions)
        if theirs in (base, ours):
            continue
        text = None
        if ours == base:
            text = theirs
        elif ours is not None and base is not None and theirs is not None:
            text = merged((ours, base, theirs), known, merge)
        if text is None or not (ours == base or runs(path, text, known)):
            conflicts.append(path)
        elif text != ours:
            found[path] = text
    return found, conflicts


def same(first: Constant, second: Constant) -> bool:
    return first.value == second.value and type(first.value) is type(second.value)


def runs(path: str, text: str, known: Mapping[str, Value]) -> bool:
    """Return whether a merged text has valid syntax and holds its own asserts, as far as that can be computed."""
    return not path.endswith(".py") or (parsed(text) is not None and refuses(text, known, {}) is None)
