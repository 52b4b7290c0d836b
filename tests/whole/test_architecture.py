"""docs/architecture.md names every room and module of the program, and none that is not there."""

from __future__ import annotations

import ast
import re
from xml.etree import ElementTree

import pytest

from tests.common.workspaces import ROOT

pytestmark = pytest.mark.quick

PAGE = (ROOT / "docs" / "architecture.md").read_text()


ROOM = re.compile(r"^\| `([\w/]+)/` \| (.+) \| (.+) \|$", re.MULTILINE)
MOST_MODULES = 15


def rooms() -> dict[str, set[str]]:
    """room -> its modules, as the folders have them."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "agent").rglob("*.py"):
        room = path.parent.relative_to(ROOT / "agent").as_posix()
        if room != "." and not path.name.startswith("__"):
            found.setdefault(room, set()).add(path.stem)
    return found


def test_page_names_every_room_with_its_modules() -> None:
    assert {room: set(re.findall(r"`(\w+)`", modules)) for room, _, modules in ROOM.findall(PAGE)} == rooms()


def test_page_says_of_each_room_what_its_package_says() -> None:
    for room, purpose, _ in ROOM.findall(PAGE):
        said = ast.get_docstring(ast.parse((ROOT / "agent" / room / "__init__.py").read_text())) or ""
        assert purpose == " ".join(said.split("\n\n")[0].split()), room


def test_each_room_is_small_and_no_package_holds_one_file() -> None:
    for room, modules in rooms().items():
        assert 2 <= len(modules) <= MOST_MODULES, room


def test_top_floor_holds_the_loop_and_what_all_use() -> None:
    assert {path.stem for path in (ROOT / "agent").glob("*.py") if path.stem[0] != "_"} == {"loop", "errors", "format"}


def test_each_module_that_an_experiment_goes_through_exists() -> None:
    walk = PAGE.partition("## One experiment")[2].partition("## Where things plug in")[0]
    for name in re.findall(r"`([a-z_]+(?:/[a-z_]+)+)`", walk):
        assert (ROOT / "agent" / f"{name}.py").exists(), name


def test_picture_is_small_and_agrees_with_page() -> None:
    picture = ROOT / "docs" / "architecture.svg"
    words = " ".join(ElementTree.parse(picture).getroot().itertext())
    assert picture.stat().st_size < 20_000
    for word in ("propose", "commit", "run", "judge", "record", "journal", "state", "protocol.json", "results.tsv"):
        assert word in words
    assert "(architecture.svg)" in PAGE
