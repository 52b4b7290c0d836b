"""Find the ALL_CAPS constants of a Python source in its syntax tree, and replace them without changing any other byte.

Only live module-level assignments count: an `if` is followed when its test can be computed from literals, earlier
constants and the names that the harness defines (PROFILE, MAX_SEQ_LEN, ...). Nothing is ever executed.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.journal.experiment import Value
from agent.source.encoding import HEADER, encoding_of

NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_COMMENT = re.compile(rb"[) \t\f]*;?[ \t\f]*(#[^\r\n]*)")  # after a literal that ends the last statement of its line
# Limits on what a source can make the evaluator compute.
LARGEST_POWER = 64
LONGEST_TEXT = 1000
MOST_BITS = 1024
MOST_ITEMS = 10_000  # of a tuple, with those of the tuples in it
MOST_DIGITS = 100  # of `round`

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, items: item in items,
    ast.NotIn: lambda item, items: item not in items,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}
_CALLS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "int": int,
    "len": len,
    "max": max,
    "min": min,
    "round": round,
    "set": set,
}

MOST_SETTINGS = 1000  # of constants in a source: two that undo each other must not be set for ever

MOST_TREES = 8  # cached, because the same few texts are parsed over and over
LARGEST_CACHED = 2**17  # characters; the tree of a larger text may take 150 MB, and only the last one is kept


@dataclass(frozen=True)
class Constant:
    """A constant with a literal value.

    Attributes:
        begin, end: byte offsets of the literal in the UTF-8 source.
        literal: the value as the source spells it.
        encoding: of the file, as it declares.
        comment: the comment after it on its line; empty if another statement follows, which the comment is about.
        annotation: its type as the source spells it; empty if it has none.
    """

    name: str
    value: Value
    begin: int
    end: int
    literal: str
    comment: str
    line: int
    encoding: str = "utf-8"
    annotation: str = ""


def constants(source: str, known: Mapping[str, Value]) -> dict[str, Constant]:
    """Return the live constants with a literal value, by name; the last one wins if a name is assigned twice.

    Args:
        known: values of the names that the harness defines.

    Returns:
        An empty dict if the syntax is invalid, or if branches are nested too deeply to follow.
    """
    tree = parsed(source)
    try:
        return _constants(tree, source, known) if tree else {}
    except RecursionError:
        return {}


def _constants(tree: ast.Module, source: str, known: Mapping[str, Value]) -> dict[str, Constant]:
    data = source.encode()
    starts = line_starts(data)
    encoding = encoding_of("a.py", data) if b"coding" in data[:HEADER] else "utf-8"  # seldom, because it takes a while
    found: dict[str, Constant] = {}
    for statement, name, node, value in _assignments(tree, known, {}):
        if NAME.fullmatch(name) and is_literal(node) and isinstance(value, int | float | bool | str):
            assert node.end_lineno is not None and node.end_col_offset is not None
            begin, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
            comment = _comment_after(data, end)
            spelled = data[begin:end].decode()
            annotation = ast.unparse(statement.annotation) if isinstance(statement, ast.AnnAssign) else ""
            found[name] = Constant(name, value, begin, end, spelled, comment, node.lineno, encoding, annotation)
    return found


def _comment_after(data: bytes, end: int) -> str:
    found = _COMMENT.match(data, end)
    return found[1].decode(errors="replace").rstrip() if found else ""


def replace(source: str, found: Mapping[str, Constant], values: Mapping[str, Value]) -> str:
    """Return `source` with new literals for the constants named in `values`.

    Args:
        found: what `constants` returned for this source.
    """
    old = {name: found[name] for name in values}
    changed = [n for n, each in old.items() if values[n] != each.value or type(values[n]) is not type(each.value)]
    return with_literals(source, found, {name: literal(values[name], old[name]) for name in changed})


def with_literals(source: str, found: Mapping[str, Constant], literals: Mapping[str, str]) -> str:
    """Return `source` with exactly these literals for the constants that they name.

    Args:
        found: what `constants` returned for this source.
    """
    data = source.encode()
    for name in sorted(literals, key=lambda name: found[name].begin, reverse=True):
        data = data[: found[name].begin] + literals[name].encode() + data[found[name].end :]
    return data.decode()


def settled(source: str, known: Mapping[str, Value], spelled: Callable[[Constant], str]) -> str:
    """Return `source` with other literals for its live constants.

    A constant may select the branch in which another one is live, so those that are defined in one place are set first,
    in the order of the source, and all are found anew after each. One that is live nowhere in the end is not set.

    Args:
        known: values of the names that the harness defines.
        spelled: returns the literal that a constant gets.
    """
    tree = parsed(source)
    places = Counter(
        each.id
        for each in ast.walk(tree or ast.Module([], []))
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
    )
    for _ in range(MOST_SETTINGS):
        found = constants(source, known)
        wrong = [each for each in found.values() if spelled(each) != each.literal]
        if not wrong:
            break
        first = min(wrong, key=lambda each: (places[each.name] > 1, each.begin))
        source = with_literals(source, found, {first.name: spelled(first)})
    return source


def branches_of(source: str, constant: Constant) -> list[tuple[str, bool]]:
    """Return the `if`s that a constant stands in, outermost first: the test of each, and whether it must hold.

    Args:
        constant: of this source.
    """
    found, body = list[tuple[str, bool]](), (parsed(source) or ast.Module([], [])).body
    while True:
        around = next((each for each in body if _spans([each], constant.line)), None)
        if not isinstance(around, ast.If):
            return found
        holds = _spans(around.body, constant.line)
        found.append((ast.unparse(around.test), holds))
        body = around.body if holds else around.orelse


def _spans(body: Sequence[ast.stmt], line: int) -> bool:
    return bool(body) and body[0].lineno <= line <= (body[-1].end_lineno or line)


def literal(value: Value, instead: Constant) -> str:
    """Spell a new value of a constant in its style: a power of two as a power, a string in the same quotes.

    Characters that the encoding of the file lacks are escaped.
    """
    like = instead.literal
    power = re.fullmatch(r"2\s*\*\*\s*\d+", like)
    if power and isinstance(value, int) and value > 0 and value & (value - 1) == 0:
        return f"2**{value.bit_length() - 1}"
    if isinstance(value, str) and not _has(instead.encoding, value):
        return ascii(value)
    if (
        isinstance(value, str)
        and like.startswith('"')
        and '"' not in value
        and value.isprintable()
        and "\\" not in value
    ):
        return f'"{value}"'
    return repr(value)


def _has(encoding: str, text: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def refuses(source: str, known: Mapping[str, Value], values: Mapping[str, Value]) -> str | None:
    """Return the text of the first live module-level `assert` that `values` would fail, or None.

    Asserts that cannot be evaluated are assumed to hold. If the source cannot be parsed, the text says why.
    """
    tree = parsed(source)
    if tree is None:
        return "the syntax is invalid"
    try:
        return _refuses(tree, known, values)
    except RecursionError:
        return "branches are nested too deeply to follow"


def _refuses(tree: ast.Module, known: Mapping[str, Value], values: Mapping[str, Value]) -> str | None:
    names: dict[str, Any] = dict(known)
    for statement in _live(tree.body, names, values):
        if isinstance(statement, ast.Assert):
            try:
                holds = bool(_evaluate(statement.test, names))
            except _Unknown:
                continue
            if not holds:
                return ast.unparse(statement.test)
    return None


class _Unknown(Exception):
    """The value of an expression cannot be computed."""


def unmarked(source: str) -> str:
    """Remove a byte order mark: Python accepts it at the start of a file, but not of a string."""
    return source.removeprefix("\ufeff")


def parsed(source: str) -> ast.Module | None:
    """Return a cached `parse`, for callers that do not modify the tree."""
    return _small(source) if len(source) <= LARGEST_CACHED else _large(source)


def parse(source: str) -> ast.Module | None:
    """Return the syntax tree, or None if the syntax is invalid or nested too deeply."""
    try:
        return ast.parse(unmarked(source))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


_small = functools.lru_cache(maxsize=MOST_TREES)(parse)
_large = functools.lru_cache(maxsize=1)(parse)


def line_starts(data: bytes) -> list[int]:
    """Return the offset from which `ast` counts the columns of each line."""
    # It ends lines as Python does (\n, \r\n, \r), and counts in bytes and without a byte order mark.
    starts = [3 if data.startswith(b"\xef\xbb\xbf") else 0]
    return starts + [match.end() for match in re.finditer(rb"\r\n|\n|\r", data)]


def _assignments(
    tree: ast.Module, known: Mapping[str, Value], values: Mapping[str, Value]
) -> Iterator[tuple[ast.stmt, str, ast.expr, Any]]:
    names: dict[str, Any] = dict(known)
    for statement in _live(tree.body, names, values):
        target = target_of(statement)
        if target is not None:
            yield statement, *target, names.get(target[0])


def _live(body: list[ast.stmt], names: dict[str, Any], values: Mapping[str, Value]) -> Iterator[ast.stmt]:
    """Yield the statements that are known to run at import, updating `names` with what they assign.

    Args:
        values: override what the statements assign.
    """
    for statement in body:
        if isinstance(statement, ast.If):
            try:
                branch = statement.body if _evaluate(statement.test, names) else statement.orelse
            except _Unknown:
                _forget(statement, names)
                continue
            yield from _live(branch, names, values)
            continue
        target, found = target_of(statement), dict[str, Any]()
        if target is not None:
            name, node = target
            with contextlib.suppress(_Unknown):
                found[name] = values[name] if name in values else _evaluate(node, names)
        _forget(statement, names)
        names.update(found)
        yield statement


def _forget(statement: ast.stmt, names: dict[str, Any]) -> None:
    """Drop every name that a statement binds: loops, `with`, `try`, tuples and `+=` are not followed.

    The names of a function or class are local to it and stay.
    """
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.pop(node.id, None)


def target_of(statement: ast.stmt) -> tuple[str, ast.expr] | None:
    """Return the name and value of an assignment to a single name, or None for any other statement."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id, statement.value
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value is not None:
        return statement.target.id, statement.value
    return None


def is_literal(node: ast.expr) -> bool:
    """Return whether an expression is a number (negative too), a string, a bool, or a power such as 2**16."""
    match node:
        case ast.Constant():
            return True
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant()):
            return True
        case ast.BinOp(left=ast.Constant(), op=ast.Pow(), right=ast.Constant()):
            return True
    return False


def _evaluate(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """Return the value of an expression of literals, names and plain arithmetic.

    Raises:
        _Unknown: the value cannot be computed.
    """
    try:
        return _compute(node, names)
    except (ArithmeticError, TypeError, ValueError, LookupError, RecursionError):
        raise _Unknown from None


def _compute(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value) if not isinstance(value, int) or value.bit_length() <= MOST_BITS:
            return value
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return _bounded(tuple(_compute(item, names) for item in items))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_compute(operand, names))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            first, second = _compute(left, names), _compute(right, names)
            _require_small(op, first, second)
            return _bounded(_BINARY[type(op)](first, second))
        case ast.BoolOp(op=ast.And(), values=operands):
            return all(_compute(operand, names) for operand in operands)
        case ast.BoolOp(values=operands):
            return any(_compute(operand, names) for operand in operands)
        case ast.Compare(left=left, ops=ops, comparators=comparators) if all(type(op) in _COMPARE for op in ops):
            terms = [_compute(term, names) for term in (left, *comparators)]
            return all(_COMPARE[type(op)](a, b) for op, a, b in zip(ops, terms, terms[1:], strict=False))
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return _compute(body if _compute(test, names) else orelse, names)
        case ast.Subscript(value=value, slice=index) if not isinstance(index, ast.Slice):
            return _compute(value, names)[_compute(index, names)]
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _CALLS:
            terms = [_compute(arg, names) for arg in args]
            if name == "round" and not all(abs(digits) <= MOST_DIGITS for digits in terms[1:]):
                raise _Unknown
            return _CALLS[name](*terms)
    raise _Unknown


def _require_small(op: ast.operator, first: Any, second: Any) -> None:
    if isinstance(op, ast.Pow) and (abs(second) > LARGEST_POWER or abs(first) > 2**LARGEST_POWER):
        raise _Unknown
    # A percent sign formats texts, to any width.
    if isinstance(op, ast.Mult | ast.Mod) and any(isinstance(term, str | bytes | tuple) for term in (first, second)):
        raise _Unknown
    if any(isinstance(term, str | bytes) and len(term) > LONGEST_TEXT for term in (first, second)):
        raise _Unknown
    if any(isinstance(term, int) and term.bit_length() > MOST_BITS for term in (first, second)):
        raise _Unknown


def _bounded(value: Any) -> Any:
    """Return a value that is no tuple, or one of few items: to compare it takes as long as to visit all that it holds.

    Raises:
        _Unknown: it has too many.
    """
    left, waiting = MOST_ITEMS, [value] if isinstance(value, tuple) else []
    while waiting:
        each = waiting.pop()
        left -= 1
        if left < 0:
            raise _Unknown
        if isinstance(each, tuple):
            waiting.extend(each)
    return value
