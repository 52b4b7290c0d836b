"""Fingerprint candidates so that two are equal if they are the same program: comments and layout do not count."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection, Iterator, Mapping

from agent.source.constants import is_literal, parse, parsed, target_of

NOTHING: Mapping[str, Collection[str]] = {}


def fingerprint_of(files: Mapping[str, str], without: Mapping[str, Collection[str]] = NOTHING) -> str:
    """Return a SHA-256 over paths and syntax trees, or texts for files that are not Python or do not parse.

    Args:
        files: path -> text.
        without: path -> names of constants whose values do not count.
    """
    sha = hashlib.sha256()
    for path in sorted(files):
        sha.update(f"{path}\0{_meaning(path, files[path], without.get(path, ()))}\0".encode(errors="surrogatepass"))
    return sha.hexdigest()


def _meaning(path: str, text: str, without: Collection[str]) -> str:
    tree = (parse(text) if without else parsed(text)) if path.endswith(".py") else None
    try:
        for statement in _assignments(tree.body) if tree and without else ():
            name, value = target_of(statement) or ("", None)
            if name in without and value is not None and is_literal(value):
                statement.value = ast.Constant(0)
        return ast.dump(tree) if tree else text
    except (ValueError, RecursionError, MemoryError):  # such as a number with too many digits to print
        return text


def _assignments(body: list[ast.stmt]) -> Iterator[ast.Assign | ast.AnnAssign]:
    """Yield the assignments at module level, in all branches."""
    for statement in body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            yield statement
        elif isinstance(statement, ast.If):
            yield from _assignments(statement.body)
            yield from _assignments(statement.orelse)
