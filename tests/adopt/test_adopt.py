"""`adopt` commits what a session kept on the user's branch, and nothing else changes.

The slow proof kills it at each of its calls of git: `uv run pytest tests/adopt -m slow`.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from agent.journal.journal import fold
from agent.journal.paths import journal_path
from agent.repository.index import HELD, SCRATCH
from tests.common.disks import small_disk
from tests.common.processes import deadly_git
from tests.common.sessions import assert_consistent, keep_in_turn
from tests.common.workspaces import ROOT, Cli, commit_all, git, set_protocol

CHANGES = ("s/^RATE = 0.1 /RATE = 0.3 /", "s/^DEPTH = 4 /DEPTH = 6 /", "s/^WIDTH = 64 /WIDTH = 256 /")


@pytest.fixture
def night(quick: Path, cli: Cli) -> Path:
    """A session with three keeps whose gain is confirmed; its branch is checked out."""
    keep_in_turn(quick, cli, *CHANGES)
    assert cli(quick, "confirm").returncode == 0
    return quick


def adopted(folder: Path, cli: Cli, *args: str) -> dict[str, Any]:
    done = cli(folder, "adopt", "--json", *args)
    assert done.returncode == 0, done.stderr
    data: dict[str, Any] = json.loads(done.stdout)["data"]
    return data


def refusal(folder: Path, cli: Cli, *args: str) -> str:
    """Run an `adopt` that is refused, and leaves main alone. Return what it says."""
    before = git(folder, "rev-parse", "main")
    done = cli(folder, "adopt", *args)
    assert done.returncode == 3, done.stderr
    assert git(folder, "rev-parse", "main") == before
    return done.stderr


def edit(folder: Path, old: str, new: str) -> None:
    """Commit a change of train.py on main, and stay there."""
    git(folder, "switch", "--quiet", "main")
    text = (folder / "train.py").read_text()
    assert old in text
    (folder / "train.py").write_text(text.replace(old, new))
    commit_all(folder, "mine")


def train(folder: Path, branch: str = "main") -> str:
    return git(folder, "show", f"{branch}:train.py")


def is_clean(folder: Path) -> bool:
    return git(folder, "status", "--porcelain", "--untracked-files=no") == ""


def test_best_becomes_one_commit_and_the_next_night_starts(night: Path, cli: Cli) -> None:
    before = git(night, "rev-parse", "main")
    data = adopted(night, cli)
    assert (data["branch"], data["before"], data["adopted"], data["files"]) == ("main", before, [1, 2, 3], ["train.py"])
    assert git(night, "rev-parse", "main") == data["commit"]
    assert git(night, "rev-parse", "main^") == before
    assert git(night, "diff", "--name-only", "main^", "main") == "train.py"
    assert train(night) == train(night, "autoresearch/t")
    assert git(night, "log", "-1", "--format=%an <%ae>", "main") == "Tester <tester@example.invalid>"
    assert_consistent(night)  # the session's branch is still checked out, and untouched
    git(night, "switch", "--quiet", "main")
    assert is_clean(night)
    done = cli(night, "run", "--tag", "second", "--max-experiments", "1")
    assert done.returncode == 0, done.stderr
    assert fold(journal_path(night, "second")).session["base"] == data["commit"]  # type: ignore[index]


def test_message_has_the_evidence(night: Path, cli: Cli) -> None:
    adopted(night, cli)
    message = git(night, "log", "-1", "--format=%B", "main")
    subject = message.splitlines()[0]
    assert subject.startswith("Adopt 3 changes of session t: val_bpb ")
    assert " -> " in subject
    assert "provisional" not in message
    assert "merg" not in message.lower()
    state = fold(journal_path(night, "t"))
    for part in (
        "- #1 ",
        "- #2 ",
        "- #3 ",
        "confirmed for one seed only, 95 % interval",
        "3 held-out runs of the baseline",
        "Machine: chip",
    ):
        assert part in message
    for experiment in state.experiments[1:]:
        assert experiment.commit in message


def test_adopting_twice_changes_nothing(night: Path, cli: Cli) -> None:
    adopted(night, cli)
    at = git(night, "rev-parse", "main")
    assert adopted(night, cli)["commit"] is None
    assert "already has these changes" in cli(night, "adopt").stdout
    assert git(night, "rev-parse", "main") == at


def second_night(folder: Path, cli: Cli, *flags: str) -> None:
    """A session t with one keep, and a session `second` with another one that starts from its best."""
    keep_in_turn(folder, cli, CHANGES[0])
    agent = ("--proposer", "command", "--agent-cmd", f'sed -i "{CHANGES[1]}" train.py')
    done = cli(folder, "run", "--tag", "second", *agent, "--max-experiments", "1", *flags)
    assert done.returncode == 0, done.stderr
    git(folder, "switch", "--quiet", "main")


@pytest.mark.parametrize("flags", [("--from", "t"), ()])  # the branch of t is checked out
def test_night_is_not_adopted_before_the_one_that_it_started_from(
    quick: Path, cli: Cli, flags: tuple[str, ...]
) -> None:
    second_night(quick, cli, *flags)
    said = refusal(quick, cli, "--tag", "second")
    assert "error: session second started from the best of t, whose changes main does not have" in said
    assert "autoresearch adopt --tag t` first, then the same command again" in said
    adopted(quick, cli, "--tag", "t", "--provisional")
    edit(quick, "import sys\n", "import math\nimport sys\n")
    adopted(quick, cli, "--tag", "second", "--provisional")
    assert train(quick) == train(quick, "autoresearch/second").replace("import sys\n", "import math\nimport sys\n")


@pytest.mark.parametrize("way", ["by its number", "merged", "by hand", "by hand, and t is deleted"])
def test_night_is_adopted_where_the_branch_has_the_one_before(quick: Path, cli: Cli, way: str) -> None:
    second_night(quick, cli, "--from", "t")
    if way == "by its number":
        adopted(quick, cli, "1", "--tag", "t", "--provisional")
    elif way == "merged":
        git(quick, "merge", "--quiet", "autoresearch/t")
    else:
        edit(quick, "RATE = 0.1 ", "RATE = 0.3 ")
    if "deleted" in way:
        assert cli(quick, "sessions", "--delete", "t", "--yes").returncode == 0
    edit(quick, "import sys\n", "import math\nimport sys\n")
    adopted(quick, cli, "--tag", "second", "--provisional")
    assert ("RATE = 0.3 " in train(quick), "DEPTH = 6 " in train(quick)) == (True, True)


def test_night_is_adopted_alone_as_provisional(quick: Path, cli: Cli) -> None:
    """The changes before it may conflict with the branch, or were left out on purpose."""
    second_night(quick, cli, "--from", "t")
    edit(quick, "RATE = 0.1 ", "RATE = 0.35 ")
    refusal(quick, cli, "--tag", "t", "--provisional")
    adopted(quick, cli, "--tag", "second", "--provisional")
    assert ("RATE = 0.35 " in train(quick), "DEPTH = 6 " in train(quick)) == (True, True)


def test_night_whose_earlier_one_is_deleted_says_what_to_merge(quick: Path, cli: Cli) -> None:
    second_night(quick, cli, "--from", "t")
    assert cli(quick, "sessions", "--delete", "t", "--yes").returncode == 0
    said = refusal(quick, cli, "--tag", "second")
    base = fold(journal_path(quick, "second")).session["base"][:12]  # type: ignore[index]
    assert "started from the best of a deleted session, whose changes main does not have" in said
    assert f"merge {base} into it by hand (see `git log main..{base}`)" in said


def test_unconfirmed_gain_needs_provisional(quick: Path, cli: Cli) -> None:
    keep_in_turn(quick, cli, *CHANGES[:1])
    before = git(quick, "rev-parse", "main")
    refused = cli(quick, "adopt")
    assert refused.returncode == 3
    assert "not confirmed yet" in refused.stderr
    assert "confirm --tag t" in refused.stderr
    assert git(quick, "rev-parse", "main") == before
    data = adopted(quick, cli, "--provisional")
    assert data["provisional"]
    assert "provisional" in git(quick, "log", "-1", "--format=%s", "main")


def test_branch_that_moved_on_keeps_its_own_changes(night: Path, cli: Cli) -> None:
    edit(night, "import sys\n", "import math\nimport sys\n\nOWN = 3  # neighbor of RATE\n")
    data = adopted(night, cli)
    text = (night / "train.py").read_text()
    for part in ("RATE = 0.3 ", "DEPTH = 6 ", "WIDTH = 256 ", "OWN = 3", "import math"):
        assert part in text
    assert is_clean(night)
    assert git(night, "rev-parse", "HEAD") == data["commit"]
    assert data["note"] == "what main has now was never measured: train.py is not as in the session"
    subject, _, body = data["message"].partition("\n")
    assert subject.endswith(", before merging")
    assert "\nMerged: train.py is not as in the session, so this was never measured as a whole\n" in body


def test_keeps_adopted_in_turn_are_what_was_measured(night: Path, cli: Cli) -> None:
    for number in ("1", "2", "3"):
        assert adopted(night, cli, number, "--provisional")["note"] is None


def test_another_harness_on_the_branch_is_named(night: Path, cli: Cli) -> None:
    git(night, "switch", "--quiet", "main")
    (night / "prepare.py").write_text("HARNESS = 'other data'\n")
    commit_all(night, "another harness")
    assert "the harness is not as in the session" in adopted(night, cli)["note"]


def test_value_of_the_branch_stays_where_the_session_left_it_alone(quick: Path, cli: Cli) -> None:
    keep_in_turn(quick, cli, *CHANGES[:2])
    edit(quick, "WIDTH = 64 ", "WIDTH = 128 ")
    adopted(quick, cli, "--provisional")
    assert "RATE = 0.3 " in train(quick)
    assert "WIDTH = 128 " in train(quick)


def test_constant_that_selects_a_branch_brings_the_values_of_that_branch(quick: Path, cli: Cli) -> None:
    text = (quick / "train.py").read_text()
    depth = "SMALL = True\nif SMALL:\n    DEPTH = 4\nelse:\n    DEPTH = 8\n"
    (quick / "train.py").write_text(text.replace("DEPTH = 4  # search: 1..16\n", depth))
    commit_all(quick, "two sizes")
    keep_in_turn(quick, cli, "s/^SMALL = True/SMALL = False/")
    edit(quick, "RATE = 0.1 ", "RATE = 0.2 ")
    adopted(quick, cli, "--provisional")
    best = train(quick, "autoresearch/t")
    assert depth.replace("True", "False") in best
    assert train(quick) == best.replace("RATE = 0.1 ", "RATE = 0.2 ")


def test_conflict_is_refused_with_the_file(night: Path, cli: Cli) -> None:
    edit(night, "RATE = 0.1 ", "RATE = 0.9 ")
    at = git(night, "rev-parse", "main")
    refused = cli(night, "adopt")
    assert refused.returncode == 3
    assert "conflict with those of the branch in train.py" in refused.stderr
    assert git(night, "rev-parse", "main") == at
    assert is_clean(night)


def test_uncommitted_changes_are_never_touched(night: Path, cli: Cli) -> None:
    git(night, "switch", "--quiet", "main")
    (night / "prepare.py").write_text("HARNESS = True  # mine\n")
    refused = cli(night, "adopt")
    assert refused.returncode == 3
    assert "uncommitted changes (prepare.py)" in refused.stderr
    # Where the branch is not checked out, the checkout does not matter.
    git(night, "branch", "other")
    data = adopted(night, cli, "--onto", "other")
    assert git(night, "rev-parse", "other") == data["commit"]
    assert (night / "prepare.py").read_text() == "HARNESS = True  # mine\n"


def test_adopt_that_another_one_overtakes_says_to_repeat_it(night: Path, cli: Cli) -> None:
    git(night, "switch", "--quiet", "--detach", "main")
    faster: list[str] = []

    def hear(event: str, args: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen" and "update-ref" in args[1] and "refs/heads/main" in args[1] and not faster:
            faster.append(git(night, "commit-tree", "main^{tree}", "-p", "main", "-m", "faster"))
            git(night, "update-ref", "refs/heads/main", faster[0])

    sys.addaudithook(hear)
    done = cli(night, "adopt", "--onto", "main")
    assert done.returncode == 1
    assert "hint: another command has moved it in the meantime: run the same command again" in done.stderr
    assert git(night, "rev-parse", "main") == faster[0]
    assert git(night, "for-each-ref", "refs/autoresearch/t/adopted") == ""
    adopted(night, cli, "--onto", "main")
    reflog = git(night, "log", "--walk-reflogs", "-1", "--format=%gs", "main")
    assert reflog == "autoresearch: move the branch"


def test_adopt_in_a_read_only_repository_is_explained(quick: Path, cli: Cli, tmp_path: Path) -> None:
    keep_in_turn(quick, cli, *CHANGES[:1])
    git(quick, "switch", "--quiet", "main")
    with small_disk(tmp_path / "disk", 2**26) as disk:
        shutil.copytree(quick, disk / "quick", symlinks=True)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        done = cli(disk / "quick", "adopt", "--provisional")
        assert done.returncode == 3
        assert f"{disk / 'quick' / '.git'} is read-only, so nothing can be committed" in done.stderr


def test_name_of_another_branch_is_that_branch(night: Path, cli: Cli) -> None:
    """A symbolic ref, as people make for `master` when they rename it to `main`: its checkout must follow."""
    git(night, "switch", "--quiet", "main")
    git(night, "symbolic-ref", "refs/heads/master", "refs/heads/main")
    git(night, "symbolic-ref", "refs/heads/best", "refs/heads/autoresearch/t")
    git(night, "update-ref", "refs/remotes/origin/main", "HEAD")
    git(night, "symbolic-ref", "refs/heads/theirs", "refs/remotes/origin/main")
    assert "is the branch of a session" in cli(night, "adopt", "--onto", "best").stderr
    assert "unknown branch 'theirs'" in cli(night, "adopt", "--onto", "theirs").stderr
    data = adopted(night, cli, "--onto", "master")
    assert data["branch"] == "main"
    assert git(night, "rev-parse", "HEAD") == data["commit"]
    assert is_clean(night)


def test_single_keeps_bring_only_their_own_values(night: Path, cli: Cli) -> None:
    refused = cli(night, "adopt", "2")
    assert refused.returncode == 3
    assert "#2 alone was never measured" in refused.stderr
    data = adopted(night, cli, "2", "--provisional")
    assert data["adopted"] == [2]
    text = train(night)
    for part in ("RATE = 0.1 ", "DEPTH = 6 ", "WIDTH = 64 "):
        assert part in text
    # The rest later, on top.
    adopted(night, cli)
    assert train(night) == train(night, "autoresearch/t")


def test_single_keep_is_there_where_all_are(quick: Path, cli: Cli) -> None:
    keep_in_turn(quick, cli, "s/^RATE = 0.1 /RATE = 0.2 /", "s/^RATE = 0.2 /RATE = 0.3 /")
    assert cli(quick, "adopt", "--provisional").returncode == 0
    done = cli(quick, "adopt", "1", "--provisional")
    assert "already has these changes of session t" in done.stdout, done.stderr


def test_single_keep_that_fails_an_assert_alone_is_refused(quick: Path, cli: Cli) -> None:
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace("\nloss", "\nassert WIDTH <= 16 * DEPTH, 'too wide'\nloss"))
    commit_all(quick, "a wide model must be deep")
    keep_in_turn(quick, cli, "s/^DEPTH = 4 /DEPTH = 6 /", "s/^WIDTH = 64 /WIDTH = 96 /")
    said = refusal(quick, cli, "2", "--provisional")
    assert "error: train.py with only #2 fails its own assert: WIDTH <= 16 * DEPTH\n" in said
    assert "hint: name the earlier keep as well" in said
    assert adopted(quick, cli, "1", "2", "--provisional")["adopted"] == [1, 2]


def test_single_keep_of_another_branch_of_the_recipe_is_refused(quick: Path, cli: Cli) -> None:
    """Else its value would be that of the branch which the baseline selects."""
    text = (quick / "train.py").read_text()
    sizes = "SMALL = True\nif SMALL:\n    DEPTH = 4\nelse:\n    DEPTH = 5\n"
    (quick / "train.py").write_text(text.replace("DEPTH = 4  # search: 1..16\n", sizes))
    commit_all(quick, "two sizes")
    keep_in_turn(quick, cli, "s/^SMALL = True/SMALL = False/", "s/DEPTH = 5/DEPTH = 6/")
    assert "#2 changes train.py where an earlier keep changed it" in refusal(quick, cli, "2", "--provisional")
    adopted(quick, cli, "1", "2", "--provisional")
    assert sizes.replace("True", "False").replace("5", "6") in train(quick)


def test_strange_names_are_refused(night: Path, cli: Cli) -> None:
    for args, code in (
        (("99",), 3),
        (("0",), 3),
        (("nothing",), 2),
        (("--onto", "nowhere"), 2),
        (("--onto", "--all"), 2),
        (("--onto", "autoresearch/t"), 2),
        (("--minimal", "1"), 2),
        (("--minimal",), 3),
    ):
        done = cli(night, "adopt", *args)
        assert done.returncode == code, (args, done.stderr)
        assert "Traceback" not in done.stderr


def test_minimal_takes_the_recipe_of_ablate(quick: Path, cli: Cli) -> None:
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace("(RATE - 0.4) ** 2", "(WIDTH < 100) * (RATE - 0.4) ** 2"))
    commit_all(quick, "rate matters only while the width is small")
    keep_in_turn(quick, cli, "s/^RATE = 0.1 /RATE = 0.3 /", "s/^WIDTH = 64 /WIDTH = 256 /")
    smaller = json.loads(cli(quick, "ablate", "--json").stdout)["data"]["smaller"]
    refused = cli(quick, "adopt", "--minimal")
    assert refused.returncode == 3
    assert f"confirm {smaller['commit'][:12]} --tag t" in refused.stderr
    assert cli(quick, "confirm", smaller["commit"][:12], "--tag", "t").returncode == 0
    data = adopted(quick, cli, "--minimal")
    assert data["adopted"] == [2]
    assert "RATE = 0.1 " in train(quick)
    assert "WIDTH = 256 " in train(quick)
    assert "Left out, because `ablate`" in data["message"]
    # What was left out on purpose is not missing.
    git(quick, "switch", "--quiet", "main")
    assert "in no other branch" not in cli(quick, "sessions", "--delete", "t").stderr


def test_minimal_that_takes_a_part_of_the_only_keep_names_its_commit(quick: Path, cli: Cli) -> None:
    """Held-out runs of the best say nothing of it, though no keep is left out as a whole."""
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace("(RATE - 0.4) ** 2", "(WIDTH < 100) * (RATE - 0.4) ** 2"))
    commit_all(quick, "rate matters only while the width is small")
    keep_in_turn(quick, cli, "s/^RATE = 0.1 /RATE = 0.3 /; s/^WIDTH = 64 /WIDTH = 256 /")
    assert cli(quick, "confirm", "--tag", "t").returncode == 0
    smaller = json.loads(cli(quick, "ablate", "--json").stdout)["data"]["smaller"]
    assert (smaller["without"], smaller["constants"]) == ([], ["RATE"])
    refused = cli(quick, "adopt", "--minimal")
    name = smaller["commit"][:12]
    assert refused.returncode == 3
    assert f"error: the gain of the smaller recipe {name} is not confirmed yet\n" in refused.stderr
    assert f"confirm {name} --tag t`" in refused.stderr
    assert cli(quick, "confirm", name, "--tag", "t").returncode == 0
    adopted(quick, cli, "--minimal")
    assert ("RATE = 0.1 " in train(quick), "WIDTH = 256 " in train(quick)) == (True, True)


def test_minimal_is_confirmed_by_the_runs_of_an_experiment_with_the_same_program(night: Path, cli: Cli) -> None:
    """Without its latest changes, the best is an earlier keep, which `confirm` measures in place of the commit."""
    path = journal_path(night, "t")
    state = fold(path)
    tree = git(night, "rev-parse", f"{state.experiments[1].commit}^{{tree}}")
    smaller = git(night, "commit-tree", tree, "-p", "autoresearch/t", "-m", "ablate: smaller")
    found = {"commit": smaller, "without": [2, 3], "constants": [], "descriptions": [], "offered": True}
    event = {"event": "ablated", "at": state.latest_at, "best": state.experiments[3].commit, "smaller": found}
    with path.open("a") as journal:
        journal.write(json.dumps(event) + "\n")
    assert cli(night, "adopt", "--minimal").returncode == 3
    assert cli(night, "confirm", smaller[:12], "--tag", "t").returncode == 0
    assert f"{state.experiments[0].commit} {smaller}" not in fold(path).confirmations
    assert adopted(night, cli, "--minimal")["adopted"] == [1]
    assert ("RATE = 0.3 " in train(night), "DEPTH = 4 " in train(night)) == (True, True)


@pytest.mark.parametrize("command", ["adopt", "confirm", "diff 1", "claim"])
def test_commit_that_git_has_collected_is_named(quick: Path, cli: Cli, command: str) -> None:
    keep_in_turn(quick, cli, CHANGES[0])
    if command == "claim":  # it takes only a gain that is confirmed
        assert cli(quick, "confirm").returncode == 0
    best = fold(journal_path(quick, "t")).experiments[1].commit
    git(quick, "switch", "--quiet", "main")
    for ref in ("refs/heads/autoresearch/t", "refs/autoresearch/t/1"):
        git(quick, "update-ref", "-d", ref)
    git(quick, "reflog", "expire", "--expire=now", "--all")
    git(quick, "prune", "--expire=now")
    done = cli(quick, *command.split())
    assert done.returncode != 0
    assert f"the repository no longer has {best[:12]}" in done.stderr
    assert "hint: fetch it from a clone that has it" in done.stderr


def test_nothing_kept_is_nothing_to_adopt(quick: Path, cli: Cli) -> None:
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "0").returncode == 0
    done = cli(quick, "adopt")
    assert done.returncode == 3
    assert "nothing to adopt" in done.stderr


def test_without_a_name_git_is_asked_for_one(night: Path, cli: Cli) -> None:
    git(night, "config", "--unset", "user.name")
    empty = night.parent / "empty"
    empty.touch()
    done = cli(night, "adopt", GIT_CONFIG_GLOBAL=str(empty), GIT_CONFIG_NOSYSTEM="1")
    assert done.returncode == 3
    assert "git config user.name" in done.stderr


def test_hooks_and_signing_do_not_run(night: Path, cli: Cli) -> None:
    hooks = night / ".git" / "hooks"
    for name in ("pre-commit", "commit-msg", "post-commit", "reference-transaction"):
        (hooks / name).write_text("#!/bin/sh\nexit 1\n")
        (hooks / name).chmod(0o755)
    git(night, "config", "commit.gpgSign", "true")
    git(night, "config", "gpg.program", "false")
    assert adopted(night, cli)["commit"]


def test_branch_of_another_working_tree_is_refused(night: Path, cli: Cli) -> None:
    git(night, "worktree", "add", "--quiet", str(night.parent / "linked"), "main")
    done = cli(night, "adopt")
    assert done.returncode == 3
    assert "main is checked out in" in done.stderr
    (release,) = re.findall("`(git -C .*? switch --detach)`", done.stderr)
    subprocess.run(release, shell=True, cwd=night, check=True)
    assert adopted(night, cli)["commit"]


def test_branch_of_a_working_tree_that_was_removed_by_hand_is_free(night: Path, cli: Cli) -> None:
    git(night, "worktree", "add", "--quiet", str(night.parent / "linked"), "main")
    shutil.rmtree(night.parent / "linked")
    assert adopted(night, cli)["commit"]


def test_branch_of_a_working_tree_on_a_disk_that_is_away_is_refused(night: Path, cli: Cli) -> None:
    """Its index would take the adopted change back with the next commit there."""
    linked = night.parent / "linked"
    git(night, "worktree", "add", "--quiet", str(linked), "main")
    git(night, "worktree", "lock", str(linked))
    shutil.rmtree(linked)
    done = cli(night, "adopt")
    assert done.returncode == 3
    assert "which is locked and not here now" in done.stderr
    (command,) = [each for each in re.findall("`(git [^`]*)`", done.stderr) if "worktree" in each]
    subprocess.run(command, shell=True, cwd=night, check=True)
    assert adopted(night, cli)["commit"]


@pytest.mark.parametrize("name", ["main~0", "main^0", "main@{0}", "refs/heads/main~0", "tags/../heads/main"])
def test_a_commit_is_no_branch_to_commit_on(night: Path, cli: Cli, name: str) -> None:
    before = git(night, "for-each-ref")
    done = cli(night, "adopt", "--onto", name)
    assert done.returncode == 2
    assert f"unknown branch {name!r}" in done.stderr
    assert git(night, "for-each-ref") == before


@pytest.mark.parametrize("which", [("best", "best"), ("best", "2")])
def test_best_is_no_keep_among_others(night: Path, cli: Cli, which: tuple[str, ...]) -> None:
    done = cli(night, "adopt", *which)
    assert done.returncode == 2
    assert "error: `best` means all keeps" in done.stderr
    assert "hint: give `best` alone, or numbers of kept experiments" in done.stderr


def test_files_of_a_killed_adopt_are_no_changes_of_the_user(night: Path, cli: Cli) -> None:
    """Killed between its renames and the move of the branch, it leaves exactly the new files in the checkout."""
    git(night, "switch", "--quiet", "main")
    (night / "train.py").write_text(train(night, "autoresearch/t") + "\n")
    assert not is_clean(night)
    assert adopted(night, cli)["commit"]
    assert is_clean(night)


def test_untracked_file_in_the_way_of_a_new_one_is_refused(quick: Path, cli: Cli) -> None:
    """Else the branch would have the new file, and its checkout the user's text."""
    set_protocol(quick, mutableSurface={"allowedGlobs": ["train.py", "extra.py"], "forbiddenGlobs": []})
    change = "s/^RATE = 0.1 /RATE = 0.3 /w extra.py"
    keep_in_turn(quick, cli, change)
    git(quick, "switch", "--quiet", "main")
    before, new = git(quick, "rev-parse", "main"), git(quick, "show", "autoresearch/t:extra.py")
    for text in ("mine = 1\n", ""):
        (quick / "extra.py").write_text(text)
        done = cli(quick, "adopt", "--provisional")
        assert done.returncode == 3
        assert "error: the working tree has another extra.py, which git does not track" in done.stderr
        assert "hint: move it away" in done.stderr
        assert (git(quick, "rev-parse", "main"), (quick / "extra.py").read_text()) == (before, text)
    (quick / "extra.py").unlink()
    (quick / "extra.py").mkdir()
    assert cli(quick, "adopt", "--provisional").returncode == 3
    (quick / "extra.py").rmdir()
    git(quick, "config", "core.autocrlf", "true")
    (quick / "extra.py").write_bytes(f"{new}\n".encode().replace(b"\n", b"\r\n"))  # as a killed `adopt` leaves it
    assert adopted(quick, cli, "--provisional")["files"] == ["extra.py", "train.py"]
    assert git(quick, "status", "--porcelain", "--untracked-files=no") == ""


def test_untracked_file_does_not_count_where_another_branch_is_checked_out(quick: Path, cli: Cli) -> None:
    set_protocol(quick, mutableSurface={"allowedGlobs": ["train.py", "extra.py"], "forbiddenGlobs": []})
    keep_in_turn(quick, cli, "s/^RATE = 0.1 /RATE = 0.3 /w extra.py")
    git(quick, "switch", "--quiet", "--create", "other", "main")
    (quick / "extra.py").write_text("mine = 1\n")
    assert adopted(quick, cli, "--provisional", "--onto", "main")["commit"]
    assert (quick / "extra.py").read_text() == "mine = 1\n"


def test_temporary_folder_of_a_running_loop_stays(night: Path, cli: Cli) -> None:
    """The loop, maybe of another workspace in the repository, may be moving its branch with files of that folder."""
    scratch = night / ".git" / f"{SCRATCH}abc"
    scratch.mkdir()
    (scratch / "train.py.part").write_text(train(night))
    with FileLock(scratch / HELD):
        assert adopted(night, cli, "1", "--provisional")["commit"]
        assert (scratch / "train.py.part").exists()
    assert adopted(night, cli)["commit"]
    assert not scratch.exists()


@pytest.mark.slow
def test_kill_leaves_the_branch_before_or_after(night: Path, cli: Cli) -> None:
    """A git that kills the program at its Nth call of those that write: the same command again finishes."""
    git(night, "switch", "--quiet", "main")
    before = git(night, "rev-parse", "main")
    killed = 0
    for step in itertools.count(1):
        folder = Path(shutil.copytree(night, night.parent / f"killed-{step}", symlinks=True))
        fake = deadly_git(night.parent / f"bin-{step}", step)
        env = {**os.environ, "PATH": f"{fake}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "agent", "adopt"]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, check=False)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        at = git(folder, "rev-parse", "main")
        assert at == before or git(folder, "rev-parse", "main^") == before
        adopted(folder, cli)
        assert git(folder, "rev-parse", "main^") == before
        assert is_clean(folder)
        assert train(folder) == train(folder, "autoresearch/t")
        if done.returncode == 0:
            break
        killed += 1
    assert killed > 5
