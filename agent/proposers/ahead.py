"""Make the next proposal while the experiment in progress is measured, so that the machine does not wait for a model.

A thread asks the model or agent. Its proposal is on disk before it is announced, and is used for the next experiment,
even if the loop was killed in between. If the incumbent has changed since, the change is merged onto the new one; if it
does not apply to that, it is thrown away. The search never works ahead: it is instant, and learns from every result.

The thread runs nothing of a candidate, because that would disturb the run in progress. Whether a proposal can be
imported is checked when it is used; if not, its author is asked to fix it. Stations, which would all wait for that,
measure it as it is: the crash is a row, of which its author learns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agent.errors import AutoresearchError, UsageError
from agent.execution.preflight import fault_of_sources
from agent.format import one_line
from agent.journal import proposals
from agent.journal.experiment import Experiment, Proposal
from agent.journal.journal import Journal
from agent.proposers.base import Context, Exhausted, as_repaired
from agent.proposers.hybrid import TICK_SECONDS, HybridProposer
from agent.proposers.luck import with_own_seed
from agent.proposers.search.space import tunable_parameters
from agent.proposers.validate import Seen
from agent.source.merging import carried_over

ENDING_SECONDS = 20.0  # for the thread to end, which kills the processes of an agent


class Unwanted(BaseException):
    """The session ends, so the proposal in progress is given up. Not an error that a proposer may handle."""


class Outdated(Exception):
    """A proposal no longer applies; the text says why."""


@dataclass
class Work:
    """A proposal that a thread is making.

    Attributes:
        unwanted: set to give the proposal up.
        error: what ended the thread and concerns the session.
    """

    unwanted: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    error: BaseException | None = None

    @property
    def going(self) -> bool:
        return self.thread is not None and self.thread.is_alive()


class AheadProposer:
    """A proposer whose model or agent makes the next proposal during the experiment in progress.

    Args:
        early: whether it begins during the experiment. Otherwise it only uses what an earlier start left.
    """

    # For what the search was exhausted, and why: it takes long to say, and the model is asked whoever's turn it is.
    _barren: tuple[tuple[int, int, int], Exhausted] | None = None

    def __init__(self, proposer: HybridProposer, journal: Journal, *, early: bool) -> None:
        self.name = proposer.name
        self._proposer, self._journal, self.early = proposer, journal, early
        self._work: Work | None = None
        self._seen = Seen()

    def tell(self, experiment: Experiment) -> None:
        self._proposer.tell(experiment)

    def ask(self, context: Context) -> Proposal:
        """Return the proposal that was made ahead if there is one that applies, or else a new one.

        Raises:
            Exhausted: as the proposer does.
        """
        self._await(context.workspace.tick)
        return self._made_ahead(context) or self._proposer.ask(context)

    def repair(self, context: Context, error: str, attempt: int) -> Proposal | None:
        self._await(context.workspace.tick)  # the model answers one question at a time
        return self._proposer.repair(context, error, attempt)

    def at_once(self, context: Context) -> Proposal | None:
        """Return a proposal that needs no model now: one that was made ahead, or else the search's.

        If it returns None, only the model may have one. Call it again: it begins to ask the model once it may.

        Raises:
            Exhausted: neither has a new proposal, or will have one.
        """
        if not self.is_working:
            made = self._made_ahead(context, fixes=False)
            if made is not None or self.wants(context):
                return made
        try:
            if self._barren is not None and self._barren[0] == _asked(context):
                raise self._barren[1]
            return self._proposer.instead(context) if self.is_working else self._proposer.searched(context)
        except Exhausted as reason:
            self._barren = _asked(context), reason
            if not self.is_working and not self._proposer.may_insist(context):
                raise
            return None

    def wants(self, context: Context) -> bool:
        """Return whether the proposal for `context` can be made ahead: it is the model's, and there is none yet."""
        if not self.early or self._work is not None or self._journal.state.prepared is not None:
            return False
        barren = self._barren is not None and self._barren[0] == _asked(context)
        insists = barren and self._proposer.may_insist(context) and not self._proposer.is_away
        return insists or self._proposer.consults(context)

    @property
    def is_working(self) -> bool:
        """Whether a proposal is being made now."""
        return self._work is not None and self._work.going

    def reap(self) -> None:
        """Forget a thread that has ended, so that another proposal can be made.

        Raises:
            BaseException: what ended it and concerns the session.
        """
        if self._work is not None and not self._work.going:
            self._await(lambda: None)

    def begin(self, context: Context) -> None:
        """Begin to make the proposal for `context` in a thread, whose `tick` must call `require_wanted`."""
        self._journal.append(
            "preparing",
            number=context.number,
            base=context.incumbent.commit,
            proposer=self._proposer.consulted,
        )
        work = self._work = Work()
        context = replace(context, workspace=replace(context.workspace, check=fault_of_sources))
        # A daemon: it never keeps the program alive.
        work.thread = threading.Thread(target=self._make, args=(context, work), name="ahead", daemon=True)
        work.thread.start()

    def require_wanted(self) -> None:
        """Raise Unwanted if the proposal in progress is given up."""
        if self._work is not None and self._work.unwanted.is_set():
            raise Unwanted

    def give_up(self) -> None:
        """Give the proposal in progress up, and end the processes of its agent."""
        work = self._work
        if work is not None and work.thread is not None:
            work.unwanted.set()
            work.thread.join(ENDING_SECONDS)
            self._work = None if not work.going else work

    def _make(self, context: Context, work: Work) -> None:
        """Make a proposal, save it, and announce it. Runs in the thread."""
        try:
            proposal = self._proposer.consult(context)
            if proposal is not None:
                proposals.write(self._journal.path, context.number, "ahead", proposal)
                self._journal.append(
                    "prepared",
                    number=context.number,
                    base=context.incumbent.commit,
                    proposer=proposal.proposer,
                    description=one_line(proposal.description),
                )
        except Unwanted:
            pass
        except BaseException as error:  # the loop raises it
            work.error = error

    def _await(self, tick: Callable[[], None]) -> None:
        """Wait for the proposal in progress.

        Raises:
            BaseException: what `tick` raises, or what ended the thread.
        """
        work = self._work
        if work is None or work.thread is None:
            return
        while work.going:
            tick()
            work.thread.join(TICK_SECONDS)
        self._work = None
        if work.error is not None:
            raise work.error

    def _made_ahead(self, context: Context, *, fixes: bool = True) -> Proposal | None:
        """Return the proposal that was made ahead, or None if there is none that applies.

        Args:
            fixes: check that it can be imported, and ask its author to fix it if not, which may take minutes.
        """
        said = self._journal.state.prepared
        if said is None:
            return None
        try:
            proposal = _read(self._journal, said["number"])
            return self._fitted(replace(proposal, proposer=said["proposer"]), said, context, fixes=fixes)
        except (Outdated, UsageError) as reason:
            self._journal.append("outdated", number=said["number"], reason=str(reason))
            return None

    def _fitted(self, proposal: Proposal, said: Mapping[str, Any], context: Context, *, fixes: bool) -> Proposal:
        """Return the proposal as a change of the incumbent.

        Raises:
            Outdated: it does not apply to it, is nothing new any more, or its author could not fix it.
            UsageError: a search comment of it is malformed.
        """
        files, more = proposal.files, ""
        if said["base"] != context.incumbent.commit:
            base = next((each for each in context.history if each.commit == said["base"]), None)
            if base is None:
                raise Outdated(f"the commit {said['base'][:12]} that it changes is not one of the session")
            files = _rebased(files, base, context)
            more = f" (made on #{base.number}, merged onto #{context.incumbent.number})"
        proposal = with_own_seed(replace(proposal, files=files), context)
        description, whole = proposal.description, {**context.files, **proposal.files}
        if same := self._seen.earlier(whole, context):
            raise Outdated(f"it is the same program as {same}")
        if fixes and (fault := context.workspace.check(whole)):
            whole |= self._fixed(whole, fault, context)
            description = as_repaired(description)
        return replace(
            proposal,
            description=description,
            files={path: text for path, text in whole.items() if text != context.files.get(path)},
            reasoning=f"{proposal.reasoning}{more}".strip(),
            parameters=tunable_parameters(whole, context.constants),
        )

    def _fixed(self, files: Mapping[str, str], fault: str, context: Context) -> Mapping[str, str]:
        """Return the files that its author changes to fix a fault.

        Raises:
            Outdated: it could not.
        """
        fixed = self._proposer.repair(replace(context, files=files), fault, 0)
        if fixed is None:
            raise Outdated(fault)
        return fixed.files


def _asked(context: Context) -> tuple[int, int, int]:
    """Return the numbers of the proposal, of experiments and of candidates in flight."""
    return context.number, len(context.history), len(context.flight)


def _read(journal: Journal, number: int) -> Proposal:
    try:
        return proposals.read(journal.path, number, "ahead")
    except AutoresearchError as damage:
        raise Outdated(str(damage)) from None


def _rebased(files: Mapping[str, str], base: Experiment, context: Context) -> dict[str, str]:
    """Return the files of a change of `base` as a change of the incumbent, without those that it has already.

    Raises:
        Outdated: both changed the same thing.
    """
    before = {path: text for path, text in context.workspace.texts(base).items() if path in files}
    found, conflicts = carried_over((context.files, before, files), context.constants, context.workspace.merge)
    if conflicts:
        raise Outdated(f"its change of {conflicts[0]} conflicts with that of #{context.incumbent.number}")
    return found
