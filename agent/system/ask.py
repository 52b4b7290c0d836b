"""Ask a tool of the system."""

from __future__ import annotations

import subprocess

from agent.system.shielded import run_shielded


def ask(*command: str, seconds: float = 10, may_fail: bool = False) -> str | None:
    """Return the output of a tool; None if it is missing, fails or takes too long.

    Args:
        command: the tool and its arguments.
        seconds: time limit.
        may_fail: return the output of a tool that failed, too.
    """
    try:
        done = run_shielded(command, timeout=seconds)
        return done.stdout.decode().strip() if may_fail or done.returncode == 0 else None
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
