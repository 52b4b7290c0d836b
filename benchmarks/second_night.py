"""Measure on the surrogate what a second night gains from the experiments of a first one.

    uv run --with scikit-learn==1.9.1 python -m benchmarks.second_night --trials FILE [--sessions 40]

See benchmarks.surrogate for FILE. Every night starts at the default. The second night has other seeds and other noise
than the first, and `fresh` is the same second night without knowledge. All nights of a session are compared with its
fresh one of 100 runs. On "another machine" every metric of the first night is higher by 0.1, and the search knows only
that the conditions differ.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from agent.decision.estimate import estimate
from agent.journal.experiment import Experiment
from agent.journal.history import change_of
from agent.proposers.earlier import Earlier
from agent.proposers.search.search import SearchProposer
from benchmarks.search import paired
from benchmarks.surrogate import NOISE, Night, simulate, surrogate

OTHER_SEED = 10_000
SLOWER = 0.1
FRESH = "fresh, 100 runs"
ARMS = (
    "first night, 100 runs",
    "first night, 50 runs",
    FRESH,
    "fresh, 50 runs",
    "second night, 50 runs after 100",
    "second night, 50 runs after 50",
    "second night, 50 runs after 100 on another machine",
)


def learned(history: Sequence[Experiment]) -> tuple[Earlier, ...]:
    return tuple(
        Earlier(
            "first",
            each.number,
            each.verdict.status,
            estimate(each),
            change_of(history, each),
            each.parameters,
            each.digest,
            each.description,
            alike=True,
        )
        for each in history
    )


def elsewhere(earlier: tuple[Earlier, ...]) -> tuple[Earlier, ...]:
    return tuple(
        replace(each, alike=False, metric=None if each.metric is None else each.metric + SLOWER) for each in earlier
    )


def session(trials: Path, noise: float, seed: int) -> list[float]:
    """Return the value without noise that each of ARMS found."""
    answer = surrogate(trials)

    def run(seed: int, runs: int, earlier: tuple[Earlier, ...] = ()) -> tuple[float, tuple[Earlier, ...]]:
        value, history = simulate(answer, SearchProposer(), Night(seed, runs, "confirm", noise, earlier=earlier))
        return value, learned(history)

    other = OTHER_SEED + seed
    (whole, after_whole), (half, after_half) = run(seed, 100), run(seed, 50)
    return [
        whole,
        half,
        run(other, 100)[0],
        run(other, 50)[0],
        run(other, 50, after_whole)[0],
        run(other, 50, after_half)[0],
        run(other, 50, elsewhere(after_whole))[0],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a second night gains from the first.")
    parser.add_argument("--trials", type=Path, required=True)
    parser.add_argument("--sessions", type=int, default=40)
    parser.add_argument("--noise", type=float, default=NOISE)
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args()
    surrogate(options.trials)  # before the fork, so that both workers share the trees
    seeds = range(options.first_seed, options.first_seed + options.sessions)
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as workers:
        found = [*workers.map(partial(session, options.trials, options.noise), seeds)]
    columns = dict(zip(ARMS, map(list, zip(*found, strict=True)), strict=True))
    print(f"{len(seeds)} sessions, noise {options.noise}: value without noise, mean and standard error")
    for arm, values in columns.items():
        error = statistics.stdev(values) / len(values) ** 0.5
        against = "" if arm == FRESH else f"  lower than {FRESH!r} by {paired(columns[FRESH], values)}"
        print(f"{arm:52} {statistics.mean(values):.5f} {error:.5f}{against}")


if __name__ == "__main__":
    main()
