"""The live screen: drawn from real journals at several sizes, and in a pseudo-terminal of 80 columns."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agent.decision.limits import Limits
from agent.execution.progress import Reading, reading
from agent.format import brief, duration, figure
from agent.journal.events import Event
from agent.journal.experiment import Evidence, Run, Verdict
from agent.journal.journal import read
from agent.journal.paths import journal_path
from agent.journal.state import State, step
from agent.report.eta import experiments_left
from agent.report.gain import outcome
from agent.report.summary import summarize
from agent.views.page.chart import chart_title
from agent.views.terminal.progress_panel import Moment
from agent.views.terminal.screen import screen
from agent.views.text import gain, headline, row
from tests.common.terminals import in_terminal
from tests.common.workspaces import ROOT, git, made_once, make_quick


@pytest.fixture
def slow(quick: Path) -> Path:
    """A workspace whose training takes 2 s and reports its progress."""
    step = "print('step 00012 (50.0%) | loss: 3.214 | tok/sec: 14,000 | remaining: 88s', flush=True)"
    text = (quick / "train.py").read_text().replace("loss = ", f"import time\n{step}\ntime.sleep(2)\nloss = ")
    (quick / "train.py").write_text(text)
    git(quick, "commit", "--quiet", "-am", "slower")
    return quick


@pytest.mark.parametrize("colour", [True, False])
def test_run_draws_a_screen_and_gives_the_terminal_back(slow: Path, colour: bool) -> None:
    code, shown = in_terminal(
        slow, "run", "--tag", "t", "--max-experiments", "1", **({} if colour else {"NO_COLOR": "1"})
    )
    assert code == 0, shown
    assert "Traceback" not in shown, shown
    before, rest = shown.split("\x1b[?1049h")
    drawn, after = rest.split("\x1b[?1049l")
    assert "sandbox: " in before
    assert "\x1b[?25l" in rest
    assert shown.count("\x1b[?25h") == 1
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn)
    for words in (
        "loss 3.2140",
        "14,000 tokens/s",
        " 50 %",
        "1m28s of training left",
        "Ctrl-C stops after this",
        "by search",
    ):
        assert words in plain, words
    assert "val_bpb, lower is better" in plain
    assert "measuring the baseline" in plain
    # The summary has no rows, and ends with the commands to use next.
    last = re.sub(r"\x1b\[[0-9;]*m", "", after)
    assert "#0 keep" not in last
    assert "1 experiment is done" in last
    assert last.strip().splitlines()[-1] == "resume    autoresearch run --tag t"
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]", shown)) is colour


def test_a_terminal_that_cannot_draw_gets_lines(slow: Path) -> None:
    code, shown = in_terminal(slow, "run", "--tag", "t", "--max-experiments", "0", TERM="dumb")
    assert code == 0
    assert "\x1b" not in shown
    assert "#0 running" in shown
    assert "#0 keep" in shown


def test_status_follows_on_a_terminal(slow: Path) -> None:
    command = [sys.executable, "-m", "agent", "run", "--tag", "t", "--max-experiments", "1"]
    with subprocess.Popen(
        command, cwd=slow, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE
    ) as run:
        assert run.stderr is not None
        while b"#0 running" not in run.stderr.readline():
            assert run.poll() is None
        code, shown = in_terminal(slow, "status", "--follow")
        run.stderr.read()
    drawn, after = shown.split("\x1b[?1049h")[1].split("\x1b[?1049l")
    assert code == 0
    assert "the loop keeps running" in drawn
    assert "not running: 1 experiment is done" in after


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> list[State]:
    """The state of a session after each of its events, and after added evidence, a cost and an outage."""

    def make(folder: Path) -> None:
        make_quick(folder)
        command = [sys.executable, "-m", "agent", "-C", str(folder), "run", "--tag", "t", "--max-experiments", "8"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)

    folder = made_once(tmp_path_factory, "states", make)
    found = [State()]
    for event in read(journal_path(folder, "t")):
        found.append(step(found[-1], event))
    state = replace(found[-1], ended=None)
    number, best = len(state.experiments), state.incumbent
    assert best is not None
    assert best.metric is not None
    evidence = Evidence("confirmed", 1.1, 3, best.metric, 4, best.metric - 1.1, 0.0123, 4.5)
    what = {
        "description": "a longer warm-up " * 20,
        "reasoning": "\n\x1b[31mwhy it may help\nand more",
        "parameters": {},
    }
    run = {"metric": 1.1, "seconds": 301.0}
    events: list[tuple[str, dict[str, Any]]] = [
        ("called", {"model": "m", "input_tokens": 81000, "output_tokens": 9000, "dollars": 0.41}),
        ("away", {"proposer": "anthropic:m", "reason": "rate limit", "until": None}),
        ("proposed", {**what, "proposer": "llm", "digest": "d", "files": ["train.py"]}),
        ("committed", {"commit": "c" * 40}),
        ("started", {"run": 1, "pid": 1, "born": 0.0, "log": "", "expected": 300.0}),
        ("faulted", {"run": 1, "fault": "watchdog", "reason": "r", "seconds": 20.0, "pause": 96.0}),
        ("started", {"run": 1, "pid": 1, "born": 0.0, "log": "", "expected": 300.0}),
        ("measured", {"run": 1, **run}),
        ("started", {"run": 2, "pid": 1, "born": 0.0, "log": "", "expected": 300.0, "of": best.number}),
        ("judged", {"status": "keep", "reason": "r", "evidence": vars(evidence)}),
        ("recorded", {"head": "h"}),
    ]
    for kind, data in events:
        state = step(state, Event(kind, state.latest_at + 1, {"number": number, **data}))
        found.append(state)
    assert state.baseline is not None
    ends = {"a": state.baseline.commit, "b": "c" * 40, "gain": 0.5, "low": 0.4, "high": 0.6}
    found.append(step(state, Event("confirmed", state.latest_at + 1, ends)))
    return found[1:]


def drawn(state: State, width: int, height: int, ascii_only: bool = False) -> list[str]:
    moment = Moment(
        now=state.latest_at + 60,
        reading=Reading(0.5, 3.214, 14000.0, 88.0),
        lines=["step"],
        memory=3 * 2**30,
        forecast="11.2 an hour, about 62 more by 07:00",
        message="a note",
        hint="Ctrl-C says what it does",
        ascii=ascii_only,
    )
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None, highlight=False)
    console.print(screen(state, moment, width, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_screen_says_that_the_next_proposal_is_made(states: list[State]) -> None:
    said = {"number": 9, "base": "a" * 40, "proposer": "llm"}
    state = next(each for each in states if each.pending is not None and each.pending.started is not None)
    making = "\n".join(drawn(replace(state, preparing=said), 80, 24))
    assert "next      being made by llm" in making
    ready = "\n".join(drawn(replace(state, prepared={**said, "description": "deeper"}), 80, 24))
    assert "ready, by llm: deeper" in ready
    assert "being made" not in "\n".join(drawn(state, 80, 24))


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50), (120, 30), (60, 14), (150, 24), (80, 100)])
def test_screen_fits_any_window(states: list[State], width: int, height: int) -> None:
    for state in states:
        lines = drawn(state, width, height)
        assert len(lines) == height, "\n".join(lines)
        assert max(map(len, lines)) <= width, "\n".join(lines)
        assert lines[-1].startswith("Ctrl-C says")
        assert lines[-2].startswith("a note")
        assert "\x1b" not in "".join(lines)


def test_screen_shows_session(states: list[State]) -> None:
    texts = ["\n".join(drawn(state, 100, 40)) for state in states]
    running = next(text for text in texts if "loss 3.2140" in text and "by llm" in text)
    for words in (
        " 50 %  ",
        "1m28s of training left",
        "14,000 tokens/s",
        "3.0 GB",
        "why       why it may",
    ):
        assert words in running, words
    assert "anthropic:m is unavailable, using the search: rate limit" in running
    assert "about 62 more by 07:00" in running
    assert "$0.41" in running
    assert "noise     none, runs are deterministic" in running
    assert " confirmed for one seed only, " in running
    assert "baseline 1.732000" in running
    assert "incumbent " in texts[-4]
    assert "so far    1.100000  against " in texts[-4]
    assert "so far" not in running
    assert "sigma" in texts[-2]
    assert re.search(r"4\.5 +", texts[-2])
    assert "by repeated runs" in texts[-2]
    assert "0.500000 confirmed, 0.400000 to 0.600000; apparent" in texts[-1]
    assert "provisional" not in texts[-1]
    rows = [line.split()[0] for line in drawn(states[-1], 80, 24) if re.match(r"#\d+ +(keep|dis)", line)]
    assert rows[-1] == "#9"
    assert rows == sorted(rows)
    assert len(rows) >= 3
    assert all(ord(sign) < 128 for line in drawn(states[-1], 80, 24, ascii_only=True)[4:5] for sign in line)


def test_screen_shows_pause_after_a_fault(states: list[State]) -> None:
    texts = ["\n".join(drawn(state, 100, 40)) for state in states]
    paused = [text for text in texts if "the GPU failed: the run is repeated at " in text]
    assert len(paused) == 1
    assert "loss 3.2140" not in paused[0]
    assert "repeated  1 run after faults of the GPU, 1m56s lost" in texts[-1]
    state, faulted = states[-1], {"label": "a", "run": 1, "seconds": 1.0, "pause": 9.0}
    assert state.baseline is not None
    for kind, data in (
        ("comparing", {"commits": {"a": state.baseline.commit}, "files": [], "count": 3}),
        ("running", {"label": "a", "run": 1, "pid": 1, "born": 0.0, "log": "", "expected": 300.0}),
        ("faulted", {**faulted, "fault": "machine", "reason": "the GPU or its driver failed"}),
    ):
        state = step(state, Event(kind, state.latest_at + 1, data))
    assert "the GPU failed: the run is repeated at " in "\n".join(drawn(state, 80, 24))
    gone = {"fault": "machine", "reason": "the log of the run was deleted during the run"}
    state = step(state, Event("faulted", state.latest_at + 1, {**faulted, **gone}))
    assert "the log of the run was deleted: the run is repeated at " in "\n".join(drawn(state, 80, 24))


def test_the_screen_while_the_gain_is_confirmed(states: list[State]) -> None:
    state = states[-1]
    assert state.baseline is not None
    assert state.incumbent is not None
    commits = {"a": state.baseline.commit, "b": state.incumbent.commit}
    events: list[tuple[str, dict[str, Any]]] = [
        ("comparing", {"commits": commits, "files": [], "count": 3}),
        ("compared", {"label": "a", "run": 1, "metric": 1.9, "seconds": 301.0}),
        ("running", {"label": "b", "run": 1, "pid": 1, "born": 0.0, "log": "", "expected": 300.0}),
    ]
    for kind, data in events:
        state = step(state, Event(kind, state.latest_at + 1, data))
    text = "\n".join(drawn(state, 80, 24))
    for words in (
        "held-out runs: baseline and best #9, alternating",
        "baseline  1.900000",
        "now       best #9, run 2 of 6",
        " 50 %  ",
        "loss 3.2140",
    ):
        assert words in text, text
    assert "rate   " not in text
    runs = {label: (Run(1.9, 301.0),) * 3 for label in commits}
    assert state.comparison is not None
    further = replace(state, comparison=replace(state.comparison, runs=runs))
    assert "#9, run 7, replacing a disturbed one" in "\n".join(drawn(further, 80, 24))
    ended = replace(state, ended="9 experiments are done")
    between = step(ended, Event("compared", state.latest_at + 1, {"label": "b", "run": 1, "metric": 1.8, "seconds": 1}))
    text = "\n".join(drawn(between, 80, 24))
    assert "confirming with held-out runs: baseline and best #9" in text
    assert "ended" not in text
    for cut_off in (between, ended):
        resumed = step(cut_off, Event("resumed", state.latest_at + 9, {"pid": 1}))
        text = "\n".join(drawn(resumed, 80, 24))
        assert "confirming" not in text
        assert "now  " not in text


def test_rate_of_a_resumed_session_is_that_of_its_loop(states: list[State]) -> None:
    state, so_far = states[-1], states[-1].compared_seconds
    assert state.baseline is not None
    commits = {"a": state.baseline.commit, "b": "b" * 40}
    before, rate = summarize(state)["per_hour"], experiments_left(Limits(), state, 0.0, 0.0)
    for kind, data, seconds in (
        ("comparing", {"commits": commits, "files": [], "count": 3}, 5000.0),
        ("compared", {"label": "a", "run": 1, "metric": 1.9, "seconds": 301.0}, 1000.0),
        ("confirmed", commits, 1000.0),
        ("resumed", {"pid": 1}, 5000.0),
    ):
        state = step(state, Event(kind, state.latest_at + seconds, data))
    assert state.compared_seconds - so_far == pytest.approx(2000.0)
    assert summarize(state)["per_hour"] == before
    assert summarize(state)["hours"] == pytest.approx(state.seconds / 3600)
    assert experiments_left(Limits(), state, 0.0, 0.0) == rate


def test_screen_says_that_an_ablation_is_one(states: list[State]) -> None:
    state = states[-1]
    assert state.incumbent is not None
    for kind, data in (
        ("comparing", {"commits": {"best": state.incumbent.commit, "1": "c" * 40}, "files": [], "count": 3}),
        ("running", {"label": "best", "run": 1, "pid": 1, "born": 0.0, "log": "", "expected": 300.0}),
    ):
        state = step(state, Event(kind, state.latest_at + 1, data))
    assert "ablating with held-out runs: best #9 and " in "\n".join(drawn(state, 80, 24))


@pytest.mark.quick
def test_figures_of_any_size() -> None:
    assert [figure(v) for v in (1.294512, -12.5, 176890964.0)] == ["1.294512", "-12.500000", "176,890,964"]
    assert [figure(v, 2e8, "+") for v in (0.25, -1e6, 1e-7)] == ["+0.25", "-1,000,000", "+0"]
    assert [figure(v, 1e6) for v in (2.66e-07, 0.0, 1e-10)] == ["2.66e-07", "0", "0"]
    assert figure(float("inf")) == "inf"
    assert [brief(v) for v in (0.041123, -1.5, 1234.0, 56789.0, 2.00511e8)] == [
        "0.04112",
        "-1.5",
        "1234",
        "56,789",
        "200.5 M",
    ]
    assert gain({"confirmed": None, "gain": -0.1, "gain_is_provisional": False}) == "none yet (-0.1)"


@pytest.mark.quick
def test_small_and_rounded_figures_keep_their_digits() -> None:
    assert [figure(v) for v in (2.5e-13, 0.000512, 0.0)] == ["2.5e-13", "0.000512", "0.000000"]
    assert [figure(v, 2e-13, "+") for v in (3e-15, -1.23456e-14, 0.5)] == ["+3e-15", "-1.2346e-14", "+0.5"]
    assert [figure(v) for v in (-0.0, 1.23456789e99, -2e15)] == ["0.000000", "1.23457e+99", "-2e+15"]
    assert [brief(v) for v in (-0.0, 1.23456789e99, -2e15)] == ["0", "1.235e+99", "-2e+15"]
    assert (figure(-0.0123, 1.29), figure(-1e-7, 0.0)) == ("-0.012300", "-1e-07")
    assert [brief(v) for v in (9999.4, 9999.7, -9999.7, 999.96)] == ["9999", "10,000", "-10,000", "1000"]


def test_forecast_counts_experiments_until_limit(states: list[State]) -> None:
    state, now = states[-1], states[-1].latest_at
    each = state.loop_seconds / 9
    assert str(experiments_left(Limits(), state, now, 0.0)).endswith((" an hour", " a minute"))
    assert "about 10 more by " in str(experiments_left(Limits(until=now + 9.5 * each), state, now, 0.0))
    assert "about 4 more by " in str(experiments_left(Limits(seconds=9.5 * each), state, now, 6 * each))
    assert ", 3 more until about" in str(experiments_left(Limits(experiments=12, seconds=9.5 * each), state, now, 0.0))
    assert experiments_left(Limits(), states[0], now, 0.0) is None


@pytest.mark.quick
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "step 00012 (12.3%) | loss: 3.214567 | lrm: 1.00 | tok/sec: 14,000 | epoch: 1 | remaining: 88s",
            Reading(0.123, 3.214567, 14000.0, 88.0, 12),
        ),
        ("Epoch 3: 40% loss=1.5e-2 1200 tokens/s", Reading(0.4, 0.015, 1200.0, None)),
        ("iter 10: train loss 2.5, ETA 30 s", Reading(None, 2.5, None, 30.0, 10)),
        ("warming up", Reading()),
    ],
)
def test_progress_is_read_from_log_lines(line: str, expected: Reading) -> None:
    found = reading([line])
    assert found.done == (pytest.approx(expected.done) if expected.done else None)
    assert found == replace(expected, done=found.done)
    if found != Reading():
        assert reading(["step 1 (1%)", line, "evaluating"]) == found


@pytest.mark.quick
def test_durations_are_formatted() -> None:
    assert [duration(s) for s in (0.24, 9.96, 59.6, 401, 7500)] == ["0.2s", "10s", "1m00s", "6m41s", "2h05m"]


def measured(values: list[float], steps: float = 100.0) -> tuple[Run, ...]:
    return tuple(Run(value, 300.0, {"num_steps": steps}) for value in values)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_gain_is_positive_where_it_is_better_in_every_view(direction: str, states: list[State]) -> None:
    sign = -1 if direction == "minimize" else 1
    old = states[-1]
    kept = Evidence("confirmed", 2.0 + sign * 0.03, 4, 2.0, 3, 0.03, 0.005, 7.8)
    near = Evidence("confirmed", 2.0 + sign * 0.05, 2, 2.0 + sign * 0.0517, 4, -0.0017, 0.005, -0.4, doubt=0.3)
    baseline = replace(
        old.experiments[0], runs=measured([2.0, 2.0, 2.0]), verdict=Verdict("keep", "baseline"), heldout_runs=()
    )
    best = replace(
        old.experiments[1], runs=measured([2.0 + sign * 0.03] * 4), verdict=Verdict("keep", "k", kept), heldout_runs=()
    )
    last = replace(old.experiments[2], runs=measured([2.0 + sign * 0.05] * 2), verdict=Verdict("discard", "d", near))
    session = {**(old.session or {}), "direction": direction}
    state = replace(old, session=session, experiments=(baseline, best, last), confirmations={}, pending=None)
    assert "+0.030000 (7.8 sigma, mean of 4 runs)" in row(state, 1)
    # The value looks better than the best's because of its number of steps.
    assert "-0.001700 (within noise, at equal steps, mean of 2 runs)" in row(state, 2)
    text = "\n".join(drawn(state, 120, 30))
    assert "+0.030000" in text
    assert "at equal steps" in text
    summary = summarize(state)
    assert summary["gain"] == pytest.approx(0.03)
    assert summary["best_runs"] == 4
    assert "mean of 4 runs" in headline(summary)
    assert near.word == "within noise"
    assert outcome(state, last).gain == -0.0017


def with_best_measured_again(states: list[State], how: str = "one run") -> State:
    """Return a state in which #1 was kept at 1.95 by one run and re-measured at 1.979285 before #2 was discarded."""
    old = states[-1]
    lucky = Evidence(how, 1.95, 1, 2.0, 3, 0.05, 0.02, 2.2)
    near = Evidence("confirmed", 1.977557, 2, 1.979285, 3, 0.001728, 0.02, 0.1)
    baseline = replace(
        old.experiments[0],
        runs=measured([2.0] * 3),
        verdict=Verdict("keep", "baseline"),
        heldout_runs=(),
        commit="a" * 40,
    )
    best = replace(
        old.experiments[1],
        runs=measured([1.95]),
        verdict=Verdict("keep", "k", lucky),
        heldout_runs=tuple(measured([1.979285] * 3)),
        commit="b" * 40,
    )
    last = replace(old.experiments[2], runs=measured([1.977557] * 2), verdict=Verdict("discard", "d", near))
    session = {**(old.session or {}), "direction": "minimize"}
    return replace(old, session=session, experiments=(baseline, best, last), confirmations={}, pending=None)


def test_a_row_says_what_it_was_compared_with_where_the_best_was_measured_again(states: list[State]) -> None:
    state = with_best_measured_again(states)
    assert "#2 discard 1.977557 +0.001728 (within noise, mean of 2 runs, against 1.979285)" in row(state, 2)
    assert "against" not in row(state, 1)  # the gain follows from its row and the baseline's
    text = "\n".join(drawn(state, 140, 30))
    assert "best      1.979285  #1, mean of 3 runs" in text
    assert "against 1.979285]" in text


@pytest.mark.parametrize("low", [0.01, -0.01])
def test_fresh_runs_against_the_incumbent_of_its_time_confirm_a_keep(states: list[State], low: float) -> None:
    state = with_best_measured_again(states)
    assert "provisional" in row(state, 1)
    middle = replace(state.experiments[1], number=2, commit="c" * 40)
    state = replace(state, experiments=(*state.experiments[:2], middle))
    found = {"a": "b" * 40, "b": "c" * 40, "gain": 0.05, "low": low, "high": 0.09}
    state = replace(state, confirmations={f"{found['a']} {found['b']}": found})
    assert ("provisional" in row(state, 2)) == (low < 0)
    assert "provisional" in row(state, 1)
    assert summarize(state)["confirmed"] is None  # that is the gain over another experiment, not over the baseline


@pytest.mark.parametrize(("how", "word"), [("confirmed", "by repeated runs"), ("one run", "provisional")])
def test_page_and_lines_have_one_word_for_a_gain(states: list[State], how: str, word: str) -> None:
    summary = summarize(with_best_measured_again(states, how))
    assert gain(summary).endswith(word)
    assert chart_title({**summary, "confirmation": None}).endswith(f"better than the baseline, {word}, 2 experiments")
