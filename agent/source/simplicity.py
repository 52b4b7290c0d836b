"""Determine whether a candidate is simpler than the incumbent, or the same program apart from its seed."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Mapping

from agent.journal.experiment import Run
from agent.source.constants import parse, unmarked
from agent.source.equivalence import fingerprint_of

SEED = re.compile(r"(^|_)(SEED|RANDOM_STATE)(_|$)", re.IGNORECASE)
SEEDING = frozenset({"seed", "manual_seed", "key", "PRNGKey", "default_rng", "Random", "RandomState"})
LEAST_TOKENS = 5  # saving fewer does not make a program simpler
# Both must hold: the memory that a small recipe can save is not worth a run.
LESS_MEMORY, LEAST_MEGABYTES = 0.9, 512.0
_LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def repeats(files: Mapping[str, str], incumbent: Mapping[str, str]) -> str | None:
    """Return why the candidate is the same program as the incumbent, or None if it is not."""
    if fingerprint_of(files) == fingerprint_of(incumbent):
        return "only comments and layout differ"
    if fingerprint_of(_unseeded(files)) == fingerprint_of(_unseeded(incumbent)):
        return "only the seed differs"
    return None


def leaner(files: Mapping[str, str], run: Run, incumbent: Mapping[str, str], its_run: Run) -> str | None:
    """Return in which way the candidate is simpler or needs clearly less memory, or None.

    Args:
        files, incumbent: path -> text, of the candidate and of the incumbent.
        run, its_run: a run of the candidate, and one of the incumbent.
    """
    fewer = _tokens(incumbent) - _tokens(files)
    if fewer >= LEAST_TOKENS:
        return f"{fewer} fewer tokens of code"
    memory, before = (each.secondary.get("peak_vram_mb", 0.0) for each in (run, its_run))
    if 0 < memory <= min(LESS_MEMORY * before, before - LEAST_MEGABYTES):
        return f"{100 * (1 - memory / before):.0f} % less memory"
    return None


def _tokens(files: Mapping[str, str]) -> int:
    return sum(_count(text) for path, text in files.items() if path.endswith(".py"))


def _count(text: str) -> int:
    try:
        tokens = tokenize.generate_tokens(io.StringIO(unmarked(text)).readline)
        return sum(token.type not in _LAYOUT for token in tokens)
    except (tokenize.TokenError, SyntaxError):
        return len(text.split())


class _Unseed(ast.NodeTransformer):
    """A transformer that sets every number used as a seed to 0."""

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        if any(isinstance(target, ast.Name) and SEED.search(target.id) for target in node.targets):
            node.value = _zero(node.value)
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if isinstance(node.target, ast.Name) and SEED.search(node.target.id) and node.value is not None:
            node.value = _zero(node.value)
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in SEEDING:
            node.args = [_zero(argument) for argument in node.args]
        return self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        if node.arg is not None and SEED.search(node.arg):
            node.value = _zero(node.value)
        return self.generic_visit(node)


def _zero(node: ast.expr) -> ast.expr:
    return ast.Constant(0) if isinstance(node, ast.Constant) and isinstance(node.value, int) else node


def _unseeded(files: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for path, text in files.items():
        tree = parse(text) if path.endswith(".py") else None
        try:
            found[path] = ast.unparse(_Unseed().visit(tree)) if tree else text
        except (ValueError, RecursionError):  # such as a number with too many digits to print
            found[path] = text
    return found
