"""What agents left, on disk before anything else happens with it: a loop that is killed does not pay for it again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.journal.proposals import LARGEST_FILE, save
from agent.proposers.agent.worktree import Changes
from agent.proposers.base import Context
from agent.system.files import read_bounded


@dataclass(frozen=True)
class Attempt:
    """failure: why the command did not end well, None where it did. lasting: a person has to mend that."""

    changes: Changes
    failure: str | None = None
    lasting: bool = False


class Checkpoint:
    """The attempts by their names within an experiment's folder. Where the context has no folder nothing is kept."""

    def __init__(self) -> None:
        self._over: set[Path] = set()

    def read(self, context: Context, name: str, draft: Mapping[str, str]) -> Attempt | None:
        """What the agent left when it was given the same incumbent and the same draft; None where it has to be asked.

        A damaged file counts as none.
        """
        path = _path(context, name)
        if path is None or path in self._over:
            return None
        try:
            said = json.loads(read_bounded(path, LARGEST_FILE))
            if said["of"] != _question(context, draft):
                return None
            changes = Changes(dict(said["files"]), tuple(said["dropped"]), said["notes"])
            return Attempt(changes, said["failure"], said["lasting"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def write(self, context: Context, name: str, draft: Mapping[str, str], attempt: Attempt) -> None:
        """Raises AutoresearchError where it cannot be written."""
        path = _path(context, name)
        if path is None:
            return
        of = _question(context, draft)
        save(path, {"of": of, **dataclasses.asdict(attempt.changes), **_ending(attempt)})
        self._over.discard(path)

    def forget(self, context: Context, names: Iterable[str]) -> None:
        """These have had their effect: should the same be asked again in this process, the agent is asked afresh."""
        self._over.update(path for name in names if (path := _path(context, name)))


def _ending(attempt: Attempt) -> dict[str, object]:
    return {"failure": attempt.failure, "lasting": attempt.lasting}


def _path(context: Context, name: str) -> Path | None:
    return context.folder / f"{name}-left.json" if context.folder else None


def _question(context: Context, draft: Mapping[str, str]) -> str:
    """SHA-256 over all that the agent found in its copy and may change."""
    asked = [context.number, context.incumbent.commit, sorted(context.files.items()), sorted(draft.items())]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()
