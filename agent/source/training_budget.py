"""Find the constants that set how long training runs. They are never searched: longer training is not a better recipe.

A constant is found by its name, by the protocol's own number, or by its use: a value that is compared with a clock,
added to one, or passed to a timer is a time, whatever its name.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from agent.journal.experiment import Value
from agent.source.constants import parsed

MOST_PASSES = 6  # over assignments that depend on each other
LEAST_STEPS = 100  # smaller limits do not identify a constant by its value

_TIME = re.compile(
    r"BUDGET|SECONDS?(_|$)|MINUTES?(_|$)|HOURS?(_|$)|WALL_?(CLOCK|TIME)|DEADLINE|TIME_?OUT|DURATION"
    r"|(^|_)(SECS?|MINS|HRS)(_|$)|(TRAIN|TRAINING|MAX|TOTAL|RUN|STOP|END|ALLOWED)_?TIME(_LIMIT)?$|TIME_?LIMIT|^TIME$"
    r"|^(TRAIN|RUN)_FOR$|(^|_)STOP_AFTER$",
    re.IGNORECASE,
)
_STEPS = re.compile(
    r"^((MAX|NUM|N|TOTAL)_)?((TRAIN|TRAINING)_)?(STEPS|ITERS|ITERATIONS|EPOCHS?|UPDATES)$"
    r"|^(STEPS|ITERS|ITERATIONS|EPOCHS|UPDATES)_(MAX|TOTAL)$"
)
# Parts of a schedule, not budgets.
_SCHEDULE = re.compile(r"WARM|COOL|DECAY|ANNEAL|RAMP|HALF")
# Names that may be a time if the value equals the protocol's.
_MAYBE = re.compile(r"^\w{1,2}$|TIME|LIMIT|TRAIN|RUN|MAX|STOP|END|LENGTH|HORIZON")

_CLOCKS = {
    *("time", "perf_counter", "monotonic", "process_time", "thread_time", "time_ns", "perf_counter_ns", "monotonic_ns"),
    *("process_time_ns", "default_timer", "now", "utcnow", "elapsed_time", "clock_gettime"),
}
_TIMERS = {"alarm", "setitimer", "Timer", "sleep", "timedelta"}
_KEEPING = {"min", "max", "round", "float", "int", "abs", "sum", "total_seconds", "item"}


@dataclass(frozen=True)
class TrainingLimits:
    """How the protocol ends training.

    Attributes:
        seconds: the time budget; None if there is none.
        count: the budget in steps or epochs; None if there is none.
        counted: whether the budget is in steps or epochs.
    """

    seconds: float | None = None
    count: float | None = None
    counted: bool = False


class Known(dict[str, Value]):
    """The values of the names that the harness defines, and how the protocol limits training."""

    def __init__(self, values: Mapping[str, Value], limits: TrainingLimits) -> None:
        super().__init__(values)
        self.limits = limits


def limits_of(known: Mapping[str, Value]) -> TrainingLimits:
    return known.limits if isinstance(known, Known) else TrainingLimits()


def why_budget(name: str, value: Value, limits: TrainingLimits, timed: Iterable[str]) -> str | None:
    """Return why a constant is a training budget, or None if it is not.

    Args:
        timed: names found by `timed_names`.
    """
    if isinstance(value, bool | str) or _SCHEDULE.search(name):
        return None
    if _TIME.search(name):
        return "its name is that of a training budget"
    if name in timed:
        return "the code compares it with a clock"
    if limits.seconds is not None and value == limits.seconds and (isinstance(value, float) or _MAYBE.search(name)):
        return f"it equals the protocol's training budget of {limits.seconds:g} s"
    if limits.counted and (_STEPS.search(name) or (value == limits.count and value >= LEAST_STEPS)):
        return "the protocol's training budget is in steps or epochs"
    return None


def counts_training(name: str) -> bool:
    """Return whether a name is that of a training budget in steps or epochs."""
    return _STEPS.search(name) is not None and not _SCHEDULE.search(name)


@functools.lru_cache(maxsize=64)
def timed_names(source: str) -> frozenset[str]:
    """Return the names in a Python source that the code uses as training times; see the module docstring."""
    tree = parsed(source)
    try:
        return frozenset(_Times(tree).limits) if tree else frozenset()
    except RecursionError:
        return frozenset()


class _Times:
    """The names that a source uses as times. Names are compared, not scopes.

    Attributes:
        limits: names of values that are compared with a clock.
    """

    def __init__(self, tree: ast.Module) -> None:
        self._nodes = [*ast.walk(tree)]
        self._times: set[str] = set()  # names that hold clock readings or differences of them
        self._ratios: dict[str, set[str]] = {}  # name that holds an elapsed fraction -> names of the total times
        self._same: dict[str, set[str]] = {}  # name -> names that it is computed from
        self._learn()
        found = {name for node in self._nodes for name in self._compared_with_clock(node)}
        self.limits = self._origins(found)

    def _learn(self) -> None:
        functions = {node.name: node for node in self._nodes if isinstance(node, ast.FunctionDef)}
        for _ in range(MOST_PASSES):
            before = len(self._times), len(self._ratios)
            for node in self._nodes:
                for target, value in _bindings(node, functions):
                    if self._is_time(value):
                        self._times.add(target)
                    elif parts := self._share(value):
                        self._ratios.setdefault(target, set()).update(parts)
                    else:
                        self._same.setdefault(target, set()).update(_names(value))
            if before == (len(self._times), len(self._ratios)):
                return

    def _compared_with_clock(self, node: ast.AST) -> Iterator[str]:
        """Yield the names that a node compares with a clock, adds to one, or passes to a timer."""
        match node:
            case ast.Compare(left=left, comparators=others):
                yield from self._next_to_clock([left, *others])
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub(), right=right):
                yield from self._next_to_clock([left, right])
            case ast.Call(func=func, args=args, keywords=keywords):
                if _called(func) in ("min", "max"):
                    yield from self._next_to_clock(args)
                for arg in args if _called(func) in _TIMERS else ():
                    yield from _names(arg)
                for keyword in keywords:
                    if _called(func) in _TIMERS or (keyword.arg and _TIME.search(keyword.arg)):
                        yield from _names(keyword.value)

    def _next_to_clock(self, terms: list[ast.expr]) -> Iterator[str]:
        if any(self._is_time(term) for term in terms):
            yield from (name for term in terms if not self._is_time(term) for name in _names(term))
        if any(isinstance(term, ast.Constant) and term.value == 1 for term in terms):
            yield from (name for term in terms for name in self._share(term))

    def _is_time(self, node: ast.expr) -> bool:
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                return name in self._times
            case ast.Call(func=func, args=args):
                called = _called(func)
                inner = [*args, *([func.value] if isinstance(func, ast.Attribute) else [])]
                return (
                    called in _CLOCKS
                    or called in self._times
                    or (called in _KEEPING and any(self._is_time(each) for each in inner))
                )
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub(), right=right):
                return self._is_time(left) or self._is_time(right)
            case ast.BinOp(left=left, op=ast.Mult() | ast.Div(), right=ast.Constant()):
                return self._is_time(left)
            case ast.IfExp(body=body, orelse=orelse):
                return self._is_time(body) or self._is_time(orelse)
        return False

    def _share(self, node: ast.expr) -> set[str]:
        """Return the names of the total times of which an expression is the elapsed fraction."""
        match node:
            case ast.BinOp(left=left, op=ast.Div(), right=right) if self._is_time(left) and not self._is_time(right):
                return {*_names(right)}
            case ast.Name(id=name) | ast.Attribute(attr=name):
                return self._ratios.get(name, set())
            case ast.Call(args=args) if _called(node.func) in _KEEPING:
                return {name for arg in args for name in self._share(arg)}
        return set()

    def _origins(self, names: set[str]) -> set[str]:
        found, waiting = set(names), [*names]
        while waiting:
            more = self._same.get(waiting.pop(), set()) - found
            found |= more
            waiting += more
        return found - self._times


def _bindings(node: ast.AST, functions: Mapping[str, ast.FunctionDef]) -> Iterator[tuple[str, ast.expr]]:
    """Yield each name that a node binds, with its value: assignments, call arguments, return values of functions."""
    match node:
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                yield from ((name, value) for name in _target(target))
        case ast.AnnAssign(target=target, value=ast.expr() as value) | ast.AugAssign(target=target, value=value):
            yield from ((name, value) for name in _target(target))
        case ast.NamedExpr(target=target, value=value):
            yield target.id, value
        case ast.FunctionDef(name=name, body=body):
            for inner in body:
                if isinstance(inner, ast.Return) and inner.value is not None:
                    yield name, inner.value
        case ast.Call(func=func, args=args, keywords=keywords):
            yield from ((keyword.arg, keyword.value) for keyword in keywords if keyword.arg)
            if (function := functions.get(_called(func))) is not None:
                yield from ((arg.arg, value) for arg, value in zip(function.args.args, args, strict=False))


def _target(node: ast.expr) -> list[str]:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return [name]
    return []


def _called(func: ast.expr) -> str:
    return func.id if isinstance(func, ast.Name) else func.attr if isinstance(func, ast.Attribute) else ""


def _names(node: ast.expr) -> Iterator[str]:
    """Yield the names that an expression of plain arithmetic depends on."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            yield name
        case ast.BinOp(left=left, right=right):
            yield from _names(left)
            yield from _names(right)
        case ast.UnaryOp(operand=operand):
            yield from _names(operand)
        case ast.Call(func=func, args=args) if _called(func) in _KEEPING:
            for arg in args:
                yield from _names(arg)
        case ast.Dict(values=values):
            for value in values:
                yield from _names(value)
