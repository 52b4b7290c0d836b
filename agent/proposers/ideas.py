"""What a proposer knows of the playbook: the entries that were not tried here yet, and which one a candidate cites."""

from __future__ import annotations

from agent.format import one_line
from agent.playbook.entries import LONGEST_TITLE, Entry, key_of
from agent.playbook.tried import Trial, trials_of, untried
from agent.proposers.base import Context
from agent.proposers.earlier import trials_elsewhere


def untried_entries(context: Context) -> list[Entry]:
    """Return the entries that neither this session nor one that it learns from has tried, best first.

    What is being measured counts as tried, and so does what the incumbent has already.
    """
    if not context.playbook:
        return []
    trials = [*trials_of(context.history), *trials_elsewhere(context.earlier)]
    before = context.incumbent.parameters
    trials += [Trial("", each.number, "", None, each.playbook, before, each.parameters) for each in context.flight]
    return untried(context.playbook, trials, before)


def cited(context: Context, title: str) -> str:
    """Return the title of the entry that a model or agent names, as the playbook has it; empty if it has none."""
    wanted = key_of(one_line(title)[: 2 * LONGEST_TITLE])
    return next((each.title for each in context.playbook if each.key == wanted), "") if wanted else ""
