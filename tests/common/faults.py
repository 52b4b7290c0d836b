"""Make one chosen operation of the loop fail like the operating system or git would.

    python -m tests.common.faults KIND NAME NTH ERROR -- run --tag t

An operation is a kind (the keys of ERRORS) and a name: a file of the workspace with N for its numbers, or the
subcommand of git. NTH counts equal operations; 0 makes none fail and records them all. `append` fails a
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
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TEMPORARY = Path(tempfile.gettempdir())
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


@dataclass(frozen=True)
class Fault:
    kind: str
    name: str
    nth: int
    error: str

    @property
    def code(self) -> int:
        return int(getattr(errno, self.error))


def name_of(path: object, workspace: Path) -> str | None:
    """Return the name of a file that belongs to the loop; None for any other."""
    if not isinstance(path, str | bytes | os.PathLike):
        return None
    whole = Path.cwd() / os.fsdecode(path)
    if whole.is_relative_to(workspace):
        text = str(whole.relative_to(workspace))
    elif whole.is_relative_to(TEMPORARY) and whole.suffix != ".py":
        text = "temporary/" + "/".join(whole.relative_to(TEMPORARY).parts[1:])
    else:
        return None
    made = r"autoresearch-[\w-]+|(?<=tmp)\w{8}(?=\.part)|(?<=\.)[0-9a-f]{8,}(?=\.part)|(?<=/)[0-9a-f]{24}(?=/|$)"
    text = re.sub(made, "N", text)
    return None if text.endswith((".py.pyc", ".pyc")) else re.sub(r"\d+", "N", text)


def inject(fault: Fault, workspace: Path, seen: Callable[[str, str], None]) -> None:
    """Watch the operations of this process, report each to `seen`, and make the chosen one fail."""
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
            words = [os.fsdecode(word) for word in (args[1] if isinstance(args[1], list | tuple) else [args[1]])]
            name: str | None = Path(words[0]).name
            if name == "git":
                return
            confined = any("confine.main(" in word for word in words)
            name = "watchdog" if "watchdog" in words else "the command" if confined else name
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
    """Run the program in this process with one fault."""
    fault = Fault(arguments[0], arguments[1], int(arguments[2]), arguments[3])
    operations: list[tuple[str, str]] = []
    if fault.nth == 0:
        atexit.register(lambda: Path(os.environ["FAULT_COUNTS"], "operations.json").write_text(json.dumps(operations)))
    sys.argv = ["autoresearch", *arguments[arguments.index("--") + 1 :]]
    import agent.cli  # noqa: F401  # imports before the fault cannot be hit by it

    inject(fault, Path.cwd(), lambda kind, name: operations.append((kind, name)))
    runpy.run_module("agent", run_name="__main__")


if __name__ == "__main__":
    run_faulty(sys.argv[1:])
