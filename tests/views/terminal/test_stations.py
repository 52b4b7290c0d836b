"""The stations on the live screen, in `status`, `show`, `export`, the report and the closing page."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from agent.journal.paths import journal_path
from agent.journal.state import State
from agent.report.summary import summarize
from agent.views.terminal.progress_panel import Moment
from agent.views.terminal.screen import screen
from agent.views.text import Places, closing
from tests.common import schemas
from tests.common.station_journals import BASE, StationsBuilder, night
from tests.common.terminals import ESCAPES, in_window
from tests.common.workspaces import Cli, git


def drawn(state: State, width: int, height: int, ascii_only: bool = False) -> list[str]:
    moment = Moment(now=state.latest_at + 50, message="a note", hint="Ctrl-C says", ascii=ascii_only)
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None, highlight=False)
    console.print(screen(state, moment, width, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def many(count: int) -> State:
    """Return the state of a session in which all stations but the last train a candidate."""
    made = StationsBuilder(*(f"gpu{number}" for number in range(count)))
    made.run("gpu0", of=0).record(None, "keep")
    for name in made.names[:-1]:
        made.lease(name, candidate=made.propose(description="a longer warm-up " * 10))
    return made.state


@pytest.mark.quick
@pytest.mark.parametrize("size", [(80, 24), (120, 30), (200, 50), (60, 14)])
@pytest.mark.parametrize("count", [1, 3, 16, 40])
def test_screen_with_any_number_of_stations_fits(size: tuple[int, int], count: int) -> None:
    lines = drawn(many(count), *size)
    assert len(lines) == size[1], "\n".join(lines)
    assert max(map(len, lines)) <= size[0], "\n".join(lines)
    assert [line.strip() for line in lines[-2:]] == ["a note", "Ctrl-C says"]
    shown = [line.split()[0] for line in lines if line.startswith("gpu")]
    others = [line for line in lines if line.startswith("and ")]
    assert len(shown) + sum(int(line.split()[1]) for line in others) == count
    assert not others or others[0].strip().endswith(" more, 1 idle")


@pytest.mark.quick
def test_each_station_has_a_line() -> None:
    lines = drawn(night().state, 100, 40)
    header = next(line for line in lines if line.startswith("station "))
    assert header.split()[:3] == ["station", "runs", "now"]
    studio = next(line for line in lines if line.startswith("studio ")).split()
    assert studio[1:6] == ["candidate", "3", "DEPTH", "5", "->"]
    assert "2m30s" in studio
    assert any(line.startswith("gpu10 ") and "gone: it is not connected any more" in line for line in lines)
    # A candidate under way has no row yet.
    assert not any(line.strip().startswith("#3") for line in lines)


@pytest.mark.quick
def test_confirmation_is_a_line_above_the_stations() -> None:
    made = StationsBuilder("studio", "mini")
    made.run("studio", of=0).record(None, "keep")
    made.add("comparing", commits={"a": BASE, "b": "b" * 40}, files=[], count=3, seeds=[])
    made.lease("mini", label="a")
    lines = drawn(made.state, 80, 24)
    assert any(line.startswith("confirming with held-out runs: baseline and bbbb") for line in lines)
    assert any(line.startswith("mini ") and "held-out run of baseline" in line for line in lines)


@pytest.mark.quick
def test_closing_page_names_the_stations() -> None:
    state = night().state
    lines = closing(state, summarize(state), Places("abc", "logs", None, "u"))
    assert "stations  gpu10 1 run (1 lost), mini 3 runs, studio 5 runs" in lines


@pytest.fixture
def told(quick: Path) -> Path:
    night().write.save(journal_path(quick, "t"))
    return quick


def test_status_has_a_line_for_each_station(told: Path, cli: Cli) -> None:
    done = cli(told, "status", "--json")
    content = json.loads(done.stdout)
    assert schemas.fault("status", content) is None
    stations = content["data"]["stations"]
    assert [each["name"] for each in stations] == ["gpu10", "mini", "studio"]
    assert content["data"]["now"] is None
    lines = cli(told, "status").stdout.splitlines()
    assert any(line.startswith("studio: 5 runs, noise ") and "the reference" in line for line in lines)
    for size in ((80, 24), (120, 40)):
        code, shown = in_window(told, [size], "status", NO_COLOR="1")
        assert code == 0
        page = ESCAPES.sub("", shown).replace("\r", "").splitlines()
        assert len(page) <= size[1] - 1
        assert max(map(len, page)) <= size[0]
        assert any(line.startswith("mini ") and "H100, 8 cores, host-mini" in line for line in page)


def test_show_and_export_name_the_station_of_each_run(told: Path, cli: Cli) -> None:
    shown = cli(told, "show", "1").stdout
    assert "better on studio (+0.100000), not on mini (-0.004000)" in shown
    assert shown.count("  on studio") == 2  # one for its verdict, one as incumbent
    assert "of #0" in cli(told, "show", "2").stdout
    done = cli(told, "export", "--runs")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(row["number"], row["run"], row["role"], row["station"]) for row in rows] == [
        ("0", "1", "selection", "studio"),
        ("0", "2", "repeat", "mini"),
        ("0", "3", "repeat", "studio"),
        ("0", "4", "repeat", "mini"),
        ("0", "5", "repeat", "gpu10"),
        ("1", "1", "selection", "studio"),
        ("1", "2", "selection", "mini"),
        ("2", "1", "selection", "studio"),
        ("1", "3", "repeat", "studio"),
    ]


def test_report_has_the_results_by_station(told: Path, cli: Cli) -> None:
    done = cli(told, "report", "--json")
    assert done.returncode == 0, done.stderr
    assert schemas.fault("report", json.loads(done.stdout)) is None
    page = Path(cli(told, "report").stdout.splitlines()[0]).read_text()
    assert 'aria-label="time used of studio"' in page
    assert "left: it is not connected any more" in page
    assert "candidate on studio" in page
    assert "as incumbent on mini" in page


def test_candidates_under_way_are_not_called_unrecorded(told: Path, cli: Cli) -> None:
    said = cli(told, "doctor", "--tag", "t").stdout
    assert "2 candidates without a row, 2 runs under way on stations" in said
    assert "proposed but not recorded" not in said


def test_commands_that_need_one_machine_refuse_in_a_sentence(told: Path, cli: Cli) -> None:
    (told / "train.py").write_text((told / "train.py").read_text().replace("DEPTH = 4", "DEPTH = 5"))
    done = cli(told, "try", "--tag", "t")
    assert done.returncode == 3
    assert "session t measures on stations, so an edit cannot be compared here" in done.stderr
    assert "try --tag NAME" in done.stderr
    assert git(told, "diff", "--name-only") == "train.py"
    done = cli(told, "claim", "--tag", "t")
    assert done.returncode == 3
    assert "session t was measured on 3 stations, and a claim describes one machine" in done.stderr
