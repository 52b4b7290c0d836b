"""Reject a candidate before it costs a run, with a reason that its author is given."""

from __future__ import annotations

from collections.abc import Mapping

from agent.errors import UsageError, in_one_line
from agent.journal.experiment import digest
from agent.proposers.base import Context
from agent.proposers.search.space import tunable_parameters
from agent.source.equivalence import fingerprint_of
from agent.source.seed import moved_seeds


class Seen:
    """A cache of the fingerprints of earlier candidates, because reading a thousand of them from git takes seconds."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def earlier(self, files: Mapping[str, str], context: Context) -> str | None:
        """Describe the earlier candidate that is the same program as `files`, or return None.

        Args:
            files: all mutable files of the candidate.
        """
        wanted = fingerprint_of(files)
        if wanted == fingerprint_of(context.files):
            return "the incumbent"
        for experiment in reversed(context.history):  # the newest row of a program says whether it may come again
            if experiment.commit not in self._known:
                self._known[experiment.commit] = fingerprint_of(context.workspace.texts(experiment))
            if self._known[experiment.commit] == wanted:
                if experiment.is_open:
                    break
                return f"experiment #{experiment.number} ({experiment.verdict.status}: {experiment.description[:80]})"
        measured = next((each for each in context.flight if each.digest == digest(files)), None)
        if measured is not None:
            return f"a candidate that is being measured now ({measured.description[:80]})"
        return None


def why_invalid(files: Mapping[str, str], context: Context, seen: Seen) -> str | None:
    """Return why a candidate must not be measured, or None.

    Args:
        files: all mutable files of the candidate.
    """
    files = {**files, **moved_seeds(context.files, files, context.constants)}
    earlier = seen.earlier(files, context)
    if earlier:
        return f"apart from comments and layout, it is the same program as {earlier}: propose something new"
    try:
        tunable_parameters(files, context.constants)
    except UsageError as error:
        return in_one_line(error)
    return context.workspace.check(files)
