"""Runs that end early in real sessions: hopeless against the incumbent, or broken on their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from agent.decision.estimate import estimate, unbiased
from agent.journal.history import experiments_before
from agent.journal.journal import fold
from agent.journal.paths import journal_path
from tests.common.journals import JournalBuilder
from tests.common.sessions import assert_consistent, journal, rows
from tests.common.workspaces import Cli, commit_all, git, quick_protocol, set_protocol

# A curve of 40 points in about a second, whose end depends on RATE.
TRAIN = '''"""Trains for about a second."""

import math
import time

RATE = 0.4  # search: off

last = 1.0 + 0.05 * (RATE - 0.4) ** 2
for step in range(1, 41 if __name__ == "__main__" else 1):  # a dry check imports it
    loss = float("nan") if RATE < 0 and step > 10 else last + 2 * math.exp(-step / 8)
    print(f"step {step:05d} ({2.5 * step:.1f}%) | loss: {loss:.6f}", flush=True)
    time.sleep(0.025)
print(f"val_bpb:          {last:.6f}")
print("num_steps:        40")
'''
# Sets RATE to the next of its arguments.
AGENT = """
import pathlib, re, sys
number = int(re.findall(r"experiments so far: (\\d+)", pathlib.Path(sys.argv[1]).read_text())[0])
train = pathlib.Path("train.py")
train.write_text(re.sub("(?m)^RATE = \\S+", f"RATE = {sys.argv[2 + number]}", train.read_text()))
"""
USUAL = ("0.9", "1.4", "0.7", "1.9", "1.1", "0.6", "1.6", "0.8", "1.2")


@pytest.fixture
def curved(quick: Path) -> Path:
    (quick / "train.py").write_text(TRAIN)
    commit_all(quick, "a curve")
    return quick


def run(cli: Cli, folder: Path, agent: Path, rates: tuple[str, ...], *more: str, tag: str = "t") -> None:
    agent.write_text(AGENT)
    command = f"{sys.executable} {agent} {{prompt_file}} {' '.join(rates)}"
    flags = ("--proposer", "command", "--agent-cmd", command, "--sandbox", "off", "--no-keep-awake")
    done = cli(folder, "run", "--tag", tag, "--max-experiments", str(len(rates)), *flags, *more)
    assert done.returncode == 0, done.stderr


def test_a_run_without_a_chance_ends_early_unless_a_person_wants_it_whole(
    curved: Path, cli: Cli, tmp_path: Path
) -> None:
    run(cli, curved, tmp_path / "agent.py", (*USUAL, "20", "30"))
    assert_consistent(curved)
    state = fold(journal_path(curved, "t"))
    for experiment in state.experiments[-2:]:
        last = experiment.runs[-1]
        assert experiment.verdict.status == "discard"
        assert last.pruned is not None
        assert 0.1 <= last.pruned < 1
        assert experiment.verdict.reason.startswith("pruned at ")
        assert experiment.metric is None
        assert (estimate(experiment) or 0) > 5
    assert "(pruned at " in rows(curved)[-1]["description"]
    assert rows(curved)[-1]["status"] == "discard"
    assert all(e.runs[-1].pruned is None for e in state.experiments[:9])

    # The next session of this workspace has that history from its first experiment.
    broken = journal_path(curved, "broken")
    broken.parent.mkdir()
    broken.write_text("no event\n")
    run(cli, curved, tmp_path / "agent.py", ("20",), tag="u")
    first = fold(journal_path(curved, "u")).experiments[1]
    assert first.runs[-1].pruned is not None
    assert first.verdict.reason.startswith("pruned at ")
    # With another budget that history does not count.
    run(cli, curved, tmp_path / "agent.py", ("20",), "--training-seconds", "7", tag="v")
    assert fold(journal_path(curved, "v")).experiments[1].runs[-1].pruned is None
    run(cli, curved, tmp_path / "agent.py", ("20",), "--no-prune", tag="w")
    whole = fold(journal_path(curved, "w")).experiments[1]
    assert whole.runs[-1].pruned is None
    assert whole.metric is not None


def test_history_against_a_baseline_whose_log_is_overwritten_does_not_count(
    curved: Path, cli: Cli, tmp_path: Path
) -> None:
    """The next night starts from a better recipe, whose baseline has its log in the same place."""
    run(cli, curved, tmp_path / "agent.py", tuple(f"1.{number}" for number in range(40, 58, 2)), "--no-prune")
    first = fold(journal_path(curved, "t")).experiments
    assert sum(e.metric is not None for e in first) == 10
    for repeat in first[0].heldout_runs:  # these have logs of their own
        Path(repeat.log).unlink()
    git(curved, "checkout", "--quiet", "main")
    text = (curved / "train.py").read_text()
    (curved / "train.py").write_text(text.replace("last = 1.0", "last = 0.5"))
    commit_all(curved, "a better recipe")
    run(cli, curved, tmp_path / "agent.py", ("20",), tag="u")
    last = fold(journal_path(curved, "u")).experiments[1].runs[-1]
    assert (last.pruned, last.metric is not None) == (None, True)


def test_a_loss_that_is_no_number_ends_the_run_at_once(curved: Path, cli: Cli, tmp_path: Path) -> None:
    run(cli, curved, tmp_path / "agent.py", ("-1.0",))
    row = rows(curved)[1]
    assert row["status"] == "crash"
    assert "the loss became nan" in row["description"]
    failed = next(event for event in journal(curved) if event["event"] == "measured" and event["number"] == 1)
    assert failed["metric"] is None
    assert failed["error"].startswith("pruned at ")


def test_with_no_prune_not_even_that_ends_it(curved: Path, cli: Cli, tmp_path: Path) -> None:
    run(cli, curved, tmp_path / "agent.py", ("-1.0",), "--no-prune")
    whole = fold(journal_path(curved, "t")).experiments[1]
    assert whole.metric is not None
    assert whole.verdict.status == "discard"


def test_a_loss_that_rises_in_the_untouched_program_too_is_no_divergence(
    curved: Path, cli: Cli, tmp_path: Path
) -> None:
    text = (curved / "train.py").read_text()
    (curved / "train.py").write_text(text.replace("last + 2 * math.exp(-step / 8)", "0.01 * step"))
    commit_all(curved, "a loss that rises")
    run(cli, curved, tmp_path / "agent.py", ("0.9",))
    assert fold(journal_path(curved, "t")).experiments[1].metric is not None


def test_of_long_sessions_before_only_the_latest_experiments_are_read(tmp_path: Path) -> None:
    own = journal_path(tmp_path, "own")
    for tag, count in (("first", 40), ("second", 30)):
        JournalBuilder(tag).baseline().mixed(count).confirmed().save(journal_path(tmp_path, tag))
    path = journal_path(tmp_path, "first")
    os.utime(path, (1, 1))
    session = fold(path).session
    assert session is not None
    sessions = experiments_before(own, session["fingerprint"], 45)
    assert [len(each) for each in sessions][1] == 31
    assert 45 - 31 <= len(sessions[0]) < 41
    assert sessions[0][-1].number == 40
    assert sessions[0][0].verdict.status == "keep"
    assert [len(each) for each in experiments_before(own, session["fingerprint"], 31)] == [31]
    assert experiments_before(own, {}, 45) == []


def test_loss_that_rises_is_no_divergence_after_a_keep_that_was_not_repeated(
    curved: Path, cli: Cli, tmp_path: Path
) -> None:
    text = (curved / "train.py").read_text().replace("RATE = 0.4", "RATE = 2.0")
    (curved / "train.py").write_text(text.replace("last + 2 * math.exp(-step / 8)", "0.01 * step"))
    commit_all(curved, "a loss that rises")
    run(cli, curved, tmp_path / "agent.py", ("1.0", "0.9"), "--verdict", "greedy")
    kept, later = fold(journal_path(curved, "t")).experiments[1:]
    assert (kept.verdict.status, unbiased(kept)) == ("keep", [])
    assert later.metric is not None, later.verdict.reason


def test_percentage_that_is_no_progress_is_not_taken_for_the_pace(quick: Path, cli: Cli, tmp_path: Path) -> None:
    """By it the untouched program could not end before its limit either."""
    text = TRAIN.replace("({2.5 * step:.1f}%)", "| purity {10 + step / 6:.1f}%")
    (quick / "train.py").write_text(text)
    set_protocol(quick, execution={**quick_protocol()["execution"], "hardTimeoutSeconds": 10})
    run(cli, quick, tmp_path / "agent.py", ("0.9",))
    tried = fold(journal_path(quick, "t")).experiments[1]
    assert tried.metric is not None, tried.verdict.reason
