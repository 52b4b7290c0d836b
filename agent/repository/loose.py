"""Objects of git that are files of their own: gitrepository-layout(5), `objects/[0-9a-f][0-9a-f]`."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from agent.repository.git import Git

OBJECT = re.compile(r"[0-9a-f]{38}|[0-9a-f]{62}")  # a git that is writing one gives it another name until it is whole


def remove_empty_objects(git: Git) -> None:
    """Remove the files of objects that hold nothing, as a power cut leaves them.

    Git takes the file for the object, so that it neither reads the object nor writes it again. Other damage stays as it
    is: somebody may want to look at it.
    """
    folder = git.top / git.run("rev-parse", "--git-path", "objects")
    for file in folder.glob("[0-9a-f][0-9a-f]/*"):
        with contextlib.suppress(OSError):
            if OBJECT.fullmatch(file.name) and _is_empty(file):
                file.unlink()


def _is_empty(file: Path) -> bool:
    """Return whether a file has no bytes, or only the zeros that some file systems put in their place."""
    if file.stat().st_size == 0:
        return True
    with file.open("rb") as stream:
        return stream.read(1) == b"\0" and not stream.read().strip(b"\0")
