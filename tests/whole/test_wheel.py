"""The program as `uv tool install` leaves it: from its wheel, in somebody's repository."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.common.workspaces import ROOT, git, make_repository

TRAIN = 'RATE = 0.1\n\nprint(f"loss: {1 + (RATE - 0.4) ** 2:.6f}")\n'


def done(folder: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    ran = subprocess.run(
        command, cwd=folder, env={**known, **env}, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The program, built from what is here, in an environment of its own; its dependencies are lent to it."""
    done(ROOT, "uv", "build", "--quiet", "--wheel", "--out-dir", str(tmp_path / "dist"))
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    tool = tmp_path / "tool"
    done(tmp_path, "uv", "venv", "--quiet", "--python", sys.executable, str(tool))
    python = str(tool / "bin" / "python")
    done(tmp_path, "uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, str(wheel))
    (packages,) = tool.glob("lib/python*/site-packages")
    (packages / "lent.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    where = done(tmp_path, python, "-c", "import agent; print(agent.__file__)").stdout.strip()
    assert Path(where).is_relative_to(packages)
    return tool / "bin"


@pytest.mark.slow
def test_installed_program_works_in_any_repository(installed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "somebody's"
    folder.mkdir()
    (folder / "train.py").write_text(TRAIN)
    make_repository(folder)
    path = f"{installed}{os.pathsep}/usr/bin{os.pathsep}/bin{os.pathsep}{Path(sys.executable).parent}"
    env = {"PATH": path, "HOME": str(tmp_path), "AUTORESEARCH_CACHE": str(tmp_path / "cache")}
    program = str(installed / "autoresearch")
    assert done(folder, program, "--version", **env).stdout.startswith("autoresearch 0.")
    assert [*installed.parent.glob("lib/python*/site-packages/autoresearch-*.dist-info/licenses/LICENSE")]
    assert "then: autoresearch run --tag first" in done(folder, program, "init", **env).stdout
    git(folder, "add", "protocol.json")
    git(folder, "commit", "--quiet", "-m", "protocol")
    assert "## One cycle" in done(folder, program, "skill", "claude", "--no-mcp", **env).stdout
    checks = json.loads(done(folder, program, "doctor", "--json", **env).stdout)["data"]["checks"]
    assert not [check for check in checks if check["status"] == "broken"]
    done(folder, program, "run", "--tag", "first", "--max-experiments", "1", "--report", **env)
    with (folder / "results.tsv").open(newline="") as file:
        assert len([*csv.DictReader(file, delimiter="\t")]) == 2
    assert [*(folder / ".autoresearch" / "sessions" / "first").rglob("*.html")]
    assert git(folder, "status", "--porcelain") == ""
    assert "first" in done(folder, program, "status", **env).stdout
    done(folder, program, "protocol", "schema", **env)
