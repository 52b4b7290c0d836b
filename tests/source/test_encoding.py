"""Files are read and written in the encoding that they declare, if it is one of text."""

from __future__ import annotations

import encodings.aliases

import pytest

from agent.source.encoding import decoded, encoded, encoding_of

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("name", ["hex", "rot13", "base64", "zlib", "idna", "undefined", "nonsense"])
def test_what_is_no_encoding_of_a_file_counts_as_utf_8(name: str) -> None:
    text = f"# coding: {name}\nRATE = 0.1  # größer\n"
    assert encoding_of("train.py", text.encode()) == "utf-8"
    assert decoded("train.py", text.encode()) == text
    assert encoded("train.py", text) == text.encode()


def test_unedited_bytes_stay_the_same() -> None:
    content = "# coding: latin-1\nRATE = 0.1  # größer\n".encode("latin-1")
    assert encoded("train.py", decoded("train.py", content)) == content


@pytest.mark.parametrize("name", sorted({*encodings.aliases.aliases.values()}))
def test_no_declaration_fails_with_more_than_text_that_does_not_fit(name: str) -> None:
    """Its callers expect these errors alone."""
    text = f"# coding: {name}\nRATE = 0.1  # gr\u00f6\u00dfer \u4e16 \ud800\n"
    try:
        encoded("train.py", text)
    except UnicodeEncodeError as error:
        assert error.object[error.start]
    try:
        decoded("train.py", text.encode(errors="replace"))
    except UnicodeError as error:
        assert str(error)
