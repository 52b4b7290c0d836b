"""Which mechanism closes a room, what it leaves open, and the words in which it is told to do so."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from agent.errors import PreconditionError
from agent.protocol.models import Constraints
from agent.room import sandbox
from agent.room.sandbox import Layout, Sandbox, Shown, choose_sandbox, shortfalls


def test_a_room_that_cannot_be_set_up_says_so(tmp_path: Path) -> None:
    argv = Sandbox().enter(["true"], Layout(tmp_path, (), (), ()), tmp_path / "missing")
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 126
    assert done.stderr.startswith("the room could not be set up: ")
    assert "Traceback" not in done.stderr


@pytest.mark.quick
def test_what_cannot_be_enforced_is_said_or_refused() -> None:
    full, offline = (Constraints(networkPolicy=policy) for policy in ("full", "offline"))
    hosts = Constraints(networkPolicy="full", networkAllowlist=["example.org"])
    assert choose_sandbox("off", offline).says == "sandbox: off"
    assert choose_sandbox("off", offline).way is None
    assert "the network is open" in choose_sandbox("auto", hosts).says
    with pytest.raises(PreconditionError, match="networkAllowlist cannot be enforced"):
        choose_sandbox("strict", hosts)
    nothing = choose_sandbox("auto", offline, platform="plan9")
    assert nothing.hide
    assert nothing.network
    assert nothing.way is None
    assert "unconfined" in nothing.says
    assert "although networkPolicy is offline" in nothing.says
    with pytest.raises(PreconditionError, match="--sandbox strict cannot be enforced here"):
        choose_sandbox("strict", full, platform="plan9")


@pytest.mark.quick
def test_what_each_way_leaves_open() -> None:
    for way in ("namespaces", "bubblewrap", "Seatbelt"):
        assert shortfalls(way, 0, True) == []
    assert ["shared memory" in text or "UDP" in text for text in shortfalls("Landlock", 7, True)] == [True, True]
    assert len(shortfalls("Landlock", 7, False)) == 1
    assert len(shortfalls("Landlock", 2, True)) == 4
    assert len(shortfalls(None, 7, False)) == 1
    for rooted in sandbox.WITH_ROOT:
        assert shortfalls(rooted, 6, False) == []
        assert ["abstract Unix sockets" in text for text in shortfalls(rooted, 5, False)] == [True]


def stand_in(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_bubblewrap_that_does_not_work_here_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, "bwrap", "exit 1", monkeypatch)
    assert not sandbox.works.__wrapped__("bubblewrap", network=True)  # not what an earlier test has found
    record = f'echo "$@" >> {tmp_path}/asked; while [ "$1" != -- ]; do shift; done; shift; exec "$1" -c ""'
    stand_in(tmp_path, "bwrap", record, monkeypatch)
    assert sandbox.works.__wrapped__("bubblewrap", network=False)
    assert "--unshare-net" in (tmp_path / "asked").read_text()


LAYOUT = Layout(
    Path("/rooms/1"),
    (
        Shown(Path("/rooms/1/tree"), Path("/work space"), "rw"),
        Shown(Path("/work space/.venv"), Path("/work space/.venv"), "ro"),
    ),
    (Path("/usr"),),
    (Path("/usr/secret"),),
)


@pytest.mark.quick
def test_the_arguments_of_bubblewrap() -> None:
    argv = Sandbox("bubblewrap", network=False).enter(["true"], LAYOUT, Path("/work space"))
    mine = argv[: argv.index("--")]
    assert {"--unshare-net", "--unshare-pid", "--unshare-ipc", "--die-with-parent"} < {*mine}
    positions = [
        next(at for at in range(len(mine)) if mine[at : at + len(words)] == words)
        for words in (
            ["--ro-bind", "/usr", "/usr"],
            ["--bind", "/rooms/1/tree", "/work space"],
            ["--ro-bind", "/work space/.venv", "/work space/.venv"],
            ["--ro-bind", "/dev/null", "/usr/secret"],
        )
    ]
    assert positions == sorted(positions)
    assert argv[-1] == "true"
    assert "--unshare-net" not in Sandbox("bubblewrap").enter(["true"], LAYOUT, Path("/"))


@pytest.mark.quick
def test_the_profile_for_a_mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(
        Path("/private/var/folders/r"),
        (Shown(Path('/private/var/folders/r/a "b"'), Path("/ignored"), "rw"), Shown(Path("/Users/me/x"), Path(), "ro")),
        (Path("/usr"),),
        (Path("/Users/me/x/secret"),),
    )
    argv = Sandbox("Seatbelt", network=False).enter(["true"], layout, Path("/"))
    assert argv[:3] == ["sandbox-exec", "-p", sandbox.seatbelt(layout, False)]
    assert argv[-2:] == ["/", "true"]
    lines = argv[2].splitlines()
    # The last matching rule wins.
    order = [
        "(version 1)",
        "(allow default)",
        "(deny file-write*)",
        "(deny signal)",
        "(allow signal (target same-sandbox))",
        "(deny process-info*)",
        "(allow process-info* (target same-sandbox))",
        '(deny sysctl-read (sysctl-name-prefix "kern.procargs"))',
        "(deny ipc-posix-shm-write-create)",
        '(deny mach-lookup (global-name "com.apple.SecurityServer"))',
        '(deny file-read-data file-read-xattr (subpath "/Users"))',
        '(allow file-read* (subpath "/Users/me/x"))',
        '(allow file-write* (subpath "/private/var/folders/r/a \\"b\\""))',
        '(deny file-read* file-write* (subpath "/Users/me/x/secret"))',
        "(deny network*)",
        '(allow network* (subpath "/private/var/folders/r/a \\"b\\""))',
    ]
    assert [line for line in lines if line in order] == order
    assert not any("file-write" in line and "allow" in line and "/Users" in line for line in lines)
    assert all(line.count("(") == line.count(")") for line in lines if "regex" not in line)
    assert "(deny network*)" not in sandbox.seatbelt(layout, True)
    stand_in(tmp_path, "sandbox-exec", 'shift 2; exec "$@"', monkeypatch)
    assert sandbox.available(False, "darwin") == "Seatbelt"
    # As inside another sandbox, since Seatbelt does not support nesting.
    stand_in(tmp_path, "sandbox-exec", "exit 71", monkeypatch)
    assert sandbox.available(True, "darwin") is None
