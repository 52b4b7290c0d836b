"""Choose what to adopt of a session: its best, single keeps, or the smaller recipe of `ablate`."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.errors import PreconditionError, UsageError
from agent.format import one_line
from agent.journal.experiment import Experiment, Value, digest
from agent.journal.journal import read
from agent.journal.state import State
from agent.report.gain import shows_gain, verdict_of
from agent.repository.workspace import Workspace
from agent.source.constants import refuses
from agent.source.merging import merged
from agent.source.values import changed_values, put_back
from agent.system.invocation import typed

MOST_LISTED = 5  # promotions in a hint


@dataclass(frozen=True)
class Choice:
    """The changes to adopt.

    Attributes:
        files: path -> text of the mutable files with these changes, on top of the session's base.
        keeps: the kept experiments that they come from.
        without: numbers of the keeps that the smaller recipe leaves out.
        never_judged: those of `without` that changed only constants that the rung set.
        partly: number of a keep -> the constants that it changed and that are not adopted.
        commit: the commit that was measured with exactly these files; None if none was.
        confirmation: the held-out runs of that commit against the baseline; None if there are none.
        rung: where these were made; None for the session's own conditions.
    """

    files: Mapping[str, str]
    keeps: Sequence[Experiment]
    without: Sequence[int]
    commit: str | None
    confirmation: Mapping[str, Any] | None
    rung: Mapping[str, Any] | None = None
    never_judged: Collection[int] = ()
    partly: Mapping[int, Sequence[str]] = field(default_factory=dict)

    @property
    def confirmed(self) -> bool:
        return self.confirmation is not None and shows_gain(self.confirmation)


def choose(
    workspace: Workspace,
    state: State,
    which: Sequence[str],
    known: Mapping[str, Value],
    smaller: Mapping[str, Any] | None,
) -> Choice:
    """Return what the user asked for.

    Args:
        which: numbers of keeps; empty, or only `best`, for all of them.
        known: values of the names that the harness defines.
        smaller: the smaller recipe to take instead, see `smaller_recipe`.

    Raises:
        PreconditionError: nothing was kept, or a number is not a keep.
        UsageError: a name is neither a number nor `best`.
    """
    assert state.session is not None
    tag, baseline, best = state.session["tag"], state.baseline, state.incumbent
    keeps = state.keeps
    if baseline is None or best is None or not keeps:
        raise PreconditionError(f"session {tag} kept nothing better than the baseline, so it has nothing to adopt")
    if smaller is not None:
        commit, without = smaller["commit"], list(smaller["without"])
        left = [each for each in keeps if each.number not in without]
        files = workspace.files(commit)
        partly = _partly(workspace, state, files, known)
        return Choice(files, left, without, commit, _confirmation(state, commit, files), partly=partly)
    chosen = _keeps_named(keeps, which, tag) if which and [*which] != ["best"] else keeps
    if chosen == keeps:
        files = workspace.files(best.commit)
        return Choice(files, keeps, [], best.commit, _confirmation(state, best.commit, files))
    return Choice(_only(workspace, baseline, chosen, known), chosen, [], None, None)


def smaller_recipe(journal: Path, state: State) -> Mapping[str, Any]:
    """Return the smaller recipe that the last `ablate` of the best has found.

    Raises:
        PreconditionError: it has not run, or found none.
    """
    best = state.incumbent
    found = [event.data for event in read(journal) if event.kind == "ablated"]
    assert state.session is not None
    if best is None or not found or found[-1].get("best") != best.commit:
        hint = f"run `{typed('ablate --tag ' + state.session['tag'])}` first"
        raise PreconditionError(
            "--minimal takes the smaller recipe of `ablate`, which has not run for the best", hint=hint
        )
    smaller = found[-1].get("smaller")
    if not isinstance(smaller, dict) or not smaller.get("offered") or not {"commit", "without"} <= smaller.keys():
        raise PreconditionError("`ablate` found no smaller recipe", hint="adopt the best without --minimal")
    return smaller


def promoted(workspace: Workspace, state: State, known: Mapping[str, Value], which: Sequence[str]) -> Choice:
    """Return what a promotion of the best has shown to transfer: all keeps, or those that remain.

    The constants that its rung set were not compared, so they stay as in the baseline.

    Args:
        known: values of the names that the harness defines.
        which: the number of the promotion among those of the best; empty for the latest.

    Raises:
        PreconditionError: there was none, or nothing transfers, or an assert refuses it.
        UsageError: no promotion of the best has that number.
    """
    assert state.session is not None
    tag, best, baseline = state.session["tag"], state.incumbent, state.baseline
    found = [each for each in state.promotions if best is not None and each["best"] == best.commit]
    if not found or best is None or baseline is None:
        hint = f"run `{typed(f'promote --tag {tag} --training-seconds SECONDS')}` first"
        raise PreconditionError("--promoted takes what `promote` has judged, which has not run for the best", hint=hint)
    chosen = found[_promotion_named(found, which, tag)]
    whole, rest = chosen["whole"], chosen["rest"]
    smaller = rest if rest and rest["offered"] is True else None
    if not _transfers(chosen):
        about = f"promotion {which[0]}" if which else "the latest promotion"
        raise PreconditionError(
            f"{about} of session {tag} has shown nothing to transfer", hint=_other_promotions(found, tag)
        )
    # Where both transfer, what remains was shown to be the better one.
    judged, without = (whole, []) if smaller is None else (smaller["judged"], list(smaller["without"]))
    confirmation, commit, rung = {**judged, "verdict": "confirmed"}, judged["b"], chosen["rung"]
    set_there = _set_alone(workspace, state, rung["values"], known)
    without = sorted({*without, *set_there})
    keeps = [e for e in state.keeps if e.number not in without]
    files = workspace.files(commit)
    adopted = _as_before(files, workspace.files(baseline.commit), rung["values"], known)
    partly = _partly(workspace, state, adopted, known)
    if adopted == files:
        return Choice(files, keeps, without, commit, confirmation, rung, set_there, partly)
    for path, text in adopted.items():
        if path.endswith(".py") and (why := refuses(text, known, {})) is not None:
            names = ", ".join(rung["values"])
            raise PreconditionError(
                f"an assert refuses what transfers without {names}, which the promotion set: {why}",
                hint=f"adopt the best without --promoted, or promote it without --set {names}",
            )
    return Choice(adopted, keeps, without, None, confirmation, rung, set_there, partly)


def _transfers(promotion: Mapping[str, Any]) -> bool:
    rest = promotion["rest"]
    return promotion["whole"]["verdict"] == "transfers" or bool(rest and rest["offered"] is True)


def _promotion_named(found: Sequence[Mapping[str, Any]], which: Sequence[str], tag: str) -> int:
    """Return the index of the promotion that the user names; that of the latest without a name."""
    if not which:
        return -1
    numbers = [str(number) for number in range(1, len(found) + 1)]
    if len(which) > 1 or which[0] not in numbers:
        raise UsageError(
            f"--promoted takes the number of one promotion of the best, got {one_line(' '.join(which))[:40]!r}",
            hint=f"{_listed(found)}; run `{typed(f'adopt --promoted --tag {tag}')}` for the latest",
        )
    return int(which[0]) - 1


def _other_promotions(found: Sequence[Mapping[str, Any]], tag: str) -> str:
    """Return the hint where a promotion has shown nothing to transfer: all of the best, and what can be done."""
    transferred = [number for number, each in enumerate(found, start=1) if _transfers(each)]
    if not transferred:
        return f"{_listed(found)}; `promote` at another rung, or with more pairs, may show more"
    command = typed(f"adopt --promoted {transferred[-1]} --tag {tag}")
    return f"{_listed(found)}; if that rung counts for you, take what transfers there with `{command}`"


def _listed(found: Sequence[Mapping[str, Any]]) -> str:
    """List the latest promotions by number: `1: at 900 s of training: transfers; 2: at DEPTH = 8: undecided`."""
    shown = []
    for number, each in [*enumerate(found, start=1)][-MOST_LISTED:]:
        rest = each["rest"]
        left = f", what remains {rest['judged']['verdict']}" if rest else ""
        shown.append(one_line(f"{number}: at {each['conditions']}: {each['whole']['verdict']}{left}"))
    return "; ".join(shown)


def _partly(
    workspace: Workspace, state: State, adopted: Mapping[str, str], known: Mapping[str, Value]
) -> dict[int, Sequence[str]]:
    """Return which constants of each keep are not adopted, by its number: they are as in the baseline again."""
    kept = [(each.number, workspace.files(each.commit)) for each in state.experiments if each.kept]
    baseline, best = kept[0][1], kept[-1][1]
    gone = {*changed_values(baseline, best, known)} - {*changed_values(baseline, adopted, known)}
    pairs = itertools.pairwise(kept)
    moved = {number: changed_values(before, after, known) for (_, before), (number, after) in pairs}
    found = {number: [name for path, name in places if (path, name) in gone] for number, places in moved.items()}
    return {number: names for number, names in found.items() if names}


def _as_before(
    files: Mapping[str, str], baseline: Mapping[str, str], names: Collection[str], known: Mapping[str, Value]
) -> Mapping[str, str]:
    """Return the files with the constants of these names as in the baseline."""
    places = [place for place in changed_values(baseline, files, known) if place[1] in names]
    return put_back(files, baseline, places, known) if places else files


def _set_alone(workspace: Workspace, state: State, names: Collection[str], known: Mapping[str, Value]) -> set[int]:
    """Return the numbers of the keeps that changed nothing but constants of these names."""
    kept = [each for each in state.experiments if each.kept] if names else []
    trees = [(each.number, workspace.files(each.commit)) for each in kept]
    return {
        number
        for (_, before), (number, after) in itertools.pairwise(trees)
        if before != after and _as_before(after, before, names, known) == before
    }


def require_confirmed(choice: Choice, state: State) -> None:
    """Raise PreconditionError if held-out runs have not shown the gain of these changes, on the holdout too if any."""
    if choice.confirmed:
        return
    assert state.session is not None and state.incumbent is not None
    tag = state.session["tag"]
    says = verdict_of(choice.confirmation) if choice.confirmation else "not confirmed yet"
    if choice.commit is None:
        numbers = ", ".join(f"#{each.number}" for each in choice.keeps)
        raise PreconditionError(
            f"{numbers} alone {'was' if len(choice.keeps) == 1 else 'were'} never measured on the baseline",
            hint="adopt all keeps, or add --provisional",
        )
    smaller = choice.commit != state.incumbent.commit  # even where it leaves no keep out as a whole
    name = choice.commit[:12] if smaller else ""
    run = typed(f"confirm {name}{' ' if name else ''}--tag {tag}")
    hint = f"run `{run}` first, or add --provisional"
    if choice.confirmation and choice.confirmation.get("verdict") == "refuted":
        hint = "try other changes, or add --provisional to adopt it nevertheless"
    elif choice.confirmation:
        hint = f"add more pairs with `{run}`, which count together with these, or add --provisional"
    of = f"the smaller recipe {name}" if smaller else f"session {tag}"
    raise PreconditionError(f"the gain of {of} is {says}", hint=hint)


def _keeps_named(keeps: Sequence[Experiment], which: Sequence[str], tag: str) -> list[Experiment]:
    by_number = {each.number: each for each in keeps}
    wanted = set()
    for name in which:
        if name == "best":
            raise UsageError("`best` means all keeps", hint="give `best` alone, or numbers of kept experiments")
        digits = name.removeprefix("#")
        if not digits.isdecimal() or len(digits) > 9:
            raise UsageError(f"unknown keep {name[:40]!r}", hint="give numbers of kept experiments, or `best`")
        if int(digits) not in by_number:
            known = ", ".join(f"#{number}" for number in by_number)
            raise PreconditionError(f"#{int(digits)} is not a keep of session {tag}", hint=f"choose from {known}")
        wanted.add(int(digits))
    return [each for each in keeps if each.number in wanted]


def _only(
    workspace: Workspace, baseline: Experiment, chosen: Sequence[Experiment], known: Mapping[str, Value]
) -> dict[str, str]:
    """Return the files of the baseline with only the changes of these keeps.

    Raises:
        PreconditionError: a change builds on one that was not chosen, or an assert refuses them.
    """
    files = workspace.files(baseline.commit)
    for keep in chosen:
        before, after = workspace.files(f"{keep.commit}^"), workspace.files(keep.commit)
        for path in keep.files:
            if path not in after:
                continue
            if path not in files or path not in before:
                text = after[path] if path not in files and path not in before else None
            else:
                text = merged((files[path], before[path], after[path]), known, workspace.merge, values="theirs")
            if text is None:
                raise PreconditionError(
                    f"#{keep.number} changes {path} where an earlier keep changed it, so it cannot be adopted alone",
                    hint="name the earlier keep as well, or adopt the best",
                )
            files[path] = text
    for path in sorted({path for keep in chosen for path in keep.files} & files.keys()):
        if path.endswith(".py") and (why := refuses(files[path], known, {})) is not None:
            numbers = ", ".join(f"#{keep.number}" for keep in chosen)
            raise PreconditionError(
                f"{path} with only {numbers} fails its own assert: {why}",
                hint="name the earlier keep as well, or adopt the best",
            )
    return files


def _confirmation(state: State, commit: str, files: Mapping[str, str]) -> Mapping[str, Any] | None:
    """Return the held-out runs of a commit against the baseline, or those of an experiment with the same files.

    `confirm` takes the commit of the experiment in its place: the smaller recipe is often an earlier keep.
    """
    assert state.baseline is not None
    own = digest(files)
    same = [each.commit for each in state.experiments if each.digest == own]
    found = (state.confirmations.get(f"{state.baseline.commit} {each}") for each in (commit, *same))
    return next((each for each in found if each is not None), None)
