"""The importance of constants: known functions are ranked as they are, and intervals hold what they promise."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from agent.journal.experiment import Experiment, Run, Value, Verdict
from agent.proposers.search.importance import MOST_CONSTANTS, Importance, importances, observed
from agent.proposers.search.space import space_of

NAMES = ("A", "B", "C", "D", "E", "F")


def experiment(number: int, parameters: Mapping[str, Value], metric: float | None, kept: bool = False) -> Experiment:
    status = "crash" if metric is None else "keep" if kept else "discard"
    run = Run(metric, 1.0, error="failed" if metric is None else None)
    verdict = Verdict(status, "")  # type: ignore[arg-type]
    return Experiment(number, "search", "", f"{number:040x}", f"{number}", parameters, (run,), verdict)


def session(
    function: Callable[[list[float]], float], count: int, seed: int, noise: float = 0.05
) -> tuple[list[Experiment], list[list[float]]]:
    """Return the history of a search that moves one to three constants of the best at a time, and its points."""
    chance = random.Random(seed)
    best, value = [0.9] * len(NAMES), math.inf
    history, points = [], []
    for number in range(count):
        point = list(best)
        for place in chance.sample(range(len(NAMES)), chance.choice((1, 1, 2, 3)) if number else 0):
            point[place] = min(1.0, max(0.0, point[place] + chance.gauss(0, chance.choice((0.03, 0.08, 0.2, 0.3)))))
        metric = function(point) + chance.gauss(0, noise)
        kept = metric < value
        best, value = (point, metric) if kept else (best, value)
        history.append(experiment(number, dict(zip(NAMES, point, strict=True)), metric, kept))
        points.append(point)
    return history, points


def uneven(point: list[float]) -> float:
    weights = (3.0, 1.5, 0.7, 0.3, 0.0, 0.0)
    parts = enumerate(zip(weights, point, strict=True))
    return sum(w * (abs(x - 0.5) if i % 2 else 2 * (x - 0.3) ** 2) for i, (w, x) in parts)


def named(found: list[Importance]) -> dict[str, Importance]:
    return {each.dimension.name: each for each in found}


def test_importance_is_computed_in_one_thread() -> None:
    """Threads of the BLAS spin while they wait for a core, and take it from the run that trains."""
    history, _ = session(uneven, 150, 0)
    all_threads, this_thread = time.process_time(), time.thread_time()
    assert all(each.share is not None for each in importances(observed(history), history, "minimize")[:3])
    assert time.process_time() - all_threads < 1.5 * (time.thread_time() - this_thread)


def test_what_matters_comes_first() -> None:
    chance = random.Random(0)
    history = []
    for number in range(60):
        point = [chance.random() for _ in NAMES]
        history.append(experiment(number, dict(zip(NAMES, point, strict=True)), 2 * point[0] + point[1] + 5.0))
    found = importances(None, history, "minimize")
    assert [each.dimension.name for each in found[:2]] == ["A", "B"]
    shares = named(found)
    # A linear function of independent uniform values has the indices 4/5 and 1/5.
    assert shares["A"].share == pytest.approx(0.8, abs=0.15)
    assert shares["B"].share == pytest.approx(0.2, abs=0.15)
    for name in "CDEF":
        assert (shares[name].share or 0.0) < 0.05
        assert shares[name].low == 0.0
    assert importances(None, history, "minimize") == found  # the same page each time


def test_direction_does_not_matter_for_importance() -> None:
    history, _ = session(uneven, 40, 3)
    turned = [experiment(e.number, e.parameters, -(e.metric or 0.0), e.verdict.status == "keep") for e in history]
    assert importances(None, history, "minimize") == importances(None, turned, "maximize")


@pytest.mark.parametrize("count", [15, 60])
def test_intervals_contain_the_truth(count: int) -> None:
    """The truth is the index of the noiseless function, in the units that the search learns, at the tried points."""
    held = total = 0
    for seed in range(8):
        history, points = session(uneven, count, seed)
        truth = exact(points)
        for name, each in named(importances(None, history, "minimize")).items():
            if each.share is None:
                continue
            assert each.low is not None
            assert each.high is not None
            total += 1
            held += each.low <= truth[name] <= each.high
    assert total > 20
    assert held / total >= 0.8, (held, total)


def exact(points: list[list[float]]) -> dict[str, float]:
    values = [uneven(point) for point in points]
    least = min(values)
    usual = float(np.median([value - least for value in values])) or 1.0

    def bent(value: float) -> float:
        z = (value - least) / usual
        return min(z if z <= 1 else 1 + math.log(z), 3.0)

    variance, found = float(np.var([bent(value) for value in values])), {}
    for place, name in enumerate(NAMES):
        lost = []
        for point, value in zip(points, values, strict=True):
            for other in points:
                moved = [*point[:place], other[place], *point[place + 1 :]]
                lost.append((bent(value) - bent(max(uneven(moved), least))) ** 2)
        found[name] = 0.5 * float(np.mean(lost)) / variance
    return found


def test_too_few_experiments_do_not_tell() -> None:
    history, _ = session(uneven, 9, 0)
    assert all(each.share is None for each in importances(None, history, "minimize"))
    history, _ = session(uneven, 40, 0)
    once = [experiment(e.number, {**e.parameters, "RARE": int(e.number == 7)}, e.metric) for e in history]
    assert named(importances(None, once, "minimize"))["RARE"].share is None


@pytest.mark.parametrize("count", [30, 100])
def test_noise_alone_tells_nothing(count: int) -> None:
    for seed in range(4):
        history, _ = session(lambda _: 1.0, count, seed)
        assert [each.share for each in importances(None, history, "minimize")] == [None] * len(NAMES)


def test_odd_histories_do_not_fail() -> None:
    assert importances(None, [], "minimize") == []
    same = [experiment(n, {"A": 1.0, "B": n % 2}, 5.0) for n in range(30)]
    (only,) = importances(None, same, "minimize")  # A never changed
    assert only.dimension.name == "B"
    assert only.share is None
    crashed = [experiment(n, {"A": float(n)}, None) for n in range(30)]
    assert [each.share for each in importances(None, crashed, "minimize")] == [None]
    odd: list[dict[str, Value]] = [{"A": 10.0 ** (10 * n), "B": "x" * n, "C": n % 3 == 0} for n in range(30)]
    far = [experiment(n, each, 10.0**n) for n, each in enumerate(odd)]
    assert len(importances(None, far, "minimize")) == 3
    missing = [experiment(n, {"A": n} if n else {"A": n, "B": 1}, float(n)) for n in range(30)]
    assert [each.dimension.name for each in importances(None, missing, "minimize")] == ["A"]
    many = [experiment(n, {f"C{i}": (n * i) % 7 for i in range(200)}, float(n)) for n in range(20)]
    assert len(importances(None, many, "minimize")) == MOST_CONSTANTS


def test_experiments_before_a_new_constant_count() -> None:
    history, _ = session(uneven, 40, 3)
    files = {"train.py": "".join(f"{name} = 0.9  # search: 0..1\n" for name in NAMES), "model.py": "DEPTH = 4\n"}
    space = space_of(files, {})
    keep = experiment(40, {f"train.py:{name}": 0.9 for name in NAMES} | {"model.py:DEPTH": 4}, 9.0, kept=True)
    found = importances(space, [*history, keep], "minimize")
    assert {each.dimension.key for each in found} == {f"train.py:{name}" for name in NAMES}
    assert found[0].share is not None


def test_values_that_were_tried_give_the_space() -> None:
    parameters: list[dict[str, Value]] = [
        {"RATE": 0.01, "DEPTH": 4, "KIND": "a"},
        {"RATE": 0.5, "DEPTH": 6, "KIND": "b"},
    ]
    rate, depth, kind = observed([experiment(n, each, 1.0) for n, each in enumerate(parameters)]).dimensions
    assert (rate.kind, rate.low, rate.high, rate.log) == ("float", 0.01, 0.5, True)
    assert (depth.kind, depth.log) == ("int", False)
    assert (kind.kind, kind.choices) == ("choice", ("a", "b"))
