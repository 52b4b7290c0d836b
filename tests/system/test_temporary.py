"""The folder for temporary files disappears while the program runs."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from agent.system import temporary


def test_deleted_folder_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, other = tmp_path / "gone", tmp_path / "other"
    gone.mkdir()
    other.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(gone))
    monkeypatch.setenv("TEMP", str(other))
    assert temporary.place() == gone
    with temporary.folder("a-") as name:
        assert Path(name).parent == gone
    gone.rmdir()
    with temporary.folder("a-") as name:
        assert Path(name).parent == other
