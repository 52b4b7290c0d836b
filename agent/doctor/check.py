"""The result that all checks of `doctor` share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GB = 2**30


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
