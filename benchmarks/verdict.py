"""Simulate false keeps, power and bias of the verdict and of three rules that other loops use. Nothing is trained.

    uv run python -m benchmarks.verdict [--sessions 400] [--edits 100]

Effects and bias are in standard deviations of one run. Every run after the baseline's is counted, including the
incumbent's. Power is measured after 20 null edits. "In a row" means that every fifth edit is real, so the incumbent is
young. The drifting machine is that of recorded sessions: its speed varies by a tenth, the number of steps that fit
explains 85 % of the variance, and the slope differs between programs by 0.4 of itself.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from agent.decision.equal_steps import STEPS, slope_of
from agent.decision.estimate import CLEAR_SIGMAS
from agent.decision.noise import PRIOR, is_less_stable, pooled
from agent.decision.sequential_test import MOST_RUNS, incumbent_sample, weigh
from agent.journal.experiment import Run, Verdict

Program = Callable[
    [], tuple[float, float]
]  # deviation of the metric and steps of one run; steps are 0 where not counted
Machine = Callable[[], Program]
BASE = 1.0 / PRIOR  # the size of the metric at which the prior of the noise is right
RULES = ("confirm", "lower wins", "three repeats, bootstrap", "twice one repeat")
BASELINE_RUNS = 2
TAIL_SHARE, TAIL_MEAN, BODY = 0.12, 2.4, 0.6
UNROUNDED = 0.8664  # the deviation that rounding to steps of 2 makes 1
UNSTABLE = (2.0, 3.0, 5.0, 10.0, 30.0)
USUAL_STEPS, WANDER, MEMORY, EXPLAINED, SLOPES_DIFFER = 40, 0.1, 0.8, 0.85, 0.4


def gaussian(rng: random.Random) -> Machine:
    return lambda: lambda: (rng.gauss(0.0, 1.0), 0.0)


def heavy(rng: random.Random) -> Machine:
    """Return a machine with standard deviation 1, mean 0 and a heavy tail of bad results, as over seeds."""
    mean = TAIL_SHARE * TAIL_MEAN
    sd = math.sqrt(BODY**2 + 2 * TAIL_SHARE * TAIL_MEAN**2 - mean**2)

    def draw() -> tuple[float, float]:
        tail = rng.expovariate(1 / TAIL_MEAN) if rng.random() < TAIL_SHARE else 0.0
        return (rng.gauss(0.0, BODY) + tail - mean) / sd, 0.0

    return lambda: draw


def drifting(rng: random.Random, *, counted: bool = True, memory: float = MEMORY) -> Machine:
    """Return a machine with standard deviation 1, most of it from its speed, which drifts from run to run.

    Args:
        counted: whether the rule sees the steps.
        memory: correlation of the speeds of one run and the next.
    """
    speed, usual = rng.gauss(0.0, WANDER), -math.sqrt(EXPLAINED / (1 + SLOPES_DIFFER**2)) / WANDER

    def program() -> Program:
        slope = usual * rng.gauss(1.0, SLOPES_DIFFER)

        def draw() -> tuple[float, float]:
            nonlocal speed
            speed = memory * speed + math.sqrt(1 - memory**2) * rng.gauss(0.0, WANDER)
            steps = round(USUAL_STEPS * math.exp(speed))
            return slope * speed + rng.gauss(0.0, math.sqrt(1 - EXPLAINED)), steps if counted else 0.0

        return draw

    return program


def coarse(rng: random.Random) -> Machine:
    """Return a Gaussian machine whose metric has steps of two standard deviations, as an accuracy on few examples."""
    return lambda: lambda: (2.0 * round(rng.gauss(0.0, UNROUNDED) / 2.0), 0.0)


def two_values(rng: random.Random) -> Machine:
    return lambda: lambda: (rng.choice((-1.0, 1.0)), 0.0)


MACHINES: dict[str, Callable[[random.Random], Machine]] = {
    "gaussian": gaussian,
    "heavy": heavy,
    "drifting": drifting,
    "drifting, steps not counted": partial(drifting, counted=False),
    "coarse": coarse,
    "of two values": two_values,
}
COARSE = ("coarse", "of two values")


@dataclass
class Simulated:
    """A session that minimizes its metric.

    Attributes:
        prior: factor by which the prior of the noise is wrong.
        level: the incumbent's true value.
        age: experiments since the incumbent was kept.
        equal_steps: whether the last verdict compared at equal steps.
    """

    rule: str
    machine: Machine
    prior: float = 1.0
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    level: float = 0.0
    runs: int = 0
    age: int = 0
    equal_steps: bool = False

    def __post_init__(self) -> None:
        self.program = self.machine()
        self.values = [self.run(self.program) for _ in range(BASELINE_RUNS)]
        self.runs = 0
        self.chosen = list(self.values)
        self.groups: list[list[Run]] = []  # of what was kept
        self.discarded: list[list[Run]] = []
        self.repeat = abs(metric(self.values[0]) - metric(self.values[1]))

    def run(self, program: Program, effect: float = 0.0) -> Run:
        self.runs += 1
        deviation, steps = program()
        return Run(self.level - effect + deviation, 1.0, {STEPS: steps} if steps else {})

    def edit(self, effect: float) -> bool:
        """Return whether a candidate that is better by `effect` is kept."""
        program = self.machine()
        kept = {
            "confirm": self._confirm,
            "lower wins": self._lower,
            "three repeats, bootstrap": self._bootstrap,
            "twice one repeat": self._twice,
        }[self.rule](program, effect)
        self.age += 1
        if kept:
            self.level, self.age, self.program = self.level - effect, 0, program
        return kept

    def reported(self) -> float:
        return statistics.mean(metrics(self.values or self.chosen))

    def repeated(self) -> list[list[Run]]:
        """Return the groups that tell the noise, as `decision.noise.repeated` does."""
        kept = [group for group in (*self.groups, self.values) if len(group) > 1]
        noise = pooled([metrics(group) for group in kept], BASE * self.prior)
        return [*kept, *(group for group in self.discarded if not is_less_stable(noise, [metrics(group)]))]

    def _confirm(self, program: Program, effect: float) -> bool:
        candidate = [self.run(program, effect)]
        while True:
            groups = [*self.repeated(), *([candidate[1:]] if len(candidate) > 2 else [])]
            noise = pooled([metrics(group) for group in groups], BASE * self.prior)
            slope = slope_of(groups, [*candidate, *self.values, *self.chosen], noise, "minimize")
            known = incumbent_sample(self.values, self.chosen, self.age, slope, candidate)
            values = slope.adjusted(candidate, candidate) if slope else metrics(candidate)
            step = weigh(values, known, slope.noise if slope else noise, "minimize")
            if isinstance(step, Verdict):
                break
            if step == "candidate":
                candidate.append(self.run(program, effect))
            else:
                self.values.append(self.run(self.program))
        self.equal_steps = slope is not None
        if step.status == "discard" and len(candidate) > 2:
            self.discarded.append(candidate[1:])
        if step.status == "keep":
            assert step.evidence is not None
            clear = (step.evidence.sigmas or 0.0) >= CLEAR_SIGMAS
            self.groups += [self.values] if clear else [self.values, candidate[1:]]
            self.chosen, self.values = candidate, list(candidate) if clear else []
        return step.status == "keep"

    def _lower(self, program: Program, effect: float) -> bool:
        """Decide as the classic loop does: the incumbent's number is the one it was kept with."""
        candidate = self.run(program, effect)
        if metric(candidate) >= self.reported():
            return False
        self.values = [candidate]
        return True

    def _bootstrap(self, program: Program, effect: float) -> bool:
        """Give a candidate that looks better two more runs, and keep it if 95 % of the bootstrapped means are better.

        The incumbent's value is known exactly.
        """
        candidate = [self.run(program, effect)]
        if metric(candidate[0]) >= self.level:
            return False
        candidate += [self.run(program, effect), self.run(program, effect)]
        means = [sum(self.rng.choices(metrics(candidate), k=3)) / 3 for _ in range(200)]
        kept = sum(mean < self.level for mean in means) >= 0.95 * len(means)
        self.values = list(candidate) if kept else self.values
        return kept

    def _twice(self, program: Program, effect: float) -> bool:
        candidate = self.run(program, effect)
        if self.reported() - metric(candidate) <= 2 * self.repeat:
            return False
        self.values = [candidate]
        return True


def metric(run: Run) -> float:
    assert run.metric is not None
    return run.metric


def metrics(runs: Sequence[Run]) -> list[float]:
    return [metric(run) for run in runs]


def null_session(rule: str, noise: str, prior: float, edits: int, seed: int) -> tuple[int, int, float]:
    """Return false keeps, runs, and the error of the value reported at the end."""
    session = _session(rule, noise, prior, seed)
    kept = sum(session.edit(0.0) for _ in range(edits))
    return kept, session.runs, session.reported() - session.level


def established(rule: str, noise: str, prior: float, effect: float, seed: int) -> bool:
    session = _session(rule, noise, prior, 10**6 + seed)
    for _ in range(20):
        session.edit(0.0)
    session.level = 0.0
    return session.edit(effect)


def in_a_row(rule: str, noise: str, prior: float, effect: float, seed: int) -> float:
    """Return the fraction of eight real edits that is kept."""
    session = _session(rule, noise, prior, 2 * 10**6 + seed)
    kept = [session.edit(effect if number % 5 == 4 else 0.0) for number in range(40)]
    return statistics.mean(kept[4::5])


def unstable(noise: str, times: float, seed: int) -> bool:
    """Return whether a null edit is kept that multiplies the noise of its own runs, after 20 null edits."""
    session = _session("confirm", noise, 1.0, 3 * 10**6 + seed)
    for _ in range(20):
        session.edit(0.0)
    session.level, machine = 0.0, session.machine

    def wild() -> Program:
        draw = machine()

        def scaled() -> tuple[float, float]:
            deviation, steps = draw()
            return times * deviation, steps

        return scaled

    session.machine = wild
    return session.edit(0.0)


def _session(rule: str, noise: str, prior: float, seed: int) -> Simulated:
    rng = random.Random(seed)
    machine = MACHINES[noise](rng)
    return Simulated(rule, machine, prior, random.Random(seed + 1))


def report(pool: ProcessPoolExecutor, rule: str, noise: str, prior: float, sessions: int, edits: int) -> str:
    seeds: Sequence[int] = range(sessions)
    nulls = list(pool.map(partial(null_session, rule, noise, prior, edits), seeds, chunksize=20))
    keeps, runs, errors = zip(*nulls, strict=True)
    cells = [f"{sum(keeps) / (sessions * edits):.4f}", f"{sum(runs) / (sessions * edits):.3f}"]
    cells.append(f"{statistics.mean(errors):+.2f} (sd {statistics.stdev(errors):.2f})")
    for effect in (1.0, 2.0, 3.0, 4.0):
        power = statistics.mean(pool.map(partial(established, rule, noise, prior, effect), range(1000), chunksize=50))
        cells.append(f"{power:.3f}")
    for effect in (2.0, 3.0):
        shares = list(pool.map(partial(in_a_row, rule, noise, prior, effect), range(250), chunksize=25))
        cells.append(f"{statistics.mean(shares):.3f}")
    return f"| {rule} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate false keeps, power and bias of verdicts.")
    parser.add_argument("--sessions", type=int, default=400)
    parser.add_argument("--edits", type=int, default=100)
    options = parser.parse_args()
    print(f"{options.sessions} sessions of {options.edits} null edits; at most {MOST_RUNS} runs per candidate")
    header = (
        "| rule | false keeps | runs per edit | bias at the end | power at 1 | 2 | 3 | 4 sd | in a row 2 | 3 sd |\n"
        "|---|---|---|---|---|---|---|---|---|---|"
    )
    with ProcessPoolExecutor(2) as pool:
        for noise in MACHINES:
            print(f"\n{noise} noise\n{header}")
            for rule in RULES[:1] if noise in ("drifting, steps not counted", *COARSE) else RULES:
                print(report(pool, rule, noise, 1.0, options.sessions, options.edits), flush=True)
        print(f"\ngaussian, the prior of the noise wrong by a factor\n{header}")
        for prior in (0.1, 0.3, 3.0, 10.0):
            row = report(pool, "confirm", "gaussian", prior, options.sessions, options.edits)
            print(row.replace("confirm", f"confirm, prior times {prior:g}"), flush=True)
        print("\nnull edits whose own noise is larger: fraction kept")
        for noise in (name for name in MACHINES if name not in COARSE):
            for times in UNSTABLE:
                kept = list(pool.map(partial(unstable, noise, times), range(1000), chunksize=50))
                print(f"{noise}, {times:g} times the noise: {statistics.mean(kept):.3f}", flush=True)


if __name__ == "__main__":
    main()
