"""Untrusted files are read only if they are regular and small, and written without following links."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.system.files import Unusable, read_bounded, read_end, reason, remove_tree, write_whole
from tests.common.files import nested

pytestmark = pytest.mark.quick

MIB = 2**20


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(16 * 2**30)


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def linked(path: Path) -> None:
    path.with_name("target").write_text("secret")
    path.symlink_to(path.with_name("target"))


ODD: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: os.mkfifo(path), "is not a regular file"),
    (lambda path: path.mkdir(), "is not a regular file"),
    (lambda path: path.symlink_to("/dev/zero"), "is a link"),
    (dangling, "is a link"),
    (linked, "is a link"),
    (sparse, "is larger than 64 MiB"),
]


@pytest.mark.parametrize(("make", "clause"), ODD)
def test_odd_files_are_refused_at_once(tmp_path: Path, make: Callable[[Path], object], clause: str) -> None:
    path = tmp_path / "file"
    make(path)
    began = time.monotonic()
    with pytest.raises(Unusable) as refused:
        read_bounded(path, 64 * MIB)
    assert time.monotonic() - began < 60  # some of them have no end
    assert str(refused.value) == refused.value.strerror == clause
    assert isinstance(refused.value, OSError)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/urandom"])
def test_devices_are_refused(device: str) -> None:
    with pytest.raises(Unusable, match="is not a regular file"):
        read_bounded(Path(device), MIB)


def test_missing_file_and_nul_in_a_name_are_os_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "none", MIB)
    with pytest.raises(OSError, match="file name"):
        read_bounded(tmp_path / "a\0b", MIB)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (Unusable("is a link"), "it is a link"),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), "Permission denied"),
        (OSError("no number"), "no number"),
    ],
    ids=["ours", "system", "bare"],
)
def test_the_reason_goes_on_after_a_colon(error: OSError, says: str) -> None:
    assert reason(error) == says


def test_reads_up_to_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    assert len(read_bounded(path, 1000)) == 1000
    with pytest.raises(Unusable, match="999 bytes"):
        read_bounded(path, 999)
    assert read_end(path, 10) == b"x" * 10


def test_write_replaces_a_link_and_leaves_its_target(tmp_path: Path) -> None:
    target, path = tmp_path / "dotfile", tmp_path / "results.tsv"
    target.write_text("mine")
    path.symlink_to(target)
    (tmp_path / ".results.tsv.part").symlink_to(target)
    (tmp_path / "results.tsv.part").symlink_to(target)
    write_whole(path, "rows\n")
    assert target.read_text() == "mine"
    assert not path.is_symlink()
    assert path.read_text() == "rows\n"


def test_write_keeps_the_mode_and_leaves_no_part(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)
    write_whole(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    write_whole(path, b"new", 0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OSError):
        write_whole(folder, b"cannot be replaced by a file")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]


def test_a_tree_is_removed_however_deep(tmp_path: Path) -> None:
    top, other = tmp_path / "top", tmp_path / "other"
    top.mkdir()
    other.mkdir()
    (other / "mine").write_text("mine")
    nested(top, 3000)
    (top / "link").symlink_to(other)
    os.mkfifo(top / "pipe")
    (top / "closed" / "inside").mkdir(parents=True)
    (top / "closed").chmod(0)
    remove_tree(top)
    assert not top.exists()
    assert (other / "mine").read_text() == "mine"
