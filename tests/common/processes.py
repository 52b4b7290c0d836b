"""Run the program in its own process during a test, and find processes that survive it."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path

import psutil

from agent.execution.kill import MARK
from agent.journal.journal import read
from agent.journal.paths import journal_path
from tests.common.forked import Forked


def start(folder: Path, *args: str) -> Forked:
    return Forked(folder, ["run", "--tag", "t", *args], os.environ)


def wait_for(folder: Path, kind: str, number: int, count: int = 1, *, tag: str = "t") -> None:
    """Wait until a session has `count` events of a kind for an experiment."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        path = journal_path(folder, tag)
        if path.exists() and sum(e.kind == kind and e.data.get("number") == number for e in read(path)) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"{kind} of #{number} never came")


def gone(pid: int) -> bool:
    """Return whether a process has ended. Zombies count: in a container, killed processes may stay zombies."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def survivors(folder: Path) -> list[int]:
    """Return the running processes of any run of this workspace, in any room."""
    rooms = f"autoresearch-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}-"
    found = []
    for process in psutil.process_iter():
        try:
            known = [process.cwd(), *process.cmdline(), *process.environ().values()]
            if MARK in process.environ() and any(str(folder) in each or rooms in each for each in known):
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def other_git(folder: Path, calls: str, says: str, code: int, kill: str = "") -> Path:
    """Make a git that answers some calls itself, as by refusing them.

    Args:
        calls: a pattern of `case` for the arguments, with a space before and after each.
        says: what it prints for them.
        code: its exit code for them.
        kill: what it does before, such as to end by a signal.
    """
    folder.mkdir()
    (folder / "git").write_text(
        f"""#!/bin/sh
case " $* " in {calls}) {kill} echo "{says}"; exit {code};; esac
exec {shutil.which("git")} "$@"
"""
    )
    (folder / "git").chmod(0o755)
    return folder


def deadly_git(folder: Path, step: int) -> Path:
    """Make a git that kills its caller at the call `step` of those that write, before or after the call in turn."""
    folder.mkdir()
    writing = "hash-object|read-tree|update-index|write-tree|commit-tree|update-ref|cat-file"
    real, kill = shutil.which("git"), "kill -9 $PPID"
    last = f"{kill}; exit 1" if step % 2 else f'{real} "$@"; {kill}; exit 1'
    (folder / "git").write_text(
        f"""#!/bin/sh
for word in "$@"; do case "$word" in {writing})
  echo . >> {folder}/count
  if [ $(wc -l < {folder}/count) -eq {step} ]; then {last}; fi
  break;; esac; done
exec {real} "$@"
"""
    )
    (folder / "git").chmod(0o755)
    return folder
