"""One line of the doctor's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """command: what mends it."""

    name: str
    status: Literal["ok", "warning", "broken"]
    message: str
    command: str | None = None
