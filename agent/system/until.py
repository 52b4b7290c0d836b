"""Parse `--until`: a time of day, a date and time, or a duration from now."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from datetime import datetime, timedelta

from agent.errors import UsageError

LONGEST_HOURS = 24 * 366

_CLOCK = re.compile(
    r"(?P<hour>\d{1,2})(?::(?P<minute>\d{2}))?(?::(?P<second>\d{2}))?\s*(?P<half>[ap])?(?:\.?m\.?)?", re.I
)
_DATED = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:?\d\d)?")
_NAMED = {"noon": "12:00", "midday": "12:00", "midnight": "00:00"}
_UNITS = {"d": 24.0, "h": 1.0, "m": 1 / 60, "s": 1 / 3600}  # in hours
_PART = r"(\d+(?:\.\d+)?)\s*(d(?:ays?)?|h(?:(?:ou)?rs?)?|m(?:in(?:ute)?s?)?|s(?:ec(?:ond)?s?)?)(?![a-z])[\s,]*"
_DURATION = re.compile(rf"(?:in\s+|\+\s*)?((?:{_PART})+)", re.I)


def moment(text: str, now: float) -> float:
    """Return the Unix time that `text` means.

    Args:
        text: a time of day (`07:00`, `7am`, `7:30pm`), meaning its next occurrence, a duration from now (`8h`,
            `90m`, `1h30m`), or a date and time (`2026-03-05T07:00`, `2026-03-05T07:00:00+01:00`), which may be over.
        now: Unix time.

    Raises:
        UsageError: it is none of them.
    """
    said = " ".join(text.split())
    if _DATED.fullmatch(said):
        with contextlib.suppress(ValueError, OverflowError):
            return datetime.fromisoformat(said).timestamp()
    hours = _hours(said)
    if hours is not None:
        return now + 3600 * hours
    wanted = _time_of_day(_NAMED.get(said.lower(), said))
    if wanted is not None:
        return _next(wanted, now)
    raise UsageError(
        "--until must be a time such as 07:00 or 7am, a date and time such as 2026-03-05T07:00, or a duration such as "
        f"8h or 1h30m, got {text!r}"
    ) from None


def _hours(said: str) -> float | None:
    """Return the hours of a duration, or None if the text is not one, or is longer than a session can last."""
    found = _DURATION.fullmatch(said)
    if found is None:
        return None
    parts = re.findall(_PART, found[1], re.I)
    hours = sum(float(count) * _UNITS[unit[0].lower()] for count, unit in parts)
    # Accept each unit once: `8h 8h` is a typo.
    once = len({unit[0].lower() for _, unit in parts}) == len(parts)
    return hours if once and 0 < hours <= LONGEST_HOURS else None


def _time_of_day(said: str) -> timedelta | None:
    """Return the clock time since midnight, or None if the text is not a time of day."""
    found = _CLOCK.fullmatch(said)
    if found is None:
        return None
    hour, minute, second = (int(found[name] or 0) for name in ("hour", "minute", "second"))
    half, bare = (found["half"] or "").lower(), found["minute"] is None
    # A bare 7 is ambiguous: morning, evening, or hours from now. `07:00m` is not a time.
    if (half and not 1 <= hour <= 12) or (not half and (bare or said[-1:].lower() in ("m", "."))):
        return None
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    if hour == 24 and minute == second == 0:
        hour = 0
    return timedelta(hours=hour, minutes=minute, seconds=second) if max(minute, second) < 60 and hour < 24 else None


def _next(wanted: timedelta, now: float) -> float:
    """Return the next Unix time at which the clock shows `wanted`, across clock changes.

    If a change skips that clock time, return the moment of the change.
    """
    today = datetime.fromtimestamp(now).replace(hour=0, minute=0, second=0, microsecond=0)
    return min(at for days in range(3) for at in _moments(today + timedelta(days=days) + wanted) if at > now)


def _moments(shown: datetime) -> Iterator[float]:
    """Yield each Unix time at which the clock shows `shown`: two if clocks go back, or the change if it skips it."""
    first, second = (shown.replace(fold=fold).timestamp() for fold in (0, 1))
    if first <= second:
        yield first
        yield second
        return
    # Clocks skip `shown`: find the moment of the change between the two by bisection.
    before, after = second, first
    while after - before > 1:
        middle = (before + after) // 2
        if datetime.fromtimestamp(middle) < shown:
            before = middle
        else:
            after = middle
    yield after
