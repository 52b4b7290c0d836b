"""Save the result of an agent run before it is used, so that a loop that is killed does not pay for it twice."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.journal.proposals import LARGEST_FILE, save
from agent.proposers.agent.worktree import Changes
from agent.proposers.base import Context, question_of
from agent.system.files import read_bounded


@dataclass(frozen=True)
class Attempt:
    """The result of one agent run.

    Attributes:
        failure: why the command failed; None if it succeeded.
        lasting: retrying soon is pointless, because the user has to fix something.
    """

    changes: Changes
    failure: str | None = None
    lasting: bool = False


class Checkpoint:
    """Saved attempts, by name, in the folder of an experiment; nothing is saved if the context has no folder."""

    def __init__(self) -> None:
        self._used: set[Path] = set()

    def read(self, context: Context, name: str, draft: Mapping[str, str]) -> Attempt | None:
        """Return the saved attempt for the same incumbent and the same draft, or None.

        A damaged file counts as missing.
        """
        path = _path(context, name)
        if path is None or path in self._used:
            return None
        try:
            said = json.loads(read_bounded(path, LARGEST_FILE))
            if said["of"] != question_of(context, draft):
                return None
            changes = Changes(dict(said["files"]), tuple(said["dropped"]), said["notes"])
            return Attempt(changes, said["failure"], said["lasting"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def write(self, context: Context, name: str, draft: Mapping[str, str], attempt: Attempt) -> None:
        """Save an attempt.

        Raises:
            AutoresearchError: the file cannot be written.
        """
        path = _path(context, name)
        if path is None:
            return
        of = question_of(context, draft)
        save(path, {"of": of, **dataclasses.asdict(attempt.changes), **_ending(attempt)})
        self._used.discard(path)

    def forget(self, context: Context, names: Iterable[str]) -> None:
        """Mark attempts as used: if the same question comes up again in this process, the agent is re-run."""
        self._used.update(path for name in names if (path := _path(context, name)))


def _ending(attempt: Attempt) -> dict[str, object]:
    return {"failure": attempt.failure, "lasting": attempt.lasting}


def _path(context: Context, name: str) -> Path | None:
    return context.folder / f"{name}-left.json" if context.folder else None
