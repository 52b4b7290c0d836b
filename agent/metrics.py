"""Numbers out of a run's log."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from agent.errors import NoMetric
from agent.protocol import Metric

_PYTEST_WORDS = {"passed": "passed", "failed": "failed", "errors": "error", "skipped": "skipped"}


def extract(metric: Metric, log: str, folder: Path = Path(), since: float = 0.0) -> float:
    """The metric's value in `log` or, where the protocol names a file, in that file under `folder`.

    since: Unix time at which the run began; an older file is left over from another run.
    Raises NoMetric where there is none, more than one that differ, or one that is not a finite number.
    """
    how = metric.extract
    if how.path is not None:
        log = _read(folder / how.path, since)
    value = {"regex": _regex, "json_pointer": _json_pointer, "junit": _junit, "pytest_summary": _pytest_summary}[
        how.kind
    ](metric, log)
    if not math.isfinite(value):
        raise NoMetric(f"{metric.name} is {value}, not a finite number")
    return value


def _regex(metric: Metric, log: str) -> float:
    values = set()
    for match in re.finditer(metric.extract.pattern or "", log, re.MULTILINE):
        line_end = log.find("\n", match.end(1))
        rest = log[match.end(1) : line_end if line_end >= 0 else len(log)]
        # A pattern such as [0-9.]+ reads 1.2e-3 as 1.2: what it captured must be all that the line holds, unless the
        # pattern itself goes on to the line's end and the number does not.
        spelled_out = match.end() >= match.end(1) + len(rest) and not re.match(r"[\w.,+-]*\d", rest)
        if rest.strip() and not spelled_out:
            raise NoMetric(f"{metric.name} is followed by {rest.strip()[:40]!r} on its line, so it is no plain number")
        values.add(match.group(1))
    if not values:
        raise NoMetric(f"no line of the log matches the pattern for {metric.name}")
    if len(values) > 1:
        raise NoMetric(f"the log holds {len(values)} different values of {metric.name}")
    return _number(metric, values.pop())


def _json_pointer(metric: Metric, log: str) -> float:
    value = last_json(metric.name, log)
    for part in (metric.extract.pointer or "").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, TypeError, ValueError):
            raise NoMetric(f"the JSON has nothing at {metric.extract.pointer} for {metric.name}") from None
    return _number(metric, value)


def last_json(name: str, log: str) -> Any:
    """The JSON that `log` is, or that its last line with some holds. Raises NoMetric where there is none."""
    for text in (log, *reversed(log.splitlines())):
        if text.lstrip()[:1] in ("{", "["):
            try:
                return json.loads(text)
            except ValueError:
                continue
    raise NoMetric(f"there is no JSON to read {name} from")


def _junit(metric: Metric, log: str) -> float:
    try:
        root = ElementTree.fromstring(log)
    except ElementTree.ParseError as error:
        raise NoMetric(f"the JUnit file for {metric.name} is not XML: {error}") from None
    suites = [root] if root.tag == "testsuite" else root.findall("testsuite")
    total, failed, errors, skipped, seconds = (
        sum(float(suite.get(key) or 0) for suite in suites)
        for key in ("tests", "failures", "errors", "skipped", "time")
    )
    counts = {"total": total, "failed": failed, "errors": errors, "skipped": skipped, "seconds": seconds}
    return counts.get(metric.extract.count, total - failed - errors - skipped)


def _pytest_summary(metric: Metric, log: str) -> float:
    summaries = [line for line in log.splitlines() if re.search(r"\d+ \w+.* in [\d.]+s", line)]
    if not summaries:
        raise NoMetric(f"the log has no pytest summary line for {metric.name}")
    line, count = summaries[-1], metric.extract.count
    if count == "seconds":
        return float(re.findall(r" in ([\d.]+)s", line)[-1])
    found = {
        word.rstrip("s"): float(number) for number, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", line)
    }
    return sum(found.values()) if count == "total" else found.get(_PYTEST_WORDS[count], 0.0)


def _number(metric: Metric, value: object) -> float:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise NoMetric(f"{metric.name} is {value!r}, not a number")
    try:
        return float(value)
    except ValueError:
        raise NoMetric(f"{metric.name} is {value!r}, not a number") from None


def _read(path: Path, since: float) -> str:
    try:
        if path.stat().st_mtime < since:
            raise NoMetric(f"{path.name} was not written by this run")
        return path.read_text(errors="replace")
    except OSError as error:
        raise NoMetric(f"{path.name} cannot be read: {error.strerror}") from None
