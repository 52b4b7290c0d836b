"""Keep the machine awake during a session, with the system's own tool, which exits with the loop."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def command(platform: str, pid: int) -> list[str] | None:
    """Return the command that keeps the machine awake while process `pid` lives, or None if the tool is missing.

    macOS: -i prevents idle sleep, -s prevents sleep on mains power, -w exits with the loop (caffeinate(8)). Never -d: a
    display that stays on keeps the GPU's watchdog active. Linux: an inhibitor lock lasts as long as its command.
    """
    if platform == "darwin" and shutil.which("caffeinate"):
        return ["caffeinate", "-is", "-w", str(pid)]
    if platform == "linux" and shutil.which("systemd-inhibit"):
        waiting = ["tail", f"--pid={pid}", "-f", os.devnull]
        return ["systemd-inhibit", "--what=sleep:idle", "--who=autoresearch", "--why=a session runs", *waiting]
    return None


@contextmanager
def kept_awake(platform: str = sys.platform) -> Iterator[None]:
    """Run the tool during the block. It is optional: a missing or failing tool is ignored."""
    wanted = command(platform, os.getpid())
    if wanted is None:
        yield
        return
    quiet = subprocess.DEVNULL
    tool = subprocess.Popen(wanted, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        yield
    finally:
        tool.terminate()
        tool.wait()
