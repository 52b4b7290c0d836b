"""Judge held-out runs of two commits: the gain on both splits, what it rests on, and whether it is confirmed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from agent.comparison.compare import noise_here
from agent.comparison.pairs import sources
from agent.decision.difference import (
    NO_NOISE,
    Difference,
    by_seed,
    difference,
    equal_for_seeds,
    ignores_seed,
    is_coarse,
    paired,
    spread,
)
from agent.decision.estimate import unbiased
from agent.decision.levels import records_of
from agent.decision.noise import PRIOR_DEGREES, Noise, noise_of
from agent.decision.schedule import counted, in_pairs
from agent.execution.measure import Runner
from agent.journal.comparison import PendingComparison
from agent.journal.experiment import Direction, Run, by_station, mean, metrics, succeeded
from agent.journal.state import State, gain
from agent.report.gain import metric_of
from agent.session.workbench import Workbench
from agent.source.seed import alters_randomness, hides_seed, seed_of

# Why a gain that the validation split shows is not confirmed.
ONE_SEED, HOLDOUT, NOT_SCORED = "one seed", "not on the holdout", "not scored on the holdout"
# How the code or the numbers of `b` show that setting the seed does not vary it; or else why the session saw a gain.
IN_CODE = "its code does not read its seed where the other's does"
EQUAL = "it gives the same number with every seed, the other does not"
LUCKY = "the session's own runs were lucky, or the machine drifted"
LUCKY_SEED = "the session's own runs were lucky, their seed is, or the machine drifted"
BY_NOISE = "it varies with the seed no more than by the machine's noise"


@dataclass(frozen=True)
class Sample:
    """The held-out runs of two commits.

    Attributes:
        runs: those of `a` and of `b`.
        looks: how often they have been compared before, each time with fewer runs.
        levels: station -> what it adds to the metric, compared with the station whose scale rows are on.
    """

    runs: Mapping[str, Sequence[Run]]
    looks: int = 0
    levels: Mapping[str, float] = field(default_factory=dict)

    @property
    def varied(self) -> bool:
        """Whether each pair has a seed of its own."""
        return self.runs["a"][0].seed is not None

    @property
    def scale(self) -> float:
        """The size of the largest metric, on either split."""
        every = (value for each in self.runs.values() for run in each for value in (run.metric, run.holdout))
        return max(abs(value) for value in every if value is not None)

    def on_scale(self, station: str, value: float) -> float:
        """Return a value of a station on the scale of the session's rows."""
        return value - self.levels.get(station, 0.0)

    def values(self, label: str) -> list[float]:
        """Return the values of a side on that scale."""
        return [self.on_scale(run.station, run.metric) for run in self.runs[label] if run.metric is not None]


def sample_of(
    commits: Mapping[str, str],
    latest: Mapping[str, Sequence[Run]],
    earlier: Sequence[PendingComparison],
    plan: Sequence[int],
) -> Sample:
    """Return the runs of both commits, with those of earlier comparisons.

    Args:
        commits: `a` and `b`.
        latest: label -> the latest runs.
        earlier: comparisons of the two. Each that has runs of this kind is a look at them.
        plan: the seeds of the latest runs; empty if they have the recipe's own.
    """
    every = {label: [*_runs_of(earlier, commit), *latest[label]] for label, commit in commits.items()}
    # Runs of an earlier version all have the recipe's own seed.
    runs = {label: [run for run in each if (run.seed is None) == (not plan)] for label, each in every.items()}
    looked_at = ([run for label in runs for run in _runs_of([each], commits[label])] for each in earlier)
    return Sample(runs, sum(any((run.seed is None) == (not plan) for run in each) for each in looked_at))


def latest_runs(state: State, commit: str) -> Sequence[Run]:
    """Return the held-out runs of a commit that its latest confirmation counts; none if nothing confirmed it.

    As everywhere, one with the recipe's own seed does not take the place of one of the same two with new seeds.
    """
    latest = next((each for each in reversed(state.compared) if commit in each.commits.values()), None)
    if latest is None:
        return ()
    pair = set(latest.commits.values())
    of_pair = [each for each in state.compared if set(each.commits.values()) == pair]
    latest = next((each for each in reversed(of_pair) if each.seeds), latest)
    same = alike(latest, of_pair)
    return sample_of({"own": commit}, {"own": ()}, same, latest.seeds).runs["own"]


def alike(one: PendingComparison | None, comparisons: Sequence[PendingComparison]) -> list[PendingComparison]:
    """Return the comparisons whose seeds set the same constants as those of this one."""
    return [each for each in comparisons if one is not None and each.varied == one.varied]


def on_reference(state: State, sample: Sample) -> Sample:
    """Return the sample with the levels of its stations, so that its numbers are shown on the session's scale."""
    sides = [succeeded(runs) for runs in sample.runs.values()]
    if state.session is None or not any(run.station for runs in sides for run in runs):
        return sample
    records = records_of(state.measured, state.session["direction"])
    for runs in sides:  # they may be the only ones of a station that came late
        records = records.adding(runs)
    return replace(sample, levels=records.levels.values)


def evidence_in_session(bench: Workbench, commits: Mapping[str, str], sample: Sample) -> dict[str, Any]:
    """Return the evidence, and what the session's own runs add to it."""
    state, direction = bench.journal.state, bench.runner.protocol.metric.direction
    by_stations = any(run.station for runs in sample.runs.values() for run in runs)
    same_seed = noise_of(state.measured) if by_stations else noise_here(state)
    found = evidence(bench, commits, sample, NO_NOISE if sample.varied else same_seed)
    if not sample.varied:
        return {**found, "spread": None}
    parts = spread(found["noise"], same_seed, PRIOR_DEGREES)
    if found["verdict"] == "not confirmed" and not found["why"]:
        if parts.seed and _holds_for_own_seed(state, commits, same_seed, direction):
            found["why"] = ONE_SEED
        elif _flattered(state, commits, found["high"]):
            found["reason"] = LUCKY if parts.seed == 0 else LUCKY_SEED
    return {**found, "spread": asdict(parts)}


def evidence(bench: Workbench, commits: Mapping[str, str], sample: Sample, noise: Noise = NO_NOISE) -> dict[str, Any]:
    """Return the gain on both splits, what selection cost, and the verdict, as fields of `confirmed`.

    Args:
        bench: what every step uses.
        commits: `a` and `b`.
        sample: their runs.
        noise: what else is known of the noise of these runs.
    """
    direction = bench.runner.protocol.metric.direction
    least = noise_of(bench.journal.state.measured)
    least = NO_NOISE if least.known is None else least
    found, means, _ = _compared(sample, lambda run: run.metric, direction, noise, least)
    assert found is not None
    holdout, holdout_means, scored = _compared(sample, lambda run: run.holdout, direction, least=least)
    cost, _, _ = _compared(sample, _beyond_holdout, direction)
    verdict, why, reason = found.verdict, "", ""
    if verdict == "confirmed" and (reason := _hidden_seed(bench, commits, sample)):
        verdict, why = "not confirmed", ONE_SEED
    elif verdict == "confirmed" and holdout is None and _may_be_scored(bench.runner, sample):
        verdict, why = "not confirmed", NOT_SCORED
    elif verdict == "confirmed" and holdout is not None and not holdout.low > 0:
        verdict, why = "not confirmed", HOLDOUT
    return {
        "means": means,
        "gain": found.gain,
        "low": found.low,
        "high": found.high,
        "noise": found.noise,
        "verdict": verdict,
        "why": why,
        "reason": reason,
        "holdout": None if holdout is None else {"means": holdout_means, **_interval(holdout)},
        "cost": None if cost is None else _interval(cost),
        "scored": scored,
    }


def _compared(
    sample: Sample,
    value: Callable[[Run], float | None],
    direction: Direction,
    noise: Noise = NO_NOISE,
    least: Noise = NO_NOISE,
) -> tuple[Difference | None, dict[str, float], int]:
    """Return the difference of a value of the runs, the mean of each side, and the number of pairs.

    These are of the seeds for which both sides have the value.

    Args:
        sample: the runs.
        value: which of their values.
        direction: which is better.
        noise: what else is known of the noise of these runs.
        least: the noise of runs with one seed, of which these have at least as much: if the values of each side are
            equal by chance, as a coarse metric's may be, they do not show that there is none.

    Returns:
        No difference and no means if that are fewer than two on a side.
    """
    every = {label: [(run.seed, value(run)) for run in each] for label, each in sample.runs.items()}
    lost = {seed for each in every.values() for seed, found in each if found is None and seed is not None}
    known = {
        label: [(seed, found) for seed, found in each if found is not None and seed not in lost]
        for label, each in every.items()
    }
    if any(run.station for each in sample.runs.values() for run in each):
        return _within_stations(sample, value, direction, least if noise is NO_NOISE else noise)
    a, b = (by_seed(known[label]) for label in ("a", "b"))
    if min(len(a), len(b)) < 2:
        return None, {}, min(len(a), len(b))
    means = {"a": mean(a), "b": mean(b)}
    found = difference(a, b, direction, noise, sample.looks, sample.scale)
    if found.noise == 0 and least.sd > 0:
        found = difference(a, b, direction, least, sample.looks, sample.scale)
    return found, means, min(len(a), len(b))


def _within_stations(
    sample: Sample, value: Callable[[Run], float | None], direction: Direction, noise: Noise
) -> tuple[Difference | None, dict[str, float], int]:
    """Return the same by pairs of runs on one station with one seed: numbers of different stations are no evidence."""
    pairs: dict[tuple[str, int | None], dict[str, list[float]]] = {}
    for label, runs in sample.runs.items():
        for run in runs:
            if (found := value(run)) is not None:
                pairs.setdefault((run.station, run.seed), {}).setdefault(label, []).append(found)
    both = [
        (station, a, b)
        for (station, _), sides in pairs.items()
        if len(sides) == 2
        for a, b in zip(sides["a"], sides["b"], strict=False)
    ]
    if len(both) < 2:
        return None, {}, len(both)
    gains = [gain(a, b, direction) for _, a, b in both]
    means = {
        "a": mean([sample.on_scale(station, a) for station, a, _ in both]),
        "b": mean([sample.on_scale(station, b) for station, _, b in both]),
    }
    return paired(gains, noise, sample.looks, sample.scale), means, len(both)


def _beyond_holdout(run: Run) -> float | None:
    """Return by how much a run is worse on validation: the difference of two gains is the gain of this difference."""
    return None if run.holdout is None or run.metric is None else run.metric - run.holdout


def _interval(found: Difference) -> dict[str, float]:
    return {"gain": found.gain, "low": found.low, "high": found.high}


def _may_be_scored(runner: Runner, sample: Sample) -> bool:
    """Return whether these runs should have a metric on the holdout: a model that cannot be traced has none."""
    traced = all(run.source != "untraced" for each in sample.runs.values() for run in each)
    return traced and (
        runner.holdout_command is not None or (runner.harness is not None and bool(runner.harness.holdout))
    )


def _hidden_seed(bench: Workbench, commits: Mapping[str, str], sample: Sample) -> str:
    """Return what shows that setting SEED varies `a` but not `b`; empty for nothing.

    Numbers that do not vary show nothing if the metric is coarse, so that they may be at the end of its scale, and the
    edit leaves alone how random numbers are used.
    """
    (before, known), (after, _) = (sources(bench.runner, commits[label]) for label in ("a", "b"))
    if seed_of(before, known) is None:
        return ""
    if hides_seed(before, after, known):
        return IN_CODE
    if not sample.varied:
        return ""
    state = bench.journal.state
    a, b = (_numbers(state, commits[label], sample.runs[label]) for label in ("a", "b"))
    found = EQUAL if equal_for_seeds(a, b) else BY_NOISE if _ignores_seed(state, sample) else ""
    if found and is_coarse([value for each in (*a, *b) for value in each]) and not alters_randomness(before, after):
        return ""
    return found


def _ignores_seed(state: State, sample: Sample) -> bool:
    """Return whether the numbers of `b` for different seeds differ no more than the machine's noise, unlike `a`'s."""
    sides = (by_station(succeeded(sample.runs[label])).values() for label in ("a", "b"))
    a, b = (
        [by_seed([(run.seed, run.metric) for run in runs if run.metric is not None]) for runs in each] for each in sides
    )
    return ignores_seed(a, b, noise_of(state.measured))


def _numbers(state: State, commit: str, runs: Sequence[Run]) -> list[list[float]]:
    """Return the metrics of a commit on each station that ran it with several seeds.

    Where a station has one new seed only, its runs with the recipe's own are compared with that.
    """
    own = [run for e in state.measured if e.commit == commit for run in (*e.runs, *e.heldout_runs)]
    before = by_station(run for run in own if run.station)
    found = {
        name: each if len(each) > 1 else [*each, *before.get(name, [])]
        for name, each in by_station(succeeded(runs)).items()
    }
    return [metrics(each) for each in found.values() if len(each) > 1]


def _holds_for_own_seed(state: State, commits: Mapping[str, str], noise: Noise, direction: Direction) -> bool:
    """Return whether the session's own runs, which all have the recipe's seed, show the gain without selection bias."""
    if any(run.station for e in state.experiments for run in e.runs):
        kept = next((e.verdict.evidence for e in state.experiments if e.commit == commits["b"]), None)
        return kept is not None and kept.confirmed and kept.gain > 0
    found = {e.commit: metrics(unbiased(e)) for e in state.experiments}
    a, b = (found.get(commits[label], []) for label in ("a", "b"))
    return bool(a and b) and difference(a, b, direction, noise).low > 0


def _flattered(state: State, commits: Mapping[str, str], high: float) -> bool:
    """Return whether `b` was kept with a larger gain than held-out runs leave possible."""
    before, after = (next((e for e in state.experiments if e.commit == commits[label]), None) for label in ("a", "b"))
    if state.session is None or before is None or after is None or not after.kept:
        return False
    first, then = metric_of(state, before), metric_of(state, after)
    return first is not None and then is not None and gain(first, then, state.session["direction"]) > high


def _runs_of(comparisons: Sequence[PendingComparison], commit: str) -> list[Run]:
    return [
        run
        for each in comparisons
        for label in each.commits
        if each.commits[label] == commit
        for run in runs_that_count(each, label)
    ]


def runs_that_count(comparison: PendingComparison, label: str) -> list[Run]:
    """Return the runs of the label that count; on stations those of whole pairs, as when they were made."""
    every = comparison.runs.items()
    there, here = (
        replace(comparison, runs={each: tuple(r for r in runs if bool(r.station) == way) for each, runs in every})
        for way in (True, False)
    )
    return succeeded((*in_pairs(there, label), *counted(here, label)))
