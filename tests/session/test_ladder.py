"""Sessions with `--ladder`: candidates that a shorter training discards, and those that it does not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.decision.estimate import estimate
from agent.journal.journal import fold
from agent.journal.paths import journal_path
from agent.journal.state import State
from agent.pruning import rungs
from agent.pruning.rungs import screened_of
from benchmarks.ladder import recorded
from tests.common.ladders import LADDER, TRAIN, flags_of
from tests.common.processes import gone, start, wait_for
from tests.common.sessions import assert_consistent, events, journal, rows
from tests.common.workspaces import Cli, commit_all, git


@pytest.fixture
def noisy(quick: Path) -> Path:
    (quick / "train.py").write_text(TRAIN)
    commit_all(quick, "a recipe with a noise")
    return quick


def run(cli: Cli, folder: Path, edits: tuple[str, ...], *more: str, tag: str = "t") -> str:
    done = cli(folder, "run", "--tag", tag, *flags_of(folder, edits), *more)
    assert done.returncode == 0, done.stderr
    assert_consistent(folder, tag=tag)
    return done.stdout + done.stderr


def state_of(folder: Path, tag: str = "t") -> State:
    return fold(journal_path(folder, tag))


def test_a_bad_rate_is_screened_out_and_the_rest_is_judged_at_the_full_rung(noisy: Path, cli: Cli) -> None:
    said = run(cli, noisy, ("RATE=40", "RATE=50", "RATE=3.0", "BATCH_SIZE=900", "RATE=60"), *LADDER)
    state = state_of(noisy)
    control, out, kept, batch, late = state.experiments[1:]
    # The first that would be discarded goes on as a control.
    assert [each.then for each in control.screens] == ["control"]
    assert control.metric is not None
    assert control.verdict.status == "discard"
    for each in (out, late):
        assert (each.verdict.status, each.runs, each.metric) == ("discard", (), None)
        assert re.match(
            r"screened out at 60 s: \S+ behind #\d there, which forecasts a final shortfall of", each.verdict.reason
        )
        assert (estimate(each) or 0) > 10  # for the search to learn from
    assert kept.verdict.status == "keep"
    assert [each.then for each in kept.screens] == ["on"]
    # A screen never discards an edit of the batch before its pairs agree.
    assert all(each.then == "on" for each in batch.screens)
    assert batch.runs
    # The runs of the two rungs never mix: 30 / 60 is added to the metric of a screen.
    for each in state.experiments:
        assert all((run.metric or 0) < 1.45 for run in each.heldout_runs)
        assert all((screen.run.metric or 9) > 1.5 for screen in (*each.screens, *each.heldout_screens))
    assert all("trained for 300 s" in Path(run.log).read_text() for e in state.experiments for run in e.runs)
    assert all("trained for 60 s" in Path(s.run.log).read_text() for e in state.experiments for s in e.screens)
    # Each incumbent has its own value at the short rung: the baseline's screens, and then that of the kept candidate.
    assert len(state.experiments[0].heldout_screens) == 2
    assert not kept.heldout_screens
    assert late.screens[0].lead == pytest.approx((kept.screens[0].run.metric or 0) - (late.screens[0].run.metric or 0))
    assert rows(noisy)[2]["description"].endswith("(screened out at 60 s)")
    assert rows(noisy)[2]["status"] == "discard"
    assert "#2 discard (screened out at 60 s) -" in said
    assert "goes on as a control" in said
    # What a later session knows: pairs with a lead and a gain.
    pairs = screened_of(state.experiments, 60.0, "minimize")
    assert [each.kind for each in pairs if each.gain is None] == ["rates", "rates"]
    assert all(each.gain is not None and each.gain < -10 for each in pairs if each.lead < -10 and not each.stopped)


def test_the_pairs_of_another_session_and_its_controls_count(noisy: Path, cli: Cli) -> None:
    run(cli, noisy, ("RATE=40",), *LADDER)
    git(noisy, "checkout", "--quiet", "main")
    run(cli, noisy, ("RATE=50",), *LADDER, tag="u")
    assert state_of(noisy, "u").experiments[1].rung == 60
    # Without the flag nothing is screened.
    git(noisy, "checkout", "--quiet", "main")
    run(cli, noisy, ("RATE=50",), tag="v")
    assert not any(event["event"] == "screened" for event in journal(noisy, "v"))


def test_a_screen_that_crashes_decides_nothing(noisy: Path, cli: Cli) -> None:
    run(cli, noisy, ("RATE=3.0,CRASH_LR=1",), *LADDER)
    each = state_of(noisy).experiments[1]
    (screen,) = each.screens
    assert screen.run.metric is None
    assert "no such rate" in (screen.run.error or "")
    assert (screen.then, screen.lead) == ("on", None)
    assert each.verdict.status == "keep"
    assert not screened_of(state_of(noisy).experiments, 60.0, "minimize")


def test_a_loop_killed_in_a_screen_screens_again(noisy: Path) -> None:
    edits = ("RATE=40", "RATE=50,HANG_LR=600")
    flags = [*flags_of(noisy, edits), *LADDER]
    loop = start(noisy, *flags)
    wait_for(noisy, "started", 2)
    begun = events(noisy, "started")[-1]
    assert begun["rung"] == 60
    loop.kill()
    loop.communicate(timeout=60)
    train = journal_path(noisy, "t").parent / "experiments" / "0002"
    assert (train / "screen-1.log").exists()
    loop = start(noisy)  # the flags are those of the session
    wait_for(noisy, "started", 2, count=2)
    assert gone(begun["pid"])
    again = events(noisy, "started")[-1]
    assert (again["rung"], again["run"]) == (60, 1)
    loop.kill()
    loop.communicate(timeout=60)
    assert not state_of(noisy).experiments[2:]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--ladder", "60,200"), "--ladder ends at 200 s, but a run trains for 300 s"),
        (("--ladder", "60,300", "--training-seconds", "200"), "--ladder ends at 300 s, but a run trains for 200 s"),
        (("--ladder", "300"), "--ladder 300 has only one rung"),
        (("--ladder", "20,60,300"), "has 3 rungs, and only two are possible"),
        (("--ladder", "300,60"), "does not rise"),
        (("--ladder", "nan,300"), "names no training budgets"),
        (("--ladder", "1e-9,300"), "names no training budgets"),
        (("--ladder", "60,300", "--verdict", "greedy"), "which `--verdict greedy` does not make"),
        (("--ladder", "60,300", "--stations", "2"), "cannot be combined with stations"),
    ],
)
def test_a_ladder_that_cannot_work_is_refused(noisy: Path, cli: Cli, flags: tuple[str, ...], message: str) -> None:
    done = cli(noisy, "run", "--tag", "t", *flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert not journal_path(noisy, "t").exists()


def test_without_noise_and_by_hand_nothing_is_screened(noisy: Path, cli: Cli) -> None:
    train = noisy / "train.py"
    train.write_text(TRAIN.replace("random.gauss(0, 0.002)", "0.0"))
    commit_all(noisy, "no noise")
    said = run(cli, noisy, ("RATE=40", "RATE=50"), *LADDER, "--baseline-runs", "3")
    assert "equal programs give equal numbers here, so candidates are not screened" in said
    assert not events(noisy, "screened")
    train.write_text(train.read_text().replace("RATE = 0.4", "RATE = 70"))
    done = cli(noisy, "try", "--tag", "t")
    assert done.returncode == 0, done.stderr
    assert "an edit made by hand is measured at the full rung" in done.stdout + done.stderr


def test_ladder_off_ends_the_screens_of_a_session(noisy: Path, cli: Cli) -> None:
    run(cli, noisy, ("RATE=40",), *LADDER)
    count = len(events(noisy, "screened"))
    assert count
    said = run(cli, noisy, ("RATE=40", "RATE=50"), "--ladder", "off")
    assert "--ladder is now off; it was 60,300" in said
    assert len(events(noisy, "screened")) == count


def test_a_recorded_session_is_replayed_by_the_benchmark(
    noisy: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rungs, "CONTROL", 1.0)  # as its --record does: everything goes on
    run(cli, noisy, ("RATE=40", "RATE=3.0", "RATE=50", "RATE=60"), *LADDER)
    state = state_of(noisy)
    assert [each.screens[-1].then for each in state.experiments[1:]] == ["control", "on", "control", "control"]
    monkeypatch.undo()
    tally = recorded(journal_path(noisy, "t").parent, [])
    # The first control is one under the rule as well.
    assert (tally.tried, tally.screened, tally.out, tally.wins, tally.lost) == (4, 4, 2, 1, 0)
    assert tally.plain > 0


@pytest.mark.parametrize("kind", ["started", "screened", "judged"])
def test_a_loop_killed_around_a_screen_goes_on_without_losing_or_doubling_it(noisy: Path, cli: Cli, kind: str) -> None:
    flags = [*flags_of(noisy, ("RATE=40", "RATE=50", "RATE=60")), *LADDER]
    for number in (1, 2):
        loop = start(noisy, *flags)
        wait_for(noisy, kind, number)
        loop.kill()
        loop.communicate(timeout=60)
    done = cli(noisy, "run", "--tag", "t", *flags)
    assert done.returncode == 0, done.stderr
    assert_consistent(noisy)
    experiments = state_of(noisy).experiments
    assert [each.rung for each in experiments] == [None, None, 60, 60]
    assert [len(each.screens) for each in experiments] == [0, 1, 1, 1]


def test_a_recipe_that_ignores_the_shorter_budget_ends_the_ladder(noisy: Path, cli: Cli) -> None:
    train = noisy / "train.py"
    train.write_text(TRAIN.replace('print("num_steps:', 'print("training_seconds: 300.1")\n    print("num_steps:'))
    commit_all(noisy, "a budget of its own")
    why = "a screen trains for 300.1 s with a budget of 60 s, a full run 300.1 s"
    said = run(cli, noisy, ("RATE=40", "RATE=3.0", "RATE=60"), *LADDER)
    assert said.count(f"--ladder has ended: {why}") == 1
    assert len(events(noisy, "screened")) == 1
    assert not any(each.screens for each in state_of(noisy).experiments)
    assert [each.verdict.status for each in state_of(noisy).experiments[1:]] == ["discard", "keep", "discard"]
    line = cli(noisy, "status").stdout
    assert "0 of 0 screened candidates discarded at 60 s" in line
    assert f"ended: {why}" in line
    # Decided again from the journal; another rung has a screen of its own.
    again = run(cli, noisy, ("RATE=40", "RATE=3.0", "RATE=60", "RATE=70"))
    assert again.count(f"--ladder has ended: {why}") == 1
    assert len(events(noisy, "screened")) == 1
    run(cli, noisy, ("RATE=40", "RATE=3.0", "RATE=60", "RATE=70", "RATE=80"), "--ladder", "100,300")
    assert [each["rung"] for each in events(noisy, "screened")] == [60, 100]
