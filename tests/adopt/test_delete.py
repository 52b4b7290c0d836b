"""`sessions --delete` removes what a session has left, and nothing of the user's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.journal import lock
from agent.journal.journal import fold
from agent.journal.paths import journal_path, state_folder
from tests.common.sessions import keep_in_turn
from tests.common.workspaces import Cli, commit_all, git


@pytest.fixture
def ended(quick: Path, cli: Cli) -> Path:
    """A session that ended, and main is checked out."""
    keep_in_turn(quick, cli, "s/^RATE = 0.1 /RATE = 0.3 /", "s/^DEPTH = 4 /DEPTH = 6 /")
    git(quick, "switch", "--quiet", "main")
    return quick


def refs(folder: Path) -> list[str]:
    return git(folder, "for-each-ref", "--format=%(refname)").splitlines()


def test_everything_of_the_session_goes(ended: Path, cli: Cli) -> None:
    done = cli(ended, "run", "--tag", "other", "--fresh", "--max-experiments", "1")  # else it adopts the best of t
    assert done.returncode == 0, done.stderr
    git(ended, "switch", "--quiet", "main")
    done = cli(ended, "sessions", "--delete", "t", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    deleted = json.loads(done.stdout)["data"]["deleted"]
    assert (deleted["tag"], deleted["refs"], deleted["branch"]) == ("t", 2, "autoresearch/t")
    assert deleted["unadopted"]
    assert "the branch autoresearch/t" in done.stderr
    assert "in no other branch" in done.stderr
    assert not [ref for ref in refs(ended) if ref.startswith(("refs/autoresearch/t/", "refs/heads/autoresearch/t"))]
    assert not journal_path(ended, "t").parent.exists()
    assert journal_path(ended, "other").exists()
    assert "refs/heads/autoresearch/other" in refs(ended)
    # The tag is free again.
    assert cli(ended, "run", "--tag", "t", "--max-experiments", "1").returncode == 0


def test_adopted_work_needs_no_warning(ended: Path, cli: Cli) -> None:
    assert cli(ended, "adopt", "--provisional").returncode == 0
    done = cli(ended, "sessions", "--delete", "t", "--yes")
    assert done.returncode == 0, done.stderr
    assert "in no other branch" not in done.stderr


def test_branches_of_sessions_take_nothing_home(ended: Path, cli: Cli) -> None:
    assert cli(ended, "run", "--tag", "second", "--from", "t", "--max-experiments", "0").returncode == 0
    git(ended, "switch", "--quiet", "main")
    # The refs of t still have its keeps, and `second` has none.
    assert "in no other branch" not in cli(ended, "sessions", "--delete", "second").stderr
    assert "in no other branch" in cli(ended, "sessions", "--delete", "t", "--yes").stderr
    done = cli(ended, "sessions", "--delete", "second")
    assert "in no other branch" in done.stderr
    git(ended, "merge", "--quiet", "autoresearch/second")
    assert "in no other branch" not in cli(ended, "sessions", "--delete", "second", "--yes").stderr


def test_earlier_night_that_was_adopted_needs_no_warning_after_its_session(ended: Path, cli: Cli) -> None:
    assert cli(ended, "run", "--tag", "second", "--from", "t", "--max-experiments", "0").returncode == 0
    git(ended, "switch", "--quiet", "main")
    assert cli(ended, "adopt", "--tag", "t", "--provisional").returncode == 0
    (ended / "train.py").write_text((ended / "train.py").read_text() + "# mine\n")
    commit_all(ended, "mine")
    assert cli(ended, "sessions", "--delete", "t", "--yes").returncode == 0
    done = cli(ended, "sessions", "--delete", "second", "--yes")
    assert done.returncode == 0, done.stderr
    assert "in no other branch" not in done.stderr


def test_the_warning_names_the_session(ended: Path, cli: Cli) -> None:
    """Without its tag, `adopt` would take the latest session."""
    assert cli(ended, "run", "--tag", "other", "--fresh", "--max-experiments", "0").returncode == 0
    git(ended, "switch", "--quiet", "main")
    done = cli(ended, "sessions", "--delete", "t")
    assert "adopt --tag t`" in done.stderr


def test_a_squashed_adoption_needs_no_warning(ended: Path, cli: Cli) -> None:
    """`git merge --squash` indents the messages of the commits that it joins."""
    git(ended, "switch", "--quiet", "--create", "topic")
    assert cli(ended, "adopt", "--provisional", "--onto", "topic").returncode == 0
    git(ended, "switch", "--quiet", "main")
    git(ended, "merge", "--quiet", "--squash", "topic")
    git(ended, "commit", "--quiet", "--no-edit")
    git(ended, "branch", "-D", "topic")
    (ended / "train.py").write_text((ended / "train.py").read_text() + "# mine\n")
    commit_all(ended, "mine")
    assert "in no other branch" not in cli(ended, "sessions", "--delete", "t").stderr


def test_a_keep_that_was_adopted_alone_takes_no_other_one_home(ended: Path, cli: Cli) -> None:
    assert cli(ended, "adopt", "2", "--provisional").returncode == 0
    done = cli(ended, "sessions", "--delete", "t")
    assert "kept changes of it are in no other branch" in done.stderr
    assert cli(ended, "adopt", "1", "--provisional").returncode == 0
    assert "in no other branch" not in cli(ended, "sessions", "--delete", "t").stderr


def test_a_smaller_recipe_that_the_version_before_adopted_needs_no_warning(ended: Path, cli: Cli) -> None:
    """It did not mark what the recipe leaves out."""
    path = journal_path(ended, "t")
    second = fold(path).experiments[2].commit
    tree = git(ended, "rev-parse", f"{second}^{{tree}}")
    smaller = git(ended, "commit-tree", tree, "-p", second, "-m", "ablate: smaller")
    found = {"commit": smaller, "without": [1], "constants": [], "descriptions": [], "offered": True}
    with path.open("a") as journal:
        for commit, recipe in ((smaller, found), ("e" * 40, None), ("f" * 40, {**found, "commit": "f" * 40})):
            journal.write(json.dumps({"event": "ablated", "at": 1.0, "best": commit, "smaller": recipe}) + "\n")
    said = f"Adopt\n\nAutoresearch-Commit: {smaller}\nAutoresearch-Commit: "
    git(ended, "commit", "--quiet", "--allow-empty", "-m", said + "0" * 40)
    assert "in no other branch" in cli(ended, "sessions", "--delete", "t").stderr
    git(ended, "commit", "--quiet", "--amend", "--allow-empty", "-m", said + second)
    assert "in no other branch" not in cli(ended, "sessions", "--delete", "t").stderr


def test_without_a_terminal_yes_is_needed(ended: Path, cli: Cli) -> None:
    before = refs(ended)
    done = cli(ended, "sessions", "--delete", "t")
    assert done.returncode == 2
    assert "add --yes" in done.stderr
    assert refs(ended) == before
    assert journal_path(ended, "t").exists()


def test_checked_out_branch_is_refused(ended: Path, cli: Cli) -> None:
    git(ended, "switch", "--quiet", "autoresearch/t")
    done = cli(ended, "sessions", "--delete", "t", "--yes")
    assert done.returncode == 3
    assert "git switch main" in done.stderr
    assert journal_path(ended, "t").exists()


@pytest.mark.parametrize("way", ["another working tree", "main in another", "main in a removed one", "main renamed"])
def test_hint_for_a_checked_out_branch_leaves_it(ended: Path, cli: Cli, way: str) -> None:
    linked, session = str(ended.parent / "linked"), "autoresearch/t"
    if way == "another working tree":
        git(ended, "switch", "--quiet", "main")
        git(ended, "worktree", "add", "--quiet", linked, session)
    else:
        git(ended, "switch", "--quiet", session)
    if way in ("main in another", "main in a removed one"):
        git(ended, "worktree", "add", "--quiet", linked, "main")
    if way == "main in a removed one":
        shutil.rmtree(linked)
    if way == "main renamed":
        git(ended, "branch", "-m", "main", "trunk")
    done = cli(ended, "sessions", "--delete", "t", "--yes")
    assert done.returncode == 3
    (leave,) = re.findall("`(git .*?switch --detach)`", done.stderr)
    subprocess.run(leave, shell=True, cwd=ended, check=True)
    assert cli(ended, "sessions", "--delete", "t", "--yes").returncode == 0


def test_branch_of_a_working_tree_that_was_removed_by_hand_goes(ended: Path, cli: Cli) -> None:
    git(ended, "worktree", "add", "--quiet", str(ended.parent / "linked"), "autoresearch/t")
    shutil.rmtree(ended.parent / "linked")
    assert cli(ended, "sessions", "--delete", "t", "--yes").returncode == 0


def test_hint_leaves_for_a_branch_whose_name_a_shell_would_read(quick: Path, cli: Cli) -> None:
    git(quick, "switch", "--quiet", "--create", "fix(a)&b")
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "0").returncode == 0
    done = cli(quick, "sessions", "--delete", "t", "--yes")
    (leave,) = re.findall("`(git .*?)`", done.stderr)
    subprocess.run(leave, shell=True, cwd=quick, check=True)
    assert git(quick, "branch", "--show-current") == "fix(a)&b"
    assert cli(quick, "sessions", "--delete", "t", "--yes").returncode == 0


def test_commits_of_the_user_are_refused(ended: Path, cli: Cli) -> None:
    git(ended, "switch", "--quiet", "autoresearch/t")
    (ended / "train.py").write_text((ended / "train.py").read_text() + "# mine\n")
    commit_all(ended, "mine")
    git(ended, "switch", "--quiet", "main")
    done = cli(ended, "sessions", "--delete", "t", "--yes")
    assert done.returncode == 3
    assert "git branch -m autoresearch/t NAME" in done.stderr
    git(ended, "branch", "-m", "autoresearch/t", "mine")
    assert cli(ended, "sessions", "--delete", "t", "--yes").returncode == 0
    assert "refs/heads/mine" in refs(ended)


@pytest.mark.parametrize("later", [False, True])  # the session on top, of which the refs keep nothing of the user's
def test_commits_of_the_user_before_the_session_are_refused(quick: Path, cli: Cli, later: bool) -> None:
    git(quick, "switch", "--quiet", "--detach")
    (quick / "train.py").write_text((quick / "train.py").read_text() + "# mine\n")
    commit_all(quick, "mine")
    mine = git(quick, "rev-parse", "HEAD")
    keep_in_turn(quick, cli, "s/^RATE = 0.1 /RATE = 0.3 /")
    git(quick, "switch", "--quiet", "main")
    last = "t"
    if later:
        last = "second"
        assert cli(quick, "run", "--tag", last, "--from", "t", "--max-experiments", "0").returncode == 0
        git(quick, "switch", "--quiet", "main")
        assert cli(quick, "sessions", "--delete", "t", "--yes").returncode == 0  # the other branch still has it
    done = cli(quick, "sessions", "--delete", last, "--yes")
    assert done.returncode == 3
    assert "the session began on 1 commit of yours that no other branch has" in done.stderr
    assert f"`git branch NAME {mine[:12]}`" in done.stderr
    git(quick, "branch", "mine", mine)
    assert cli(quick, "sessions", "--delete", last, "--yes").returncode == 0


def test_commit_that_was_amended_after_the_session_holds_nothing_up(quick: Path, cli: Cli) -> None:
    (quick / "train.py").write_text((quick / "train.py").read_text() + "# mine\n")
    commit_all(quick, "mine")
    keep_in_turn(quick, cli, "s/^RATE = 0.1 /RATE = 0.3 /")
    git(quick, "switch", "--quiet", "main")
    git(quick, "commit", "--quiet", "--amend", "-m", "mine, said better\x0c")
    assert cli(quick, "adopt", "--provisional").returncode == 0
    assert cli(quick, "sessions", "--delete", "t", "--yes").returncode == 0


def test_running_loop_is_refused(ended: Path, cli: Cli) -> None:
    with lock.hold(state_folder(ended), "t"):
        done = cli(ended, "sessions", "--delete", "t", "--yes")
    assert done.returncode == 3
    assert "already running" in done.stderr
    assert journal_path(ended, "t").exists()


def test_running_loop_is_named_before_its_branch(ended: Path, program: Cli) -> None:
    git(ended, "switch", "--quiet", "autoresearch/t")
    with lock.hold(state_folder(ended), "t"):
        done = program(ended, "sessions", "--delete", "t", "--yes")
    assert done.returncode == 3
    assert "already running" in done.stderr
    assert " stop`" in done.stderr
    assert "git switch" not in done.stderr


@pytest.mark.parametrize("tag", ["..", ".", "../../x", "", "nothing", "*"])
def test_only_sessions_of_the_state_folder_count(ended: Path, cli: Cli, tag: str) -> None:
    done = cli(ended, "sessions", "--delete", tag, "--yes")
    assert done.returncode == 3
    assert "unknown session" in done.stderr
    assert journal_path(ended, "t").exists()


def test_interrupted_deletion_is_finished(ended: Path, cli: Cli) -> None:
    git(ended, "branch", "-D", "autoresearch/t")
    journal_path(ended, "t").unlink()
    done = cli(ended, "sessions", "--delete", "t", "--yes")
    assert done.returncode == 0, done.stderr
    assert not journal_path(ended, "t").parent.exists()
    assert not [ref for ref in refs(ended) if "autoresearch" in ref]
