"""`skill`: prints, asks, installs and removes, and does not disturb a session."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.common.sessions import assert_consistent
from tests.common.tries import BETTER, edit, result
from tests.common.workspaces import ROOT, Cli, commit_all, git, set_protocol

GUIDE = ".claude/skills/autoresearch/SKILL.md"


def on_terminal(folder: Path, said: str, *args: str) -> tuple[int, str]:
    """Run the program on a terminal, type an answer, and return its exit code and output."""
    master, slave = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "agent", *args]
    process = subprocess.Popen(command, cwd=folder, env=env, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    os.write(master, said.encode())
    shown = b""
    try:
        while part := os.read(master, 4096):
            shown += part
    except OSError:  # the end of a terminal
        pass
    os.close(master)
    return process.wait(60), shown.decode()


def test_list_names_agents_and_states(quick: Path, cli: Cli, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "codex").write_text("#!/bin/sh\n")
    (programs / "codex").chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    assert cli(quick, "skill", "codex", "--install", "--yes", "--no-mcp").returncode == 0
    lines = cli(quick, "skill", PATH=path).stdout.splitlines()
    assert lines[1].split() == ["codex", "found", "AGENTS.md", "installed,", ".codex/config.toml", "missing"]
    assert [line.split()[0] for line in lines[:5]] == ["claude", "codex", "gemini", "opencode", "cursor"]
    data = json.loads(cli(quick, "skill", "--json", PATH=path).stdout)["data"]
    assert data["agents"][1]["program"] == str(programs / "codex")
    assert data["agents"][4]["files"][1] == {"path": ".cursor/mcp.json", "holds": "mcp", "state": "missing"}


def test_single_text_is_all_that_is_printed(quick: Path, cli: Cli) -> None:
    done = cli(quick, "skill", "claude", "--no-mcp")
    assert done.stdout.startswith("---\nname: autoresearch\ndescription: ")
    assert done.stdout.endswith("| the commands of the same names |\n")
    assert done.stderr == f"would create {GUIDE}\n"
    both = cli(quick, "skill", "claude", "--mcp").stdout
    assert f"==> {GUIDE} <==\n---\n" in both
    assert '==> .mcp.json <==\n{\n  "mcpServers": {' in both
    assert git(quick, "status", "--porcelain") == ""


def test_part_is_printed_for_a_file_that_cannot_take_it(quick: Path, cli: Cli) -> None:
    (quick / ".mcp.json").write_text("{\n  // mine\n}")
    done = cli(quick, "skill", "claude", "--mcp")
    assert done.returncode == 0, done.stderr
    assert '"mcpServers": {' in done.stdout
    assert "note: --install would refuse: .mcp.json has comments: " in done.stderr
    done = cli(quick, "skill", "claude", "--mcp", "--install", "--yes")
    assert done.returncode == 3
    assert "or add by hand what `autoresearch skill NAME` prints" in done.stderr
    assert not (quick / GUIDE).exists()


def test_install_needs_yes_without_a_terminal(quick: Path, cli: Cli) -> None:
    for flag in ("--install", "--remove"):
        if flag == "--remove":
            assert cli(quick, "skill", "claude", "--install", "--yes").returncode == 0
        done = cli(quick, "skill", "claude", flag)
        assert done.returncode == 2
        assert f"error: {flag} asks for confirmation on a terminal only\nhint: add --yes\n" in done.stderr
        assert (quick / GUIDE).exists() == (flag == "--remove")
    again = cli(quick, "skill", "claude", "--install")  # nothing to ask about
    assert (again.returncode, again.stdout) == (0, "already installed for Claude Code\n")
    assert cli(quick, "skill", "claude", "--remove", "--yes").stdout.splitlines()[0] == f"deleted {GUIDE}"
    assert cli(quick, "skill", "claude", "--remove").stdout == "nothing of Claude Code is installed\n"
    assert git(quick, "status", "--porcelain") == ""


def test_agents_that_share_a_file_are_named(quick: Path, cli: Cli) -> None:
    (quick / "AGENTS.md").write_text("# Mine\n")
    (quick / "GEMINI.md").symlink_to("AGENTS.md")
    done = cli(quick, "skill", "gemini", "--install", "--yes", "--no-mcp")
    assert "note: Codex reads the same file as GEMINI.md, through a link\n" in done.stderr
    done = cli(quick, "skill", "gemini", "--remove", "--yes")
    assert done.stdout == "changed GEMINI.md\n"
    assert "through a link: `autoresearch skill codex --install` restores its part\n" in done.stderr


@pytest.mark.parametrize(("said", "code"), [("n\n", 1), ("y\n", 0)])
def test_install_asks_on_a_terminal(quick: Path, said: str, code: int) -> None:
    exit_code, shown = on_terminal(quick, said, "skill", "claude", "--install", "--mcp")
    assert exit_code == code, shown
    assert f"would create {GUIDE}" in shown
    assert "would create .mcp.json" in shown
    assert "Write it?" in shown
    assert (quick / GUIDE).exists() == (quick / ".mcp.json").exists() == (code == 0)


@pytest.mark.parametrize(
    ("args", "code", "error"),
    [
        (["emacs"], 2, "unknown agent 'emacs'; choose from claude, codex, gemini, opencode, cursor"),
        (["--install"], 2, "--install needs an agent"),
        (["claude", "--install", "--remove"], 2, "--install and --remove are mutually exclusive"),
        (["claude", "--yes"], 2, "--yes needs --install or --remove"),
        (["gemini", "--install", "--yes", "--mcp"], 3, ".gemini/settings.json has comments: "),
    ],
)
def test_what_cannot_be_done_is_one_sentence(quick: Path, cli: Cli, args: list[str], code: int, error: str) -> None:
    (quick / ".gemini").mkdir()
    (quick / ".gemini" / "settings.json").write_text('{\n  // mine\n  "theme": "Default"\n}\n')
    done = cli(quick, "skill", *args)
    assert done.returncode == code
    assert done.stderr.startswith(f"error: {error}")
    assert not (quick / "GEMINI.md").exists()


def test_install_needs_a_workspace_and_warns_of_open_globs(tmp_path: Path, quick: Path, cli: Cli) -> None:
    done = cli(tmp_path, "skill", "codex", "--install", "--yes")
    assert done.returncode == 2
    assert "protocol.json not found" in done.stderr
    rules = json.loads((quick / "protocol.json").read_text())["mutableSurface"]
    set_protocol(quick, mutableSurface={**rules, "allowedGlobs": ["train.py", "*.md"]})
    done = cli(quick, "skill", "codex", "--install", "--yes", "--mcp")
    assert "note: a candidate may change AGENTS.md: add it to forbiddenGlobs" in done.stderr
    assert ".codex/config.toml:" not in done.stderr


@pytest.mark.parametrize("committed", [False, True])
def test_session_is_not_disturbed(quick: Path, cli: Cli, committed: bool) -> None:
    for name in ("claude", "codex", "gemini", "opencode", "cursor"):
        assert cli(quick, "skill", name, "--install", "--yes", "--mcp").returncode == 0
    files = [path for path in quick.rglob("*") if path.is_file() and ".git" not in path.parts]
    before = {path: path.read_bytes() for path in files}
    if committed:
        git(quick, "add", "-A")
        git(quick, "commit", "--quiet", "-m", "teach agents")
    agent = 'test ! -e AGENTS.md && test ! -e .claude && sed -i "s/DEPTH = 4/DEPTH = 6/" train.py'
    done = cli(quick, "run", "--tag", "t", "--proposer", "command", "--agent-cmd", agent, "--max-experiments", "1")
    assert done.returncode == 0, done.stderr
    assert_consistent(quick, tag="t")
    edit(quick, *BETTER)
    data = result(cli(quick, "try", "--tag", "t", "--json"))
    assert data["verdict"]["status"] == "keep"
    left = [] if committed else [".agents/", ".claude/", ".codex/", ".cursor/", ".gemini/", ".mcp.json"]
    assert data["left_alone"] == ([*left, "AGENTS.md", "GEMINI.md", "opencode.json"] if left else [])
    assert git(quick, "diff", "--name-only", "main", "autoresearch/t").split() == ["results.tsv", "train.py"]
    assert cli(quick, "adopt", "--tag", "t", "--provisional").returncode == 0
    assert git(quick, "diff", "--name-only", "main~1", "main").split() == ["train.py"]
    unchanged = {path: text for path, text in before.items() if path.name != "train.py"}
    assert {path: path.read_bytes() for path in unchanged} == unchanged


def test_tracked_file_with_a_new_section_is_committed_first(quick: Path, cli: Cli) -> None:
    (quick / "AGENTS.md").write_text("# Mine\n")
    git(quick, "add", "AGENTS.md")
    git(quick, "commit", "--quiet", "-m", "mine")
    assert cli(quick, "skill", "codex", "--install", "--yes").returncode == 0
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    assert done.returncode == 3
    assert "the working tree has uncommitted changes (AGENTS.md)" in done.stderr
    commit_all(quick, "teach Codex")
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "1").returncode == 0
