"""Makes one chosen operation of the loop fail as the operating system, or git, would make it fail.

    python -m tests.common.faults                                    the whole table: a quarter of an hour
    python -m tests.common.faults KIND NAME NTH ERROR -- run --tag t the program with one fault in it

An operation is a kind (the keys of ERRORS) and a name: a file of the workspace with N for its numbers, or the
subcommand of git. NTH counts those that are alike; 0 lets nothing fail and records what there was. `append` fails a
write to a file that stays open, `tear` cuts it short, and `git-after` reports a failure although git has done its work.
"""

from __future__ import annotations

import atexit
import builtins
import collections
import errno
import io
import json
import os
import re
import resource
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.room import confine

ROOT = Path(__file__).parents[2]
TEMPORARY = Path(tempfile.gettempdir())
SESSION = ("run", "--tag", "t", "--max-experiments", "2", "--no-keep-awake", "--sandbox", "off")
AUDITED = {
    "open": "open",
    "os.rename": "rename",
    "os.mkdir": "mkdir",
    "os.remove": "remove",
    "os.symlink": "symlink",
    "os.truncate": "truncate",
    "subprocess.Popen": "start",
}
ERRORS = {
    "open": ("EACCES", "EIO", "EINTR"),
    "write": ("ENOSPC",),
    "append": ("ENOSPC",),
    "tear": ("EFBIG",),
    "sync": ("EIO", "ENOSPC"),
    "rename": ("EACCES", "ENOSPC"),
    "mkdir": ("ENOSPC", "EACCES"),
    "remove": ("EACCES",),
    "symlink": ("ENOSPC",),
    "truncate": ("EIO",),
    "start": ("EAGAIN",),
    "git": ("ENOSPC", "EACCES"),
    "git-after": ("EIO",),
}
# What git says in its own words.
GIT_SAYS = {
    "ENOSPC": "error: unable to write file .git/objects/: No space left on device",
    "EACCES": "fatal: Unable to create '.git/index': Permission denied",
    "EIO": "fatal: unable to read: Input/output error",
}
GIT = r"""#!/bin/sh
# The first word that is no option, nor the value of -c, is the subcommand.
skip= sub=
for word in "$@"; do
    if [ -n "$skip" ]; then skip=; continue; fi
    case "$word" in -c) skip=1 ;; -*) ;; *) sub=$word; break ;; esac
done
count=$(($(cat "$FAULT_COUNTS/$sub" 2>/dev/null || echo 0) + 1))
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
class Fault:
    kind: str
    name: str
    nth: int
    error: str

    @property
    def code(self) -> int:
        return int(getattr(errno, self.error))


@dataclass(frozen=True)
class Outcome:
    """What the loop did with a fault: its exit code and last line, and the exit code of the next start."""

    code: int
    said: str
    again: int
    wrong: str


def name_of(path: object, workspace: Path) -> str | None:
    """The name of a file of the loop's; None for any other."""
    if not isinstance(path, str | bytes | os.PathLike):
        return None
    whole = Path.cwd() / os.fsdecode(path)
    if whole.is_relative_to(workspace):
        text = str(whole.relative_to(workspace))
    elif whole.is_relative_to(TEMPORARY) and whole.suffix != ".py":
        text = "temporary/" + "/".join(whole.relative_to(TEMPORARY).parts[1:])
    else:
        return None
    text = re.sub(r"autoresearch-\w+|(?<=tmp)\w{8}(?=\.part)|(?<=\.)[0-9a-f]{8,}(?=\.part)", "N", text)
    return None if text.endswith((".py.pyc", ".pyc")) else re.sub(r"\d+", "N", text)


def inject(fault: Fault, workspace: Path, seen: Callable[[str, str], None]) -> None:
    """Watch the operations of this process, tell `seen`, and let the chosen one fail."""
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    open_really, sync_really = io.open, os.fsync

    def hit(kind: str, name: str | None) -> bool:
        if name is None:
            return False
        counts[kind, name] += 1
        seen(kind, name)
        return (kind, name, counts[kind, name]) == (fault.kind, fault.name, fault.nth)

    def heard(event: str, args: tuple[Any, ...]) -> None:
        kind = AUDITED.get(event)
        if kind is None:
            return
        if kind == "start":
            program = args[1][0] if isinstance(args[1], list | tuple) else args[1]
            name: str | None = Path(os.fsdecode(program)).name
            if name == "git":
                return
            confined = confine.__file__ in args[1]
            name = "watchdog" if "agent.execution.watchdog" in args[1] else "the command" if confined else name
        else:
            name = name_of(args[1 if kind == "symlink" else 0], workspace)
        if hit(kind, name):
            raise OSError(fault.code, os.strerror(fault.code), str(args[0]))

    def open_file(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        handle = open_really(file, mode, *args, **options)
        if set(mode) & set("wax+") and hit("write", name_of(file, workspace)):
            fail_writes(handle.fileno())
        return handle

    def sync(fd: Any) -> None:
        name = name_of(Path(f"/proc/self/fd/{fd}").readlink(), workspace)
        if hit("sync", name):
            raise OSError(fault.code, os.strerror(fault.code))
        sync_really(fd)
        if hit("append", name):
            fail_writes(fd)
        if hit("tear", name):
            size = os.fstat(fd).st_size + 20
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    sys.addaudithook(heard)
    builtins.open = io.open = open_file
    os.fsync = sync


def fail_writes(descriptor: int) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, descriptor)
    os.close(full)


def run_faulty(arguments: list[str]) -> None:
    """The program in this process, with one fault."""
    fault = Fault(arguments[0], arguments[1], int(arguments[2]), arguments[3])
    operations: list[tuple[str, str]] = []
    if fault.nth == 0:
        atexit.register(lambda: Path(os.environ["FAULT_COUNTS"], "operations.json").write_text(json.dumps(operations)))
    sys.argv = ["autoresearch", *arguments[arguments.index("--") + 1 :]]
    import agent.cli  # noqa: F401  # what is imported before the fault cannot be hit by it

    inject(fault, Path.cwd(), lambda kind, name: operations.append((kind, name)))
    runpy.run_module("agent", run_name="__main__")


def start(workspace: Path, fault: Fault, counts: Path) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own, with a stand-in for git first on the PATH."""
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
    """Every operation of a session that nothing disturbs, and how often it occurs."""
    done = start(workspace, Fault("none", "", 0, ""), counts)
    assert done.returncode == 0, done.stderr
    found = collections.Counter(tuple(pair) for pair in json.loads((counts / "operations.json").read_text()))
    for path in counts.iterdir():
        if path.is_file() and path.suffix != ".json":
            found["git", path.name] = found["git-after", path.name] = int(path.read_text())
    return found


def faults(found: collections.Counter[tuple[str, str]]) -> list[Fault]:
    """The first and the last of each operation, with each error that it can meet."""
    return [
        Fault(kind, name, nth, error)
        for (kind, name), count in sorted(found.items())
        for nth in sorted({1, (count + 1) // 2, count})
        for error in ERRORS[kind]
    ]


def try_out(workspace: Path, fault: Fault, check: Callable[[Path], str]) -> Outcome:
    """Run into the fault, then go on without it. `check` says what is wrong with the workspace afterwards, or ""."""
    done = start(workspace, fault, workspace.parent / f"{workspace.name}-counts")
    last = (done.stderr.strip().splitlines() or [""])[-1]
    command = [sys.executable, "-m", "agent", *SESSION]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    again = subprocess.run(command, cwd=workspace, env=env, capture_output=True, text=True, timeout=120, check=False)
    wrong = ""
    if "Traceback" in done.stderr:
        wrong = "a traceback"
    elif done.returncode not in (0, 1, 2, 3):
        wrong = "an exit code of another kind"
    elif done.returncode and not last.startswith("error: "):
        wrong = "no sentence"
    elif again.returncode:
        wrong = f"does not go on: {again.stderr.strip()[-300:]}"
    said = last.removeprefix("error: ") if done.returncode else "goes on"
    return Outcome(done.returncode, said, again.returncode, wrong or check(workspace))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run_faulty(sys.argv[1:])
    else:
        from tests.whole.test_faults import print_table

        print_table()
