"""Find out which kept changes still improve the metric, and offer the recipe without the others.

A constant is put back to its value in the baseline, whichever keeps have changed it. What keeps have changed otherwise
is reverted as text, one keep at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.comparison.compare import compare, noise_here
from agent.decision.difference import difference
from agent.errors import PreconditionError
from agent.execution.measure import Runner
from agent.format import figure
from agent.journal.experiment import VOIDED, Experiment, metrics
from agent.journal.state import State
from agent.session.context import known_constants
from agent.session.workbench import Workbench
from agent.source.merging import merged
from agent.source.simplicity import repeats
from agent.source.values import Place, changed_values, described, groups, level, put_back
from agent.system.invocation import typed

RUNS = 2
BEST, SMALLER = "best", "smaller"
IDLE = ("not shown to pay", "harms")


@dataclass(frozen=True)
class Unit:
    """What is taken back together.

    Attributes:
        keeps: the kept experiments that it comes from.
        description: what changed.
        places: the constants that are put back; empty for code.
        before: the keep before the only one, whose code is reverted to; None for constants.
    """

    keeps: tuple[Experiment, ...]
    description: str
    places: tuple[Place, ...] = ()
    before: Experiment | None = None


def ablate(bench: Workbench, count: int = RUNS) -> dict[str, Any]:
    """Compare the best with itself minus each kept change, then minus all changes that do not pay.

    Args:
        count: runs per variant.

    Returns:
        Plain data: a verdict for each change, and the commit of the smaller recipe if it loses nothing.

    Raises:
        PreconditionError: nothing was kept.
    """
    runner, journal, state = bench.runner, bench.journal, bench.journal.state
    best = state.incumbent
    if best is None or best.number == 0:
        raise PreconditionError("nothing better than the baseline was kept, so no change can be removed")
    texts = runner.workspace.files(best.commit)
    units = units_of(runner, state)
    variants = {
        label_of(index, unit): without(runner, state, texts, [unit]) for index, unit in enumerate(units, start=1)
    }
    commits = {BEST: best.commit}
    for label, files in variants.items():
        if files is not None and files != texts:
            commits[label] = commit_variant(bench, f"ablate/{label}", files)
    folder = journal.path.parent / "ablate" / best.commit[:12]
    runs = compare(bench, commits, count, folder, may_fail=commits.keys() - {BEST})
    noise, direction = noise_here(state), runner.protocol.metric.direction
    found = []
    for unit, (label, files) in zip(units, variants.items(), strict=True):
        entry = entry_of(unit)
        if label in commits and runs[label][-1].metric is None:
            last = runs[label][-1]
            entry |= {"verdict": "undecided" if last.voided else "pays", "worth": None, "fails": last.error}
        elif label in commits:
            worth = difference(metrics(runs[label]), metrics(runs[BEST]), direction, noise)
            says = "pays" if worth.low > 0 else "harms" if worth.high < 0 else "not shown to pay"
            entry |= {"verdict": says, "worth": worth.gain, "low": worth.low, "high": worth.high}
        else:
            entry |= {"verdict": "cannot be taken back alone" if files is None else "undone by a later change"}
            entry |= {"worth": None}
        found.append((entry, unit))
    idle = [unit for entry, unit in found if entry["verdict"] in IDLE]
    smaller = _smaller(bench, units, idle, count) if idle else None
    entries = sorted((entry for entry, _ in found), key=lambda entry: entry["number"])
    data = {"best": best.commit, "changes": entries, "runs": count, "smaller": smaller}
    journal.append("ablated", **data)
    return data


def units_of(runner: Runner, state: State, files_of: Callable[[str], Mapping[str, str]] | None = None) -> list[Unit]:
    """Return what can be taken back of the best: constants that differ from the baseline, and the code of each keep.

    Args:
        runner: of the session.
        state: of the session.
        files_of: returns the mutable files of a commit as they run; None takes them as they are.
    """
    files_of, known = files_of or runner.workspace.files, known_constants(runner.protocol)
    kept = [each for each in state.experiments if each.kept]
    first, last = files_of(kept[0].commit), files_of(kept[-1].commit)
    touched: dict[Place, list[Experiment]] = {}
    codes: list[Unit] = []
    idle: list[Experiment] = []
    for before, after in itertools.pairwise(kept):
        old, new = files_of(before.commit), files_of(after.commit)
        places = changed_values(old, new, known)
        for place in places:
            touched.setdefault(place, []).append(after)
        leveled = level(old, new, known)
        if leveled != new and not (places and repeats(new, leveled)):
            codes.append(Unit((after,), after.description, before=before))
        elif not places:
            idle.append(after)
    units = [
        Unit(_in_order(each for place in group for each in touched.get(place, kept[-1:])), said, tuple(group))
        for group in groups(first, last, known)
        for said in [described(first, last, group, known)]
    ]
    # Keeps whose values are all back at those of the baseline still get a line.
    named = {each.number for unit in (*units, *codes) for each in unit.keeps}
    gone = [each for each in kept[1:] if each.number not in named and each not in idle]
    return [*units, *codes, *(Unit((each,), each.description) for each in gone)]


def _in_order(keeps: Iterable[Experiment]) -> tuple[Experiment, ...]:
    by_number = {each.number: each for each in keeps}
    return tuple(by_number[number] for number in sorted(by_number))


def label_of(index: int, unit: Unit) -> str:
    what = "-".join(name for _, name in unit.places)[:60] or f"code-{unit.keeps[-1].number}"
    return f"without-{index}-{what}"


def entry_of(unit: Unit) -> dict[str, Any]:
    last = unit.keeps[-1]
    return {
        "number": last.number,
        "numbers": [each.number for each in unit.keeps],
        "commit": last.commit,
        "description": unit.description,
        "constants": [name for _, name in unit.places],
    }


def ablate_lines(data: Mapping[str, Any]) -> list[str]:
    shown = []
    for entry in data["changes"]:
        worth = f" {_worth(entry, entry['worth'])}" if entry["worth"] is not None else ""
        worth = f" (without it the run {_failure(entry['fails'])})" if "fails" in entry else worth
        numbers = " ".join(f"#{number}" for number in entry["numbers"])
        shown.append(f"{numbers} {entry['verdict']}{worth}: {entry['description']}")
    smaller = data["smaller"]
    if smaller is None:
        left = any(entry["verdict"] == "undecided" for entry in data["changes"])
        every = "every other change" if left else "every change"
        return [*shown, f"no smaller recipe: {every} pays or cannot be removed"]
    without = "; ".join(smaller["descriptions"])
    if smaller["gain"] is None:
        return [*shown, f"without {without} together the run {_failure(smaller['fails'])}; keep them"]
    lost = f"{_worth(smaller, smaller['gain'])} against the best"
    if not smaller["offered"]:
        return [*shown, f"without {without}: {lost}; together they pay: keep them"]
    commit = smaller["commit"][:12]
    return [
        *shown,
        f"without {without}: {lost}",
        f"confirm it with `{typed('confirm ' + commit)}`, then take it with `{typed('adopt --minimal')}`",
    ]


def _failure(error: str | None) -> str:
    return f"is {error}" if VOIDED.match(error or "") else f"fails: {error}"


def _worth(found: Mapping[str, Any], gain: float) -> str:
    one_run = ", one run repeated" if found["low"] == found["high"] else ""
    return f"{figure(gain, sign='+')} ({figure(found['low'])} to {figure(found['high'])}{one_run})"


def _smaller(bench: Workbench, units: Sequence[Unit], idle: Sequence[Unit], count: int) -> dict[str, Any] | None:
    runner, journal, state = bench.runner, bench.journal, bench.journal.state
    best = state.incumbent
    assert best is not None
    files = without(runner, state, runner.workspace.files(best.commit), idle)
    if files is None:
        return None
    commit = commit_variant(bench, f"ablate/{SMALLER}", files)
    folder = journal.path.parent / "ablate" / commit[:12]
    commits = {BEST: best.commit, SMALLER: commit}
    staying = {each.number for unit in units if unit not in idle for each in unit.keeps}
    about = {
        "commit": commit,
        # Only keeps of which nothing stays.
        "without": sorted({each.number for unit in idle for each in unit.keeps} - staying),
        "constants": [name for unit in idle for _, name in unit.places],
        "descriptions": [unit.description for unit in idle],
    }
    runs = compare(bench, commits, count, folder, may_fail={SMALLER})
    failed = runs[SMALLER][-1]
    if failed.metric is None:
        nothing = {"gain": None, "low": None, "high": None}
        return {**about, **nothing, "offered": False, "fails": failed.error}
    direction = runner.protocol.metric.direction
    found = difference(metrics(runs[BEST]), metrics(runs[SMALLER]), direction, noise_here(state))
    worth = {"gain": found.gain, "low": found.low, "high": found.high}
    # Offered unless it is shown to be worse; the user sees the interval.
    return {**about, **worth, "offered": found.high >= 0}


def without(runner: Runner, state: State, texts: Mapping[str, str], units: Sequence[Unit]) -> dict[str, str] | None:
    """Return the files without these units, the latest code first; None if later changes of code conflict.

    A file that a unit has added goes with it, if it has not changed since.
    """
    workspace, known = runner.workspace, known_constants(runner.protocol)
    assert state.baseline is not None
    files = dict(texts)
    for unit in sorted(units, key=lambda unit: -unit.keeps[-1].number):
        if unit.before is None:
            continue
        now, then = (workspace.files(each.commit) for each in (unit.keeps[-1], unit.before))
        for path, text in list(files.items()):
            if now.get(path) == then.get(path):
                continue
            if path not in now or (path not in then and text != now[path]):
                return None
            if path not in then:
                del files[path]
                continue
            taken = merged((text, now[path], then[path]), known, workspace.merge, values="ours")
            if taken is None:
                return None
            files[path] = taken
    places = [place for unit in units for place in unit.places]
    return put_back(files, workspace.files(state.baseline.commit), places, known)


def commit_variant(bench: Workbench, name: str, files: Mapping[str, str]) -> str:
    """Return the commit of a variant of the best, which a ref keeps.

    Args:
        bench: what every step uses.
        name: of the ref below those of the session: `ablate/LABEL`. A commit that it held before gets a ref with its
            hash.
        files: path -> text of the mutable files; those of the best that are not among them are removed.
    """
    workspace, state = bench.runner.workspace, bench.journal.state
    assert state.session is not None
    ref = f"refs/autoresearch/{state.session['tag']}/{name}"
    known = workspace.resolve(ref)
    if known is not None and workspace.files(known) == files:
        return known  # so that an interrupted ablation continues with the same commits
    if known is not None:
        # An earlier comparison, of another best or at another rung, has named this commit.
        workspace.keep(f"{ref}-{known[:12]}", known)
    # On the best's own commit: another machine may lack the branch, and the two then differ in nothing else.
    assert state.incumbent is not None
    gone = dict.fromkeys(workspace.files(state.incumbent.commit).keys() - files.keys())
    return workspace.commit_candidate(ref, state.incumbent.commit, {**files, **gone}, name.replace("/", ": "))
