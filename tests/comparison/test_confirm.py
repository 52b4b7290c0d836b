"""Sessions with a noisy metric: repeated runs, confirmation, and recovery from a kill in between."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.comparison.evidence import sample_of
from agent.decision.schedule import counted, in_pairs, next_turn, reasons
from agent.execution import conditions
from agent.journal.comparison import PendingComparison
from agent.journal.experiment import Run
from agent.journal.journal import fold
from agent.journal.paths import journal_path
from tests.common.forked import Forked
from tests.common.in_process import call
from tests.common.scripts import SLOW, knowing
from tests.common.sessions import assert_consistent, events, journal, keep_in_turn, rows
from tests.common.workspaces import Cli, commit_all, git

NOISE = "import random\nloss += random.gauss(0, 0.05)\n"


@pytest.fixture
def noisy(quick: Path) -> Path:
    """The quick workspace with a noise of 0.05 in its metric, which is 2.1 at the baseline."""
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace('print("---")', f'{NOISE}print("---")'))
    commit_all(quick, "noise")
    return quick


def test_noisy_session_repeats_runs_and_confirms(noisy: Path, cli: Cli) -> None:
    # Enough for two keeps: the second one needs a repeat of the first, however lucky the noise is.
    done = cli(noisy, "run", "--tag", "t", "--max-experiments", "12", "--confirm")
    assert done.returncode == 0, done.stderr
    assert_consistent(noisy)
    state = fold(journal_path(noisy, "t"))
    assert len(state.experiments[0].runs) == 2
    assert (noisy / ".autoresearch" / "create" / "baseline_run-2.log").exists()
    measured = events(noisy, "measured")
    again = [event for event in measured if "of" in event]
    assert again
    assert "repeat of incumbent #" in done.stderr
    kept = [e for e in state.experiments[1:] if e.verdict.status == "keep"]
    assert kept
    assert all(e.verdict.evidence is not None for e in kept)
    for row, experiment in zip(rows(noisy), state.experiments, strict=True):
        assert float(row["val_bpb"]) == pytest.approx(experiment.metric, abs=1e-6)
    confirmed = events(noisy, "confirmed")[0]
    assert len(events(noisy, "compared")) == 6
    assert confirmed["runs"] == {"a": 3, "b": 3}
    assert confirmed["low"] < confirmed["gain"] < confirmed["high"]
    assert 0.005 < confirmed["noise"] < 0.5
    data = json.loads(cli(noisy, "status", "--json").stdout)["data"]
    assert data["confirmed"]["gain"] == confirmed["gain"]
    assert data["noise"] > 0
    assert f"{confirmed['gain']:.4g} {confirmed['verdict']}" in done.stdout


def test_equal_numbers_on_each_side_do_not_show_that_there_is_no_noise(quick: Path, cli: Cli) -> None:
    """A coarse metric is often the same for three seeds, though the session has seen that runs with one seed differ."""
    text = (quick / "train.py").read_text()
    seeded = f"SEED = 1\nif SEED == 1:\n    {NOISE.replace(chr(10), chr(10) + '    ', 1)}"
    (quick / "train.py").write_text(text.replace('print("---")', f'{seeded}print("---")'))
    commit_all(quick, "noise with one seed")
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "12").returncode == 0
    found = confirmed(quick, cli, "0", "best")
    assert [len({*found["values"][side]}) for side in "ab"] == [1, 1]
    assert found["seeds"]
    assert found["low"] < found["gain"] < found["high"]


def test_greedy_verdict_takes_one_run_each(noisy: Path, cli: Cli) -> None:
    done = cli(noisy, "run", "--tag", "t", "--max-experiments", "4", "--verdict", "greedy")
    assert done.returncode == 0, done.stderr
    assert len(events(noisy, "measured")) == 5
    assert not events(noisy, "compared")
    assert_consistent(noisy)


def test_confirm_and_ablate_by_hand(quick: Path, cli: Cli) -> None:
    assert cli(quick, "confirm").returncode == 3
    cli(quick, "run", "--tag", "t", "--max-experiments", "4")
    state = fold(journal_path(quick, "t"))
    best, baseline = state.incumbent, state.baseline
    assert best
    assert baseline
    assert best.metric is not None
    assert baseline.metric is not None
    assert best.number > 0
    done = cli(quick, "confirm", "--runs", "2", "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)["data"]
    assert data["verdict"] == "confirmed"
    assert data["gain"] == pytest.approx(baseline.metric - best.metric, abs=1e-5)
    assert (data["a"], data["b"]) == (baseline.commit, best.commit)
    with_itself = json.loads(cli(quick, "confirm", best.commit, best.commit[:8], "--json").stdout)["data"]
    assert with_itself["gain"] == 0
    assert with_itself["verdict"] == "not confirmed"
    assert "unknown commit" in cli(quick, "confirm", "9" * 5000).stderr
    missing = cli(quick, "confirm", "1", "99")
    assert missing.returncode == 3
    assert "experiment #99 not found in session t" in missing.stderr
    assert f"the session has #0 to #{len(state.experiments) - 1}" in missing.stderr
    wrong = cli(quick, "confirm", "nothing")
    assert wrong.returncode == 2
    assert "unknown commit 'nothing'" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    ablated = cli(quick, "ablate", "--json")
    assert ablated.returncode == 0, ablated.stderr
    found = json.loads(ablated.stdout)["data"]
    kept = [e for e in state.experiments[1:] if e.verdict.status == "keep"]
    assert {number for entry in found["changes"] for number in entry["numbers"]} == {e.number for e in kept}
    assert any(entry["verdict"] in ("pays", "undone by a later change") for entry in found["changes"])
    assert "pays" in cli(quick, "ablate").stdout
    assert_consistent(quick)


def test_an_idle_change_is_offered_for_removal(quick: Path, cli: Cli) -> None:
    """A kept change that a later one made useless: RATE is changed, then the loss no longer depends on it."""
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace("(RATE - 0.4) ** 2", "(WIDTH < 100) * (RATE - 0.4) ** 2"))
    commit_all(quick, "rate matters only while the width is small")
    keep_in_turn(quick, cli, "s/^RATE = 0.1 /RATE = 0.3 /", "s/^WIDTH = 64 /WIDTH = 256 /")
    found = json.loads(cli(quick, "ablate", "--json").stdout)["data"]
    assert [entry["verdict"] for entry in found["changes"]] == ["not shown to pay", "pays"]
    smaller = found["smaller"]
    assert smaller["offered"]
    assert smaller["without"] == [1]
    assert smaller["gain"] == 0
    offered = git(quick, "show", f"{smaller['commit']}:train.py")
    assert "RATE = 0.1 " in offered
    assert "WIDTH = 256 " in offered


def test_a_change_that_the_best_does_not_run_without_pays(quick: Path, cli: Cli) -> None:
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace("loss = ", "1 / (RATE > 0.2 or WIDTH < 100)\nloss = "))
    commit_all(quick, "wide ones need a rate")
    keep_in_turn(quick, cli, "s/^RATE = 0.1 /RATE = 0.3 /", "s/^WIDTH = 64 /WIDTH = 256 /")
    done = cli(quick, "ablate", "--json")
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)["data"]["changes"]
    assert first["verdict"] == second["verdict"] == "pays"
    assert "ZeroDivisionError" in first["fails"]
    assert first["worth"] is None
    assert second["worth"] > 0
    words = cli(quick, "ablate").stdout
    assert "#1 pays (without it the run fails: " in words
    assert_consistent(quick)


def test_values_that_an_assert_ties_are_put_back_together(quick: Path, cli: Cli) -> None:
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace("loss = ", "assert RATE > 0.2 or WIDTH < 100\nloss = "))
    commit_all(quick, "wide ones need a rate")
    keep_in_turn(quick, cli, "s/^RATE = 0.1 /RATE = 0.3 /", "s/^WIDTH = 64 /WIDTH = 256 /")
    found = json.loads(cli(quick, "ablate", "--json").stdout)["data"]["changes"]
    assert [(entry["numbers"], entry["constants"], entry["verdict"]) for entry in found] == [
        ([1, 2], ["RATE", "WIDTH"], "pays")
    ]


def test_keeps_that_overlap_are_taken_back_by_value(quick: Path, cli: Cli) -> None:
    """As text, only the last of these five keeps can be reverted; by value, all three constants can be put back."""
    changes = [
        "s/^RATE = 0.1 /RATE = 0.2 /",
        "s/^DEPTH = 4 /DEPTH = 5 /",
        "s/^WIDTH = 64 /WIDTH = 256 /",
        "s/^RATE = 0.2 /RATE = 0.3 /",
        "s/^DEPTH = 5 /DEPTH = 6 /",
    ]
    keep_in_turn(quick, cli, *changes)
    assert [reverts(quick, number) for number in range(1, 6)] == [False, False, False, False, True]
    found = json.loads(cli(quick, "ablate", "--json").stdout)["data"]["changes"]
    assert [(entry["numbers"], entry["description"], entry["verdict"]) for entry in found] == [
        ([3], "WIDTH 64 -> 256", "pays"),
        ([1, 4], "RATE 0.1 -> 0.3", "pays"),
        ([2, 5], "DEPTH 4 -> 6", "pays"),
    ]
    assert_consistent(quick)


def reverts(folder: Path, number: int) -> bool:
    """Whether git can revert the change of a keep in the best, as text."""
    commit = git(folder, "rev-parse", f"refs/autoresearch/t/{number}")
    for name, of in (("after", commit), ("before", f"{commit}^")):
        (folder.parent / name).write_text(git(folder, "show", f"{of}:train.py") + "\n")
    (folder.parent / "best").write_text((folder / "train.py").read_text())
    names = [str(folder.parent / name) for name in ("best", "after", "before")]
    return subprocess.run(["git", "merge-file", "--quiet", *names], check=False).returncode == 0


def test_code_is_taken_back_though_values_beside_it_changed(quick: Path, cli: Cli) -> None:
    keep_in_turn(
        quick,
        cli,
        r"s/^DEPTH = 4 .*/&\nEXTRA = 0.01/; s/^loss = 1.0/loss = 1.0 - EXTRA/",
        "s/^DEPTH = 4 /DEPTH = 6 /",
    )
    found = json.loads(cli(quick, "ablate", "--json").stdout)["data"]["changes"]
    assert [(entry["numbers"], entry["constants"], entry["verdict"]) for entry in found] == [
        ([1], [], "pays"),
        ([2], ["DEPTH"], "pays"),
    ]


def test_a_kept_file_is_taken_out_with_its_change(quick: Path, cli: Cli) -> None:
    protocol = json.loads((quick / "protocol.json").read_text())
    protocol["mutableSurface"]["allowedGlobs"] = ["train.py", "parts/*.py"]
    (quick / "protocol.json").write_text(json.dumps(protocol))
    commit_all(quick, "parts may be added")
    adds = "mkdir -p parts && echo GAIN = 0.3 > parts/gain.py && "
    adds += "sed -i '1i import runpy' train.py && "
    adds += """sed -i 's/^RATE = 0.1 /RATE = runpy.run_path("parts\\/gain.py")["GAIN"] /' train.py"""
    steps = (adds, "sed -i 's/^WIDTH = 64 /WIDTH = 256 /' train.py")
    for count, step in enumerate(steps, start=1):
        agent = ("--proposer", "command", "--agent-cmd", step)
        done = cli(quick, "run", "--tag", "t", *agent, "--max-experiments", str(count))
        assert done.returncode == 0, done.stderr
    assert [row["status"] for row in rows(quick)] == ["keep"] * 3
    found = json.loads(cli(quick, "ablate", "--json").stdout)["data"]["changes"]
    assert [entry["verdict"] for entry in found] == ["pays", "pays"]
    refs = git(quick, "for-each-ref", "--format=%(refname)", "refs/autoresearch/t/ablate").splitlines()
    trees = {ref: git(quick, "ls-tree", "-r", "--name-only", ref).splitlines() for ref in refs}
    assert ["-code-1" not in ref for ref in refs] == ["parts/gain.py" in trees[ref] for ref in refs] == [True, False]


def test_an_ablation_that_is_cut_off_at_the_smaller_recipe_goes_on_there(quick: Path, cli: Cli) -> None:
    text = (quick / "train.py").read_text()
    idle = text.replace("(RATE - 0.4) ** 2", "(WIDTH < 100) * (RATE - 0.4) ** 2")
    (quick / "train.py").write_text(idle.replace('print("---")', 'import time\ntime.sleep(0.2)\nprint("---")'))
    commit_all(quick, "rate matters only while the width is small")
    keep_in_turn(quick, cli, "s/^RATE = 0.1 /RATE = 0.3 /", "s/^WIDTH = 64 /WIDTH = 256 /")
    work = start(quick, "ablate")
    wait_until(quick, lambda found: found[-1].get("event") == "running" and found[-1]["label"] == "smaller")
    work.send_signal(signal.SIGKILL)
    work.communicate()
    before = len(events(quick, "compared"))
    assert before >= 6
    found = json.loads(cli(quick, "ablate", "--json").stdout)["data"]
    assert [entry["verdict"] for entry in found["changes"]] == ["not shown to pay", "pays"]
    # Two runs of each, of the best and both variants, then of the best and the smaller recipe.
    assert found["smaller"]["offered"]
    assert len(events(quick, "compared")) == 6 + 4
    assert_consistent(quick)


def test_disturbed_run_is_repeated_and_not_counted(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_SANDBOX", "off")
    text = (quick / "train.py").read_text().replace('print("---")', f'{knowing(SLOW, quick)}print("---")')
    (quick / "train.py").write_text(
        text.replace('print("num_steps:        10")', 'print("num_steps: ", 63 - 14 * slow)')
    )
    commit_all(quick, "runs that are slow on demand")
    assert call(quick, "run", "--tag", "t", "--max-experiments", "4").returncode == 0
    # The processor time of millisecond runs is too coarse, so only their steps are compared.
    monkeypatch.setattr(conditions, "SHORTEST_RUN", 0.0)
    monkeypatch.setattr(conditions, "MORE_CORES", math.inf)
    done = call(quick, "confirm", "--runs", "2", SLOW="b-1.log")
    assert done.returncode == 0, done.stderr
    assert [(e["label"], e["run"]) for e in events(quick, "compared")] == [*zip("abbab", (1, 1, 2, 2, 3), strict=True)]
    found = events(quick, "confirmed")[-1]
    assert found["runs"] == {"a": 2, "b": 2}
    assert found["verdict"] == "confirmed"
    assert found["noise"] == 0
    slower = "it made 49 steps, against 63 for another run of it with the same work per step"
    assert f"best #4 run 1 is repeated: {slower}" in done.stderr
    # Interrupted before or after the repeat: it is neither forgotten nor made twice.
    lines = journal_path(quick, "t").read_text().splitlines(keepends=True)
    for kept in (4, 5):
        until = [index for index, line in enumerate(lines) if '"event": "compared"' in line][kept - 1]
        journal_path(quick, "t").write_text("".join(lines[: until + 1]))
        assert call(quick, "confirm", "--runs", "2").returncode == 0
        again = events(quick, "confirmed")[-1]
        assert len(events(quick, "compared")) == 5
        assert again["values"] == found["values"]
    # A side that is still disturbed after all repeats counts anyway.
    done = call(quick, "confirm", "--runs", "2", SLOW="a-2.log a-3.log a-4.log")
    assert [e["label"] for e in events(quick, "compared")[5:]] == [*"abbaaa"]
    assert "baseline is still disturbed: it made 49 steps" in done.stderr
    assert "its latest 2 runs count anyway" in done.stderr
    slow = events(quick, "confirmed")[-1]
    assert slow["runs"] == {"a": 4, "b": 4}  # with those of the first confirmation
    assert slow["means"]["a"] == pytest.approx(found["means"]["a"] + 0.25)
    assert_consistent(quick)


def made(steps: float, **around: float) -> Run:
    return Run(2.0, 300.0, {"num_steps": steps}, conditions=around)


def side(count: int = 3, **runs: list[Run]) -> PendingComparison:
    return PendingComparison({label: label for label in runs}, (), count, {k: tuple(v) for k, v in runs.items()})


@pytest.mark.quick
def test_the_sides_take_turns_and_then_what_was_disturbed_is_run_again() -> None:
    usual, slow = made(63), made(49)
    runs: dict[str, list[Run]] = {"a": [], "b": []}
    turns = ""
    while (label := next_turn(found := side(a=runs["a"], b=runs["b"]))) is not None:
        # The first run of a and the second of b are slow.
        runs[label].append(slow if (label, len(runs[label])) in (("a", 0), ("b", 1)) else usual)
        turns += label
    assert turns == "abbaab" + "ba"
    assert all(counted(found, label) == (usual,) * 3 for label in "ab")
    assert [*reasons(found, "a")] == [0]
    assert [*reasons(found, "b")] == [1]


@pytest.mark.quick
def test_disturbed_runs_are_recognised() -> None:
    usual, slow = made(63, others=0.1), made(49, others=0.1)
    assert [*reasons(side(a=[slow, slow, usual]), "a")] == [0, 1]
    # A step of one side may take longer because of its code; the machine is the same for both.
    assert not reasons(side(a=[slow, slow], b=[usual, usual]), "a")
    busy = made(63, others=3.1)
    found = reasons(side(a=[usual, usual], b=[busy, busy]), "b")
    assert found[0] == "other programs used 3.1 cores, against 0.1 for the other runs"
    assert not reasons(side(a=[usual, made(60, others=0.2), made(55, others=0.1)]), "a")
    assert not reasons(side(a=[usual], b=[]), "a")
    assert not reasons(side(a=[usual], b=[]), "b")
    # The metric alone never makes a run count as disturbed.
    assert not reasons(side(a=[usual, Run(9.0, 300.0, {"num_steps": 63.0})]), "a")


@pytest.mark.quick
def test_what_stays_disturbed_is_run_no_more_than_twice_as_often() -> None:
    usual, slow = made(63), made(49)
    bound = side(2, a=[usual, slow, slow, slow], b=[usual, usual])
    assert next_turn(bound) is None
    assert counted(bound, "a") == (slow, slow)
    assert next_turn(side(2, a=[usual, slow, slow], b=[usual, usual])) == "a"


@pytest.mark.quick
def test_runs_of_stations_count_in_pairs_later_as_well() -> None:
    """A half whose station has left was begun anew with its seed, on another station or on this machine."""

    def run(value: float, seed: int, station: str = "") -> Run:
        return Run(value, 10.0, seed=seed, station=station)

    a, b = [run(2.0, 1, "studio"), run(3.0, 1, "mini"), run(3.1, 2, "mini")], [run(2.9, 1, "mini"), run(3.0, 2, "mini")]
    both = replace(side(2, a=a, b=b), seeds=(1, 2))
    pairs = {"a": a[1:], "b": b}
    assert {label: in_pairs(both, label) for label in "ab"} == pairs
    commits, plan = {"a": "a", "b": "b"}, (3,)
    latest = {"a": [run(2.0, 3)], "b": [run(1.9, 3)]}
    found = sample_of(commits, latest, [both], plan).runs
    assert found == {label: [*pairs[label], *latest[label]] for label in "ab"}
    mixed = replace(side(1, a=[a[0], run(2.0, 1)], b=[run(1.9, 1)]), seeds=(1,))
    assert sample_of(commits, latest, [mixed], plan).runs["a"] == [run(2.0, 1), *latest["a"]]


def start(folder: Path, *args: str) -> Forked:
    return Forked(folder, args, os.environ)


def wait_until(folder: Path, holds: Callable[[list[dict[str, Any]]], bool]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if journal_path(folder, "t").exists() and holds(journal(folder)):
            return
        time.sleep(0.02)
    raise AssertionError("the journal did not get there")


@pytest.mark.parametrize(("event", "count"), [("started", 8), ("running", 3)])
def test_killed_while_the_incumbent_or_a_side_runs(noisy: Path, cli: Cli, event: str, count: int) -> None:
    """`started` with `of` is a repeat of the incumbent; `running` is one side of the confirmation."""
    text = (noisy / "train.py").read_text()
    (noisy / "train.py").write_text(text.replace('print("---")', 'import time\ntime.sleep(0.8)\nprint("---")'))
    commit_all(noisy, "slower")
    command = ("run", "--tag", "t", "--max-experiments", str(count), "--confirm")
    loop = start(noisy, *command)

    def there(found: list[dict[str, Any]]) -> bool:
        last = found[-1] if found else {}
        return last.get("event") == event and (event == "running" or "of" in last)

    wait_until(noisy, there)
    loop.send_signal(signal.SIGKILL)
    loop.communicate()
    done = cli(noisy, *command)
    assert done.returncode == 0, done.stderr
    assert_consistent(noisy)
    assert len(rows(noisy)) == count + 1
    assert len(events(noisy, "confirmed")) == 1
    if event == "running":
        assert len(events(noisy, "compared")) == 6


def confirmed(folder: Path, cli: Cli, *args: str) -> dict[str, Any]:
    done = cli(folder, "confirm", *args, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["data"]
    return found


def test_names_are_those_of_the_checkout_of_the_person_which_stays(quick: Path, cli: Cli) -> None:
    (quick / "notes.md").write_text("a\n")
    git(quick, "add", "notes.md")
    git(quick, "commit", "--quiet", "-m", "notes")
    cli(quick, "run", "--tag", "t", "--max-experiments", "4")
    state = fold(journal_path(quick, "t"))
    assert state.incumbent is not None
    assert state.baseline is not None
    git(quick, "switch", "--quiet", "main")
    (quick / "notes.md").write_text("being written\n")
    found = confirmed(quick, cli, "HEAD", "best")
    assert (found["a"], found["b"]) == (state.baseline.commit, state.incumbent.commit)
    numbers = confirmed(quick, cli, "0", str(state.incumbent.number))
    assert (numbers["a"], numbers["b"]) == (state.baseline.commit, state.incumbent.commit)
    assert git(quick, "branch", "--show-current") == "main"
    assert (quick / "notes.md").read_text() == "being written\n"
    assert "baseline" in cli(quick, "confirm").stdout
    assert cli(quick, "ablate").returncode == 0
    assert git(quick, "branch", "--show-current") == "main"


def test_commits_that_add_rows_alone_are_the_experiment_that_they_hold(quick: Path, cli: Cli) -> None:
    cli(quick, "run", "--tag", "t", "--max-experiments", "4")
    best = fold(journal_path(quick, "t")).incumbent
    assert best is not None
    assert confirmed(quick, cli, "HEAD")["b"] == best.commit
    same = cli(quick, "confirm", "HEAD~1", "HEAD")
    assert same.returncode == 2
    assert "are the same program" in same.stderr


def test_an_ended_session_stays_ended_and_its_time_does_not_grow(quick: Path, cli: Cli) -> None:
    cli(quick, "run", "--tag", "t", "--max-experiments", "4")
    before = fold(journal_path(quick, "t"))
    path = journal_path(quick, "t")
    lines = path.read_text().splitlines()
    # As if it had ended an hour ago.
    old = [json.loads(line) for line in lines]
    path.write_text("".join(json.dumps({**each, "at": each["at"] - 3600}) + "\n" for each in old))
    confirmed(quick, cli)
    confirmed(quick, cli, "0", "1", "--runs", "2")
    state = fold(path)
    assert state.ended == before.ended
    assert state.seconds < before.seconds + 600
    assert "not running: interrupted" not in cli(quick, "status").stdout


def test_all_fresh_runs_of_a_pair_count(noisy: Path, cli: Cli) -> None:
    cli(noisy, "run", "--tag", "t", "--max-experiments", "6")
    first = confirmed(noisy, cli, "0", "best", "--runs", "3")
    logs = sorted(path.read_bytes() for path in (journal_path(noisy, "t").parent / "confirm").glob("*/*.log"))
    second = confirmed(noisy, cli, "0", "best", "--runs", "2")
    assert second["runs"] == {"a": 5, "b": 5}
    assert second["values"]["a"][:3] == first["values"]["a"]
    assert second["means"]["b"] == pytest.approx(sum(second["values"]["b"]) / 5)
    again = sorted(path.read_bytes() for path in (journal_path(noisy, "t").parent / "confirm").glob("*/*.log"))
    assert len(again) >= len(logs) + 4  # none was written over
    # Results of other pairs do not count for this one; which experiment is best depends on the noise.
    best = fold(journal_path(noisy, "t")).incumbent
    assert best
    earlier, later = [number for number in range(1, 7) if number != best.number][::4]
    for other in (earlier, later):
        confirmed(noisy, cli, "0", str(other), "--runs", "2")
    status = json.loads(cli(noisy, "status", "--json").stdout)["data"]
    assert status["confirmed"]["gain"] == second["gain"]
    report = json.loads(cli(noisy, "report", "--json").stdout)["data"]["sessions"][0]
    assert report["confirmation"]["gain"] == second["gain"]


def test_the_report_is_there_before_the_confirmation_begins(quick: Path, cli: Cli) -> None:
    wanted = {"AUTORESEARCH_CONFIRM": "1", "AUTORESEARCH_REPORT": "1"}
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "4", **wanted)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("wrote the report so far to "))
    assert first < next(index for index, line in enumerate(lines) if line.startswith("confirming the gain "))
    assert any(line.startswith("baseline run 1: ") for line in lines)
    assert not any(line.startswith(("a ", "b ")) for line in lines)
    assert (
        "gain is confirmed" in Path(lines[first].removeprefix("wrote the report so far to ")).read_text()
    )  # as it is now
