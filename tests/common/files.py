"""Files and folders that a program seldom meets."""

from __future__ import annotations

import os
from pathlib import Path


def nested(folder: Path, depth: int) -> None:
    """`depth` folders within each other, longer than any path may be."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("inner-folder", dir_fd=here)
        inner = os.open("inner-folder", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
