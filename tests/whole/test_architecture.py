"""docs/architecture.md names every package and module of the program, and no others."""

from __future__ import annotations

import ast
import re
from xml.etree import ElementTree

import pytest

from tests.common.workspaces import ROOT

pytestmark = pytest.mark.quick

PAGE = (ROOT / "docs" / "architecture.md").read_text()


PACKAGE = re.compile(r"^\| `([\w/]+)/` \| (.+) \| (.+) \|$", re.MULTILINE)
MOST_MODULES = 15
MOST_LINES, MOST_PARAMETERS = 60, 6


def packages() -> dict[str, set[str]]:
    """Return package -> its modules, as found in the folders."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "agent").rglob("*.py"):
        package = path.parent.relative_to(ROOT / "agent").as_posix()
        if package != "." and not path.name.startswith("__"):
            found.setdefault(package, set()).add(path.stem)
    return found


def test_page_names_every_package_with_its_modules() -> None:
    assert {
        package: set(re.findall(r"`(\w+)`", modules)) for package, _, modules in PACKAGE.findall(PAGE)
    } == packages()


def test_page_describes_each_package_as_its_docstring_does() -> None:
    for package, purpose, _ in PACKAGE.findall(PAGE):
        said = ast.get_docstring(ast.parse((ROOT / "agent" / package / "__init__.py").read_text())) or ""
        assert purpose == " ".join(said.split("\n\n")[0].split()), package


def test_each_package_is_small_and_no_package_holds_one_file() -> None:
    for package, modules in packages().items():
        assert 2 <= len(modules) <= MOST_MODULES, package


def test_top_level_holds_the_loop_and_shared_modules() -> None:
    assert {path.stem for path in (ROOT / "agent").glob("*.py") if path.stem[0] != "_"} == {"loop", "errors", "format"}


def test_each_module_that_an_experiment_goes_through_exists() -> None:
    walk = PAGE.partition("## One experiment")[2].partition("## Where do things plug in?")[0]
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
