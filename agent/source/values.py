"""Find the constants in which two versions of the mutable files differ, and put their values back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from agent.journal.experiment import Value
from agent.source.constants import Constant, constants, literal, refuses, settled
from agent.source.merging import same

Place = tuple[str, str]  # a path and the name of a constant
LONGEST_VALUE = 60


def changed_values(before: Mapping[str, str], after: Mapping[str, str], known: Mapping[str, Value]) -> list[Place]:
    """Return the constants that both versions have with different values, in the order of the later one."""
    found = []
    for path in before.keys() & after.keys():
        old, new = constants(before[path], known), constants(after[path], known)
        found += [(new[name].begin, (path, name)) for name in old.keys() & new.keys() if not same(old[name], new[name])]
    return [place for _, place in sorted(found)]


def put_back(
    files: Mapping[str, str], earlier: Mapping[str, str], places: Iterable[Place], known: Mapping[str, Value]
) -> dict[str, str]:
    """Return `files` with the constants at these places spelled as in `earlier`."""
    wanted, result = list(places), dict(files)
    for path in {path for path, _ in wanted}:
        old, new = constants(earlier[path], known), constants(files[path], known)
        names = [name for where, name in wanted if where == path and name in old and name in new]
        result[path] = _with_literals(files[path], known, {name: old[name].literal for name in names})
    return result


def with_values(files: Mapping[str, str], known: Mapping[str, Value], values: Mapping[str, Value]) -> dict[str, str]:
    """Return the files that change if these constants are set wherever they are defined: path -> new text."""
    changed = {}
    for path, text in files.items():
        new = settled(text, known, lambda each: _spelled(each, values)) if path.endswith(".py") else text
        if new != text:
            changed[path] = new
    return changed


def without_effect(files: Mapping[str, str], known: Mapping[str, Value], values: Mapping[str, Value]) -> list[str]:
    """Return the constants that do not have these values in any file although they were set: they are not live."""
    live = [constants(text, known) for path, text in files.items() if path.endswith(".py")]
    return [
        name
        for name in values
        if not any(name in found and _spelled(found[name], values) == found[name].literal for found in live)
    ]


def _spelled(constant: Constant, values: Mapping[str, Value]) -> str:
    """Return the literal of a constant that has its value in `values`, if it has one there."""
    value = values.get(constant.name, constant.value)
    if value == constant.value and type(value) is type(constant.value):
        return constant.literal
    return literal(value, constant)


def _with_literals(text: str, known: Mapping[str, Value], literals: Mapping[str, str]) -> str:
    return settled(text, known, lambda each: literals.get(each.name, each.literal))


def groups(before: Mapping[str, str], after: Mapping[str, str], known: Mapping[str, Value]) -> list[list[Place]]:
    """Return the constants that changed, in groups that can be put back alone: one each, more where asserts demand it.

    A constant that cannot be put back alone joins the first other one with which it can, or else all of its file.
    """
    places = changed_values(before, after, known)
    joined = {place: {place} for place in places}

    def refused(some: Collection[Place]) -> bool:
        path = next(iter(some))[0]
        old = constants(before[path], known)
        return refuses(after[path], known, {name: old[name].value for _, name in some}) is not None

    def join(some: Collection[Place]) -> None:
        whole = {place for each in some for place in joined[each]}
        for place in whole:
            joined[place] = whole

    for place in places:
        if refused(joined[place]):
            beside = [each for each in places if each[0] == place[0] and each not in joined[place]]
            pair = next((each for each in beside if not refused(joined[place] | joined[each])), None)
            join([place, pair] if pair else [place, *beside])
    found: list[list[Place]] = []
    for place in places:
        if not any(place in group for group in found):
            found.append([each for each in places if each in joined[place]])
    return found


def described(
    before: Mapping[str, str], after: Mapping[str, str], places: Sequence[Place], known: Mapping[str, Value]
) -> str:
    """Return `RATE 0.1 -> 0.3, model.py:DEPTH 4 -> 6`, with the file of a name that several have."""
    names = Counter(name for path, text in after.items() if path.endswith(".py") for name in constants(text, known))
    parts = []
    for path, name in places:
        old, new = (constants(files[path], known)[name].literal[:LONGEST_VALUE] for files in (before, after))
        parts.append(f"{path}:{name} {old} -> {new}" if names[name] > 1 else f"{name} {old} -> {new}")
    return ", ".join(parts)


def level(files: Mapping[str, str], like: Mapping[str, str], known: Mapping[str, Value]) -> dict[str, str]:
    """Return `files` with the values of `like`, so that what still differs is code."""
    return {
        path: put_back({path: text}, like, [(path, name) for name in constants(text, known)], known)[path]
        if path in like
        else text
        for path, text in files.items()
    }
