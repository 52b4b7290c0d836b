"""`status` on a terminal: a page that fits the window, with the rows in columns and what the session builds on."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from agent.journal.journal import fold
from agent.journal.lock import hold
from agent.journal.paths import journal_path, next_tag
from agent.report.summary import summarize
from agent.views.color import closing_page
from agent.views.terminal.live import LEAVE
from agent.views.terminal.progress_panel import Moment
from agent.views.terminal.screen import screen
from agent.views.text import background
from tests.common.journals import JournalBuilder
from tests.common.terminals import ESCAPES, in_window
from tests.common.workspaces import Cli

COMMAND = "`autoresearch run --tag t`"


def page(folder: Path, size: tuple[int, int], *args: str) -> list[str]:
    code, shown = in_window(folder, [size], "status", *args)
    assert code == 0, shown
    return ESCAPES.sub("", shown).replace("\r", "").removesuffix("\n").split("\n")


@pytest.fixture
def long(quick: Path) -> Path:
    JournalBuilder("t").baseline().mixed(120).confirmed().save(journal_path(quick, "t"))
    return quick


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 50)])
def test_page_fits_the_window(long: Path, size: tuple[int, int]) -> None:
    lines = page(long, size)
    assert len(lines) <= size[1] - 1
    assert max(map(len, lines)) <= min(size[0], 120)
    assert lines[0].startswith("autoresearch t ")
    assert lines[0].endswith("val_bpb, lower is better")
    assert any(line.startswith("gain      ") and " confirmed, " in line for line in lines)
    assert lines[-1].startswith("not running: ")
    # The rows are in columns, and keeps before them stay in view.
    start = next(i for i, line in enumerate(lines) if line.split()[:2] == ["#", "verdict"])
    what = lines[start].index("what")
    rows = [line for line in lines[start + 1 : lines.index("", start)] if "…" not in line[:5]]
    assert all(line[what - 1] == " " and line[what] != " " for line in rows)
    assert len(rows) < len(lines[start + 1 : lines.index("", start)])
    assert rows[0].split()[1] == "keep"
    assert rows[-1].split()[0] == "#120"


def test_number_of_rows_is_as_asked(long: Path) -> None:
    for count in (0, 2, 30):
        lines = page(long, (80, 24), "-n", str(count))
        numbers = [line.split()[0] for line in lines if line.lstrip().startswith("#") and "verdict" not in line]
        assert numbers == [f"#{number}" for number in range(121 - count, 121)]


def test_page_says_what_a_session_builds_on(quick: Path, cli: Cli) -> None:
    for tag, start in (("mar5", ()), ("mar6", ("--from", "mar5")), ("mar7", ("--fresh",))):
        done = cli(quick, "run", "--tag", tag, *start, "--max-experiments", "2")
        assert done.returncode == 0, done.stderr
    said = "started from mar5's best, learned from mar5: 3 experiments"
    lines = page(quick, (80, 24), "--tag", "mar6")
    assert "started   from mar5's best, learned from mar5: 3 experiments" in lines
    assert said in cli(quick, "status", "--tag", "mar6").stdout.splitlines()
    report = cli(quick, "report", "--tag", "mar6")
    assert report.returncode == 0, report.stderr
    written = (quick / ".autoresearch/sessions/mar6/report/index.html").read_text()
    assert '<p class="when">Started from mar5&#39;s best, learned from mar5: 3 experiments</p>' in written
    for tag in ("mar5", "mar7"):
        assert background(summarize(fold(journal_path(quick, tag)))) == ""


@pytest.mark.quick
def test_many_sessions_are_counted_where_they_do_not_fit() -> None:
    learned = [{"tag": f"night{n}", "experiments": 100, "alike": n != 1} for n in range(5)]
    assert background({"from": None, "learned": learned}) == (
        "learned from night0: 100 experiments, night1: 100 experiments (other conditions), night2: 100 experiments "
        "and 2 more"
    )
    assert background({"from": "a", "learned": learned}, in_short=True) == (
        "started from a's best, learned from 500 experiments"
    )


@pytest.mark.quick
def test_next_tag_is_one_that_no_session_has(tmp_path: Path) -> None:
    for tag, later in (("mar5", "mar6"), ("night", "night-2"), ("a-09", "a-10"), ("7", "8"), ("v1.2", "v1.3")):
        assert next_tag(tmp_path, tag) == later
    for tag in ("mar6", "mar7"):
        journal_path(tmp_path, tag).parent.mkdir(parents=True)
        journal_path(tmp_path, tag).touch()
    assert next_tag(tmp_path, "mar5") == "mar8"
    assert next_tag(tmp_path, f"n{'9' * 60}") == f"n{'9' * 51}1{'0' * 9}"


@pytest.mark.quick
def test_closing_page_breaks_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    path = "/home/me/a-night/.autoresearch/sessions/mar5/report/index.html"
    assert closing_page([f"report    {path}"]) == ["", f"report    {path}"]


def test_nothing_is_said_of_a_search_that_has_nothing_to_change(quick: Path, cli: Cli) -> None:
    builder = JournalBuilder("t")
    builder.parameters = {}
    builder.baseline()
    builder.write("away", proposer="llm", reason="rate limit", until=1_900_000_000.0)
    builder.write.save(journal_path(quick, "t"))
    shown = "\n".join([*page(quick, (120, 40)), cli(quick, "status").stdout])
    assert shown.count("llm is unavailable, waiting, as the search has nothing to change: rate limit") == 2
    assert "using the search" not in shown
    with hold(quick / ".autoresearch", "t"):
        shown = cli(quick, "status").stdout
    assert re.search(r"llm is unavailable until \d\d:\d\d, waiting, as the search", shown), shown


def test_page_tells_nothing_of_a_killed_loop_as_present(quick: Path, cli: Cli) -> None:
    builder, until = JournalBuilder("t").baseline().keep(), 1_900_000_000.0
    builder.write("away", proposer="llm", reason="rate limit", until=until)
    builder.write("waiting", proposer="llm", reason="busy", until=until)
    builder.write("faulted", number=2, run=1, seconds=1.0, pause=300.0, fault="machine", reason="the GPU failed")
    builder.write.save(journal_path(quick, "t"))
    shown = "\n".join([*page(quick, (120, 40)), cli(quick, "status").stdout])
    assert shown.count("llm is unavailable, using the search: rate limit") == 2
    assert shown.count("not running: interrupted") == 2
    for gone in ("will be retried", "the next repeat begins", "unavailable until"):
        assert gone not in shown
    builder.save(journal_path(quick, "t"))
    assert summarize(fold(journal_path(quick, "t")))["waiting"] is None


def test_commands_stay_whole_in_a_narrow_window(quick: Path) -> None:
    JournalBuilder("t").baseline().keep().write.save(journal_path(quick, "t"))
    lines = page(quick, (40, 24))
    assert [line.strip() for line in lines[-2:]] == ["not running: interrupted; resume it with", COMMAND]
    hint = LEAVE.format(stop="autoresearch stop")
    view = io.StringIO()
    console = Console(file=view, width=40, height=20, color_system=None)
    console.print(screen(fold(journal_path(quick, "t")), Moment(now=0.0, hint=hint), 40, 20))
    shown = [line.rstrip() for line in view.getvalue().splitlines()]
    assert shown[-3:] == ["Ctrl-C closes this view, the loop keeps", "running; stop it with", "`autoresearch stop`"]
    assert len(shown) == 20


@pytest.mark.quick
def test_closing_page_shows_a_label_once() -> None:
    lines = ["gain      0.1", "", "kept      #1 +0.1  A 1 -> 2", "kept      #12 +0.1  A 2 -> 3", "", "view      x"]
    assert closing_page(lines) == ["", *lines[:3], " " * 10 + lines[3].removeprefix("kept      "), *lines[4:]]
