"""What a stranger's bundle may take of time and memory before it is refused."""

from __future__ import annotations

import hashlib
import os
import resource
import struct
import sys
import zlib
from pathlib import Path

import pytest

from agent.errors import AutoresearchError, Interrupted
from agent.protocol.load import load_protocol
from agent.repository.bounded import Bounds, TooLong, TooMuch, run_bounded
from agent.repository.bundle import REFS, fetch_into, write_bundle
from agent.repository.git import Git
from agent.repository.workspace import Workspace
from tests.common.processes import gone, other_git
from tests.common.workspaces import git

BLOB, OFFSET_DELTA = 3, 6  # gitformat-pack(5)
GIB = 2**30


@pytest.fixture
def target(tmp_path: Path) -> Git:
    git(tmp_path, "init", "--quiet", str(tmp_path / "target"))
    return Git((tmp_path / "target").resolve())


def head_of(quick: Path, bundle: Path) -> str:
    """Write a bundle of the HEAD of a workspace, named `best`."""
    commit = git(quick, "rev-parse", "HEAD")
    write_bundle(Workspace(quick, load_protocol(quick)), bundle, {"best": commit})
    return commit


def number(value: int) -> bytes:
    """Encode a number in groups of seven bits, the lowest first."""
    parts = [value & 127]
    while value := value >> 7:
        parts[-1] |= 128
        parts.append(value & 127)
    return bytes(parts)


def entry(kind: int, content: bytes, base: bytes = b"") -> bytes:
    size = len(content)
    first = kind << 4 | size & 15
    rest = size >> 4
    return (bytes([first | 128]) + number(rest) if rest else bytes([first])) + base + zlib.compress(content, 9)


def with_delta(bundle: Path, size: int) -> None:
    """Add a blob of `size` bytes to a bundle, as copies of one of 1 MiB."""
    head, _, pack = bundle.read_bytes().partition(b"\n\n")
    count = struct.unpack(">I", pack[8:12])[0]
    base = entry(BLOB, b"\0" * 2**20)
    copies = bytes([0xF0, 0, 0, 16]) * (size // 2**20)  # 2**20 bytes from the beginning
    delta = entry(OFFSET_DELTA, number(2**20) + number(size) + copies, back(len(base)))
    body = b"PACK" + struct.pack(">II", 2, count + 2) + pack[12:-20] + base + delta
    bundle.write_bytes(head + b"\n\n" + body + hashlib.sha1(body).digest())


def back(distance: int) -> bytes:
    """Encode how far the base of a delta is before it."""
    parts = [distance & 127]
    while distance := distance >> 7:
        distance -= 1
        parts.insert(0, 128 | distance & 127)
    return bytes(parts)


def test_whole_bundle_is_fetched(quick: Path, target: Git, tmp_path: Path) -> None:
    commit = head_of(quick, tmp_path / "b")
    assert fetch_into(target, tmp_path / "b", {"best": commit}, "refs/got") is None
    assert git(target.top, "rev-parse", "refs/got/best") == commit


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not limit the address space")
def test_delta_of_gigabytes_is_refused_without_their_memory(quick: Path, target: Git, tmp_path: Path) -> None:
    commit = head_of(quick, tmp_path / "b")
    small = tmp_path / "small"
    small.write_bytes((tmp_path / "b").read_bytes())
    with_delta(small, 8 * 2**20)
    with_delta(tmp_path / "b", 3 * GIB)
    assert (tmp_path / "b").stat().st_size < 2**20
    with pytest.raises(AutoresearchError, match="b takes more than 2,048 MiB of memory to read"):
        fetch_into(target, tmp_path / "b", {"best": commit}, "refs/got")
    assert not git(target.top, "for-each-ref", "refs/got")
    assert not [*(target.folder / "objects/pack").glob("tmp_*")]
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2 * GIB // 2**10
    assert fetch_into(target, small, {"best": commit}, "refs/small") is None


def test_damaged_bundle_is_said_to_be_refused_and_not_to_take_memory(quick: Path, target: Git, tmp_path: Path) -> None:
    commit = head_of(quick, tmp_path / "b")
    content = bytearray((tmp_path / "b").read_bytes())
    content[-30] ^= 255
    (tmp_path / "b").write_bytes(content)
    found = fetch_into(target, tmp_path / "b", {"best": commit}, "refs/got")
    assert found is not None
    assert found.startswith("holds objects that git refuses")


@pytest.mark.parametrize(
    "content",
    [
        b"# v2 git bundle\n" + f"{'1' * 40} {REFS}/x\n".encode() * 2**20 + b"\nPACK",
        b"# v2 git bundle\n" + b"-" * 2**22,
        b"# v4 git bundle\n\n",
        b"",
    ],
)
def test_bundle_without_a_short_header_is_not_given_to_git(
    quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    (tmp_path / "b").write_bytes(content)
    called = tmp_path / "called"
    path = other_git(tmp_path / "bin", '*" bundle "*', "", 1, f"touch {called};")
    monkeypatch.setenv("PATH", f"{path}{os.pathsep}{os.environ['PATH']}")
    assert fetch_into(Git(quick.resolve()), tmp_path / "b", {"best": "1" * 40}, "refs/got") == "is not a git bundle"
    assert not called.exists()


@pytest.fixture
def slow(quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Git:
    """A git whose `fetch` never ends. It writes its number to `pid`."""
    stays = f"echo $$ > {tmp_path}/part; mv {tmp_path}/part {tmp_path}/pid; sleep 10000;"
    path = other_git(tmp_path / "bin", '*" fetch "*', "", 1, stays)
    monkeypatch.setenv("PATH", f"{path}{os.pathsep}{os.environ['PATH']}")
    return Git(quick.resolve())


def test_git_that_takes_too_long_is_ended(slow: Git, tmp_path: Path) -> None:
    with pytest.raises(TooMuch, match="takes longer than 1 s"):
        run_bounded(slow, ["fetch", "x"], Bounds(1.0))
    assert gone(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(("says", "kill"), [("", "kill -9 $$;"), ("error: index-pack died of signal 9", "")])
def test_git_that_was_killed_says_nothing_of_the_bundle(
    says: str, kill: str, quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = head_of(quick, tmp_path / "b")
    path = other_git(tmp_path / "bin", '*" fetch "*', says, 128, kill)
    monkeypatch.setenv("PATH", f"{path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(AutoresearchError, match=r"takes more than git gets on this machine \(ended by signal 9\)"):
        fetch_into(Git(quick.resolve()), tmp_path / "b", {"best": commit}, "refs/got")


def test_git_that_says_too_much_is_ended(quick: Path) -> None:
    with pytest.raises(TooLong, match="said more than 10 bytes"):
        run_bounded(Git(quick.resolve()), ["log"], Bounds(60.0, most=10))


def test_git_is_ended_when_asked(slow: Git, quick: Path, tmp_path: Path) -> None:
    commit = head_of(quick, tmp_path / "b")

    def tick() -> None:
        if (tmp_path / "pid").exists():
            raise Interrupted("stopped", 130)

    with pytest.raises(Interrupted):
        fetch_into(slow, tmp_path / "b", {"best": commit}, "refs/got", tick)
    assert gone(int((tmp_path / "pid").read_text()))
