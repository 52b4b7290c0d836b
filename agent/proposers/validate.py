"""What speaks against a candidate before it costs a run: it goes back to its author as it is said here."""

from __future__ import annotations

from collections.abc import Mapping

from agent.errors import UsageError
from agent.proposers.base import Context
from agent.proposers.search.space import tunable_parameters
from agent.source.equivalence import fingerprint_of


class Seen:
    """Remembers what earlier candidates amount to: reading a thousand of them out of git takes seconds."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def earlier(self, files: Mapping[str, str], context: Context) -> str | None:
        """The earlier candidate that is the same program as `files` (all mutable ones), in words; None for none."""
        wanted = fingerprint_of(files)
        if wanted == fingerprint_of(context.files):
            return "the incumbent"
        for experiment in context.history:
            if experiment.commit not in self._known:
                self._known[experiment.commit] = fingerprint_of(context.workspace.texts(experiment))
            if self._known[experiment.commit] == wanted:
                return f"experiment #{experiment.number} ({experiment.verdict.status}: {experiment.description[:80]})"
        return None


def why_invalid(files: Mapping[str, str], context: Context, seen: Seen) -> str | None:
    """A reason, None where nothing speaks against it. files: all mutable ones as the candidate has them."""
    earlier = seen.earlier(files, context)
    if earlier:
        return f"apart from comments and layout it is the same program as {earlier}: propose something new"
    try:
        tunable_parameters(files, context.constants)
    except UsageError as error:
        return str(error)
    return context.workspace.check(files)
