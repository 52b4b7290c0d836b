"""Source files as text and back, in the encoding that they declare: every byte that is not edited stays."""

from __future__ import annotations

import io
import tokenize

HEADER = 4096  # bytes, in which the first two lines end


def decoded(path: str, data: bytes) -> str:
    """The text of a file; a byte order mark stays in it.

    Raises UnicodeDecodeError where it is no text, or not in the encoding that it declares.
    """
    return data.decode(encoding_of(path, data))


def encoded(path: str, text: str) -> bytes:
    """Raises UnicodeEncodeError where the encoding that the text declares has no such characters."""
    return text.encode(encoding_of(path, text[:HEADER].encode(errors="replace")))


def encoding_of(path: str, data: bytes) -> str:
    """What a Python file declares (PEP 263); UTF-8 for any other, and where what it declares is none."""
    if not path.endswith(".py"):
        return "utf-8"
    header = data[:HEADER].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    try:
        # ASCII alone: what else stands in the first lines is none of its business.
        found, _ = tokenize.detect_encoding(io.BytesIO(bytes(byte & 127 for byte in header)).readline)
    except SyntaxError:
        return "utf-8"
    return found
