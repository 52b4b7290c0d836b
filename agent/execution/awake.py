"""Keeps the machine awake for a session, with the system's own tool, bound to the loop's life."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def command(platform: str, pid: int) -> list[str] | None:
    """What keeps `platform` awake while process `pid` lives, or None where the tool is missing.

    macOS: -i against idle sleep, -s against sleep on mains power, -w to end with the loop; never -d, since a display
    kept on keeps the GPU's watchdog at work (man caffeinate). Linux: a lock that lasts as long as its command.
    """
    if platform == "darwin" and shutil.which("caffeinate"):
        return ["caffeinate", "-is", "-w", str(pid)]
    if platform == "linux" and shutil.which("systemd-inhibit"):
        waiting = ["tail", f"--pid={pid}", "-f", os.devnull]
        return ["systemd-inhibit", "--what=sleep:idle", "--who=autoresearch", "--why=a session runs", *waiting]
    return None


@contextmanager
def kept_awake(platform: str = sys.platform) -> Iterator[None]:
    """The tool runs while this is open; a system without one, or that refuses, goes on as it is."""
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
