"""Fixtures that every test may ask for; what they are built with is in tests/common/."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.execution.measure import Runner
from agent.protocol.load import load_protocol
from agent.repository.workspace import Workspace
from agent.room import sandbox
from agent.room.sandbox import Sandbox
from agent.session.opening import prepared
from tests.common import forked
from tests.common.in_process import call
from tests.common.training import make_training, slow_learner
from tests.common.workspaces import ROOT, SIEVE, Cli, made_once, make_quick, make_repository

# The tests start the program about a thousand times: it need not be compiled each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


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


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the embedded text prepared: only to be read."""

    def make(cache: Path) -> None:
        command = [sys.executable, "prepare.py", "--source", "embedded"]
        env = {**os.environ, "AUTORESEARCH_CACHE": str(cache)}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    return made_once(tmp_path_factory, "embedded", make)


@pytest.fixture
def training(tmp_path: Path, embedded: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with the real harness and a tiny model that learns slowly; its data are prepared."""
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(shutil.copytree(embedded, tmp_path / "cache")))
    make_training(tmp_path / "workspace", slow_learner())
    return tmp_path / "workspace"


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


@pytest.fixture
def cli() -> Cli:
    """Run a command of the program in this process: a start of the program takes longer than most commands."""
    return call


@pytest.fixture
def program() -> Cli:
    """Run the program as a person does: in a process of its own."""

    def start(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        return forked.run(folder, args, {**os.environ, **env}, timeout=120)

    return start


@pytest.fixture
def runner(tmp_path: Path, embedded: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    """A runner of a workspace with the real harness and its own copy of the data, in `workspace` and `cache`."""
    shutil.copytree(embedded, tmp_path / "cache")
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    make_training(tmp_path / "workspace")
    rules = load_protocol(tmp_path / "workspace")
    confined = Sandbox(sandbox.available(True), network=True, hide=True)
    with prepared(Runner(rules, Workspace(tmp_path / "workspace", rules), 0.3, confined), setup=False) as ready:
        yield ready
