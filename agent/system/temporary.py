"""The folder for temporary files, which may be deleted during a session: then another one is chosen, as at a start."""

from __future__ import annotations

import tempfile
from pathlib import Path


def place() -> Path:
    """Return the folder in which temporary files and folders are made.

    Raises:
        FileNotFoundError: no folder can be used.
    """
    if not Path(tempfile.gettempdir()).is_dir():
        tempfile.tempdir = None  # what `tempfile` remembers
    return Path(tempfile.gettempdir())


def folder(prefix: str = "autoresearch-", *, lenient: bool = False) -> tempfile.TemporaryDirectory[str]:
    """Return a new temporary folder, which is deleted after the block that it opens.

    Args:
        lenient: whether to leave what cannot be deleted.
    """
    return tempfile.TemporaryDirectory(prefix=prefix, dir=place(), ignore_cleanup_errors=lenient)
