"""Try near misses together: what was discarded within the noise may be a gain with another one, or on a later keep.

A near miss is a discarded candidate that looked better than its incumbent, though not clearly. After several fruitless
experiments two of them are tried as one candidate, or one on an incumbent that is later than its own. If the two are
kept, each is taken out again where the recipe without it was not measured yet.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from agent.errors import UsageError
from agent.format import one_line
from agent.journal.experiment import Experiment, Proposal
from agent.journal.history import incumbent_before
from agent.proposers.base import Context
from agent.proposers.search.space import tunable_parameters
from agent.source.merging import carried_over

# After FRUITLESS experiments without a keep, one of FRUITLESS proposals makes near misses together. Where that does not
# pay it becomes rare: each one lost since one was kept doubles the distance to the next, MOST_DOUBLED times at most.
FRUITLESS, MOST_DOUBLED = 4, 5
MOST = 8  # near misses that are considered, the clearest first
MOST_LOST = 3  # candidates that make a near miss together with others, and are not kept
LONGEST_PART = 60  # characters of the description of each


@dataclass(frozen=True)
class Group:
    """Near misses to be made together.

    Attributes:
        sigmas: the sum of their gains in standard errors.
    """

    members: tuple[Experiment, ...]
    sigmas: float

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(each.number for each in self.members)

    @property
    def names(self) -> str:
        return " and ".join(f"#{number}" for number in self.numbers)


def proposals(context: Context) -> Iterator[Proposal]:
    """Yield candidates from near misses, the most promising first; none unless it is their turn."""
    context = replace(context, workspace=replace(context.workspace, texts=_remembered(context.workspace.texts)))
    yield from _taken_apart(context)
    fruitless = len(context.history) - 1 - context.incumbent.number
    if fruitless >= FRUITLESS and context.number % FRUITLESS == 0 and _is_due(context.history):
        for group in groups(context.history, context.incumbent):
            yield from _together(context, group)


def _is_due(history: Sequence[Experiment]) -> bool:
    """Return whether the last near misses made together are far enough behind; the more were lost, the farther."""
    made = [each for each in history if each.parts and not (each.voided or each.overtaken or each.ended_by_fault)]
    kept = [index for index, each in enumerate(made, 1) if each.kept]
    lost = len(made) - max(kept, default=0)
    return not lost or len(history) - made[-1].number >= FRUITLESS * 2 ** min(lost, MOST_DOUBLED)


def near_misses(history: Sequence[Experiment]) -> list[Experiment]:
    """Return the discarded candidates that looked better than their incumbent, the clearest first.

    Not those of which only the seed or the spelling differs: the luck of a seed is no gain, with whatever it is joined.
    """
    found = [
        each
        for each in history[1:]
        if each.verdict.status == "discard" and _sigmas(each) > 0 and not (each.voided or each.overtaken or each.parts)
        if each.verdict.evidence is None or each.verdict.evidence.how != "repeat"
    ]
    return sorted(found, key=lambda each: (-_sigmas(each), each.number))


def groups(history: Sequence[Experiment], incumbent: Experiment) -> list[Group]:
    """Return the near misses in twos, and those of an earlier incumbent alone, the most promising first."""
    lost = Counter(number for each in history if not each.kept for number in each.parts)
    misses = [each for each in near_misses(history) if lost[each.number] < MOST_LOST][:MOST]
    later = [each for each in misses if _base(history, each).number != incumbent.number]
    in_order = sorted(misses, key=lambda each: each.number)
    found = [Group(those, sum(map(_sigmas, those))) for those in itertools.combinations(in_order, 2)]
    found += [Group((each,), _sigmas(each)) for each in later]
    return sorted(found, key=lambda group: (-group.sigmas, group.numbers))


def _together(context: Context, group: Group) -> Iterator[Proposal]:
    """Yield the candidate that makes the changes of a group; nothing if they conflict."""
    files = dict(context.files)
    for each in group.members:
        if not _carry(context, files, _base(context.history, each), each):
            return
    said = "; ".join(one_line(each.description)[:LONGEST_PART] for each in group.members)
    many = len(group.members) > 1
    why = (
        f"{'near misses' if many else 'near miss'} {group.names}, better than {'their' if many else 'its'} incumbent "
        f"within the noise, {'together' if many else f'on #{context.incumbent.number}'}"
    )
    yield from _proposal(context, files, f"{group.names}: {said}", why, group.numbers)


def _taken_apart(context: Context) -> Iterator[Proposal]:
    """Yield the incumbent without each of the near misses that it made together, the least clear first."""
    parts = [context.history[number] for number in context.incumbent.parts if 0 < number < len(context.history)]
    if len(parts) < 2:
        return
    for each in sorted(parts, key=_sigmas):
        files = dict(context.files)
        if _carry(context, files, each, _base(context.history, each)):
            said = f"without #{each.number}: {one_line(each.description)[:LONGEST_PART]}"
            yield from _proposal(context, files, said, f"part of #{context.incumbent.number}, which may not need it")


def _carry(context: Context, files: dict[str, str], before: Experiment, after: Experiment) -> bool:
    """Make the change from one experiment to another in `files`; return whether it was possible."""
    view = context.workspace
    versions = files, view.texts(before), view.texts(after)
    changed, conflicts = carried_over(versions, context.constants, view.merge)
    files |= changed
    return not conflicts and bool(changed)


def _proposal(
    context: Context, files: dict[str, str], description: str, why: str, parts: tuple[int, ...] = ()
) -> Iterator[Proposal]:
    changed = {path: text for path, text in files.items() if context.files.get(path) != text}
    if not changed or not all(context.workspace.allows(path) for path in changed):
        return
    try:
        parameters = tunable_parameters(files, context.constants)
    except UsageError:
        return  # a search comment of one of them is malformed
    yield Proposal(changed, description, why, parameters, parts=parts)


def _remembered(texts: Callable[[Experiment], Mapping[str, str]]) -> Callable[[Experiment], Mapping[str, str]]:
    """Return `texts` with a memory, because each near miss is in many groups, and git takes a while."""
    known: dict[int, Mapping[str, str]] = {}

    def remembered(each: Experiment) -> Mapping[str, str]:
        if each.number not in known:
            known[each.number] = texts(each)
        return known[each.number]

    return remembered


def _base(history: Sequence[Experiment], each: Experiment) -> Experiment:
    """Return what an experiment was compared with."""
    return incumbent_before(history, each.number) or history[0]


def _sigmas(experiment: Experiment) -> float:
    evidence = experiment.verdict.evidence
    return (evidence.sigmas or 0.0) if evidence is not None else 0.0
