"""`promote`: kept changes judged again at a larger rung, with real sessions and runs."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.comparison.ablate import commit_variant
from agent.journal.journal import Journal, fold, read
from agent.journal.paths import journal_path
from agent.journal.state import State
from agent.promote.each import changes_of, gain_at_rung, gain_of_rest
from agent.promote.rung import climb
from agent.report.promotion import promotion_lines
from agent.session.opening import open_runner
from agent.session.signals import Interrupts
from agent.session.workbench import Workbench
from tests.common.forked import Forked
from tests.common.sessions import assert_consistent, events, keep_in_turn
from tests.common.workspaces import Cli, commit_all, git, made_once, make_quick

# The gain of each constant depends on the training budget and on DEPTH.
RECIPE = '''"""Prints a metric that depends on constants, the training budget and the seed."""

import os
import random
import time

SEED = 1
RATE = 0.1
DEPTH = 4
WIDTH = 64
DECAY = 0.5
STEPS = 0

random.seed(SEED)
seconds = float(os.environ["AUTORESEARCH_TRAINING_SECONDS"])
longer, deeper = seconds > 300, DEPTH >= 8
assert DEPTH != 7 or WIDTH == 64
loss = 2.0 + random.gauss(0, 0.002)
loss -= 0.2 * (RATE == 0.3)
loss -= (-0.3 if longer else 0.1) * (WIDTH == 256)
loss -= (0.0 if deeper else 0.05) * (DECAY == 0.9)
if deeper and WIDTH == 256 and seconds < 300.5:
    raise MemoryError("too wide to be this deep")
if STEPS == 9:
    raise ValueError("too many steps")
time.sleep(float(os.environ.get("SLEEP", "0")))
print("---")
print(f"val_bpb:          {loss:.6f}")
print("peak_vram_mb:     2048.0")
print("num_steps:        10")
'''
CHANGES = ("s/^RATE = 0.1/RATE = 0.3/", "s/^WIDTH = 64/WIDTH = 256/", "s/^DECAY = 0.5/DECAY = 0.9/")


@pytest.fixture
def night(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Path:
    """A session that kept a rate, a width that only pays in short runs, and a decay that only pays if shallow."""

    def make(folder: Path) -> None:
        make_quick(folder / "work")
        (folder / "work" / "train.py").write_text(RECIPE)
        commit_all(folder / "work", "recipe")
        keep_in_turn(folder / "work", cli, *CHANGES)

    made = made_once(tmp_path_factory, "promoted-night", make)
    shutil.copytree(made / "work", tmp_path / "night", symlinks=True)
    return tmp_path / "night"


def promoted(folder: Path, cli: Cli, *args: str) -> dict[str, Any]:
    done = cli(folder, "promote", *args, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["data"]
    return found


def state_of(folder: Path) -> State:
    return fold(journal_path(folder, "t"))


def adopted(folder: Path, cli: Cli) -> tuple[str, str]:
    """Adopt what transfers, and return the message of the commit and its train.py."""
    done = cli(folder, "adopt", "--promoted")
    assert done.returncode == 0, done.stderr
    return git(folder, "log", "-1", "--format=%B", "main"), git(folder, "show", "main:train.py")


def by_name(changes: list[dict[str, Any]]) -> dict[str, str]:
    return {entry["description"].split()[0]: entry["verdict"] for entry in changes}


def test_whole_transfers(night: Path, cli: Cli) -> None:
    before, branch = git(night, "rev-parse", "HEAD"), (night / "results.tsv").read_text()
    done = cli(night, "promote", "--training-seconds", "300.9", "--no-each", "--runs", "2", "--set", "WIDTH=64")
    assert done.returncode == 0, done.stderr
    assert "the whole takes 4 runs of about " in done.stderr
    assert "rung        300.9 s of training, WIDTH = 64" in done.stdout
    assert "whole       transfers: 12." in done.stdout
    assert "% better, 95 % interval " in done.stdout
    assert "autoresearch adopt --promoted`" in done.stdout
    assert (git(night, "rev-parse", "HEAD"), (night / "results.tsv").read_text()) == (before, branch)
    (found,) = state_of(night).promotions
    assert (found["changes"], found["rest"]) == (None, None)
    assert_consistent(night)


def test_one_of_three_is_to_blame(night: Path, cli: Cli) -> None:
    """The whole loses at 900 s, because of the width; without it the rest transfers and can be adopted."""
    found = promoted(night, cli, "--training-seconds", "900")
    assert found["whole"]["verdict"] == "does not transfer"
    assert found["whole"]["high"] < 0
    assert by_name(found["changes"]) == {"RATE": "transfers", "WIDTH": "does not transfer", "DECAY": "transfers"}
    rest = found["rest"]
    assert (rest["judged"]["verdict"], rest["offered"], rest["without"], rest["constants"]) == (
        "transfers",
        True,
        [2],
        ["WIDTH"],
    )
    text = git(night, "show", f"{rest['commit']}:train.py")
    assert "WIDTH = 64" in text
    assert "RATE = 0.3" in text
    # Pairs of whole and rest, and of the best and three variants; each has seeds of its own.
    compared = events(night, "compared")
    assert len(compared) == 6 + 12 + 6
    assert {run["seed"] for run in compared} == set(range(2, 11))
    assert all(Path(run["log"]).exists() for run in compared)
    assert_consistent(night)
    shown = cli(night, "status").stdout
    assert "promoted at 900 s of training: does not transfer: " in shown
    assert "2 of 3 changes transfer; without WIDTH 64 -> 256: transfers" in shown
    assert cli(night, "report", "--out", "page").returncode == 0
    page = (night / "page" / "index.html").read_text()
    assert "At 900 s of training:" in page
    assert "an earlier best" not in page
    assert "does not transfer" in page
    assert "Without WIDTH 64 -&gt; 256, what remains against the baseline transfers: " in page


def test_runs_of_a_promotion_count_nowhere_else(night: Path, cli: Cli) -> None:
    promoted(night, cli, "--training-seconds", "900", "--no-each", "--runs", "2")
    confirmed = json.loads(cli(night, "confirm", "--runs", "2", "--json").stdout)["data"]
    assert confirmed["verdict"] == "confirmed"
    assert confirmed["gain"] > 0.3
    assert confirmed["runs"] == {"a": 2, "b": 2}
    state = state_of(night)
    assert len(state.compared) == len(state.climbed) == 1
    table = [line.split(",") for line in cli(night, "export", "--runs").stdout.splitlines()]
    roles = [row[table[0].index("role")] for row in table[1:]]
    assert (roles.count("promotion"), roles.count("held-out")) == (4, 4)
    again = promoted(night, cli, "--training-seconds", "900", "--no-each", "--runs", "2")
    assert again["whole"]["runs"] == {"a": 4, "b": 4}
    assert again["whole"]["gain"] < 0


def test_each_uses_the_verdict_about_the_whole_that_is_known(night: Path, cli: Cli) -> None:
    flags = ("--set", "DECAY=0.9", "--set", "WIDTH=64", "--runs", "2")
    first = promoted(night, cli, *flags)
    assert (first["whole"]["verdict"], first["changes"]) == ("transfers", None)
    second = promoted(night, cli, *flags, "--each")
    assert second["whole"] == first["whole"]
    verdicts = by_name(second["changes"])
    assert verdicts == {"RATE": "transfers", "WIDTH": "set by you", "DECAY": "set by you"}
    assert second["rest"] is None
    # At this rung the rate is all that there is, so nothing was measured twice.
    assert second["changes"][0]["judged"] == first["whole"]
    assert len(events(night, "compared")) == 4


def test_adopt_names_the_latest_promotion_where_an_earlier_one_transfers(night: Path, cli: Cli) -> None:
    promoted(night, cli, "--set", "DECAY=0.9", "--set", "WIDTH=64", "--runs", "2")
    promoted(night, cli, "--training-seconds", "900", "--no-each", "--runs", "2")
    done = cli(night, "adopt", "--promoted")
    assert done.returncode == 3
    assert "error: the latest promotion of session t has shown nothing to transfer\n" in done.stderr
    assert "hint: 1: at DECAY = 0.9, WIDTH = 64: transfers; 2: at 900 s of training: does not transfer; " in done.stderr
    assert "adopt --promoted 1 --tag t`" in done.stderr
    assert "without --promoted" not in done.stderr
    for number, code in (("2", 3), ("3", 2), ("best", 2)):
        refused = cli(night, "adopt", "--promoted", number)
        assert (refused.returncode, "1: at DECAY = 0.9, WIDTH = 64: transfers" in refused.stderr) == (code, True)
    done = cli(night, "adopt", "--promoted", "1")
    assert done.returncode == 0, done.stderr
    assert "RATE = 0.3" in git(night, "show", "main:train.py")


def test_only_change_has_the_verdict_about_the_whole(quick: Path, cli: Cli) -> None:
    """The width alone was kept: without it the best is the baseline, and those runs are made already."""
    (quick / "train.py").write_text(RECIPE)
    commit_all(quick, "recipe")
    keep_in_turn(quick, cli, CHANGES[1])
    done = cli(quick, "promote", "--training-seconds", "900", "--runs", "2")
    assert done.returncode == 0, done.stderr
    assert "the whole takes 4 runs of about " in done.stderr
    assert "if it is not shown to transfer" not in done.stderr
    (found,) = state_of(quick).promotions
    assert by_name(found["changes"]) == {"WIDTH": "does not transfer"}
    assert (found["changes"][0]["judged"], found["rest"]) == (found["whole"], None)
    assert len(events(quick, "compared")) == 4
    failed = promoted(quick, cli, "--set", "DEPTH=8", "--runs", "2")
    assert by_name(failed["changes"]) == {"WIDTH": "does not transfer"}
    assert "MemoryError" in failed["changes"][0]["why"]
    assert_consistent(quick)


def test_set_value_wins_over_a_kept_change(night: Path, cli: Cli) -> None:
    done = cli(night, "promote", "--training-seconds", "900", "--set", "WIDTH=128", "--each", "--runs", "2")
    assert done.returncode == 0, done.stderr
    assert "#2          set by you: " in done.stdout
    assert "#1          transfers +" in done.stdout
    (found,) = state_of(night).promotions
    assert found["whole"]["verdict"] == "transfers"
    assert found["changes"][1]["set"] == ["WIDTH"]
    logs = {Path(run["log"]).parent.name for run in events(night, "compared")}
    assert logs == {"whole", "each"}


def test_best_that_fails_at_the_rung(night: Path, cli: Cli) -> None:
    """Runs that are too large for the machine: the change without which it runs is to blame."""
    found = promoted(night, cli, "--set", "DEPTH=8", "--runs", "2")
    assert found["whole"]["verdict"] == "does not transfer"
    assert "MemoryError" in found["whole"]["why"]
    verdicts = {entry["description"].split()[0]: entry for entry in found["changes"]}
    assert verdicts["WIDTH"]["verdict"] == "does not transfer"
    assert verdicts["RATE"]["verdict"] == "undecided"
    assert verdicts["WIDTH"]["judged"]["one_seed"] == "one run each"
    assert found["rest"]["judged"]["verdict"] == "transfers"
    assert "its run fails" in cli(night, "status").stdout


def test_baseline_that_fails_at_the_rung_ends_it(night: Path, cli: Cli) -> None:
    done = cli(night, "promote", "--set", "STEPS=9", "--runs", "2")
    assert done.returncode == 1
    assert "baseline failed: crashed: exit code 1: ValueError: too many steps" in done.stderr
    assert not events(night, "promoted")


def test_recipe_that_ignores_the_training_budget_is_refused(quick: Path, cli: Cli) -> None:
    text = RECIPE.replace('float(os.environ["AUTORESEARCH_TRAINING_SECONDS"])', "300.0")
    (quick / "train.py").write_text(text.replace('float(os.environ.get("SLEEP", "0"))', "1.1"))
    commit_all(quick, "a budget of its own")
    keep_in_turn(quick, cli, CHANGES[0], flags=("--training-seconds", "1"))
    done = cli(quick, "promote", "--training-seconds", "100", "--runs", "2")
    assert done.returncode == 1
    assert "error: the recipe ignores --training-seconds: a run took " in done.stderr
    assert not events(quick, "promoted")


def test_conflicting_code_and_asserts_cannot_be_taken_out_alone(quick: Path, cli: Cli) -> None:
    (quick / "train.py").write_text(RECIPE)
    commit_all(quick, "recipe")
    first = r"s/^loss -= 0.2 .*/loss -= 0.2 * (RATE == 0.1)/"
    second = r"s/^loss -= 0.2 .*/loss -= 0.3 * (RATE == 0.1)/"
    keep_in_turn(quick, cli, first, second, "s/^DECAY = 0.5/DECAY = 0.9/")
    found = promoted(quick, cli, "--training-seconds", "900", "--each", "--runs", "2")
    entries = {entry["number"]: entry for entry in found["changes"]}
    assert entries[1]["verdict"] == "cannot be taken out alone"
    assert entries[2]["verdict"] == "transfers"


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--set", "NOPE=1"], 2, "--set 'NOPE': the baseline has no such constant"),
        (["--set", "DEPTH=deep"], 2, "--set DEPTH must be a whole number, got 'deep'"),
        (["--set", "DEPTH=0.5"], 2, "--set DEPTH must be a whole number, got '0.5'"),
        (["--set", "DEPTH=8; import os"], 2, "--set DEPTH must be a whole number"),
        (["--set", "RATE=1e999"], 2, "--set RATE must be a number"),
        (["--set", "DEPTH"], 2, "--set needs NAME=VALUE, got 'DEPTH'"),
        (["--set", "=8"], 2, "--set needs NAME=VALUE"),
        (["--set", "DEPTH=8", "--set", "DEPTH=9"], 2, "--set DEPTH is given twice"),
        (["--set", "DEPTH=7"], 2, "--set 'DEPTH=7' breaks an assert of the best: 'DEPTH != 7 or WIDTH == 64'"),
        (["--set", "SEED=5"], 2, "--set SEED is not possible"),
        (["--set", "DEPTH=4"], 2, "this is the rung at which session t was measured"),
        ([], 2, "this is the rung at which session t was measured"),
        (["--training-seconds", "30"], 2, "--training-seconds must be at least 300"),
        (["--training-seconds", "inf"], 2, "--training-seconds must be below"),
        (["--training-seconds", "nan"], 2, "--training-seconds must be at least 0.1"),
        (["--training-seconds", "900", "--seeds", "4", "--runs", "2"], 2, "--seeds must be at most --runs"),
        (["--training-seconds", "900", "--seeds", "2500000"], 2, "--seeds must be at most 1000, got 2500000"),
        (["--training-seconds", "900", "--runs", "100000000"], 2, "--runs must be at most 1000, got 100000000"),
    ],
)
def test_rung_that_is_none_is_refused(night: Path, cli: Cli, flags: list[str], code: int, says: str) -> None:
    done = cli(night, "promote", *flags)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not events(night, "comparing")


def test_session_without_keeps_is_refused(quick: Path, cli: Cli) -> None:
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "0").returncode == 0
    done = cli(quick, "promote", "--training-seconds", "900")
    assert done.returncode == 3
    assert "nothing better than the baseline was kept, so nothing can be promoted" in done.stderr


def test_session_of_another_machine_is_judged_here(night: Path, cli: Cli) -> None:
    path = journal_path(night, "t")
    lines = path.read_text().splitlines()
    first = json.loads(lines[0])
    first["fingerprint"] |= {"chip": "Apple M4 Max", "memory_gb": 64}
    path.write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    assert cli(night, "confirm").returncode == 3
    found = promoted(night, cli, "--tag", "t", "--runs", "2")
    assert found["whole"]["verdict"] == "transfers"
    assert found["conditions"].startswith("on ")
    first["fingerprint"] |= {"harness": "0" * 64}
    path.write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    done = cli(night, "promote", "--training-seconds", "900")
    assert done.returncode == 3
    assert "was measured with other data or another harness" in done.stderr


def test_session_that_only_git_has_is_named(night: Path, tmp_path: Path, cli: Cli) -> None:
    git(tmp_path, "clone", "--quiet", "--branch", "main", str(night), "reader")
    done = cli(tmp_path / "reader", "promote", "--tag", "t", "--training-seconds", "900")
    assert done.returncode == 3
    assert "git has session t from another clone, but its journal is not here" in done.stderr
    other = tmp_path / "other"
    git(tmp_path, "clone", "--quiet", "--single-branch", "--branch", "main", f"file://{night}", "other")
    shutil.copytree(night / ".autoresearch", other / ".autoresearch")
    done = cli(other, "promote", "--tag", "t", "--training-seconds", "900")
    assert done.returncode == 3
    assert "fetch it from where the session was measured" in done.stderr
    git(other, "fetch", "--quiet", "origin", "refs/autoresearch/t/*:refs/autoresearch/t/*")
    found = promoted(other, cli, "--tag", "t", "--training-seconds", "300.9", "--each", "--runs", "2")
    assert found["whole"]["verdict"] == "does not transfer"
    assert by_name(found["changes"]) == {"RATE": "transfers", "WIDTH": "does not transfer", "DECAY": "transfers"}
    assert found["rest"]["judged"]["verdict"] == "transfers"
    assert git(other, "branch", "--list", "autoresearch/*") == ""
    git(other, "config", "user.name", "Tester")
    git(other, "config", "user.email", "tester@example.invalid")
    _, text = adopted(other, cli)
    assert ("RATE = 0.3" in text, "WIDTH = 64" in text) == (True, True)


def wait_until(folder: Path, holds: Callable[[list[dict[str, Any]]], bool]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if holds([{"event": each.kind, **each.data} for each in read(journal_path(folder, "t"))]):
            return
        time.sleep(0.02)
    raise AssertionError("the journal did not get there")


def slowed(seconds: str) -> dict[str, str]:
    return {**os.environ, "SLEEP": seconds, "AUTORESEARCH_KEEP_ENV": "SLEEP"}


@pytest.mark.parametrize(("label", "run"), [("best", 1), ("without-2-WIDTH", 2), ("rest", 2)])
def test_killed_promotion_continues(night: Path, cli: Cli, label: str, run: int) -> None:
    """No finished run is repeated, whichever part of the promotion was cut off, though others run in between."""
    command = ("promote", "--training-seconds", "900", "--runs", "2")
    work = Forked(night, command, slowed("0.3"))

    def there(found: list[dict[str, Any]]) -> bool:
        last = found[-1]
        return last["event"] == "running" and (last["label"], last["run"]) == (label, run)

    wait_until(night, there)
    work.send_signal(signal.SIGKILL)
    work.communicate()
    done = len(events(night, "compared"))
    assert cli(night, "ablate").returncode == 0
    others = len(events(night, "compared")) - done
    found = promoted(night, cli, *command[1:])
    assert found["whole"]["verdict"] == "does not transfer"
    assert found["rest"]["offered"]
    assert len(events(night, "compared")) - others == 4 + 8 + 4
    assert len(events(night, "promoted")) == 1
    assert_consistent(night)


def test_promotions_at_two_rungs_may_be_under_way(night: Path, cli: Cli) -> None:
    """One is interrupted, another one runs meanwhile: no log of either is overwritten."""
    command = ("promote", "--training-seconds", "900", "--runs", "2", "--no-each")
    work = Forked(night, command, slowed("0.3"))
    wait_until(night, lambda found: found[-1]["event"] == "running" and found[-1]["run"] == 2)
    work.send_signal(signal.SIGKILL)
    work.communicate()
    for seconds in ("1000", "900"):
        promoted(night, cli, "--training-seconds", seconds, *command[3:])
    logs = [Path(run["log"]) for run in events(night, "compared")]
    assert len({*logs}) == len(logs) == 8
    assert all(log.is_file() for log in logs)


def test_own_seed_does_not_take_back_what_new_seeds_have_shown(night: Path, cli: Cli) -> None:
    at = ("--training-seconds", "900", "--no-each", "--runs", "2")
    several = promoted(night, cli, *at)["whole"]
    assert several["seeds"]
    one = promoted(night, cli, *at, "--seeds", "1")["whole"]
    assert not one["seeds"]
    found = state_of(night).promotions
    assert [bool(each["whole"]["seeds"]) for each in found] == [False, True]
    assert found[-1]["whole"] == several


def test_pairs_of_an_interrupted_promotion_count_with_another_number_of_runs(night: Path, cli: Cli) -> None:
    command = ("promote", "--training-seconds", "900", "--no-each", "--runs", "3")
    work = Forked(night, command, slowed("0.3"))
    wait_until(night, lambda found: found[-1]["event"] == "running" and found[-1]["run"] == 3)
    work.send_signal(signal.SIGKILL)
    work.communicate()
    before = events(night, "compared")
    assert len(before) == 4
    whole = promoted(night, cli, *command[1:4], "--runs", "2")["whole"]
    after = events(night, "compared")
    assert len({run["log"] for run in after}) == len(after) == 8
    assert len({run["seed"] for run in after}) == 4
    assert whole["runs"] == {"a": 4, "b": 4}
    assert len(whole["seeds"]) == 4
    again = promoted(night, cli, *command[1:4], "--runs", "2")["whole"]
    assert again["runs"] == {"a": 6, "b": 6}, "whole pairs of a comparison that was given up count once"
    assert state_of(night).parked == ()


def test_variant_of_an_earlier_promotion_keeps_a_ref(night: Path) -> None:
    with open_runner(night, "t", None, "off") as runner, closing(Journal(journal_path(night, "t"))) as journal:
        bench = Workbench(runner, journal, Interrupts())
        best = journal.state.incumbent
        assert best is not None
        files = runner.workspace.files(best.commit)
        first, second, again = (
            commit_variant(bench, "promote/rest", {**files, "train.py": f"{files['train.py']}# {number}\n"})
            for number in (1, 2, 2)
        )
    assert again == second != first
    refs = git(night, "for-each-ref", "--format=%(refname)", "--points-at", first)
    assert refs == f"refs/autoresearch/t/promote/rest-{first[:12]}"


@pytest.mark.slow
def test_promotion_survives_kills_at_random_instants(night: Path) -> None:
    """Each start gets a bit further; at its end no run that finished was made twice."""
    chance, kills = random.Random(7), 0
    while not events(night, "promoted"):
        work = Forked(night, ("promote", "--training-seconds", "900", "--runs", "2"), slowed("0.1"))
        until = time.monotonic() + chance.uniform(0.3, 1.5)
        while work.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        kills += work.poll() is None
        work.kill()
        work.communicate()
    assert kills > 3
    assert [len(events(night, kind)) for kind in ("compared", "promoted")] == [4 + 8 + 4, 1]
    assert state_of(night).promotions[-1]["rest"]["offered"]
    assert_consistent(night)


def test_first_ctrl_c_finishes_the_run_and_second_stops_it(night: Path, cli: Cli) -> None:
    command = ("promote", "--training-seconds", "900", "--runs", "2", "--no-each")
    for times in (1, 2):
        runs = len(events(night, "compared"))
        work = Forked(night, command, slowed("2"))
        wait_until(night, lambda found: found[-1]["event"] == "running")
        work.send_signal(signal.SIGINT)
        while times == 2 and work.poll() is None:
            time.sleep(0.2)  # two that arrive together are one
            work.send_signal(signal.SIGINT)
        _, said = work.communicate()
        assert work.returncode == 130
        assert "press Ctrl-C again to stop at once" in said
        assert len(events(night, "compared")) == runs + (times == 1)
    assert promoted(night, cli, *command[1:])["whole"]["runs"] == {"a": 2, "b": 2}
    assert len(events(night, "compared")) == 4
    assert_consistent(night)


def test_what_transfers_is_adopted_with_its_evidence(night: Path, cli: Cli) -> None:
    assert cli(night, "adopt", "--promoted").returncode == 3
    promoted(night, cli, "--training-seconds", "900")
    message, text = adopted(night, cli)
    assert "Left out, because `promote` did not show that they transfer: #2" in message
    assert "Training: 900 s a run" in message
    assert "confirmed" in message
    assert ("RATE = 0.3" in text, "WIDTH = 64" in text, "DECAY = 0.9" in text) == (True, True, True)


def test_change_that_harms_is_left_out_although_the_whole_transfers(quick: Path, cli: Cli) -> None:
    """The rate gains more than the width loses in a long training."""
    (quick / "train.py").write_text(RECIPE.replace("0.2 * (RATE", "0.5 * (RATE"))
    commit_all(quick, "a rate that gains more")
    keep_in_turn(quick, cli, *CHANGES)
    found = promoted(quick, cli, "--training-seconds", "900", "--each")
    assert (found["whole"]["verdict"], by_name(found["changes"])["WIDTH"]) == ("transfers", "does not transfer")
    rest = found["rest"]
    assert (rest["judged"]["verdict"], rest["offered"], rest["without"]) == ("transfers", True, [2])
    assert promotion_lines(found)[-1].endswith("takes what remains, which has the better mean")
    # Pairs of the whole; the best and three variants; what remains, the best and the baseline.
    assert len(events(quick, "compared")) == 6 + 12 + 9
    message, text = adopted(quick, cli)
    assert "Left out, because `promote` did not show that they transfer: #2" in message
    assert ("RATE = 0.3" in text, "WIDTH = 64" in text, "DECAY = 0.9" in text) == (True, True, True)
    assert_consistent(quick)


def test_what_a_promotion_set_is_not_adopted(night: Path, cli: Cli) -> None:
    """No run compared that value with the baseline's; the decay was kept at a value that both sides had."""
    found = promoted(night, cli, "--set", "DECAY=0.9", "--runs", "2")
    assert found["whole"]["verdict"] == "transfers"
    message, text = adopted(night, cli)
    assert "Adopt 2 changes of session t: val_bpb 1.9" in message
    assert "that they transfer: #3" in message
    assert "Left out, because `promote` set their constants, " in message
    assert "did not show" not in message
    assert "Judged with: DECAY = 0.9 on both sides; here as on the baseline" in message
    assert ("RATE = 0.3" in text, "WIDTH = 256" in text, "DECAY = 0.5" in text) == (True, True, True)


def test_nothing_is_measured_that_the_rung_makes_equal(quick: Path, cli: Cli) -> None:
    (quick / "train.py").write_text(RECIPE)
    commit_all(quick, "recipe")
    keep_in_turn(quick, cli, *CHANGES[1:])
    done = cli(quick, "promote", "--set", "WIDTH=256", "--set", "DECAY=0.9")
    assert done.returncode == 2
    assert "error: --set sets all that session t changed, so nothing is left to judge" in done.stderr
    # Without the width, the best at this rung is the baseline.
    found = promoted(quick, cli, "--training-seconds", "900", "--set", "DECAY=0.9", "--runs", "2")
    assert by_name(found["changes"]) == {"WIDTH": "does not transfer", "DECAY": "set by you"}
    assert found["rest"] is None
    assert len(events(quick, "compared")) == 4


def test_gain_of_what_the_rung_sets_is_no_measure_of_the_rest(night: Path, cli: Cli) -> None:
    """The decay alone is left: it gained 0.05 in the session, and the other two six times as much."""
    found = promoted(night, cli, "--set", "RATE=0.3", "--set", "WIDTH=256", "--runs", "2")
    assert found["session"] == pytest.approx(0.05 / 2, abs=0.004)
    assert found["whole"]["verdict"] == "transfers"
    with open_runner(night, "t", None, "off") as runner, closing(Journal(journal_path(night, "t"))) as journal:
        bench = climb(Workbench(runner, journal, Interrupts()), ["RATE=0.3", "WIDTH=256"])
        assert gain_at_rung(bench, changes_of(bench)) == pytest.approx(0.05 / 2, abs=0.004)


def test_gain_of_what_is_taken_out_is_no_measure_of_the_rest(night: Path) -> None:
    """Without rate and width, which gained 0.3 in the session, the decay gained 0.05."""
    with open_runner(night, "t", 900.0, "off") as runner, closing(Journal(journal_path(night, "t"))) as journal:
        bench = climb(Workbench(runner, journal, Interrupts()), ())
        units = [change.unit for change in changes_of(bench)]
        assert [unit.places[0][1] for unit in units] == ["RATE", "WIDTH", "DECAY"]
        assert gain_of_rest(bench, units[:2], units) == pytest.approx(0.05 / 2, abs=0.004)
        # Of a keep that stays in part, nobody knows what that part gained.
        both = replace(units[2], keeps=(*units[1].keeps, *units[2].keeps))
        assert gain_of_rest(bench, units[:2], [*units[:2], both]) is None


def test_gain_of_what_was_undone_is_no_measure_of_the_rest(quick: Path, cli: Cli) -> None:
    """The rate gained 0.05, and its way back 0.03 with the larger width: nothing of it is left in the best."""
    clash = "loss -= (0.05 if WIDTH == 64 else -0.03) * (RATE == 0.3)"
    recipe = RECIPE.replace("loss -= 0.2 * (RATE == 0.3)", clash)
    (quick / "train.py").write_text(recipe)
    commit_all(quick, "recipe")
    rate, width, decay = CHANGES
    keep_in_turn(quick, cli, rate, width, "s/^RATE = 0.3/RATE = 0.1/", decay)
    with open_runner(quick, "t", 900.0, "off") as runner, closing(Journal(journal_path(quick, "t"))) as journal:
        bench = climb(Workbench(runner, journal, Interrupts()), ())
        units = [change.unit for change in changes_of(bench)]
        assert [[keep.number for keep in unit.keeps] for unit in units] == [[2], [4], [1], [3]]
        assert gain_of_rest(bench, units[:1], units) == pytest.approx(0.05 / 2, abs=0.004)
        # A keep that stays and changed the rate as well gained both together.
        both = replace(units[1], keeps=(*units[1].keeps, *units[3].keeps))
        assert gain_of_rest(bench, units[:1], [units[0], both, units[2]]) is None


def test_message_names_all_seeds_that_count_and_what_of_a_change_is_left_out(quick: Path, cli: Cli) -> None:
    (quick / "train.py").write_text(RECIPE)
    commit_all(quick, "recipe")
    keep_in_turn(quick, cli, "s/^RATE = 0.1/RATE = 0.3/; s/^WIDTH = 64/WIDTH = 256/", "s/^DECAY = 0.5/DECAY = 0.9/")
    for _ in range(2):
        found = promoted(quick, cli, "--training-seconds", "900", "--runs", "2")
    assert (found["rest"]["offered"], found["rest"]["without"]) == (True, [])
    runs = [run["seed"] for run in events(quick, "compared") if run["label"] == "rest"]
    assert len({*runs}) == 4
    message, text = adopted(quick, cli)
    assert "WIDTH = 64" in text
    assert f"Seeds: {', '.join(map(str, dict.fromkeys(runs)))}\n" in message
    assert "adopted without its WIDTH)" in message
    assert message.count("adopted without") == 1
