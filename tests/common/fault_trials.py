"""Start the program with one fault, then without it, and report both results."""

from __future__ import annotations

import collections
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.common import forked
from tests.common.faults import ERRORS, Fault
from tests.common.workspaces import ROOT

SESSION = ("run", "--tag", "t", "--max-experiments", "2", "--no-keep-awake", "--sandbox", "off")
# Messages of git itself.
GIT_SAYS = {
    "ENOSPC": "error: unable to write file .git/objects/: No space left on device",
    "EACCES": "fatal: Unable to create '.git/index': Permission denied",
    "EIO": "fatal: unable to read: Input/output error",
}
GIT = r"""#!/bin/sh
# The subcommand is the first word that is neither an option nor the value of -c.
skip= sub=
for word in "$@"; do
    if [ -n "$skip" ]; then skip=; continue; fi
    case "$word" in -c) skip=1 ;; -*) ;; *) sub=$word; break ;; esac
done
count=0
if [ -f "$FAULT_COUNTS/$sub" ]; then read -r count < "$FAULT_COUNTS/$sub"; fi
count=$((count + 1))
echo $count > "$FAULT_COUNTS/$sub"
if [ "$FAULT_KIND" = git ] && [ "$FAULT_NAME" = "$sub" ] && [ "$FAULT_NTH" = $count ]; then
    echo "$FAULT_SAYS" >&2; exit 128
fi
if [ "$FAULT_KIND" = git-after ] && [ "$FAULT_NAME" = "$sub" ] && [ "$FAULT_NTH" = $count ]; then
    "$FAULT_GIT" "$@"; echo "$FAULT_SAYS" >&2; exit 128
fi
exec "$FAULT_GIT" "$@"
"""


@dataclass(frozen=True)
class Outcome:
    """The effect of a fault: exit code and last line (not a hint) of the loop, and exit code of the next start."""

    code: int
    said: str
    again: int
    wrong: str


def start(workspace: Path, fault: Fault, counts: Path) -> subprocess.CompletedProcess[str]:
    """Run the program in its own process, with a stand-in for git first on PATH."""
    counts.mkdir(parents=True, exist_ok=True)
    git = counts / "bin" / "git"
    git.parent.mkdir(exist_ok=True)
    git.write_text(GIT)
    git.chmod(0o755)
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{git.parent}{os.pathsep}{os.environ['PATH']}",
        "FAULT_GIT": shutil.which("git") or "git",
        "FAULT_COUNTS": str(counts),
        "FAULT_KIND": fault.kind,
        "FAULT_NAME": fault.name,
        "FAULT_NTH": str(fault.nth),
        "FAULT_SAYS": GIT_SAYS.get(fault.error, ""),
    }
    command = [sys.executable, "-m", "tests.common.faults", fault.kind, fault.name, str(fault.nth), fault.error]
    return subprocess.run(
        [*command, "--", *SESSION], cwd=workspace, env=env, capture_output=True, text=True, timeout=120, check=False
    )


def operations(workspace: Path, counts: Path) -> collections.Counter[tuple[str, str]]:
    """Return every operation of an undisturbed session with its count."""
    done = start(workspace, Fault("none", "", 0, ""), counts)
    assert done.returncode == 0, done.stderr
    found = collections.Counter(tuple(pair) for pair in json.loads((counts / "operations.json").read_text()))
    for path in counts.iterdir():
        if path.is_file() and path.suffix != ".json":
            found["git", path.name] = found["git-after", path.name] = int(path.read_text())
    return found


def faults(found: collections.Counter[tuple[str, str]]) -> list[Fault]:
    """Return the first and last occurrence of each operation with each error that it can meet."""
    return [
        Fault(kind, name, nth, error)
        for (kind, name), count in sorted(found.items())
        for nth in sorted({1, (count + 1) // 2, count})
        for error in ERRORS[kind]
    ]


def try_out(workspace: Path, fault: Fault, check: Callable[[Path], str]) -> Outcome:
    """Run with the fault, then resume without it. `check` returns what is wrong with the workspace, or ""."""
    done = start(workspace, fault, workspace.parent / f"{workspace.name}-counts")
    lines = done.stderr.strip().splitlines()
    last = next((line for line in reversed(lines) if not line.startswith("hint: ")), "")
    again = forked.run(workspace, SESSION, os.environ, timeout=120)
    wrong = ""
    if "Traceback" in done.stderr:
        wrong = "a traceback"
    elif done.returncode not in (0, 1, 2, 3):
        wrong = "an unknown exit code"
    elif done.returncode and not last.startswith("error: "):
        wrong = "no error line"
    elif again.returncode:
        wrong = f"does not resume: {again.stderr.strip()[-300:]}"
    said = last.removeprefix("error: ") if done.returncode else "goes on"
    return Outcome(done.returncode, said, again.returncode, wrong or check(workspace))
