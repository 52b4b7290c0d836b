"""Compare search alone, a model alone and the hybrid, on a surrogate of the task that answers in milliseconds.

    uv run --with scikit-learn==1.9.1 python -m benchmarks.consult --trials FILE [--sessions 40] [--experiments 100]
        [--verdict confirm]

See benchmarks.surrogate for FILE. The model is scripted: it knows a few good moves, tries each once from the current
incumbent, and then varies single constants at random, like a model that has run out of proposals.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from agent.decision.sequential_test import Kind
from agent.journal.experiment import Experiment, Proposal, Value, digest
from agent.proposers.base import Context, NoProposal
from agent.proposers.hybrid import SHARE, HybridProposer
from agent.proposers.search.search import SearchProposer
from agent.proposers.search.space import tunable_parameters
from agent.source.constants import constants
from agent.source.constants import replace as replace_constants
from benchmarks.surrogate import NUMBERS, Night, simulate, surrogate

GOOD_MOVES: tuple[Mapping[str, Value], ...] = (
    {"TOTAL_BATCH_SIZE": 262144},
    {"MATRIX_LR": 0.028},
    {"FINAL_LR_FRAC": 0.04},
    {"ASPECT_RATIO": 80},
    {"WINDOW_PATTERN": "SSLL"},
    {"EMBEDDING_LR": 0.9},
)


class Scripted:
    """A scripted model that proposes good moves first, then random changes of one constant."""

    name = "llm"

    def __init__(self, seed: int) -> None:
        self._moves = list(GOOD_MOVES)
        random.Random(f"moves:{seed}").shuffle(self._moves)

    def ask(self, context: Context) -> Proposal:
        rng = random.Random(f"model:{context.seed}:{context.number}")
        found = constants(context.files["train.py"], {})
        known = {experiment.digest for experiment in context.history}
        for _ in range(50):
            change: Mapping[str, Value]
            if self._moves:
                change = self._moves.pop(0)
            else:
                name = rng.choice(NUMBERS)
                value = found[name].value
                assert isinstance(value, int | float)
                change = {name: type(value)(max(value, 0.01) * rng.choice((0.8, 0.9, 1.1, 1.25)))}
            files = {"train.py": replace_constants(context.files["train.py"], found, change)}
            if digest(files) not in known:
                return Proposal(files, str(change), parameters=tunable_parameters(files, {}))
        raise NoProposal("nothing new")

    def tell(self, experiment: Experiment) -> None: ...

    def repair(self, *_: Any) -> Proposal:
        raise NoProposal("nothing to repair")


def proposer(arm: str, seed: int) -> HybridProposer:
    share = {"search": 0.0, "model": 1.0, "hybrid": SHARE}[arm]
    return HybridProposer(
        arm, SearchProposer(), Scripted(seed), share=share, fallback_after=0, announce=lambda *_, **__: None
    )


def session(trials: Path, experiments: int, kind: Kind, job: tuple[str, int]) -> float:
    """Return the incumbent's value without noise at the end of a session."""
    arm, seed = job
    night = Night(seed, experiments, kind, count="experiments")
    return simulate(surrogate(trials), proposer(arm, seed), night)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare search, model and hybrid on a surrogate.")
    parser.add_argument("--trials", type=Path, required=True)
    parser.add_argument("--sessions", type=int, default=40)
    parser.add_argument("--experiments", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--verdict", choices=("confirm", "greedy"), default="confirm")
    options = parser.parse_args()
    arms = ("search", "model", "hybrid")
    seeds = range(options.first_seed, options.first_seed + options.sessions)
    jobs = [(arm, seed) for seed in seeds for arm in arms]
    surrogate(options.trials)  # before the fork, so that both workers share the trees
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        one = partial(session, options.trials, options.experiments, options.verdict)
        values = dict(zip(jobs, pool.map(one, jobs), strict=True))
    print(f"{options.sessions} sessions of {options.experiments} experiments; incumbent without noise, mean and sd")
    hybrid = [values["hybrid", seed] for seed in seeds]
    for arm in arms:
        found = [values[arm, seed] for seed in seeds]
        differences = [other - own for other, own in zip(found, hybrid, strict=True)]
        error = statistics.stdev(differences) / len(differences) ** 0.5
        print(
            f"{arm:7}  {statistics.mean(found):.5f}  {statistics.stdev(found):.5f}  hybrid is lower by "
            f"{statistics.mean(differences):+.5f} (standard error {error:.5f}), in "
            f"{sum(difference > 0 for difference in differences)} of {len(differences)} sessions"
        )


if __name__ == "__main__":
    main()
