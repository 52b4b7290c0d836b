"""A confirmed session with its claim, a copy of the claim to change, and a clone that has never seen the session."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.common.claims import fresh_clone, make_claimed
from tests.common.workspaces import made_once


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `author` and `claim`: only to be read."""
    return made_once(tmp_path_factory, "claimed", make_claimed)


@pytest.fixture
def author(published: Path) -> Path:
    return published / "author"


@pytest.fixture
def claim(published: Path, tmp_path: Path) -> Path:
    return shutil.copytree(published / "claim", tmp_path / "claim")


@pytest.fixture
def reader(author: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The clone of somebody else, with another HOME."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(home / "cache"))
    return fresh_clone(author, tmp_path / "reader")
