"""The seed of a recipe: the constant SEED of its Python files."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from agent.journal.experiment import Value
from agent.source.constants import Constant, constants, parse, replace
from agent.source.simplicity import SEEDING

NAME = "SEED"


def seed_of(files: Mapping[str, str], known: Mapping[str, Value]) -> int | None:
    """Return the seed of a recipe; None if it has no constant SEED that setting it would change everywhere.

    It has none if nothing reads SEED, or if a function has a SEED of its own.

    Args:
        files: path -> text of the mutable files.
        known: values of the names that the harness defines.
    """
    found = {path: constant.value for path, constant in _seeds(files, known).items()}
    uses = [use for tree in _trees(files) for use in _uses(tree)]
    if "own" in uses or "read" not in uses:
        return None
    return next((value for value in found.values() if isinstance(value, int)), None)


def with_seed(files: Mapping[str, str], known: Mapping[str, Value], seed: int) -> dict[str, str]:
    """Return the files that change if SEED is set to `seed`: path -> new text."""
    found = {
        path: replace(files[path], {NAME: constant}, {NAME: seed}) for path, constant in _seeds(files, known).items()
    }
    return {path: text for path, text in found.items() if text != files[path]}


def literal_seeds(files: Mapping[str, str]) -> int:
    """Return how many seeds are passed to functions without reading SEED, so that setting it does not reach them."""
    return sum(not _reads(value) for value in _passed(files))


def read_seeds(files: Mapping[str, str]) -> int:
    """Return how many seeds are passed to functions that read SEED."""
    return sum(_reads(value) for value in _passed(files))


def _seeds(files: Mapping[str, str], known: Mapping[str, Value]) -> dict[str, Constant]:
    every = {path: constants(text, known).get(NAME) for path, text in files.items() if path.endswith(".py")}
    return {
        path: constant
        for path, constant in every.items()
        if constant and isinstance(constant.value, int) and not isinstance(constant.value, bool)
    }


def _trees(files: Mapping[str, str]) -> list[ast.Module]:
    return [tree for path, text in files.items() if path.endswith(".py") and (tree := parse(text))]


def _passed(files: Mapping[str, str]) -> Iterator[ast.expr]:
    """Yield the expressions that are passed to functions as a seed."""
    for tree in _trees(files):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield from (each.value for each in node.keywords if each.arg == "seed")
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                yield from node.args[:1] if called in SEEDING else ()


def _reads(node: ast.expr) -> bool:
    return any(isinstance(each, ast.Name) and each.id == NAME for each in ast.walk(node))


def _uses(tree: ast.Module) -> Iterator[str]:
    """Yield `read` for each place that reads SEED, and `own` for each function that has a SEED of its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == NAME and isinstance(node.ctx, ast.Load):
            yield "read"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            inside = [each for each in ast.walk(node) if each is not node]
            names = [each.id for each in inside if isinstance(each, ast.Name) and not isinstance(each.ctx, ast.Load)]
            names += [each.arg for each in inside if isinstance(each, ast.arg)]
            if NAME in names:
                yield "own"
