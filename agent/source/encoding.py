"""Decode source files and encode them again in the encoding that they declare, so that unedited bytes stay the same."""

from __future__ import annotations

import io
import tokenize

HEADER = 4096  # bytes, enough for the first two lines


def decoded(path: str, data: bytes) -> str:
    """Return the text of a file, including a byte order mark.

    Raises:
        UnicodeDecodeError: the file is not text in the encoding that it declares.
    """
    return data.decode(encoding_of(path, data))


def encoded(path: str, text: str) -> bytes:
    """Return the bytes of a text in the encoding that it declares.

    Raises:
        UnicodeEncodeError: the encoding lacks a character of the text.
    """
    return text.encode(encoding_of(path, text[:HEADER].encode(errors="replace")))


def encoding_of(path: str, data: bytes) -> str:
    """Return the encoding that a Python file declares (PEP 263); UTF-8 for other files and for unknown encodings."""
    if not path.endswith(".py"):
        return "utf-8"
    header = data[:HEADER].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    try:
        # ASCII only: other characters in the first lines would make detect_encoding fail.
        found, _ = tokenize.detect_encoding(io.BytesIO(bytes(byte & 127 for byte in header)).readline)
        data[:HEADER].decode(found, errors="ignore")  # raises LookupError for hex, rot13 and the like: no text
    except (SyntaxError, LookupError, UnicodeError):
        return "utf-8"
    return found
