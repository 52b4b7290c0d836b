"""Plan the pairs of runs of a confirmation: how many, with which seeds, and whether an interrupted one goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agent.comparison.compare import varied_by
from agent.decision.schedule import RUNS
from agent.execution.measure import Runner
from agent.journal.comparison import PendingComparison
from agent.journal.experiment import Value
from agent.journal.state import State, side
from agent.report.gain import AS_ASKED, ONE_RUN
from agent.session.context import known_constants
from agent.session.workbench import Workbench
from agent.source.seed import seed_of, why_no_seed

LARGEST_SEED = 2**31 - 10**6  # as a seed, some libraries take no more than 31 bits


@dataclass(frozen=True)
class Pairs:
    """The pairs of runs of a confirmation.

    Attributes:
        count: number of pairs.
        seeds: number of seeds among them; None for one for each pair, 1 for the recipe's own seed.
        holdout: command that prints the metric on the holdout; None for the one that the session keeps, if any.
    """

    count: int = RUNS
    seeds: int | None = None
    holdout: str | None = None


BY_DEFAULT = Pairs()


def plan_pairs(
    bench: Workbench, commits: Mapping[str, str], known: Sequence[PendingComparison], pairs: Pairs
) -> tuple[tuple[int, ...], str | None, PendingComparison | None]:
    """Return what `plan_seeds` does, or the seeds of an interrupted comparison that is asked for again, and that one.

    Args:
        bench: what every step uses.
        commits: label -> commit.
        known: all comparisons of the two so far.
        pairs: how many, with which seeds.
    """
    plan, why = plan_seeds(bench, commits, known, pairs)
    new = PendingComparison(commits, (), pairs.count, rung=bench.rung, varied=varied_by(bench, commits, plan))
    for each in reversed([each for each in known if _continues(bench.journal.state, each)]):
        if each.is_same(replace(new, seeds=each.seeds)) and len({*each.seeds}) == len({*plan}):
            return each.seeds, why, each
    return plan, why, None


def _continues(state: State, found: PendingComparison) -> bool:
    """Return whether a comparison may go on: it is unfinished, and no finished one has used its seeds or its logs.

    Only earlier versions gave them to two.
    """
    pair = {*found.commits.values()}
    used = {seed for each in state.compared if {*each.commits.values()} == pair for seed in each.seeds}
    return found in state.unfinished and not state.overwritten(found) and not used & {*found.seeds}


def unfinished(bench: Workbench, commits: Mapping[str, str]) -> list[PendingComparison]:
    """Return the unfinished comparisons of these commits under the conditions of this one."""
    kind = PendingComparison(commits, (), 0, rung=bench.rung)
    every = [each for each in bench.journal.state.unfinished if (each.doing, each.rung) == (kind.doing, kind.rung)]
    return [each for each in every if {*each.commits.values()} == {*commits.values()}]


def logs_of(found: PendingComparison) -> Path | None:
    """Return the folder that has the logs of its runs on this machine; None if it has none."""
    there = [run.log for runs in found.runs.values() for run in runs if run.log and not run.station]
    return Path(there[0]).parent if there else None


def plan_seeds(
    bench: Workbench, commits: Mapping[str, str], earlier: Sequence[PendingComparison], pairs: Pairs
) -> tuple[tuple[int, ...], str | None]:
    """Return the seed of each pair of runs, or none and why they keep the recipe's own."""
    wanted = pairs.count if pairs.seeds is None else pairs.seeds
    runner, state = bench.runner, bench.journal.state
    own = {label: seed_of(*sources(runner, commit)) for label, commit in commits.items()}
    for label, seed in own.items():
        if seed is None:
            return (), f"{side(state, label, commits[label])} {why_no_seed(*sources(runner, commits[label]))}"
    if wanted == 1:
        return (), AS_ASKED if pairs.seeds == 1 else ONE_RUN
    used = [run.seed for each in earlier for runs in each.runs.values() for run in runs]
    used += [seed for each in earlier for seed in each.seeds]
    most = max([0, *(seed for seed in (*own.values(), *used) if seed is not None and seed <= LARGEST_SEED)])
    return tuple(most + 1 + index % wanted for index in range(pairs.count)), None


def sources(runner: Runner, commit: str) -> tuple[Mapping[str, str], Mapping[str, Value]]:
    return runner.workspace.files(commit), known_constants(runner.protocol)
