"""Standard output and error as they come: closed, without a reader, or unable to show a character."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO

GONE = (errno.EPIPE, errno.EBADF, errno.EIO, errno.ENXIO)  # whoever read it, or its terminal, has gone for good


def harden() -> None:
    """Let no command fail for what standard output and error are; called before anything else opens a file.

    Standard error swallows what cannot be written: what is said there is said to whoever listens. On standard output
    that is an error of the commands that only show something, see `keep_going`.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Else the next file that is opened takes its place, and is written to.
            os.open(os.devnull, os.O_RDWR)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name) or io.TextIOWrapper(os.fdopen(descriptor, "wb", closefd=False))
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, stream if name == "stdout" else Forgiving(stream))


def keep_going() -> None:
    """Let standard output swallow what cannot be written, too: a session does not end because nobody reads it."""
    if not isinstance(sys.stdout, Forgiving):
        sys.stdout = Forgiving(sys.stdout)


class Forgiving:
    """A text stream whose writes never fail."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:
            self._lost(error)
            return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._lost(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lost(self, error: OSError | ValueError) -> None:
        """Send the rest nowhere, for the programs that are started as well; a full disk may have room again."""
        if isinstance(error, OSError) and error.errno in GONE:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
