"""Propose an edit that was made by hand: what `try` found in the working tree."""

from __future__ import annotations

from agent.errors import UsageError
from agent.journal.edits import Edit
from agent.journal.experiment import Experiment, Proposal
from agent.journal.state import EDIT
from agent.proposers.answer import parse_notes
from agent.proposers.base import Context, Exhausted
from agent.proposers.ideas import cited
from agent.proposers.search.space import tunable_parameters

MEASURED = "the edit is measured"


def proposal_of(edit: Edit, context: Context) -> Proposal:
    """Return an accepted edit as the proposal of its experiment."""
    files = {path: text for path, text in edit.files.items() if context.files.get(path) != text}
    try:
        parameters = tunable_parameters({**context.files, **files}, context.constants)
    except UsageError:  # a search comment that the constants of other data make invalid
        parameters = {}
    # The description is all that was said on one line; without reasoning it was no more.
    tries = cited(context, parse_notes(edit.reasoning or edit.description).playbook)
    return Proposal(files, edit.description, edit.reasoning, parameters, proposer=EDIT, playbook=tries)


class EditOnly:
    """A proposer for sessions that measure edits made by hand and nothing else."""

    name = EDIT

    def ask(self, _context: Context) -> Proposal:
        raise Exhausted(MEASURED)

    def repair(self, _context: Context, _error: str, _attempt: int) -> Proposal | None:
        return None

    def tell(self, _experiment: Experiment) -> None:
        """Learn nothing."""
