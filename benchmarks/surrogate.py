"""Simulate the task of one H200 in milliseconds, with trees learned from its published trials.

The trials are the Parquet table published with arXiv 2603.24647: `val_bpb` (missing if a trial failed) and 14
constants. Equal candidates differ by the noise that was measured there. `simulate` is the loop without git and
processes: a proposer, a budget in runs, and a rule that decides what to keep.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agent.decision.noise import noise_of
from agent.decision.sequential_test import Kind, Step, greedy, sample_of, weigh
from agent.journal.experiment import Experiment, Proposal, Run, Value, Verdict, digest
from agent.playbook.entries import Entry
from agent.proposers.base import NO_WORKSPACE, Context, Proposer, WorkspaceView
from agent.proposers.earlier import Earlier
from agent.proposers.search.space import tunable_parameters

if TYPE_CHECKING:
    import numpy as np

NOISE = 0.00026
BASELINE = Verdict("keep", "baseline")
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


@cache
def surrogate(trials: Path) -> Answer:
    """Return a function that maps constants to val_bpb without noise, or to None for a failure."""
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
    """Return a function for the trees' mean at one point, much faster than sklearn's.

    For a classifier the mean is that of the fraction of the last class.
    """
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


@dataclass(frozen=True)
class Night:
    """A session to simulate.

    Attributes:
        budget: number of runs or experiments, as `count` says. The baseline's first run is free.
        kind: the rule that decides, as in `run --verdict`.
        noise: standard deviation of one run.
        earlier: experiments of other sessions that the proposer learns from.
        playbook: its entries.
        near_misses: whether the proposer may see the files of earlier candidates, without which it joins none.
    """

    seed: int
    budget: int
    kind: Kind = "greedy"
    noise: float = NOISE
    count: Literal["runs", "experiments"] = "runs"
    earlier: tuple[Earlier, ...] = ()
    playbook: tuple[Entry, ...] = ()
    near_misses: bool = True


def simulate(answer: Answer, proposer: Proposer, night: Night) -> tuple[float, list[Experiment]]:
    """Run a session and return the incumbent's value without noise, and all experiments."""
    seed, kind = night.seed, night.kind
    draw = random.Random(f"noise:{seed}")
    parameters = tunable_parameters(FILES, {})
    truth = answer(parameters)
    assert truth is not None

    def run(value: float) -> Run:
        return Run(value + draw.gauss(0, night.noise), 300.0)

    baseline = (run(truth),) if kind == "greedy" else (run(truth), run(truth))
    history = [_experiment(0, Proposal(FILES, "baseline", parameters=parameters), FILES, baseline, BASELINE)]
    best, files, number, runs = 0, dict(FILES), 0, len(baseline) - 1
    texts = [files]
    workspace = WorkspaceView(texts=lambda each: texts[each.number]) if night.near_misses else NO_WORKSPACE
    more: dict[str, Any] = {"earlier": night.earlier, "playbook": night.playbook, "workspace": workspace}
    while (runs if night.count == "runs" else number) < night.budget:
        number += 1
        proposal = proposer.ask(Context(number, seed, files, history[best], tuple(history), "minimize", {}, **more))
        changed, value = {**files, **proposal.files}, answer(proposal.parameters)
        candidate: tuple[Run, ...] = (Run(None, 1.0, error="crashed"),) if value is None else (run(value),)
        runs += 1
        verdict: Verdict | Step = "candidate"
        while not isinstance(verdict := _judged(candidate, history, best, number, kind), Verdict):
            if night.count == "runs" and runs >= night.budget:
                verdict = Verdict("discard", "the budget is spent")
                break
            runs += 1
            if verdict == "candidate":
                assert value is not None
                candidate = (*candidate, run(value))
            else:
                history[best] = replace(history[best], heldout_runs=(*history[best].heldout_runs, run(truth)))
        history.append(_experiment(number, proposal, changed, candidate, verdict))
        texts.append(changed)
        proposer.tell(history[-1])
        if verdict.status == "keep":
            assert value is not None
            best, files, truth = number, changed, value
    return truth, history


def _judged(
    candidate: tuple[Run, ...], history: list[Experiment], best: int, number: int, kind: Kind
) -> Verdict | Step:
    metrics = [run.metric for run in candidate if run.metric is not None]
    if not metrics:
        return Verdict("crash", "crashed")
    noise = noise_of(history, candidate)
    if kind == "greedy":
        incumbent = [run.metric for run in history[best].runs if run.metric is not None]
        return greedy(metrics, incumbent, noise, "minimize")
    return weigh(metrics, sample_of(history[best], number), noise, "minimize")


def _experiment(
    number: int, proposal: Proposal, files: Mapping[str, str], runs: tuple[Run, ...], verdict: Verdict
) -> Experiment:
    name = proposal.proposer or "search"
    about = (proposal.description, str(number), digest(files), proposal.parameters)
    return Experiment(number, name, *about, runs, verdict, playbook=proposal.playbook, parts=proposal.parts)
