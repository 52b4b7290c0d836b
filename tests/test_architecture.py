"""docs/architecture.md names every module of the program, and none that is not there."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()


def named() -> set[str]:
    """The modules in the second column of the page's first two tables, as paths below agent/."""
    found = set()
    for line in PAGE.partition("## Where the invariants live")[0].splitlines():
        if line.startswith("| ") and (modules := re.findall(r"`(\w+)`", line.split("|")[2])):
            folder = re.match(r"\| `(\w+/)`", line)
            found |= {f"{folder[1] if folder else ''}{module}" for module in modules}
    return found


def test_every_module_is_named_and_exists() -> None:
    paths = [path.relative_to(ROOT / "agent").with_suffix("") for path in (ROOT / "agent").rglob("*.py")]
    modules = {path.as_posix() for path in paths if not path.name.startswith("__")}
    assert named() == modules


def test_the_picture_is_small_and_shows_what_the_page_says() -> None:
    picture = ROOT / "docs" / "architecture.svg"
    words = " ".join(ElementTree.parse(picture).getroot().itertext())
    assert picture.stat().st_size < 20_000
    for word in ("propose", "commit", "run", "judge", "record", "journal", "state", "protocol.json", "results.tsv"):
        assert word in words
    assert "(architecture.svg)" in PAGE
