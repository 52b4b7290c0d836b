"""Rooms with the mechanisms that this system has: commands try to write, to connect and to read the user's files."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import errno
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent.execution.process import Command, Ended, run_command
from agent.protocol.load import load_protocol
from agent.protocol.models import Constraints
from agent.repository.workspace import Workspace
from agent.room import confine, room, sandbox, variables
from agent.room.places import devices, places, split
from agent.room.room import Furniture, Room, untracked_files
from agent.room.sandbox import Sandbox, Way, choose_sandbox, temporary_folder
from tests.common.disks import can_mount
from tests.common.sessions import journal, rows
from tests.common.workspaces import ROOT, Cli, commit_all, git, make_repository, set_protocol

# Prints the result of each attempt as JSON.
TRIES = """
import json, os, pathlib, socket, subprocess, sys, tempfile

def attempt(work):
    try:
        work()
        return "yes"
    except OSError as error:
        return error.__class__.__name__

own, real, person, outside, pid, port = sys.argv[1:]
own, real, person, outside = map(pathlib.Path, (own, real, person, outside))
def connect(): socket.create_connection(("127.0.0.1", int(port)), timeout=5).close()
def loopback():
    with socket.socket(type=socket.SOCK_DGRAM) as sender, socket.socket(type=socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        sender.sendto(b"x", receiver.getsockname())
        receiver.settimeout(5)
        receiver.recv(1)
def names(folder):
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
def write(path): return attempt(lambda: path.write_text("written by a run"))
def append(path): return attempt(lambda: path.open("a").write("written by a run"))
print(json.dumps({
    "write own": write(own / "new.txt"),
    "write tracked": write(own / "train.py"),
    "write home": write(pathlib.Path.home() / "new.txt"),
    "write temporary": attempt(lambda: tempfile.NamedTemporaryFile().close()),
    "write cache": write(pathlib.Path(os.environ["AUTORESEARCH_CACHE"]) / "new.txt"),
    "write null": write(pathlib.Path("/dev/null")),
    "read urandom": attempt(lambda: os.close(os.open("/dev/urandom", os.O_RDONLY))),
    "write shared file": append(own / "notes.txt"),
    "write shared folder": append(own / "data" / "text.txt"),
    "make in shared folder": write(own / "data" / "new.txt"),
    "write environment": append(own / ".venv" / "installed.py"),
    "make in environment": write(own / ".venv" / "new.py"),
    "write outside": write(outside / "new.txt"),
    "change outside": append(outside / "old.txt"),
    "truncate outside": attempt(lambda: os.truncate(outside / "old.txt", 0)),
    "remove outside": attempt(lambda: (outside / "other.txt").unlink()),
    "grandchild outside": "yes" if subprocess.call(["touch", outside / "touched"], stderr=-3) == 0 else "no",
    "read outside": attempt((outside / "old.txt").read_text),
    "read person": attempt((person / "keys.txt").read_text),
    "read shadow": attempt(lambda: open("/etc/shadow", "rb").read(1) or os.stat("/nothing in it")),
    "read git": attempt((real / ".git" / "HEAD").read_text),
    "read own git": attempt((own / ".git" / "HEAD").read_text),
    "read journal": attempt((real / ".autoresearch" / "journal.jsonl").read_text),
    "read keys": attempt((own / ".env").read_text),
    "read loop's environment": attempt(pathlib.Path("/proc", pid, "environ").read_bytes),
    "signal loop": attempt(lambda: os.kill(int(pid), 0)),
    "connect": attempt(connect),
    "own loopback": attempt(loopback),
    "dev": names("/dev"),
    "texts": [(own / name).read_text()[:4] for name in ("notes.txt", "data/text.txt", ".venv/installed.py")],
    "home": str(pathlib.Path.home()),
    "temporary": tempfile.gettempdir(),
    "variables": sorted(os.environ),
}, default=str))
"""
WAYS: list[Any] = [
    pytest.param(way, marks=pytest.mark.skipif(not sandbox.works(way, False), reason=f"{way} does not work here"))
    for way in ("namespaces", "bubblewrap", "Landlock")
]
ALL: list[Any] = [*WAYS, pytest.param(None, id="unconfined")]
OWN = {
    "write own",
    "write tracked",
    "write home",
    "write temporary",
    "write cache",
    "write null",
    "read urandom",
    "write shared file",
    "write shared folder",
    "make in shared folder",
    "own loopback",
}
SECRETS = ("X_PASSPHRASE", "HF_TOKENS", "DATABASE_URL", "SLACK_WEBHOOK", "OPENAI_API_KEY", "GITHUB_TOKEN", "STRIPE_KEY")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Make a repository with untracked files in a home folder that holds other files as well."""
    person, outside = tmp_path / "person", tmp_path / "outside"
    monkeypatch.setenv("HOME", str(person))
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache of the person's"))
    top = person / "repository"
    for folder in (outside, top / "data", top / ".venv", top / ".autoresearch"):
        folder.mkdir(parents=True)
    (person / "keys.txt").write_text("secret")
    for name in ("old.txt", "other.txt"):
        (outside / name).write_text("old")
    (top / "train.py").write_text("tracked\n")
    (top / ".gitignore").write_text("data/\n.venv/\n.autoresearch/\nnotes.txt\n.env\n")
    make_repository(top)
    for name in ("notes.txt", "data/text.txt", ".venv/installed.py", ".autoresearch/journal.jsonl", ".env"):
        (top / name).write_text("text")
    return Workspace(top, load_protocol(ROOT))


@contextlib.contextmanager
def opened(way: Way | None, workspace: Workspace, *, network: bool = True, **furniture: Any) -> Iterator[Room]:
    box = Sandbox(way, network=network, hide=True)
    found = Furniture(command=sys.executable, untracked=untracked_files(workspace), **furniture)
    with room.opened(box, workspace, workspace.head, found) as place:
        yield place


def run(place: Room, command: str, log: Path, limit: float = 60) -> Ended:
    return run_command(
        Command(
            lambda report: place.arguments(command, report=report),
            cwd=place.layout.folder,
            env=place.environment,
            log=log,
            limit=limit,
        )
    )


def tries(way: Way | None, workspace: Workspace, tmp_path: Path, *, network: bool = True) -> dict[str, Any]:
    with socket.create_server(("127.0.0.1", 0)) as server, opened(way, workspace, network=network) as place:
        (place.workspace / "tries.py").write_text(TRIES)
        folders = place.inside, workspace.top, tmp_path / "person", tmp_path / "outside"
        words = " ".join(f"'{each}'" for each in (*folders, os.getpid(), server.getsockname()[1]))
        ended = run(place, f"{sys.executable} tries.py {words}", tmp_path / "log")
        text = (tmp_path / "log").read_text()
        assert ended.returncode == 0, text
        found: dict[str, Any] = {
            **json.loads(text),
            "own home": str(place.seen(place.layout.folder / "home")),
            "own temporary": str(place.seen(place.layout.folder / "tmp")),
        }
    return found


def succeeded(found: dict[str, Any]) -> set[str]:
    return {name for name, what in found.items() if what == "yes"}


# ----------------------------------------------------------------------------------------------------------------------
# Access of a run


@pytest.mark.parametrize("way", WAYS)
def test_a_run_reaches_its_room_and_nothing_else(workspace: Workspace, tmp_path: Path, way: Way) -> None:
    with_root = way in sandbox.WITH_ROOT
    found = tries(way, workspace, tmp_path)
    old_kernel = {"signal loop"} if way == "Landlock" and confine.version() < 6 else set()
    assert succeeded(found) == OWN | {"connect"} | old_kernel
    assert found["texts"] == ["text"] * 3
    assert found["home"] == found["own home"] == (str(tmp_path / "person") if with_root else found["home"])
    assert found["temporary"] == found["own temporary"] == ("/tmp" if with_root else found["temporary"])
    if with_root:
        gpu = {node.name for node in devices()} - {"null", "zero", "urandom"}
        expected = {"null", "zero", "urandom", "fd", "stdin", "stdout", "stderr", "shm"}
        assert set(found["dev"]) - gpu == expected
    require_untouched(workspace, tmp_path)


def require_untouched(workspace: Workspace, tmp_path: Path) -> None:
    for name in ("notes.txt", "data/text.txt", ".venv/installed.py"):
        assert (workspace.top / name).read_text() == "text"
    assert (workspace.top / "train.py").read_text() == "tracked\n"
    assert [path.name for path in (workspace.top / "data").iterdir()] == ["text.txt"]
    assert [path.name for path in (workspace.top / ".venv").iterdir()] == ["installed.py"]
    assert sorted(path.name for path in (tmp_path / "outside").iterdir()) == ["old.txt", "other.txt"]
    assert (tmp_path / "outside" / "old.txt").read_text() == "old"
    assert sorted(path.name for path in (tmp_path / "person").iterdir()) == ["keys.txt", "repository"]


def test_an_unconfined_run_still_has_a_room(workspace: Workspace, tmp_path: Path) -> None:
    """It can write elsewhere, but the usual files of a program are deleted with the room."""
    found = tries(None, workspace, tmp_path)
    assert succeeded(found) >= OWN
    assert "read keys" not in succeeded(found)
    assert found["home"] == found["own home"]
    assert found["temporary"] == found["own temporary"]
    assert (workspace.top / "train.py").read_text() == "tracked\n"
    assert (workspace.top / "notes.txt").read_text() == (workspace.top / "data/text.txt").read_text() == "text"


@pytest.mark.parametrize("way", WAYS)
def test_what_is_too_large_to_copy_never_changes(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    monkeypatch.setattr(room, "LARGEST_COPY", 1)
    found = tries(way, workspace, tmp_path)
    layered = {"write shared folder", "make in shared folder"} if way == "namespaces" else set()
    shared = {"write shared file", "write shared folder", "make in shared folder"}
    assert succeeded(found) & shared == layered
    assert found["texts"] == ["text"] * 3
    require_untouched(workspace, tmp_path)


@pytest.mark.parametrize("way", ALL)
def test_variables_are_hidden_and_can_be_let_through(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way | None
) -> None:
    for name in (*SECRETS, "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "x")
    seen = tries(way, workspace, tmp_path)["variables"]
    assert not {*SECRETS} & {*seen}
    assert {"PATH", "TOKENIZERS_PARALLELISM"} < {*seen}
    monkeypatch.setenv(variables.KEEP_VARIABLE, "OTHER, HF_TOKENS")
    assert {*SECRETS} & {*tries(way, workspace, tmp_path)["variables"]} == {"HF_TOKENS"}


@pytest.mark.parametrize("way", WAYS)
def test_no_way_lets_a_run_make_lasting_memory(workspace: Workspace, tmp_path: Path, way: Way) -> None:
    """No namespace would show shared memory to the next run either, but keyrings have none."""
    script = (
        "import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.shmget(0, 4096, 0o1600), ctypes.get_errno())"
    )
    with opened(way, workspace) as place:
        (place.workspace / "memory.py").write_text(script)
        assert run(place, f"{sys.executable} memory.py", tmp_path / "log").returncode == 0
    assert (tmp_path / "log").read_text() == f"-1 {errno.EPERM}\n"


@pytest.mark.skipif(not sandbox.works("Landlock", False), reason="Landlock does not work here")
def test_run_under_landlock_leaves_no_note_in_the_attributes_of_a_file(workspace: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "outside" / "old.txt"
    calls = (f"os.setxattr({str(file)!r}, 'user.note', b'x')", f"os.chown({str(file)!r}, os.getuid(), os.getgid())")
    for call in calls:
        with opened("Landlock", workspace) as place:
            (place.workspace / "notes.py").write_text(f"import os\n{call}\n")
            ended = run(place, f"{sys.executable} notes.py", tmp_path / "log")
        assert ended.returncode == 1
        assert "PermissionError" in (tmp_path / "log").read_text()


# Opens settings of the machine for writing, and changes a device; prints what succeeded.
OF_ROOT = """
import os, sys
made, settings = [], [f"/proc/{name}" for name in ("sysrq-trigger", "mtrr", "irq/default_smp_affinity")]
settings += [f"/proc/sys/{name}" for name in ("kernel/core_pattern", "kernel/hostname", "vm/swappiness")]
def attempt(name, work):
    try:
        work()
        made.append(name)
    except OSError:
        pass
for path in settings:
    attempt(path, lambda: os.close(os.open(path, os.O_WRONLY)))
for node in sys.argv[1:]:
    found = os.stat(node)
    attempt(f"chmod {node}", lambda: os.chmod(node, found.st_mode & 0o7777))
    attempt(f"chown {node}", lambda: os.chown(node, found.st_uid, found.st_gid))
    attempt(f"utime {node}", lambda: os.utime(node, ns=(found.st_atime_ns, found.st_mtime_ns)))
    attempt(f"write {node}", lambda: open(node, "r+b", buffering=0).write(b"x"))
print(made)
"""


@pytest.mark.skipif(not sandbox.works("namespaces", False), reason="namespaces do not work here")
def test_root_changes_no_setting_and_no_device_of_the_machine(workspace: Workspace, tmp_path: Path) -> None:
    with opened("namespaces", workspace) as place:
        (place.workspace / "of_root.py").write_text(OF_ROOT)
        ended = run(place, f"{sys.executable} of_root.py /dev/null /dev/zero", tmp_path / "log")
    text = (tmp_path / "log").read_text()
    assert ended.returncode == 0, text
    assert ast.literal_eval(text) == ["write /dev/null", "write /dev/zero"]


@pytest.mark.parametrize("way", WAYS)
def test_a_closed_network_is_closed(workspace: Workspace, tmp_path: Path, way: Way) -> None:
    found = tries(way, workspace, tmp_path, network=False)
    assert found["connect"] != "yes"
    assert found["own loopback"] == "yes"  # libraries talk to their own processes through it


@pytest.mark.parametrize("way", ALL)
def test_nothing_is_left_for_a_second_run(workspace: Workspace, tmp_path: Path, way: Way | None) -> None:
    folders = ["$HOME", "$TMPDIR", "$AUTORESEARCH_CACHE", ".", "data"]
    folders += ["/dev/shm"] if way in sandbox.WITH_ROOT else []
    with opened(way, workspace) as place:
        planted = " && ".join(f'mkdir -p "{each}/.hidden" && echo x > "{each}/.hidden/warm"' for each in folders)
        assert run(place, planted, tmp_path / "log").returncode == 0, (tmp_path / "log").read_text()
    with opened(way, workspace) as place:
        searched = " ".join(f'"{each}"' for each in folders)
        assert run(place, f"find {searched} -name warm", tmp_path / "log").returncode == 0
    assert (tmp_path / "log").read_text() == ""
    assert not Path("/dev/shm/.hidden").exists()
    assert not (workspace.top / "data" / ".hidden").exists()


@pytest.mark.parametrize("way", ALL)
def test_daemons_with_an_empty_environment_end_with_the_run(
    workspace: Workspace, tmp_path: Path, way: Way | None
) -> None:
    mark = f"mark-{os.getpid()}-{way}"
    script = (
        "import subprocess, sys, time\n"
        "sleeps = [sys.executable, '-c', 'import time; time.sleep(600)', sys.argv[1]]\n"
        "starts = f'import subprocess; subprocess.Popen({sleeps}, start_new_session=True, env={{}})'\n"
        "subprocess.run([sys.executable, '-c', starts], start_new_session=True, env={})\n"
        "time.sleep(float(sys.argv[2]))\n"
    )
    for seconds, stopped in (("0", False), ("600", True)):
        with opened(way, workspace) as place:
            (place.workspace / "daemon.py").write_text(script)
            command = f"{sys.executable} daemon.py {mark} {seconds}"
            ended = run(place, command, tmp_path / "log", limit=2 if stopped else 60)
        assert (ended.stopped is not None) is stopped, (tmp_path / "log").read_text()
        assert stopped or len(ended.left) == 1
        left = [p for p in psutil.process_iter(["cmdline", "status"]) if mark in (p.info["cmdline"] or ())]
        assert [p for p in left if p.info["status"] != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize("way", ALL)
def test_exit_codes_and_signals_come_through(workspace: Workspace, tmp_path: Path, way: Way | None) -> None:
    for command, code in (("exit 7", 7), ("kill -9 $$", -9), ("kill -11 $$", -11), (f"{sys.executable} -c 1", 0)):
        with opened(way, workspace) as place:
            assert run(place, command, tmp_path / "log").returncode in (code, 128 - code)


@pytest.mark.parametrize("way", WAYS)
def test_places_that_are_asked_for_are_shown(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    old = tmp_path / "outside" / "old.txt"
    monkeypatch.setenv("AUTORESEARCH_READ", str(tmp_path / "outside"))
    with opened(way, workspace) as place:
        assert run(place, f"cat {old} && ! touch {old}x", tmp_path / "log").returncode == 0
    monkeypatch.delenv("AUTORESEARCH_READ")
    with opened(way, workspace, write=(tmp_path / "outside",)) as place:
        assert run(place, f"touch {tmp_path}/outside/made", tmp_path / "log").returncode == 0
    assert (tmp_path / "outside" / "made").exists()
    with opened(way, workspace, read=(tmp_path / "outside",), hidden=(old,)) as place:
        assert run(place, f"cat {tmp_path}/outside/other.txt", tmp_path / "log").returncode == 0
        assert "old" in (tmp_path / "log").read_text()
        run(place, f"cat {old}", tmp_path / "log")
        assert (tmp_path / "log").read_text() != "old"


@pytest.mark.parametrize("way", WAYS)
def test_names_are_found_where_the_system_keeps_them(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    """systemd-resolved and others make /etc/resolv.conf a link to a file outside of /etc."""
    kept, beside = tmp_path / "run" / "stub.conf", tmp_path / "run" / "private.txt"
    kept.parent.mkdir()
    kept.write_text("nameserver 127.0.0.53\n")
    beside.write_text("private\n")
    link = tmp_path / "resolv.conf"
    link.symlink_to("run/stub.conf")
    monkeypatch.setattr("agent.room.places.OF_NETWORK", (str(link), str(tmp_path / "missing")))
    with opened(way, workspace) as place:
        assert run(place, f"cat {kept}; ! cat {beside}", tmp_path / "log").returncode == 0
        assert (tmp_path / "log").read_text().startswith("nameserver")
        assert "private\n" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("way", WAYS)
def test_paths_that_are_asked_for_may_be_relative(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    monkeypatch.chdir(workspace.folder)
    monkeypatch.setenv("AUTORESEARCH_READ", os.path.relpath(tmp_path / "outside"))
    with opened(way, workspace) as place:
        assert run(place, f"cat {tmp_path}/outside/old.txt", tmp_path / "log").returncode == 0


@pytest.mark.parametrize("way", ALL)
def test_the_cache_of_a_run_holds_what_it_is_given(workspace: Workspace, tmp_path: Path, way: Way | None) -> None:
    given = {"current": b"a", "snapshots/a/record": b"{}", "texts": tmp_path / "outside"}
    with opened(way, workspace, cache=given) as place:
        command = 'cd "$AUTORESEARCH_CACHE" && cat current snapshots/a/record texts/old.txt'
        assert run(place, command, tmp_path / "log").returncode == 0
    assert (tmp_path / "log").read_text() == "a{}old"


# ----------------------------------------------------------------------------------------------------------------------
# Folders of rooms


@pytest.mark.parametrize("way", ALL)
def test_a_room_is_removed_whatever_was_made_in_it(workspace: Workspace, tmp_path: Path, way: Way | None) -> None:
    nests = (
        "import os\nfor _ in range(1500):\n    os.mkdir('a' * 30)\n    os.chdir('a' * 30)\nopen('file', 'w').close()\n"
    )
    closes = "mkdir -p closed/within && touch closed/within/file && chmod 000 closed/within closed"
    with opened(way, workspace) as place:
        (place.workspace / "nests.py").write_text(nests)
        ended = run(place, f"{sys.executable} nests.py && {closes}", tmp_path / "log")
        assert ended.returncode == 0, (tmp_path / "log").read_text()
        folder = place.layout.folder
        assert folder.exists()
    assert not folder.exists()


def test_a_killed_loop_leaves_no_temporary_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    dies = (
        "import os, pathlib, sys\nfrom agent.room.sandbox import temporary_folder\n"
        "kept = temporary_folder(pathlib.Path(sys.argv[1]))\nkept.__enter__()\nos.kill(os.getpid(), 9)"
    )
    for workspace in ("/one", "/one", "/two"):
        subprocess.run([sys.executable, "-c", dies, workspace], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    with temporary_folder(Path("/one")) as name:
        assert len(list(tmp_path.iterdir())) == 2
        assert name.is_dir()
    assert len(list(tmp_path.iterdir())) == 1


# Runs as the first program of a mount namespace, with a folder for temporary files like those of containers.
IN_CONTAINER = """
import os, pathlib, subprocess, sys, tempfile
from agent.room.room import Furniture, UntrackedFiles, opened
from agent.room.sandbox import Sandbox, layers_kept
from agent.protocol.load import load_protocol
from agent.repository.workspace import Workspace

here, top, root = map(pathlib.Path, sys.argv[1:])
for name in ("lower", "upper", "work", "tmp"):
    (here / name).mkdir()
layers = f"lowerdir={here}/lower,upperdir={here}/upper,workdir={here}/work"
subprocess.run(["mount", "-t", "overlay", "none", here / "tmp", "-o", layers], check=True)
tempfile.tempdir = str(here / "tmp")
print(layers_kept())
workspace = Workspace(top, load_protocol(root))
results = ("data/deep/new.txt", "data/linked.txt", "data/away/passwd", "data/text.txt")
shown = Furniture(command=sys.executable, untracked=UntrackedFiles(("data",)), results=results)
write = "mkdir -p data/deep; echo $0 > data/deep/new.txt; ln -sf /etc/passwd data/linked.txt; ln -sfn /etc data/away"
with opened(Sandbox("namespaces"), workspace, workspace.head, shown) as room:
    for word in ("written", "again"):
        command = ["/bin/sh", "-c", write, word]
        subprocess.run(room.arguments(command), env=room.environment, check=True)
        print(room.written("data/deep/new.txt").read_text().strip(), room.holds(room.written("data/deep/new.txt")))
    usable = [room.written(each) for each in results[1:]]
    print([each.is_file() and not each.is_symlink() and room.holds(each.parent) for each in usable])
layers = pathlib.Path(os.environ["AUTORESEARCH_CACHE"] + "-layers")
print([*map(str, layers.iterdir())] if layers.exists() else [])
"""


@pytest.mark.parametrize("spare", [True, False], ids=["beside the cache", "in memory"])
@pytest.mark.skipif(
    not sandbox.works("namespaces", True) or os.getuid() != 0, reason="only root may mount an overlay to imitate one"
)
def test_writes_are_kept_where_no_temporary_file_system_holds_them(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spare: bool
) -> None:
    """Results are read from there, also if only memory can hold writes."""
    (tmp_path / "container").mkdir()
    cache = tmp_path / "cache" if spare else tmp_path / "container" / "tmp" / "cache"
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(cache))
    words = [sys.executable, "-c", IN_CONTAINER, str(tmp_path / "container"), str(workspace.top), str(ROOT)]
    done = subprocess.run(["unshare", "--mount", *words], capture_output=True, text=True, check=False, cwd=ROOT)
    kept = str(tmp_path / "cache-layers") if spare else "memory"
    said = [kept, "written True", "again True", "[False, False, False]", "[]"]
    assert done.stdout.splitlines() == said, done.stderr
    assert (workspace.top / "data" / "text.txt").read_text() == "text"
    assert not (workspace.top / "data" / "deep").exists()


@pytest.mark.skipif(not can_mount(), reason="only root on Linux may mount a disk")
@pytest.mark.parametrize("way", WAYS)
def test_disk_mounted_in_an_untracked_folder_is_shown(workspace: Workspace, tmp_path: Path, way: Way) -> None:
    disk = workspace.top / "data" / "a disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(disk)], check=True)
    try:
        (disk / "deep").mkdir()
        (disk / "text.txt").write_text("on the disk")
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(disk / "deep")], check=True)
        (disk / "deep" / "text.txt").write_text("below it")
        with opened(way, workspace) as place:
            command = "cat data/a*/text.txt data/a*/deep/text.txt; echo of the run >> data/a*/text.txt; touch data/new"
            run(place, command, tmp_path / "log")
        assert (tmp_path / "log").read_text().startswith("on the diskbelow it")
        assert (disk / "text.txt").read_text() == "on the disk"
    finally:
        subprocess.run(["umount", "--lazy", "--recursive", str(disk)], check=True)


def test_what_may_hold_keys_is_not_lent(workspace: Workspace) -> None:
    for name in (".env.local", "server.pem", ".netrc", "run.log"):
        (workspace.top / name).write_text("secret")
    found = untracked_files(workspace)
    assert sorted(found.names) == [".venv", "data", "notes.txt"]
    assert sorted(found.kept_back) == [".env", ".env.local", "server.pem"]


def test_keys_in_an_untracked_folder_are_not_lent(workspace: Workspace, tmp_path: Path) -> None:
    """The rest of the folder is, with the certificates in it."""
    top, private = workspace.top, "-----BEGIN EC PRIVATE KEY-----"
    for name, text in (
        ("fleet/key.pem", private), ("fleet/ca.pem", "-----BEGIN CERTIFICATE-----"), ("fleet/notes.txt", "notes"),
        ("data/raw/.env", "KEY=1"), ("data/raw/text.txt", "text"), ("env/.aws/credentials", "secret"), ("env/a.py", ""),
        ("certificates/site/ca.pem", "-----BEGIN CERTIFICATE-----"), ("node_modules/a/.npmrc", ""),
        ("venv/pyvenv.cfg", ""), ("venv/share/.env.sample", ""),
    ):  # fmt: skip
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    found = untracked_files(workspace)
    assert {"fleet/ca.pem", "fleet/notes.txt", "data/raw/text.txt", "env/a.py", "certificates"} <= {*found.names}
    assert {"node_modules", "venv"} <= {*found.names}
    assert {"fleet/key.pem", "data/raw/.env"} <= {*found.kept_back}
    assert not any(each in found.names for each in ("fleet", "data", "data/raw", "env", "env/.aws"))
    for way in [each.values[0] for each in WAYS if not each.marks[0].args[0]]:
        with opened(way, workspace) as place:
            missing = "! test -e fleet/key.pem && ! test -e data/raw/.env && ! test -e env/.aws"
            there = "test -e fleet/ca.pem && test -e data/raw/text.txt && test -e certificates/site/ca.pem"
            assert run(place, f"{missing} && {there}", tmp_path / "log").returncode == 0


def test_history_in_an_untracked_folder_is_not_lent(workspace: Workspace, tmp_path: Path) -> None:
    """The address of a remote may have a password in it. The data of git-annex are in its .git."""
    for name in ("data/.git/config", "more/a/.git/config", "more/a/.autoresearch/b", "annexed/.git/annex/text.txt"):
        (workspace.top / name).parent.mkdir(parents=True)
        (workspace.top / name).write_text("secret")
    (workspace.top / "more" / "a" / "c.txt").write_text("text")
    look = "cat data/.git/config more/a/.git/config more/a/.autoresearch/b; cat annexed/.git/annex/text.txt && cat {}"
    for way in [*(each.values[0] for each in WAYS if not each.marks[0].args[0]), None]:
        with opened(way, workspace) as place:
            files = "data/text.txt more/a/c.txt && ls data more/a | xargs"
            assert run(place, look.format(files), tmp_path / "log").returncode == 0, way
        said = [line for line in (tmp_path / "log").read_text().splitlines() if not line.startswith("cat: ")]
        assert said == ["secrettexttextdata: text.txt more/a: c.txt"], (way, said)


def test_large_folder_with_a_key_is_not_lent(workspace: Workspace) -> None:
    for number in range(2100):
        (workspace.top / "data" / f"{number}.txt").touch()
    assert "data" in untracked_files(workspace).names
    (workspace.top / "data" / "a.key").touch()
    assert "data" in untracked_files(workspace).kept_back


def test_claims_are_not_lent(workspace: Workspace, tmp_path: Path) -> None:
    """They have metrics on the holdout."""
    for name in ("claim-t", "data/claims/mar5"):
        (workspace.top / name / "logs").mkdir(parents=True)
        (workspace.top / name / "claim.json").write_text('{"$schema": "claim.schema.json", "version": 1}')
    (workspace.top / "other").mkdir()
    (workspace.top / "other" / "claim.json").write_text('{"claim": "of somebody who insures"}')
    kept = [f"data/{path.name}" for path in (workspace.top / "data").iterdir() if path.name != "claims"]
    found = untracked_files(workspace)
    assert sorted(found.names) == sorted([".venv", "notes.txt", "other", *kept])
    for way in [each.values[0] for each in WAYS if not each.marks[0].args[0]]:
        with opened(way, workspace) as place:
            missing = "! test -e claim-t && ! test -e data/claims/mar5 && test -e other/claim.json"
            there = " && ".join(f"test -e {name}" for name in ("notes.txt", *kept))
            assert run(place, f"{missing} && {there}", tmp_path / "log").returncode == 0


def test_links_that_lead_elsewhere_are_followed_to_be_read(workspace: Workspace, tmp_path: Path) -> None:
    (workspace.top / "texts").symlink_to(tmp_path / "outside")
    (workspace.top / "relative").symlink_to(os.path.relpath(tmp_path / "outside", workspace.top))
    (workspace.top / "inner").symlink_to("data/text.txt")
    look = "cat texts/old.txt relative/old.txt inner && ! touch texts/new.txt && ! touch relative/new.txt"
    for way in [each.values[0] for each in WAYS if not each.marks[0].args[0]]:
        with opened(way, workspace) as place:
            assert run(place, look, tmp_path / "log").returncode == 0, (tmp_path / "log").read_text()
    assert not (tmp_path / "outside" / "new.txt").exists()


@pytest.mark.parametrize("tracked", [True, False])
def test_no_link_leads_to_keys(workspace: Workspace, tmp_path: Path, tracked: bool) -> None:
    """A repository can bring links to the keys of whoever clones it. Of a folder with data, the data are shown."""
    top, person, outside = workspace.top, tmp_path / "person", tmp_path / "outside"
    for name in (
        ".ssh/id",
        ".config/gh/hosts.yml",
        ".cache/data/text.txt",
        ".cache/huggingface/token",
        "other/text.txt",
    ):
        (person / name).parent.mkdir(parents=True, exist_ok=True)
        (person / name).write_text("text" if name.endswith(".txt") else "private")
    for name in (".git/config", ".env", "server.key", ".aws/credentials"):
        (outside / name).parent.mkdir(exist_ok=True)
        (outside / name).write_text("secret")
    os.mkfifo(tmp_path / "pipe")
    private = {
        "ssh": "../.ssh", "key": f"{person}/.ssh/id", "config": f"{person}/.config", "gh": "../.config/gh", "all": "..",
        "git": f"{outside}/.git", "env": f"{outside}/.env", "loop": f"/proc/{os.getpid()}", "pipe": f"{tmp_path}/pipe",
        "temporary": "/tmp", "disk": "/",
    }  # fmt: skip
    for name, target in {
        **private,
        "texts": str(outside),
        "cache": f"{person}/.cache",
        "others": f"{person}/other",
    }.items():
        (top / name).symlink_to(target)
    if tracked:
        git(top, "add", ".")
        git(top, "commit", "--quiet", "-m", "links")
    found = untracked_files(workspace)
    assert {*found.kept_back, *found.links} == {*private, ".env"}
    assert {*found.links} == ({*private} if tracked else set())
    secrets = (
        *("ssh/id", "key", "config/gh/hosts.yml", "gh/hosts.yml", "all/keys.txt", "git/config", "env", "loop/environ"),
        *("texts/.env", "texts/.git/config", "texts/server.key", "texts/.aws/credentials", "cache/huggingface/token"),
    )
    look = f"cat {' '.join(secrets)}; cat texts/old.txt cache/data/text.txt others/text.txt"
    for way in [each.values[0] for each in WAYS if not each.marks[0].args[0]]:
        with opened(way, workspace) as place:
            assert run(place, look, tmp_path / "log").returncode == 0, way
        said = (tmp_path / "log").read_text()
        assert "private" not in said, (way, said)
        assert "secret" not in said, (way, said)
        assert "HOME=" not in said, (way, said)  # the environment of the loop
        assert said.endswith("oldtexttext"), (way, said)


def test_data_in_memory_are_shown_beside_a_runs_own(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data are copied to /dev/shm to be read fast, and a workspace may lie there."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name)
        (folder / "data").mkdir()
        (folder / "data" / "a.txt").write_text("linked")
        (workspace.top / "fast").symlink_to(folder / "data")
        monkeypatch.setenv("AUTORESEARCH_READ", "/dev/shm")
        inner = workspace.clone(folder / "clone")
        for way in [each.values[0] for each in WAYS if not each.marks[0].args[0]]:
            own = "echo own > /dev/shm/own && " if way in sandbox.WITH_ROOT else ""
            with opened(way, workspace) as place:
                done = run(place, f"{own}cat fast/a.txt && ! touch fast/b.txt", tmp_path / "log")
            assert done.returncode == 0, (way, (tmp_path / "log").read_text())
            with opened(way, inner) as place:
                done = run(place, f"{own}cat train.py", tmp_path / "log")
            assert done.returncode == 0, (way, (tmp_path / "log").read_text())
        assert not Path("/dev/shm/own").exists()


def test_what_the_user_names_may_be_linked(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "person" / ".robots" / "data"
    place.mkdir(parents=True)
    (workspace.top / "robots").symlink_to(place)
    assert "robots" in untracked_files(workspace).kept_back
    monkeypatch.setenv("AUTORESEARCH_READ", str(place.parent))
    assert "robots" in untracked_files(workspace).names


def test_compiled_kernels_are_read_and_never_written(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = tmp_path / "kernels"
    kernels.mkdir()
    (kernels / "add.ptx").write_text("kept")
    monkeypatch.setenv("MLX_PTX_CACHE_DIR", str(kernels))
    look = 'cat "$MLX_PTX_CACHE_DIR/add.ptx" && ! touch "$MLX_PTX_CACHE_DIR/planted.ptx"'
    for way in [each.values[0] for each in WAYS if not each.marks[0].args[0]]:
        with opened(way, workspace) as place:
            assert run(place, look, tmp_path / "log").returncode == 0, (tmp_path / "log").read_text()
    assert [path.name for path in kernels.iterdir()] == ["add.ptx"]


def test_links_are_followed_from_a_clone_elsewhere(workspace: Workspace, tmp_path: Path) -> None:
    (workspace.top / "relative").symlink_to(os.path.relpath(tmp_path / "outside", workspace.top))
    found = dataclasses.replace(untracked_files(workspace), source=workspace.top)
    clone = workspace.clone(tmp_path / "deep" / "down" / "clone")
    for way in [each.values[0] for each in WAYS if not each.marks[0].args[0]]:
        box = Sandbox(way, network=True, hide=True)
        with room.opened(box, clone, clone.head, Furniture(command=sys.executable, untracked=found)) as place:
            done = run(place, "cat relative/old.txt", tmp_path / "log")
            assert done.returncode == 0, (tmp_path / "log").read_text()


# ----------------------------------------------------------------------------------------------------------------------
# Places


def test_places_are_programs_and_not_a_persons(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "person" / ".cargo" / "bin").mkdir(parents=True)
    (tmp_path / "person" / ".cargo" / "credentials").write_text("secret")
    found = places(workspace.folder, f"{sys.executable} train.py")
    assert tmp_path / "person" / ".cargo" in found.read
    assert tmp_path / "person" / ".cargo" / "credentials" in found.hidden
    assert not any((tmp_path / "person" / "keys.txt").is_relative_to(place) for place in found.read)
    assert any(Path(sys.base_prefix).resolve().is_relative_to(place) for place in found.read)


@pytest.mark.quick
def test_rules_that_can_only_allow_leave_out_what_is_hidden(tmp_path: Path) -> None:
    for name in ("a/b/secret", "a/b/other", "a/c", "d"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    allowed = split([tmp_path], [tmp_path / "a" / "b" / "secret"])
    assert allowed == [tmp_path / "a" / "b" / "other", tmp_path / "a" / "c", tmp_path / "d"]


# ----------------------------------------------------------------------------------------------------------------------
# Sessions


def test_a_session_runs_confined_and_offline(quick: Path, cli: Cli, tmp_path: Path) -> None:
    escape = f"import os\nif RATE != 0.1:\n    open({str(tmp_path / 'escaped')!r}, 'a').close()\n"
    escape += f"    os.stat({str(quick / '.git')!r})\nloss = "
    text = (quick / "train.py").read_text().replace("loss = ", escape, 1)
    (quick / "train.py").write_text(text.replace("# search: 1..16", "# search: off").replace("8..512", "off"))
    commit_all(quick, "escapes")
    constraints = {"noNewDependencies": True, "networkPolicy": "offline"}
    set_protocol(quick, environment={"setupCommands": [], "constraints": constraints})
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "1", "--sandbox", "strict")
    if choose_sandbox("auto", Constraints(networkPolicy="offline")).missing:
        assert done.returncode == 3
        assert "--sandbox strict" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert "writes confined by" in done.stderr
    assert "no network" in done.stderr
    assert rows(quick)[1]["status"] == "crash"
    assert not (tmp_path / "escaped").exists()
    assert "rror" in rows(quick)[1]["description"]
    assert any(event["event"] == "measured" for event in journal(quick))
    assert any(event["event"] == "started" and "writes confined" in event["sandbox"] for event in journal(quick))


def test_strict_refuses_before_anything_is_touched(quick: Path, cli: Cli) -> None:
    constraints = {"networkPolicy": "full", "networkAllowlist": ["example.org"]}
    set_protocol(quick, protocolVersion="1.1", environment={"setupCommands": [], "constraints": constraints})
    done = cli(quick, "run", "--tag", "t", "--sandbox", "strict")
    assert done.returncode == 3
    assert "networkAllowlist cannot be enforced per host" in done.stderr
    assert not (quick / ".autoresearch").exists()


@pytest.mark.skipif(choose_sandbox("auto", Constraints()).way is None, reason="no way to close a room works here")
@pytest.mark.parametrize("target", [".git/hooks/post-checkout", "results.tsv", "train.py", ".autoresearch/planted"])
def test_the_checkout_is_out_of_a_runs_reach(quick: Path, cli: Cli, target: str) -> None:
    """A git hook would run in the loop."""
    before = (quick / target).read_text() if (quick / target).exists() else None
    plant = (
        "import os\nos.makedirs(os.path.dirname(os.path.abspath(TARGET)), exist_ok=True)\n"
        "open(TARGET, 'w').write('planted')\nloss = "
    ).replace("TARGET", repr(str(quick / target)))
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace("loss = ", plant, 1))
    commit_all(quick, "plants")
    if target == "train.py":
        before = (quick / target).read_text()
    cli(quick, "run", "--tag", "t", "--max-experiments", "0", "--sandbox", "auto")
    found = (quick / target).read_text() if (quick / target).exists() else None
    assert found != "planted"
    assert before is None or found == before
    assert git(quick, "status", "--porcelain") == ""


def test_no_link_leads_around_what_is_hidden(tmp_path: Path) -> None:
    """As `lib64` leads to `lib` in a virtual environment."""
    hidden = tmp_path / "env" / "lib" / "text"
    hidden.mkdir(parents=True)
    (tmp_path / "env" / "lib" / "other").mkdir()
    (tmp_path / "env" / "lib64").symlink_to("lib")
    (tmp_path / "env" / "bin").mkdir()
    (tmp_path / "env" / "sbin").symlink_to("bin")
    parts = split([tmp_path / "env"], [hidden])
    assert parts == [tmp_path / "env" / name for name in ("bin", "lib/other", "sbin")]
