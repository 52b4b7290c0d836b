"""The sandbox, with what this system really has: scripts that try to write, to connect and to read secrets."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent import confine, runner, sandbox
from agent.errors import PreconditionError
from agent.protocol import Constraints
from agent.sandbox import Sandbox, Way, choose, shortfalls, temporary_folder
from tests.conftest import Cli
from tests.test_session import commit_all, journal, rows, set_protocol

# Each attempt in a process of its own, as a grandchild would make it; prints what came of them as JSON.
TRIES = """
import json, os, pathlib, socket, subprocess, sys, tempfile

def attempt(work):
    try:
        work()
        return "yes"
    except OSError as error:
        return error.__class__.__name__

inside, cache, outside, port, pid = sys.argv[1:]
def connect(): socket.create_connection(("127.0.0.1", int(port)), timeout=5).close()
def datagram():
    with socket.socket(type=socket.SOCK_DGRAM) as sender, socket.socket(type=socket.SOCK_DGRAM) as own:
        own.bind(("127.0.0.1", 0))
        sender.sendto(b"x", own.getsockname())
found = {
    "workspace": attempt(lambda: pathlib.Path(inside, "new.txt").write_text("x")),
    "cache": attempt(lambda: pathlib.Path(cache, "new.txt").write_text("x")),
    "temporary": attempt(lambda: tempfile.NamedTemporaryFile().close()),
    "device": attempt(lambda: pathlib.Path("/dev/null").write_text("x")),
    "outside": attempt(lambda: pathlib.Path(outside, "new.txt").write_text("x")),
    "removed": attempt(lambda: pathlib.Path(outside, "old.txt").unlink()),
    "truncated": attempt(lambda: os.truncate(pathlib.Path(outside, "old.txt"), 0)),
    "git": attempt(lambda: pathlib.Path(inside, ".git", "new.txt").write_text("x")),
    "venv": attempt(lambda: pathlib.Path(cache, "archive-v0", "linked.py").write_text("x")),
    "moved": attempt(lambda: os.rename(pathlib.Path(inside, ".git"), pathlib.Path(inside, "elsewhere"))),
    "loop's environment": attempt(lambda: pathlib.Path("/proc", pid, "environ").read_bytes()),
    "loop signalled": attempt(lambda: os.kill(int(pid), 0)),
    "own loopback": attempt(datagram),
    "read": attempt(lambda: pathlib.Path(outside, "old.txt").read_text()),
    "grandchild": "yes" if subprocess.call(["touch", outside + "/touched"], stderr=-3) == 0 else "no",
    "network": attempt(connect),
    "secrets": [name for name in ("OPENAI_API_KEY", "HF_TOKEN", "TOKENIZERS_PARALLELISM") if name in os.environ],
}
print(json.dumps(found))
"""
WAYS: list[Any] = [
    pytest.param(way, marks=pytest.mark.skipif(not sandbox.works(way, False), reason=f"{way} does not work here"))
    for way in ("bubblewrap", "Landlock and namespaces", "Landlock")
]
GUARDING = ("bubblewrap", "Landlock and namespaces")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    found = {name: tmp_path / name for name in ("inside", "cache", "outside", "temporary")}
    for folder in found.values():
        folder.mkdir()
    (found["inside"] / ".git").mkdir()
    (found["cache"] / "archive-v0").mkdir()  # of uv, which may have its cache anywhere
    monkeypatch.setenv("UV_CACHE_DIR", str(found["cache"]))
    (found["outside"] / "old.txt").write_text("old")
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(found["cache"]))
    return found


def tries(box: Sandbox, folders: Mapping[str, Path], **env: str) -> dict[str, Any]:
    script = folders["temporary"] / "tries.py"
    script.write_text(TRIES)
    with socket.create_server(("127.0.0.1", 0)) as server:
        places = " ".join(str(folders[name]) for name in ("inside", "cache", "outside"))
        command = f"{sys.executable} {script} {places} {server.getsockname()[1]} {os.getpid()}"
        guarded = [folders["inside"] / ".git"]
        done = subprocess.run(
            box.command(command, folders["inside"], folders["temporary"], guarded),
            env=box.environment({**os.environ, **env}, folders["temporary"]),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("way", WAYS)
def test_writes_stay_inside(folders: dict[str, Path], way: Way) -> None:
    found = tries(Sandbox(way, network=True, hide=True), folders)
    guarded = {"git", "moved", "venv"}
    assert {name for name, what in found.items() if what == "yes"} == {
        "workspace", "cache", "temporary", "device", "read", "network", "own loopback"
    } | (set() if way in GUARDING else guarded) | might(way)  # fmt: skip
    assert (folders["outside"] / "old.txt").read_text() == "old"
    assert not (folders["outside"] / "touched").exists()


def might(way: Way) -> set[str]:
    """What an old kernel leaves open: a signal to the loop, before version 6 of Landlock."""
    return {"loop signalled"} if way != "bubblewrap" and confine.version() < 6 else set()


@pytest.mark.parametrize("way", WAYS)
def test_a_closed_network_is_closed(folders: dict[str, Path], way: Way) -> None:
    found = tries(Sandbox(way, network=False), folders)
    assert found["network"] != "yes"
    assert found["own loopback"] == "yes"  # libraries talk to their own processes through it


@pytest.mark.parametrize("way", WAYS)
def test_the_hard_limit_ends_what_is_confined(folders: dict[str, Path], way: Way) -> None:
    (folders["inside"] / "forks.py").write_text(
        "import subprocess, sys, time\n"
        "alone = {'start_new_session': True, 'env': {}}\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', sys.argv[1]], **alone)\n"
        "time.sleep(600)\n"
    )
    mark = folders["outside"].name + str(os.getpid())
    ended = confined(Sandbox(way, network=False), folders, f"{sys.executable} forks.py {mark}", limit=1)
    assert ended.stopped is not None
    left = [p for p in psutil.process_iter(["cmdline", "status"]) if mark in (p.info["cmdline"] or ())]
    assert [p for p in left if p.info["status"] != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize("way", WAYS)
def test_exit_codes_and_signals_come_through(folders: dict[str, Path], way: Way) -> None:
    for command, code in (("exit 7", 7), ("kill -9 $$", -9), ("kill -11 $$", -11), (f"{sys.executable} -c 1", 0)):
        ended = confined(Sandbox(way), folders, command)
        assert ended.returncode in (code, 128 - code)


def confined(box: Sandbox, folders: Mapping[str, Path], command: str, limit: float = 30) -> runner.Ended:
    return runner.run(
        box.command(command, folders["inside"], folders["temporary"], [folders["inside"] / ".git"]),
        cwd=folders["inside"],
        log=folders["outside"] / "run.log",
        limit=limit,
        env=box.environment(os.environ, folders["temporary"]),
        started=lambda _: None,
        tick=lambda _: None,
    )


def test_secrets_are_hidden_and_can_be_let_through(folders: dict[str, Path]) -> None:
    secrets = {"OPENAI_API_KEY": "k", "HF_TOKEN": "t", "TOKENIZERS_PARALLELISM": "false"}
    assert tries(Sandbox(hide=True), folders, **secrets)["secrets"] == ["TOKENIZERS_PARALLELISM"]
    kept = {sandbox.KEEP_VARIABLE: "OTHER, HF_TOKEN"}
    assert tries(Sandbox(hide=True), folders, **secrets, **kept)["secrets"] == ["HF_TOKEN", "TOKENIZERS_PARALLELISM"]
    assert len(tries(Sandbox(), folders, **secrets)["secrets"]) == 3


@pytest.mark.parametrize(
    ("names", "hidden"),
    [
        ("OPENAI_API_KEY HF_TOKEN GITHUB_TOKEN AWS_PROFILE PGPASSWORD DB_PASS MYSQL_PWD GH_PAT SSH_AUTH_SOCK", True),
        ("STRIPE_KEY client_secret GOOGLE_APPLICATION_CREDENTIALS UV_INDEX_MINE_PASSWORD DOCKER_AUTH_CONFIG", True),
        ("PATH PWD OLDPWD HOME TOKENIZERS_PARALLELISM MAX_TOKENS KEYBOARD XAUTHORITY UV_INDEX_URL HTTPS_PROXY", False),
        ("AUTORESEARCH_ATTEST AUTORESEARCH_TRAINING_SECONDS PYTHONHASHSEED CUDA_VISIBLE_DEVICES LANG", False),
    ],
)
def test_what_is_a_secret_shows_in_its_name(tmp_path: Path, names: str, hidden: bool) -> None:
    environment = dict.fromkeys(names.split(), "x")
    assert Sandbox(hide=True).environment(environment, tmp_path) == ({} if hidden else environment)
    assert Sandbox().environment(environment, tmp_path) == environment


def test_a_killed_loop_leaves_no_temporary_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    dies = (
        "import os, pathlib, sys\nfrom agent.sandbox import temporary_folder\n"
        "kept = temporary_folder(pathlib.Path(sys.argv[1]))\nos.kill(os.getpid(), 9)"
    )
    for workspace in ("/one", "/one", "/two"):
        subprocess.run([sys.executable, "-c", dies, workspace], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    with temporary_folder(Path("/one")) as name:
        assert len(list(tmp_path.iterdir())) == 2 and Path(name).is_dir()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_sandbox_that_cannot_be_set_up_says_so(tmp_path: Path) -> None:
    argv = [sys.executable, "-I", "-S", confine.__file__, str(tmp_path / "missing"), "--", "true"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 126
    assert done.stderr.startswith("the sandbox could not be set up: ") and "Traceback" not in done.stderr


def test_what_cannot_be_enforced_is_said_or_refused() -> None:
    full, offline = (Constraints(networkPolicy=policy) for policy in ("full", "offline"))
    hosts = Constraints(networkPolicy="full", networkAllowlist=["example.org"])
    assert choose("off", offline).says == "sandbox: off" and choose("off", offline).way is None
    assert "the network is open" in choose("auto", hosts).says
    with pytest.raises(PreconditionError, match="networkAllowlist cannot be enforced"):
        choose("strict", hosts)
    nothing = choose("auto", offline, platform="plan9")
    assert nothing.hide and nothing.network and nothing.way is None
    assert "writes are not confined" in nothing.says and "although networkPolicy is offline" in nothing.says
    with pytest.raises(PreconditionError, match="--sandbox strict cannot be kept here"):
        choose("strict", full, platform="plan9")


def test_what_each_way_leaves_open() -> None:
    assert shortfalls("bubblewrap", 0, True) == shortfalls("Seatbelt", 0, True) == []
    assert shortfalls("Landlock and namespaces", 7, True) == []
    assert ["stay writable" in text or "UDP" in text for text in shortfalls("Landlock", 7, True)] == [True, True]
    assert len(shortfalls("Landlock", 7, False)) == 1 and len(shortfalls("Landlock", 2, True)) == 3


def stand_in(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_bubblewrap_that_does_not_work_here_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, "bwrap", "exit 1", monkeypatch)
    assert sandbox.available(True, "linux") != "bubblewrap"
    record = f'echo "$@" >> {tmp_path}/asked; while [ "$1" != -- ]; do shift; done; shift; "$@"'
    stand_in(tmp_path, "bwrap", record, monkeypatch)
    assert sandbox.available(False, "linux") == "bubblewrap"
    assert "--unshare-net" in (tmp_path / "asked").read_text()


def test_the_arguments_of_bubblewrap() -> None:
    argv = sandbox._prefix("bubblewrap", ["/work space", "/dev"], ["/work space/.git"], network=False)
    bound = "--bind /work␣space /work␣space --ro-bind /work␣space/.git /work␣space/.git --unshare-net --"
    assert argv[-8:] == [word.replace("␣", " ") for word in bound.split()]


def test_the_profile_for_a_mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = sandbox._seatbelt(['/Users/me/a "b"'], ["/Users/me/x/.git"], network=False)
    assert argv[:2] == ["sandbox-exec", "-p"]
    assert argv[2].splitlines() == [
        "(version 1)",
        "(allow default)",
        "(deny file-write*)",
        '(allow file-write* (subpath "/Users/me/a \\"b\\""))',
        '(deny file-write* (subpath "/Users/me/x/.git"))',
        "(deny network*)",
    ]
    stand_in(tmp_path, "sandbox-exec", 'shift 2; exec "$@"', monkeypatch)
    assert sandbox.available(False, "darwin") == "Seatbelt"
    # As in a sandbox of somebody else's, which Seatbelt does not nest.
    stand_in(tmp_path, "sandbox-exec", "exit 71", monkeypatch)
    assert sandbox.available(True, "darwin") is None


def test_a_session_runs_confined_and_offline(quick: Path, cli: Cli, tmp_path: Path) -> None:
    escape = f"import os\nif RATE != 0.1:\n    open({str(tmp_path / 'escaped')!r}, 'w')\nloss = "
    text = (quick / "train.py").read_text().replace("loss = ", escape, 1)
    (quick / "train.py").write_text(text.replace("# search: 1..16", "# search: off").replace("8..512", "off"))
    commit_all(quick, "escapes")
    constraints = {"noNewDependencies": True, "networkPolicy": "offline"}
    set_protocol(quick, environment={"setupCommands": [], "constraints": constraints})
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "1", "--sandbox", "strict", TMPDIR=str(tmp_path / "t"))
    if choose("auto", Constraints(networkPolicy="offline")).says.count(";"):
        assert done.returncode == 3 and "--sandbox strict" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert "sandbox: writes confined by" in done.stderr and "no network" in done.stderr
    assert rows(quick)[1]["status"] == "crash" and not (tmp_path / "escaped").exists()
    assert "rror" in rows(quick)[1]["description"]
    assert any(event["event"] == "measured" for event in journal(quick))
    assert any(event["event"] == "started" and "writes confined" in event["sandbox"] for event in journal(quick))


def test_strict_refuses_before_anything_is_touched(quick: Path, cli: Cli) -> None:
    constraints = {"networkPolicy": "full", "networkAllowlist": ["example.org"]}
    set_protocol(quick, protocolVersion="1.1", environment={"setupCommands": [], "constraints": constraints})
    done = cli(quick, "run", "--tag", "t", "--sandbox", "strict")
    assert done.returncode == 3 and "networkAllowlist cannot be enforced by host" in done.stderr
    assert not (quick / ".autoresearch").exists()


@pytest.mark.parametrize("target", ["quick/.git/hooks/post-checkout", "cache/current", "cache/snapshots/a/tokens.bin"])
def test_what_outlives_a_run_is_out_of_its_reach(quick: Path, cli: Cli, tmp_path: Path, target: str) -> None:
    """A hook of git's would run in the loop, and the name of the snapshot chooses the data of the next run."""
    (tmp_path / "cache/snapshots/a").mkdir(parents=True)
    (tmp_path / "cache/current").write_text("a")
    plant = f"open({str(tmp_path / target)!r}, 'w').write('planted')\nloss = "
    (quick / "train.py").write_text((quick / "train.py").read_text().replace("loss = ", plant, 1))
    commit_all(quick, "plants")
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "0", AUTORESEARCH_CACHE=str(tmp_path / "cache"))
    guards = choose("auto", Constraints()).way in {*GUARDING, "Seatbelt"}
    found = tmp_path / target
    assert ("the baseline has no result" in done.stderr) is guards, done.stderr
    assert (found.exists() and found.read_text() == "planted") is not guards
