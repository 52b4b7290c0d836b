"""Promote the kept changes of a session: judge them as a whole at a larger rung, and if that fails, one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.comparison.ablate import BEST
from agent.comparison.compare import expected
from agent.comparison.confirm import scoring
from agent.comparison.pairs import BY_DEFAULT, Pairs
from agent.errors import PreconditionError
from agent.format import counted, duration
from agent.journal.state import State
from agent.promote.each import (
    BASELINE,
    REST,
    Change,
    changes_of,
    gain_at_rung,
    gain_of_rest,
    judge_each,
    set_by_user,
    smaller,
)
from agent.promote.judge import Measured, Part, Verdict, failed, judge, measure
from agent.promote.rung import climb
from agent.report.promotion import rung_words
from agent.session.workbench import Workbench
from agent.system.invocation import git_here


@dataclass(frozen=True)
class Wish:
    """What the user asked for.

    Attributes:
        values: the constants to set, as `NAME=VALUE`.
        pairs: the pairs of each comparison.
        each: judge each change; None does it if the whole is not shown to transfer.
    """

    values: Sequence[str] = ()
    pairs: Pairs = BY_DEFAULT
    each: bool | None = None


def promote(bench: Workbench, wish: Wish) -> dict[str, Any]:
    """Judge the kept changes at the rung of the workbench's runner, and journal and return the verdicts as plain data.

    An interrupted promotion continues.

    Raises:
        PreconditionError: nothing was kept, or git lacks its commits.
        UsageError: a constant cannot be set, or the rung is not above the session's own conditions.
    """
    journal, state = bench.journal, bench.journal.state
    require_kept(bench)
    bench = scoring(climb(bench, wish.values), wish.pairs.holdout)
    assert bench.rung is not None and state.incumbent is not None and state.baseline is not None
    best, every = state.incumbent.commit, changes_of(bench)
    own, changes = gain_at_rung(bench, every), every if wish.each is not False else []
    whole = _decided(state, bench) if wish.each else None
    _say_cost(bench, wish, changes, known=whole is not None)
    if whole is None:
        whole = _pair(bench, {BASELINE: state.baseline.commit, BEST: best}, wish.pairs, own, "whole")
    transfers, voided = whole["verdict"] == "transfers", "fails" in whole and whole["verdict"] == "undecided"
    entries, rest = None, None
    # Without a run of the whole there is nothing to take a change out of.
    if not voided and (wish.each or (wish.each is None and not transfers)):
        entries = judge_each(bench, wish.pairs, changes, whole)
        rest = _rest(bench, wish, changes, entries, whole)
        entries = sorted([*entries, *set_by_user(bench, changes)], key=lambda entry: entry["number"])
    data = {
        "best": best,
        "rung": bench.rung.to_dict(),
        "conditions": rung_words(bench.rung, state),
        "session": own,
        "whole": whole,
        "changes": entries,
        "rest": rest,
    }
    journal.append("promoted", **data)
    return data


def require_kept(bench: Workbench) -> None:
    """Raise PreconditionError if the session kept nothing, or its commits are not here."""
    state, workspace = bench.journal.state, bench.runner.workspace
    assert state.session is not None
    tag, best = state.session["tag"], state.incumbent
    if best is None or best.number == 0:
        raise PreconditionError("nothing better than the baseline was kept, so nothing can be promoted")
    kept = [each for each in state.experiments if each.kept]
    lost = next((each for each in kept if workspace.resolve(each.commit) is None), None)
    if lost is not None:
        refs = f"refs/autoresearch/{tag}/*"
        fetch = f"{git_here(workspace.top)} fetch CLONE '{refs}:{refs}'"
        raise PreconditionError(
            f"git does not have {lost.commit[:12]}, the commit of #{lost.number} of session {tag}",
            hint=f"fetch it from where the session was measured: `{fetch}`",
        )


def _rest(
    bench: Workbench,
    wish: Wish,
    changes: Sequence[Change],
    entries: Sequence[Mapping[str, Any]],
    whole: Mapping[str, Any],
) -> dict[str, Any] | None:
    """Measure what remains without the changes that do not transfer; None if that is nothing, or everything.

    Where the whole transfers, only those that are shown to harm are taken out, and what remains has to be better than
    the best as well: changes that harm one by one may be needed together.
    """
    state, transfers = bench.journal.state, whole["verdict"] == "transfers"
    assert state.baseline is not None and state.incumbent is not None
    pairs = zip(changes, entries, strict=True)
    unwanted = _harms if transfers else _does_not_transfer
    taken = [change.unit for change, entry in pairs if unwanted(entry)]
    every = [each.unit for each in changes]
    found = smaller(bench, taken, every) if taken else None
    if found is None:
        return None
    own, commits = gain_of_rest(bench, taken, every), {BASELINE: state.baseline.commit, REST: found["commit"]}
    if not transfers:
        judged = _pair(bench, commits, wish.pairs, own, "rest")
        return {**found, "offered": judged["verdict"] == "transfers", "judged": judged}
    measured = measure(bench, {**commits, BEST: state.incumbent.commit}, wish.pairs, "rest")
    judged = _judged(bench, measured, own)
    if measured.failure(REST) is not None or measured.failure(BEST) is not None:
        return {**found, "offered": False, "judged": judged}
    better = judge(bench, measured, BEST, REST, None)["gain"] > 0
    return {**found, "offered": better and judged["verdict"] == "transfers", "judged": judged}


def _does_not_transfer(entry: Mapping[str, Any]) -> bool:
    return bool(entry["verdict"] == "does not transfer")


def _harms(entry: Mapping[str, Any]) -> bool:
    """Whether the best is shown to be worse with this change than without it."""
    found = entry["judged"]
    return found is not None and found["high"] is not None and found["high"] < 0


def _pair(bench: Workbench, commits: Mapping[str, str], pairs: Pairs, own: float | None, part: Part) -> dict[str, Any]:
    """Measure the second commit against the first, and return its verdict."""
    return _judged(bench, measure(bench, commits, pairs, part), own)


def _judged(bench: Workbench, measured: Measured, own: float | None) -> dict[str, Any]:
    """Return the verdict about the second label against the first."""
    a, b = [*measured.commits][:2]
    if (fails := measured.failure(b)) is not None:
        voided = measured.runs[b][-1].voided  # that it took too long does not show that it gains nothing
        says: Verdict = "undecided" if voided else "does not transfer"
        found = failed(bench, measured, a, b, says, f"its run {'is' if voided else 'fails:'} {fails}")
        return {**found, "fails": fails}
    return judge(bench, measured, a, b, own)


def _decided(state: State, bench: Workbench) -> dict[str, Any] | None:
    """Return the verdict about the whole that an earlier promotion of the best at this rung reached; None if none."""
    assert state.incumbent is not None and bench.rung is not None
    rung = bench.rung.to_dict()
    found = [each for each in state.promotions if each["best"] == state.incumbent.commit and each["rung"] == rung]
    return dict(found[-1]["whole"]) if found and found[-1]["whole"]["verdict"] != "undecided" else None


def _say_cost(bench: Workbench, wish: Wish, changes: Sequence[Change], *, known: bool) -> None:
    """Say before the first run how many there are at most, and how long they take."""
    state, count, each = bench.journal.state, wish.pairs.count, expected(bench)
    assert bench.rung is not None
    parts = sum(change.files is not None and not change.alone for change in changes)
    # What remains runs beside the baseline, and beside the best as well if that transfers.
    first, more = 0 if known else 2 * count, (parts + 1 + (3 if wish.each else 2)) * count if parts else 0

    def say(text: str) -> None:
        bench.journal.show("note", text=text)

    say(f"judging {rung_words(bench.rung, state)}")
    whole = "the whole has its verdict at this rung" if known else f"the whole takes {_cost(first, each)}"
    if not more:
        say(whole)
    elif wish.each:
        say(f"{whole}; {counted(parts, 'change')} at most {_cost(more, each)}")
    else:
        say(f"{whole}; if it is not shown to transfer, {counted(parts, 'change')} at most {_cost(more, each)}")
    say("disturbed runs are repeated; after Ctrl-C, the same command continues")


def _cost(runs: int, seconds: float) -> str:
    return f"{counted(runs, 'run')} of about {duration(seconds)}: {duration(runs * seconds)}"
