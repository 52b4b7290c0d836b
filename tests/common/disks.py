"""File systems in memory, which only root on Linux may mount."""

from __future__ import annotations

import contextlib
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def mount(folder: Path, size: int) -> bool:
    """Mount a file system of `size` bytes in a folder, and return whether that succeeded."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@functools.cache
def can_mount() -> bool:
    """Return whether this process may mount a file system in memory."""
    with tempfile.TemporaryDirectory() as folder:
        if not mount(Path(folder), 2**20):
            return False
        subprocess.run(["umount", folder], check=True)
        return True


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Make a folder that is a disk of `size` bytes. Skips the test where that is not allowed."""
    if not can_mount():
        pytest.skip("only root on Linux may mount a small disk: run this test as root")
    folder.mkdir()
    assert mount(folder, size)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
