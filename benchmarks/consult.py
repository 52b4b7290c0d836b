"""Search alone, a model alone and both together, on a surrogate of the task that answers in milliseconds.

    uv run --with scikit-learn==1.9.1 python -m benchmarks.consult --trials FILE [--sessions 20] [--experiments 100]

FILE is a parquet table of real trials: `val_bpb` (missing where a trial failed), `success` and the 14 constants, as
published with arXiv 2603.24647. Trees learnt from it answer for the machine; equal candidates differ by the noise that
was measured there. The model is scripted: it knows a few good moves, tries each once from wherever the incumbent is,
and then varies single constants at random, as a model does that has run out of ideas.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from agent.edits import constants
from agent.edits import replace as replace_constants
from agent.experiment import Experiment, Proposal, Run, Value, Verdict, digest
from agent.proposers.base import Context, NoIdea, Proposer
from agent.proposers.hybrid import SHARE, HybridProposer
from agent.proposers.search import SearchProposer
from agent.proposers.space import tunable_parameters

NOISE = 0.00026
PATTERNS = ("SSSL", "SSLL", "SLSL", "LLLL", "SSSS", "LSSL")
RECIPE = """\
DEPTH = 8  # search: 4..24
ASPECT_RATIO = 64  # search: 32..128
HEAD_DIM = 128  # search: 64..256 log
DEVICE_BATCH_SIZE = 128  # search: 32..256 log
TOTAL_BATCH_SIZE = 524288  # search: 65536..2097152 log
EMBEDDING_LR = 0.6  # search: 0.01..2.0 log
UNEMBEDDING_LR = 0.004  # search: 0.0005..0.05 log
MATRIX_LR = 0.04  # search: 0.005..0.2 log
SCALAR_LR = 0.5  # search: 0.05..2.0 log
WEIGHT_DECAY = 0.2  # search: 0.0..0.5
WARMUP_RATIO = 0.0  # search: 0.0..0.3
WARMDOWN_RATIO = 0.5  # search: 0.1..0.8
FINAL_LR_FRAC = 0.0  # search: 0.0..0.2
WINDOW_PATTERN = "SSSL"  # search: "SSSL" | "SSLL" | "SLSL" | "LLLL" | "SSSS" | "LSSL"
"""
NUMBERS = [line.split(" = ")[0] for line in RECIPE.splitlines()[:-1]]
GOOD_MOVES: tuple[Mapping[str, Value], ...] = (
    {"TOTAL_BATCH_SIZE": 262144},
    {"MATRIX_LR": 0.028},
    {"FINAL_LR_FRAC": 0.04},
    {"ASPECT_RATIO": 80},
    {"WINDOW_PATTERN": "SSLL"},
    {"EMBEDDING_LR": 0.9},
)


class Scripted:
    """See the module."""

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
        raise NoIdea("nothing new")

    def tell(self, experiment: Experiment) -> None: ...

    def mend(self, *_: Any) -> Proposal:
        raise NoIdea("nothing to mend")


@cache
def surrogate(trials: Path) -> Callable[[Mapping[str, Value]], float | None]:
    """constants -> val_bpb without noise, None for a failure."""
    import numpy as np
    import pyarrow.parquet as pq
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

    rows = pq.read_table(trials).to_pylist()

    def features(values: Mapping[str, Any]) -> list[float]:
        return [float(values[name]) for name in NUMBERS] + [values["WINDOW_PATTERN"] == p for p in PATTERNS]

    everything = np.array([features(row) for row in rows])
    good = np.array([row["val_bpb"] is not None and row["val_bpb"] == row["val_bpb"] for row in rows])
    metric = np.array([row["val_bpb"] for row, ok in zip(rows, good, strict=True) if ok])
    value = ExtraTreesRegressor(200, random_state=0, n_jobs=1).fit(everything[good], metric)
    works = ExtraTreesClassifier(100, random_state=0, n_jobs=1).fit(everything, good)

    def answer(values: Mapping[str, Value]) -> float | None:
        point = [features(values)]
        return float(value.predict(point)[0]) if works.predict(point)[0] else None

    return answer


def proposer(arm: str, seed: int) -> Proposer:
    share = {"search": 0.0, "model": 1.0, "hybrid": SHARE}[arm]
    return HybridProposer(
        arm, SearchProposer(), Scripted(seed), share=share, fallback_after=0, announce=lambda *_, **__: None
    )


def session(trials: Path, experiments: int, job: tuple[str, int]) -> float:
    """The incumbent's value without noise at the end."""
    arm, seed = job
    asked, answer = proposer(arm, seed), surrogate(trials)
    files = {"train.py": RECIPE}
    history: list[Experiment] = []
    incumbent: Experiment | None = None
    best_files, truth = files, 0.0
    for number in range(experiments + 1):
        if incumbent is None:
            proposal = Proposal(files, "baseline", parameters=tunable_parameters(files, {}))
        else:
            context = Context(number, seed, best_files, incumbent, tuple(history), "minimize", {})
            proposal = asked.ask(context)
        changed = {**best_files, **proposal.files}
        real = answer(proposal.parameters)
        noise = random.Random(f"noise:{arm}:{seed}:{number}").gauss(0, NOISE)
        run = Run(None, 1.0, error="crashed") if real is None else Run(real + noise, 300.0)
        better = real is not None and (incumbent is None or (run.metric or 9.0) < (incumbent.metric or 9.0))
        verdict = Verdict("crash" if real is None else "keep" if better else "discard", "")
        done = Experiment(
            number, asked.name, proposal.description, str(number), digest(changed), proposal.parameters, (run,), verdict
        )
        history.append(done)
        asked.tell(done)
        if better:
            incumbent, best_files, truth = replace(done), changed, real or 0.0
    return truth


def main() -> None:
    parser = argparse.ArgumentParser(description="Search, model and hybrid on a surrogate.")
    parser.add_argument("--trials", type=Path, required=True)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--experiments", type=int, default=100)
    options = parser.parse_args()
    arms = ("search", "model", "hybrid")
    jobs = [(arm, seed) for seed in range(options.sessions) for arm in arms]
    with ProcessPoolExecutor(2) as pool:
        values = dict(zip(jobs, pool.map(partial(session, options.trials, options.experiments), jobs), strict=True))
    print(f"{options.sessions} sessions of {options.experiments} experiments; the incumbent without noise, mean and sd")
    hybrid = [values["hybrid", seed] for seed in range(options.sessions)]
    for arm in arms:
        found = [values[arm, seed] for seed in range(options.sessions)]
        differences = [other - own for other, own in zip(found, hybrid, strict=True)]
        error = statistics.stdev(differences) / len(differences) ** 0.5
        print(
            f"{arm:7}  {statistics.mean(found):.5f}  {statistics.stdev(found):.5f}  hybrid is lower by "
            f"{statistics.mean(differences):+.5f} (standard error {error:.5f}), in "
            f"{sum(difference > 0 for difference in differences)} of {len(differences)} sessions"
        )


if __name__ == "__main__":
    main()
