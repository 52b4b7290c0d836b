"""Choose the next run of a comparison, and the runs that count: those that nothing else on the machine disturbed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from agent.execution.conditions import disturbed
from agent.journal.comparison import PendingComparison
from agent.journal.experiment import Run, succeeded

RUNS = 3  # of each side, unless the user says otherwise


def next_turn(comparison: PendingComparison) -> str | None:
    """Return the label to run next; None when all runs are done.

    Each label runs `count` times, alternating; then up to `count` runs that do not count are repeated.
    """
    short = [label for label in comparison.commits if _is_short(comparison, label)]
    if not short:
        return None
    done = {label: len(_runs(comparison, label)) for label in short}
    fewest = min(done.values())
    # Reverse the order in each round, so that a machine that slows down affects all labels.
    turns = short if fewest % 2 == 0 else short[::-1]
    return next(label for label in turns if done[label] == fewest)


def counted(comparison: PendingComparison, label: str) -> tuple[Run, ...]:
    """Return the runs of the label that count.

    Returns:
        `count` undisturbed runs, or the latest `count` runs if there are fewer undisturbed ones in the end: in all, or
        of each seed if seeds are given. If the label fails, its last run only. If the comparison was given up, the
        undisturbed ones of whole pairs.
    """
    if comparison.unfinished:
        return tuple(undisturbed_pairs(comparison, label))
    if fails(comparison, label):
        return _runs(comparison, label)[-1:]
    runs, why = _runs(comparison, label), reasons(comparison, label)
    found: list[Run] = []
    for seed, times in _wanted(comparison).items():
        own = [(index, run) for index, run in enumerate(runs) if run.seed == seed]
        good = [run for index, run in own if index not in why]
        found += good[:times] if len(good) >= times else [run for _, run in own[-times:]]
    return tuple(found)


def in_pairs(comparison: PendingComparison, label: str) -> list[Run]:
    """Return the runs of the label that are part of a pair: the others have one on the same station with that seed."""
    good = {each: succeeded(_runs(comparison, each)) for each in comparison.commits}
    places = {each: Counter((run.station, run.seed) for run in runs) for each, runs in good.items()}
    left = {place: min(each[place] for each in places.values()) for place in places[label]}
    found = []
    for run in good[label]:
        if left[run.station, run.seed] > 0:
            left[run.station, run.seed] -= 1
            found.append(run)
    return found


def undisturbed_pairs(comparison: PendingComparison, label: str) -> list[Run]:
    """Return the undisturbed runs of the label that are part of a pair of such runs."""
    good = {}
    for each in comparison.commits:
        why = reasons(comparison, each)
        good[each] = tuple(run for index, run in enumerate(_runs(comparison, each)) if index not in why)
    return in_pairs(replace(comparison, runs=good), label)


def next_seed(comparison: PendingComparison, label: str) -> int | None:
    """Return the seed of the next run of the label; None for the recipe's own. A repeat has its original's.

    If the label has all of its runs, it is run only to show that the machine is not to blame for a fault of another.
    """
    if not comparison.seeds:
        return None
    done = len(_runs(comparison, label))
    return comparison.seeds[done] if done < comparison.count else [*lacking(comparison, label), *comparison.seeds][0]


def lacking(comparison: PendingComparison, label: str) -> list[int | None]:
    """Return the seeds of the label that have too few undisturbed runs; [None] if runs have the recipe's own."""
    why = reasons(comparison, label)
    good = Counter(run.seed for index, run in enumerate(_runs(comparison, label)) if index not in why)
    return [seed for seed, times in _wanted(comparison).items() if good[seed] < times]


def reasons(comparison: PendingComparison, label: str) -> Mapping[int, str]:
    """Return why runs of the label do not count, by index. The metric is never a reason.

    A disturbance only reduces the number of steps. So any other run of the same program, earlier or later, can show
    that a run was slow. The sides differ in code: together they show the state of the machine, but not how many steps
    to expect.
    """
    runs, found = _runs(comparison, label), {}
    beside = [run for each in comparison.commits if each != label for run in succeeded(_runs(comparison, each))]
    for index, run in enumerate(runs):
        same = [*runs[:index], *runs[index + 1 :]]
        whys = [disturbed([run], [other], equally_long=True, than="another run of it") for other in same]
        whys.append(disturbed([run], [*same, *beside], equally_long=False, than="the other runs"))
        why = next((each for each in whys if each is not None), None)
        if why is not None:
            found[index] = why
    return found


def fails(comparison: PendingComparison, label: str) -> bool:
    return any(run.metric is None for run in _runs(comparison, label))


def _is_short(comparison: PendingComparison, label: str) -> bool:
    if fails(comparison, label):
        return False
    done, count = len(_runs(comparison, label)), comparison.count
    return done < count or (done < 2 * count and bool(lacking(comparison, label)))


def _wanted(comparison: PendingComparison) -> Counter[int | None]:
    """Return how many runs of each seed a label needs."""
    return Counter(comparison.seeds or [None] * comparison.count)


def _runs(comparison: PendingComparison, label: str) -> tuple[Run, ...]:
    return comparison.runs.get(label, ())
