"""Simulate the optimism of hundreds of selections on one split, and of what a second split says. Nothing is trained.

    uv run python -m benchmarks.optimism [--sessions 400] [--edits 300] [--correlation R] [--noise-correlation R]
    uv run python -m benchmarks.optimism --journals FILE FILE ...

An edit's effect on a split has a part that all text shares and a part that is particular to the split; the correlation
of the effects on two splits is the first part's share of the variance. The noise of a run is partly that of its seed
and machine, which both splits share. Optimism is the apparent gain of the best over the baseline minus the gain on
text in general, in standard deviations of one run. With `--journals` both correlations are measured from the runs of
sessions that have a metric on either split, and used.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from agent.journal.experiment import Run
from agent.journal.journal import fold
from benchmarks.verdict import Simulated, gaussian, metrics

RULES = {"confirm": "the verdict", "lower wins": "strictly lower wins"}
MEAN, SD = -1.5, 1.5  # of an edit's effect, in standard deviations of one run: most edits are worse
CONFIRMING = 3  # held-out runs of baseline and best at the end
HOLDOUT = "holdout"  # the name under which a simulated run has its metric on the holdout
Pair = tuple[float, float]  # metric on the validation split and on the holdout
READINGS = (
    "validation, the runs that selected it",
    "validation, held-out runs",
    "holdout, held-out runs",
    "control: holdout, the runs that selected it",
)


@dataclass(frozen=True)
class Correlations:
    """Correlations between the splits: of the effects of edits, and of the noise of one run."""

    effects: float
    noise: float


@dataclass
class TwoSplits(Simulated):
    """A session that selects by the validation split, while every run also has a metric on the holdout.

    Attributes:
        shared: correlation of the noise of one run between the splits.
        holdout_level: the incumbent's true value on the holdout.
        holdout_effect: the effect of the candidate on the holdout.
        general: the incumbent's true gain over the baseline on text in general.
    """

    shared: float = 0.0
    holdout_level: float = 0.0
    holdout_effect: float = 0.0
    general: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.baseline, self.first = self.program, list(self.values)

    def run(self, program: Callable[[], tuple[float, float]], effect: float = 0.0) -> Run:
        run = super().run(program, effect)
        assert run.metric is not None
        noise = run.metric - (self.level - effect)
        noise = self.shared * noise + math.sqrt(1 - self.shared**2) * self.rng.gauss(0.0, 1.0)
        # Only the incumbent runs without an effect.
        level = self.holdout_level - (self.holdout_effect if effect else 0.0)
        return replace(run, secondary={**run.secondary, HOLDOUT: level + noise})

    def propose(self, general: float, on_validation: float, on_holdout: float) -> None:
        """Try an edit with a general effect and a part that is particular to each split."""
        self.holdout_effect = general + on_holdout
        if self.edit(general + on_validation):
            self.holdout_level -= self.holdout_effect
            self.general += general

    def optimism(self) -> list[float]:
        """Return the apparent gains of READINGS, minus the gain on text in general."""
        best = [self.run(self.program) for _ in range(CONFIRMING)]
        level, other, self.level, self.holdout_level = self.level, self.holdout_level, 0.0, 0.0
        base = [self.run(self.baseline) for _ in range(CONFIRMING)]
        self.level, self.holdout_level = level, other
        chosen = self.chosen if self.rule == "confirm" else self.values
        gains = [
            _mean(metrics(self.first)) - _mean(metrics(chosen)),
            _mean(metrics(base)) - _mean(metrics(best)),
            _mean(on_holdout(base)) - _mean(on_holdout(best)),
            _mean(on_holdout(self.first)) - _mean(on_holdout(chosen)),
        ]
        return [each - self.general for each in gains]


def on_holdout(runs: Iterable[Run]) -> list[float]:
    return [run.secondary[HOLDOUT] for run in runs]


def session(rule: str, between: Correlations, edits: int, seed: int) -> tuple[list[float], float]:
    """Return the optimism by READINGS, and the gain on text in general."""
    rng = random.Random(seed)
    found = TwoSplits(rule, gaussian(rng), rng=random.Random(seed + 10**6), shared=between.noise)
    general, particular = SD * math.sqrt(between.effects), SD * math.sqrt(1 - between.effects)
    for _ in range(edits):
        found.propose(rng.gauss(MEAN, general), rng.gauss(0.0, particular), rng.gauss(0.0, particular))
    return found.optimism(), found.general


def measured(groups: Sequence[Sequence[Pair]]) -> Correlations:
    """Measure the correlations from the runs of programs, one group per program.

    The noise is the variance within programs. What the variance of their means exceeds it by is that of the effects.

    Raises:
        SystemExit: too few runs have both metrics.
    """
    repeated = [group for group in groups if len(group) > 1]
    if not repeated or len(groups) < 3:
        raise SystemExit("too few runs have a metric on both splits")
    degrees = sum(len(group) - 1 for group in repeated)
    within = [sum(part) / degrees for part in zip(*map(_products, repeated), strict=True)]
    means = [(_mean([v for v, _ in group]), _mean([h for _, h in group])) for group in groups]
    noise = _mean([1 / len(group) for group in groups])
    total = [part / (len(means) - 1) for part in _products(means)]
    between = [whole - noise * part for whole, part in zip(total, within, strict=True)]
    return Correlations(max(0.0, _correlation(between)), max(0.0, _correlation(within)))


def pairs(journals: Iterable[Path]) -> list[list[Pair]]:
    """Return the metrics on both splits of all runs in journals, one group per program."""
    groups: dict[str, list[Pair]] = {}
    for number, path in enumerate(journals):
        state = fold(path)
        runs = [(each.commit, run) for each in state.experiments for run in (*each.runs, *each.heldout_runs)]
        for each in state.compared:
            runs += [(each.commits[label], run) for label, found in each.runs.items() for run in found]
        for commit, run in runs:
            other = getattr(run, HOLDOUT, None)
            if run.metric is not None and other is not None:
                groups.setdefault(f"{number} {commit}", []).append((run.metric, other))
    return list(groups.values())


def _products(pairs: Sequence[Pair]) -> tuple[float, float, float]:
    """Return the centered sums of squares and products: of the first, of both, of the second."""
    a, b = _mean([first for first, _ in pairs]), _mean([second for _, second in pairs])
    return (
        sum((first - a) ** 2 for first, _ in pairs),
        sum((first - a) * (second - b) for first, second in pairs),
        sum((second - b) ** 2 for _, second in pairs),
    )


def _correlation(moments: Sequence[float]) -> float:
    first, both, second = moments
    return min(1.0, both / math.sqrt(first * second)) if first > 0 and second > 0 else 0.0


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate the optimism of many selections on one split.")
    parser.add_argument("--sessions", type=int, default=400)
    parser.add_argument("--edits", type=int, default=300)
    parser.add_argument("--correlation", type=float, default=0.95, help="of an edit's effects on the two splits")
    parser.add_argument("--noise-correlation", type=float, default=0.9, help="of the noise of one run on them")
    parser.add_argument("--journals", type=Path, nargs="+", help="measure both in these journals")
    options = parser.parse_args()
    between = Correlations(options.correlation, options.noise_correlation)
    if options.journals:
        groups = pairs(options.journals)
        between = measured(groups)
        print(f"measured in {sum(map(len, groups))} runs of {len(groups)} programs")
    print(f"correlation of effects {between.effects:.3f}, of noise {between.noise:.3f}")
    print(f"{options.sessions} sessions of {options.edits} edits, optimism with its standard error\n")
    print(f"| rule | true gain | {' | '.join(READINGS)} |\n|---|---|{'---|' * len(READINGS)}")
    with ProcessPoolExecutor(2) as pool:
        for rule, name in RULES.items():
            task = partial(session, rule, between, options.edits)
            found = list(pool.map(task, range(options.sessions), chunksize=10))
            columns = list(zip(*(optimism for optimism, _ in found), strict=True))
            error = math.sqrt(options.sessions)
            cells = [f"{_mean(each):+.2f} ({statistics.stdev(each) / error:.2f})" for each in columns]
            print(f"| {name} | {_mean([gain for _, gain in found]):.2f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
