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

import pytest

from agent import confine, sandbox
from agent.errors import PreconditionError
from agent.protocol import Constraints
from agent.sandbox import Sandbox, Way, choose
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

inside, cache, outside, port = sys.argv[1:]
def connect(): socket.create_connection(("127.0.0.1", int(port)), timeout=5).close()
found = {
    "workspace": attempt(lambda: pathlib.Path(inside, "new.txt").write_text("x")),
    "cache": attempt(lambda: pathlib.Path(cache, "new.txt").write_text("x")),
    "temporary": attempt(lambda: tempfile.NamedTemporaryFile().close()),
    "device": attempt(lambda: pathlib.Path("/dev/null").write_text("x")),
    "outside": attempt(lambda: pathlib.Path(outside, "new.txt").write_text("x")),
    "removed": attempt(lambda: pathlib.Path(outside, "old.txt").unlink()),
    "truncated": attempt(lambda: os.truncate(pathlib.Path(outside, "old.txt"), 0)),
    "git": attempt(lambda: pathlib.Path(inside, ".git", "new.txt").write_text("x")),
    "read": attempt(lambda: pathlib.Path(outside, "old.txt").read_text()),
    "grandchild": "yes" if subprocess.call(["touch", outside + "/touched"], stderr=-3) == 0 else "no",
    "network": attempt(connect),
    "secrets": [name for name in ("OPENAI_API_KEY", "HF_TOKEN", "TOKENIZERS_PARALLELISM") if name in os.environ],
}
print(json.dumps(found))
"""
WAYS: list[Any] = [
    pytest.param("Landlock", marks=pytest.mark.skipif(confine.version() == 0, reason="this kernel has no Landlock")),
    pytest.param(
        "bubblewrap",
        marks=pytest.mark.skipif(
            sandbox.available() != "bubblewrap", reason="bubblewrap is not installed, or may not be used"
        ),
    ),
]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    found = {name: tmp_path / name for name in ("inside", "cache", "outside", "temporary")}
    for folder in found.values():
        folder.mkdir()
    (found["inside"] / ".git").mkdir()
    (found["outside"] / "old.txt").write_text("old")
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(found["cache"]))
    return found


def tries(box: Sandbox, folders: Mapping[str, Path], **env: str) -> dict[str, Any]:
    script = folders["temporary"] / "tries.py"
    script.write_text(TRIES)
    with socket.create_server(("127.0.0.1", 0)) as server:
        places = " ".join(str(folders[name]) for name in ("inside", "cache", "outside"))
        command = f"{sys.executable} {script} {places} {server.getsockname()[1]}"
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
    assert {name for name, what in found.items() if what == "yes"} - {"git"} == {
        "workspace", "cache", "temporary", "device", "read", "network"
    }  # fmt: skip
    assert found["git"] == ("yes" if way == "Landlock" else "OSError")
    assert (folders["outside"] / "old.txt").read_text() == "old"
    assert not (folders["outside"] / "touched").exists()


@pytest.mark.parametrize("way", WAYS)
def test_a_closed_network_is_closed(folders: dict[str, Path], way: Way) -> None:
    assert tries(Sandbox(way, network=False), folders)["network"] != "yes"


def test_secrets_are_hidden_and_can_be_let_through(folders: dict[str, Path]) -> None:
    secrets = {"OPENAI_API_KEY": "k", "HF_TOKEN": "t", "TOKENIZERS_PARALLELISM": "false"}
    assert tries(Sandbox(hide=True), folders, **secrets)["secrets"] == ["TOKENIZERS_PARALLELISM"]
    kept = {sandbox.KEEP_VARIABLE: "HF_TOKEN,OTHER"}
    assert tries(Sandbox(hide=True), folders, **secrets, **kept)["secrets"] == ["HF_TOKEN", "TOKENIZERS_PARALLELISM"]
    assert len(tries(Sandbox(), folders, **secrets)["secrets"]) == 3


def test_exit_codes_and_signals_come_through(folders: dict[str, Path]) -> None:
    way = sandbox.available()
    for command, code in (("exit 7", 7), ("kill -9 $$", -9)):
        argv = Sandbox(way).command(command, folders["inside"], folders["temporary"])
        assert subprocess.run(argv, check=False).returncode in (code, 128 - code)


def test_a_sandbox_that_cannot_be_set_up_says_so(tmp_path: Path) -> None:
    argv = [sys.executable, "-I", "-S", confine.__file__, str(tmp_path / "missing"), "--", "true"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 126
    assert done.stderr.startswith("the sandbox could not be set up: ") and "Traceback" not in done.stderr


def test_what_cannot_be_enforced_is_said_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    full, offline = (Constraints(networkPolicy=policy) for policy in ("full", "offline"))
    hosts = Constraints(networkPolicy="full", networkAllowlist=["example.org"])
    assert choose("off", offline).says == "sandbox: off" and choose("off", offline).way is None
    assert "the network is open" in choose("auto", hosts).says
    with pytest.raises(PreconditionError, match="networkAllowlist cannot be enforced"):
        choose("strict", hosts)
    monkeypatch.setattr(sandbox, "available", lambda: None)
    assert "writes are not confined" in choose("auto", full).says and choose("auto", full).hide
    assert "although networkPolicy is offline" in choose("auto", offline).says and choose("auto", offline).network
    with pytest.raises(PreconditionError, match="--sandbox strict cannot be kept here"):
        choose("strict", full)


def test_the_profile_for_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr("shutil.which", lambda name: name == "sandbox-exec")
    assert sandbox.available("darwin") == "Seatbelt"


def test_a_session_runs_confined_and_offline(quick: Path, cli: Cli, tmp_path: Path) -> None:
    escape = f"import os\nif RATE != 0.1:\n    open({str(tmp_path / 'escaped')!r}, 'w')\nloss = "
    text = (quick / "train.py").read_text().replace("loss = ", escape, 1)
    (quick / "train.py").write_text(text.replace("# search: 1..16", "# search: off").replace("8..512", "off"))
    commit_all(quick, "escapes")
    constraints = {"noNewDependencies": True, "networkPolicy": "offline"}
    set_protocol(quick, environment={"setupCommands": [], "constraints": constraints})
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "1", "--sandbox", "strict", TMPDIR=str(tmp_path / "t"))
    if sandbox.available() is None:
        assert done.returncode == 3 and "--sandbox strict" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert "sandbox: writes confined by" in done.stderr and "no network" in done.stderr
    assert rows(quick)[1]["status"] == "crash" and not (tmp_path / "escaped").exists()
    assert "rror" in rows(quick)[1]["description"]
    assert any(event["event"] == "measured" for event in journal(quick))
