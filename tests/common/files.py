"""Unusual files and folders."""

from __future__ import annotations

import os
from pathlib import Path


def nested(folder: Path, depth: int) -> None:
    """Make `depth` nested folders, which exceed the longest path."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("inner-folder", dir_fd=here)
        inner = os.open("inner-folder", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
