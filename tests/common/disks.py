"""File systems in memory, which only root on Linux may mount."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path


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
