"""docs/cli.md is what the commands say of themselves, the same on every machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.common.cli_reference import COMMAND, page
from tests.common.workspaces import ROOT

pytestmark = pytest.mark.quick

PAGE = ROOT / "docs" / "cli.md"
# What the program hands to its own processes: no user sets these.
INTERNAL = {
    "AUTORESEARCH_ALLOW_UNTRACED",
    "AUTORESEARCH_EVALUATOR",
    "AUTORESEARCH_HOLDOUT",
    "AUTORESEARCH_KEEP_MODEL",
    "AUTORESEARCH_LOSSES",
    "AUTORESEARCH_READY",
    "AUTORESEARCH_REFERENCE",
    "AUTORESEARCH_RUN",
    "AUTORESEARCH_SNAPSHOT",
}


def test_page_matches_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("AUTORESEARCH_TAG", "mine")
    assert page() == PAGE.read_text(), f"run `{COMMAND}`"


def test_page_names_every_variable() -> None:
    text = PAGE.read_text()
    sources = [ROOT / "prepare.py", ROOT / "train.py", *ROOT.glob("agent/**/*.py"), *ROOT.glob("harness/*.py")]
    read = {name for path in sources for name in re.findall(r"AUTORESEARCH_[A-Z_]*[A-Z]", path.read_text())}
    assert {name for name in read - INTERNAL if f"| `{name}` |" not in text} == set()


def test_page_names_no_path_of_this_machine() -> None:
    assert str(ROOT) not in PAGE.read_text()
    assert str(Path.home()) not in PAGE.read_text()


def test_page_keeps_apostrophes() -> None:
    text = PAGE.read_text()
    assert "With A alone, prints A's gain over the baseline." in text
    assert re.search(r"\w`s\b", text) is None


def test_page_shows_no_default_of_a_flag_without_one() -> None:
    text = PAGE.read_text()
    for flag in ("at-login", "ahead", "each", "mcp"):
        assert f"| `--{flag} / --no-{flag}` |  |" in text
