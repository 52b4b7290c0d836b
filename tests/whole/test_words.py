"""One word for one thing: the glossary of docs/style.md holds in every text."""

from __future__ import annotations

from pathlib import Path

from tests.common.words import findings, readable


def test_glossary_holds_in_every_text() -> None:
    assert [str(each) for each in findings(readable())] == []


def test_a_wrong_word_is_found_in_pages_strings_and_comments(tmp_path: Path) -> None:
    page, source = tmp_path / "page.md", tmp_path / "source.py"
    page.write_text("A run.\nWhat cannot\nbe had is mended.\n")
    source.write_text('mend = 1  # a fix\nprint("there is no cure")\n')
    found = [(each.path, each.line, each.text) for each in findings([page, source])]
    assert found == [
        (page, 3, "mended"),
        (page, 2, "cannot\nbe had"),
        (source, 2, "there is no"),
    ]
