"""Propose values of the constants: first steps by rules of thumb, then by the expected improvement of a model.

The search stores nothing: its proposals depend only on the seed, the number of the experiment, the history, the
experiments of other sessions that this one learns from, and the playbook.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from agent.errors import AutoresearchError, fault
from agent.journal.experiment import Experiment, Proposal, Value, digest
from agent.proposers.base import Context, Exhausted
from agent.proposers.earlier import Earlier
from agent.proposers.search import near_misses, transfer, turns
from agent.proposers.search.alignment import aligned, completed, renamed
from agent.proposers.search.candidates import draw_candidates, groups, point, points
from agent.proposers.search.space import NAME_CONSTANTS, Space, space_of, why_nothing
from agent.proposers.search.steps import steps
from agent.proposers.search.threads import one_thread
from agent.proposers.search.training_set import FEWEST, measured, measured_in_flight, pending_points, targets, value_of
from agent.proposers.search.untried import untried
from agent.source.seed import moved_seeds

if TYPE_CHECKING:
    from agent.proposers.search.gaussian_process import GaussianProcess

# The model takes over after FIRST_STEPS experiments, if it has at least FEWEST values to learn from.
FIRST_STEPS = 8
# Candidates that the model compares, and how many of the best are checked for being new and valid.
POOL, SHORTLIST = 400, 40
# After PATIENCE experiments without a keep, the model's steps shrink by this factor with each further experiment. They
# do not become shorter than SHORTEST: the effect of a tiny step is lost in the noise.
PATIENCE, SHRINK, SHORTEST = 4, 0.93, 0.3


class SearchProposer:
    """The built-in search; see the module docstring."""

    name = "search"

    def tell(self, experiment: Experiment) -> None:
        """Do nothing: each `ask` comes with the history."""

    def repair(self, context: Context, error: str, attempt: int) -> Proposal | None:  # noqa: ARG002
        """Return None: the search learns from values that crash instead of repairing them."""
        return None

    def ask(self, context: Context) -> Proposal:
        """Return a candidate with other values of the constants.

        Raises:
            Exhausted: no constant can be searched, everything drawn was tried before, or the search itself failed, so
                that a model proposes, or the session ends with a reason.
        """
        try:
            return self._ask(context)
        except (Exhausted, AutoresearchError):
            raise
        except Exception as error:
            raise Exhausted(f"the search failed unexpectedly: {fault(error)}") from error

    def _ask(self, context: Context) -> Proposal:
        newest = {each.digest: each for each in context.history}
        seen = {each.digest for each in newest.values() if not each.is_open} | {each.digest for each in context.flight}
        for proposal in near_misses.proposals(context):
            if _measured_as(proposal.files, context) not in seen:
                return proposal
        space = space_of(context.files, context.constants)
        if (nothing := why_nothing(context.files, context.constants)) is not None:
            raise Exhausted(f"{nothing}; {NAME_CONSTANTS}")
        context = _aligned(space, context)
        rng = random.Random(f"{context.seed}:{context.number}")
        earlier = transfer.on_this_scale(context.earlier, context.history)
        seen |= transfer.beaten(earlier, value_of(context.incumbent), context.direction)
        failed = transfer.failed(space, earlier)
        for values, why in chain(
            _kept_elsewhere(space, context, earlier),
            turns.of_playbook(space, context),
            _until_it_fails(_expected(space, context, earlier, rng)),
            steps(space, context, rng),
        ):
            texts, whole = space.apply(values), {**space.values(), **values}
            if tuple(whole[dimension.key] for dimension in space.dimensions) in failed:
                continue
            # A space has no seeds: `_measured_as` would parse each text in vain.
            if texts and digest({**context.files, **texts}) not in seen and not space.refuses(values):
                return Proposal(texts, _describe(space, values), why, whole, playbook=turns.title_of(why))
        raise Exhausted("the search found no new candidate; widen the ranges, or start another session with --tag")


def _measured_as(texts: Mapping[str, str], context: Context) -> str:
    whole = {**context.files, **texts}
    return digest({**whole, **moved_seeds(context.files, whole, context.constants)})


def _aligned(space: Space, context: Context) -> Context:
    """Return the context with the constants of its experiments by the keys of the space."""
    keys = [dimension.key for dimension in space.dimensions]
    return replace(
        context,
        history=aligned(space, context.history),
        flight=tuple(replace(each, parameters=renamed(keys, each.parameters)) for each in context.flight),
        earlier=tuple(
            replace(
                each,
                parameters=renamed(keys, each.parameters),
                reduced=renamed(keys, each.reduced) if each.reduced else each.reduced,
            )
            for each in context.earlier
        ),
    )


def _kept_elsewhere(
    space: Space, context: Context, earlier: Sequence[Earlier]
) -> Iterator[tuple[dict[str, Value], str]]:
    """Yield the best candidates of other sessions that are better than the incumbent, each once, with a reason."""
    known = [each.parameters for each in context.history] + [each.parameters for each in context.flight]
    tried = [{d.key: parameters.get(d.key) for d in space.dimensions} for parameters in known]
    for values, each in transfer.wins(space, earlier, value_of(context.incumbent), context.direction):
        if {**space.values(), **values} not in tried:
            without = "" if each.reduced is None else ", without what was taken out of it"
            yield values, f"#{each.number} of session {each.tag}, its best{without}"


def _expected(
    space: Space, context: Context, earlier: Sequence[Earlier], rng: random.Random
) -> Iterator[tuple[dict[str, Value], str]]:
    """Yield what was never tried, then changes of the incumbent, by expected improvement, best first, with a reason."""
    if context.number + len(earlier) <= FIRST_STEPS:
        return
    import numpy as np

    from agent.proposers.search.gaussian_process import improvement

    found = _model(space, context, earlier)
    if found is None:
        return
    model, best, count = found
    known_by = f"by a model of {count} experiments"
    fruitless = context.number - len(context.flight) - context.incumbent.number - PATIENCE
    reach = max(SHORTEST, SHRINK ** max(0, fruitless))
    # About one of several stations takes them: many at once would all be steps from the same incumbent. Numbers that 4
    # divides are left to near misses.
    turn = (context.number - 1) % max(1, len(context.flight)) == 0
    for candidates, why in (
        (untried(space, context, earlier, rng) if turn else [], f"best direction of those never tried, {known_by}"),
        (draw_candidates(space, rng, POOL, reach), f"best expected improvement {known_by}"),
    ):
        expected = improvement(model, points(space, candidates), best)
        for index in np.argsort(-expected, kind="stable")[:SHORTLIST]:
            yield candidates[index], why


@one_thread()
def _model(space: Space, context: Context, earlier: Sequence[Earlier]) -> tuple[GaussianProcess, float, str] | None:
    """Return the model, its value of the best candidate of this session, and of how many experiments it is.

    Returns:
        None if there are too few values to learn from.
    """
    import numpy as np

    from agent.proposers.search.gaussian_process import fit

    rows, values = measured(space, context.history, context.direction)
    for parameters, value in measured_in_flight(context):
        with contextlib.suppress(KeyError, TypeError):  # it lacks a constant of the current space
            rows.append(point(space, parameters))
            values.append(value)
    own = len(values)
    doubts = [1.0] * own
    for each in completed(space, earlier, context.history):
        with contextlib.suppress(KeyError, TypeError):  # it lacks a constant of the current space
            rows.append(point(space, each.parameters))
            values.append(each.metric if each.metric is None or context.direction == "minimize" else -each.metric)
            doubts.append(transfer.doubt(each))
    if sum(value is not None for value in values) < FEWEST:
        return None
    known = np.array(rows)
    model = fit(known, np.array(targets(values)), groups(space), np.array(doubts))
    # The best of this session: that of another one is proposed before this, and may be worse here.
    here = [value is not None and index < own for index, value in enumerate(values)]
    best = float(model.predict(known)[0][here].min())
    count = f"{own} and {len(values) - own} earlier" if len(values) > own else f"{own}"
    return model.pending(np.array(pending_points(space, context))), best, count


def _until_it_fails(candidates: Iterator[tuple[dict[str, Value], str]]) -> Iterator[tuple[dict[str, Value], str]]:
    """Yield candidates until the model fails: odd measurements must not end the search, which continues without it."""
    with contextlib.suppress(
        ArithmeticError, ValueError, LookupError, TypeError, MemoryError
    ):  # LinAlgError is a ValueError
        yield from candidates


def _describe(space: Space, values: Mapping[str, Value]) -> str:
    """Describe the changes, at most three of them: `MATRIX_LR 0.04 -> 0.028`."""
    changes = [
        f"{space.label(d)} {_show(d.value)} -> {_show(values[d.key])}"
        for d in space.dimensions
        if d.key in values and values[d.key] != d.value
    ]
    return ", ".join(changes[:3]) + (f", +{len(changes) - 3} more" if len(changes) > 3 else "")


def _show(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
