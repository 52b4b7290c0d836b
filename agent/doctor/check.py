"""What all checks of `doctor` share: their result, and questions to the system's tools."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Literal

GB = 2**30
ASK_SECONDS = 10


@dataclass(frozen=True)
class Check:
    """The result of a check.

    Attributes:
        name: what was checked, such as `disk` or `mar5: journal`.
        message: what was found.
        command: the command that fixes it or shows more, None if there is none.
    """

    name: str
    status: Literal["ok", "warning", "broken"]
    message: str
    command: str | None = None


def ask(*command: str) -> str | None:
    """Return the output of a tool, None if it is missing, fails or takes too long."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ASK_SECONDS, stdin=subprocess.DEVNULL, check=True
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
