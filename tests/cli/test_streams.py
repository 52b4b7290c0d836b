"""Closed and broken streams, terminals that cannot encode a character, and `nohup`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from agent.cli.command import finish
from tests.common.workspaces import ROOT, Cli, git

RUN = f'"{sys.executable}" -m agent run --tag t --max-experiments 3'
ENV = {"PYTHONPATH": str(ROOT)}


def shell(folder: Path, line: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, **ENV, **env}
    return subprocess.run(["bash", "-c", line], cwd=folder, env=env, capture_output=True, timeout=120, check=False)


def rows(folder: Path) -> int:
    return len((folder / "results.tsv").read_text().splitlines()) - 1


@pytest.mark.parametrize(
    "streams",
    ["2>&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full", "2>&1 | head -c 1", "2>&1 | true", "--json | true"],
)
def test_session_survives_closed_streams(quick: Path, streams: str) -> None:
    done = shell(quick, f"{RUN} {streams}; exit ${{PIPESTATUS[0]}}")
    assert done.returncode == 0, done.stderr
    assert rows(quick) == 4
    assert git(quick, "status", "--porcelain") == ""
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    "command", ["status", "show 1", "diff", "log 1", "sessions", "status --json", "doctor", "--help"]
)
@pytest.mark.parametrize("streams", [">&-", "| true", ">/dev/full"])
def test_closed_output_ends_command_without_traceback(finished: Path, command: str, streams: str) -> None:
    done = shell(finished, f'"{sys.executable}" -m agent {command} {streams}; exit ${{PIPESTATUS[0]}}')
    if command != "--help" or "full" in streams:  # click exits with 1 if a help page loses its reader
        assert done.returncode == (1 if "full" in streams else 0)
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("command", ["status", "status --json", "report --json", "--help"])
def test_full_output_is_not_blamed_on_the_disk_of_the_workspace(finished: Path, command: str) -> None:
    done = shell(finished, f'"{sys.executable}" -m agent {command} >/dev/full')
    assert done.returncode == 1
    assert b"error: the output cannot be written: No space left on device\nhint: send the output" in done.stderr
    assert b"disk space" not in done.stderr


def test_a_description_needs_no_locale_that_knows_it(quick: Path, tmp_path: Path) -> None:
    (quick / "agent.sh").write_text(
        "printf 'DESCRIPTION: β2 → 0.95\\n' > autoresearch-notes.md\nsed -i 's/^RATE = 0.1 /RATE = 0.3 /' train.py\n"
    )
    git(quick, "add", "agent.sh")
    git(quick, "commit", "--quiet", "-m", "agent")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    flags = f'--agent-cmd "sh agent.sh" --max-experiments 1 --notify "echo {{text}} >> {tmp_path}/told"'
    done = shell(quick, f"{RUN} --proposer command {flags}", **locale)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert "β2 → 0.95" in (tmp_path / "told").read_text()
    assert rows(quick) == 2
    assert git(quick, "log", "-1", "--format=%s", "refs/autoresearch/t/1") == "experiment #1: β2 → 0.95"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_unencodable_text_is_escaped(quick: Path, program: Cli, encoding: str) -> None:
    text = (quick / "train.py").read_text().replace("RATE = 0.1", "λ_RATE = 0.1")
    (quick / "train.py").write_text(text.replace("(RATE", "(λ_RATE"))
    git(quick, "commit", "--quiet", "-am", "λ → 0")
    done = program(quick, "run", "--tag", "t", "--max-experiments", "2", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    for command in (["status"], ["show", "1"], ["diff", "1"], ["log", "1"], ["sessions"], ["report"], ["doctor"]):
        shown = program(quick, *command, PYTHONIOENCODING=encoding)
        assert "Traceback" not in shown.stderr
        assert shown.returncode in (0, 1)
    line = f'"{sys.executable}" -m agent diff 1'
    assert b"\\u03bb_RATE" in shell(quick, line, PYTHONIOENCODING=encoding).stdout


def test_patch_and_log_on_a_pipe_have_the_bytes_of_their_files(quick: Path) -> None:
    """Source in Latin-1 with DOS line ends, and runs that print such text."""
    text = (quick / "train.py").read_text().replace("RATE = 0.1", "# caf\xe9\nRATE = 0.1")
    text = text.replace('print("---")', 'sys.stdout.buffer.write(b"\\xe9\\n")\nprint("---")')
    latin = f"# -*- coding: latin-1 -*-\n{text}".replace("\n", "\r\n").encode("latin-1")
    (quick / "train.py").write_bytes(latin)
    git(quick, "commit", "--quiet", "-am", "latin-1")
    program = f'"{sys.executable}" -m agent'
    done = shell(quick, f"{RUN} && {program} log baseline && git checkout --quiet main")
    assert done.returncode == 0, done.stderr
    assert b"\xe9\n" in done.stdout
    same = "git diff --exit-code autoresearch/t -- train.py"
    done = shell(quick, f"{program} diff > best.patch && git apply best.patch && {same}")
    assert done.returncode == 0, done.stderr + done.stdout
    assert (quick / "train.py").read_bytes() != latin


def wait_for_rows(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (folder / "results.tsv").exists() and rows(folder) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"no {count} rows")


def test_nohup_is_obeyed(quick: Path) -> None:
    command = ["nohup", sys.executable, "-m", "agent", "run", "--tag", "t", "--max-experiments", "15"]
    with (quick.parent / "out").open("wb") as out:
        loop = subprocess.Popen(
            command, cwd=quick, env={**os.environ, **ENV}, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
        wait_for_rows(quick, 2)
        loop.send_signal(signal.SIGHUP)
        assert loop.wait(timeout=120) == 0
    assert rows(quick) == 16


def test_closed_terminal_ends_session_without_nohup(quick: Path) -> None:
    command = [sys.executable, "-m", "agent", "run", "--tag", "t", "--max-experiments", "200"]
    loop = subprocess.Popen(
        command,
        cwd=quick,
        env={**os.environ, **ENV},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # The tests themselves may run under nohup, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    wait_for_rows(quick, 2)
    loop.send_signal(signal.SIGHUP)
    assert loop.wait(timeout=120) == 129


def test_ctrl_c_before_the_first_run_is_an_envelope_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # put back after the test

    def interrupted() -> int:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as ended:
        finish(interrupted, "confirm", True, measures=True)
    assert ended.value.exit_code == 130
    found = json.loads(capsys.readouterr().out)
    assert (found["status"], found["errors"]) == ("error", ["stopped by Ctrl-C"])
    with pytest.raises(typer.Exit):
        finish(interrupted, "status", True, reads=True)
    assert capsys.readouterr().out == ""
