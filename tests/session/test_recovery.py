"""Sessions that were killed, or in whose checkout the user worked: what is finished, undone, or left to the user."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.journal.paths import journal_path
from tests.common.in_process import call
from tests.common.processes import start, wait_for
from tests.common.sessions import assert_consistent, journal, keep_in_turn, rows
from tests.common.workspaces import Cli, commit_all, git, go, set_protocol


@pytest.mark.parametrize("kind", ["proposed", "committed", "started", "measured", "judged", "recorded"])
def test_a_loop_killed_after_any_event_goes_on_without_losing_or_doubling_a_row(
    quick: Path, finished: Path, cli: Cli, kind: str
) -> None:
    for number in (0, 2):
        loop = start(quick, "--max-experiments", "4")
        wait_for(quick, kind, number)
        loop.kill()
        loop.communicate(timeout=60)
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "4")
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert [r["description"] for r in rows(quick)] == [r["description"] for r in rows(finished)]
    assert [r["val_bpb"] for r in rows(quick)] == [r["val_bpb"] for r in rows(finished)]


def test_commit_that_a_power_cut_has_emptied_is_made_again(quick: Path, finished: Path, cli: Cli) -> None:
    loop = start(quick, "--max-experiments", "4")
    wait_for(quick, "started", 2)
    loop.kill()
    loop.communicate(timeout=60)
    lost = git(quick, "rev-parse", "refs/autoresearch/t/2")
    for name in (f"{lost}:train.py", f"{lost}^{{tree}}", lost):
        found = git(quick, "rev-parse", name)
        file = quick / ".git" / "objects" / found[:2] / found[2:]
        file.chmod(0o644)
        file.write_bytes(b"")
    said = cli(quick, "doctor").stdout
    assert "git cannot read the commit of #2, whose experiment is in progress" in said
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "4")
    assert done.returncode == 0, done.stderr
    assert f"committed experiment #2 again: git could not read {lost[:12]}" in done.stdout + done.stderr
    assert_consistent(quick)
    assert [r["val_bpb"] for r in rows(quick)] == [r["val_bpb"] for r in rows(finished)]
    git(quick, "gc", "--quiet")


def test_lost_end_of_the_branch_is_an_error_with_a_way_out(quick: Path, cli: Cli) -> None:
    go(cli, quick)
    lost = git(quick, "rev-parse", "HEAD")
    file = quick / ".git" / "objects" / lost[:2] / lost[2:]
    file.chmod(0o644)
    file.write_bytes(b"")
    assert f"git cannot read {lost[:12]}, the last commit of the session" in cli(quick, "doctor").stdout
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "4")
    assert done.returncode == 3, done.stderr
    assert f"cannot read {lost[:12]}, the last commit of session t" in done.stderr
    commands = re.findall("`([^`]*)`", done.stderr.split("without a clone that has it", 1)[1])
    for command in commands[:2]:
        subprocess.run(command, shell=True, cwd=quick, check=True)
    assert commands[2] == "autoresearch sessions --delete t"
    assert cli(quick, "sessions", "--delete", "t", "--yes").returncode == 0
    assert git(quick, "for-each-ref", "refs/autoresearch", "refs/heads/autoresearch") == ""


def test_a_branch_that_moved_and_edits_made_in_between_are_not_overwritten(quick: Path, cli: Cli) -> None:
    cli(quick, "run", "--tag", "t", "--max-experiments", "2")
    (quick / "train.py").write_text("RATE = 9.0  # mine\n")
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "3")
    assert done.returncode == 3
    assert "uncommitted changes" in done.stderr
    assert (quick / "train.py").read_text() == "RATE = 9.0  # mine\n"
    commit_all(quick, "my own change")
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "3")
    assert done.returncode == 3
    assert "the session left it at" in done.stderr


def test_what_is_no_utf8_is_healed_where_it_is_ours_and_left_where_it_is_a_persons(quick: Path) -> None:
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace("loss = ", "# größer ist schlechter\nloss = "), encoding="utf-8")
    commit_all(quick, "a comment")
    assert call(quick, "run", "--tag", "t", "--max-experiments", "1").returncode == 0
    for name in ("results.tsv", "train.py"):
        whole = (quick / name).read_bytes()
        (quick / name).write_text(whole.decode(), encoding="utf-16")  # as a spreadsheet saves it
        for command in (("run", "--tag", "t", "--max-experiments", "2"), ("doctor", "--repair")):
            done = call(quick, *command)
            assert done.returncode == 3, done.stderr
            assert f"uncommitted changes ({name})" in done.stderr, done.stderr
        assert (quick / name).read_text(encoding="utf-16").encode() == whole
        (quick / name).write_bytes(whole)
    whole = (quick / "train.py").read_bytes()
    (quick / "train.py").write_bytes(whole[: whole.index("ö".encode()) + 1])
    done = call(quick, "doctor", "--repair")
    assert done.returncode == 0, done.stderr
    assert "restored train.py" in done.stdout, done.stderr
    assert_consistent(quick)


@pytest.mark.parametrize("kept", [0, 3, 8])
def test_edit_that_only_removes_the_end_of_a_file_stays(quick: Path, kept: int) -> None:
    assert call(quick, "run", "--tag", "t", "--max-experiments", "1").returncode == 0
    mine = "".join((quick / "train.py").read_text().splitlines(keepends=True)[:kept])
    for text in (mine, mine.rstrip("\n")):
        (quick / "train.py").write_text(text)
        for command in (("run", "--tag", "t", "--max-experiments", "2"), ("doctor", "--repair")):
            done = call(quick, *command)
            assert done.returncode == 3, done.stderr
            assert "uncommitted changes (train.py)" in done.stderr, done.stderr
            assert (quick / "train.py").read_text() == text


def test_link_in_place_of_a_file_is_a_persons(quick: Path, tmp_path: Path) -> None:
    assert call(quick, "run", "--tag", "t", "--max-experiments", "1").returncode == 0
    (quick / "train.py").replace(tmp_path / "mine.py")
    (quick / "train.py").symlink_to(tmp_path / "mine.py")
    for command in (("run", "--tag", "t", "--max-experiments", "2"), ("doctor", "--repair")):
        done = call(quick, *command)
        assert done.returncode == 3, done.stderr
        assert "uncommitted changes (train.py)" in done.stderr, done.stderr
        assert (quick / "train.py").is_symlink()


def test_a_session_of_the_version_that_ran_in_the_checkout_goes_on(quick: Path, finished: Path, cli: Cli) -> None:
    """It was killed with its candidate in the working tree, fully or partly written."""
    for number, cut in ((1, None), (3, 40)):
        loop = start(quick, "--max-experiments", "4")
        wait_for(quick, "started", number)
        loop.kill()
        loop.communicate(timeout=60)
        committed = [e for e in journal(quick) if e["event"] == "committed"][-1]
        whole = git(quick, "show", f"{committed['commit']}:train.py") + "\n"
        (quick / "train.py").write_text(whole[:cut])
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "4")
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert [r["val_bpb"] for r in rows(quick)] == [r["val_bpb"] for r in rows(finished)]


def test_what_a_resume_puts_back_or_removes_is_named(quick: Path, cli: Cli) -> None:
    """Files of a person that equal what the session has in git; others stay."""
    set_protocol(quick, mutableSurface={"allowedGlobs": ["train.py", "extra.py", "more.py"], "forbiddenGlobs": []})
    keep_in_turn(quick, cli, "s/^RATE = 0.1 /RATE = 0.3 /")
    (quick / "train.py").write_text(git(quick, "show", "main:train.py") + "\n")
    assert "restored train.py as the session left it" in cli(quick, "doctor", "--repair").stdout
    assert_consistent(quick)
    change = "sed -i '$w extra.py' train.py; touch more.py; sed -i 's/^DEPTH = 4 /DEPTH = 1 /' train.py"
    flags = ("--proposer", "command", "--agent-cmd", change, "--max-experiments", "2")
    assert cli(quick, "run", "--tag", "t", *flags).returncode == 0
    added = f"{rows(quick)[-1]['commit']}:extra.py"
    assert rows(quick)[-1]["status"] == "discard"
    (quick / "more.py").touch()
    (quick / "extra.py").write_text(git(quick, "show", added) + "\n")
    done = cli(quick, "doctor", "--repair")
    assert done.returncode == 0, done.stderr
    assert "removed extra.py, which a candidate had added" in done.stdout
    assert not (quick / "extra.py").exists()
    assert (quick / "more.py").exists()


def test_a_session_goes_on_in_a_clone_which_lacks_the_commits_of_discarded_candidates(
    quick: Path, cli: Cli, tmp_path: Path
) -> None:
    start_of = ("run", "--tag", "t", "--no-confirm", "--verdict", "greedy", "--max-experiments")
    assert cli(quick, *start_of, "6").returncode == 0
    assert "discard" in [row["status"] for row in rows(quick)]
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", f"file://{quick}", str(clone))
    shutil.copytree(quick / ".autoresearch", clone / ".autoresearch")
    for name in ("user.name", "user.email"):
        git(clone, "config", name, "x")
    for command in (("doctor",), (*start_of, "8")):
        done = cli(clone, *command)
        assert "fetch OTHER_CLONE 'refs/autoresearch/*:refs/autoresearch/*'`" in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
    assert len(rows(clone)) == 9
    assert [row["description"] for row in rows(clone)][:7] == [row["description"] for row in rows(quick)]
    git(clone, "fetch", "--quiet", str(quick), "refs/autoresearch/*:refs/autoresearch/*")
    done = cli(clone, *start_of, "9")
    assert done.returncode == 0, done.stderr
    assert "OTHER_CLONE" not in done.stdout + done.stderr
    assert_consistent(clone)


def test_a_deleted_log_is_named_by_its_place_in_this_workspace(quick: Path, cli: Cli, tmp_path: Path) -> None:
    assert cli(quick, "run", "--tag", "t", "--no-confirm", "--max-experiments", "1").returncode == 0
    moved = tmp_path / "moved"
    shutil.move(quick, moved)
    log = Path(json.loads(cli(moved, "show", "1", "--json").stdout)["data"]["log"])
    assert log.is_relative_to(moved)
    log.unlink()
    assert f"log {log} of experiment #1 not found" in cli(moved, "log", "1").stderr


def test_a_branch_that_is_ahead_of_its_journal_has_no_commits_of_the_users(quick: Path, cli: Cli) -> None:
    """As after the journal came from a backup. The advice leads to a session that goes on."""
    start_of = ("run", "--tag", "t", "--no-confirm", "--verdict", "greedy", "--max-experiments")
    assert cli(quick, *start_of, "3").returncode == 0
    before, path = rows(quick), journal_path(quick, "t")
    lines = path.read_text().splitlines(keepends=True)
    last = max(at for at, line in enumerate(lines) if json.loads(line)["event"] == "recorded")
    path.write_text("".join(lines[:last]))
    tried = cli(quick, "try", "--tag", "t")
    assert tried.returncode != 0
    assert rows(quick) == before
    told = [cli(quick, *command) for command in (("doctor",), (*start_of, "3"))]
    for done in told:
        assert "`autoresearch try" not in done.stdout + done.stderr
        assert re.search(r"`git reset --keep [0-9a-f]{12}`", done.stdout + done.stderr)
    git(quick, *re.findall(r"`git (reset .*?)`", told[-1].stderr)[0].split())
    done = cli(quick, *start_of, "4")
    assert done.returncode == 0, done.stderr
    assert [row["description"] for row in rows(quick)][:4] == [row["description"] for row in before]
    assert_consistent(quick)


def test_rows_that_are_newer_than_the_branch_are_restored_and_not_committed(quick: Path, cli: Cli) -> None:
    start_of = ("run", "--tag", "t", "--no-confirm", "--verdict", "greedy", "--max-experiments")
    assert cli(quick, *start_of, "2").returncode == 0
    (quick / "results.tsv").open("a").write("abc\t1.0\tkeep\tof the future\n")
    git(quick, "add", "results.tsv")
    done = cli(quick, *start_of, "3")
    back = re.search(r"hint: restore it with `git (restore --staged --worktree results.tsv)`", done.stderr)
    assert back, done.stderr
    git(quick, *back[1].split())
    assert cli(quick, *start_of, "3").returncode == 0
    assert_consistent(quick)


def test_a_commit_of_the_users_after_rows_of_another_session_is_one_of_theirs(quick: Path, cli: Cli) -> None:
    start_of = ("run", "--no-confirm", "--verdict", "greedy", "--max-experiments", "2", "--tag")
    assert cli(quick, *start_of, "u").returncode == 0
    git(quick, "switch", "--quiet", "main")
    assert cli(quick, *start_of, "t").returncode == 0
    git(quick, "merge", "--quiet", "-X", "theirs", "autoresearch/u", "-m", "both")
    train = (quick / "train.py").read_text()
    (quick / "train.py").write_text(f"{train}# mine\n")
    commit_all(quick, "my own")
    said = cli(quick, *start_of, "t").stderr
    assert "`autoresearch try --tag t`" in said
    assert "reset --keep" not in said


def test_a_commit_of_the_users_on_rows_of_the_session_does_not_make_them_theirs(quick: Path, cli: Cli) -> None:
    start_of = ("run", "--tag", "t", "--no-confirm", "--verdict", "greedy", "--max-experiments")
    assert cli(quick, *start_of, "1").returncode == 0
    path = journal_path(quick, "t")
    earlier = path.read_text()
    assert cli(quick, *start_of, "3").returncode == 0
    path.write_text(earlier)
    (quick / "train.py").write_text(f"{(quick / 'train.py').read_text()}# mine\n")
    commit_all(quick, "tweak")
    at = git(quick, "rev-parse", "HEAD")
    said = cli(quick, *start_of, "4").stderr
    assert "`autoresearch try" not in said
    assert "reset --keep" not in said
    assert cli(quick, "try", "--tag", "t").returncode != 0
    assert git(quick, "rev-parse", "autoresearch/t") == at
