"""Combine the search with a model or agent that proposes a share of the experiments; each stands in for the other.

With a share of 1 only the model proposes, but the search still takes over while the model is unavailable.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from agent.errors import AutoresearchError, ExperimentError, fault
from agent.journal.experiment import Experiment, Proposal
from agent.proposers.base import Context, Exhausted, NoProposal, Proposer, Unavailable

SHARE = 0.3
# After this many experiments without a keep, the model proposes at least STUCK_SHARE of them.
STUCK_AFTER = 8
STUCK_SHARE = 0.5
FIRST_WAIT, LONGEST_WAIT = 2.0, 900.0  # seconds
MOST_UNUSABLE = 3  # answers without a usable proposal in a row
LONGEST_RETRY = 3600.0  # seconds; a server cannot ask for more
TICK_SECONDS = 0.2
Answer = TypeVar("Answer", bound=Proposal | None)


class HybridProposer:
    """A proposer that combines the search with a model or agent.

    Args:
        share: fraction of the experiments that the model proposes, 0 to 1.
        fallback_after: seconds to keep trying the model before the search takes over.
        announce: writes the events "waiting", "away", "back", "nothing" and "unmended" to the journal.
    """

    def __init__(
        self,
        name: str,
        search: Proposer,
        model: Proposer,
        *,
        share: float,
        fallback_after: float,
        announce: Callable[..., None],
    ) -> None:
        self.name = name
        self._search, self._model = search, model
        self._share, self._fallback_after, self._announce = share, fallback_after, announce
        self._failures = 0  # in a row
        self._unusable = 0  # in a row
        self._retry_at = 0.0  # on the monotonic clock
        self._unavailable = False
        self._final: int | None = None  # the experiment for which the model gave its final answer
        self._consulted: int | None = None  # the experiment for which it was asked ahead, in vain

    def tell(self, experiment: Experiment) -> None:
        self._search.tell(experiment)
        self._model.tell(experiment)

    def ask(self, context: Context) -> Proposal:
        """Return a candidate of the model or the search.

        Raises:
            Exhausted: the search has no new candidates left, and the model must not be asked again.
        """
        if self.consults(context):
            proposal = self._consult(context, self._fallback_after)
            if proposal is not None:
                return proposal
        try:
            return self.searched(context)
        except Exhausted as reason:
            return self._insist(context, reason)

    def repair(self, context: Context, error: str, attempt: int) -> Proposal | None:
        """Return the model's repair of its own candidate, or None if it is unavailable or gave no usable repair."""
        try:
            proposal = _consulted(
                lambda context: self._model.repair(context, error, attempt), context, self._model.name
            )
            return replace(proposal, proposer=self._model.name) if proposal else None
        except (Unavailable, NoProposal) as reason:
            self._announce("unmended", proposer=self._model.name, number=context.number, reason=str(reason))
            return None

    def instead(self, context: Context) -> Proposal | None:
        """Return a candidate of the search while the model is busy; None if only the model proposes.

        Raises:
            Exhausted: the search has no new candidates left.
        """
        return None if self._share >= 1 else self.searched(context)

    def searched(self, context: Context) -> Proposal:
        """Return a candidate of the search. Raises Exhausted if it has no new ones left."""
        return replace(self._search.ask(context), proposer=self._search.name)

    def may_insist(self, context: Context) -> bool:
        """Return whether the model may still have a proposal, now or later, if the search is exhausted."""
        return self._retry_at < float("inf") and self._final != context.number

    @property
    def is_away(self) -> bool:
        """Whether the model is unavailable, and is not to be asked yet."""
        return time.monotonic() < self._retry_at

    @property
    def consulted(self) -> str:
        """The name of the model or agent as a proposer."""
        return self._model.name

    def consults(self, context: Context) -> bool:
        """Return whether `ask` begins with the model: it is its turn, it may be asked, and was not asked ahead."""
        asked = self._consulted == context.number
        return not asked and self._models_turn(context) and not self.is_away

    def consult(self, context: Context) -> Proposal | None:
        """Ask the model ahead of time. Return None if it has no proposal: then `ask` does not begin with it."""
        proposal = self._consult(context, self._fallback_after)
        if proposal is None:
            self._consulted = context.number
        return proposal

    def _models_turn(self, context: Context) -> bool:
        if self._share >= 1:
            return True
        stuck = context.number - 1 - context.incumbent.number >= STUCK_AFTER
        share = max(self._share, STUCK_SHARE) if stuck and self._share > 0 else self._share
        return random.Random(f"consult:{context.seed}:{context.number}").random() < share

    def _insist(self, context: Context, reason: Exhausted) -> Proposal:
        """Wait for the model for as long as it may become available, because the search is exhausted."""
        while self.may_insist(context):
            self._wait(context, self._retry_at - time.monotonic())
            proposal = self._consult(context, 0.0)
            if proposal is not None:
                return proposal
        raise reason

    def _consult(self, context: Context, patience: float) -> Proposal | None:
        """Return the model's proposal, or None if it has none or is unavailable for `patience` seconds."""
        began = time.monotonic()
        while True:
            try:
                proposal = _consulted(self._model.ask, context, self._model.name)
            except NoProposal as unusable:
                self._set_available()
                # An earlier start has paused for these answers; now the model may be well.
                self._unusable += not unusable.replayed
                self._announce("nothing", proposer=self._model.name, number=context.number, reason=str(unusable))
                if unusable.final:
                    self._final = context.number
                if self._unusable >= MOST_UNUSABLE:
                    reason = f"no usable proposal {self._unusable} times in a row: {unusable}"
                    self._set_unavailable(reason, LONGEST_WAIT)
                return None
            except Unavailable as unavailable:
                self._failures += 1
                delay, lost = self._delay(unavailable), time.monotonic() - began
                if unavailable.lasting or lost + delay > patience:
                    # One that hangs would otherwise cost its whole timeout in each experiment.
                    self._set_unavailable(str(unavailable), max(delay, min(LONGEST_WAIT, lost)))
                    return None
                until = time.time() + delay
                self._announce("waiting", proposer=self._model.name, reason=str(unavailable), until=until)
                self._wait(context, delay)
                continue
            self._set_available()
            self._unusable = 0
            return replace(proposal, proposer=self._model.name)

    def _delay(self, unavailable: Unavailable) -> float:
        """Return the seconds until the next attempt: exponential backoff with jitter, or longer if the server asks."""
        if unavailable.for_good:
            return float("inf")
        if unavailable.lasting:
            return LONGEST_WAIT
        # Jitter keeps many loops from retrying at the same moment.
        own: float = FIRST_WAIT * 2 ** min(self._failures - 1, 20) * random.uniform(0.5, 1.5)
        asked = unavailable.retry_after
        wanted = asked if asked is not None and asked > 0 else 0.0
        return max(min(LONGEST_WAIT, own), min(LONGEST_RETRY, wanted))

    def _set_unavailable(self, reason: str, delay: float) -> None:
        self._retry_at = time.monotonic() + delay
        self._unavailable = True
        until = time.time() + delay if delay < float("inf") else None
        self._announce("away", proposer=self._model.name, reason=reason, until=until)

    def _set_available(self) -> None:
        self._failures = 0
        if self._unavailable:
            self._unavailable = False
            self._announce("back", proposer=self._model.name)

    def _wait(self, context: Context, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            context.workspace.tick()
            time.sleep(min(TICK_SECONDS, left))


def _consulted(ask: Callable[[Context], Answer], context: Context, name: str) -> Answer:
    """Return the answer of the model or agent, and turn its unexpected errors into Unavailable.

    Only the exceptions of `tick`, and errors whose type concerns the session, propagate and may end the session.
    """
    passing: list[BaseException] = []

    def tick() -> None:
        try:
            context.workspace.tick()
        except BaseException as error:
            passing.append(error)
            raise

    try:
        return ask(replace(context, workspace=replace(context.workspace, tick=tick)))
    except (Unavailable, NoProposal):
        raise
    except Exception as error:
        concerns_session = isinstance(error, AutoresearchError) and not isinstance(error, ExperimentError)
        if concerns_session or error in passing:
            raise
        raise Unavailable(f"{name} failed unexpectedly: {fault(error)}", lasting=True) from error
