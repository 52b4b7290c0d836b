"""Fingerprint candidates so that two are equal if they are the same program: comments and layout do not count."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping

from agent.source.constants import parsed


def fingerprint_of(files: Mapping[str, str]) -> str:
    """Return a SHA-256 over paths and syntax trees, or texts for files that are not Python or do not parse.

    Args:
        files: path -> text.
    """
    sha = hashlib.sha256()
    for path in sorted(files):
        sha.update(f"{path}\0{_meaning(path, files[path])}\0".encode(errors="surrogatepass"))
    return sha.hexdigest()


def _meaning(path: str, text: str) -> str:
    tree = parsed(text) if path.endswith(".py") else None
    try:
        return ast.dump(tree) if tree else text
    except (ValueError, RecursionError, MemoryError):  # such as a number with too many digits to print
        return text
