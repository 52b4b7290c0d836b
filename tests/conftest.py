"""Real workspaces in temporary folders: git repositories with a protocol and a command that really runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

# The tests start the program about a thousand times: it need not be compiled each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

ROOT = Path(__file__).parents[1]
SIEVE = ROOT / "examples" / "sieve"

# A stand-in for a training script that takes milliseconds: its metric is a smooth function of its constants.
QUICK = '''"""Prints a metric that depends on the constants."""

import sys

RATE = 0.1  # search: 0.001..10 log
DEPTH = 4  # search: 1..16
WIDTH = 64  # search: 8..512

loss = 1.0 + (RATE - 0.4) ** 2 + 0.05 * (DEPTH - 7) ** 2 + 0.001 * abs(WIDTH - 256)
print("---")
print(f"val_bpb:          {loss:.6f}")
print("peak_vram_mb:     2048.0")
print("num_steps:        10")
sys.exit(0)
'''


def git(folder: Path, *args: str) -> str:
    done = subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def make_repository(folder: Path) -> None:
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "config", "user.name", "Tester")
    git(folder, "config", "user.email", "tester@example.invalid")
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "start")


def quick_protocol(**changes: Any) -> dict[str, Any]:
    """The user's protocol with a command that needs no training; `changes` replace top-level sections."""
    protocol: dict[str, Any] = json.loads((ROOT / "protocol.json").read_bytes())
    protocol["meta"]["archetype"] = "benchmark_opt"
    protocol["environment"]["setupCommands"] = []
    protocol["execution"]["command"] = f"{sys.executable} train.py"
    protocol["execution"]["hardTimeoutSeconds"] = 60
    return {**protocol, **changes}


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("AUTORESEARCH_"):
            monkeypatch.delenv(name)
    # What follows a session takes a second: the tests of it ask for it.
    monkeypatch.setenv("AUTORESEARCH_CONFIRM", "0")
    monkeypatch.setenv("AUTORESEARCH_REPORT", "0")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "no-gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    # As in an activated environment, so that hints begin with the program's name however the tests were started.
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    programs = str(Path(sys.executable).parent)
    if programs not in os.environ["PATH"].split(os.pathsep):
        monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")


def make_quick(folder: Path) -> None:
    """A workspace whose experiments take milliseconds."""
    folder.mkdir(exist_ok=True)
    (folder / "protocol.json").write_text(json.dumps(quick_protocol(), indent=2))
    (folder / "train.py").write_text(QUICK)
    (folder / "prepare.py").write_text("HARNESS = True\n")
    (folder / "pyproject.toml").write_text("")
    make_repository(folder)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills once in a run of the suite, whichever worker comes first: only to be read."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # the run's own, which holds one folder for each worker
    folder, made = base / name, base / f"{name}.made"
    with FileLock(base / f"{name}.lock"):
        if not made.exists():
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the embedded text prepared: only to be read."""

    def make(cache: Path) -> None:
        command = [sys.executable, "prepare.py", "--source", "embedded"]
        env = {**os.environ, "AUTORESEARCH_CACHE": str(cache)}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    return made_once(tmp_path_factory, "embedded", make)


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `quick` is a copy of: only to be read."""
    return made_once(tmp_path_factory, "fresh", make_quick)


@pytest.fixture
def quick(fresh: Path, tmp_path: Path) -> Path:
    """A workspace whose experiments take milliseconds."""
    return shutil.copytree(fresh, tmp_path / "quick")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A session of four experiments, which nobody disturbed: only to be read."""

    def make(folder: Path) -> None:
        make_quick(folder)
        command = [sys.executable, "-m", "agent", "-C", str(folder), "run", "--tag", "t", "--max-experiments", "4"]
        env = {**os.environ, "AUTORESEARCH_CONFIRM": "0", "AUTORESEARCH_REPORT": "0"}
        subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)

    return made_once(tmp_path_factory, "finished", make)


@pytest.fixture
def sieve(tmp_path: Path) -> Path:
    """The example of another archetype."""
    folder = tmp_path / "sieve"
    shutil.copytree(SIEVE, folder, ignore=shutil.ignore_patterns("__pycache__", ".autoresearch"))
    make_repository(folder)
    return folder


Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli() -> Cli:
    """Run the program as a person does: in a process of its own."""

    def call(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "agent", *args],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return call
