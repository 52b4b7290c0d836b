"""The task of one H200 in milliseconds: trees learnt from its published trials answer for the machine.

The trials are a parquet table as published with arXiv 2603.24647: `val_bpb` (missing where a trial failed) and 14
constants. Equal candidates differ by the noise that was measured there. `simulate` is the loop without git and
processes: a proposer, a budget in runs, and a rule that decides what is kept.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agent.experiment import Experiment, Proposal, Run, Value, Verdict, digest
from agent.proposers.base import Context, Proposer
from agent.proposers.space import tunable_parameters

if TYPE_CHECKING:
    import numpy as np

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
FILES = {"train.py": RECIPE}
NUMBERS = [line.split(" = ")[0] for line in RECIPE.splitlines()[:-1]]

Answer = Callable[[Mapping[str, Value]], float | None]
# candidate, incumbent: what was measured of each so far, oldest first. again: runs one of them once more and adds what
# it gave to its list; False where the budget is spent or the run failed. True: the candidate takes over.
Judge = Callable[[list[float], list[float], Callable[[Literal["candidate", "incumbent"]], bool]], bool]


def greedy(candidate: list[float], incumbent: list[float], again: object) -> bool:  # noqa: ARG001
    """One run each, and strictly lower wins."""
    return candidate[-1] < incumbent[-1]


@cache
def surrogate(trials: Path) -> Answer:
    """constants -> val_bpb without noise, None for a failure."""
    import numpy as np
    import pyarrow.parquet as pq
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

    rows = pq.read_table(trials).to_pylist()
    everything = np.array([_features(row) for row in rows])
    good = np.array([row["val_bpb"] is not None and row["val_bpb"] == row["val_bpb"] for row in rows])
    metric = np.array([row["val_bpb"] for row, ok in zip(rows, good, strict=True) if ok])
    value = _fast(ExtraTreesRegressor(200, random_state=0, n_jobs=1).fit(everything[good], metric))
    works = _fast(ExtraTreesClassifier(100, random_state=0, n_jobs=1).fit(everything, good))

    @cache
    def known(point: tuple[float, ...]) -> float | None:
        row = np.array(point, dtype=np.float32)
        return value(row) if works(row) > 0.5 else None

    return lambda values: known(tuple(_features(values)))


def _features(values: Mapping[str, Any]) -> list[float]:
    return [float(values[name]) for name in NUMBERS] + [float(values["WINDOW_PATTERN"] == p) for p in PATTERNS]


def _fast(forest: Any) -> Callable[[np.ndarray[Any, Any]], float]:
    """The trees' mean for one point, of a classifier the share of its last class: a fraction of sklearn's time."""
    import numpy as np

    trees = [tree.tree_ for tree in forest.estimators_]
    starts = np.cumsum([0] + [tree.node_count for tree in trees[:-1]])
    left, right = (
        np.concatenate(
            [np.where(side < 0, np.arange(len(side)), side) + start for side, start in zip(sides, starts, strict=True)]
        )
        for sides in ([tree.children_left for tree in trees], [tree.children_right for tree in trees])
    )
    feature = np.maximum(np.concatenate([tree.feature for tree in trees]), 0)
    threshold = np.concatenate([tree.threshold for tree in trees])
    value = np.concatenate(
        [tree.value[:, 0, -1] / tree.value[:, 0].sum(1) ** (tree.value.shape[2] > 1) for tree in trees]
    )
    deepest = max(tree.max_depth for tree in trees)

    def predict(point: np.ndarray[Any, Any]) -> float:
        node = starts
        for _ in range(deepest):
            node = np.where(point[feature[node]] <= threshold[node], left[node], right[node])
        return float(value[node].mean())

    return predict


def simulate(
    answer: Answer, proposer: Proposer, seed: int, runs: int, judge: Judge = greedy, noise: float = NOISE
) -> float:
    """The incumbent's value without noise after `runs` runs; the baseline's first one is not counted."""
    draw = random.Random(f"noise:{seed}")
    parameters = tunable_parameters(FILES, {})
    truth = answer(parameters)
    assert truth is not None
    measured = [truth + draw.gauss(0, noise)]
    history = [_experiment(0, Proposal(FILES, "baseline", parameters=parameters), FILES, measured, "keep")]
    incumbent, files, left, number = history[0], dict(FILES), runs, 0
    while left > 0:
        number += 1
        proposal = proposer.ask(Context(number, seed, files, incumbent, tuple(history), "minimize", {}))
        changed, value = {**files, **proposal.files}, answer(proposal.parameters)
        left -= 1
        candidate = [] if value is None else [value + draw.gauss(0, noise)]

        def again(which: Literal["candidate", "incumbent"]) -> bool:
            nonlocal left
            if left <= 0:
                return False
            left -= 1
            real, found = (truth, measured) if which == "incumbent" else (value, candidate)  # noqa: B023
            found.append((real or 0.0) + draw.gauss(0, noise))
            return True

        better = bool(candidate) and judge(candidate, measured, again)
        status: Literal["keep", "discard", "crash"] = "keep" if better else "discard" if candidate else "crash"
        done = _experiment(number, proposal, changed, candidate, status)
        history.append(done)
        proposer.tell(done)
        if better:
            incumbent, files, truth, measured = done, changed, value or 0.0, candidate
    return truth


def _experiment(
    number: int,
    proposal: Proposal,
    files: Mapping[str, str],
    measured: list[float],
    status: Literal["keep", "discard", "crash"],
) -> Experiment:
    runs = tuple(Run(value, 300.0) for value in measured) or (Run(None, 1.0, error="crashed"),)
    name = proposal.proposer or "search"
    digested = digest(files)
    return Experiment(
        number, name, proposal.description, str(number), digested, proposal.parameters, runs, Verdict(status, "")
    )
