"""The seed of a recipe: the constant SEED or RANDOM_STATE of its Python files.

A candidate keeps more than that: constants whose names end so, and numbers that are passed as seeds.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.journal.experiment import Value
from agent.source.constants import Constant, constants, line_starts, parse, replace
from agent.source.simplicity import SEEDING, repeats

NAMES = ("SEED", "RANDOM_STATE")  # the second as in scikit-learn
ENDS = re.compile(rf"(^|_)({'|'.join(NAMES)})$")
PASSED_AS = frozenset({"seed", "random_state"})
RANDOM = re.compile("seed|rand|rng", re.IGNORECASE)


@dataclass(frozen=True)
class _Number:
    """An integer that is passed as a seed.

    Attributes:
        place: what it is assigned to, the function, and the keyword; each may be empty.
        begin, end: byte offsets in the UTF-8 source.
    """

    place: tuple[str, str, str]
    value: int
    begin: int
    end: int
    literal: bytes
    line: int


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

    A seed that `base` lacks keeps its value, and so does a number that is passed as one unless it is clear which one of
    `base` it was.

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


def differing_seeds(files: Mapping[str, str], own: Mapping[str, str], known: Mapping[str, Value]) -> list[str]:
    """Return where `files` have other seeds than `own`, as in `line 3 of train.py has 5 instead of 0`.

    Args:
        own: the files that `with_seeds_of` or `moved_seeds` returned for them.
    """
    found = []
    for path, text in own.items():
        now, before = _ending(files[path], known), _ending(text, known)
        pairs: list[tuple[Constant | _Number, Constant | _Number]]
        pairs = [(now[name], before[name]) for name in now if name in before]
        pairs += zip(_numbers(files[path]), _numbers(text), strict=False)
        found += [
            f"line {a.line} of {path} has {a.value} instead of {b.value}"
            for a, b in sorted(pairs, key=lambda pair: pair[0].begin)
            if a.value != b.value
        ]
    return found


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


def alters_randomness(before: Mapping[str, str], after: Mapping[str, str]) -> bool:
    """Return whether the statements that mention a seed or random numbers differ, as far as can be told.

    Where they are the same, `after` mostly uses the seed as `before` does; a helper may still set another.
    """
    try:
        return _random_statements(before) != _random_statements(after)
    except RecursionError:  # an expression of a thousand terms
        return True


def _random_statements(files: Mapping[str, str]) -> Counter[str] | None:
    """Return the statements that mention a seed or random numbers, without their place; None if a file is unreadable.

    Of a statement with others inside, such as a function, these are the parts outside of them.
    """
    texts = [text for path, text in files.items() if path.endswith(".py")]
    trees = _trees(files)
    if len(trees) < len(texts):
        return None
    nodes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.stmt))
    lines = (line for path, text in files.items() if not path.endswith(".py") for line in text.splitlines())
    return Counter(shown for shown in (*map(_alone, nodes), *lines) if RANDOM.search(shown))


def _alone(node: ast.stmt) -> str:
    """Return a statement without the statements inside it."""
    parts = [type(node).__name__]
    for name, value in ast.iter_fields(node):
        every = value if isinstance(value, list) else [value]
        if not any(isinstance(each, ast.stmt | ast.ExceptHandler | ast.match_case) for each in every):
            parts += [name, *(ast.dump(each) if isinstance(each, ast.AST) else repr(each) for each in every)]
    return " ".join(parts)


def _seeds(files: Mapping[str, str], known: Mapping[str, Value]) -> dict[str, dict[str, Constant]]:
    """Return the constants of NAMES that hold an integer, by file and name."""
    every = {path: constants(text, known) for path, text in files.items() if path.endswith(".py")}
    return {path: {name: each[name] for name in NAMES if _is_seed(each.get(name))} for path, each in every.items()}


def _ending(text: str, known: Mapping[str, Value]) -> dict[str, Constant]:
    """Return the constants that hold an integer and whose names end in one of NAMES."""
    return {name: each for name, each in constants(text, known).items() if ENDS.search(name) and _is_seed(each)}


def _with_numbers_of(base: str, text: str) -> str:
    """Return the text with the numbers that `base` passes as seeds, where it is clear which is which."""
    data = text.encode()
    changed = _changed(_numbers(base), _numbers(text))
    for before, after in sorted(changed, key=lambda pair: pair[1].begin, reverse=True):
        data = data[: after.begin] + before.literal + data[after.end :]
    return data.decode()


def _changed(theirs: Sequence[_Number], ours: Sequence[_Number]) -> list[tuple[_Number, _Number]]:
    """Return the numbers that differ at the same place of both texts.

    A number that is at another place now has moved with its code, and keeps its value. So do all at the same place: one
    of them may be new.
    """
    if len(theirs) != len(ours):
        return []
    whole = _unassigned(theirs, ours)
    places = defaultdict[tuple[str, ...], tuple[list[_Number], list[_Number]]](lambda: ([], []))
    for side, numbers in enumerate((theirs, ours)):
        for each in numbers:
            place = each.place[1:]
            places[place if place in whole else each.place][side].append(each)
    paired = [list(zip(*sides, strict=True)) for sides in places.values() if len(sides[0]) == len(sides[1])]
    same = Counter(a.value for pairs in paired for a, b in pairs if a.value == b.value)
    lost, new = (Counter(each.value for each in numbers) - same for numbers in (theirs, ours))
    moved = {*lost} & {*new}
    clear = [pairs for pairs in paired if not any(moved & {a.value, b.value} for a, b in pairs if a.value != b.value)]
    return [(a, b) for pairs in clear for a, b in pairs if a.value != b.value]


def _unassigned(theirs: Sequence[_Number], ours: Sequence[_Number]) -> set[tuple[str, ...]]:
    """Return the functions and keywords that occur once in each text, and in one of them without a target."""
    once = []
    for numbers in (theirs, ours):
        count = Counter(each.place[1:] for each in numbers)
        once.append({each.place[1:]: each.place[0] for each in numbers if count[each.place[1:]] == 1})
    return {place for place in {*once[0]} & {*once[1]} if not (once[0][place] and once[1][place])}


def _numbers(text: str) -> list[_Number]:
    """Return the integers that are passed as seeds, in order."""
    tree = parse(text)
    passed = [*_seeding(tree)] if tree else []
    if tree is None or not passed:
        return []
    data, targets, found = text.encode(), _targets(tree), list[_Number]()
    starts = line_starts(data)
    for call, keyword, node in passed:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            begin = starts[node.lineno - 1] + node.col_offset
            end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
            # Before Python 3.12, what stands in an f-string has other offsets.
            if _is_spelled(data[begin:end], node.value):
                place = (targets.get(call, ""), _name_of(call.func), keyword)
                found.append(_Number(place, node.value, begin, end, data[begin:end], node.lineno))
    return sorted(found, key=lambda each: each.begin)


def _is_spelled(literal: bytes, value: int) -> bool:
    try:
        return int(literal, 0) == value
    except ValueError:
        return False


def _targets(tree: ast.Module) -> dict[ast.Call, str]:
    """Return the names that the results of calls are assigned to."""
    found = dict[ast.Call, str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            words = " ".join(_word_of(each) for target in targets for each in ast.walk(target))
            found |= {each: words for each in ast.walk(node.value) if isinstance(each, ast.Call)}
    return found


def _word_of(node: ast.AST) -> str:
    match node:
        case ast.Name(id=word) | ast.Attribute(attr=word):
            return word
        case ast.Constant(value=value):
            return repr(value)
    return ""


def _is_seed(constant: Constant | None) -> bool:
    return constant is not None and isinstance(constant.value, int) and not isinstance(constant.value, bool)


def _trees(files: Mapping[str, str]) -> list[ast.Module]:
    return [tree for path, text in files.items() if path.endswith(".py") and (tree := parse(text))]


def _passed(files: Mapping[str, str]) -> Iterator[ast.expr]:
    """Yield the expressions that are passed to functions as a seed."""
    for tree in _trees(files):
        yield from (value for _, _, value in _seeding(tree))


def _seeding(tree: ast.Module) -> Iterator[tuple[ast.Call, str, ast.expr]]:
    """Yield each call that is passed a seed, its keyword, which may be empty, and the seed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from ((node, each.arg, each.value) for each in node.keywords if each.arg in PASSED_AS)
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            yield from ((node, "", each) for each in (node.args[:1] if called in SEEDING else ()))


def _name_of(node: ast.expr) -> str:
    """Return a dotted name; without its begin where that is no name."""
    parts = list[str]()
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([*([node.id] if isinstance(node, ast.Name) else []), *reversed(parts)])


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
