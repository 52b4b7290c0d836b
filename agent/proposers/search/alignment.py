"""Align experiments with the current constants: a keep may add one, or give the first ones to a second file.

Without this, all that was measured before such a keep would be lost to the search.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from agent.journal.experiment import Experiment, Value
from agent.journal.history import incumbent_before
from agent.proposers.earlier import Earlier
from agent.proposers.search.space import Space


def renamed(keys: Collection[str], parameters: Mapping[str, Value]) -> Mapping[str, Value]:
    """Return the constants by the current keys: NAME becomes path:NAME, or the reverse.

    A constant whose name is not unique, now or then, keeps its key.
    """
    if all(key in parameters for key in keys):
        return parameters
    now, then = Counter(map(_name, keys)), Counter(map(_name, parameters))
    by_name = {_name(key): key for key in keys if key not in parameters}
    same = {key for key in parameters if key not in keys and now[_name(key)] == then[_name(key)] == 1}
    return {by_name.get(_name(key), key) if key in same else key: value for key, value in parameters.items()}


def aligned(space: Space, history: Sequence[Experiment]) -> tuple[Experiment, ...]:
    """Return the experiments with the keys of the space, and with the constants that were added after them.

    An added constant has the value with which it was kept. A constant that a candidate itself removed stays missing.
    """
    keys = [dimension.key for dimension in space.dimensions]
    known = [_with(each, renamed(keys, each.parameters)) for each in history]
    added = _added(keys, known)
    found = []
    for each in known:
        incumbent = incumbent_before(known, each.number)
        found.append(_with(each, _completed(each.parameters, incumbent.parameters if incumbent else {}, added)))
    return tuple(found)


def completed(space: Space, earlier: Sequence[Earlier], history: Sequence[Experiment]) -> list[Earlier]:
    """Return experiments of other sessions with the constants that were added after them, there or here.

    Args:
        earlier: with the keys of the space.
        history: the experiments of this session, aligned.
    """
    added = _added([dimension.key for dimension in space.dimensions], history)
    best: dict[str, Mapping[str, Value]] = {}
    found = {}
    for each in sorted(earlier, key=lambda each: (each.tag, each.number)):
        parameters = _completed(each.parameters, best.get(each.tag, {}), added)
        found[each.tag, each.number] = replace(each, parameters=parameters)
        if each.status == "keep":
            best[each.tag] = each.parameters
    return [found[each.tag, each.number] for each in earlier]


def _added(keys: Sequence[str], history: Sequence[Experiment]) -> dict[str, Value]:
    """Return the first kept value of each constant."""
    first: dict[str, Value] = {}
    for each in history:
        if each.kept:
            first |= {key: each.parameters[key] for key in keys if key in each.parameters and key not in first}
    return first


def _completed(
    parameters: Mapping[str, Value], before: Mapping[str, Value], added: Mapping[str, Value]
) -> Mapping[str, Value]:
    missing = {key: value for key, value in added.items() if key not in parameters and key not in before}
    return {**parameters, **missing} if missing else parameters


def _with(each: Experiment, parameters: Mapping[str, Value]) -> Experiment:
    return each if parameters is each.parameters else replace(each, parameters=parameters)


def _name(key: str) -> str:
    return key.rpartition(":")[2]
