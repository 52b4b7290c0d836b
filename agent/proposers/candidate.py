"""What speaks against a candidate before it costs a run: it goes back to its author as it is said here."""

from __future__ import annotations

from collections.abc import Mapping

from agent.errors import UsageError
from agent.proposers.base import Context
from agent.proposers.sameness import Seen
from agent.proposers.space import tunable_parameters


def against(files: Mapping[str, str], context: Context, seen: Seen) -> str | None:
    """A reason, None where nothing speaks against it. files: all mutable ones as the candidate has them."""
    earlier = seen.earlier(files, context)
    if earlier:
        return f"apart from comments and layout it is the same program as {earlier}: propose something new"
    try:
        tunable_parameters(files, context.constants)
    except UsageError as error:
        return str(error)
    return context.check(files)
