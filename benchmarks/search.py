"""Compare the built-in search with random search, TPE and CMA-ES on a surrogate that answers in milliseconds.

    uv run --with scikit-learn==1.9.1 --with cmaes python -m benchmarks.search --trials FILE
        [--sessions 40] [--experiments 100 300] [--noise 0.00026] [--against "with the playbook"]

See benchmarks.surrogate for FILE. All start from the default, which is measured and told to all, have the same number
of runs, and search the same ranges. The results compared are values without noise. The samplers are Optuna's with its
own settings; CMA-ES also runs with a start at the default. The search decides as a session does, so confirming runs
come out of its budget. The samplers keep the lowest number. The search also runs without near misses, without the
directions never tried, and with the entries of this repository's playbook.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from agent.journal.experiment import Experiment, Proposal, Value
from agent.playbook.entries import read_book
from agent.proposers.base import Context, Proposer
from agent.proposers.search import search
from agent.proposers.search.search import SearchProposer
from agent.proposers.search.space import Dimension, space_of
from agent.proposers.search.untried import untried
from benchmarks.surrogate import FILES, NOISE, Night, simulate, surrogate

OWN = ("search", "without near misses", "without untried", "with the playbook")
ARMS = (*OWN, "random", "tpe", "cma-es", "cma-es at the default")
WORKSPACE = Path(__file__).resolve().parents[1]
# The value that CMA-ES gets for a failure, because it needs one. The worst of the trials is 2.1.
FAILED = 2.2
SPACE = space_of(FILES, {})
SIGMA = 0.2


class Sampler:
    """One of Optuna's samplers over the whole space. It does not know the incumbent."""

    name = "optuna"

    def __init__(self, arm: str, seed: int) -> None:
        self._study = optuna.create_study(sampler=_sampler(arm, seed))
        self._failed = FAILED if arm.startswith("cma-es") else None
        self._distributions = {d.key: distribution(d) for d in SPACE.dimensions}
        self._trial: optuna.Trial | None = None

    def ask(self, context: Context) -> Proposal:
        if self._trial is None:
            default = {d.key: encoded(d, d.value) for d in SPACE.dimensions}
            value = context.history[0].metric
            self._study.add_trial(
                optuna.create_trial(params=default, distributions=self._distributions, value=value),
            )
        self._trial = self._study.ask(self._distributions)
        values = {d.key: decoded(d, self._trial.params[d.key]) for d in SPACE.dimensions}
        return Proposal(SPACE.apply(values), "", parameters=values)

    def tell(self, experiment: Experiment) -> None:
        assert self._trial is not None
        value = self._failed if experiment.metric is None else experiment.metric
        if value is None:
            self._study.tell(self._trial, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(self._trial, value)

    def repair(self, *_: Any) -> None: ...


def _sampler(arm: str, seed: int) -> optuna.samplers.BaseSampler:
    if arm == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if arm == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    if arm == "cma-es":
        return optuna.samplers.CmaEsSampler(seed=seed)
    start = {d.key: encoded(d, d.value) for d in SPACE.dimensions if d.kind != "choice"}
    return optuna.samplers.CmaEsSampler(x0=start, sigma0=SIGMA, seed=seed)


def distribution(dimension: Dimension) -> BaseDistribution:
    low, high = dimension.low, dimension.high
    if dimension.kind == "choice":
        return CategoricalDistribution(dimension.choices)
    if dimension.kind == "power":
        return IntDistribution(int(low).bit_length() - 1, int(high).bit_length() - 1)
    if dimension.kind == "int":
        return IntDistribution(int(low), int(high), log=dimension.log)
    return FloatDistribution(low, high, log=dimension.log)


def encoded(dimension: Dimension, value: Value) -> Value:
    """Return the exponent of a power of two, and any other value unchanged."""
    return int(value).bit_length() - 1 if dimension.kind == "power" else value


def decoded(dimension: Dimension, value: Any) -> Value:
    if dimension.kind == "choice":
        return value  # type: ignore[no-any-return]
    return 2 ** int(value) if dimension.kind == "power" else dimension.rounded(value)


def session(trials: Path, noise: float, job: tuple[str, int, int]) -> tuple[float, float]:
    """Return the value without noise of what was found, and seconds of processor time."""
    arm, runs, seed = job
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Optuna warns that CMA-ES draws the categorical constant at random.
    warnings.simplefilter("ignore")
    own = arm in OWN
    proposer: Proposer = SearchProposer() if own else Sampler(arm, seed)
    night = Night(seed, runs, "confirm" if own else "greedy", noise, near_misses=arm != "without near misses")
    if arm == "with the playbook":
        night = replace(night, playbook=read_book(WORKSPACE).entries)
    began = time.process_time()
    with patch.object(search, "untried", _none if arm == "without untried" else untried):
        return simulate(surrogate(trials), proposer, night)[0], time.process_time() - began


def _none(*_: Any) -> list[dict[str, Value]]:
    return []


def paired(others: list[float], own: list[float]) -> str:
    """Describe by how much `own` is lower, paired by seed."""
    differences = [other - mine for other, mine in zip(others, own, strict=True)]
    mean, error = statistics.mean(differences), statistics.stdev(differences) / len(differences) ** 0.5
    lower = sum(difference > 0 for difference in differences)
    t = f"{mean / error:.1f}" if error else "-"
    return f"{mean:+.5f} (standard error {error:.5f}, t {t}), in {lower} of {len(own)} sessions"


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the built-in search with random search, TPE and CMA-ES.")
    parser.add_argument("--trials", type=Path, required=True)
    parser.add_argument("--sessions", type=int, default=40)
    parser.add_argument("--experiments", type=int, nargs="+", default=[100, 300])
    parser.add_argument("--noise", type=float, default=NOISE)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--against", nargs="+", choices=ARMS[1:], default=ARMS[1:])
    options = parser.parse_args()
    arms = ("search", *options.against)
    seeds = range(options.first_seed, options.first_seed + options.sessions)
    surrogate(options.trials)  # before the fork, so that both workers share the trees
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as workers:
        for runs in options.experiments:
            jobs = [(arm, runs, seed) for seed in seeds for arm in arms]
            found = dict(zip(jobs, workers.map(partial(session, options.trials, options.noise), jobs), strict=True))
            print(f"{len(seeds)} sessions of {runs} runs, noise {options.noise}: value without noise, mean and sd")
            own = [found["search", runs, seed][0] for seed in seeds]
            for arm in arms:
                values = [found[arm, runs, seed][0] for seed in seeds]
                seconds = statistics.mean(found[arm, runs, seed][1] for seed in seeds)
                against = "" if arm == "search" else f"  search is lower by {paired(values, own)}"
                print(
                    f"{arm:22} {statistics.mean(values):.5f} {statistics.stdev(values):.5f} {seconds:4.1f} s{against}"
                )


if __name__ == "__main__":
    main()
