"""The steps of a session with stations. Stations measure at the same time; everything else happens here, in one thread.

A station never waits for another, and the end of a session for none that does not begin its run. Each answer may
complete a verdict, and each verdict becomes a row at once, so rows are in order of verdict. Every step is journaled
before it takes effect, as in a session of one machine.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from agent.decision.decide import require_limits
from agent.decision.stations import PROMISE
from agent.errors import AutoresearchError
from agent.execution.process import UNKILLABLE
from agent.fleet import candidates
from agent.fleet.assign import Task, next_task
from agent.fleet.cluster import BROKEN, Cluster, Loss, StationInfo
from agent.fleet.facts import changed_facts, facts_of
from agent.fleet.health import ABSENT_SECONDS, Health, Patience
from agent.fleet.ordering import Orders
from agent.fleet.verdicts import Verdicts
from agent.format import counted
from agent.journal.experiment import Experiment, Verdict, succeeded
from agent.journal.flight import BASELINE, Candidate, Flight, Lease
from agent.journal.state import State
from agent.proposers.base import Exhausted
from agent.proposers.luck import with_own_seed
from agent.session.session import Session
from agent.station.orders import Answer
from agent.station.state import Stage, Unsaid
from agent.system.files import write_whole

TICK_SECONDS = 0.2
POLL_SECONDS, LOSS_PAUSE = 1.0, 3.0
MOST_FAULTS = 2  # faults of GPUs that end runs of a candidate before they are its own
MOST_UNHEARD = 10  # times that a station which is there says nothing of a run, before that is lost
NOT_BEGUN = "it has not begun its run"
DECIDED = "it has its verdict"
LATE = "its station did not answer in time"
DAMAGED = "its clone of the repository is damaged"
MOST_LOST = 10  # stations that died or left during runs of one candidate, after which it is given up


class Fleet:
    """A session whose runs are made by stations.

    Args:
        session: has the journal, git and the proposer.
        connect: connects to the scheduler, which carries orders to stations.
        orders: makes the orders.
    """

    def __init__(self, session: Session, connect: Callable[[], Cluster], orders: Orders) -> None:
        self.session, self._connect, self._orders = session, connect, orders
        self._cluster = self._join()
        self.health = Health(session, self._say_once)
        self._patience = Patience(session, self._stage, prepares=orders.prepares)
        self._verdicts = Verdicts(session, self.able, self._patience.slow)
        self._began = self._polled = time.monotonic()
        self._adopted: set[str] = set()  # leases of an earlier start, of which no answer comes by itself
        self._unheard = Counter[str]()  # how often their stations were asked and said nothing
        self._lacked: set[str] = set()  # leases whose stations lacked commits and were sent all of them
        self._cut_off: float | None = None  # when the scheduler was found to be gone, by the monotonic clock
        self._stopping: str | None = None
        self._exhausted: tuple[int, str] | None = None  # experiments when the proposer had nothing new, and why
        self._told: set[str] = set()

    @property
    def _state(self) -> State:
        return self.session.state

    @property
    def _flight(self) -> Flight:
        return self.session.state.flight

    @property
    def _incumbent(self) -> Experiment:
        assert self._state.incumbent is not None
        return self._state.incumbent

    # The steps

    def recover(self) -> None:
        """Create or resume the session, and take what stations have finished meanwhile."""
        self.session.recover()
        self._orders.begin()
        self._adopted = {*self._flight.leases}
        self.health.begin()
        if self._state.experiments:
            require_limits(self.session.decision, self._incumbent.runs)
        for name in self._flight.stations:
            if self._flight.stations[name].gone is None:
                self.session.journal.append("left", station=name, reason="an earlier start of the session ended")
        self._withdraw_decided()
        pending = self._state.pending
        if pending is not None and pending.candidate == BASELINE:
            candidates.record_baseline(self.session)
        elif pending is not None:
            self._finish()
        self.meet()

    def should_stop(self) -> bool:
        """Return whether the session ends now, and journal the reason.

        Once there is a reason, nothing new is proposed, and the candidates in flight get their verdicts, after a merge
        too; before the baseline is recorded, it is. Without a station they wait for the next start, and so they do with
        one that does not begin its run: only a run that has begun has a hard limit.
        """
        self.session.interrupts.raise_if_immediate()
        self._stopping = self._stopping or self.session.reason_to_stop()
        for lease in self._patience.slow(ends=True) if self._stopping else ():
            self._withdraw(lease, NOT_BEGUN)
            self.health.give_up(lease.station, NOT_BEGUN)
            self._say_once(f"{lease.station} takes no part any more: {NOT_BEGUN}, and the session is to end")
        reason, left = self._stopping or self._why_nothing_comes(), len(self._flight.candidates)
        if reason is None:
            self.health.require_fit()
        if reason is None or ((left or not self._state.experiments) and not self.is_alone):
            return False
        here = self.health.here() if self._cluster.connected else ()
        for lease in [each for each in self._flight.leases.values() if each.station in here]:  # others may come back
            if lease.label is None or not self.session.owes_confirmation():  # else it goes on with them
                self._withdraw(lease, "the session ended")
        self.session.end(f"{reason}; {counted(left, 'candidate')} not decided without a station" if left else reason)
        return True

    @property
    def is_alone(self) -> bool:
        """Whether no station can measure, or the scheduler is gone, and neither is waited for at the end."""
        cut_off = self._cut_off is not None and not self._cluster.connected
        late = cut_off and time.monotonic() - (self._cut_off or 0.0) > ABSENT_SECONDS
        return self.health.is_alone or late or (cut_off and self.session.interrupts.finishing)

    def end_runs(self, reason: str, *, needed: bool = True) -> None:
        """End all runs on stations, together: a person waits, and some may be silent.

        What nobody could be asked to end goes on, and the next start takes its answer if it is still needed.
        """
        leases = [*self._flight.leases.values()]
        asked = self._cluster.end(self._orders.session, {lease.lease: lease.station for lease in leases})
        for lease in leases:
            if lease.lease in asked or not needed:
                self._note_withdrawn(lease, reason)

    def assign(self) -> None:
        """Give each idle station its next run."""
        for name in self.idle():
            found = self._next(name)
            if found is None:
                continue
            task, base = found
            if task.kind == "candidate":
                self.lease(name, self._flight.candidates[task.candidate].commit, candidate=task.candidate)
            else:
                self.lease(name, self._orders.commit_of(base), of=base, rebase=task.rebase)

    def receive(self) -> None:
        """Wait for an answer for a moment, and take all that are there."""
        self.session.interrupts.raise_if_immediate()
        wait = TICK_SECONDS
        while (heard := self._cluster.next_answer(wait)) is not None:
            wait = 0.0
            if isinstance(heard, Loss):
                self._take_loss(heard)
            else:
                self._take(heard)
        if time.monotonic() - self._polled >= POLL_SECONDS:
            self._polled = time.monotonic()
            self.meet()
            self._lose_late()

    def decide(self) -> bool:
        """Record the baseline, or one candidate whose verdict is ready. Return whether there was one."""
        if not self._state.experiments:
            return self._decide_baseline()
        # One that was decided before a kill comes first: its verdict is about the incumbent of that time.
        for candidate in sorted(self._flight.candidates.values(), key=lambda each: each.verdict is None):
            verdict = candidate.verdict or self._verdict(candidate)
            if verdict is None:
                continue
            if candidate.verdict is None:
                about = {"candidate": candidate.number, **dataclasses.asdict(verdict)}
                self.session.journal.append("decided", **about)
            self._withdraw_decided()
            self._finish()
            return True
        return False

    # Stations

    def meet(self) -> None:
        """Note which stations have come and gone, and ask those of an earlier start for what they finished."""
        if not self._cluster.connected and not self._reconnect():
            return
        journal, known = self.session.journal, self._flight.stations
        here = {name: each for name, each in self._cluster.stations().items() if self._is_usable(each)}
        for name, each in here.items():
            if name not in known or known[name].gone is not None:
                self._orders.forget(name)
                journal.append("joined", station=name, facts=facts_of(each))
        for name, station in known.items():
            if station.gone is None and name not in here:
                journal.append("left", station=name, reason="it is not connected any more")
                for lease in [each for each in self._flight.leases.values() if each.station == name]:
                    if lease.lease not in self._adopted:
                        self._lose(lease, "its station is gone", died=True)
        self.health.look()
        if not here:
            self._say_once("waiting for a station to join")
        self._adopted &= {*self._flight.leases}
        if self._adopted:
            self._collect(here)

    def _is_usable(self, station: StationInfo) -> bool:
        """Return whether a station can take part: its program is the same, and its machine is what it was."""
        known, why = self._flight.stations.get(station.name), station.fault
        if known is not None and not why and (differing := changed_facts(known.facts, facts_of(station))):
            why = f"has changed ({differing}), so its earlier runs are no longer comparable: give it another --name"
        if why:
            self._say_once(f"{station.name} takes no part: it {why}")
        return not why

    def _join(self) -> Cluster:
        cluster = self._connect()
        cluster.tick = self.session.interrupts.raise_if_immediate
        return cluster

    def _reconnect(self) -> bool:
        """Connect anew, and return whether that succeeded. The stations went on meanwhile, and keep their answers."""
        try:
            cluster = self._join()
        except AutoresearchError as error:
            self._cut_off = self._cut_off or time.monotonic()
            self._say_once(f"the scheduler is gone; trying again until it is back ({error})")
            return False
        self._cluster.close()
        self._cluster, self._began, self._cut_off = cluster, time.monotonic(), None
        self._adopted = {*self._flight.leases}
        self._patience.restart()
        self._told.clear()
        self.session.journal.show("note", text="connected to the scheduler again")
        return True

    def _collect(self, here: Collection[str]) -> None:
        """Take what stations finished while nobody was connected. What no station has is lost."""
        late = time.monotonic() - self._began > ABSENT_SECONDS
        found = self._cluster.collect(self._orders.session, sorted(self._adopted))
        for lease in [self._flight.leases[each] for each in self._adopted]:
            if lease.station not in found:
                self._unheard[lease.lease] += lease.station in here
                if late and lease.station not in here:
                    self._lose(lease, "its station did not come back")
                elif late and self._unheard[lease.lease] >= MOST_UNHEARD:
                    self._lose(lease, "its station does not say what it has")
                continue
            kept = found[lease.station]
            if (answer := kept["finished"].get(lease.lease)) is not None:
                self._take(answer)
            elif lease.lease not in kept["running"]:
                self._lose(lease, "the session was interrupted before it was measured")

    def able(self) -> list[str]:
        """Return the stations that can measure now, without those that are slow to begin, unless all are."""
        able, slow = self.health.able(), self._slow()
        return [name for name in able if name not in slow] or able

    def _slow(self) -> set[str]:
        return {lease.station for lease in self._patience.slow()}

    def _stage(self, lease: Lease) -> Stage | Unsaid:
        return self._cluster.stage(self._orders.session, lease.lease, lease.station)

    def _lose_late(self) -> None:
        """Give up the runs of stations that are connected and hang."""
        if not self._cluster.connected:  # nobody could answer
            return
        self._patience.look()
        self._withdraw_decided()
        for lease in self._patience.late() if self._cluster.connected else ():
            self._cluster.cancel(self._orders.session, lease.lease, lease.station)
            self._lose(lease, LATE)
            self.health.failed(lease.station, LATE)

    def _say_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.session.journal.show("note", text=text)

    def idle(self) -> list[str]:
        """Return the stations that could run something now."""
        busy = {lease.station for lease in self._flight.leases.values()}
        return [name for name in self.health.fit() if name not in busy and self.health.may_try(name)]

    # Runs

    def _next(self, name: str) -> tuple[Task, int] | None:
        """Return what a station runs next, and the base that it is about; None for nothing."""
        state, slow = self._state, self._slow()
        here = [each for each in self.health.fit() if each not in slow]
        if not state.experiments:
            return Task("incumbent"), BASELINE
        incumbent = self._incumbent.number
        if self._verdicts.doubts(name):
            return Task("incumbent"), incumbent
        latest = self._verdicts.view(incumbent, here, may_propose=self._may_propose())
        for base in [each for each in self._verdicts.bases() if each != incumbent]:
            view = self._verdicts.view(base, here, may_propose=False)
            begun = name in view.known or latest.measured.get(name)
            if begun and (task := next_task(name, view)) is not None:
                return task, base
        task = next_task(name, latest)
        if task is None or task.kind != "propose":
            return None if task is None else (task, incumbent)
        try:
            proposed = self._propose()
        except Exhausted as reason:
            self._exhausted = len(state.experiments), str(reason)
            return None
        return None if proposed is None else (Task("candidate", proposed.number), incumbent)

    def _may_propose(self) -> bool:
        return not self._stopping and not self._why_nothing_comes() and self._leaves_room()

    def _leaves_room(self) -> bool:
        """Return whether the limit of experiments allows one more than those in flight."""
        most = self.session.most_experiments
        return most is None or len(self._state.experiments) - 1 + len(self._flight.candidates) < most

    def _why_nothing_comes(self) -> str | None:
        """Return why the proposer had nothing new; None if an experiment was recorded since."""
        if self._exhausted is None or self._exhausted[0] != len(self._state.experiments):
            return None
        return self._exhausted[1]

    def _propose(self) -> Candidate | None:
        """Return a new candidate; None while a model thinks and the search has none. No station waits for it otherwise.

        Raises:
            Exhausted: the proposer has nothing new.
        """
        session, incumbent, number = self.session, self._incumbent, self._flight.proposed + 1
        context = self._verdicts.context(session.context(number, incumbent))
        ahead = session.ahead
        if ahead is None or not ahead.early:
            return candidates.launch(session, session.ask(context), incumbent)
        ahead.reap()
        if ahead.wants(context):
            ahead.begin(self._verdicts.context(session.context(number, incumbent, ahead=True)))
        proposal = ahead.at_once(context)
        if proposal is None:
            return None
        return candidates.launch(session, with_own_seed(proposal, context), incumbent)

    def lease(self, name: str, commit: str, **about: Any) -> None:
        """Journal a run, then ask the station for it.

        Args:
            name: the station's.
            commit: to run.
            about: other fields of a Lease, which say whose run it is.
        """
        lease = f"{self._flight.leased + 1}"
        log = self._orders.log_path(name, lease)
        expected = self._verdicts.expected_seconds(name)
        whose = {"candidate": None, "of": None, "label": None, "seed": None, "rebase": False, **about}
        fields = {"lease": lease, "station": name, "commit": commit, "log": str(log), "expected": expected, **whose}
        self.session.journal.append("leased", **fields)
        self._cluster.submit(name, self._orders.order(self._flight.leases[lease]))

    def _take(self, answer: Answer) -> None:
        """Journal an answer. One of a lease that is settled already does not count."""
        lease = self._flight.leases.get(answer.lease)
        if lease is None or lease.station != answer.station:
            return
        if not self._orders.is_of(answer, lease):
            self._lose(lease, "its station measured something else")
            return
        if answer.lacks and lease.lease in self._lacked:
            self._lose(lease, DAMAGED)
            self.health.failed(lease.station, DAMAGED)
            return
        if answer.lacks:
            self._lacked.add(lease.lease)
            self._orders.forget(lease.station)
            self._cluster.submit(lease.station, self._orders.order(lease))
            return
        if answer.run is None:
            self._lose(lease, answer.failed, died=answer.failed.startswith(UNKILLABLE))
            self.health.failed(lease.station, answer.failed)
            return
        run = self._orders.run_of(answer, lease)
        if run.fault and not self._is_own_fault(lease):
            self._lose(lease, run.error or run.fault, run.fault)
            self.health.failed(lease.station, run.error or run.fault, fault=True)
            return
        if run.metric is not None:
            self.health.measured(lease.station)
        self._orders.has(lease.station, lease.commit)
        if self._is_decided(lease):
            self._note_withdrawn(lease, DECIDED)
            return
        write_whole(self._orders.log_of(lease), answer.log)
        comparison = self._state.comparison
        if lease.label is None:
            self.session.journal.append("returned", **_of(lease), **dataclasses.asdict(run))
        elif comparison is None or comparison.commits.get(lease.label) != lease.commit:
            self._lose(lease, "its comparison is over")
        else:
            number = len(comparison.runs.get(lease.label, ())) + 1
            about = {"lease": lease.lease, "label": lease.label, "run": number}
            self.session.journal.append("compared", **about, **dataclasses.asdict(run))

    def _is_own_fault(self, lease: Lease) -> bool:
        candidate = self._flight.candidates.get(lease.candidate) if lease.candidate is not None else None
        return candidate is not None and candidate.faulted >= MOST_FAULTS

    def _take_loss(self, loss: Loss) -> None:
        lease = self._flight.leases.get(loss.lease)
        if lease is None:
            return
        # A broken connection may be back by now, after a proposal that took minutes.
        if self._cluster.connected and loss.reason != BROKEN:
            self._lose(lease, loss.reason, died=loss.died)
            # A candidate that ends its station is given up; what was kept is not, so its station gets longer pauses.
            if loss.failed or (loss.died and lease.candidate is None):
                self.health.failed(lease.station, loss.reason)
            else:
                self.health.pause(lease.station, LOSS_PAUSE)  # until `meet` has looked whether it is there
        else:  # it may have been measured all the same; its station may take as long as at a start to come back
            self._adopted.add(lease.lease)
            self._began = time.monotonic()

    def _lose(self, lease: Lease, reason: str, fault: str = "", *, died: bool = False) -> None:
        about = {"station": lease.station, "reason": reason, "label": lease.label, **_of(lease)}
        self.session.journal.append("lost", fault=fault, died=died, **about)

    def _withdraw(self, lease: Lease, reason: str) -> None:
        """End a run that is not needed any more."""
        self._cluster.cancel(self._orders.session, lease.lease, lease.station)
        self._note_withdrawn(lease, reason)

    def _note_withdrawn(self, lease: Lease, reason: str) -> None:
        about = {"station": lease.station, "reason": reason, "label": lease.label, **_of(lease)}
        self.session.journal.append("withdrawn", **about)

    def _withdraw_decided(self) -> None:
        """End the runs of candidates that have their verdict: what they would return must not change its row.

        A station that is being set up goes on: otherwise it would begin anew with each candidate, and never measure.
        """
        for lease in [*self._flight.leases.values()]:
            if self._is_decided(lease) and not self._patience.is_preparing(lease):
                self._withdraw(lease, DECIDED)

    def _is_decided(self, lease: Lease) -> bool:
        known = self._flight.candidates.get(lease.candidate) if lease.candidate is not None else None
        return lease.candidate is not None and (known is None or known.verdict is not None)

    # Verdicts

    def _decide_baseline(self) -> bool:
        runs = self._flight.kept.get(BASELINE, ())
        if self._state.pending is None and not succeeded(runs):
            failed = [run for run in self.health.recent(BASELINE) if run.metric is None]
            here = self.health.here()
            if failed and here and {*here} <= {run.station for run in failed}:
                where = failed[-1].station
                raise AutoresearchError(
                    f"the baseline failed on {where}: {failed[-1].error}", hint=f"see the log {failed[-1].log}"
                )
            return False
        candidates.record_baseline(self.session)
        require_limits(self.session.decision, runs)
        return True

    def _verdict(self, candidate: Candidate) -> Verdict | None:
        """Return the verdict about a candidate; None if it needs more runs. A winner on an old base is merged."""
        if candidate.lost >= MOST_LOST:
            times = counted(candidate.lost, "run")
            return Verdict("discard", f"could not be measured: its station died or left in {times}")
        verdict = self._verdicts.of(candidate)
        incumbent = self._incumbent
        if verdict is None or verdict.status != "keep" or candidate.base == incumbent.number:
            return verdict
        base = self._state.experiments[candidate.base]
        word = "promising against" if verdict.reason.startswith(PROMISE) else "better than"
        better = f"{word} #{base.number}, but #{incumbent.number} was kept meanwhile"
        again = next((each for each in self._flight.candidates.values() if each.merged == candidate.number), None)
        if again is None and not self._leaves_room():
            reason = f"{better}, and the session ends before both are measured together ({verdict.reason})"
            return dataclasses.replace(verdict, status="discard", reason=reason)
        if again is None:
            change = candidates.merge(self.session, candidate, verdict, base, incumbent)
            if isinstance(change, str):
                reason = f"{better}, and it {change} ({verdict.reason})"
                return dataclasses.replace(verdict, status="discard", reason=reason)
            again = candidates.launch(self.session, change, incumbent, candidate.number)
        onto = ": measured again on top of that"
        if candidates.is_as_it_was(again):
            onto = ", and they conflict: measured again against that"
        reason = f"{better}{onto} as candidate {again.number} ({verdict.reason})"
        return dataclasses.replace(verdict, status="discard", reason=reason)

    def _finish(self) -> Experiment:
        """Record the candidate that has its verdict."""
        pending = self._state.pending
        done = [each for each in self._flight.candidates.values() if each.verdict is not None]
        chosen = next((each for each in done if pending is None or each.number == pending.candidate), None)
        assert chosen is not None
        return candidates.record(self.session, chosen)


def _of(lease: Lease) -> dict[str, Any]:
    return {"lease": lease.lease, "candidate": lease.candidate, "of": lease.of}
