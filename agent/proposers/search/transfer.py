"""Use the experiments of other sessions: on the scale of this one, with less weight the less alike the conditions were.

A candidate that another session kept is proposed first. One that failed there, or was worse there than the incumbent
here, is not proposed again if conditions and code were the same, apart from constants; under others it may be.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from agent.decision.estimate import estimate
from agent.journal.experiment import Direction, Experiment, Value
from agent.proposers.earlier import Earlier
from agent.proposers.search.space import Dimension, Space

# The noise variance of an earlier value, in units of that of a value of this session: under the same fingerprint, and
# under another.
SAME, OTHER = 2.0, 20.0


def on_this_scale(earlier: Sequence[Earlier], history: Sequence[Experiment]) -> list[Earlier]:
    """Return the experiments with metrics that are comparable with those of this session.

    A session's metrics are shifted by the mean difference of the candidates that both have measured, so that a faster
    machine or a longer training does not count as a better recipe. Without such candidates, a session under the same
    fingerprint is not shifted if some of its code is that of this one, and of a session under another only the failures
    are returned. One whose code differs throughout is shifted by the experiments with equal constants, so that what a
    person has changed since does not count as a better recipe either; its failures may be those of the old code.
    """
    own = {each.digest: value for each in history if each.metric is not None and (value := estimate(each)) is not None}
    groups: dict[str, list[Earlier]] = defaultdict(list)
    for each in earlier:
        groups[each.tag].append(each)
    found: list[Earlier] = []
    for those in groups.values():
        measured = [each for each in those if each.digest in own and not each.is_forecast]
        shared = [own[each.digest] - each.metric for each in measured if each.metric is not None]
        if not shared and those[0].alike and not any(each.same_code for each in those):
            equal = _equally_set(those, history)
            found += [_of_other_code(each, equal) for each in those if equal and each.metric is not None]
            continue
        shift = statistics.mean(shared) if shared else 0.0
        for each in those:
            if each.metric is None:
                found.append(replace(each, alike=each.alike and each.same_code))
            elif shared or each.alike:
                found.append(replace(each, metric=each.metric + shift))
    return found


def _of_other_code(each: Earlier, differences: Sequence[float]) -> Earlier:
    assert each.metric is not None
    return replace(each, metric=each.metric + statistics.mean(differences), alike=False)


def _equally_set(those: Sequence[Earlier], history: Sequence[Experiment]) -> list[float]:
    """Return by how much this session's metrics differ from those of another with the same constants.

    Changes of code leave the constants as they are: of several such experiments the last kept one counts there, on
    which a person goes on, and here the first.
    """
    keys = [key for key in history[0].parameters if key in those[0].parameters] if history else []
    there: dict[tuple[Value | None, ...], float] = {}
    for each in those:
        place = tuple(each.parameters.get(key) for key in keys)
        if each.metric is not None and not each.is_forecast and (each.status == "keep" or place not in there):
            there[place] = each.metric
    here: dict[tuple[Value | None, ...], float] = {}
    for experiment in history:
        value = estimate(experiment) if experiment.metric is not None else None
        if value is not None:
            here.setdefault(tuple(experiment.parameters.get(key) for key in keys), value)
    return [value - there[place] for place, value in here.items() if keys and place in there]


def wins(
    space: Space, earlier: Sequence[Earlier], incumbent: float | None, direction: Direction
) -> list[tuple[dict[str, Value], Earlier]]:
    """Return the best kept candidate of each session that is better than the incumbent, best first, with its changes.

    What `ablate` or `promote` took out of it is not proposed again.

    Args:
        earlier: experiments on the scale of this session.
        incumbent: the metric of the incumbent; None if unknown.
    """
    sign = 1 if direction == "minimize" else -1
    # The last keep of a session is its best.
    last = {each.tag: each for each in earlier if each.status == "keep" and each.number > 0}
    better = [
        (sign * each.metric, each)
        for each in last.values()
        if each.metric is not None and incumbent is not None and sign * each.metric < sign * incumbent
    ]
    ranked = sorted(better, key=lambda pair: (not pair[1].alike, pair[0], pair[1].tag))
    return [
        (changed, each)
        for _, each in ranked
        if (changed := _changes(space, each.parameters if each.reduced is None else each.reduced))
    ]


def failed(space: Space, earlier: Sequence[Earlier]) -> set[tuple[Value, ...]]:
    """Return the values of all constants of the candidates that failed under the same fingerprint, with the same code.

    A change of code that crashed has the constants of what it changed: values with which any candidate succeeded are
    not to blame.

    Args:
        earlier: experiments on the scale of this session.
    """
    keys = [dimension.key for dimension in space.dimensions]
    known = [each for each in earlier if each.alike and all(key in each.parameters for key in keys)]
    crashed, succeeded = (
        {tuple(each.parameters[key] for key in keys) for each in known if (each.status == "crash") == crash}
        for crash in (True, False)
    )
    return crashed - succeeded


def beaten(earlier: Sequence[Earlier], incumbent: float | None, direction: Direction) -> set[str]:
    """Return the digests of the candidates that were worse than the incumbent under the same fingerprint.

    Args:
        earlier: experiments on the scale of this session.
        incumbent: the metric of the incumbent; None if unknown.
    """
    sign = 1 if direction == "minimize" else -1
    return {
        each.digest
        for each in earlier
        if each.alike and each.metric is not None and incumbent is not None and sign * each.metric >= sign * incumbent
    }


def doubt(each: Earlier) -> float:
    """Return the noise variance of an earlier value, in units of that of a value of this session."""
    return SAME if each.alike else OTHER


def _changes(space: Space, parameters: Mapping[str, Value]) -> dict[str, Value]:
    """Return the values that differ from the incumbent's; empty if one of them is outside the space of this session.

    Constants that the space no longer has are ignored.
    """
    known = [(d, parameters[d.key]) for d in space.dimensions if d.key in parameters]
    if not all(_is_possible(dimension, value) for dimension, value in known):
        return {}
    return {dimension.key: value for dimension, value in known if value != dimension.value}


def _is_possible(dimension: Dimension, value: Value) -> bool:
    if dimension.kind in ("int", "power") and not isinstance(value, int):
        return False
    return dimension.fits(value)
