"""`try`: an edit of the working tree as one experiment, on any branch, without losing anything that a person wrote."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from agent.journal import edits, lock
from agent.journal.paths import journal_path, state_folder
from tests.common.processes import start, wait_for
from tests.common.sessions import assert_consistent, journal, rows
from tests.common.tries import BETTER, WORSE, edit, kept_by_branch, result, start_try
from tests.common.workspaces import QUICK, Cli, commit_all, git, make_repository, quick_protocol, set_protocol

CRASHES = ("loss = ", "raise ValueError('no')\nloss = ")


def test_first_edit_starts_session_and_is_kept(quick: Path, cli: Cli) -> None:
    edit(quick, *BETTER)
    data = result(cli(quick, "try", "--json", "-m", "a larger rate"))
    assert (data["tag"], data["number"], data["verdict"]["status"]) == ("try", 1, "keep")
    assert (data["description"], data["proposer"], data["ref"]) == ("a larger rate", "edit", "refs/autoresearch/try/1")
    assert data["metric"] == pytest.approx(data["compared_with"]["value"] + data["delta"])
    assert data["gain"] == pytest.approx(-data["delta"])
    assert (data["restored"], data["get_back"]) == ([], None)
    assert git(quick, "branch", "--show-current") == "main"
    assert git(quick, "rev-parse", "main") == git(quick, "rev-parse", "HEAD")
    assert "RATE = 0.3" in (quick / "train.py").read_text()
    assert not (quick / "results.tsv").exists()
    assert git(quick, "show", "autoresearch/try:train.py") == (quick / "train.py").read_text().strip()
    git(quick, "stash")
    git(quick, "checkout", "--quiet", "autoresearch/try")
    assert_consistent(quick, tag="try")
    assert [row["description"] for row in rows(quick)] == ["baseline", "a larger rate"]


@pytest.mark.parametrize(("change", "status"), [(WORSE, "discard"), (CRASHES, "crash")])
def test_what_is_not_kept_is_put_back_and_can_be_got_back(
    quick: Path, cli: Cli, change: tuple[str, str], status: str
) -> None:
    edit(quick, *change)
    edited = (quick / "train.py").read_text()
    done = cli(quick, "try")
    assert done.returncode == 0, done.stderr
    assert f"#1 {status}" in done.stdout
    assert (quick / "train.py").read_text() == QUICK
    assert git(quick, "status", "--porcelain") == ""
    back = next(line for line in done.stdout.splitlines() if line.startswith("put back")).split("`")[1]
    subprocess.run(["sh", "-c", back], cwd=quick, check=True)
    assert (quick / "train.py").read_text() == edited
    assert kept_by_branch(quick, "try") == QUICK


def test_description_names_constants_or_counts_lines(quick: Path, cli: Cli) -> None:
    edit(quick, *WORSE)
    assert result(cli(quick, "try", "--json"))["description"] == "DEPTH 4 -> 1"
    edit(quick, "import sys\n", "import sys\n\nEXTRA = 1\n")
    assert result(cli(quick, "try", "--json"))["description"].startswith("2 lines added, 0 removed")


def test_without_edit_nothing_happens(quick: Path, cli: Cli) -> None:
    done = cli(quick, "try")
    assert done.returncode == 3
    assert "no edit to measure: train.py is as in the last commit" in done.stderr
    assert not journal_path(quick, "try").exists()
    edit(quick, *BETTER)
    assert cli(quick, "try").returncode == 0
    before = journal_path(quick, "try").read_bytes()
    done = cli(quick, "try")
    assert done.returncode == 3
    assert "the best of session try, experiment #1" in done.stderr
    (quick / "prepare.py").write_text("HARNESS = False\n")
    assert "prepare.py changed, but no candidate may change it" in cli(quick, "try").stderr
    git(quick, "checkout", "--quiet", "--", ".")
    done = cli(quick, "try")  # the committed baseline is no edit, either
    assert done.returncode == 3
    assert "as in an experiment of session try" in done.stderr
    assert "git restore --source autoresearch/try -- train.py" in done.stderr
    assert journal_path(quick, "try").read_bytes() == before


def test_other_changed_files_are_named_and_left_alone(quick: Path, cli: Cli) -> None:
    (quick / "notes.md").write_text("mine")
    (quick / "data").mkdir()
    for number in range(9):
        (quick / f"data/{number}").touch()
    (quick / "prepare.py").write_text("HARNESS = False\n")
    edit(quick, *WORSE)
    data = result(cli(quick, "try", "--json"))
    assert data["left_alone"] == ["prepare.py", "data/", "notes.md"]
    assert data["notes"] == ["runs use the committed version of prepare.py: no candidate may change it"]
    assert (quick / "notes.md").read_text() == "mine"
    assert (quick / "prepare.py").read_text() == "HARNESS = False\n"
    assert git(quick, "show", "refs/autoresearch/try/1:prepare.py") == "HARNESS = True"
    assert git(quick, "status", "--porcelain").split() == ["M", "prepare.py", "??", "data/", "??", "notes.md"]


def test_empty_folders_are_no_change(quick: Path, cli: Cli) -> None:
    (quick / "empty dir").mkdir()
    (quick / "lib" / "deep").mkdir(parents=True)
    none = cli(quick, "try")
    assert none.returncode == 3
    assert "changed, but" not in none.stderr
    edit(quick, *BETTER)
    (quick / "lib" / "notes.txt").write_text("x\n")
    assert result(cli(quick, "try", "--json"))["left_alone"] == ["lib/"]


def test_changed_protocol_is_refused(quick: Path, cli: Cli) -> None:
    edit(quick, *BETTER)
    text = (quick / "protocol.json").read_text()
    (quick / "protocol.json").write_text(text.replace('"hardTimeoutSeconds": 60', '"hardTimeoutSeconds": 61'))
    done = cli(quick, "try")
    assert done.returncode == 3
    assert "protocol.json has changes" in done.stderr
    assert "RATE = 0.3" in (quick / "train.py").read_text()
    assert not journal_path(quick, "try").exists()


def test_new_files_that_the_globs_allow_are_part_of_the_edit(quick: Path, cli: Cli) -> None:
    surface = {**quick_protocol()["mutableSurface"], "allowedGlobs": ["train.py", "extra*.py"]}
    set_protocol(quick, mutableSurface=surface)
    (quick / ".gitignore").write_text("extra_ignored.py\n")
    (quick / "extra.py").write_text("RATE = 0.3\n")
    (quick / "extra_ignored.py").write_text("NO = 1\n")
    edit(quick, "RATE = 0.1  # search: 0.001..10 log", "from extra import RATE")
    data = result(cli(quick, "try", "--json"))
    assert data["files"] == ["extra.py", "train.py"]
    assert data["verdict"]["status"] == "keep"
    assert data["left_alone"] == [".gitignore"]
    (quick / "extra2.py").write_text("DEPTH = 1\n")
    edit(quick, "DEPTH = 4  # search: 1..16", "from extra2 import DEPTH")
    git(quick, "add", "--intent-to-add", "extra2.py")
    data = result(cli(quick, "try", "--json"))
    assert data["restored"] == ["extra2.py", "train.py"]
    assert not (quick / "extra2.py").exists()
    assert "extra2" not in git(quick, "status", "--porcelain")
    assert git(quick, "show", "refs/autoresearch/try/2:extra2.py") == "DEPTH = 1"
    assert (quick / "extra.py").exists()
    # The loop takes over: what is in git makes way for its branch.
    git(quick, "add", ".gitignore")
    git(quick, "commit", "--quiet", "-m", "ignore")
    done = cli(quick, "run", "--tag", "try", "--max-experiments", "3")
    assert done.returncode == 0, done.stderr
    assert git(quick, "branch", "--show-current") == "autoresearch/try"
    assert git(quick, "status", "--porcelain") == "?? extra_ignored.py"  # .gitignore is on main


def test_new_files_of_an_edit_are_in_no_run_of_another_version(quick: Path, cli: Cli) -> None:
    """Its files lie untracked in the checkout, alone or in a folder with data, before the verdict and after a keep."""
    set_protocol(quick, mutableSurface={"allowedGlobs": ["train.py", "**/*.py"]})
    (quick / "train.py").write_text(
        "import pathlib\n"
        "lacks = [name for name in ('extra', 'data/part') if not pathlib.Path(f'{name}.py').exists()]\n"
        "assert pathlib.Path('data/a.txt').exists()\n"
        "print(f'val_bpb: {1.0 + len(lacks)}')\n"
    )
    commit_all(quick, "a script", "train.py")
    (quick / "data").mkdir()
    for name in ("data/a.txt", "data/part.py", "extra.py"):
        (quick / name).write_text("X = 1\n")
    data = result(cli(quick, "try", "--json"))
    assert data["files"] == ["data/part.py", "extra.py"]
    assert (data["verdict"]["status"], data["metric"], data["compared_with"]["value"]) == ("keep", 1.0, 3.0)
    done = cli(quick, "confirm", "--json")
    assert done.returncode == 0, done.stderr
    runs = [event for event in journal(quick, "try") if event["event"] == "compared"]
    assert {(run["label"], run["metric"]) for run in runs} == {("a", 3.0), ("b", 1.0)}


def test_person_and_loop_take_turns(quick: Path, cli: Cli) -> None:
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "2").returncode == 0
    edit(quick, "import sys", "import sys  # on the session's branch")
    assert result(cli(quick, "try", "--json"))["number"] == 3
    assert git(quick, "status", "--porcelain", "--untracked-files=no") == ""
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "4").returncode == 0
    assert_consistent(quick)
    git(quick, "switch", "--quiet", "main")
    git(quick, "restore", "--source", "autoresearch/t", "--", "train.py")
    edit(quick, 'print("---")', 'print("-----")')
    data = result(cli(quick, "try", "--json"))
    assert (data["tag"], data["number"], data["notes"]) == ("t", 5, [])
    assert (quick / "train.py").read_text() == kept_by_branch(quick, "t")
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "6")
    assert done.returncode == 0, done.stderr
    assert git(quick, "branch", "--show-current") == "autoresearch/t"
    assert_consistent(quick)
    assert len(rows(quick)) == 7
    proposers = [event["proposer"] for event in journal(quick) if event["event"] == "proposed"]
    assert [proposers[3], proposers[5]] == ["edit", "edit"]


def test_edit_from_before_a_keep_says_what_it_undoes(quick: Path, cli: Cli) -> None:
    edit(quick, *BETTER)
    assert result(cli(quick, "try", "--json"))["verdict"]["status"] == "keep"
    (quick / "train.py").write_text(QUICK.replace("WIDTH = 64", "WIDTH = 32"))
    data = result(cli(quick, "try", "--json"))
    assert "train.py lacks changes that session try has kept" in data["notes"][0]
    assert "`git restore --source autoresearch/try -- train.py`" in data["notes"][0]
    assert "RATE = 0.3" in (quick / "train.py").read_text()


def test_another_session_refuses_what_try_left(quick: Path, cli: Cli) -> None:
    edit(quick, *BETTER)
    assert cli(quick, "try").returncode == 0
    done = cli(quick, "run", "--tag", "other", "--max-experiments", "1")
    assert done.returncode == 3
    assert "uncommitted changes (train.py)" in done.stderr
    assert "RATE = 0.3" in (quick / "train.py").read_text()


def test_loop_in_progress_is_named_and_the_edit_stays(quick: Path, cli: Cli) -> None:
    edit(quick, *BETTER)
    edited = (quick / "train.py").read_text()
    with lock.hold(state_folder(quick), "night"):
        done = cli(quick, "try", "--json")
    assert done.returncode == 3
    assert "process" in json.loads(done.stdout)["errors"][0]
    assert "(session night)" in done.stderr
    assert "autoresearch stop" in done.stderr
    assert (quick / "train.py").read_text() == edited
    assert not journal_path(quick, "try").exists()


def test_edit_waits_for_setup_and_baseline_of_first_use(quick: Path, program: Cli) -> None:
    environment = quick_protocol()["environment"] | {"setupCommands": ["echo prepared >> data.txt"]}
    set_protocol(quick, environment=environment)
    edit(quick, *BETTER)
    data = result(program(quick, "try", "--json"))
    assert (data["number"], data["verdict"]["status"]) == (1, "keep")
    assert (quick / "data.txt").read_text() == "prepared\n"


def test_failed_setup_leaves_edit_and_no_session(quick: Path, program: Cli) -> None:
    environment = quick_protocol()["environment"] | {"setupCommands": ["exit 4"]}
    set_protocol(quick, environment=environment)
    edit(quick, *BETTER)
    done = program(quick, "try")
    assert done.returncode == 1
    assert "`exit 4` failed" in done.stderr
    assert git(quick, "for-each-ref", "refs/autoresearch") == ""
    assert edits.unsettled(journal_path(quick, "try")) == {}
    edit(quick, *WORSE)
    assert result(program(quick, "try", "--json", "--no-setup"))["number"] == 1


def test_own_commits_on_the_branch_are_measured_as_one_edit(quick: Path, cli: Cli) -> None:
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "1").returncode == 0
    best = kept_by_branch(quick, "t")
    edit(quick, "import sys", "import sys, os")
    commit_all(quick, "a first step")
    (quick / "notes.md").write_text("mine\n")
    git(quick, "add", "notes.md")
    edit(quick, 'print("---")', 'print("-----")')
    commit_all(quick, "a second step")
    mine = git(quick, "rev-parse", "HEAD")
    refused = cli(quick, "run", "--tag", "t", "--max-experiments", "2")
    assert refused.returncode == 3
    assert "measure the new commits with `autoresearch try" in refused.stderr
    data = result(cli(quick, "try", "--json"))
    assert (data["number"], data["description"], data["files"]) == (2, "a second step", ["train.py"])
    ref = f"refs/autoresearch/t/commits/{mine[:12]}"
    assert ref in data["notes"][0]
    assert git(quick, "rev-parse", ref) == mine
    assert data["left_alone"] == ["notes.md"]
    assert (quick / "notes.md").read_text() == "mine\n"
    if data["verdict"]["status"] != "keep":
        assert (quick / "train.py").read_text() == best
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "3").returncode == 0
    git(quick, "rm", "--quiet", "--cached", "notes.md")
    assert_consistent(quick)


def test_commits_on_a_branch_that_is_not_checked_out_are_measured(quick: Path, cli: Cli) -> None:
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "1").returncode == 0
    edit(quick, "import sys", "import sys, os")
    commit_all(quick, "a step")
    git(quick, "switch", "--quiet", "main")
    data = result(cli(quick, "try", "--tag", "t", "--json"))
    assert (data["description"], data["restored"], data["newer"]) == ("a step", [], [])
    assert "edit      kept under refs/autoresearch/t/2" in cli(quick, "wait").stdout
    assert git(quick, "branch", "--show-current") == "main"
    assert (quick / "train.py").read_text() == QUICK
    assert git(quick, "status", "--porcelain") == ""


def test_rewritten_branch_is_refused(quick: Path, cli: Cli) -> None:
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "1").returncode == 0
    git(quick, "reset", "--quiet", "--hard", "main")
    edit(quick, *BETTER)
    done = cli(quick, "try", "--tag", "t")
    assert done.returncode == 3
    assert "the session left it at" in done.stderr
    assert "RATE = 0.3" in (quick / "train.py").read_text()
    assert edits.unsettled(journal_path(quick, "t")) == {}


def test_killed_try_goes_on_and_finishes_the_loops_experiment_first(quick: Path, cli: Cli) -> None:
    slow = QUICK.replace("import sys\n", "import sys, time\n").replace("loss = ", "time.sleep(0.2)\nloss = ")
    (quick / "train.py").write_text(slow)
    commit_all(quick, "slow")
    loop = start(quick, "--max-experiments", "9")
    wait_for(quick, "started", 1)
    loop.kill()
    loop.wait(60)
    assert git(quick, "branch", "--show-current") == "autoresearch/t"
    edit(quick, *BETTER)
    killed = start_try(quick, "--tag", "t")
    wait_for(quick, "started", 1, count=2)
    killed.kill()
    killed.wait(60)
    data = result(cli(quick, "try", "--tag", "t", "--json"))
    assert (data["number"], data["proposer"]) == (2, "edit")
    assert_consistent(quick)
    assert len(rows(quick)) == 3


def test_run_measures_an_edit_that_a_killed_try_left(quick: Path, cli: Cli) -> None:
    slow = QUICK.replace("import sys\n", "import sys, time\n").replace("loss = ", "time.sleep(0.5)\nloss = ")
    (quick / "train.py").write_text(slow)
    commit_all(quick, "slow")
    edit(quick, *BETTER)
    killed = start_try(quick, "--tag", "t", "-m", "mine")
    wait_for(quick, "started", 0)
    killed.kill()
    killed.wait(60)
    git(quick, "update-ref", "-d", "refs/autoresearch/t/1")  # as if killed before it was made
    waited = cli(quick, "wait", "1", "--tag", "t")
    assert waited.returncode == 3
    assert "no process measures it" in waited.stderr
    assert "autoresearch try --tag t" in waited.stderr
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "2")
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert [row["description"] for row in rows(quick)][:2] == ["baseline", "mine"]


def test_newer_edit_made_during_the_run_stays(quick: Path, program: Cli) -> None:
    slow = QUICK.replace("import sys\n", "import sys, time\n").replace("loss = ", "time.sleep(1)\nloss = ")
    (quick / "train.py").write_text(slow)
    commit_all(quick, "slow")
    edit(quick, *WORSE)
    started = result(program(quick, "try", "--detach", "--json", "--tag", "t"))
    assert (started["number"], started["verdict"], started["commit"]) == (1, None, None)
    newer = (quick / "train.py").read_text() + "# newer\n"
    (quick / "train.py").write_text(newer)
    data = result(program(quick, "wait", "--json"))
    assert (data["number"], data["verdict"]["status"]) == (1, "discard")
    assert (data["restored"], data["newer"]) == ([], ["train.py"])
    assert (quick / "train.py").read_text() == newer


def test_detached_try_reports_errors_as_its_own(quick: Path, program: Cli) -> None:
    done = program(quick, "try", "--detach", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["errors"][0].startswith("no edit to measure")
    assert not (state_folder(quick) / "sessions" / "try").exists()
    done = program(quick, "try", "--detach", "--tag", "../../x")
    assert done.returncode == 2
    assert not (quick.parent / "x").exists()


def test_wait_gives_up_after_its_timeout(quick: Path, program: Cli) -> None:
    slow = QUICK.replace("import sys\n", "import sys, time\n").replace("loss = ", "time.sleep(2)\nloss = ")
    (quick / "train.py").write_text(slow)
    commit_all(quick, "slow")
    edit(quick, *BETTER)
    number = result(program(quick, "try", "--detach", "--json"))["number"]
    done = program(quick, "wait", str(number), "--timeout", "0", "--json")
    assert done.returncode == 5
    assert "it goes on" in json.loads(done.stdout)["errors"][0]
    data = result(program(quick, "wait", str(number), "--json"))
    assert data["verdict"]["status"] == "keep"
    assert data["pid"] is None
    assert program(quick, "wait", "0", "--tag", "try").stdout.startswith("#0 keep")
    assert program(quick, "wait", "99", "--tag", "try").returncode == 3


def test_detached_run_leaves_the_terminal(quick: Path, program: Cli) -> None:
    done = program(quick, "run", "--tag", "t", "--max-experiments", "2", "--detach")
    assert done.returncode == 0, done.stderr
    assert "follow    autoresearch status --follow" in done.stdout
    assert program(quick, "wait", "2", "--tag", "t").returncode == 0
    assert program(quick, "status", "--follow").returncode == 0
    assert "resuming" not in (journal_path(quick, "t").parent / "background.log").read_text()
    (quick / "train.py").write_text("RATE = 9\n")
    refused = program(quick, "run", "--tag", "t", "--detach")
    assert refused.returncode == 3
    assert "uncommitted changes (train.py)" in refused.stderr


def test_refused_run_puts_nothing_back(quick: Path, cli: Cli) -> None:
    edit(quick, *BETTER)
    assert cli(quick, "try", "--tag", "t").returncode == 0
    kept = (quick / "train.py").read_text()
    (quick / "prepare.py").write_text("HARNESS = False\n")
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "2").returncode == 3
    assert (quick / "train.py").read_text() == kept


def test_most_recent_session_under_the_same_conditions_is_the_default(quick: Path, cli: Cli) -> None:
    assert cli(quick, "run", "--tag", "one", "--max-experiments", "0").returncode == 0
    git(quick, "switch", "--quiet", "main")
    assert cli(quick, "run", "--tag", "two", "--max-experiments", "0", "--training-seconds", "7").returncode == 0
    git(quick, "switch", "--quiet", "main")
    edit(quick, *BETTER)
    assert result(cli(quick, "try", "--json"))["tag"] == "two"
    edit(quick, *WORSE)
    assert result(cli(quick, "try", "--json", "--training-seconds", "9"))["tag"] == "try"


def test_edit_on_other_files_beside_the_recipe_is_told_of_those(quick: Path, cli: Cli) -> None:
    (quick / "config.json").write_text("{}")
    (quick / "README.md").write_text("one")
    commit_all(quick, "config", "config.json", "README.md")
    edit(quick, *WORSE)
    assert result(cli(quick, "try", "--json"))["tag"] == "try"
    (quick / "README.md").write_text("two")
    commit_all(quick, "words")
    edit(quick, "RATE = 0.1", "RATE = 0.11")
    assert "with its own" not in cli(quick, "try").stderr
    git(quick, "checkout", "--quiet", "--", ".")
    (quick / "config.json").write_text('{"layers": 2}')
    commit_all(quick, "another config")
    edit(quick, "RATE = 0.1", "RATE = 0.12")
    done = cli(quick, "try")
    assert "session try measures with its own config.json, which HEAD has otherwise" in done.stderr
    assert "#3" in done.stdout


def test_damaged_edit_is_reported(quick: Path, cli: Cli) -> None:
    edit(quick, *BETTER)
    assert cli(quick, "try", "--tag", "t").returncode == 0
    path = journal_path(quick, "t").parent / "experiments/0001/edit.json"
    content: dict[str, Any] = json.loads(path.read_text())
    for text in ("{", json.dumps({**content, "files": {"train.py": 7}}), json.dumps([])):
        path.write_text(text)
        edit(quick, "WIDTH = 64", "WIDTH = 65") if "WIDTH = 65" not in (quick / "train.py").read_text() else None
        done = cli(quick, "try", "--tag", "t")
        assert done.returncode == 1
        assert "cannot read the edit" in done.stderr
    shutil.rmtree(path.parent)
    assert cli(quick, "try", "--tag", "t").returncode == 0


def test_workspace_below_the_top_of_its_repository(quick: Path, cli: Cli, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "other").mkdir(parents=True)
    (top / "other" / "mine.txt").write_text("mine\n")
    shutil.copytree(quick, top / "recipe", ignore=shutil.ignore_patterns(".git"))
    make_repository(top)
    (top / "other" / "mine.txt").write_text("changed\n")
    edit(top / "recipe", *WORSE)
    edited = (top / "recipe" / "train.py").read_text()
    git(top, "add", "recipe/train.py")
    data = result(cli(top / "other", "-C", "../recipe", "try", "--json"))
    assert (data["restored"], data["left_alone"]) == (["train.py"], ["other/mine.txt"])
    assert git(top, "status", "--porcelain") == "M other/mine.txt"
    subprocess.run(["sh", "-c", data["get_back"]], cwd=top / "other", check=True)
    assert (top / "recipe" / "train.py").read_text() == edited


def test_line_ends_of_the_checkout_are_no_edit(quick: Path, cli: Cli) -> None:
    (quick / ".gitattributes").write_text("*.py text eol=crlf\n")
    git(quick, "add", ".gitattributes")
    commit_all(quick, "line ends")
    git(quick, "rm", "--quiet", "--cached", "train.py")
    git(quick, "reset", "--quiet", "--hard")
    assert b"\r\n" in (quick / "train.py").read_bytes()
    assert cli(quick, "try").returncode == 3
    whole = (quick / "train.py").read_bytes()
    (quick / "train.py").write_bytes(whole.replace(b"DEPTH = 4", b"DEPTH = 1"))
    assert result(cli(quick, "try", "--json"))["restored"] == ["train.py"]
    assert (quick / "train.py").read_bytes() == whole
    assert git(quick, "status", "--porcelain") == ""


def test_ctrl_c_finishes_the_experiment_and_a_second_one_keeps_the_edit(quick: Path, cli: Cli) -> None:
    slow = QUICK.replace("import sys\n", "import sys, time\n").replace("loss = ", "time.sleep(1)\nloss = ")
    (quick / "train.py").write_text(slow)
    commit_all(quick, "slow")
    for number, presses in ((1, 1), (2, 2)):
        edit(quick, "WIDTH = ", f"HEIGHT{number} = 1\nWIDTH = ")
        loop = start_try(quick, "--tag", "t")
        wait_for(quick, "started", number)
        for press in range(presses):
            time.sleep(0.2 * press)
            loop.send_signal(signal.SIGINT)
        out, err = loop.communicate(60)
        assert loop.returncode == 130, err
        assert (f"#{number} " in out) == (presses == 1), err
    assert "stopped before experiment #2 had its verdict" in err
    assert "autoresearch try --tag t" in err
    assert "HEIGHT2" in (quick / "train.py").read_text()
    assert result(cli(quick, "try", "--json"))["number"] == 2


def test_stop_during_the_baseline_says_how_to_continue(quick: Path, cli: Cli) -> None:
    slow = QUICK.replace("import sys\n", "import sys, time\n").replace("loss = ", "time.sleep(1)\nloss = ")
    (quick / "train.py").write_text(slow)
    commit_all(quick, "slow")
    edit(quick, *BETTER)
    loop = start_try(quick, "--tag", "t")
    wait_for(quick, "started", 0)
    assert cli(quick, "stop").returncode == 0
    _, err = loop.communicate(60)
    assert loop.returncode == 3, err
    assert "has ended: stopped by `autoresearch stop`" in err
    assert "hint: continue with `autoresearch try --tag t`" in err
    assert result(cli(quick, "try", "--json", "--tag", "t"))["number"] == 1


def test_wait_ends_at_once_beside_a_loop_that_measures_no_experiment(quick: Path, cli: Cli) -> None:
    edit(quick, *BETTER)
    assert cli(quick, "try", "--tag", "t").returncode == 0
    with lock.hold(state_folder(quick), "t"):  # as `confirm` does, without the limits of a session
        done = cli(quick, "wait", "50", "--tag", "t", "--timeout", "60")
        assert cli(quick, "wait", "1", "--tag", "t").returncode == 0
    assert done.returncode == 3
    assert "experiment #50 not found in session t" in done.stderr
    assert "the session has #0 to #" in done.stderr


def test_session_without_baseline_is_not_the_default(quick: Path, cli: Cli) -> None:
    (quick / "train.py").write_text("raise ValueError('broken')\n")
    commit_all(quick, "broken")
    (quick / "train.py").write_text(QUICK)
    failed = cli(quick, "try")
    assert failed.returncode == 1
    assert "the baseline failed" in failed.stderr
    assert (quick / "train.py").read_text() == QUICK
    commit_all(quick, "fixed")
    edit(quick, *BETTER)
    assert result(cli(quick, "try", "--json"))["tag"] == "try-2"


def test_wait_says_that_a_detached_try_was_killed(quick: Path, program: Cli) -> None:
    slow = QUICK.replace("import sys\n", "import sys, time\n").replace("loss = ", "time.sleep(30)\nloss = ")
    (quick / "train.py").write_text(slow)
    commit_all(quick, "slow")
    edit(quick, *BETTER)
    pid = result(program(quick, "try", "--detach", "--json"))["pid"]
    assert program(quick, "status").returncode in (0, 3)
    os.kill(pid, signal.SIGKILL)
    done = program(quick, "wait")
    assert done.returncode == 3
    assert "experiment #1 of session try has no verdict, and no process measures it" in done.stderr
    assert "background.log" in done.stderr


def test_edit_that_cannot_be_measured_is_named(quick: Path, cli: Cli) -> None:
    for content in (b"\xff\xfe", b"#" * (2**20 + 1), b"x = 1\0"):
        (quick / "train.py").write_bytes(content)
        done = cli(quick, "try")
        assert done.returncode == 3, done.stderr
        assert "train.py is" in done.stderr
        assert (quick / "train.py").read_bytes() == content
    (quick / "train.py").unlink()
    (quick / "train.py").symlink_to("prepare.py")
    assert "train.py is a link" in cli(quick, "try").stderr
    (quick / "train.py").unlink()
    (quick / "train.py").write_text(QUICK.replace("1..16", "16..1"))
    assert cli(quick, "try").returncode == 2
    assert git(quick, "for-each-ref", "refs/autoresearch") == ""


def test_try_killed_before_its_session_began_goes_on(quick: Path, program: Cli) -> None:
    command = "touch begun; until test -e go; do sleep 0.1; done"
    set_protocol(quick, environment=quick_protocol()["environment"] | {"setupCommands": [command]})
    edit(quick, *BETTER)
    for _ in range(2):
        killed = start_try(quick, "-m", "mine")
        deadline = time.monotonic() + 60
        while not (quick / "begun").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        killed.kill()
        killed.wait(60)
        (quick / "begun").unlink()
        git(quick, "update-ref", "-d", "refs/autoresearch/try/1")  # as if killed before it was made
    (quick / "go").touch()
    data = result(program(quick, "try", "--json"))
    assert (data["number"], data["description"], data["verdict"]["status"]) == (1, "mine", "keep")
    assert git(quick, "rev-parse", "refs/autoresearch/try/1") == data["commit"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; tests/whole/test_agents_try.py has a sandbox")
def test_read_only_repository_is_explained(quick: Path, cli: Cli) -> None:
    edit(quick, *BETTER)
    (quick / ".git").chmod(0o500)
    try:
        done = cli(quick, "try")
    finally:
        (quick / ".git").chmod(0o700)
    assert done.returncode == 3
    assert f"error: {quick / '.git'} is read-only, so no candidate can be committed" in done.stderr
    assert BETTER[1] in (quick / "train.py").read_text()
