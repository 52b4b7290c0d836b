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
MOST_LINES, MOST_PARAMETERS = 60, 6


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


def over_bounds(source: str) -> set[str]:
    """Functions with too many lines or parameters whose docstring has no line that begins with the reason."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        said = [line.strip() for line in (ast.get_docstring(node) or "").splitlines()]
        about, names = node.args, []
        names += [each.arg for each in (*about.posonlyargs, *about.args, *about.kwonlyargs)]
        names += [each.arg for each in (about.vararg, about.kwarg) if each is not None]
        long = (node.end_lineno or node.lineno) - node.lineno + 1 > MOST_LINES
        many = len([name for name in names if name not in ("self", "cls")]) > MOST_PARAMETERS
        if long and not any(line.startswith("Long because") for line in said):
            found.add(node.name)
        if many and not any(line.startswith("Many parameters because") for line in said):
            found.add(node.name)
    return found


def test_functions_are_short_and_take_few_parameters_or_say_why() -> None:
    paths = [*(ROOT / "agent").rglob("*.py"), *(ROOT / "harness").rglob("*.py"), ROOT / "prepare.py", ROOT / "train.py"]
    found = {path.relative_to(ROOT).as_posix(): over_bounds(path.read_text()) for path in paths}
    assert {path: names for path, names in found.items() if names} == {}


def test_bounds_of_functions_see_length_and_parameters() -> None:
    long = "def f():\n" + "    x = 1\n" * MOST_LINES
    assert over_bounds(long) == {"f"}
    assert over_bounds(long.replace("x = 1", '"""Do.\n\n    Long because it is.\n    """', 1)) == set()
    assert over_bounds("class A:\n    def f(self, a, b, c, d, e, f, *g): ...\n") == {"f"}
    assert over_bounds("class A:\n    def f(self, a, b, c, d, e, f): ...\n") == set()
