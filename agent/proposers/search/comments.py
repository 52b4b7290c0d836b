"""Recognize search comments, and report misspelled ones: `# Search: 0.01..0.05` must not be ignored silently."""

from __future__ import annotations

import ast
import contextlib
import difflib
import functools
import io
import re
import tokenize
from collections.abc import Iterator

from agent.errors import UsageError
from agent.source.constants import MOST_TREES, NAME, is_literal, parsed, target_of, unmarked

COMMENT = re.compile(r"#\s*search:\s*([^;#]*)")
FORM = "write `# search: LOW..HIGH`, `# search: LOW..HIGH log`, `# search: a | b | c` or `# search: off`"

# The first word of a comment, an optional sign after it, and the rest.
_SLIP = re.compile(
    r"#+[\s:]*(?P<word>[A-Za-z]{4,10})(?:[\s-]+(?:range|space|over|in|from))?"
    r"\s*(?P<sign>[:=\uff1a]*)\s*(?P<rest>[^;#]*)"
)
_NUMBER = r"[-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RULE = re.compile(
    rf"(?:{_NUMBER}\s*(?:\.\.|\u2026|-|\u2013|to|,)\s*{_NUMBER}(?:\s+log)?|.*\|.*|off)\s*[.!]?\s*", re.IGNORECASE
)
_ALIKE = 0.8  # similarity from which a word is a misspelled "search"
LONGEST_COMMENT = 500


def require_plain(path: str, source: str) -> None:
    """Check that no comment is a misspelled search comment.

    Raises:
        UsageError: one is; the message names file and line.
    """
    for line, comment, _ in _comments(path, source):
        if COMMENT.search(comment) is None and _is_slip(comment):
            raise UsageError(f"{path}:{line}: `{comment[:60]}` is not a valid search comment", hint=FORM)


def misplaced(path: str, source: str) -> Iterator[str]:
    """Yield a sentence for each search comment that has no effect because of its position, or of its file."""
    if not path.endswith(".py"):
        for line, text in enumerate(source.splitlines(), start=1):
            rule = COMMENT.search(text[:LONGEST_COMMENT])
            if rule is not None and _RULE.fullmatch(rule[1].strip()):
                yield f"{path}:{line}: search comment ignored: the search reads only Python files"
        return
    tree = parsed(source)
    searchable = {*_lines_of_literals(tree)} if tree is not None else set()
    for line, comment, alone in _comments(path, source):
        rule = COMMENT.search(comment)
        if rule is not None and line not in searchable and _RULE.fullmatch(rule[1].strip()):
            where = "is on a line of its own" if alone else "does not follow a searchable constant"
            yield f"{path}:{line}: search comment ignored: it {where}; put it after NAME = VALUE at module level"


def _is_slip(comment: str) -> bool:
    found = _SLIP.match(comment[:LONGEST_COMMENT])
    if found is None:
        return False
    word, rest = found["word"].lower(), found["rest"].strip()
    rule = _RULE.fullmatch(rest) is not None or ".." in rest
    if word == "search":
        return bool(found["sign"]) or rule
    return rule and word.startswith("s") and difflib.SequenceMatcher(None, word, "search").ratio() >= _ALIKE


def _comments(path: str, source: str) -> tuple[tuple[int, str, bool], ...]:
    """Return each comment of a Python file with its line number, and whether it is alone on its line."""
    return _comments_in(source) if path.endswith(".py") else ()


@functools.lru_cache(maxsize=MOST_TREES)
def _comments_in(source: str) -> tuple[tuple[int, str, bool], ...]:
    found = []
    # If the syntax is invalid, the comments before the error still count.
    with contextlib.suppress(tokenize.TokenError, SyntaxError, RecursionError):
        for token in tokenize.generate_tokens(io.StringIO(unmarked(source), newline=None).readline):
            if token.type == tokenize.COMMENT:
                found.append((token.start[0], token.string, not token.line[: token.start[1]].strip()))
    return tuple(found)


def _lines_of_literals(tree: ast.Module) -> Iterator[int]:
    """Yield the last line of each assignment of a literal to a name in capitals, in any branch.

    If another statement follows on the line, a comment is about that one.
    """
    begun: dict[int, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            begun[node.lineno] = max(node.col_offset, begun.get(node.lineno, 0))
    for node in ast.walk(tree):
        found = target_of(node) if isinstance(node, ast.stmt) else None
        if found is None or not NAME.fullmatch(found[0]) or not is_literal(found[1]):
            continue
        line, column = found[1].end_lineno, found[1].end_col_offset
        if line is not None and column is not None and begun.get(line, 0) < column:
            yield line


def others(source: str) -> Iterator[str]:
    """Yield a clause for each value in a file that the user may expect to be searched, saying why it is not."""
    tree = parsed(source)
    if tree is None:
        return
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="add_argument"), args=[ast.Constant(value=str(flag)), *_]):
                yield f"{flag} is a command-line flag"
            case ast.ClassDef(name=name, body=body) if any(isinstance(each, ast.AnnAssign) for each in body):
                yield f"the fields of {name} are in a class"
    for statement in tree.body:
        found = target_of(statement)
        if found is None or found[0].startswith("__"):
            continue
        name, value = found
        if isinstance(value, ast.Tuple | ast.List | ast.Dict | ast.Set):
            yield f"{name} is not a single number"
        elif is_literal(value) and not NAME.fullmatch(name):
            yield f"{name} is not in capitals"
        elif NAME.fullmatch(name) and not is_literal(value):
            yield f"{name} is computed"
