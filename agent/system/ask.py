"""Ask a tool of the system."""

from __future__ import annotations

import subprocess


def ask(*command: str, seconds: float = 10, may_fail: bool = False) -> str | None:
    """Return the output of a tool; None if it is missing, fails or takes too long.

    Args:
        command: the tool and its arguments.
        seconds: time limit.
        may_fail: return the output of a tool that failed, too.
    """
    quiet = subprocess.DEVNULL
    try:
        done = subprocess.run(command, stdin=quiet, capture_output=True, text=True, timeout=seconds, check=not may_fail)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
