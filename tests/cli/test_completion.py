"""Shell completion, called as the shells' scripts call it, and in the shells themselves if they are installed."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.common.journals import JournalBuilder
from tests.common.workspaces import ROOT

# Print the heavy modules that were imported, after the completions.
PROGRAM = (
    "import atexit, sys; atexit.register(lambda: print([m for m in ('pydantic', 'rich', 'git', 'numpy') "
    "if m in sys.modules], file=sys.stderr)); from agent.cli import app; app(prog_name='autoresearch')"
)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Two sessions, mar5 the most recent one, with a description that a careless shell would evaluate."""
    for tag, count in (("long", 1000), ("mar5", 12)):
        path = tmp_path / ".autoresearch" / "sessions" / tag / "journal.jsonl"
        JournalBuilder(tag).baseline().mixed(count).confirmed().save(path)
        os.utime(path, (count, count) if tag == "long" else None)
    (tmp_path / ".autoresearch" / "sessions" / "$(touch evil)").mkdir()
    (tmp_path / ".autoresearch" / "sessions" / "$(touch evil)" / "journal.jsonl").touch()
    os.utime(tmp_path / ".autoresearch" / "sessions" / "$(touch evil)" / "journal.jsonl", (1, 1))
    text = (tmp_path / ".autoresearch/sessions/mar5/journal.jsonl").read_text()
    hostile = r'"description": "a\\$(touch evil)`touch evil`\"'
    (tmp_path / ".autoresearch/sessions/mar5/journal.jsonl").write_text(text.replace('"description": "', hostile))
    return tmp_path


def ask(folder: Path, shell: str, line: str) -> subprocess.CompletedProcess[str]:
    """Ask for completions of a command line; its last word is incomplete."""
    words = line.split(" ")
    asked = {
        "_AUTORESEARCH_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": line,
    }
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        env={**os.environ, **asked, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("autoresearch sh", ["show"]),
        ("autoresearch status --tag ", ["mar5", "long"]),
        ("autoresearch report --tag mar5 --tag l", ["long"]),
        ("autoresearch show b", ["best", "baseline"]),
        ("autoresearch show 1", ["12", "11", "10", "1"]),
        ("autoresearch diff 12 1", ["12", "11", "10", "1"]),
        (
            "autoresearch log --tag long 99",
            ["999", "998", "997", "996", "995", "994", "993", "992", "991", "990", "99"],
        ),
        ("autoresearch show --tag nothing ", [""]),
        ("autoresearch -C / show ", [""]),
        ("autoresearch run --agent c", ["claude", "codex"]),
        ("autoresearch run --proposer h", ["hybrid"]),
        ("autoresearch run --verdict g", ["greedy"]),
        ("autoresearch protocol c", ["check"]),
    ],
)
def test_bash_completes_commands_flags_and_values(workspace: Path, line: str, offers: list[str]) -> None:
    done = ask(workspace, "bash", line)
    assert done.stdout.rstrip("\n").split("\n") == offers
    assert done.stderr == "[]\n"


def test_zsh_completes_with_help_and_evaluates_nothing(workspace: Path) -> None:
    done = ask(workspace, "zsh", "autoresearch show 1")
    assert '"10":"' in done.stdout
    assert "touch evil" in done.stdout
    assert not set("$`\\") & set(done.stdout)
    assert done.stderr == "[]\n"


def test_damaged_journal_still_completes_readable_experiments(workspace: Path) -> None:
    journal = workspace / ".autoresearch" / "sessions" / "mar5" / "journal.jsonl"
    journal.write_text('{"event": "judged", "number": 3}\n"proposed"\n{"event": "proposed", "numb\n')
    assert ask(workspace, "bash", "autoresearch show ").stdout.split() == ["best", "baseline"]


@pytest.fixture
def installed(workspace: Path) -> dict[str, str]:
    """An environment in which `autoresearch` is on PATH."""
    program = workspace / "bin" / "autoresearch"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m agent "$@"\n')
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "TERM": "dumb"}


def test_numbers_without_end_in_a_journal_are_skipped(workspace: Path) -> None:
    with (workspace / ".autoresearch/sessions/mar5/journal.jsonl").open("a") as journal:
        journal.write('{"event": "proposed", "number": Infinity, "description": "x"}\n')
    done = ask(workspace, "bash", "autoresearch show --tag mar5 ")
    assert "baseline" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_completion_works_in_bash(workspace: Path, installed: dict[str, str]) -> None:
    script = """
source <(autoresearch --show-completion)
COMP_WORDS=(autoresearch show 1) COMP_CWORD=2
_autoresearch_completion autoresearch
echo "${COMPREPLY[@]}"
"""
    done = subprocess.run(
        ["bash", "-c", script], cwd=workspace, env=installed, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["12", "11", "10", "1"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_completion_works_in_zsh(workspace: Path, installed: dict[str, str]) -> None:
    begin = "autoload -U compinit; compinit -u -D; source <(autoresearch --show-completion); print read''y"
    with Terminal(["zsh", "-f", "-i"], workspace, installed) as zsh:
        zsh.send(f"{begin}\n")
        zsh.wait_for("ready")
        zsh.send("autoresearch show 1\t")
        assert "touch evil" in zsh.wait_for("11 ")
    assert not (workspace / "evil").exists()


class Terminal:
    """A program on its own pseudo-terminal."""

    def __init__(self, command: list[str], folder: Path, env: dict[str, str]) -> None:
        self._own, theirs = pty.openpty()
        self._process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self._seen = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._own)

    def send(self, text: str) -> None:
        os.write(self._own, text.encode())

    def wait_for(self, text: str, seconds: float = 60) -> str:
        """Return everything shown once it contains `text`."""
        end = time.monotonic() + seconds
        while text not in self._seen:
            ready, _, _ = select.select([self._own], [], [], max(0.0, end - time.monotonic()))
            assert ready, self._seen
            self._seen += os.read(self._own, 65536).decode(errors="replace")
        return self._seen
