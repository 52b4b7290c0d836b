"""Compare commits by held-out runs on stations: each pair of runs with one seed happens on one station."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.comparison.compare import begin, raise_if_stopped
from agent.comparison.confirm import Compare
from agent.comparison.pairs import Pairs
from agent.decision.schedule import RUNS, in_pairs
from agent.errors import AutoresearchError
from agent.fleet.decider import Fleet
from agent.journal.comparison import PendingComparison
from agent.journal.experiment import Run, succeeded
from agent.journal.state import side
from agent.session.workbench import Workbench
from agent.system.invocation import here

MOST_PAIRS = 8
Place = tuple[str, int | None]  # a station and a seed


def pairs_for(fleet: Fleet) -> Pairs:
    """Return a pair for each station, at least RUNS: more take no longer. One that has begun keeps its number."""
    state = fleet.session.state
    ends = {each.commit for each in (state.baseline, state.incumbent) if each is not None}
    every = [each for each in (state.comparison, *reversed(state.parked)) if each is not None and each.rung is None]
    begun = next((each for each in every if {*each.commits.values()} == ends), None)
    return Pairs(begun.count if begun else max(RUNS, min(MOST_PAIRS, len(fleet.able()))))


def on_stations(fleet: Fleet) -> Compare:
    """Return what `agent.comparison.confirm` needs to make its runs on stations."""

    def compare(
        bench: Workbench, commits: Mapping[str, str], count: int, _: Path, seeds: Sequence[int] = ()
    ) -> Mapping[str, Sequence[Run]]:
        begin(bench, commits, count, seeds)
        fleet.meet()
        while (comparison := _without_failure(fleet)) and _pairs(_runs(comparison), comparison) < count:
            raise_if_stopped(bench)
            if reason := fleet.health.why_none():
                raise AutoresearchError(f"no station can measure: {reason}")
            if fleet.is_alone:
                raise AutoresearchError("no station is here", hint="start one, then run the same command again")
            for name in fleet.idle():
                turn = _turn(fleet, comparison, name)
                if turn is not None:
                    label, seed = turn
                    fleet.lease(name, commits[label], label=label, seed=seed)
            fleet.receive()
        fleet.end_runs("its comparison is complete", needed=False)  # such as on a station that has not begun it
        comparison = _without_failure(fleet)
        return {label: in_pairs(comparison, label) for label in comparison.commits}

    return compare


def _turn(fleet: Fleet, comparison: PendingComparison, name: str) -> tuple[str, int | None] | None:
    """Return the label and seed that a station runs next: the other half of its pair, or a new pair; None if enough."""
    begun = _runs(comparison)
    for lease in fleet.session.state.flight.leases.values():
        if lease.label is not None:
            begun.setdefault((lease.station, lease.seed), Counter())[lease.label] += 1
    labels, able = [*comparison.commits], {*fleet.able()}
    for (station, seed), done in begun.items():
        if (
            station == name
            and (missing := min(labels, key=lambda label: done[label]))
            and len({*_of(done, labels)}) > 1
        ):
            return missing, seed
    # A pair whose station is gone, unable or slow to begin is begun anew elsewhere.
    alive = {place: done for place, done in begun.items() if place[0] in able or len({*_of(done, labels)}) == 1}
    pairs = sum(max(_of(done, labels)) for done in alive.values())
    if pairs >= comparison.count:
        return None
    free = [seed for seed in comparison.seeds if seed not in {seed for _, seed in alive}]
    # Alternating, so that a machine that slows down affects both.
    return labels[pairs % 2], free[0] if free else None


def _of(done: Counter[str], labels: Sequence[str]) -> list[int]:
    return [done[label] for label in labels]


def _runs(comparison: PendingComparison) -> dict[Place, Counter[str]]:
    """Return how many runs of each label each station has made with each seed."""
    found: dict[Place, Counter[str]] = {}
    for label, runs in comparison.runs.items():
        for run in succeeded(runs):
            found.setdefault(_place(run), Counter())[label] += 1
    return found


def _pairs(runs: Mapping[Place, Counter[str]], comparison: PendingComparison) -> int:
    return sum(min(_of(done, [*comparison.commits])) for done in runs.values())


def _place(run: Run) -> Place:
    return run.station, run.seed


def _without_failure(fleet: Fleet) -> PendingComparison:
    """Return the comparison. Raises AutoresearchError if a run of it failed in this start."""
    state = fleet.session.state
    comparison = state.comparison
    assert comparison is not None
    for label, runs in comparison.runs.items():
        failed = next((run for run in runs if run.metric is None and fleet.health.counts(run)), None)
        if failed is not None:
            name = side(state, label, comparison.commits[label])
            hint = f"see the log {here(Path(failed.log))}"
            raise AutoresearchError(f"{name} failed on {failed.station}: {failed.error}", hint=hint)
    return comparison
