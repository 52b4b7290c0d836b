"""Standard output and error that are closed, have lost their reader, or cannot encode a character."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from typing import Any, TextIO

from agent.errors import AutoresearchError, explain

GONE = (errno.EPIPE, errno.EBADF, errno.EIO, errno.ENXIO)  # the reader or the terminal is gone for good
UNCHANGED = "autoresearch.unchanged"


def harden() -> None:
    """Keep commands from failing because of stdout and stderr. Call it before anything else opens a file.

    Stderr drops what cannot be written. On stdout that is an error, unless a command calls `keep_going`. A pipe gets
    bytes that are not text as git or a log has them, so that a patch can be applied.
    """
    codecs.register_error(UNCHANGED, _unchanged)
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Otherwise the next file that is opened takes this descriptor, and output ends up in it.
            os.open(os.devnull, os.O_RDWR)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name) or io.TextIOWrapper(os.fdopen(descriptor, "wb", closefd=False))
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=UNCHANGED if name == "stdout" and not stream.isatty() else "backslashreplace")
        setattr(sys, name, stream if name == "stdout" else Forgiving(stream))


def explain_output(error: OSError) -> AutoresearchError:
    """Turn an error of the operating system into one of the program, and say if it is the output's."""
    try:
        sys.stdout.flush()  # still holds what could not be written
        os.write(sys.stdout.fileno(), b"")
    except ValueError:  # it is closed, or no file
        return explain(error)
    except OSError as lost:
        hint = "send the output elsewhere, then run the same command again"
        return AutoresearchError(f"the output cannot be written: {lost.strerror}", hint=hint)
    return explain(error)


def _unchanged(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encode a byte that `surrogateescape` has decoded as that byte, and escape any other character."""
    if isinstance(error, UnicodeEncodeError):
        byte = ord(error.object[error.start]) - 0xDC00
        if 0x80 <= byte <= 0xFF:
            return bytes([byte]), error.start + 1
        error.end = error.start + 1
    return codecs.backslashreplace_errors(error)


def keep_going() -> None:
    """Make stdout drop what cannot be written, too: a session continues when its output has lost its reader."""
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
        """Redirect the stream to /dev/null, for child processes, too, unless a later write may succeed (full disk)."""
        if isinstance(error, OSError) and error.errno in GONE:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
