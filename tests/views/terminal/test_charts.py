"""The charts of the live screen, the keeps that stay in view, and the screen in real terminals of several sizes."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from agent.journal.experiment import Evidence, Experiment, Run, Verdict
from agent.journal.pending import Pending
from agent.journal.state import State
from agent.pruning.curves import Curve, Point
from agent.views.terminal.chart import best_chart, charts, loss_chart
from agent.views.terminal.log_curve import LogCurve
from agent.views.terminal.progress_panel import Moment
from agent.views.terminal.screen import screen
from tests.common.terminals import ESCAPES, frames, in_window
from tests.common.workspaces import git

CURVE: Curve = tuple(Point(i / 50, 3 + 6 * math.exp(-i / 5)) for i in range(1, 31))


def experiment(number: int, value: float | None, status: str = "discard") -> Experiment:
    runs = (Run(value, 300.0, error=None if value is not None else "x"),)
    verdict = Verdict("keep" if status == "keep" else "crash" if value is None else "discard", "r")
    return Experiment(number, "search", f"change {number}", f"{number:040x}", f"{number}", {}, runs, verdict)


def session(*results: tuple[float | None, str], direction: str = "minimize") -> State:
    about = {
        "tag": "t",
        "branch": "autoresearch/t",
        "base": "b",
        "metric": "val_bpb",
        "direction": direction,
        "fingerprint": {},
    }
    return State(session=about, experiments=tuple(experiment(i, *each) for i, each in enumerate(results)))


def long_session(count: int, keeps: tuple[int, ...]) -> State:
    """A session of `count` experiments, in which the baseline and these are kept, each better by 0.1."""
    results: list[tuple[float | None, str]] = [(5.0, "keep")]
    for number in range(1, count):
        kept = sum(each <= number for each in keeps)
        results.append((5 - 0.1 * kept, "keep") if number in keeps else (5.05, "discard"))
    return session(*results)


def plain(lines: list[str]) -> list[str]:
    return [line.rstrip() for line in lines]


def drawn(state: State, width: int, height: int, moment: Moment) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None, highlight=False)
    console.print(screen(state, moment, width, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.quick
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_best_is_a_line_of_steps(direction: str) -> None:
    sign = 1 if direction == "minimize" else -1
    state = session(
        *(
            (2.0 * sign, "keep"),
            (2.9 * sign, "discard"),
            (1.0 * sign, "keep"),
            (None, "crash"),
            (1.1 * sign, "discard"),
        ),
        direction=direction,
    )
    lines = plain([line.plain for line in best_chart(state, 31, 6, False)])
    assert lines[0] == "─ best, · others, x crashed"
    gutter = lines[1].index("2.04") + 5 if sign > 0 else lines[1].index("-0.96") + 6
    body = [line[gutter:] for line in lines[1:]]
    if sign < 0:
        body = [line.translate(str.maketrans("┘┌", "┐└")) for line in body[::-1]]
    columns = max(map(len, body))
    half = (columns - 1) // 2
    assert body[0].startswith("─" * half + "┐")
    assert body[-1][half] == "└"
    assert {line[half] for line in body[1:-1]} == {"│"}
    assert body[-1].rstrip("x").endswith("─")


@pytest.mark.quick
def test_noise_is_a_band_and_values_off_the_scale_stand_at_its_edge() -> None:
    kept = Evidence("confirmed", 1.0, 3, 2.0, 3, 1.0, 0.2, 3.0)
    state = session((2.0, "keep"), (90.0, "discard"), (1.0, "keep"), (1.05, "discard"))
    best = replace(
        state.experiments[2],
        verdict=Verdict("keep", "r", kept),
        heldout_runs=(Run(0.8, 300.0), Run(1.0, 300.0), Run(1.2, 300.0)),
    )
    state = replace(state, experiments=(*state.experiments[:2], best, state.experiments[3]))
    lines = [line.plain for line in best_chart(state, 40, 12, False)]
    assert lines[0] == "─ best, · others, ░ noise       #0 to #3"
    assert "·" in lines[1]
    assert sum("░" in line for line in lines[1:]) >= 4
    every = "".join(line.plain for line in [*charts(state, CURVE, 40, 20, True)])
    assert every.isascii()


@pytest.mark.quick
def test_loss_ends_where_the_run_is() -> None:
    lines = [line.plain for line in loss_chart(CURVE, 56, 6, False)]
    assert lines[0].startswith("loss of this run, 3.01")
    assert lines[0].endswith(" at 60 %")
    bottom = lines[-1][lines[-1].index(" ") + 1 :]
    assert len(bottom.rstrip()) == 30
    # Bars get shorter, and every one is visible.
    heights = [sum(line[-len(bottom) :][column] != " " for line in lines[1:]) for column in range(30)]
    assert heights == sorted(heights, reverse=True)
    assert heights[0] == 5
    assert heights[-1] == 1


@pytest.mark.quick
def test_nothing_is_drawn_without_room_or_values() -> None:
    state = session((2.0, "keep"))
    assert charts(state, (), 40, 20, False) == []
    assert charts(state, CURVE[:1], 40, 20, False) == []
    assert charts(long_session(9, (3,)), CURVE, 40, 4, False) == []
    nan = (Point(0.1, math.nan), Point(0.2, math.inf), Point(0.3, 3.0))
    assert charts(state, nan, 40, 20, False) == []
    assert charts(session((2.0, "keep"), (2.0, "discard")), (Point(0.1, 3.0), Point(0.2, 3.0)), 40, 20, False)
    assert best_chart(session((0.0, "keep"), (0.0, "discard"), (None, "crash")), 40, 9, False)


@pytest.mark.quick
@pytest.mark.parametrize("count", [2, 30, 31, 500])
@pytest.mark.parametrize("height", range(5, 30, 6))
def test_charts_keep_to_their_size(count: int, height: int) -> None:
    for width in (32, 60, 84):
        for curve in ((), CURVE):
            lines = charts(long_session(count, (1, 2, 17)), curve, width, height, False)
            assert 0 < len(lines) <= height
            assert max(line.cell_len for line in lines) <= width


@pytest.mark.quick
@pytest.mark.parametrize(
    ("width", "height"),
    [(80, 24), (99, 24), (100, 24), (120, 40), (149, 34), (150, 24), (200, 50), (100, 6), (120, 9), (160, 7)],
)
def test_charts_use_the_width(width: int, height: int) -> None:
    moment = Moment(now=0.0, curve=CURVE, hint="a hint")
    lines = drawn(long_session(40, (3, 9)), width, height, moment)
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    assert lines[-1].startswith("a hint")
    text = "\n".join(lines)
    if height > 20:
        assert ("─ best" in text) == (width >= 100)
        assert ("progress  " in text) == (width < 100)


@pytest.mark.quick
@pytest.mark.parametrize(("width", "height"), [(100, 24), (120, 40), (200, 50)])
def test_loss_is_drawn_before_there_is_a_best(width: int, height: int) -> None:
    for state in (session((2.0, "keep")), session()):
        lines = drawn(state, width, height, Moment(now=0.0, curve=CURVE))
        assert len(lines) == height
        assert any("loss of this run" in line for line in lines)


@pytest.mark.quick
def test_latest_keeps_stay_in_view() -> None:
    def shown(count: int, keeps: tuple[int, ...], height: int) -> list[str]:
        lines = drawn(long_session(count, keeps), 80, height, Moment(now=0.0))
        after = [index for index, line in enumerate(lines) if line.lstrip().startswith("#  verdict")][-1]
        return [line.split()[0] for line in lines[after + 1 :] if line.strip()]

    rows = shown(100, (3, 9, 20), 24)
    assert rows[:4] == ["#3", "#9", "#20", "…"]
    assert rows[-1] == "#99"
    assert rows[4:] == [f"#{number}" for number in range(100 - len(rows[4:]), 100)]
    rows = shown(100, (), 24)
    assert rows == [f"#{number}" for number in range(100 - len(rows), 100)]
    # Without a gap nothing is left out, and in a low window the recent rows are all that there is room for.
    assert "…" not in shown(8, (1, 2), 40)
    assert shown(100, (3,), 14)[-1] == "#99"
    assert "…" in shown(1000, tuple(range(1, 900)), 50)


@pytest.mark.quick
def test_remarks_are_left_out_whole_where_they_do_not_fit() -> None:
    state = session((2.0, "keep"), (2.5, "discard"))
    verdict = Verdict("discard", "r", Evidence("confirmed", 2.5, 2, 2.1, 3, -0.4, 0.1, -4.0))
    last = replace(state.experiments[1], description="WIDTH 64 -> 128 and more words", verdict=verdict)
    state = replace(state, experiments=(state.experiments[0], last))
    for width, remark in ((80, ""), (99, " [against 2.100000]"), (200, " [against 2.100000]")):
        row = next(line.rstrip() for line in drawn(state, width, 40, Moment(now=0.0)) if "#1 " in line)
        assert row.endswith(f" 5m00s  WIDTH 64 -> 128 and more words{remark}")


@pytest.mark.quick
def test_many_values_of_a_candidate_become_their_mean() -> None:
    for count, said in ((1, "1.500000"), (3, "1.500000  1.500000  1.500000"), (9, "1.500000, mean of 9 runs")):
        runs = tuple(Run(1.5, 300.0) for _ in range(count))
        pending = Pending(1, "search", "a change", "", {}, "d", ("train.py",), 0.0, commit="c", runs=runs)
        lines = drawn(replace(session((2.0, "keep")), pending=pending), 80, 24, Moment(now=0.0))
        assert f"so far    {said}  against 2.000000 of #0" in [line.rstrip() for line in lines]


@pytest.mark.quick
def test_curve_is_read_as_the_log_grows(tmp_path: Path) -> None:
    log, curve = tmp_path / "run.log", LogCurve()
    assert curve.of(log) == ()
    log.write_text("step 1 (10.0%) | loss: 4.0\nstep 2 (20.0%) | lo")
    assert [point.loss for point in curve.of(log)] == [4.0]
    with log.open("a") as file:
        file.write("ss: 3.5\n")
    assert [point.loss for point in curve.of(log)] == [4.0, 3.5]
    other = tmp_path / "other.log"
    other.write_text("step 1 (50.0%) | loss: 2.0\n")
    assert [point.loss for point in curve.of(other)] == [2.0]
    other.write_text("")  # the log of a repeated run begins again
    assert curve.of(other) == ()
    link = tmp_path / "link.log"
    link.symlink_to(log)
    assert curve.of(link) == ()


@pytest.fixture
def training(quick: Path) -> Path:
    """A workspace whose training takes a second and reports a learning curve."""
    code = """import time
for step in range(1, 11):
    print(f"step {step:05d} ({10 * step}.0%) | loss: {2 + 5 / step:.6f} | tok/sec: 14,000 | remaining: 8s", flush=True)
    time.sleep(0.12)
loss = """
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace("loss = ", code, 1))
    git(quick, "commit", "--quiet", "-am", "slower")
    return quick


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 50)])
def test_screen_in_a_terminal(training: Path, size: tuple[int, int]) -> None:
    code, shown = in_window(training, [size], "run", "--tag", "t", "--max-experiments", "3")
    assert code == 0, shown
    assert "Traceback" not in shown
    pictures = frames(shown)
    whole = [each for each in pictures if len(each) == size[1]]
    assert len(whole) >= 3
    assert max(len(line) for each in whole for line in each) <= size[0]
    texts = ["\n".join(each) for each in whole]
    assert any("─ best" in text for text in texts) == (size[0] >= 100)
    assert any("loss of this run" in text for text in texts) == (size[0] >= 100)
    # The closing page fits the window and ends in the commands to use next.
    page = shown.rpartition("\x1b[?1049l")[2]
    lines = ESCAPES.sub("", page).replace("\r", "").rstrip("\n").split("\n\n")
    assert [line.split()[0] for line in lines[-1].splitlines()] == ["view", "confirm", "resume"]
    assert max(len(line) for part in lines[:-1] for line in part.splitlines()) <= size[0]
    assert "\x1b[2mresume" in page


def test_screen_fits_after_a_resize(training: Path) -> None:
    code, shown = in_window(
        training, [(120, 40), (60, 12)], "run", "--tag", "t", "--max-experiments", "3", NO_COLOR="1"
    )
    assert code == 0, shown
    last = frames(shown)[-1]
    assert len(last) == 12
    assert max(map(len, last)) <= 60


def test_screen_is_plain_in_an_ascii_locale(training: Path) -> None:
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    code, shown = in_window(training, [(120, 40)], "run", "--tag", "t", "--max-experiments", "2", **locale)
    assert code == 0, shown
    text = "\n".join("\n".join(each) for each in frames(shown))
    assert "- best, . others" in text
    assert text.isascii()
    assert "\\u2500" not in text
