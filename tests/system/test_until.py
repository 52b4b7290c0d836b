"""`--until`: times of day across clock changes, and durations."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from agent.errors import UsageError
from agent.system.until import moment
from tests.common.in_process import call

pytestmark = pytest.mark.quick


@pytest.fixture
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


def at(zone: str, *when: int, fold: int = 0) -> float:
    return datetime(*when, tzinfo=ZoneInfo(zone), fold=fold).timestamp()  # type: ignore[misc, arg-type]


BERLIN, NEW_YORK, LORD_HOWE, UTC = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"


@pytest.mark.parametrize(
    ("zone", "now", "text", "then"),
    [
        (BERLIN, (2026, 3, 28, 23, 0), "07:00", (2026, 3, 29, 7, 0)),  # a night of 7 hours
        (BERLIN, (2026, 10, 24, 23, 0), "07:00", (2026, 10, 25, 7, 0)),  # a night of 9
        (BERLIN, (2026, 3, 28, 7, 0), "07:00", (2026, 3, 29, 7, 0)),  # a day of 23
        (BERLIN, (2026, 10, 24, 7, 0), "7am", (2026, 10, 25, 7, 0)),  # a day of 25
        (BERLIN, (2026, 3, 28, 7, 30), "07:00", (2026, 3, 29, 7, 0)),
        (BERLIN, (2026, 3, 29, 1, 0), "02:30", (2026, 3, 29, 3, 0)),  # skipped by the change: the moment of the change
        (BERLIN, (2026, 3, 29, 3, 0), "02:30", (2026, 3, 30, 2, 30)),
        (NEW_YORK, (2026, 3, 7, 22, 0), "6am", (2026, 3, 8, 6, 0)),
        (NEW_YORK, (2026, 10, 31, 22, 0), "6am", (2026, 11, 1, 6, 0)),
        (NEW_YORK, (2026, 12, 31, 22, 0), "6:15", (2027, 1, 1, 6, 15)),
        (LORD_HOWE, (2026, 4, 4, 22, 0), "07:00", (2026, 4, 5, 7, 0)),  # by half an hour
        (UTC, (2026, 2, 28, 6, 59), "07:00", (2026, 2, 28, 7, 0)),
        (UTC, (2026, 2, 28, 7, 0), "07:00", (2026, 3, 1, 7, 0)),
        (UTC, (2026, 2, 28, 20, 0), "7:30pm", (2026, 3, 1, 19, 30)),
        (UTC, (2026, 2, 28, 10, 0), "7:30 PM", (2026, 2, 28, 19, 30)),
        (UTC, (2026, 2, 28, 10, 0), "7 p.m.", (2026, 2, 28, 19, 0)),
        (UTC, (2026, 2, 28, 10, 0), "12am", (2026, 3, 1, 0, 0)),
        (UTC, (2026, 2, 28, 10, 0), "12pm", (2026, 2, 28, 12, 0)),
        (UTC, (2026, 2, 28, 10, 0), "12:05am", (2026, 3, 1, 0, 5)),
        (UTC, (2026, 2, 28, 10, 0), "noon", (2026, 2, 28, 12, 0)),
        (UTC, (2026, 2, 28, 10, 0), "24:00", (2026, 3, 1, 0, 0)),
        (UTC, (2026, 2, 28, 10, 0), "00:00", (2026, 3, 1, 0, 0)),
        (UTC, (2026, 2, 28, 10, 0), "07:00:30", (2026, 3, 1, 7, 0, 30)),
    ],
    indirect=["zone"],
)
def test_time_of_day_means_next_occurrence(zone: str, now: tuple[int, ...], text: str, then: tuple[int, ...]) -> None:
    assert moment(text, at(zone, *now)) == at(zone, *then)


@pytest.mark.parametrize("zone", [BERLIN], indirect=True)
def test_repeated_time_of_day_means_next_occurrence(zone: str) -> None:
    evening = at(zone, 2026, 10, 24, 23)
    first, second = (at(zone, 2026, 10, 25, 2, 30, fold=fold) for fold in (0, 1))
    assert second - first == 3600
    assert moment("02:30", evening) == first
    assert moment("02:30", first) == second
    assert moment("02:30", first + 1800) == second
    assert moment("02:30", second) == at(zone, 2026, 10, 26, 2, 30)


@pytest.mark.parametrize("zone", [BERLIN], indirect=True)
def test_date_and_time_means_itself_even_if_it_is_over(zone: str) -> None:
    morning = at(zone, 2026, 3, 29, 7)
    for text in ("2026-03-29T07:00", "2026-03-29 07:00:00", "2026-03-29T05:00Z", "2026-03-29T00:00:00-05:00"):
        assert [moment(text, now) for now in (morning - 1e6, morning + 1e6)] == [morning, morning]


@pytest.mark.parametrize("zone", [BERLIN, UTC], indirect=True)
@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("8h", 8),
        ("90m", 1.5),
        ("1h30m", 1.5),
        ("1h 30m", 1.5),
        ("1 hour 30 minutes", 1.5),
        ("1.5h", 1.5),
        ("90min", 1.5),
        ("45 mins", 0.75),
        ("36h", 36),
        ("2d", 48),
        ("90s", 0.025),
        ("in 8 hours", 8),
        ("8H", 8),
        ("2hrs", 2),
    ],
)
def test_durations_count_from_now_whatever_the_clocks_do(zone: str, text: str, hours: float) -> None:
    now = at(zone, 2026, 3, 28, 23)
    assert moment(text, now) == pytest.approx(now + 3600 * hours)


@pytest.mark.parametrize(
    "text",
    ["", "7", "dawn", "25:00", "07:60", "7:5", "13pm", "0am", "7am pm",
     "07:00m", "0h", "-8h", "8h 8h", "8x", "8", "8hm",
     "1e9h", "99999h", "07:00.", "7.30", "h", "8:00h",
     "2026-02-30T07:00", "2026-03-05", "2026-03-05T7:00", "2026-03-05T07:00+25:00"],
)  # fmt: skip
def test_invalid_until_is_reported_in_one_sentence(tmp_path: Path, text: str) -> None:
    with pytest.raises(
        UsageError, match="07:00 or 7am, a date and time such as 2026-03-05T07:00, or a duration such as 8h or 1h30m"
    ):
        moment(text, 1.0e9)
    done = call(tmp_path, "run", "--tag", "t", "--until", text)
    assert done.returncode == 2
    assert "--until must be a time" in done.stderr
