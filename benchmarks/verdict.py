"""False keeps, power and bias of the verdict, beside three rules that other loops use. Simulated: no training.

    uv run python -m benchmarks.verdict [--sessions 400] [--edits 100]

Effects and bias are in standard deviations of one run. Every run after the baseline's is counted, of the incumbent too.
"Established": the edit comes after 20 null edits. "In a row": every fifth edit is real, so that the incumbent is young.
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

from agent.experiment import CLEAR_SIGMAS, Verdict
from agent.noise import PRIOR, pooled
from agent.verdict import MOST_RUNS, Standing, weigh

Draw = Callable[[], float]
BASE = 1.0 / PRIOR  # the metric's size at which the prior of the noise is right; --prior moves it
RULES = ("confirm", "lower wins", "three repeats, bootstrap", "twice one repeat")
BASELINE_RUNS = 2
TAIL_SHARE, TAIL_MEAN, BODY = 0.12, 2.4, 0.6


def gaussian(rng: random.Random) -> Draw:
    return lambda: rng.gauss(0.0, 1.0)


def heavy(rng: random.Random) -> Draw:
    """Standard deviation 1, mean 0, a heavy tail of bad results, as over seeds on a small machine."""
    mean = TAIL_SHARE * TAIL_MEAN
    sd = math.sqrt(BODY**2 + 2 * TAIL_SHARE * TAIL_MEAN**2 - mean**2)

    def draw() -> float:
        tail = rng.expovariate(1 / TAIL_MEAN) if rng.random() < TAIL_SHARE else 0.0
        return (rng.gauss(0.0, BODY) + tail - mean) / sd

    return draw


@dataclass
class Simulated:
    """A session whose metric is to be minimised. level: what the incumbent is really worth."""

    rule: str
    draw: Draw
    prior: float = 1.0
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    level: float = 0.0
    runs: int = 0
    age: int = 0

    def __post_init__(self) -> None:
        self.values = [self.draw() for _ in range(BASELINE_RUNS)]
        self.chosen = list(self.values)
        self.groups: list[list[float]] = []
        self.repeat = abs(self.values[0] - self.values[1])

    def run(self, effect: float = 0.0) -> float:
        self.runs += 1
        return self.level - effect + self.draw()

    def edit(self, effect: float) -> bool:
        """Whether a candidate that is better by `effect` is kept."""
        kept = {
            "confirm": self._confirm,
            "lower wins": self._lower,
            "three repeats, bootstrap": self._bootstrap,
            "twice one repeat": self._twice,
        }[self.rule](effect)
        self.age += 1
        if kept:
            self.level, self.age = self.level - effect, 0
        return kept

    def reported(self) -> float:
        values = self.values or self.chosen
        return sum(values) / len(values)

    def _confirm(self, effect: float) -> bool:
        candidate = [self.run(effect)]
        while True:
            groups = [group for group in (*self.groups, self.values, candidate[1:]) if len(group) > 1]
            noise = pooled(groups, BASE * self.prior)
            step = weigh(candidate, Standing(self.values, self.chosen, self.age), noise, "minimize")
            if isinstance(step, Verdict):
                break
            if step == "candidate":
                candidate.append(self.run(effect))
            else:
                self.values.append(self.run())
        self.groups.append(candidate[1:])
        if step.status == "keep":
            assert step.evidence is not None
            self.groups.append(self.values)
            self.chosen = candidate
            self.values = candidate if (step.evidence.sigmas or 0.0) >= CLEAR_SIGMAS else []
        return step.status == "keep"

    def _lower(self, effect: float) -> bool:
        """The classic loop: the incumbent's number is the one it was kept with."""
        candidate = self.run(effect)
        if candidate >= self.reported():
            return False
        self.values = [candidate]
        return True

    def _bootstrap(self, effect: float) -> bool:
        """Two runs more for what looks better; kept where 95 % of the bootstrapped means are better than the incumbent,
        which is known exactly."""
        candidate = [self.run(effect)]
        if candidate[0] >= self.level:
            return False
        candidate += [self.run(effect), self.run(effect)]
        means = [sum(self.rng.choices(candidate, k=3)) / 3 for _ in range(200)]
        kept = sum(mean < self.level for mean in means) >= 0.95 * len(means)
        self.values = [statistics.mean(candidate)] if kept else self.values
        return kept

    def _twice(self, effect: float) -> bool:
        candidate = self.run(effect)
        if self.reported() - candidate <= 2 * self.repeat:
            return False
        self.values = [candidate]
        return True


def null_session(rule: str, noise: str, prior: float, edits: int, seed: int) -> tuple[int, int, float]:
    """False keeps, runs, and how far the value reported at the end is from the truth."""
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
    """The share of eight real edits that is kept."""
    session = _session(rule, noise, prior, 2 * 10**6 + seed)
    kept = [session.edit(effect if number % 5 == 4 else 0.0) for number in range(40)]
    return statistics.mean(kept[4::5])


def _session(rule: str, noise: str, prior: float, seed: int) -> Simulated:
    rng = random.Random(seed)
    draw = {"gaussian": gaussian, "heavy": heavy}[noise](rng)
    return Simulated(rule, draw, prior, random.Random(seed + 1))


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
    parser = argparse.ArgumentParser(description="False keeps, power and bias of verdicts.")
    parser.add_argument("--sessions", type=int, default=400)
    parser.add_argument("--edits", type=int, default=100)
    options = parser.parse_args()
    print(f"{options.sessions} sessions of {options.edits} null edits; at most {MOST_RUNS} runs of a candidate")
    header = (
        "| rule | false keeps | runs an edit | bias of the end | power at 1 | 2 | 3 | 4 sd | in a row 2 | 3 sd |\n"
        "|---|---|---|---|---|---|---|---|---|---|"
    )
    with ProcessPoolExecutor(2) as pool:
        for noise in ("gaussian", "heavy"):
            print(f"\n{noise} noise\n{header}")
            for rule in RULES:
                print(report(pool, rule, noise, 1.0, options.sessions, options.edits), flush=True)
        print(f"\ngaussian, the prior of the noise wrong by a factor\n{header}")
        for prior in (0.1, 0.3, 3.0, 10.0):
            row = report(pool, "confirm", "gaussian", prior, options.sessions, options.edits)
            print(row.replace("confirm", f"confirm, prior times {prior:g}"), flush=True)


if __name__ == "__main__":
    main()
