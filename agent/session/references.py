"""Choose the reference runs of a run: the runs of its session that its time and losses are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from agent.execution.allowance import NO_REFERENCES, References
from agent.journal.comparison import Rung
from agent.journal.experiment import Experiment, Run
from agent.journal.state import State

BASELINE, BEST, SLOWER = "the baseline", "the best", "the slower of best and baseline"


def of_candidate(experiments: Sequence[Experiment], incumbent: Experiment) -> References:
    """Return the reference for a candidate: the incumbent that it must beat."""
    return References(_runs(incumbent), _runs(experiments[0]), _runs(incumbent))


def of_commit(experiments: Sequence[Experiment], commit: str) -> References:
    """Return the reference for repeating a commit: its own time, and the losses of the incumbent before it.

    The baseline has no incumbent before it, and is the user's own. A commit of an ablation, which is not an experiment,
    is compared with the best. What it lacks of the best may have made runs quicker, so it may take as long as either
    the best or the baseline.
    """
    kept = [experiment for experiment in experiments if experiment.kept]
    if not kept:
        return NO_REFERENCES
    known = next((experiment for experiment in experiments if experiment.commit == commit), None)
    if known is None:
        first, best = _runs(experiments[0]), _runs(kept[-1])
        return References((*best, *first), first, best, side=SLOWER)
    before = [experiment for experiment in kept if experiment.number < known.number]
    other = _runs(before[-1]) if before else ()
    return References(_runs(known), _runs(experiments[0]), other, side=side_of(kept, known))


def side_of(kept: Sequence[Experiment], known: Experiment) -> str:
    """Return the name in sentences of a kept experiment whose own runs are the reference.

    Args:
        kept: the kept experiments, in order.
        known: one of them.
    """
    return BASELINE if known.number == 0 else BEST if known is kept[-1] else f"#{known.number}"


def of_comparison(state: State, rung: Rung | None, commit: str) -> References:
    """Return the reference for a run of a comparison on this machine."""
    if rung is None and not state.flight.stations:
        return of_commit(state.experiments, commit)
    return away(state, rung, commit)


def away(state: State, rung: Rung | None, commit: str) -> References:
    """Return the reference for a run at another rung, or on another machine than the stations of the session.

    The session's runs took other times, so these are runs made there. The baseline's first run there has no reference.
    Until another experiment has run there, it may take as much longer than the baseline, or the best, as it did in the
    session. Any other commit is compared with the best, and may take as long as either of them (see `of_commit`).
    """
    baseline, best, there = state.baseline, state.incumbent, runs_at(state, rung)
    assert baseline is not None and best is not None
    first, last = there.get(baseline.commit, ()), there.get(best.commit, ())
    if commit == baseline.commit:
        return References(first, first, side=BASELINE)
    base = first or _as_runs_of(baseline, best, last)
    known = next((each for each in state.experiments if each.commit == commit), None)
    if known is not None:
        kept = [each for each in state.experiments if each.kept]
        own = there.get(commit) or _as_runs_of(known, baseline, base)
        return References(own, base, first, side=side_of(kept, known))
    return References((*(last or _as_runs_of(best, baseline, base)), *base), base, last or first, side=SLOWER)


def runs_at(state: State, rung: Rung | None) -> Mapping[str, tuple[Run, ...]]:
    """Return the runs of comparisons on this machine at a rung that have a metric, by commit.

    Args:
        rung: None for that of the session.
    """
    found: dict[str, tuple[Run, ...]] = {}
    every = (*(state.climbed if rung else state.compared), *state.parked)
    for each in (*every, *((state.comparison,) if state.comparison else ())):
        for label, runs in each.runs.items() if each.rung == rung else ():
            if here := [run for run in runs if run.metric is not None and not run.station]:
                found[each.commits[label]] = (*found.get(each.commits[label], ()), *here)
    return found


def _as_runs_of(experiment: Experiment, other: Experiment, runs: Sequence[Run]) -> tuple[Run, ...]:
    """Return runs of another experiment as if they were of this one: as much longer as it took in the session."""
    return tuple(_longer(run, _runs(other), _runs(experiment)) for run in runs)


def _longer(run: Run, before: Sequence[Run], after: Sequence[Run]) -> Run:
    """Return a run of one experiment as if it took as much longer, in fewer steps, as another did in the session.

    Args:
        run: of the first.
        before: runs of the first in the session.
        after: runs of the second there. Stations that ran both tell the difference, if there are any.
    """
    both = {each.station for each in before} & {each.station for each in after}
    before, after = ([each for each in runs if each.station in both or not both] for runs in (before, after))

    def later(value: Callable[[Run], float | None], now: float | None) -> float | None:
        old, new = ([found for each in runs if (found := value(each)) is not None] for runs in (before, after))
        return now if now is None or not old or not new else now + max(0.0, max(new) - max(old))

    old, new = ([each.secondary.get("num_steps", 0.0) for each in runs] for runs in (before, after))
    steps, secondary = run.secondary.get("num_steps"), dict(run.secondary)
    if steps and old and new and min(old) > 0:
        secondary["num_steps"] = steps * min(1.0, min(new) / min(old))
    untimed, overrun = later(lambda each: each.untimed, run.untimed), later(lambda each: each.overrun, run.overrun)
    evaluated = later(lambda each: each.evaluated, run.evaluated)
    return replace(run, secondary=secondary, untimed=untimed, overrun=overrun, evaluated=evaluated)


def _runs(experiment: Experiment) -> tuple[Run, ...]:
    return (*experiment.runs, *experiment.heldout_runs)
