"""Real workspaces: git repositories with a protocol and a command that runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
SIEVE = ROOT / "examples" / "sieve"
Cli = Callable[..., "subprocess.CompletedProcess[str]"]

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
    """Return the repository's protocol with a command that needs no training; `changes` replace top-level sections."""
    protocol: dict[str, Any] = json.loads((ROOT / "protocol.json").read_bytes())
    protocol["meta"]["archetype"] = "benchmark_opt"
    protocol["environment"]["setupCommands"] = []
    protocol["execution"]["command"] = f"{sys.executable} train.py"
    protocol["execution"]["hardTimeoutSeconds"] = 60
    return {**protocol, **changes}


def make_quick(folder: Path) -> None:
    """Make a workspace whose experiments take milliseconds."""
    folder.mkdir(exist_ok=True)
    (folder / "protocol.json").write_text(json.dumps(quick_protocol(), indent=2))
    (folder / "train.py").write_text(QUICK)
    (folder / "prepare.py").write_text("HARNESS = True\n")
    (folder / "pyproject.toml").write_text("")
    make_repository(folder)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a read-only folder that the first worker to ask fills with `make`, once per run of the suite."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # the folder of the whole run, which contains one for each worker
    folder, made = base / name, base / f"{name}.made"
    with FileLock(base / f"{name}.lock"):
        if not made.exists():
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


def repository(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    make_repository(folder)
    return folder


def commit_all(folder: Path, message: str, *new: str) -> None:
    """Commit the changes of all tracked files, and new files by their names."""
    git(folder, "add", "-u")
    if new:
        git(folder, "add", *new)
    git(folder, "commit", "--quiet", "-m", message)


def with_code(quick: Path, before: str, metric: str) -> Path:
    """Commit code before the constants of the quick workspace and before its metric is printed. Returns the folder."""
    text = (quick / "train.py").read_text()
    text = text.replace("RATE = 0.1", f"{before}RATE = 0.1").replace('print("---")', f'{metric}print("---")')
    (quick / "train.py").write_text(text)
    commit_all(quick, "more code")
    return quick


def commit_many(folder: Path, texts: Sequence[str]) -> list[str]:
    """Commit each text as train.py on top of HEAD, in one git process, and return the hashes. No branch moves."""
    base, marks = git(folder, "rev-parse", "HEAD"), folder / ".git" / "marks"
    stream = "".join(
        f"commit refs/many/{i}\nmark :{i}\ncommitter Tester <tester@example.invalid> 1790000000 +0000\ndata 4\nmany\n"
        f"from {base}\nM 100644 inline train.py\ndata {len(text.encode())}\n{text}\n"
        for i, text in enumerate(texts, start=1)
    )
    command = ["git", "fast-import", "--quiet", f"--export-marks={marks}"]
    subprocess.run(command, cwd=folder, input=stream.encode(), check=True)
    found = dict(line.split() for line in marks.read_text().splitlines())
    return [found[f":{i}"] for i in range(1, len(texts) + 1)]


def set_protocol(folder: Path, **sections: Any) -> None:
    (folder / "protocol.json").write_text(json.dumps(quick_protocol(**sections), indent=2))
    commit_all(folder, "protocol")


def commit(folder: Path, message: str = "theirs") -> None:
    """Commit all changes but those of the program's own folder."""
    git(folder, "add", "-A", ":!.autoresearch")
    git(folder, "commit", "--quiet", "-m", message)


def go(cli: Cli, folder: Path, tag: str = "t", count: int = 2) -> None:
    """Run a session with so many experiments."""
    done = cli(folder, "run", "--tag", tag, "--max-experiments", str(count))
    assert done.returncode == 0, done.stderr


def require_git(*version: int) -> None:
    """Skip a test of what an older git lacks, without which the program still runs."""
    found = subprocess.run(["git", "version"], capture_output=True, text=True, check=True).stdout
    if tuple(map(int, re.findall(r"\d+", found)[:2])) < version:
        pytest.skip(f"git before {'.'.join(map(str, version))} lacks what this tests: update git to run it")
