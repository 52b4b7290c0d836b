"""Whether two candidates are the same program: comments and layout do not count."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping

from agent.source.constants import parsed


def fingerprint_of(files: Mapping[str, str]) -> str:
    """SHA-256 over paths and syntax trees; over the text itself where a file is no Python, or does not parse."""
    sha = hashlib.sha256()
    for path in sorted(files):
        sha.update(f"{path}\0{_meaning(path, files[path])}\0".encode(errors="surrogatepass"))
    return sha.hexdigest()


def _meaning(path: str, text: str) -> str:
    tree = parsed(text) if path.endswith(".py") else None
    try:
        return ast.dump(tree) if tree else text
    except (ValueError, RecursionError, MemoryError):  # a number too long to be written out, for one
        return text
