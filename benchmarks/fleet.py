"""Simulate sessions with several stations, with the session's own verdict, assignment and search. Nothing is trained.

    uv run --with scikit-learn==1.9.1 python -m benchmarks.fleet --trials FILE
        [--sessions 40] [--stations 2 4 8 16] [--edits 20000] [--single-edits 400]

See benchmarks.surrogate for FILE. Stations differ by a factor of 2 in speed (mean 1), and by 5 % in level. A run takes
the inverse of the speed; `--same-time` lets every run take the same time, as with a budget in seconds. The unit of time
is a run of the mean station. The target is the value without noise that sessions of one station (the present loop)
reach in 100 runs, on average. Many stations have reached it when the mean of their sessions' incumbents, without
noise, is as low; errors are by the bootstrap over sessions, of both sides.
"""

from __future__ import annotations

import argparse
import bisect
import heapq
import math
import os
import random
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from agent.decision.decide import DecisionConfig
from agent.decision.estimate import split
from agent.decision.levels import Records, aligned, records_of
from agent.decision.noise import PRIOR
from agent.decision.pooling import value_on_reference
from agent.decision.stations import Trial, Wants, judge_across
from agent.fleet.assign import InFlight, Task, View, next_task
from agent.journal.experiment import Evidence, Experiment, Proposal, Run, Value, Verdict, by_station, digest, succeeded
from agent.proposers.base import Context, Flying, WorkspaceView
from agent.proposers.search.search import SearchProposer
from agent.proposers.search.space import tunable_parameters
from agent.source.merging import carried_over
from benchmarks.surrogate import BASELINE, FILES, NOISE, Night, simulate, surrogate

SPREAD, LEVEL = 2.0, 0.05
RUNS = 100  # of one station, which the target is taken from
TARGETS = {2: 1.7, 4: 3.0, 8: 5.0, 16: 7.0}
# Time limit of a session in run times, as a multiple of the time at which the target would be met.
PATIENCE = 1.5
BOOTSTRAPS = 400
EDITS = 100  # null edits of one session
NULLS = 20  # null edits before the one whose verdict is simulated
BASE = 1.0 / PRIOR  # the size of the metric at which the prior of the noise is right

Truth = Callable[[Mapping[str, Value], str], float | None]  # parameters and station -> metric without noise and level
Propose = Callable[[Context], Proposal]


@dataclass(frozen=True)
class Machine:
    """A station."""

    name: str
    speed: float
    level: float
    noise: float


def machines(count: int, seed: int, noise: float, size: float, same_time: bool = False) -> list[Machine]:
    """Return stations with speeds evenly over a factor of SPREAD, and levels that differ by LEVEL of `size`."""
    rng = random.Random(f"stations:{seed}")
    speeds = [SPREAD ** (index / max(1, count - 1) - 0.5) for index in range(count)]
    speeds = [speed / statistics.mean(speeds) for speed in speeds]
    rng.shuffle(speeds)
    levels = [0.0 if count == 1 else rng.uniform(-LEVEL / 2, LEVEL / 2) * size for _ in speeds]
    return [
        Machine(f"s{number}", 1.0 if same_time else speed, level, noise)
        for number, (speed, level) in enumerate(zip(speeds, levels, strict=True))
    ]


@dataclass
class Candidate:
    proposal: Proposal
    files: Mapping[str, str]
    base: int
    runs: list[Run] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    wants: Wants | None = None


@dataclass
class Session:
    """A session on simulated stations.

    Attributes:
        naive: compare raw numbers over stations, one run each, and keep what is strictly lower.
        most: proposals that the session takes; None for any number.
        merged: winners on an old base that were proposed again.
        curve: time and true value of each incumbent.
    """

    stations: Sequence[Machine]
    truth: Truth
    propose: Propose
    seed: int
    naive: bool = False
    most: int | None = None
    recipe: Mapping[str, str] = field(default_factory=lambda: FILES)
    now: float = 0.0
    candidates: dict[int, Candidate] = field(default_factory=dict)
    proposed: int = 0
    merged: int = 0
    runs: int = 0
    best: int = 0
    curve: list[tuple[float, float]] = field(default_factory=list)
    since: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.draw = random.Random(f"noise:{self.seed}")
        self.files: Mapping[str, str] = self.recipe
        self.parameters = tunable_parameters(self.files, {})
        first = Proposal(self.files, "baseline", parameters=self.parameters)
        self.history = [_experiment(0, first, self.files, (), BASELINE)]
        self.texts: list[Mapping[str, str]] = [self.files]
        self.workspace = WorkspaceView(texts=lambda each: self.texts[each.number])
        self.doing: dict[str, tuple[Task, int] | None] = dict.fromkeys((each.name for each in self.stations), None)
        self.events: list[tuple[float, int, Machine, Task, int]] = []
        self.records = Records([], "minimize", tuple(self.doing))
        if self.naive:
            self._add_to(0, self._run(self.parameters, self.stations[0]))
            self.runs = 0
        self.curve.append((0.0, self._true(self.parameters)))

    def go(self, until: float) -> Session:
        """Run until a time, or until all proposals have a verdict."""
        while True:
            for station in self.stations:
                if self.doing[station.name] is None:
                    self._assign(station)
            if not self.events or self.events[0][0] > until:
                return self
            self.now, _, station, task, base = heapq.heappop(self.events)
            self.doing[station.name] = None
            self.since[station.name] = 0 if task.kind == "incumbent" else self.since.get(station.name, 0) + 1
            self._finish(station, task, base)

    def _assign(self, station: Machine) -> None:
        found = self._next(station)
        if found is None:
            return
        task, base = found
        if task.kind == "propose":
            task = Task("candidate", self._new())
        if task.kind == "candidate":
            self.candidates[task.candidate].running.append(station.name)
        self.doing[station.name] = task, base
        heapq.heappush(self.events, (self.now + 1 / station.speed, self.runs, station, task, base))
        self.runs += 1

    def _next(self, station: Machine) -> tuple[Task, int] | None:
        """Return what a station runs next, and the base that it is about, as `Fleet` chooses it."""
        may = self.most is None or self.proposed - self.merged < self.most
        if self.naive:
            return (Task("propose"), self.best) if may else None
        latest = self._view(self.best, may)
        for base in sorted({each.base for each in self.candidates.values()} - {self.best}):
            view = self._view(base, may=False)
            begun = station.name in view.known or latest.measured.get(station.name)
            if begun and (task := next_task(station.name, view)) is not None:
                return task, base
        task = next_task(station.name, latest)
        return None if task is None else (task, self.best)

    def _view(self, base: int, may: bool) -> View:
        heldout, _ = split(self.history[base])
        flights = [
            InFlight(number, len(each.runs), tuple(each.running), each.wants)
            for number, each in self.candidates.items()
            if each.base == base
        ]
        return View(
            {name: self._doing(name, base) for name in self.doing},
            flights,
            Counter(run.station for run in heldout),
            frozenset(self.records.levels.values) if self.records.groups else frozenset[str](),
            self.since,
            self.records.noise.degrees if base == self.best else math.inf,
            len(self.history) - 1 - base if base == self.best else 0,
            may,
        )

    def _doing(self, name: str, base: int) -> Task | None:
        """Return what a station does, as a base's candidates see it: another base's incumbent is a candidate."""
        if (found := self.doing[name]) is None:
            return None
        task, of = found
        return task if task.kind == "candidate" or of == base else Task("candidate")

    def _new(self) -> int:
        flight = tuple(
            Flying(number, "", each.proposal.parameters, digest(each.files), ("train.py",), self._mean(each))
            for number, each in self.candidates.items()
        )
        told = self.history if self.naive else aligned(self.history, self.records)
        about = (self.proposed + 1, self.seed, self.files, told[self.best], tuple(told))
        return self._launch(self.propose(Context(*about, "minimize", {}, workspace=self.workspace, flight=flight)))

    def _launch(self, proposal: Proposal) -> int:
        self.proposed += 1
        self.candidates[self.proposed] = Candidate(proposal, {**self.files, **proposal.files}, self.best)
        return self.proposed

    def _mean(self, candidate: Candidate) -> float | None:
        return value_on_reference(by_station(succeeded(candidate.runs)), self.records)

    def _finish(self, station: Machine, task: Task, base: int) -> None:
        if task.kind == "incumbent":
            self._add_to(base, self._run(self.history[base].parameters, station))
            changed = list(self.candidates)
        else:
            candidate = self.candidates.get(task.candidate)
            if candidate is None:
                return
            candidate.running.remove(station.name)
            candidate.runs.append(self._run(candidate.proposal.parameters, station))
            changed = [task.candidate]
        while changed:
            number = changed.pop(0)
            if number in self.candidates and self.candidates[number].runs and self._judge(number):
                changed = list(self.candidates)

    def _judge(self, number: int) -> bool:
        """Judge a candidate; return whether it is the new incumbent."""
        candidate = self.candidates[number]
        verdict = self._naive(candidate) if self.naive else self._across(candidate)
        if isinstance(verdict, Wants):
            candidate.wants = verdict
            return False
        del self.candidates[number]
        self._end_runs(number)
        if verdict.status == "keep" and candidate.base != self.best and not self.naive:
            verdict = self._merge(candidate, verdict)
        place = len(self.history)
        found = _experiment(place, candidate.proposal, candidate.files, tuple(candidate.runs), verdict)
        self.history.append(replace(found, base=candidate.base))
        self.texts.append(candidate.files)
        self._remember()
        if verdict.status != "keep":
            return False
        self.best, self.files = place, candidate.files
        self.curve.append((self.now, self._true(candidate.proposal.parameters)))
        return True

    def _end_runs(self, number: int) -> None:
        """End the runs of a candidate that has its verdict, as `Fleet` does."""
        for event in [each for each in self.events if each[3].candidate == number]:
            self.events.remove(event)
            self.doing[event[2].name] = None
        heapq.heapify(self.events)

    def _merge(self, winner: Candidate, verdict: Verdict) -> Verdict:
        """Propose the change of a winner on an old base for the incumbent, as `Fleet` does, and return its verdict."""
        texts = self.files, self.texts[winner.base], winner.files
        change, conflicts = carried_over(texts, {}, self.workspace.merge)
        whole = {**self.files, **change}
        tried = {each.digest for each in self.history} | {digest(each.files) for each in self.candidates.values()}
        if not conflicts and digest(whole) not in tried:
            self.merged += 1
            self._launch(replace(winner.proposal, files=change, parameters=tunable_parameters(whole, {})))
        reason = f"better than #{winner.base}, but #{self.best} was kept meanwhile"
        return replace(verdict, status="discard", reason=reason)

    def _across(self, candidate: Candidate) -> Verdict | Wants:
        heldout, selection = split(self.history[candidate.base])
        age, overtaken = len(self.history) - 1 - candidate.base, candidate.base != self.best
        trial = Trial(candidate.runs, heldout, selection, age=age, overtaken=overtaken)
        return judge_across(trial, self.records, DecisionConfig())

    def _naive(self, candidate: Candidate) -> Verdict:
        value, best = candidate.runs[0].metric, self.history[self.best].runs[0].metric
        if value is None:
            return Verdict("crash", "crashed")
        assert best is not None
        return Verdict(
            "keep" if value < best else "discard", "", Evidence("greedy", value, 1, best, 1, best - value, 0, 0)
        )

    def _add_to(self, number: int, run: Run) -> None:
        """Add a run to a kept experiment."""
        kept = self.history[number]
        known = {"heldout_runs": (*kept.heldout_runs, run)} if kept.runs else {"runs": (run,)}
        self.history[number] = replace(kept, **known)
        self._remember()

    def _remember(self) -> None:
        if not self.naive:
            self.records = records_of(self.history, "minimize", stations=tuple(self.doing))

    def _run(self, parameters: Mapping[str, Value], station: Machine) -> Run:
        value = self.truth(parameters, station.name)
        if value is None:
            return Run(None, 1.0, error="crashed", station=station.name)
        return Run(value + station.level + self.draw.gauss(0, station.noise), 1.0, station=station.name)

    def _true(self, parameters: Mapping[str, Value]) -> float:
        """Return the mean over the stations, without noise and levels."""
        values = [self.truth(parameters, each.name) for each in self.stations]
        return statistics.mean(value for value in values if value is not None)


def _experiment(
    number: int, proposal: Proposal, files: Mapping[str, str], runs: tuple[Run, ...], verdict: Verdict
) -> Experiment:
    about = (proposal.description, str(number), digest(files), proposal.parameters)
    return Experiment(number, "search", *about, runs, verdict, parts=proposal.parts)


def searched(trials: Path, same_time: bool, job: tuple[int, bool, int]) -> list[tuple[float, float]]:
    """Return the curve of a session that searches: time and true value of each incumbent."""
    count, naive, seed = job
    answer = surrogate(trials)
    size = answer(tunable_parameters(FILES, {}))
    assert size is not None
    target = TARGETS.get(count, 0.6 * count)
    stations = machines(count, seed, NOISE, size, same_time)
    session = Session(stations, lambda values, _: answer(values), SearchProposer().ask, seed, naive)
    return session.go((RUNS + 1) / target * PATIENCE).curve


def single(trials: Path, seed: int) -> float:
    return simulate(surrogate(trials), SearchProposer(), Night(seed, RUNS, "confirm"))[0]


def reached(curves: Sequence[Sequence[tuple[float, float]]], target: float) -> float:
    """Return when the mean of the curves first is at the target or below; infinite if never."""
    times = sorted({time for curve in curves for time, _ in curve})
    columns = [([time for time, _ in curve], [value for _, value in curve]) for curve in curves]
    low, high = 0, len(times)
    while low < high:
        middle = (low + high) // 2
        mean = statistics.fmean(values[bisect.bisect_right(known, times[middle]) - 1] for known, values in columns)
        low, high = (low, middle) if mean <= target else (middle + 1, high)
    return times[low] if low < len(times) else float("inf")


def speed_up(singles: Sequence[float], curves: Sequence[Sequence[tuple[float, float]]]) -> tuple[float, float]:
    """Return how many times faster the stations reach the mean of one station, with its standard error."""

    def once(ones: Sequence[float], many: Sequence[Sequence[tuple[float, float]]]) -> float:
        return (RUNS + 1) / reached(many, statistics.fmean(ones))

    rng = random.Random(0)
    again = [once(rng.choices(singles, k=len(singles)), rng.choices(curves, k=len(curves))) for _ in range(BOOTSTRAPS)]
    return once(singles, curves), statistics.stdev(again)


class Edits:
    """Proposes edits one after the other, each of a constant of its own, so that they merge. One may be real."""

    def __init__(self, count: int, real: int | None = None) -> None:
        self.recipe = {"train.py": "".join(f"X{number} = 0  # search: 0 | 1\n" for number in range(1, count + 1))}
        self.real, self._proposed = f"X{real}", 0

    def propose(self, context: Context) -> Proposal:
        self._proposed += 1
        name = f"X{self._proposed}"
        text = context.files["train.py"].replace(f"{name} = 0", f"{name} = 1")
        return Proposal({"train.py": text}, name, parameters={**context.incumbent.parameters, name: 1})


def nulls(edits: int, naive: bool, job: tuple[int, int]) -> tuple[int, int, int]:
    """Return false keeps, edits and runs of a session in which no edit changes anything."""
    count, seed = job
    these = Edits(edits)
    stations = machines(count, seed, 1.0, BASE)
    session = Session(stations, lambda *_: BASE, these.propose, seed, naive, edits, these.recipe).go(float("inf"))
    return len(session.curve) - 1, edits, session.runs


def single_edit(count: int, gains: Callable[[str], float], seed: int) -> Verdict:
    """Return the verdict on one edit after 20 null edits; the last one if it was merged onto a new incumbent.

    Args:
        gains: station -> gain of the edit there, in standard deviations of one run.
    """
    these = Edits(NULLS + 1, NULLS + 1)

    def truth(values: Mapping[str, Value], station: str) -> float:
        return BASE - (gains(station) if values[these.real] else 0.0)

    stations = machines(count, seed, 1.0, BASE)
    session = Session(stations, truth, these.propose, seed, most=NULLS + 1, recipe=these.recipe).go(float("inf"))
    about = [each for each in session.history if each.description == these.real]
    return next((each.verdict for each in about if each.verdict.status == "keep"), about[-1].verdict)


def power(count: int, effect: float, seed: int) -> bool:
    return single_edit(count, lambda _: effect, seed).status == "keep"


def disagreeing(count: int, effect: float, seed: int) -> str:
    """Return what becomes of an edit that is better on every other station and worse by half as much on the rest."""
    found = single_edit(count, lambda name: effect if int(name[1:]) % 2 else -effect / 2, seed)
    return "found" if found.reason.startswith("better on") else found.status


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate sessions with several stations.")
    parser.add_argument("--trials", type=Path)
    parser.add_argument("--sessions", type=int, default=40)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--stations", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--edits", type=int, default=20_000)
    parser.add_argument("--single-edits", type=int, default=400)
    parser.add_argument("--same-time", action="store_true")
    options = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # two processes with two threads each are slower on two cores
    seeds = range(options.first_seed, options.first_seed + options.sessions)
    if options.trials:
        surrogate(options.trials)  # before the fork, so that both workers share the trees
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        if options.trials and options.sessions:
            singles = list(pool.map(partial(single, options.trials), seeds))
            print(f"one station, {RUNS} runs: {statistics.mean(singles):.5f} (sd {statistics.stdev(singles):.5f})")
            for count in options.stations:
                for naive in (False, True):
                    jobs = [(count, naive, seed) for seed in seeds]
                    curves = list(pool.map(partial(searched, options.trials, options.same_time), jobs))
                    times, error = speed_up(singles, curves)
                    print(f"{count:3} stations{' naive' if naive else ''}: {times:.2f} +- {error:.2f}", flush=True)
        for naive in (False, True):
            for count in options.stations if options.edits else []:
                sessions = [(count, seed) for seed in range(options.edits // EDITS)]
                found = list(pool.map(partial(nulls, EDITS, naive), sessions, chunksize=4))
                keeps, edits, runs = (sum(each) for each in zip(*found, strict=True))
                name = f"{count:3} stations{' naive' if naive else ''}"
                print(f"{name}: {keeps} of {edits}: {keeps / edits:.4f}, {runs / edits:.2f} runs per edit", flush=True)
        for count in options.stations if options.single_edits else []:
            seeds = range(options.single_edits)
            for effect in (2.0, 3.0, 4.0):
                kept = list(pool.map(partial(power, count, effect), seeds, chunksize=10))
                print(f"{count:3} stations, an edit of {effect:g} noises: kept {statistics.mean(kept):.3f}", flush=True)
            for effect in (4.0, 8.0, 12.0):
                ends = Counter(pool.map(partial(disagreeing, count, effect), seeds, chunksize=10))
                shares = ", ".join(f"{name} {ends[name] / len(seeds):.3f}" for name in sorted(ends))
                print(f"{count:3} stations, +{effect:g} on half and {-effect / 2:g} on half: {shares}", flush=True)


if __name__ == "__main__":
    main()
