"""Determine the searched constants of the mutable files and their ranges, from search comments or from the values.

LEARNING_RATE = 0.04  # search: 0.004..0.4 log
DEPTH = 4             # search: 1..12
PATTERN = "SSSL"      # search: "L" | "SL" | "SSSL"
SEED = 42             # search: off; free text may follow a semicolon
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from agent.errors import UsageError
from agent.journal.experiment import Value
from agent.proposers.search.comments import COMMENT, FORM, misplaced, others, require_plain
from agent.source.constants import Constant, constants, refuses, replace
from agent.source.equivalence import fingerprint_of
from agent.source.training_budget import limits_of, timed_names, why_budget

RANGE = re.compile(r"(\S+?)\s*\.\.\s*(\S+)(\s+log)?")
FLOAT = re.compile(r"\bfloat\b")
# A recipe that changes one of these is not better: it gets another seed, another test set, or merely other output.
# Each row is words of a name, which underscores separate.
SEEDS = r"[A-Z]*SEEDS? | RANDOM_?STATE | RNG"
# What a comment cannot make a constant to search either. The number of seeds is none, nor is SEED_WORDS.
SEED = re.compile(r"^(?!(?:N|NUM)_)(?:.*_)?(?:[A-Z]*SEED|RANDOM_?STATE|RNG)\d*$")
SIZES = (
    r"(?: SIZE | FRAC | FRACTION | RATIO | PCT | PERCENT | N | NUM | COUNT | BATCH | BATCHES | STEPS? | ITERS? | TOKENS"
    r" | SAMPLES | EXAMPLES | ROWS | DOCS | EPISODES | EVERY | INTERVAL | FREQ | SPLIT | START | END )"
)
NEVER = re.compile(
    rf"""(^|_)(
      (?: {SEEDS}
        | EVAL[A-Z]* | H(?:OLD|ELD)_?OUT | [KN]?FOLDS?
        | [A-Z]*(?:JOBS | WORKERS | THREADS)
        | VERBOSE | LOG | PRINT | VERSION | PATH | DIR
      )\d*(?=_|$)
    | (?: TESTS? | VAL | VALID | VALIDATION | CV ) (?:_[A-Z]+)* _{SIZES}$  # but not VAL_LOSS_WEIGHT
    | (?: SPLITS? | TRAIN )_(?:SIZE | FRAC | FRACTION | RATIO | PCT | PERCENT )$
    | SPLITS?$  # but not SPLIT_HEADS
    | PORT$
    ) | ^(?:(?:N|NUM)_)?(?: TESTS? | VAL | VALID | VALIDATION | CV | RUNS )$ | ^(?:N|NUM)_REPEATS?$""",
    re.VERBOSE,
)
FRACTION = re.compile(r"RATIO|FRAC|BETA|DROPOUT|DECAY|MOMENTUM")
LEAST_POWER = 16  # below, as in DEPTH = 4, the numbers between powers of two matter
DIGITS = 3
MOST_REASONS = 4
# Above this, the width of a range or a multiple of a value might overflow.
LARGEST = 1e300
NAME_CONSTANTS = (
    "name the values to tune in capitals at module level of a Python file, such as `RATE = 0.1`, or let a model or an "
    "agent propose with `--model` or `--agent`"
)


@dataclass(frozen=True)
class Dimension:
    """A searched constant.

    Attributes:
        key: name of the constant, or path:name if several files have searched constants.
        kind: `power` stands for powers of two; the values of a `choice` have no order. The value of a `float` may be
            spelled as an integer.
        value: the value in the source, which may lie outside a range that a comment gives.
        low, high: bounds of a number, inclusive.
        log: whether the range is searched on a logarithmic scale.
        choices: the values of a `choice`.
    """

    key: str
    path: str
    name: str
    kind: Literal["float", "int", "power", "choice"]
    value: Value
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Value, ...] = ()

    @property
    def start(self) -> float:
        """The value of a number, or the end of the range that is nearest to it: where steps begin."""
        assert isinstance(self.value, int | float)
        return min(max(self.value, self.low), self.high)

    def fits(self, value: Value) -> bool:
        """Return whether a value is within the range, one of the choices, or that in the source."""
        if self.kind == "choice":
            return value in self.choices
        if isinstance(value, str | bool):
            return False
        return value == self.value or self.low <= value <= self.high

    def rounded(self, value: float) -> float:
        """Return the nearest value that may be proposed: in range, of the constant's type, with few digits."""
        value = min(max(value, self.low), self.high)
        if self.kind == "power":
            return int(
                2
                ** min(
                    max(round(math.log2(max(value, 1))), math.ceil(math.log2(max(self.low, 1)))),
                    int(math.log2(self.high)),
                )
            )
        if self.kind == "int":
            few = float(f"{value:.{DIGITS}g}")
            return round(few if self.low <= few <= self.high else value)
        few = min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)
        return self.value if few == self.value and not isinstance(self.value, str) else few  # 1 stays 1, not 1.0


@dataclass(frozen=True)
class Space:
    """The searched constants of a set of files.

    Attributes:
        files: path -> text.
        known: values of the names that the harness defines.
    """

    files: Mapping[str, str]
    known: Mapping[str, Value]
    dimensions: tuple[Dimension, ...]

    def values(self) -> dict[str, Value]:
        """Return the values in the source, by key."""
        return {dimension.key: dimension.value for dimension in self.dimensions}

    def label(self, dimension: Dimension) -> str:
        """Return the name of a constant as rows show it: with its path only if several files have one of that name."""
        alike = sum(each.name == dimension.name for each in self.dimensions)
        return dimension.key if alike > 1 else dimension.name

    def apply(self, values: Mapping[str, Value]) -> dict[str, str]:
        """Return the new text of every file that `values` changes."""
        texts = {}
        for path, text in self.files.items():
            named = self._of_file(path, values)
            changed = replace(text, constants(text, self.known), named) if named else text
            if changed != text:
                texts[path] = changed
        return texts

    def refuses(self, values: Mapping[str, Value]) -> bool:
        """Return whether an assert in one of the files would fail with `values`."""
        return any(
            refuses(text, self.known, self._of_file(path, values)) is not None
            for path, text in self.files.items()
            if path.endswith(".py")
        )

    def _of_file(self, path: str, values: Mapping[str, Value]) -> dict[str, Value]:
        return {d.name: values[d.key] for d in self.dimensions if d.path == path and d.key in values}


def space_of(files: Mapping[str, str], known: Mapping[str, Value]) -> Space:
    """Return the search space of a set of files.

    Args:
        files: path -> text.
        known: values of the names that the harness defines.

    Raises:
        UsageError: a search comment is malformed or misspelled; the message names file and line.
    """
    for path, text in files.items():
        require_plain(path, text)
    budgets = _budgets(files, known)
    dimensions = []
    for path, constant in _constants(files, known):
        dimension = _dimension(path, constant, budgets.get((path, constant.name)))
        if dimension is not None:
            dimensions.append(dimension)
    if len({dimension.path for dimension in dimensions}) == 1:
        return Space(files, known, tuple(dimensions))
    keyed = [Dimension(**{**vars(d), "key": f"{d.path}:{d.name}"}) for d in dimensions]
    return Space(files, known, tuple(keyed))


def is_same_code(one: Mapping[str, str], other: Mapping[str, str], known: Mapping[str, Value]) -> bool:
    """Return whether two sets of files are the same program, apart from the values of what is searched in both."""
    if one == other:
        return True
    first, second = (
        {path: {d.name for d in space_of(files, known).dimensions if d.path == path} for path in files}
        for files in (one, other)
    )
    both = {path: names & second[path] for path, names in first.items() if path in second}
    return fingerprint_of(one, both) == fingerprint_of(other, both)


def tunable_parameters(files: Mapping[str, str], known: Mapping[str, Value]) -> dict[str, Value]:
    """Return the values of the searched constants by NAME, or by path:NAME if several files have some."""
    return space_of(files, known).values()


def takes_fractions(constant: Constant) -> bool:
    """Return whether a number may get a fraction, however it is spelled now.

    It may if it has a point or an exponent, is annotated as a float, or if its search comment names a fraction. A bound
    such as 1e6 is a short form of a whole number.
    """
    if isinstance(constant.value, str | bool):
        return False
    if isinstance(constant.value, float):
        return True
    comment = COMMENT.search(constant.comment)
    text = comment[1].strip() if comment else ""
    form = RANGE.fullmatch(text)
    return _is_float(constant) or any(map(_has_fraction, form.groups()[:2] if form else text.split("|")))


def _is_float(constant: Constant) -> bool:
    return FLOAT.search(constant.annotation) is not None and not re.search(r"\bint\b", constant.annotation)


def _has_fraction(text: str) -> bool:
    try:
        return "." in text or not float(text).is_integer()
    except (ValueError, OverflowError):  # no number, or an infinite one
        return False


def why_nothing(files: Mapping[str, str], known: Mapping[str, Value]) -> str | None:
    """Return a clause that says why no constant can be searched, or None if one can.

    NAME_CONSTANTS is the hint that goes with it.
    """
    if space_of(files, known).dimensions:
        return None
    budgets = _budgets(files, known)
    reasons = [
        f"{constant.name} {_why_left_out(constant, budgets.get((path, constant.name)))}"
        for path, constant in _constants(files, known)
    ]
    reasons += [reason for path, text in files.items() if path.endswith(".py") for reason in others(text)]
    shown = ", ".join(dict.fromkeys(reasons[:MOST_REASONS])) or _no_constants(files)
    more = f", and {len(reasons) - MOST_REASONS} more" if len(reasons) > MOST_REASONS else ""
    return f"nothing to search: {shown}{more}"


def _no_constants(files: Mapping[str, str]) -> str:
    python = [path for path in files if path.endswith(".py")]
    if python:
        return f"{', '.join(python[:3])} has no named constants"
    return f"the search reads only Python files, not {', '.join([*files][:3])}"


def remarks_on(files: Mapping[str, str]) -> list[str]:
    """Return a sentence for each search comment that has no effect."""
    found = [remark for path, text in files.items() for remark in misplaced(path, text)]
    for path, each in _constants(files, {}):
        comment = COMMENT.search(each.comment)
        if comment and comment[1].strip() != "off" and SEED.search(each.name):
            found.append(f"{path}:{each.line}: {each.name} is not searched: another seed only has other luck")
    return found


def _why_left_out(constant: Constant, budget: str | None) -> str:
    if budget is not None:
        return f"is excluded ({budget})"
    if COMMENT.search(constant.comment):
        return "is a seed" if SEED.search(constant.name) else "is excluded by its search comment"
    if isinstance(constant.value, str):
        return "is a string without a search comment that lists choices"
    if NEVER.search(constant.name):
        comment = "" if SEED.search(constant.name) else ", without a comment such as `# search: 1..8`"
        return f"is excluded by its name{comment}"
    return "is negative, 0 or too large for a default range, and has no search comment"


def _constants(files: Mapping[str, str], known: Mapping[str, Value]) -> list[tuple[str, Constant]]:
    return [
        (path, constant)
        for path, text in files.items()
        if path.endswith(".py")
        for constant in constants(text, known).values()
    ]


def _budgets(files: Mapping[str, str], known: Mapping[str, Value]) -> dict[tuple[str, str], str]:
    """Return why constants are training budgets, by file and name."""
    timed = {name for path, text in files.items() if path.endswith(".py") for name in timed_names(text)}
    found = {}
    for path, constant in _constants(files, known):
        why = why_budget(constant.name, constant.value, limits_of(known), timed)
        if why is not None:
            found[path, constant.name] = why
    return found


def _dimension(path: str, constant: Constant, budget: str | None) -> Dimension | None:
    """Return the dimension of a constant, or None if it is not searched.

    Args:
        budget: why the constant is a training budget; None if it is not.

    Raises:
        UsageError: the search comment is malformed, or gives a training budget a range.
    """
    comment = COMMENT.search(constant.comment)
    if comment is None:
        return None if budget or NEVER.search(constant.name) else _inferred(path, constant)
    text = comment.group(1).strip()
    if text == "off" or SEED.search(constant.name):  # whatever its range: another seed only has other luck
        return None
    if budget is not None:
        raise UsageError(
            f"{path}:{constant.line}: {constant.name} cannot be searched, because longer training is not a better "
            f"recipe ({budget})",
            hint="replace its comment with `# search: off`",
        )
    try:
        return _choices(path, constant, text) if "|" in text else _range(path, constant, text)
    except (ValueError, SyntaxError, TypeError, ArithmeticError, RecursionError, MemoryError):
        raise UsageError(
            f"{path}:{constant.line}: the search comment of {constant.name} is malformed", hint=FORM
        ) from None


def _choices(path: str, constant: Constant, text: str) -> Dimension:
    choices = [ast.literal_eval(part.strip()) for part in text.split("|")]
    if constant.value not in choices:
        choices.insert(0, constant.value)
    for choice in choices:
        if isinstance(choice, str):
            choice.encode()  # raises ValueError on an unpaired surrogate, which the journal cannot hold
        elif not _is_number(choice):
            raise ValueError(text)
    return Dimension(constant.name, path, constant.name, "choice", constant.value, choices=tuple(choices))


def _range(path: str, constant: Constant, text: str) -> Dimension:
    form = RANGE.fullmatch(text)
    if form is None or isinstance(constant.value, str | bool):
        raise ValueError(text)
    low, high = float(form.group(1)), float(form.group(2))
    if not low < high or (form.group(3) and low <= 0) or not all(map(_is_number, (low, high, constant.value))):
        raise ValueError(text)
    return _numeric(path, constant, low, high, bool(form.group(3)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= LARGEST


def _inferred(path: str, constant: Constant) -> Dimension | None:
    value, name = constant.value, constant.name
    if isinstance(value, bool):
        return Dimension(name, path, name, "choice", value, choices=(False, True))
    if isinstance(value, str):
        return None
    fraction = FRACTION.search(name) is not None
    if value == 0:
        return _numeric(path, constant, 0.0, 0.5, False) if fraction and takes_fractions(constant) else None
    if value < 0 or value > LARGEST:
        return None
    if isinstance(value, int) and not takes_fractions(constant):
        if _is_power(value) and value >= LEAST_POWER:
            return _numeric(path, constant, max(1, value // 4), value * 4, True)
        return _numeric(path, constant, max(1, min(value // 2, value - 1)), max(value * 2, value + 1), False)
    if fraction and value <= 1:
        return _numeric(path, constant, value / 8, min(1.0, value * 8), False)
    return _numeric(path, constant, value / 8, value * 8, True)


def _numeric(path: str, constant: Constant, low: float, high: float, log: bool) -> Dimension:
    """Return a numeric dimension. Its range is as given: a value outside it does not widen it."""
    value = constant.value
    assert isinstance(value, int | float)
    kind: Literal["float", "int", "power"] = "float"
    if not takes_fractions(constant):
        low, high = math.ceil(low), math.floor(high)
        # Without `log`, a power of two is an ordinary integer: DEPTH = 4, ASPECT_RATIO = 64.
        powers = log and math.ceil(math.log2(low)) <= math.floor(math.log2(high))
        kind = "power" if powers and isinstance(value, int) and _is_power(value) else "int"
    return Dimension(constant.name, path, constant.name, kind, value, low, high, log)


def _is_power(value: int) -> bool:
    return value >= 2 and value & (value - 1) == 0
