"""The pruning rule on many whole sessions with known truth."""

from __future__ import annotations

import pytest

from agent.pruning.prune import Finished
from benchmarks.pruning import Tally, ended_early, replayed, synthetic


def tally(seeds: range, heavy: bool) -> Tally:
    total = Tally("synthetic, heavy tails" if heavy else "synthetic, Gaussian")
    for seed in seeds:
        name, direction, runs = synthetic(seed, heavy=heavy)
        total += replayed(name, runs, [], direction)
    print(total.row())
    return total


@pytest.mark.parametrize("heavy", [False, True])
def test_wins_are_not_lost(heavy: bool) -> None:
    total = tally(range(6), heavy)
    assert total.pruned > 60
    assert total.saved > 0.08 * total.seconds
    assert total.wins > 30
    assert len(total.lost) <= 1
    # The search learns from the estimates of pruned runs, so they must be unbiased.
    assert abs(sum(total.errors) / len(total.errors)) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("heavy", [False, True])
def test_under_one_win_in_a_hundred_is_lost_over_many_sessions(heavy: bool) -> None:
    total = tally(range(1000, 1200), heavy)
    assert total.wins > 1000
    assert len(total.lost) < 0.01 * total.wins


def test_a_history_of_survivors_does_not_make_the_rule_bolder() -> None:
    censored = complete = 0
    for seed in range(2):
        _, direction, runs = synthetic(seed)
        censored += replayed("", runs, [], direction).pruned
        everything: list[Finished] = []
        for run in runs:
            complete += ended_early(run, everything, direction, 0.005) is not None
            assert run.metric is not None
            everything.append(Finished(run.curve, run.metric, run.incumbent_curve, run.incumbent_metric, run.changed))
    assert 0 < censored <= complete
