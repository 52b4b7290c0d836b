"""Commands in hints and reports work in the user's current folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent.system import invocation
from tests.common.in_process import call
from tests.common.workspaces import ROOT, make_repository

BIN = Path(sys.executable).parent
PLAIN_PATH = os.pathsep.join(each for each in os.environ["PATH"].split(os.pathsep) if each != str(BIN))


def started(folder: Path, command: list[str], path: str, **env: str) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "UV_RUN_RECURSION_DEPTH")}
    return subprocess.run(
        command,
        cwd=folder,
        env={**known, "PATH": path, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def hinted(done: subprocess.CompletedProcess[str]) -> str:
    """Return the command that an error suggests."""
    found = re.search(r"`([^`]*run --tag NAME)`", done.stderr)
    assert found is not None, done.stderr
    return found[1]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a clone of the project, complete enough for uv, with this environment as its own."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("pyproject.toml", "protocol.json", "train.py", "prepare.py"):
        shutil.copy(ROOT / name, folder)
    (folder / ".venv").symlink_to(BIN.parent)
    make_repository(folder)
    return folder


def test_the_plain_name_where_a_shell_finds_it(quick: Path) -> None:
    path = f"{BIN}{os.pathsep}{PLAIN_PATH}"
    done = started(quick, [str(BIN / "autoresearch"), "status"], path)
    assert hinted(done) == "autoresearch run --tag NAME"


def test_uv_run_in_a_project_that_has_the_program(project: Path) -> None:
    for command, path, more in (
        ([str(BIN / "autoresearch"), "status"], PLAIN_PATH, {}),
        # As started by `uv run`, whose additions to PATH do not apply to the next command.
        (["autoresearch", "status"], f"{BIN}{os.pathsep}{PLAIN_PATH}", {"UV_RUN_RECURSION_DEPTH": "1"}),
    ):
        done = started(project, command, path, **more)
        assert hinted(done) == "uv run autoresearch run --tag NAME", done.stderr
    inside = project / "notes"
    inside.mkdir()
    assert hinted(started(inside, [str(BIN / "autoresearch"), "status"], PLAIN_PATH)).startswith("uv run ")


def test_uv_run_itself_is_recognised() -> None:
    done = started(ROOT, ["uv", "run", "--no-sync", "autoresearch", "-C", "tests", "run"], PLAIN_PATH)
    assert "see `uv run autoresearch run --help`" in done.stderr, done.stderr


def test_the_whole_path_elsewhere_and_it_works(quick: Path) -> None:
    offered = hinted(started(quick, [str(BIN / "autoresearch"), "status"], PLAIN_PATH))
    assert offered == f"{BIN / 'autoresearch'} run --tag NAME"
    done = started(quick, ["sh", "-c", f"{offered} --max-experiments 0"], PLAIN_PATH)
    assert done.returncode == 0, done.stderr


def test_a_hint_names_the_folder_that_was_named(quick: Path) -> None:
    folder = quick.rename(quick.with_name("quick recipe"))
    done = call(quick.parent, "-C", "quick recipe", "status")
    offered = hinted(done)
    assert shlex.split(offered)[:3] == ["autoresearch", "-C", "quick recipe"]
    assert call(folder.parent, *shlex.split(offered)[1:], "--max-experiments", "0").returncode == 0
    shutil.rmtree(folder / ".autoresearch")
    assert "-C" not in hinted(call(folder, "status"))


def test_the_reports_commands_and_doctors_remedies_follow(project: Path, quick: Path) -> None:
    path = f"{BIN}{os.pathsep}{PLAIN_PATH}"
    done = started(quick, [str(BIN / "autoresearch"), "run", "--tag", "t", "--max-experiments", "1"], path)
    assert done.returncode == 0, done.stderr
    for where, begin in ((path, "autoresearch"), (PLAIN_PATH, str(BIN / "autoresearch"))):
        shown = started(quick, [str(BIN / "autoresearch"), "report", "--json"], where)
        commands = [each["command"] for each in json.loads(shown.stdout)["data"]["sessions"][0]["commands"]]
        assert commands[-1] == f"{begin} run --tag t"
    assert invocation.program(project) == "autoresearch"


def test_version_is_unknown_where_nothing_is_installed() -> None:
    """Without the environment's packages, as in a folder that was only copied."""
    look = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from agent.system.invocation import version; print(version())"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout == "unknown\n"
