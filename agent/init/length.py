"""Find the constants that set how long training runs. Longer training is not a better recipe, so none is searched.

If there is one, the protocol says so, and the search leaves it alone. Which of several it is, only the user knows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.errors import UsageError
from agent.proposers.search.space import Dimension, space_of
from agent.source.training_budget import LEAST_STEPS, Known, TrainingLimits, counts_training

# Names of what may be such a length, or as well the iterations of a solver.
MAYBE = re.compile(r"(^|_)(EPOCHS?|STEPS|ITERS?|ITERATIONS?|UPDATES|ROUNDS?|EPISODES|TIMESTEPS)$")
PARTS = re.compile(r"WARM|COOL|DECAY|ANNEAL|RAMP|HALF|ACCUM|INNER|ROLLOUT|PER_|EVERY")
# Names that are as well those of a rollout, of n-step returns, or of the limit of a solver or an environment.
UNCLEAR = re.compile(r"^(MAX|NUM|N)_(STEPS|ITERS|ITERATIONS)$")


@dataclass(frozen=True)
class Length:
    """How long training runs, by the constants of the files that may change.

    Attributes:
        constant: its name and value, if exactly one constant certainly is the length.
        stop: stopCondition for it, as in protocol.json.
        searched: the keys of other constants that may be the length, and are searched.
    """

    constant: str = ""
    stop: Mapping[str, Any] | None = None
    searched: tuple[str, ...] = ()


def length_of(files: Mapping[str, str]) -> Length:
    """Return the length of training in the files that may change; without a constant if that is not certain."""
    try:
        dimensions = space_of(files, {}).dimensions
        left_out = {each.key for each in dimensions} - {
            each.key for each in space_of(files, Known({}, TrainingLimits(counted=True))).dimensions
        }
    except UsageError:  # a search comment is malformed, which is reported later, or the user wants to search a length
        return Length()
    maybe = [each for each in dimensions if MAYBE.search(each.name) and not PARTS.search(each.name)]
    certain = [each for each in dimensions if each.key in left_out and counts_training(each.name)]
    nothing_left = len(left_out) == len(dimensions)
    if len(certain) != 1 or UNCLEAR.search(certain[0].name) or not isinstance(certain[0].value, int) or nothing_left:
        return Length(searched=tuple(each.key for each in maybe))
    (one,) = certain
    others = tuple(each.key for each in maybe if each != one)
    return Length(f"{one.key} = {one.value}", _stop(one, dimensions), others)


def _stop(one: Dimension, dimensions: tuple[Dimension, ...]) -> dict[str, Any]:
    kind, field = ("epochs", "epochs") if "EPOCH" in one.name else ("max_steps", "maxSteps")
    # The search also leaves out constants that have the same large value, which may be widths.
    alone = int(one.value) < LEAST_STEPS or all(each == one or each.value != one.value for each in dimensions)
    return {"type": kind, **({field: one.value} if alone else {})}
