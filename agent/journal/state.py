"""The state of a session: the fold of its journal's events."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agent.journal.comparison import PendingComparison, comparison_of, run_of, rung_of, with_fault, with_run
from agent.journal.events import Event
from agent.journal.experiment import Direction, Experiment, Run, Screen, verdict_from
from agent.journal.faults import NO_FAULTS, Faults
from agent.journal.flight import NO_FLIGHT, Flight
from agent.journal.pending import Pending


@dataclass(frozen=True)
class Spent:
    """Calls to models and their cost. `dollars` covers the models with known prices."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    dollars: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.dollars + other.dollars,
        )

    def __sub__(self, other: Spent) -> Spent:
        return self + Spent(-other.calls, -other.input_tokens, -other.output_tokens, -other.dollars)


@dataclass(frozen=True)
class State:
    """The fold of a journal.

    Attributes:
        session: the data of the first event.
        flags: the flags of `run` that the session keeps (`agent.cli.run_config`).
        head: the commit that the branch should point to.
        previous: the commit that it pointed to before that.
        ended: the reason of the last `ended` event; None after a resume.
        seconds: time that the loop has run, without the time between a stop and the next start.
        latest_at: Unix time of the last event, in seconds.
        spent: the cost of models, by the number of the experiment, or with stations of the candidate (`cost_of`).
        reserved: the maximum cost of the model call in progress. It is part of `spent`, and stays there if the loop
            dies during the call.
        waiting: the data of the `waiting` event while an unavailable model is being retried; else None.
        away: the data of the `away` event while another proposer stands in; else None.
        nothing: the data of the `nothing` event until the model has a usable proposal again; else None.
        preparing: the data of the `preparing` event while the next proposal is being made; else None.
        prepared: the data of the `prepared` event until that proposal is used or thrown away; else None.
        confirmations: the data of the latest `confirmed` event for each pair of commits, `{a} {b}`; of the latest that
            varied the seed, if one did.
        compared: the comparisons behind `confirmations`, whose runs are all held-out.
        comparison: the comparison of `agent.comparison.compare` in progress, or interrupted; else None.
        comparing: whether it is in progress, unless its process was killed, rather than interrupted before a resume.
        comparing_at: Unix time at which it began or went on, in seconds.
        compared_seconds: the part of `seconds` in which comparisons were in progress.
        parked: unfinished comparisons that others displaced. They resume when requested again.
        promotions: the data of the `promoted` events.
        reduced: the data of the latest `ablated` or `promoted` event, which says what was taken out of the best.
        climbed: the comparisons behind promotions, each at its rung. Nothing else counts their runs.
        ablated: the comparisons of ablations. Nothing else counts their runs.
        faults: the runs that faults of the GPU ended.
        faulted: commit -> number of its runs in experiments that they ended.
        scored: the data of the `scored` event of kept experiments, by number. No proposer and no verdict sees it.
        flight: what the stations are doing, in a session with stations.
        extended: the kept experiments for which the session has added an entry to playbook.md.
    """

    session: Mapping[str, Any] | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)
    experiments: tuple[Experiment, ...] = ()
    pending: Pending | None = None
    head: str | None = None
    previous: str | None = None
    ended: str | None = None
    seconds: float = 0.0
    latest_at: float = 0.0
    spent: Mapping[int, Spent] = field(default_factory=dict)
    reserved: Spent = Spent()
    waiting: Mapping[str, Any] | None = None
    away: Mapping[str, Any] | None = None
    nothing: Mapping[str, Any] | None = None
    preparing: Mapping[str, Any] | None = None
    prepared: Mapping[str, Any] | None = None
    confirmations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    compared: tuple[PendingComparison, ...] = ()
    comparison: PendingComparison | None = None
    comparing: bool = False
    comparing_at: float = 0.0
    compared_seconds: float = 0.0
    parked: tuple[PendingComparison, ...] = ()
    promotions: tuple[Mapping[str, Any], ...] = ()
    reduced: Mapping[str, Any] | None = None
    climbed: tuple[PendingComparison, ...] = ()
    ablated: tuple[PendingComparison, ...] = ()
    faults: Faults = NO_FAULTS
    faulted: Mapping[str, int] = field(default_factory=dict)
    scored: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    flight: Flight = NO_FLIGHT
    extended: frozenset[int] = frozenset()

    @property
    def measured(self) -> tuple[Experiment, ...]:
        """The experiments with the held-out runs that stations made of kept ones."""
        kept = self.flight.kept
        return tuple(
            replace(each, heldout_runs=(*each.heldout_runs, *kept[each.number])) if each.number in kept else each
            for each in self.experiments
        )

    @property
    def loop_seconds(self) -> float:
        """Time that the loop has run, without that of comparisons after it."""
        return self.seconds - self.compared_seconds

    def without_comparing(self) -> State:
        """Return the state with no comparison in progress. One that was cut off goes on with another run."""
        comparison = self.comparison and replace(self.comparison, started=None)
        return replace(self, comparison=comparison, comparing=False)

    def as_of(self, born: float) -> State:
        """Return the state as the process that was born then has found it: what an earlier one compared is cut off.

        The next event says so only once the process has ended an orphaned run.
        """
        return self.without_comparing() if self.comparing and self.comparing_at < born else self

    def runs_in_comparisons(self, commit: str | None) -> list[tuple[PendingComparison, Run]]:
        """Return the runs of a commit in comparisons, each with its comparison."""
        current = (self.comparison,) if self.comparison else ()
        comparisons = (*self.compared, *self.climbed, *self.ablated, *self.parked, *current)
        return [
            (each, run)
            for each in comparisons
            for label, side in each.commits.items()
            if side == commit
            for run in each.runs.get(label, ())
        ]

    @property
    def unfinished(self) -> tuple[PendingComparison, ...]:
        """The unfinished comparisons in the order in which they made their latest runs."""
        return (*self.parked, *((self.comparison,) if self.comparison else ()))

    def overwritten(self, found: PendingComparison) -> bool:
        """Return whether a later confirmation has a log of this unfinished one, whose runs nothing shows any more.

        Earlier versions wrote the logs of an unfinished confirmation and of the next one into one folder.
        """
        every = self.unfinished
        later = (*self.compared, *every[every.index(found) + 1 :])
        return found.doing == "confirming" and any(found.logs & each.logs for each in later)

    @property
    def given_up(self) -> tuple[PendingComparison, ...]:
        """The parked comparisons whose whole pairs add to the one in progress when that ends."""
        latest = self.comparison
        return tuple(each for each in self.parked if latest and each.adds_to(latest) and not self.overwritten(each))

    @property
    def learned(self) -> Sequence[Mapping[str, Any]]:
        """The sessions that this one learns from: those of its first event, or none with `--fresh`."""
        found: Sequence[Mapping[str, Any]] = (self.session or {}).get("learned", ())
        return () if self.flags.get("fresh") else found

    @property
    def cost(self) -> Spent:
        return sum(self.spent.values(), Spent())

    def cost_of(self, found: Experiment | Pending) -> Spent:
        """Return what the models of one experiment cost. With stations, calls have the number of the candidate."""
        return self.spent.get(found.number if found.candidate is None else found.candidate, Spent())

    @property
    def baseline(self) -> Experiment | None:
        return self.experiments[0] if self.experiments else None

    @property
    def incumbent(self) -> Experiment | None:
        """The best kept experiment, which is the last one: a keep must beat the previous keep."""
        return next((e for e in reversed(self.experiments) if e.kept), None)

    @property
    def keeps(self) -> list[Experiment]:
        """The kept experiments after the baseline."""
        return [each for each in self.experiments[1:] if each.kept]

    @property
    def confirmation(self) -> Mapping[str, Any] | None:
        """The result of held-out runs of the baseline and the current best; None if there is none yet."""
        baseline, best = self.baseline, self.incumbent
        return self.confirmations.get(f"{baseline.commit} {best.commit}") if baseline and best else None

    @property
    def since_keep(self) -> int:
        """Experiments since the last improvement."""
        incumbent = self.incumbent
        return self.experiments[-1].number - incumbent.number if incumbent else 0


Data = Mapping[str, Any]
EDIT = "edit"  # the proposer of edits made by hand, which `try` measures
LONGEST_NUMBER = 9  # digits of an experiment's number
PROMOTION = ("best", "rung", "conditions", "session", "whole", "changes", "rest")  # the fields of `promoted`
# The loop may not have been running before these events, so the time before them does not count.
BEGINNINGS = ("session", "resumed", "comparing")


def step(state: State, event: Event) -> State:
    """Return the state after one more event. Unknown kinds change nothing."""
    worked = 0.0 if event.kind in BEGINNINGS else max(0.0, event.at - state.latest_at)
    faults = state.faults.after(event, ended=state.ended is not None)
    flight = state.flight.after(event, state.seconds + worked)
    state = replace(state, latest_at=event.at, seconds=state.seconds + worked, faults=faults, flight=flight)
    if state.comparing:
        state = replace(state, compared_seconds=state.compared_seconds + worked)
    if event.kind in OF_SESSION:
        return OF_SESSION[event.kind](state, event)
    pending = state.pending
    if pending is None or event.kind not in OF_EXPERIMENT or event.data.get("number") != pending.number:
        return state
    return OF_EXPERIMENT[event.kind](state, pending, event.data)


def _begun(state: State, event: Event) -> State:
    data = event.data
    return replace(state, session=data, flags=_flags(data), head=data["base"], previous=data["base"])


def _resumed(state: State, event: Event) -> State:
    flags = event.data.get("flags", state.flags)
    state = replace(state.without_comparing(), flags=flags, reserved=Spent())
    return replace(state, ended=None, waiting=None, away=None, preparing=None)


def _spent(state: State, event: Event) -> State:
    data, call = event.data, Spent()
    if event.kind != "refused":
        call = Spent(1, data["input_tokens"], data["output_tokens"], data["dollars"])
    number = data["number"]
    spent = {**state.spent, number: state.spent.get(number, Spent()) - state.reserved + call}
    return replace(state, spent=spent, reserved=call if event.kind == "calling" else Spent())


def _comparing(state: State, event: Event) -> State:
    """Make a comparison the one in progress, with the runs that it already has if it was parked."""
    new = comparison_of(event.data)
    parked = state.unfinished
    same = [each for each in parked if each.is_same(new) and not state.overwritten(each)]
    rest = tuple(each for each in parked if each not in same)
    comparison = replace(new, runs=same[-1].runs, faulted=same[-1].faulted) if same else new
    return replace(state, comparison=comparison, parked=rest, comparing=True, comparing_at=event.at)


def _proposed(state: State, event: Event) -> State:
    data = event.data
    keys = ("number", "proposer", "description", "reasoning", "parameters", "digest")
    known = {key: data[key] for key in keys}
    more: dict[str, Any] = {"expected": data.get("expected"), "candidate": data.get("candidate")}
    more |= {"playbook": data.get("playbook", ""), "parts": tuple(data.get("parts", ()))}
    pending = Pending(**known, **more, files=tuple(data["files"]), proposed_at=event.at)
    nothing = state.nothing if pending.proposer in ("search", EDIT) else None
    state = state.without_comparing()
    if pending.proposer == EDIT or pending.candidate is not None:  # the next proposal stays for the one after it
        return replace(state, pending=pending, waiting=None, nothing=nothing)
    return replace(state, pending=pending, waiting=None, nothing=nothing, preparing=None, prepared=None)


def _entered(state: State, event: Event) -> State:
    """A candidate uses up the proposal that was made ahead, if it is the one, and bears its cost.

    Meanwhile the search may have used the number that it was made for.
    """
    ahead, data = state.prepared, event.data
    if ahead is None or data.get("merged") is not None or data["proposer"] != ahead["proposer"]:
        return state
    number, made_for = data["candidate"], ahead["number"]
    spent = {key: each for key, each in state.spent.items() if key != made_for}
    if made_for in state.spent:
        spent[number] = spent.get(number, Spent()) + state.spent[made_for]
    return replace(state, prepared=None, spent=spent)


def _judged(state: State, pending: Pending, data: Data) -> State:
    return replace(state, pending=replace(pending, verdict=verdict_from(data)))


def _recorded(state: State, pending: Pending, data: Data) -> State:
    state, experiment = replace(state, pending=None, previous=state.head, head=data["head"]), pending.experiment
    if pending.candidate is not None:
        known = state.flight.candidates.get(pending.candidate)
        experiment = replace(experiment, base=known.base if known else None)
        state = replace(state, flight=state.flight.without(pending.candidate, pending.number, pending.runs))
    return replace(state, experiments=(*state.experiments, experiment))


def _repaired(state: State, pending: Pending, data: Data) -> State:
    return replace(state, pending=replace(_renewed(pending, data), repairs=pending.repairs + 1))


def _flags(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the session's flags. Earlier versions kept only the seed, and the training budget in the fingerprint."""
    if "flags" in data:
        found: Mapping[str, Any] = data["flags"]
        return found
    known = {"seed": data.get("seed"), "training_seconds": data.get("fingerprint", {}).get("training_seconds")}
    return {name: value for name, value in known.items() if value is not None}


def _renewed(pending: Pending, data: Mapping[str, Any]) -> Pending:
    """Replace the candidate by a new version. The screens of the old one say nothing about it."""
    screens = tuple(replace(each, lead=None) for each in pending.screens)
    changes = {key: data[key] for key in ("commit", "digest", "description", "parameters")}
    files = tuple(data.get("files", pending.files))  # older journals name none for a halved batch
    return replace(pending, revisions=pending.revisions + 1, files=files, screens=screens, **changes)


def _measured(state: State, pending: Pending, data: Mapping[str, Any]) -> State:
    """Add a run to the candidate or, if the event has `of`, to the incumbent with that number."""
    run, of = run_of(data), data.get("of")
    pending = replace(pending, started=None, started_at=None)
    if of is None:
        provoked = pending.provoked or bool(data.get("provoked"))
        return replace(state, pending=replace(pending, runs=(*pending.runs, run), faulted=0, provoked=provoked))
    again = replace(state.experiments[of], heldout_runs=(*state.experiments[of].heldout_runs, run))
    experiments = (*state.experiments[:of], again, *state.experiments[of + 1 :])
    pending = replace(pending, refreshed=pending.refreshed + 1)
    if run.rebased:
        pending = replace(pending, rebases=pending.rebases + 1, rebased_at=len(pending.runs))
    return replace(state, pending=pending, experiments=experiments)


def _screened(state: State, pending: Pending, data: Mapping[str, Any]) -> State:
    """Add a screen to the candidate or, if the event has `of`, to the incumbent with that number."""
    names = ("rung", "edit", "lead", "chance", "then", "reason")
    screen, of = Screen(run=run_of(data), **{name: data[name] for name in names if name in data}), data.get("of")
    pending = replace(pending, started=None, started_at=None)
    if of is None:
        return replace(state, pending=replace(pending, screens=(*pending.screens, screen)))
    again = replace(state.experiments[of], heldout_screens=(*state.experiments[of].heldout_screens, screen))
    return replace(state, pending=pending, experiments=(*state.experiments[:of], again, *state.experiments[of + 1 :]))


def _faulted(state: State, event: Event) -> State:
    data, pending = event.data, state.pending
    if "label" in data:
        return replace(state, comparison=with_fault(state.comparison, event))
    if pending is None or data.get("number") != pending.number:
        return state
    commit = state.experiments[data["of"]].commit if "of" in data else pending.commit or ""
    return replace(
        state,
        pending=replace(pending, started=None, started_at=None, faulted=pending.faulted + ("of" not in data)),
        faulted={**state.faulted, commit: state.faulted.get(commit, 0) + 1},
    )


def _confirmed(state: State, data: Mapping[str, Any]) -> State:
    pair = f"{data.get('a')} {data.get('b')}"
    # Runs with one seed do not take back what several seeds have shown.
    before = state.confirmations.get(pair, {})
    latest = before if before.get("seeds") and not data.get("seeds") else data
    known = {**state.confirmations, pair: latest}
    latest_runs, parked = state.comparison, state.parked
    if latest_runs is None:
        return replace(state, confirmations=known, comparing=False)
    given_up = state.given_up if data.get("unfinished") else ()
    return replace(
        state,
        confirmations=known,
        compared=(*state.compared, *(replace(each, unfinished=True) for each in given_up), latest_runs),
        comparison=None,
        comparing=False,
        parked=tuple(each for each in parked if each not in given_up),
    )


def _ablated(state: State, event: Event) -> State:
    """End an ablation. The comparisons of others that it displaced stay parked."""
    done, others = (
        tuple(each for each in state.unfinished if (each.doing == "ablating") == its) for its in (True, False)
    )
    ablated = (*state.ablated, *done)
    return replace(state, comparison=None, comparing=False, parked=others, ablated=ablated, reduced=event.data)


def _promoted(state: State, event: Event) -> State:
    """End a promotion: its comparisons are those at its rung, in progress or parked."""
    rung = rung_of(event.data["rung"])
    done, rest = (tuple(each for each in state.unfinished if (each.rung == rung) == at_it) for at_it in (True, False))
    climbed = (*state.climbed, *(replace(each, unfinished=_gave_way(each, done)) for each in done))
    promotions = _in_order(state.promotions, {name: event.data[name] for name in PROMOTION})
    state = replace(state, promotions=promotions, climbed=climbed, reduced=promotions[-1])
    return replace(state, comparison=None, comparing=False, parked=rest)


def _gave_way(found: PendingComparison, done: Sequence[PendingComparison]) -> bool:
    """Return whether a later one compared the same commits, so that this one was given up for it."""
    later = done[done.index(found) + 1 :]
    return any({*each.commits.values()} == {*found.commits.values()} for each in later)


def _in_order(promotions: Sequence[Mapping[str, Any]], new: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Return the promotions with a new one at the end: the latest of a best at a rung is the one that counts.

    One with the recipe's own seed does not take back what several seeds have shown, and goes before that.
    """
    if not new["whole"]["seeds"]:
        for index, each in enumerate(promotions):
            if each["whole"]["seeds"] and (each["best"], each["rung"]) == (new["best"], new["rung"]):
                return (*promotions[:index], new, *promotions[index:])
    return (*promotions, new)


# How each kind of event changes the state: first events of the session, then events of the experiment in progress.
OF_SESSION: Mapping[str, Callable[[State, Event], State]] = {
    "session": _begun,
    "resumed": _resumed,
    "calling": _spent,
    "called": _spent,
    "refused": _spent,
    "waiting": lambda state, event: replace(state, waiting=event.data),
    "away": lambda state, event: replace(state, waiting=None, away=event.data, preparing=None),
    "nothing": lambda state, event: replace(state, waiting=None, nothing=event.data, preparing=None),
    "back": lambda state, _: replace(state, away=None),
    "preparing": lambda state, event: replace(state, preparing=event.data),
    "prepared": lambda state, event: replace(state, waiting=None, nothing=None, preparing=None, prepared=event.data),
    "outdated": lambda state, _: replace(state, prepared=None),
    "ended": lambda state, event: replace(state, ended=event.data["reason"], waiting=None, preparing=None),
    "comparing": _comparing,
    "running": lambda state, event: replace(state, comparison=with_run(state.comparison, event)),
    "compared": lambda state, event: replace(state, comparison=with_run(state.comparison, event)),
    "confirmed": lambda state, event: _confirmed(state, event.data),
    "extended": lambda state, event: replace(
        state, previous=state.head, head=event.data["head"], extended=state.extended | {*event.data["entries"]}
    ),
    "scored": lambda state, event: replace(state, scored={**state.scored, event.data["number"]: event.data}),
    "faulted": _faulted,
    "ablated": _ablated,
    "promoted": _promoted,
    "proposed": _proposed,
    "candidate": _entered,
}
OF_EXPERIMENT: Mapping[str, Callable[[State, Pending, Data], State]] = {
    "committed": lambda state, now, data: replace(state, pending=replace(now, commit=data["commit"])),
    "revised": lambda state, now, data: replace(state, pending=_renewed(now, data)),
    "repaired": _repaired,
    "started": lambda state, now, data: replace(state, pending=replace(now, started=data, started_at=state.latest_at)),
    "interrupted": lambda state, now, _: replace(state, pending=replace(now, started=None, started_at=None)),
    "measured": _measured,
    "screened": _screened,
    "judged": _judged,
    "recorded": _recorded,
}


def experiment_named(state: State, which: str) -> Experiment | Pending | None:
    """Return the experiment that the user calls `12`, `#12`, `best` or `baseline`; None if it does not exist."""
    if which in ("best", "baseline"):
        return state.incumbent if which == "best" else state.baseline
    everything: list[Experiment | Pending] = [*state.experiments, *([state.pending] if state.pending else [])]
    digits = which.removeprefix("#")
    if digits.isdecimal() and len(digits) <= LONGEST_NUMBER and int(digits) < len(everything):
        return everything[int(digits)]
    return None


def gain(baseline: float, value: float, direction: Direction) -> float:
    """Return the improvement of `value` over `baseline`: positive is better in either direction."""
    return baseline - value if direction == "minimize" else value - baseline


def expected_seconds(state: State, training_seconds: float | None, limit: float) -> float:
    """Return the expected duration of a run: the median of successful runs, or an estimate from the budget.

    Args:
        training_seconds: the training budget; None if the protocol has none.
        limit: the hard limit in seconds.
    """
    seconds = [e.runs[-1].seconds for e in state.experiments if e.runs and e.runs[-1].error is None]
    return statistics.median(seconds) if seconds else min(1.1 * (training_seconds or limit) + 15, limit)


def side(state: State, label: str, commit: str) -> str:
    """Return the display name of one side of a comparison: `baseline`, `best #7`, `#3`, or else its label or hash."""
    if state.baseline is not None and commit == state.baseline.commit:
        return "baseline"
    number = next((each.number for each in reversed(state.experiments) if each.commit == commit), None)
    if number is None:
        return label if len(label) > 1 else commit[:12]
    return f"best #{number}" if state.incumbent and state.incumbent.number == number else f"#{number}"
