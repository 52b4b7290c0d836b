"""The seed of a recipe: the constant SEED or RANDOM_STATE of its Python files.

A candidate keeps more than that: constants whose names end so, and numbers that are passed as seeds.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator, Mapping

from agent.journal.experiment import Value
from agent.source.constants import Constant, constants, parse, replace
from agent.source.simplicity import SEEDING, repeats

NAMES = ("SEED", "RANDOM_STATE")  # the second as in scikit-learn
ENDS = re.compile(rf"(^|_)({'|'.join(NAMES)})$")
PASSED_AS = frozenset({"seed", "random_state"})


def seed_of(files: Mapping[str, str], known: Mapping[str, Value]) -> int | None:
    """Return the seed of a recipe; None if it has no constant of NAMES that setting it would change everywhere.

    It has none if nothing reads the constant, or if a function has one of its own.

    Args:
        files: path -> text of the mutable files.
        known: values of the names that the harness defines.
    """
    uses = {use for tree in _trees(files) for use in _uses(tree)}
    if any(use == "own" for use, _ in uses):
        return None
    found = [(name, constant.value) for each in _seeds(files, known).values() for name, constant in each.items()]
    return next((value for name, value in found if ("read", name) in uses and isinstance(value, int)), None)


def why_no_seed(files: Mapping[str, str], known: Mapping[str, Value]) -> str:
    """Return why `seed_of` found none, as a clause without its subject."""
    names = [*dict.fromkeys(name for each in _seeds(files, known).values() for name in each)]
    if not names:
        return f"has no constant {' or '.join(NAMES)}"
    own = [name for tree in _trees(files) for use, name in _uses(tree) if use == "own"]
    return f"has a function with its own {own[0]}" if own else f"reads its constant {' and '.join(names)} nowhere"


def with_seed(files: Mapping[str, str], known: Mapping[str, Value], seed: int) -> dict[str, str]:
    """Return the files that change if their seeds are set to `seed`: path -> new text."""
    found = {path: replace(files[path], each, dict.fromkeys(each, seed)) for path, each in _seeds(files, known).items()}
    return {path: text for path, text in found.items() if text != files[path]}


def with_seeds_of(base: Mapping[str, str], files: Mapping[str, str], known: Mapping[str, Value]) -> dict[str, str]:
    """Return the files that change if they get the seeds of `base`: path -> new text.

    A seed that `base` lacks keeps its value, and so do numbers that are passed as seeds if a file has more or fewer.

    Args:
        base, files: path -> text of the mutable files.
        known: values of the names that the harness defines.
    """
    own = {path: _ending(text, known) for path, text in base.items() if path.endswith(".py")}
    anywhere = {name: constant.value for each in own.values() for name, constant in each.items()}
    changed = {}
    for path, text in files.items():
        if not path.endswith(".py") or text == base.get(path):
            continue
        found, here = _ending(text, known), own.get(path, {})
        values = {name: here[name].value if name in here else anywhere.get(name, found[name].value) for name in found}
        after = _with_numbers_of(base.get(path, ""), replace(text, found, values))
        if after != text:
            changed[path] = after
    return changed


def moved_seeds(base: Mapping[str, str], files: Mapping[str, str], known: Mapping[str, Value]) -> dict[str, str]:
    """Return what `with_seeds_of` does for a candidate, but nothing if it changes nothing else: it is a repeat."""
    found = with_seeds_of(base, files, known)
    return {} if not found or repeats(files, base) else found


def seed_names(files: Mapping[str, str], known: Mapping[str, Value]) -> set[str]:
    """Return the names of the constants that `with_seed` sets."""
    return {name for each in _seeds(files, known).values() for name in each}


def literal_seeds(files: Mapping[str, str]) -> int:
    """Return how many seeds are passed to functions without reading a seed of NAMES, so that setting it misses them."""
    return sum(not _reads(value) for value in _passed(files))


def read_seeds(files: Mapping[str, str]) -> int:
    """Return how many seeds are passed to functions that read a seed of NAMES."""
    return sum(_reads(value) for value in _passed(files))


def hides_seed(before: Mapping[str, str], after: Mapping[str, str], known: Mapping[str, Value]) -> bool:
    """Return whether setting the seed varies `before` but not all of `after`, as far as their texts tell."""
    if seed_of(before, known) is None:
        return False
    fixed, reading = literal_seeds(after) > literal_seeds(before), read_seeds(after) < read_seeds(before)
    return seed_of(after, known) is None or fixed or reading


def _seeds(files: Mapping[str, str], known: Mapping[str, Value]) -> dict[str, dict[str, Constant]]:
    """Return the constants of NAMES that hold an integer, by file and name."""
    every = {path: constants(text, known) for path, text in files.items() if path.endswith(".py")}
    return {path: {name: each[name] for name in NAMES if _is_seed(each.get(name))} for path, each in every.items()}


def _ending(text: str, known: Mapping[str, Value]) -> dict[str, Constant]:
    """Return the constants that hold an integer and whose names end in one of NAMES."""
    return {name: each for name, each in constants(text, known).items() if ENDS.search(name) and _is_seed(each)}


def _with_numbers_of(base: str, text: str) -> str:
    """Return the text with the numbers that `base` passes as seeds; unchanged if it passes more or fewer."""
    theirs, ours = (_numbers(each) for each in (base, text))
    if len(theirs) != len(ours):
        return text
    data = text.encode()
    lines = [0, *itertools.accumulate(map(len, data.splitlines(keepends=True)))]
    for before, after in sorted(zip(theirs, ours, strict=True), key=lambda pair: _place(pair[1]), reverse=True):
        if before.value != after.value:
            begin = lines[after.lineno - 1] + after.col_offset
            end = lines[(after.end_lineno or 0) - 1] + (after.end_col_offset or 0)
            data = data[:begin] + str(before.value).encode() + data[end:]
    return data.decode()


def _numbers(text: str) -> list[ast.Constant]:
    """Return the integers that are passed as seeds, in order."""
    passed = [each for each in _passed({".py": text}) if isinstance(each, ast.Constant)]
    return sorted((each for each in passed if type(each.value) is int), key=_place)


def _place(node: ast.Constant) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _is_seed(constant: Constant | None) -> bool:
    return constant is not None and isinstance(constant.value, int) and not isinstance(constant.value, bool)


def _trees(files: Mapping[str, str]) -> list[ast.Module]:
    return [tree for path, text in files.items() if path.endswith(".py") and (tree := parse(text))]


def _passed(files: Mapping[str, str]) -> Iterator[ast.expr]:
    """Yield the expressions that are passed to functions as a seed."""
    for tree in _trees(files):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield from (each.value for each in node.keywords if each.arg in PASSED_AS)
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                yield from node.args[:1] if called in SEEDING else ()


def _reads(node: ast.expr) -> bool:
    return any(isinstance(each, ast.Name) and each.id in NAMES for each in ast.walk(node))


def _uses(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield `read` and the name for each place that reads a seed, and `own` for each function that has its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in NAMES and isinstance(node.ctx, ast.Load):
            yield "read", node.id
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            inside = [each for each in ast.walk(node) if each is not node]
            names = [each.id for each in inside if isinstance(each, ast.Name) and not isinstance(each.ctx, ast.Load)]
            names += [each.arg for each in inside if isinstance(each, ast.arg)]
            yield from (("own", name) for name in names if name in NAMES)
