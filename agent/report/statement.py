"""What may be said of the night: a bound on the gain that holds however often it is looked at, and the false keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from agent.decision.anytime import ALPHA, AUTOCORRELATION, Interval, interval, interval_at_equal_steps, share
from agent.decision.estimate import unbiased
from agent.decision.noise import groups_for_noise, pooled, repeated
from agent.decision.schedule import counted as counting
from agent.decision.sequential_test import most_false_keeps
from agent.execution.conditions import undisturbed
from agent.format import brief, counted
from agent.journal.experiment import Experiment, Run, metrics, succeeded
from agent.journal.flight import NO_FLIGHT
from agent.journal.state import State

# What the bound does not go beyond: the text and the seed that a metric comes from, or the only run, repeated.
ON_SEED = "this seed"
ON_SNAPSHOT = "this seed and this validation text"
ON_ONE_RUN = "this seed and these data, since equal programs give equal numbers"
# The same where runs vary although the recipe has no seed.
ON_DATA, ON_TEXT = "these data", "this validation text"


def statement(state: State) -> dict[str, Any] | None:
    """Return the statement for the night as plain data; None before there is a baseline.

    The interval of the k-th keep is at `anytime.share(k)`, and all shares together are ALPHA: the bounds of all keeps
    hold at once and at any time, so a reader may pick the best one and the moment.

    Returns:
        `bound`: the entry of `keeps` for the best, or if its bound is not above zero that with the highest bound; None
        without one. `keeps`: for each keep its number, the gain over the baseline by held-out runs, a lower bound `low`
        (None for no bound), and the runs on both sides. `false_keeps`: the expected number, at most. `line`: the text.
    """
    session = state.session
    if session is None or state.baseline is None:
        return None
    state = on_reference(state)
    kept, known = state.keeps, _Known.of(state)
    keeps = [_keep(state, number, keep, known) for number, keep in enumerate(kept, start=1)]
    bounded = [each for each in keeps if each["low"] is not None]
    best = next((each for each in bounded if each is keeps[-1] and each["low"] > 0), None)
    experiments = len(state.experiments) - 1
    kind = str(state.flags.get("verdict", "confirm"))
    data = {
        "bound": best or max(bounded, key=lambda each: each["low"], default=None),
        "keeps": keeps,
        "level": 1 - ALPHA,
        "experiments": experiments,
        "false_keeps": most_false_keeps(kind, experiments, sum(map(_as_measured, state.experiments[1:]))),
        "on": _on(state, exact=known.exact),
    }
    return {**data, "line": statement_line(data)}


def _on(state: State, *, exact: bool) -> str:
    """Return what the bound does not go beyond. Only `confirm` finds out whether a recipe has a seed."""
    assert state.session is not None
    snapshot = bool(state.session["fingerprint"].get("snapshot"))
    found = [each for each in state.confirmations.values() if not each.get("seeds")]
    if not exact and any((each.get("one_seed") or "").startswith("baseline ") for each in found):
        return ON_TEXT if snapshot else ON_DATA
    return ON_SNAPSHOT if snapshot else ON_ONE_RUN if exact else ON_SEED


def statement_line(data: dict[str, Any]) -> str:
    """Format the statement: `at any time: #7 is at least 0.034 better than the baseline (95 %, ...); at most ...`."""
    bound = data["bound"]
    if bound is not None and bound["low"] > 0:
        said = f"#{bound['number']} is at least {_down(bound['low'])} better than the baseline"
        said += f" ({100 * data['level']:.0f} %, {data['on']})"
    elif not data["keeps"]:
        said = "nothing was kept"
    elif bound is not None:
        said = f"#{bound['number']} is not shown to be better than the baseline"
    else:
        said = f"no bound yet, #{data['keeps'][-1]['number']} has too few held-out runs"
    if not data["experiments"]:
        return f"at any time: {said}"
    most = f"at most {math.ceil(10 * data['false_keeps']) / 10:g} false keeps expected"
    return f"at any time: {said}; {most} among {counted(data['experiments'], 'experiment')}"


def _down(value: float) -> str:
    """Format a positive bound with two digits, rounded down: rounded up it would say more than is known."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return brief(math.floor(value / unit * (1 + 1e-9)) * unit, 2)


def on_reference(state: State) -> State:
    """Return the state with the runs of one station only, that of the baseline's first run.

    Runs of different stations are no evidence, and a station that is chosen by its results would be a lucky one. In a
    session of one machine nothing changes.
    """
    assert state.baseline is not None
    station = state.baseline.runs[0].station if state.baseline.runs else ""
    if not station:
        return state

    def own(runs: Sequence[Run]) -> tuple[Run, ...]:
        return tuple(run for run in runs if run.station == station)

    experiments = tuple(
        replace(each, runs=own(each.runs), heldout_runs=own(each.heldout_runs)) for each in state.measured
    )
    compared = tuple(
        replace(each, runs={label: own(runs) for label, runs in each.runs.items()}) for each in state.compared
    )
    return replace(state, experiments=experiments, compared=compared, flight=NO_FLIGHT)


def bound_of(state: State, experiment: Experiment) -> dict[str, Any] | None:
    """Return the entry of one keep in `statement`; None for other experiments."""
    state = on_reference(state)
    experiment = next((each for each in state.experiments if each.number == experiment.number), experiment)
    number = next((k for k, keep in enumerate(state.keeps, start=1) if keep.number == experiment.number), None)
    return _keep(state, number, experiment, _Known.of(state)) if number is not None else None


@dataclass(frozen=True)
class _Known:
    """What all keeps have in common, computed once, because a long session has hundreds of them.

    Attributes:
        groups: all groups of repeated runs.
        exact: equal programs give equal numbers.
    """

    groups: Sequence[Sequence[Run]]
    exact: bool

    @classmethod
    def of(cls, state: State) -> _Known:
        groups = repeated(state.experiments)
        return cls(groups, pooled(list(map(metrics, groups)), scale=0.0).exact)


def _keep(state: State, number: int, keep: Experiment, known: _Known) -> dict[str, Any]:
    """Return the bound on the gain of the `number`-th keep over the baseline."""
    base, runs = _sides(state, keep, exact=known.exact)
    own = {id(run) for each in (state.experiments[0], keep) for run in (*each.runs, *each.heldout_runs)}
    # The first runs of candidates are left out, because they are lucky by selection.
    others = [group for group in known.groups if not any(id(run) in own for run in group)]
    used = groups_for_noise(others, base, runs)
    found = _interval(state, (number, keep), base, runs, used) if base and runs else None
    low = found.low if found is not None and math.isfinite(found.low) else None
    gain = found.gain if found is not None else None
    return {"number": keep.number, "gain": gain, "low": low, "runs": len(runs), "baseline_runs": len(base)}


def _sides(state: State, keep: Experiment, *, exact: bool) -> tuple[list[Run], list[Run]]:
    """Return the runs of the baseline and the held-out runs of a keep, as far as they are comparable.

    Selection runs are left out whatever the gain, unless runs are deterministic: then nothing is chosen by luck. A
    program may be random although the others are not, so all runs of this keep must be equal, too. The runs of
    comparisons such as `confirm` are held out, too. Once the machine's state has changed (`Run.rebased`), later
    runs are not comparable with the baseline's.
    """
    baseline = state.baseline
    assert baseline is not None
    base, own = unbiased(baseline), _compared(state, keep.commit)
    every = undisturbed(succeeded((*keep.runs, *keep.heldout_runs, *own)))
    if exact and len({*metrics(every)}) == 1:
        return base, every
    earlier = (each for each in state.keeps if each.number < keep.number)
    if any(run.rebased for each in earlier for run in each.heldout_runs):
        return base, []
    changed = next((index for index, run in enumerate(keep.heldout_runs) if run.rebased), None)
    runs = undisturbed(succeeded(keep.heldout_runs[:changed]))
    if exact and len(runs) + len(own) < 2:
        return base, []  # nothing tells the noise of this program
    if any(run.rebased for each in state.keeps for run in each.heldout_runs):
        return base, runs
    return [*base, *_compared(state, baseline.commit)], [*runs, *own]


def _compared(state: State, commit: str) -> list[Run]:
    """Return the runs of a commit in comparisons, with the recipe's own seed: another one is another program."""
    found = [
        run
        for each in state.compared
        for label in each.runs
        if each.commits.get(label) == commit
        for run in succeeded(counting(each, label))
    ]
    return [run for run in found if run.seed is None]


def _interval(
    state: State, kept: tuple[int, Experiment], base: list[Run], runs: list[Run], others: Sequence[Sequence[Run]]
) -> Interval:
    assert state.session is not None
    (number, keep), direction = kept, state.session["direction"]
    if _same_work(state, keep):
        return interval_at_equal_steps(base, runs, direction, share(number), others)
    groups = [metrics(group) for group in others]
    return interval(metrics(base), metrics(runs), direction, share(number), groups, AUTOCORRELATION)


def _as_measured(experiment: Experiment) -> bool:
    """Return whether the verdict compared noisy runs without their steps, so that a drift may have decided it."""
    evidence = experiment.verdict.evidence
    return evidence is not None and not evidence.equal_steps and evidence.noise > 0


def _same_work(state: State, keep: Experiment) -> bool:
    """Return whether the verdicts of this keep and of all before it compared at equal steps."""
    kept = [each for each in state.keeps if each.number <= keep.number]
    return all(each.verdict.evidence is not None and each.verdict.evidence.equal_steps for each in kept)
