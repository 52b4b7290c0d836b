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
    """A transformer that removes statements that only set a seed, and sets every other seed to 0."""

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        named = any(isinstance(target, ast.Name) and SEED.search(target.id) for target in node.targets)
        return None if named and _is_seed(node.value, calls=False) else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        named = isinstance(node.target, ast.Name) and SEED.search(node.target.id) and node.value is not None
        return None if named and _is_seed(node.value, calls=False) else self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if _seeds(node.value) else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if _seeds(node):
            node.args, node.keywords = [ast.Constant(0)], []
        return self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        if node.arg is not None and SEED.search(node.arg) and _is_seed(node.value):
            node.value = ast.Constant(0)
        return self.generic_visit(node)


def _seeds(node: ast.AST) -> bool:
    """Return whether a node is the call of a function that takes a seed, with nothing but seeds."""
    if not isinstance(node, ast.Call):
        return False
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return called in SEEDING and all(map(_is_seed, (*node.args, *(each.value for each in node.keywords))))


def _is_seed(node: ast.AST | None, *, calls: bool = True) -> bool:
    """Return whether an expression depends on nothing of the program but its seeds.

    Args:
        calls: whether it may call functions, and be another constant than a number.
    """
    match node:
        case ast.Constant():
            return calls or isinstance(node.value, int | float)
        case ast.Name():
            return SEED.search(node.id) is not None
        case ast.UnaryOp():
            return _is_seed(node.operand, calls=calls)
        case ast.BinOp():
            return _is_seed(node.left, calls=calls) and _is_seed(node.right, calls=calls)
        case ast.Call():
            return calls and all(map(_is_seed, (*node.args, *(each.value for each in node.keywords))))
    return False


def _unseeded(files: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for path, text in files.items():
        tree = parse(text) if path.endswith(".py") else None
        try:
            found[path] = ast.unparse(_Unseed().visit(tree)) if tree else text
        except (ValueError, RecursionError):  # such as a number with too many digits to print
            found[path] = text
    return found
