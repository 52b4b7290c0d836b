"""Simulate the statement for the night: how often its bound is ever above the truth, and how many keeps are false.

    uv run python -m benchmarks.statement [--sessions 400] [--edits 100]

Sessions are those of `benchmarks.verdict`. After every experiment the bound of every keep is read, and the
reader stops when it looks best: a session counts as wrong if any bound of any keep was ever above that keep's true gain
over the baseline. Effects are in standard deviations of one run. In sessions with real edits, every tenth is one, from
the fifth on. Two controls show that the simulation can fail: the
usual 95 % t interval of each keep, and the bound with selection runs instead of held-out runs, taken for independent.
`--only "slow drift, steps not counted"` simulates a machine that is worse than those that the statement is made for.
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

from agent.decision.anytime import ALPHA, AUTOCORRELATION, interval, interval_at_equal_steps, share
from agent.decision.noise import groups_for_noise
from agent.decision.sequential_test import most_false_keeps
from agent.decision.student_t import quantile
from agent.journal.experiment import Run
from benchmarks.verdict import MACHINES, Machine, Simulated, drifting, metrics

Runs = Sequence[Run]
Groups = Sequence[Runs]
SLOW = "slow drift, steps not counted"  # a machine that is only simulated on request
KNOWN_MACHINES: dict[str, Callable[[random.Random], Machine]] = {
    **MACHINES,
    SLOW: partial(drifting, counted=False, memory=0.9),
}
EVERY, EFFECT = 10, 4.0  # in sessions with real edits
MARKS = (5, 10, 20, 50, 100)  # experiments after which false keeps are counted


@dataclass(frozen=True)
class Kept:
    """A keep.

    Attributes:
        gain: true gain over the baseline.
        chosen: the runs that selected it.
        runs: those that the next verdicts use.
        selecting: how many of the first of `runs` selected it.
        equal_steps: whether it and all keeps before it were compared at equal steps.
    """

    gain: float
    chosen: Runs
    runs: Runs
    selecting: int
    equal_steps: bool

    @property
    def heldout(self) -> Runs:
        return self.runs[self.selecting :]


def stated(number: int, base: Runs, keep: Kept, others: Groups) -> float:
    """Return the lower bound on the gain of the `number`-th keep as `report.statement` does."""
    if not keep.equal_steps:
        return measured(number, base, keep, others)
    if not keep.heldout:
        return -math.inf
    return interval_at_equal_steps(base, keep.heldout, "minimize", share(number), others).low


def measured(number: int, base: Runs, keep: Kept, others: Groups) -> float:
    """Return the bound as measured, even if the verdicts compared at equal steps."""
    return _low(number, base, keep.heldout, others)


def alone(number: int, base: Runs, keep: Kept, others: Groups) -> float:
    """Return the bound of the statement with the noise of the two programs only."""
    return stated(number, base, keep, others[:0])


def with_selection_runs(number: int, base: Runs, keep: Kept, others: Groups) -> float:
    """Return a bound that is wrong: its runs are those that selected the keep."""
    return _low(number, base, keep.chosen, others, 0.0)


def independent(number: int, base: Runs, keep: Kept, others: Groups) -> float:
    """Return the bound as measured, with neighboring runs taken for independent."""
    return _low(number, base, keep.heldout, others, 0.0)


def _low(number: int, base: Runs, runs: Runs, others: Groups, correlation: float = AUTOCORRELATION) -> float:
    if not runs:
        return -math.inf
    groups = [metrics(group) for group in others]
    return interval(metrics(base), metrics(runs), "minimize", share(number), groups, correlation).low


def usual(_: int, first: Runs, keep: Kept, others: Groups) -> float:
    """Return a bound that is wrong: Student's t at 95 % for each look, on held-out runs."""
    base, heldout = metrics(first), metrics(keep.heldout)
    groups = [group for group in (base, heldout, *map(metrics, others)) if group]
    degrees = sum(len(group) - 1 for group in groups)
    if not heldout or not degrees:
        return -math.inf
    squares = sum(sum((value - statistics.fmean(group)) ** 2 for value in group) for group in groups)
    error = math.sqrt(squares / degrees * (1 / len(base) + 1 / len(heldout)))
    by = statistics.fmean(base) - statistics.fmean(heldout)
    return by - quantile(1 - ALPHA / 2, degrees) * error


BOUNDS: dict[str, Callable[[int, Runs, Kept, Groups], float]] = {
    "the statement": stated,
    "as measured": measured,
    "the noise of the two programs only": alone,
    "as measured, independent runs": independent,
    "control: selection runs, independent": with_selection_runs,
    "control: t interval, 95 % each look": usual,
}


@dataclass
class Watched(Simulated):
    """A session whose bounds are read after every experiment.

    Attributes:
        kept: all keeps so far.
        worst: of each bound, the largest amount by which it was ever above the truth.
        as_measured: verdicts so far that did not compare at equal steps.
    """

    as_measured: int = 0
    kept: list[Kept] = field(default_factory=list)
    worst: dict[str, float] = field(default_factory=lambda: dict.fromkeys(BOUNDS, -math.inf))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.baseline = self.values

    def edit(self, effect: float) -> bool:
        kept = super().edit(effect)
        self.as_measured += not self.equal_steps
        if kept:
            equal = self.equal_steps and all(each.equal_steps for each in self.kept)
            self.kept.append(Kept(-self.level, self.chosen, self.values, len(self.values), equal))
        self.look()
        return kept

    def others(self, keep: Kept) -> list[Runs]:
        """Return the other groups of repeated runs: candidates without their first run, and other keeps."""
        own = {id(run) for run in (*self.baseline, *keep.chosen, *keep.runs)}
        groups: list[Runs] = [group for group in self.repeated() if not any(id(run) in own for run in group)]
        return groups_for_noise(groups, self.baseline, keep.heldout)

    def tightness(self) -> float:
        """Return the bound that the statement names now, as a fraction of the true gain of the best."""
        kept = enumerate(self.kept, start=1)
        lows = [stated(number, self.baseline, keep, self.others(keep)) for number, keep in kept]
        # As `report.statement` chooses: the best, or the one with the highest bound.
        bound = lows[-1] if lows and lows[-1] > 0 else max(lows, default=-math.inf)
        return max(0.0, bound / self.kept[-1].gain) if self.kept and self.kept[-1].gain > 0 else 0.0

    def look(self) -> None:
        for number, keep in enumerate(self.kept, start=1):
            others = self.others(keep)
            for name, bound in BOUNDS.items():
                self.worst[name] = max(self.worst[name], bound(number, self.baseline, keep, others) - keep.gain)


@dataclass(frozen=True)
class Result:
    """A session: how far each bound was above the truth, and at MARKS false keeps, those stated, and bound / gain."""

    worst: dict[str, float]
    false: list[int]
    stated: list[float]
    ratios: list[float]


def session(noise: str, real: bool, edits: int, seed: int) -> Result:
    rng = random.Random(seed)
    watched = Watched("confirm", KNOWN_MACHINES[noise](rng), rng=random.Random(seed + 1))
    false, counts, said, ratios = 0, [], [], []
    for number in range(1, edits + 1):
        effect = EFFECT if real and number % EVERY == EVERY // 2 else 0.0
        false += watched.edit(effect) and not effect
        if number in MARKS:
            counts.append(false)
            said.append(most_false_keeps("confirm", number, watched.as_measured))
            ratios.append(watched.tightness())
    return Result(watched.worst, counts, said, ratios)


def greedy_false(noise: str, edits: int, seed: int) -> list[int]:
    """Return the false keeps at MARKS of "strictly lower wins"."""
    watched, false, counts = Simulated("lower wins", KNOWN_MACHINES[noise](random.Random(seed))), 0, []
    for number in range(1, edits + 1):
        false += watched.edit(0.0)
        if number in MARKS:
            counts.append(false)
    return counts


def wrong_row(noise: str, results: dict[bool, list[Result]]) -> list[str]:
    """Format how often each bound was ever wrong."""
    rows = []
    for name in BOUNDS:
        shares = [statistics.fmean(each.worst[name] > 0 for each in found) for found in results.values()]
        rows.append(f"| {noise} | {name} | {' | '.join(f'{each:.4f}' for each in shares)} |")
    return rows


def false_rows(noise: str, results: dict[bool, list[Result]], greedy: Sequence[Sequence[int]]) -> list[str]:
    """Format the mean number of false keeps at MARKS, and what the statement says on average."""
    rows = []
    for real, name in ((False, "confirm"), (True, "confirm, every tenth edit real")):
        counts, stated = ([getattr(each, part) for each in results[real]] for part in ("false", "stated"))
        rows.append((name, _means(counts), _means(stated)))
    rows.append(("greedy", _means(greedy), [most_false_keeps("greedy", mark, mark) for mark in MARKS]))
    return [
        f"| {noise} | {name} | "
        + " | ".join(f"{count:.2f} (at most {most:.2f})" for count, most in zip(counts, stated, strict=False))
        + " |"
        for name, counts, stated in rows
    ]


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.fmean(column) for column in zip(*rows, strict=True)]


def tight(noise: str, found: Sequence[Result]) -> str:
    """Format the bound at MARKS as a fraction of the true gain of the best."""
    columns = zip(*(each.ratios for each in found), strict=True)
    cells = (
        f"{statistics.median(column):.2f} ({statistics.fmean(each > 0 for each in column):.2f})" for column in columns
    )
    return f"| {noise} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate the statement for the night.")
    parser.add_argument("--sessions", type=int, default=400)
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument(
        "--only", choices=KNOWN_MACHINES, action="append", help="simulate this machine; may be repeated"
    )
    options = parser.parse_args()
    seeds = range(options.sessions)
    wrong: list[str] = []
    false: list[str] = []
    ratios: list[str] = []
    with ProcessPoolExecutor(2) as pool:
        for noise in options.only or MACHINES:
            results = {
                real: list(pool.map(partial(session, noise, real, options.edits), seeds, chunksize=10))
                for real in (False, True)
            }
            greedy = list(pool.map(partial(greedy_false, noise, options.edits), seeds, chunksize=10))
            wrong += wrong_row(noise, results)
            false += false_rows(noise, results, greedy)
            ratios.append(tight(noise, results[True]))
    print(f"{options.sessions} sessions of {options.edits} edits\n\nsessions in which a bound was ever above the truth")
    print("| noise | bound | null edits only | every tenth edit real |\n|---|---|---|---|", *wrong, sep="\n")
    print("\nfalse keeps so far, and stated, after so many experiments")
    print(f"| noise | rule | {' | '.join(map(str, MARKS))} |\n|---|---|{'---|' * len(MARKS)}", *false, sep="\n")
    print("\nevery tenth edit real: median of bound / true gain of the best (sessions with a bound above zero)")
    print(f"| noise | {' | '.join(map(str, MARKS))} |\n|---|{'---|' * len(MARKS)}", *ratios, sep="\n")


if __name__ == "__main__":
    main()
