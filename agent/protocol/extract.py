"""Extract a metric from a run's log, or from a file that the run wrote."""

from __future__ import annotations

import contextlib
import json
import math
import re
from pathlib import Path
from typing import Any
from xml.parsers import expat

import regex

from agent.errors import Ambiguous, NoMetric
from agent.format import one_line, printed
from agent.protocol.models import Metric
from agent.system.files import read_text, reason
from agent.system.masking import without_secrets
from agent.system.patterns import SECONDS, Endless, found, short, widened

LARGEST_FILE = 64 * 2**20
LONGEST_SUMMARY = 1000  # characters of pytest's summary line
LONGEST_NUMBER = 1000  # characters
LONGEST_SHOWN = 40
LONGEST_END = 2**20  # characters at the end of a log that are searched for the training time
LEAST_DECIMALS = 2  # digits behind the point from which a number may be a rounded one
# A larger value is no measurement: programs that diverge print such numbers, and their squares would be infinite.
LARGEST_VALUE = 1e100
MOST_SECONDS = 1e9  # of training, as in a journal

_PYTEST_WORDS = {"passed": "passed", "failed": "failed", "errors": "error", "skipped": "skipped"}
# Linters and installers also print "2 files left unchanged in 0.01s". Plugins of pytest add counts with other words.
_PYTEST_SUMMARY = re.compile(
    r"\bno tests ran in [0-9.]+s"
    r"|\b[0-9]+ (?:passed|failed|errors?|skipped|xfailed|xpassed|deselected|warnings?)(?:, [0-9]+ [^,]+)* in [0-9.]+s"
)
_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|nan|inf(?:inity)?)", re.IGNORECASE)
# Thousands separated by commas: 45,060.2.
_GROUPED = re.compile(r"[+-]?[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?(?!\d|[,.]\S)", re.IGNORECASE)
# The same for the group of a pattern, which mostly has digits only and would pass over such a number.
_ALSO_GROUPED = r"[+-]?[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?(?!\d|[,.]\S)"
# What programs print in place of a number: a run that diverged, a mean of nothing.
_NO_NUMBER = r"(?<!\w)[+-]?(?i:nan|inf(?:inity)?|none|null|n/a)(?!\w)"
_HAS_NO_NUMBER = re.compile(_NO_NUMBER)
_HAS_GROUPED, _SOME_NUMBER = (
    re.compile(r"[0-9],[0-9]{3}"),
    re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+)*(?:e[+-]?[0-9]+)?", re.I),
)
_PARTS = re.compile(r"[][(){},;|:]")  # of a line
# Parts of a pattern that are no literal text, and a word in what is left.
_NOT_LITERAL, _WORD = re.compile(r"\\.|\[\^?\]?[^\]]*\]|\(\?P?<?\w*"), re.compile(r"[A-Za-z]{2}")
# JSON has no word for these, and only some programs write the words that Python reads.
_BARE = re.compile(r"(?<=[:\[,\s])[+-]?(nan|inf(?:inity)?)(?=\s*[,}\]])", re.IGNORECASE)
_TRAINED = re.compile(
    r"^[ \t]*(?:total[_ ])?train(?:ing)?[_ ](?:seconds|secs?|time|time[_ ]s|duration)[ \t]*[:=][ \t]*"
    r"([0-9][0-9,]{0,12}(?:\.[0-9]{1,12})?)[ \t]*(?:s|sec|secs|seconds)?[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


# Modification time in nanoseconds and size. Not the inode: a file of a lower layer gets another one when it is opened.
Stamp = tuple[int, int]


def stamp(path: Path) -> Stamp | None:
    """Return what changes when a file is written; None if it is missing."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def extract(
    metric: Metric, log: str, folder: Path = Path(), before: Stamp | None = None, seconds: float = SECONDS
) -> float:
    """Return the metric's value.

    Args:
        metric: the metric and its extraction rule.
        log: the run's log, which is read unless the rule names a file.
        folder: folder that the command ran in; the rule's file is relative to it.
        before: the stamp of the rule's file before the run; one that still has it is left over from another run.
        seconds: time limit for matching the protocol's pattern.

    Raises:
        NoMetric: no value was found, several different ones, or one that is not finite or beyond LARGEST_VALUE.
    """
    how = metric.extract
    if how.path is not None:
        log = _read(folder, how.path, before)
    if how.kind != "junit":
        log = printed(log)
    if how.kind == "regex":
        value = _regex(metric, log, seconds)
    else:
        value = {"json_pointer": _json_pointer, "junit": _junit, "pytest_summary": _pytest_summary}[how.kind](
            metric, log
        )
    if not math.isfinite(value):
        raise NoMetric(f"{metric.name} is {value}, not a finite number")
    if abs(value) > LARGEST_VALUE:
        raise NoMetric(f"{metric.name} is {value:g}, which is too large to compare")
    return value


def _regex(metric: Metric, log: str, seconds: float) -> float:
    # For patterns a carriage return ends a line. Text after it overwrites the line, so only its last value counts.
    lines = log.replace("\r", "\n")
    given = metric.extract.pattern or ""
    # Only if it is needed: a wider expression takes longer.
    pattern = widened(given, _ALSO_GROUPED) if _HAS_GROUPED.search(lines) else given
    values: dict[int, str] = {}
    line = place = 0
    try:
        for match in found(pattern, lines, seconds):
            at = match.start(1) if match.start(1) >= 0 else match.start()
            line, place = max(line, log.rfind("\n", place, at) + 1), max(place, at)
            values[line] = _whole(metric.name, lines, match)
    except Endless:
        words = f"the pattern {short(given)} did not finish within {seconds:g} s"
        raise NoMetric(f"cannot read {metric.name}: {words}") from None
    if (later := _no_number_after(given, lines, place, seconds)) is not None:
        return _number(metric.name, later)
    if not values:
        raise NoMetric(f"no line of the log matches the pattern for {metric.name}")
    return _one_number(metric.name, set(values.values()))


def _no_number_after(pattern: str, lines: str, place: int, seconds: float) -> str | None:
    """Return the nan, inf or null that stands where a number should, after the last one.

    A group of digits passes over it, and a run that diverged would count with the number that it had before. The words
    before it on its line have to be those before the number: another one's means nothing.

    Args:
        place: of the last number; 0 without one.
    """
    named = _WORD.search(_NOT_LITERAL.sub(" ", pattern))  # else any line of `None` would do
    if not named or not _HAS_NO_NUMBER.search(lines, place):
        return None
    last = None
    with contextlib.suppress(Endless):
        for match in found(widened(pattern, _NO_NUMBER), lines, seconds):
            at, text = match.start(1), (match[1] or "").strip()
            if at > place and _HAS_NO_NUMBER.fullmatch(text) and (not place or _same_words(lines, place, at, text)):
                last = text
    return last


def _same_words(lines: str, place: int, at: int, text: str) -> bool:
    """Return whether the same stands before two places on their lines: numbers and the width of columns may differ.

    A nan has the same name before it, and the same word before that. A None, which programs print of anything, has all.
    """
    one, other = _before(lines, place), _before(lines, at)
    if text.lower().lstrip("+-") in ("none", "null", "n/a"):
        return one == other
    names = [[word for word in _PARTS.split(each.rstrip(" :="))[-1].split() if word != "#"] for each in (one, other)]
    size = min(2, *map(len, names))
    return size == 0 or names[0][-size:] == names[1][-size:]


def _before(lines: str, place: int) -> str:
    """Return the text before a place on its line, without its numbers and the width of its columns."""
    text = lines[max(lines.rfind("\n", 0, place) + 1, place - LONGEST_SUMMARY) : place]
    return " ".join(_HAS_NO_NUMBER.sub("#", _SOME_NUMBER.sub("#", text)).split())


def _whole(name: str, lines: str, match: regex.Match[str]) -> str:
    """Return the text of the whole number that was matched.

    A pattern such as [0-9.]+ reads 1.2e-3 as 1.2, so the captured text must extend to the end of its line. The
    exception is a pattern that itself matches to the end of the line, if the number ends where the captured text does.
    The same pattern reads 45,060.2 as 45; thousands separators are added to the captured text.

    Raises:
        NoMetric: the match is only part of a number.
    """
    text, end = match.group(1) or "", match.end(1) if match.end(1) >= 0 else match.end()
    line_end = lines.find("\n", end)
    line_end = line_end if line_end >= 0 else len(lines)
    grouped = _GROUPED.match(lines, match.start(1), line_end) if text else None
    if grouped and grouped.end() > end:
        text, end = grouped[0], grouped.end()
    rest = lines[end : min(line_end, end + LONGEST_NUMBER)]
    spelled_out = match.end() >= line_end and not re.match(r"[\w.,+-]*\d", rest)
    if rest.strip() and not spelled_out:
        raise NoMetric(f"{name} is not a plain number: {_shown(rest.strip())} follows it on its line")
    return text


def _one_number(name: str, texts: set[str]) -> float:
    """Return the number that all texts denote, possibly rounded.

    Raises:
        NoMetric: they denote different numbers.
    """
    values = {text: _number(name, text) for text in texts}
    finest = max(texts, key=lambda text: (_decimals(text), text))
    value = values[finest]
    others = {each for text, each in values.items() if not _rounds_to(value, text, each)}
    if others:
        raise Ambiguous(f"the log has {len({*others, value})} different values of {name}")
    return value


def _rounds_to(value: float, text: str, rounded: float) -> bool:
    """Return whether `text`, parsed as `rounded`, is the value, or the value rounded to fewer decimals."""
    if rounded == value or (math.isnan(rounded) and math.isnan(value)):
        return True
    decimals = _decimals(text)
    return decimals >= LEAST_DECIMALS and abs(value - rounded) <= 0.5000001 * 10.0**-decimals


def _decimals(text: str) -> int:
    """Return the number of digits behind the point, 0 if the number has an exponent."""
    return len(text.strip().partition(".")[2]) if "e" not in text.lower() else 0


def told_training(log: str) -> float | None:
    """Return the training time in a log, in seconds, from a line such as `training_seconds: 300.1`; None if missing.

    A number beyond MOST_SECONDS is none of seconds, but a date or of nanoseconds.
    """
    found = [*_TRAINED.finditer(printed(log[-LONGEST_END:]).replace("\r", "\n"))]
    try:
        seconds = _number("training", found[-1][1]) if found else None
    except NoMetric:
        return None
    return None if seconds is None or seconds > MOST_SECONDS else seconds


def _json_pointer(metric: Metric, log: str) -> float:
    value = last_json(metric.name, log)
    where = _shown(metric.extract.pointer)
    for part in (metric.extract.pointer or "").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, _Object) and key in value.doubled:
            raise Ambiguous(f"{metric.name} has different values in the JSON at {where}")
        try:
            value = value[int(key)] if isinstance(value, list) and _INDEX.fullmatch(key) else value[key]
        except (KeyError, IndexError, TypeError):
            raise NoMetric(f"{metric.name} is missing in the JSON at {where}") from None
    return _number(metric.name, value)


class _Object(dict[str, Any]):
    """A JSON object that records which of its names occurred with different values."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.doubled: set[str] = set()
        if len(self) < len(pairs):
            self.doubled = {name for name, value in pairs if isinstance(value, dict | list) or value != self[name]}


def last_json(name: str, log: str) -> Any:
    """Return the JSON that `log` is, or that its last line with valid JSON holds.

    Raises:
        NoMetric: `log` contains no JSON.
    """
    for text in (log, *reversed(log.splitlines())):
        if text.lstrip()[:1] in ("{", "["):
            with contextlib.suppress(ValueError, RecursionError, MemoryError):
                return json.loads(text, object_pairs_hook=_Object)
            if text.lstrip()[0] == "{" and (spelled := _as_python_spells(text)) != text:
                with contextlib.suppress(ValueError, RecursionError, MemoryError):
                    return json.loads(spelled, object_pairs_hook=_Object)
    raise NoMetric(f"no JSON found for {name}")


def _as_python_spells(text: str) -> str:
    """Return JSON with its nan and inf as Python writes them, so that no earlier line counts in place of this one."""

    def spelled(word: re.Match[str]) -> str:
        sign = "-" if word[0].startswith("-") else ""
        return "NaN" if word[1].lower() == "nan" else f"{sign}Infinity"

    return _BARE.sub(spelled, text)


def _junit(metric: Metric, log: str) -> float:
    suites = _suites(metric.name, log)
    if not suites:
        raise NoMetric(f"the JUnit file for {metric.name} has no testsuite element")

    def sum_of(key: str) -> float:
        numbers = [_number(f"{key} of the JUnit file for {metric.name}", suite.get(key) or "0") for suite in suites]
        if any(number < 0 for number in numbers):
            raise NoMetric(f"{key} of the JUnit file for {metric.name} is negative")
        return math.fsum(numbers) if all(map(math.isfinite, numbers)) else math.nan

    keys = {"total": "tests", "failed": "failures", "errors": "errors", "skipped": "skipped", "seconds": "time"}
    asked = keys.get(metric.extract.count, "tests")
    if not any(asked in suite for suite in suites):
        raise NoMetric(f"the JUnit file for {metric.name} does not give its {asked}")
    if metric.extract.count in keys:
        return sum_of(asked)
    passed = sum_of("tests") - sum_of("failures") - sum_of("errors") - sum_of("skipped")
    if passed < 0:
        raise NoMetric(f"the JUnit file for {metric.name} has more failures than tests")
    return passed


def _suites(name: str, log: str) -> list[dict[str, str]]:
    """Return the attributes of the outermost suites.

    Raises:
        NoMetric: the text is not XML, or declares a document type, whose entities could expand without limit.
    """
    suites: list[dict[str, str]] = []
    depth, single = 0, False
    parser = expat.ParserCreate()

    def begin(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth, single
        single = single or (depth == 0 and tag == "testsuite")
        if tag == "testsuite" and depth == (0 if single else 1):
            suites.append(attributes)
        depth += 1

    def end(_: str) -> None:
        nonlocal depth
        depth -= 1

    def refuse(*_: object) -> None:
        raise NoMetric(f"the JUnit file for {name} declares a document type, which is not allowed")

    parser.StartElementHandler, parser.EndElementHandler = begin, end
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(log.encode("utf-8", errors="replace"), True)
    except expat.ExpatError as error:
        raise NoMetric(f"the JUnit file for {name} is not XML: {error}") from None
    except (LookupError, ValueError, RecursionError, MemoryError):
        raise NoMetric(f"the JUnit file for {name} is not XML: it cannot be parsed") from None
    return suites


def _pytest_summary(metric: Metric, log: str) -> float:
    lines = (line for line in reversed(log.splitlines()) if len(line) <= LONGEST_SUMMARY)
    summary = next((found for found in map(_PYTEST_SUMMARY.search, lines) if found), None)
    if summary is None:
        raise NoMetric(f"the log has no pytest summary line for {metric.name}")
    line = summary[0]
    if line.startswith("no tests"):
        raise NoMetric(f"{metric.name} is missing: pytest ran no tests")
    count = metric.extract.count
    if count == "seconds":
        return _number(metric.name, re.findall(r" in ([0-9.]+)s", line)[-1])
    counts: dict[str, float] = {}
    for number, word in re.findall(r"([0-9]+) (passed|failed|errors?|skipped)", line):
        value = _number(metric.name, number)
        if counts.setdefault(word.rstrip("s"), value) != value:
            raise NoMetric(f"pytest's summary line has two counts of {word}, so {metric.name} is ambiguous")
    return sum(counts.values()) if count == "total" else counts.get(_PYTEST_WORDS[count], 0.0)


def _number(name: str, value: object) -> float:
    if isinstance(value, str):
        text = value.strip()
        if len(text) <= LONGEST_NUMBER and _GROUPED.fullmatch(text):
            text = text.replace(",", "")
        if len(text) <= LONGEST_NUMBER and _NUMBER.fullmatch(text):
            return float(text)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise NoMetric(f"{name} is too large") from None
    raise NoMetric(f"{name} is {_shown(value)}, not a number")


def _shown(value: object) -> str:
    """Describe a value in a few words: it may be an object of a gigabyte, or an integer too long to print."""
    if isinstance(value, str):
        text = one_line(without_secrets(value[: 10 * LONGEST_SHOWN]))
        return repr(text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "...")
    return {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}.get(
        dict if isinstance(value, dict) else type(value), type(value).__name__
    )


def _read(folder: Path, name: str, before: Stamp | None) -> str:
    """Return the content of a file that the run wrote.

    Raises:
        NoMetric: it is unreadable, as it was before the run, not a regular file, or outside of the folder.
    """
    path = folder / name
    try:
        if not path.parent.resolve().is_relative_to(folder.resolve()):
            raise NoMetric(f"{path.name} is outside of the folder that the command ran in")
        if before is not None and stamp(path) == before:
            raise NoMetric(f"{path.name} was not written by this run")
        return read_text(path, LARGEST_FILE)
    except RuntimeError:
        raise NoMetric(f"cannot read {path.name}: its path is a loop of links") from None
    except OSError as error:
        raise NoMetric(f"cannot read {path.name}: {reason(error)}") from None
