"""Judge each kept change at a rung: the best against the best without it, as `ablate` takes it out."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agent.comparison.ablate import BEST, Unit, commit_variant, entry_of, label_of, units_of, without
from agent.comparison.pairs import Pairs
from agent.journal.experiment import Experiment
from agent.promote.judge import Measured, Verdict, failed, gain_in_session, judge, measure
from agent.promote.rung import refused, set_in
from agent.report.gain import outcome, standing
from agent.session.context import known_constants
from agent.session.workbench import Workbench
from agent.source.values import Place, changed_values

ALONE, UNDONE, SET = "cannot be taken out alone", "undone by a later change", "set by you"
BASELINE, REST = "baseline", "rest"


@dataclass(frozen=True)
class Change:
    """What is taken out of the best together.

    Attributes:
        unit: the change.
        files: the best without it; None if it cannot be taken out alone.
        why: why it cannot; else empty.
        alone: whether it is all that there is: at the rung, the best without it is the baseline.
    """

    unit: Unit
    files: Mapping[str, str] | None
    why: str = ""
    alone: bool = False


def changes_of(bench: Workbench) -> list[Change]:
    """Return the kept changes. A constant that the rung sets is no change: both sides have its value."""
    runner, state, rung = bench.runner, bench.journal.state, bench.rung
    assert state.incumbent is not None and state.baseline is not None and rung is not None
    known, texts = known_constants(runner.protocol), runner.workspace.files(state.incumbent.commit)

    def at_rung(commit: str) -> Mapping[str, str]:
        return set_in(runner.workspace.files(commit), known, rung.values)

    first, found = at_rung(state.baseline.commit), []
    for unit in units_of(runner, state, at_rung):
        files = without(runner, state, texts, [unit])
        if why := refused(files, known, rung.values) if files is not None else "":
            found.append(Change(unit, None, f"an assert refuses it: {why}"))
        else:
            found.append(Change(unit, files, alone=files is not None and set_in(files, known, rung.values) == first))
    return found


def judge_each(
    bench: Workbench, pairs: Pairs, changes: Sequence[Change], whole: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return an entry with a verdict for each change, in the order of `changes`.

    Args:
        bench: with a rung.
        pairs: how many, with which seeds.
        changes: see `changes_of`. One that is all there is has the verdict about the whole, without further runs.
        whole: the verdict about the whole. If the best fails at this rung, it transfers nothing, and a change without
            which it runs is to blame: one run each shows that.
    """
    failure = whole.get("fails")
    runner, state = bench.runner, bench.journal.state
    assert state.incumbent is not None and state.baseline is not None
    texts = runner.workspace.files(state.incumbent.commit)
    labels, variants = [label_of(index, each.unit) for index, each in enumerate(changes, start=1)], dict[str, str]()
    for label, change in zip(labels, changes, strict=True):
        if change.files is not None and change.files != texts and not change.alone:
            variants[label] = commit_variant(bench, f"promote/{label}", dict(change.files))
    first = {BEST: state.incumbent.commit} if failure is None else {BASELINE: state.baseline.commit}
    if failure is not None:
        pairs = replace(pairs, count=1, seeds=pairs.seeds if pairs.seeds == 1 else None)
    measured = measure(bench, {**first, **variants}, pairs, "each") if variants else None
    entries = []
    for label, change in zip(labels, changes, strict=True):
        verdict, why, judged = ALONE if change.files is None else UNDONE, change.why, None
        if label in variants and measured is not None:
            judged = _judged(bench, measured, label, change.unit, failure)
            verdict, why = judged["verdict"], judged["why"]
        elif change.alone:
            judged = {name: value for name, value in whole.items() if name != "fails"}
            verdict, why = whole["verdict"], whole["why"]
        about = {**entry_of(change.unit), "set": _set_by_user(bench, change.unit.keeps)}
        entries.append({**about, "verdict": verdict, "why": why, "judged": judged})
    return entries


def _judged(bench: Workbench, measured: Measured, label: str, unit: Unit, failure: str | None) -> dict[str, Any]:
    """Return the verdict about one change that was measured."""
    fails = measured.failure(label)
    if failure is not None:
        verdict: Verdict = "does not transfer" if fails is None else "undecided"
        why = "without it the run succeeds" if fails is None else f"without it the run fails, too: {fails}"
        return failed(bench, measured, label, BASELINE, verdict, why)
    if fails is not None and measured.runs[label][-1].voided:
        return failed(bench, measured, label, BEST, "undecided", f"without it the run is {fails}")
    if fails is not None:
        return failed(bench, measured, label, BEST, "transfers", f"without it the run fails: {fails}")
    return judge(bench, measured, label, BEST, _gain_of(bench, unit.keeps))


def set_by_user(bench: Workbench, changes: Sequence[Change]) -> list[dict[str, Any]]:
    """Return an entry for each keep of which nothing is left to judge, because the rung sets what it changed."""
    state = bench.journal.state
    judged = {keep.number for change in changes for keep in change.unit.keeps}
    return [
        {**entry_of(Unit((keep,), keep.description)), "set": names, "verdict": SET, "why": "", "judged": None}
        for keep in state.keeps
        if keep.number not in judged and (names := _set_by_user(bench, [keep]))
    ]


def smaller(bench: Workbench, taken: Sequence[Unit], every: Sequence[Unit]) -> dict[str, Any] | None:
    """Return the commit of the best without these changes, and what it leaves out; None if nothing can be measured."""
    runner, state, rung = bench.runner, bench.journal.state, bench.rung
    assert state.incumbent is not None and state.baseline is not None and rung is not None
    known = known_constants(runner.protocol)
    files = without(runner, state, runner.workspace.files(state.incumbent.commit), taken)
    if files is None or refused(files, known, rung.values):
        return None
    first = runner.workspace.files(state.baseline.commit)
    if set_in(files, known, rung.values) == set_in(first, known, rung.values):
        return None  # nothing remains but what the rung sets on both sides
    staying = {keep.number for unit in every if unit not in taken for keep in unit.keeps}
    return {
        "commit": commit_variant(bench, f"promote/{REST}", files),
        "without": sorted({keep.number for unit in taken for keep in unit.keeps} - staying),
        "constants": [name for unit in taken for _, name in unit.places],
        "descriptions": [unit.description for unit in taken],
    }


def gain_at_rung(bench: Workbench, changes: Sequence[Change]) -> float | None:
    """Return what the changes that the rung leaves gained in the session, as a fraction of the baseline.

    Returns:
        None if that is unknown, or a keep changed a constant that the rung sets and something else as well.
    """
    state = bench.journal.state
    if not _set_by_user(bench, state.keeps):
        return gain_in_session(state)
    return _gain_of_units(bench, [change.unit for change in changes])


def gain_of_rest(bench: Workbench, taken: Sequence[Unit], every: Sequence[Unit]) -> float | None:
    """Return what the keeps that stay gained in the session, as a fraction of the baseline.

    Returns:
        None if that is unknown, or a keep stays only in part.
    """
    gone = {keep.number for unit in taken for keep in unit.keeps}
    staying = [unit for unit in every if unit not in taken]
    in_part = any(keep.number in gone for unit in staying for keep in unit.keeps)
    return None if in_part else _gain_of_units(bench, staying)


def _gain_of_units(bench: Workbench, units: Sequence[Unit]) -> float | None:
    """Return what these changes gained in the session, without those of which nothing is left in the best.

    Returns:
        None if that is unknown. So it is if a keep that stays also made or undid a part of what is not left: its gain
        is the sum of both.
    """
    runner, state = bench.runner, bench.journal.state
    assert state.incumbent is not None
    texts = runner.workspace.files(state.incumbent.commit)
    undone = [unit for unit in units if without(runner, state, texts, [unit]) == texts]
    staying = {keep.number: keep for unit in units if unit not in undone for keep in unit.keeps}
    touched = {keep.number: {*places} for keep, places in _changed(bench)}
    lost = {place for unit in undone for keep in unit.keeps for place in touched[keep.number]}
    if any(keep.number in staying for unit in undone for keep in unit.keeps):
        return None
    return None if any(lost & touched[number] for number in staying) else _gain_of(bench, [*staying.values()])


def _gain_of(bench: Workbench, keeps: Sequence[Experiment]) -> float | None:
    """Return what these keeps gained in the session, as a fraction of the baseline; None if the rung sets any."""
    state = bench.journal.state
    baseline = standing(state).baseline
    if _set_by_user(bench, keeps):
        return None
    gains = [found for keep in keeps if (found := outcome(state, keep).gain) is not None]
    return sum(gains) / abs(baseline) if gains and baseline else None


def _set_by_user(bench: Workbench, keeps: Sequence[Experiment]) -> list[str]:
    """Return the constants that these keeps changed and the rung sets."""
    rung = bench.rung
    assert rung is not None
    if not rung.values:
        return []
    names = [name for _, places in _changed(bench, {keep.number for keep in keeps}) for _, name in places]
    return [*dict.fromkeys(name for name in names if name in rung.values)]


def _changed(
    bench: Workbench, numbers: Collection[int] | None = None
) -> Iterator[tuple[Experiment, Collection[Place]]]:
    """Yield each keep after the baseline, or each of those with these numbers, with the constants that it changed."""
    workspace, known = bench.runner.workspace, known_constants(bench.runner.protocol)
    kept = (each for each in bench.journal.state.experiments if each.kept)
    for before, after in itertools.pairwise(kept):
        if numbers is None or after.number in numbers:
            yield after, changed_values(workspace.files(before.commit), workspace.files(after.commit), known)
