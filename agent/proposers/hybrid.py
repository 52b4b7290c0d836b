"""The search proposes, and on a share of the experiments a model or agent does; each takes over where the other cannot.

With a share of 1 it is the model alone, and the search still saves the night when the model cannot be had.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from agent.errors import AutoresearchError, ExperimentError, fault
from agent.journal.experiment import Experiment, Proposal
from agent.proposers.base import Context, Exhausted, NoProposal, Proposer, Unavailable

SHARE = 0.3
# With nothing kept for this long the model has every other turn at least.
STUCK_AFTER = 8
STUCK_SHARE = 0.5
FIRST_WAIT, LONGEST_WAIT = 2.0, 900.0  # seconds
MOST_NOTHINGS = 3
LONGEST_RETRY = 3600.0  # seconds, of what a server asks for
TICK_SECONDS = 0.2


class Consulted(Protocol):
    """What can be away: a model, or a coding agent."""

    name: str

    def ask(self, context: Context) -> Proposal:
        """Raises Unavailable and NoProposal."""
        ...

    def tell(self, experiment: Experiment) -> None: ...

    def repair(self, context: Context, error: str, attempt: int) -> Proposal:
        """Raises Unavailable and NoProposal."""
        ...


class HybridProposer:
    """share: of the experiments that the model proposes. fallback_after: seconds of trying until the search takes over.

    announce: journals "waiting", "away", "back", "nothing" and "unmended" with their details.
    """

    def __init__(
        self,
        name: str,
        search: Proposer,
        model: Consulted,
        *,
        share: float,
        fallback_after: float,
        announce: Callable[..., None],
    ) -> None:
        self.name = name
        self._search, self._model = search, model
        self._share, self._fallback_after, self._announce = share, fallback_after, announce
        self._failures = 0  # in a row
        self._nothings = 0
        self._retry_at = 0.0  # on the monotonic clock
        self._away = False
        self._over: int | None = None  # the experiment for which the model has nothing more

    def tell(self, experiment: Experiment) -> None:
        self._search.tell(experiment)
        self._model.tell(experiment)

    def ask(self, context: Context) -> Proposal:
        """Raises Exhausted where the search has nothing new and the model is not to be asked again."""
        if self._models_turn(context) and time.monotonic() >= self._retry_at:
            proposal = self._consult(context, self._fallback_after)
            if proposal is not None:
                return proposal
        try:
            return replace(self._search.ask(context), proposer=self._search.name)
        except Exhausted as reason:
            return self._insist(context, reason)

    def repair(self, context: Context, error: str, attempt: int) -> Proposal | None:
        """The model's repair of its own candidate; None where it has none now."""
        try:
            proposal = _consulted(
                lambda context: self._model.repair(context, error, attempt), context, self._model.name
            )
            return replace(proposal, proposer=self._model.name)
        except (Unavailable, NoProposal) as reason:
            self._announce("unmended", proposer=self._model.name, number=context.number, reason=str(reason))
            return None

    def _models_turn(self, context: Context) -> bool:
        if self._share >= 1:
            return True
        stuck = context.number - 1 - context.incumbent.number >= STUCK_AFTER
        share = max(self._share, STUCK_SHARE) if stuck and self._share > 0 else self._share
        return random.Random(f"consult:{context.seed}:{context.number}").random() < share

    def _insist(self, context: Context, reason: Exhausted) -> Proposal:
        """The search has nothing: wait for the model, as long as it may come back."""
        while self._retry_at < float("inf") and self._over != context.number:
            self._wait(context, self._retry_at - time.monotonic())
            proposal = self._consult(context, 0.0)
            if proposal is not None:
                return proposal
        raise reason

    def _consult(self, context: Context, patience: float) -> Proposal | None:
        """The model's proposal; None where it has none, or cannot be had within `patience` seconds."""
        began = time.monotonic()
        while True:
            try:
                proposal = _consulted(self._model.ask, context, self._model.name)
            except NoProposal as nothing:
                self._come_back()
                self._nothings += 1
                self._announce("nothing", proposer=self._model.name, number=context.number, reason=str(nothing))
                if nothing.final:
                    self._over = context.number
                if self._nothings >= MOST_NOTHINGS:
                    self._leave(f"{self._nothings} times in a row it gave nothing: {nothing}", LONGEST_WAIT)
                return None
            except Unavailable as away:
                self._failures += 1
                delay = self._delay(away)
                if away.lasting or time.monotonic() - began + delay > patience:
                    self._leave(str(away), delay)
                    return None
                until = time.time() + delay
                self._announce("waiting", proposer=self._model.name, reason=str(away), until=until)
                self._wait(context, delay)
                continue
            self._come_back()
            self._nothings = 0
            return replace(proposal, proposer=self._model.name)

    def _delay(self, away: Unavailable) -> float:
        """What the server asks for, or twice as long each time, with jitter: many loops must not come at once."""
        if away.for_good:
            return float("inf")
        if away.lasting:
            return LONGEST_WAIT
        own: float = FIRST_WAIT * 2 ** min(self._failures - 1, 20) * random.uniform(0.5, 1.5)
        wanted = away.retry_after if away.retry_after is not None and away.retry_after > 0 else 0.0
        return max(min(LONGEST_WAIT, own), min(LONGEST_RETRY, wanted))

    def _leave(self, reason: str, delay: float) -> None:
        self._retry_at = time.monotonic() + delay
        self._away = True
        until = time.time() + delay if delay < float("inf") else None
        self._announce("away", proposer=self._model.name, reason=reason, until=until)

    def _come_back(self) -> None:
        self._failures = 0
        if self._away:
            self._away = False
            self._announce("back", proposer=self._model.name)

    def _wait(self, context: Context, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            context.workspace.tick()
            time.sleep(min(TICK_SECONDS, left))


def _consulted(ask: Callable[[Context], Proposal], context: Context, name: str) -> Proposal:
    """What the model or the agent gives. Whatever goes wrong with it is an absence and never the session's end.

    Only what `tick` raises passes, and errors that concern the session: they say so by their kind.
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
        raise Unavailable(f"{name} failed in a way that nobody expected: {fault(error)}", lasting=True) from error
