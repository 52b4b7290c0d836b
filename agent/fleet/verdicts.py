"""What the verdicts across stations and the choice of the next run need to know, from the state of the session."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Collection, Sequence

from agent.decision.estimate import split
from agent.decision.levels import Records, aligned, records_of
from agent.decision.pooling import value_on_reference
from agent.decision.stations import Trial, Wants, judge_across
from agent.fleet.assign import InFlight, Task, View
from agent.journal.experiment import Experiment, Run, Verdict, by_station, succeeded
from agent.journal.flight import MOST_FAILED, Candidate, Lease
from agent.journal.state import State
from agent.proposers.base import Context, Flying
from agent.session.context import known_constants
from agent.session.session import Session
from agent.source.diff import changed, same_work
from agent.source.simplicity import leaner, repeats

ENOUGH = 1e9  # repetitions of a session that does not estimate the noise


class Verdicts:
    """The verdicts about the candidates in flight, each computed once for the same runs.

    Args:
        able: returns the stations that can measure now.
        slow: returns the runs that are not waited for.
    """

    def __init__(
        self, session: Session, able: Callable[[], Sequence[str]], slow: Callable[[], Collection[Lease]] = tuple
    ) -> None:
        self._session, self._able, self._slow = session, able, slow
        self._runs: object = None
        self._known: dict[int, Verdict | Wants] = {}

    @property
    def _state(self) -> State:
        return self._session.state

    def of(self, candidate: Candidate) -> Verdict | None:
        """Return the verdict about a candidate; None if it waits for runs."""
        found = self._judged(candidate)
        return found if isinstance(found, Verdict) else None

    def view(self, base: int, here: list[str], *, may_propose: bool) -> View:
        """Return what `next_task` needs to know about the candidates of one base.

        Args:
            base: the number of a kept experiment.
            here: the stations that take part.
            may_propose: whether a new candidate of this base may be proposed.
        """
        state, records = self._state, self._records(None)
        program = state.measured[base]
        heldout = by_station(succeeded(split(program)[0]))
        flights = [each for each in state.flight.candidates.values() if each.base == base and each.verdict is None]
        latest = base == (state.incumbent.number if state.incumbent else 0)
        counted = latest and self._session.decision.kind != "greedy"
        return View(
            stations={name: self._doing(name, base) for name in here},
            flights=[self._flight(each) for each in flights],
            measured={name: len(runs) for name, runs in heldout.items()},
            known=frozenset(records.levels.values),
            since={name: state.flight.stations[name].alone for name in here},
            repeated=sum(len(runs) - 1 for runs in records.repeated) if counted else ENOUGH,
            age=len(state.experiments) - 1 - base if latest else 0,
            may_propose=may_propose,
        )

    def doubts(self, name: str) -> bool:
        """Return whether the incumbent must run on a station next, since several programs in a row failed there."""
        known = self._state.flight.stations.get(name)
        return known is not None and known.gone is None and known.failed >= MOST_FAILED

    def bases(self) -> list[int]:
        """Return the bases of the candidates in flight, the oldest first."""
        return sorted({each.base for each in self._state.flight.candidates.values() if each.verdict is None})

    def context(self, context: Context) -> Context:
        """Return what the proposer may know, on the scale of one station, with the candidates in flight."""
        records = self._records(None)
        history = tuple(_secretive(each) for each in aligned(self._state.measured, records))
        flying = tuple(
            Flying(
                each.number,
                each.description,
                each.parameters,
                each.digest,
                each.files,
                value_on_reference(by_station(succeeded(each.runs)), records),
                each.playbook,
            )
            for each in self._state.flight.candidates.values()
        )
        return dataclasses.replace(context, history=history, incumbent=history[context.incumbent.number], flight=flying)

    def expected_seconds(self, name: str) -> float:
        """Return the expected duration of a run on a station: the median of its own, or an estimate for all."""
        own = [run.seconds for run in self._every_run() if run.station == name and run.metric is not None]
        return statistics.median(own) if own else self._session.runs.expected_seconds()

    def _every_run(self) -> list[Run]:
        state = self._state
        groups = [each.runs for each in state.experiments]
        groups += [each.runs for each in state.flight.candidates.values()]
        return [run for group in (*groups, *state.flight.kept.values()) for run in group]

    def _judged(self, candidate: Candidate) -> Verdict | Wants | None:
        """Return the verdict, or what it waits for; None before the first run."""
        if not candidate.runs:
            return None
        state = self._state
        flight = state.flight
        tried = {each.number: each.runs for each in flight.candidates.values() if each.runs}
        doubted = [*filter(self.doubts, flight.stations)]
        # Not their numbers: while one run comes in, a failed one may be dropped (`agent.journal.flight`).
        runs = (state.experiments, tried, flight.kept, doubted, tuple(self._able()))
        if runs != self._runs:
            self._runs = runs
            self._known.clear()
        if candidate.number not in self._known:
            found = judge_across(self._trial(candidate), self._records(candidate), self._session.decision)
            failed = [run.station for run in candidate.runs if run.metric is None]
            if isinstance(found, Verdict) and found.status == "crash" and failed and self.doubts(failed[0]):
                found = Wants(incumbent=frozenset(failed[:1]))
            self._known[candidate.number] = found
        return self._known[candidate.number]

    def _trial(self, candidate: Candidate) -> Trial:
        state, constants = self._state, known_constants(self._session.runner.protocol)
        base = state.measured[candidate.base]
        files, before = (self._session.runs.files(each.commit) for each in (candidate, base))
        heldout, selection = split(base)
        good = succeeded(candidate.runs)
        beside = [run for run in succeeded((*selection, *heldout)) if good and run.station == good[-1].station]
        simpler = None
        if self._session.decision.simplicity and good and beside:
            simpler = leaner(files, good[-1], before, beside[-1])
        return Trial(
            candidate.runs,
            heldout,
            selection,
            same_work=same_work(changed(before, files, constants)),
            leaner=simpler,
            repeat=repeats(files, before),
            age=len(state.experiments) - 1 - candidate.base,
            overtaken=state.incumbent is not None and candidate.base != state.incumbent.number,
            rebases=candidate.rebases,
        )

    def _records(self, but: Candidate | None) -> Records:
        """Return the records of the session without the runs of one candidate."""
        others = [each.runs for each in self._state.flight.candidates.values() if each is not but]
        direction = self._session.runner.protocol.metric.direction
        return records_of(self._state.measured, direction, others, tuple(self._able()))

    def _doing(self, name: str, base: int) -> Task | None:
        lease = next((each for each in self._state.flight.leases.values() if each.station == name), None)
        if lease is None:
            return None
        if lease.candidate is not None:
            return Task("candidate", lease.candidate)
        return Task("incumbent") if lease.of == base else Task("candidate")

    def _flight(self, candidate: Candidate) -> InFlight:
        slow = self._slow()
        leases = [each for each in self._state.flight.leases.values() if each not in slow]
        running = tuple(each.station for each in leases if each.candidate == candidate.number)
        found = self._judged(candidate)
        return InFlight(candidate.number, len(candidate.runs), running, found if isinstance(found, Wants) else None)


def _secretive(experiment: Experiment) -> Experiment:
    """Return an experiment without what no proposer may see: metrics on the holdout."""
    runs, heldout = (
        tuple(dataclasses.replace(run, holdout=None) for run in each)
        for each in (experiment.runs, experiment.heldout_runs)
    )
    return dataclasses.replace(experiment, runs=runs, heldout_runs=heldout)
