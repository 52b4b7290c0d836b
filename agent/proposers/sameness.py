"""Whether two candidates are the same program: comments and layout do not count."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping

from agent.edits import parsed
from agent.proposers.base import Context


def fingerprint_of(files: Mapping[str, str]) -> str:
    """SHA-256 over paths and syntax trees; over the text itself where a file is no Python, or does not parse."""
    sha = hashlib.sha256()
    for path in sorted(files):
        sha.update(f"{path}\0{_meaning(path, files[path])}\0".encode(errors="surrogatepass"))
    return sha.hexdigest()


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
                self._known[experiment.commit] = fingerprint_of(context.texts(experiment))
            if self._known[experiment.commit] == wanted:
                return f"experiment #{experiment.number} ({experiment.verdict.status}: {experiment.description[:80]})"
        return None


def _meaning(path: str, text: str) -> str:
    tree = parsed(text) if path.endswith(".py") else None
    try:
        return ast.dump(tree) if tree else text
    except (ValueError, RecursionError, MemoryError):  # a number too long to be written out, for one
        return text
