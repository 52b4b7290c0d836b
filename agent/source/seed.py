"""The seed of a recipe: the constant SEED of its Python files."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from agent.journal.experiment import Value
from agent.source.constants import Constant, constants, parse, replace
from agent.source.simplicity import SEEDING

NAME = "SEED"


def seed_of(files: Mapping[str, str], known: Mapping[str, Value]) -> int | None:
    """Return the seed of a recipe; None if it has no constant SEED, or never reads it.

    Args:
        files: path -> text of the mutable files.
        known: values of the names that the harness defines.
    """
    found = {path: constant.value for path, constant in _seeds(files, known).items()}
    read = any(_reads_seed(text) for path, text in files.items() if path.endswith(".py"))
    return next((value for value in found.values() if isinstance(value, int)), None) if read else None


def with_seed(files: Mapping[str, str], known: Mapping[str, Value], seed: int) -> dict[str, str]:
    """Return the files that change if SEED is set to `seed`: path -> new text."""
    found = {
        path: replace(files[path], {NAME: constant}, {NAME: seed}) for path, constant in _seeds(files, known).items()
    }
    return {path: text for path, text in found.items() if text != files[path]}


def literal_seeds(files: Mapping[str, str]) -> int:
    """Return how many numbers are passed to functions as a seed, so that SEED does not reach them."""
    trees = [parse(text) for path, text in files.items() if path.endswith(".py")]
    calls = [node for tree in trees if tree for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return sum(_is_number(value) for call in calls for value in _seeds_of_call(call))


def _seeds(files: Mapping[str, str], known: Mapping[str, Value]) -> dict[str, Constant]:
    every = {path: constants(text, known).get(NAME) for path, text in files.items() if path.endswith(".py")}
    return {
        path: constant
        for path, constant in every.items()
        if constant and isinstance(constant.value, int) and not isinstance(constant.value, bool)
    }


def _seeds_of_call(call: ast.Call) -> list[ast.expr]:
    named = [each.value for each in call.keywords if each.arg == "seed"]
    called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return [*named, *(call.args[:1] if called in SEEDING else ())]


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int) and not isinstance(node.value, bool)


def _reads_seed(text: str) -> bool:
    tree = parse(text)
    return tree is not None and any(
        isinstance(node, ast.Name) and node.id == NAME and isinstance(node.ctx, ast.Load) for node in ast.walk(tree)
    )
