"""The pages: each is in the site's navigation, every link and anchor resolves, and lines of prose stay short."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.common.workspaces import ROOT

pytestmark = pytest.mark.quick

DOCS = ROOT / "docs"
AT_ROOT = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")  # `.ci/site` copies them into the site
LONGEST_LINE, LONGEST_README = 100, 90

FENCE = re.compile(r"^ *(`{3,}|~{3,})")
CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(
    r"\]\(\s*<?([^)\s>]+)>?[^)]*\)|^ {0,3}\[[^\]]+\]: +(\S+)|<(?:a|img)\b[^>]*\b(?:href|src)=\"([^\"]+)\"", re.M
)
ONE_LINK = re.compile(r"^\s*(?:[-*>] +)?(?:!?\[[^\]]*\]\([^)]*\)|<?https?://\S+)[.,]?$")
HEADING = re.compile(r"^#{1,6} +(.+?)(?: +#+)? *$")


def navigation(entry: object) -> Iterator[str]:
    """Yield the pages below an entry of `nav`."""
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, list):
        for each in entry:
            yield from navigation(each)
    elif isinstance(entry, dict):
        for each in entry.values():
            yield from navigation(each)


def lines_of_prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines that stand outside fenced code."""
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        mark = FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip(" `~"):
                fence = ""
        elif mark:
            fence = mark[1]
        else:
            yield number, line


def without_code(text: str) -> str:
    """Return the text with its fences and code spans blanked, line for line."""
    kept = dict(lines_of_prose(text))
    whole = "\n".join(kept.get(number, "") for number in range(1, len(text.splitlines()) + 1))
    return CODE_SPAN.sub(lambda span: re.sub(r"[^\n]", " ", span[0]), whole)


def links(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the target of every link and picture."""
    prose = without_code(text)
    for found in LINK.finditer(prose):
        yield prose.count("\n", 0, found.start()) + 1, found[1] or found[2] or found[3]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings that both the site and a git host know."""
    known = set(re.findall(r"\bid=\"([^\"]+)\"", text))
    for _, line in lines_of_prose(text):
        if heading := HEADING.match(line):
            title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).replace("`", "").replace("*", "")
            slug = re.sub(r"[^\w\s-]", "", title).strip().lower()
            known |= {slug.replace(" ", "-")} & {re.sub(r"[-\s]+", "-", slug)}
    return known


def broken_links(page: Path, root: Path) -> list[str]:
    """Name the links of a page that lead nowhere: on a git host, and for a page of docs/ on the site too."""
    docs = root / "docs"
    reachable = {(root / name).resolve() for name in ("README.md", *AT_ROOT)}
    problems = []
    for number, target in links(page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page.resolve()
        where = f"{page.relative_to(root)}:{number}: {target}"
        if not file.exists():
            problems.append(f"{where}: file not found")
        elif page.is_relative_to(docs) and not file.is_relative_to(docs.resolve()) and file not in reachable:
            problems.append(f"{where}: outside the site")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text()):
            problems.append(f"{where}: anchor not found")
    return problems


def long_lines(page: Path, root: Path) -> list[str]:
    """Name the lines of prose beyond 100 columns; tables and lines that are one link may be longer."""
    return [
        f"{page.relative_to(root)}:{number}: {len(line)} columns"
        for number, line in lines_of_prose(page.read_text())
        if len(line) > LONGEST_LINE and not line.lstrip().startswith("|") and not ONE_LINK.match(line)
    ]


def outside_navigation(nav: object, root: Path) -> list[str]:
    """Name the pages that the navigation lacks, has twice, or has without a file."""
    named = list(navigation(nav))
    docs = root / "docs"
    pages = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    twice = {name for name in named if named.count(name) > 1}
    absent = {
        name for name in named if not (docs / name).is_file() and not (name in AT_ROOT and (root / name).is_file())
    }
    return (
        [f"{name}: not in the navigation" for name in sorted((pages | set(AT_ROOT)) - set(named))]
        + [f"{name}: twice in the navigation" for name in sorted(twice)]
        + [f"{name}: file not found" for name in sorted(absent)]
    )


def pages() -> list[Path]:
    """Return every page of the repository that a reader is sent to."""
    at_root = [ROOT / name for name in ("README.md", *AT_ROOT)]
    return [page for page in at_root if page.exists()] + sorted(DOCS.rglob("*.md"))


def test_every_link_and_anchor_resolves() -> None:
    problems = [problem for page in pages() for problem in broken_links(page, ROOT)]
    assert not problems, "\n".join(problems)


def test_navigation_has_every_page_once() -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    problems = outside_navigation(nav, ROOT)
    assert not problems, "\n".join(problems)


def test_lines_of_prose_fit_100_columns() -> None:
    problems = [problem for page in pages() for problem in long_lines(page, ROOT)]
    assert not problems, "\n".join(problems)


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= LONGEST_README


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A small repository with pages, all of them sound."""
    (tmp_path / "docs").mkdir()
    for name in AT_ROOT:
        (tmp_path / name).write_text("# A page\n")
    (tmp_path / "docs/index.md").write_text("# Start here\n\n[more](more.md#what-it-is)\n")
    (tmp_path / "docs/more.md").write_text("# More\n\n## What it `is`\n\n[back](index.md) [log](../CHANGELOG.md)\n")
    return tmp_path


@pytest.mark.parametrize(
    ("link", "problem"),
    [
        ("[a](nowhere.md)", "file not found"),
        ("![a](nowhere.png)", "file not found"),
        ("[a](more.md#nowhere)", "anchor not found"),
        ("[a](#nowhere)", "anchor not found"),
        ('<a href="nowhere.html">a</a>', "file not found"),
        ("[a](../train.py)", "outside the site"),
        ("[a][b]\n\n[b]: nowhere.md", "file not found"),
    ],
)
def test_broken_link_is_found(site: Path, link: str, problem: str) -> None:
    (site / "train.py").write_text("")
    page = site / "docs/index.md"
    page.write_text(f"# Start here\n\n{link}\n")
    (found,) = broken_links(page, site)
    assert found.endswith(problem)


@pytest.mark.parametrize("text", ["`[a](nowhere.md)`", "```\n[a](nowhere.md)\n```", "[a](https://example.com/x)"])
def test_code_and_other_sites_are_left_alone(site: Path, text: str) -> None:
    page = site / "docs/index.md"
    page.write_text(f"# Start here\n\n{text}\n")
    assert broken_links(page, site) == []


def test_sound_pages_have_no_broken_link(site: Path) -> None:
    assert [problem for page in site.rglob("*.md") for problem in broken_links(page, site)] == []


@pytest.mark.parametrize(
    ("nav", "problem"),
    [
        (["index.md", *AT_ROOT], ["more.md: not in the navigation"]),
        (["index.md", "more.md", "CHANGELOG.md", "CONTRIBUTING.md"], ["SECURITY.md: not in the navigation"]),
        ([{"A": "index.md"}, {"B": ["more.md", "index.md", *AT_ROOT]}], ["index.md: twice in the navigation"]),
        (["index.md", "more.md", "gone.md", *AT_ROOT], ["gone.md: file not found"]),
        (["index.md", {"B": ["more.md", *AT_ROOT]}], []),
    ],
)
def test_page_outside_navigation_is_found(site: Path, nav: list[object], problem: list[str]) -> None:
    assert outside_navigation(nav, site) == problem


def test_long_line_is_found_but_not_in_tables_code_and_links(site: Path) -> None:
    page, long = site / "docs/index.md", "word " * 30
    page.write_text(f"# Start here\n\n{long}\n\n| {long} |\n\n```\n{long}\n```\n\n![{long}](more.md)\n")
    assert long_lines(page, site) == ["docs/index.md:3: 150 columns"]
