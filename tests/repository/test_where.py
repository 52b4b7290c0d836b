"""Where the program is started: folders given with -C, subfolders, odd names, other owners, no home folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.common.in_process import call
from tests.common.sessions import keep_in_turn, rows
from tests.common.workspaces import ROOT, Cli, commit_all, git, make_quick

NOBODY = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
needs_root = pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="only root becomes another")


def others_may_run_it() -> bool:
    """Return whether another user with a home can start the program: root's Python or checkout may be private."""
    if needs_root.args[0]:
        return False
    command = [*NOBODY, sys.executable, "-c", "import agent.cli"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": "/tmp"}
    return subprocess.run(command, cwd="/", env=env, capture_output=True, timeout=120, check=False).returncode == 0


needs_another = pytest.mark.skipif(
    not others_may_run_it(), reason="only root becomes another user, and that one needs a Python that it may read"
)


@pytest.mark.quick
def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, says in (("missing", "folder missing not found"), ("file", "-C needs a folder, and file is a file")):
        for command in (["status"], ["run", "--tag", "t"], ["init"], ["doctor"]):
            done = call(tmp_path, "-C", name, *command)
            assert done.returncode == 2, done.stderr
            assert says in done.stderr, done.stderr


def test_a_subfolder_finds_its_workspace(quick: Path) -> None:
    inside = quick / "notes" / "deep"
    inside.mkdir(parents=True)
    done = call(inside, "run", "--tag", "t", "--max-experiments", "1")
    assert done.returncode == 0, done.stderr
    assert len(rows(quick)) == 2, done.stderr
    assert not (inside / ".autoresearch").exists()
    for command in (["status"], ["show", "1"], ["diff"], ["sessions"], ["doctor"], ["protocol", "check"]):
        assert call(inside, *command).returncode == 0
        assert call(quick.parent, "-C", str(inside), *command).returncode == 0
    shown = json.loads(call(inside, "status", "--json").stdout)
    assert shown == json.loads(call(quick, "status", "--json").stdout)


@pytest.mark.parametrize("sandbox", ["auto", "off"])
def test_a_relative_cache_is_in_the_folder_where_the_command_was_typed(quick: Path, sandbox: str) -> None:
    protocol = json.loads((quick / "protocol.json").read_bytes())
    protocol["environment"]["setupCommands"] = ['touch "$AUTORESEARCH_CACHE/seen"']
    (quick / "protocol.json").write_text(json.dumps(protocol))
    inside = quick / "notes"
    inside.mkdir()
    (quick / ".gitignore").open("a").write("notes/\n")
    commit_all(quick, "a setup command")
    for command in (["baseline", "--sandbox", sandbox], ["-C", "..", "status"]):
        done = subprocess.run(
            [sys.executable, "-m", "agent", *command],
            cwd=inside,
            env={**os.environ, "PYTHONPATH": str(ROOT), "AUTORESEARCH_CACHE": "data"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == (3 if "status" in command else 0), done.stderr
    assert (inside / "data" / "seen").exists()
    assert not (quick / "data").exists()


def test_a_cache_of_an_unknown_user_is_a_sentence(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", "~nobody-of-this-name/data")
    done = call(quick, "baseline")
    assert done.returncode == 3
    said = "AUTORESEARCH_CACHE=~nobody-of-this-name/data: the home folder of ~nobody-of-this-name is unknown"
    assert f"error: {said}\nhint: set AUTORESEARCH_CACHE to an absolute path\n" in done.stderr


def test_a_repository_inside_a_workspace_is_its_own(quick: Path) -> None:
    other = quick / "other"
    other.mkdir()
    git(other, "init", "--quiet")
    done = call(other, "status")
    assert done.returncode == 3
    assert str(other) in done.stderr


def test_init_writes_where_the_person_stands(quick: Path) -> None:
    inside = quick / "second"
    inside.mkdir()
    (inside / "train.py").write_text("RATE = 0.5\nprint(f'loss: {RATE}')\n")
    git(quick, "add", "-A")
    git(quick, "commit", "--quiet", "-m", "a second workspace")
    before = (quick / "protocol.json").read_bytes()
    done = call(inside, "init", "--no-run")
    assert done.returncode == 0, done.stderr
    assert (inside / "protocol.json").exists()
    assert (quick / "protocol.json").read_bytes() == before


@pytest.mark.parametrize(
    "name", ["run$X", "run${X}", "run[7]", "a*b?", "~", "q'\"x", "semi;#&|", "-dash", "back\\slash"]
)
def test_the_name_of_a_folder_is_only_a_name(tmp_path: Path, name: str) -> None:
    other = tmp_path / "run7"
    for folder in (other, tmp_path / name):
        make_quick(folder)
    before = git(other, "for-each-ref")
    done = call(tmp_path / name, "run", "--tag", "t", "--max-experiments", "2", X="7")
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr, done.stderr
    assert len(rows(tmp_path / name)) == 3
    assert git(tmp_path / name, "branch", "--show-current") == "autoresearch/t"
    assert git(other, "for-each-ref") == before
    assert not (other / "results.tsv").exists()
    assert call(tmp_path / name, "diff", X="7").returncode == 0
    assert call(tmp_path / name, "report", X="7").returncode == 0


def test_a_folder_in_a_subfolder_with_a_variable_in_its_name(tmp_path: Path) -> None:
    make_quick(tmp_path / "top")
    below = tmp_path / "top" / "b$X"
    shutil.copytree(tmp_path / "top", below, ignore=shutil.ignore_patterns(".git"))
    git(tmp_path / "top", "add", "-A")
    git(tmp_path / "top", "commit", "--quiet", "-m", "below")
    done = call(below, "run", "--tag", "t", "--max-experiments", "1", X="7")
    assert done.returncode == 0, done.stderr
    assert len(rows(below)) == 2, done.stderr


@needs_root
def test_a_repository_of_another_user_gets_gits_own_remedy(quick: Path) -> None:
    assert call(quick, "run", "--tag", "t", "--max-experiments", "1").returncode == 0
    subprocess.run(["chown", "-R", "12345:12345", str(quick)], check=True)
    remedy = f"git config --global --add safe.directory {quick}"
    for command in (["run", "--tag", "t"], ["init", "--force"], ["baseline"], ["status"], ["report"], ["doctor"]):
        done = call(quick, *command)
        assert done.returncode in (1, 3), (command, done)
        assert remedy in done.stdout + done.stderr, (command, done)
        assert "no commit" not in done.stdout + done.stderr
    by_variable = {"KEY_0": "safe.directory", "VALUE_0": str(quick), "COUNT": "1"}
    done = call(quick, "status", **{f"GIT_CONFIG_{name}": value for name, value in by_variable.items()})
    assert done.returncode == 0, done.stderr
    subprocess.run(remedy, shell=True, check=True)
    assert call(quick, "status").returncode == 0


@pytest.mark.quick
def test_a_repository_without_a_commit_says_so(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    done = call(tmp_path, "init")
    assert done.returncode == 3
    assert "has no commit yet" in done.stderr


def without_home(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if name != "HOME" and not name.startswith("XDG_")}
    command = [*NOBODY, sys.executable, "-m", "agent", *args]
    return subprocess.run(
        command,
        cwd=folder,
        env={**known, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@needs_another
def test_a_user_without_a_home_gets_a_sentence(quick: Path, tmp_path: Path) -> None:
    for place in (tmp_path, *tmp_path.parents[:3]):
        place.chmod(0o755)
    subprocess.run(["chown", "-R", "12345:12345", str(quick)], check=True)
    assert without_home(quick, "--help").returncode == 0
    for command in (["run", "--tag", "t"], ["baseline"]):
        done = without_home(quick, *command)
        assert done.returncode == 3, done.stderr
        assert "HOME is not set" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
    done = without_home(quick, "doctor")
    assert done.returncode == 1
    assert "broken   home" in done.stdout
    assert "Traceback" not in done.stderr
    assert git(quick, "-c", "safe.directory=*", "status", "--porcelain") == ""


@needs_another
def test_a_temporary_folder_that_nobody_may_list_is_one(tmp_path: Path) -> None:
    for place in (tmp_path, *tmp_path.parents[:3]):
        place.chmod(0o755)
    (tmp_path / "temporary").mkdir()
    (tmp_path / "temporary").chmod(0o1733)
    code = (
        "import pathlib\nfrom agent.room.sandbox import temporary_folder\n"
        "with temporary_folder(pathlib.Path('/workspace')) as folder:\n    print(folder)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": "/tmp", "TMPDIR": str(tmp_path / "temporary")}
    command = [*NOBODY, sys.executable, "-c", code]
    done = subprocess.run(command, cwd="/", env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.startswith(str(tmp_path / "temporary")), done.stderr


@needs_another
@pytest.mark.parametrize("script", ["prepare.py", "train.py"])
def test_the_scripts_without_a_home_name_the_variable(script: str, tmp_path: Path) -> None:
    known = {name: value for name, value in os.environ.items() if name != "HOME"}
    command = [*NOBODY, sys.executable, str(ROOT / script)]
    done = subprocess.run(command, cwd=tmp_path, env=known, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3
    assert "AUTORESEARCH_CACHE" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worktree_elsewhere_is_named(quick: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    git(quick, "config", "core.worktree", str(tmp_path / "elsewhere"))
    done = call(quick, "run", "--tag", "t")
    assert done.returncode == 3
    assert f"is outside of {tmp_path / 'elsewhere'}" in done.stderr
    first, *rest = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert all(line.startswith("hint: ") for line in rest)


def hinted(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the git commands that an error suggests."""
    return re.findall("`(git [^`]*)`", done.stderr.partition("hint: ")[2])


def a_session(folder: Path) -> None:
    done = call(folder, "run", "--tag", "t", "--max-experiments", "1")
    assert done.returncode == 0, done.stderr


def a_commit_on_its_branch(folder: Path) -> None:
    a_session(folder)
    (folder / "notes.md").write_text("mine")
    commit_all(folder, "mine", "notes.md")


def nothing_committed(folder: Path) -> None:
    shutil.rmtree(folder / ".git")
    git(folder, "init", "--quiet")


def results_of_another_tool(folder: Path) -> None:
    (folder / "results.tsv").write_text("step,loss\n")
    commit_all(folder, "theirs", "results.tsv")


def an_unknown_author(folder: Path) -> None:
    keep_in_turn(folder, call, "s/^RATE = 0.1 /RATE = 0.3 /")
    git(folder, "config", "--unset", "user.name")


def tracked_state(folder: Path) -> None:
    (folder / ".autoresearch").mkdir()
    (folder / ".autoresearch" / "prices.json").write_text("{}")
    git(folder, "add", "--force", ".autoresearch")


RUN, TRY = ("run", "--tag", "t", "--max-experiments", "1"), ("try", "--tag", "t")


@pytest.mark.parametrize(
    ("make", "args", "does"),
    [
        (lambda folder: git(folder, "branch", "autoresearch/t"), RUN, "branch -D autoresearch/t"),
        (lambda folder: git(folder, "branch", "autoresearch"), RUN, "branch -m autoresearch NAME"),
        (lambda folder: (folder / "train.py").write_text("RATE = 0.1\n"), RUN, "stash"),
        (lambda folder: (folder / "protocol.json").open("a").write("\n"), TRY, "restore .*/quick/protocol.json"),
        (lambda folder: (folder / "train.py").write_text("\0"), TRY, "restore .*/quick/train.py"),
        (results_of_another_tool, RUN, "mv .*/quick/results.tsv .*/quick/earlier-results.tsv"),
        (nothing_committed, ("init",), "add"),
        (tracked_state, RUN, "rm -r --cached .*/quick/.autoresearch"),
        (a_commit_on_its_branch, RUN, "update-ref refs/heads/autoresearch/t [0-9a-f]{12}"),
        (a_commit_on_its_branch, TRY, "update-ref refs/heads/autoresearch/t [0-9a-f]{12}"),
        (a_session, ("adopt", "--onto", "missing"), "branch NAME"),
        (an_unknown_author, ("adopt", "--provisional"), "config user.email ADDRESS"),
    ],
)
def test_git_commands_in_hints_work_where_they_are_typed(
    quick: Path, tmp_path: Path, make: Callable[[Path], object], args: tuple[str, ...], does: str
) -> None:
    make(quick)
    done = call(tmp_path, "-C", "quick", *args)
    assert done.returncode in (2, 3), done.stderr
    commands = hinted(done)
    assert re.fullmatch(f"git -C {re.escape(str(quick))} {does}", commands[-1]), done.stderr
    assert all(command.startswith(f"git -C {quick} ") for command in commands)


def test_deleting_hint_spares_the_session_of_the_repository_where_it_is_typed(
    quick: Path, cli: Cli, tmp_path: Path
) -> None:
    other = shutil.copytree(quick, tmp_path / "other")
    a_session(quick)
    git(other, "update-ref", "refs/autoresearch/t/1", "HEAD")
    before = git(quick, "for-each-ref")
    (command,) = hinted(cli(quick, "-C", str(other), *RUN))
    subprocess.run(command, shell=True, cwd=quick, check=True)
    assert git(quick, "for-each-ref") == before
    assert git(other, "for-each-ref", "refs/autoresearch") == ""


def test_files_in_hints_are_named_from_a_subfolder(quick: Path, cli: Cli) -> None:
    inside = quick / "notes"
    inside.mkdir()
    (quick / "train.py").write_text("\0")
    (command,) = hinted(cli(inside, *TRY))
    subprocess.run(shlex.split(command), cwd=inside, check=True)
    assert git(quick, "status", "--porcelain", "--untracked-files=no") == ""
