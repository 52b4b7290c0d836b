"""Real coding agents research in a workspace: three cycles of `try` each, by shell and over MCP.

uv run pytest tests/whole/test_agents_try.py -m slow -n 1      eight sessions, minutes; downloads the agents from npm

Set TRANSCRIPTS to a folder to keep what each agent sent to the model.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.common.model_server import model_server
from tests.common.scripted_agents import REAL_AGENTS, Call, RealAgent, Script, transcript
from tests.common.tries import BETTER, WORSE
from tests.common.workspaces import Cli, commit_all, git

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("npm") is None, reason="the agents come from npm: install Node.js 20 to run this"),
]

CRASHES = ("loss = 1.0", "raise ValueError('no')\nloss = 1.0")
CYCLES = ((BETTER, "a larger rate"), (WORSE, "a smaller depth"), (CRASHES, "an error"))
DETACHED = "a smaller depth"  # measured in the background: the agent's shell may kill what a command leaves running
STATUSES = ["keep", "discard", "crash"]


def data_in(text: str) -> dict[str, Any]:
    """Return the JSON object in the result of a tool, which may have other text around it."""
    for found in re.finditer(r"\{", text):
        try:
            value, _ = json.JSONDecoder().raw_decode(text, found.start())
        except ValueError:
            continue
        if isinstance(value, dict) and ("data" in value or "number" in value):
            data: dict[str, Any] = value.get("data") or value
            return data
    raise AssertionError(f"no JSON in {text!r}")


def by_shell(agent: RealAgent, file: Path, seen: list[dict[str, Any]]) -> Script:
    yield from agent.read_guide(file.parent)
    yield from agent.shell("autoresearch status")
    for (old, new), why in CYCLES:
        yield from agent.edit(file, old, new)
        if why == DETACHED:
            started = data_in((yield from agent.shell(f"autoresearch try --detach -m '{why}' --json")))
            assert started["verdict"] is None
            seen.append(data_in((yield from agent.shell("autoresearch wait --timeout 100 --json"))))
        else:
            seen.append(data_in((yield from agent.shell(f"autoresearch try -m '{why}' --json"))))


def over_mcp(agent: RealAgent, file: Path, seen: list[dict[str, Any]]) -> Script:
    yield from agent.read_guide(file.parent)
    yield from agent.mcp("briefing", {})
    for (old, new), why in CYCLES:
        yield from agent.edit(file, old, new)
        started = data_in((yield from agent.mcp("start_experiment", {"why": why})))
        seen.append((yield from verdict(agent, started["number"])))


def verdict(agent: RealAgent, number: int) -> Generator[Call, str, dict[str, Any]]:
    while True:
        found = data_in((yield from agent.mcp("wait_experiment", {"number": number, "seconds": 20})))
        if found["state"] == "done":
            return found


@pytest.fixture
def workspace(quick: Path) -> Path:
    """A workspace with a crash that is the code's own: the first line of the quick one computes the metric."""
    text = (quick / "train.py").read_text()
    assert CRASHES[0] in text
    (quick / ".gitignore").write_text("__pycache__/\n")
    git(quick, "add", ".gitignore")
    commit_all(quick, "ignore")
    return quick


@pytest.mark.parametrize("way", [by_shell, over_mcp], ids=["shell", "mcp"])
@pytest.mark.parametrize("agent", REAL_AGENTS, ids=lambda each: each.name)
def test_agent_keeps_discards_and_crashes(
    agent: RealAgent, way: Any, workspace: Path, tmp_path: Path, cli: Cli
) -> None:
    program = agent.install(tmp_path / "agent")
    flag = "--mcp" if way is over_mcp else "--no-mcp"
    assert cli(workspace, "skill", agent.name, "--install", "--yes", flag).returncode == 0
    seen: list[dict[str, Any]] = []
    model = agent.model(way(agent, workspace / "train.py", seen))
    try:
        with model_server(model.answer) as server:
            done = agent.run(program, tmp_path / "home", workspace, server.url, mcp=way is over_mcp)
    finally:
        shutil.rmtree(tmp_path / "agent")  # hundreds of megabytes
        said = transcript(model)
        print(said)
        if "TRANSCRIPTS" in os.environ:
            folder = Path(os.environ["TRANSCRIPTS"])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{agent.name}-{flag[2:].replace('no-mcp', 'shell')}.txt").write_text(said)
    assert model.ended, f"{done.stderr}\n{done.stdout}\n{said}"
    assert done.returncode == 0, done.stderr
    assert [each["verdict"]["status"] for each in seen] == STATUSES
    assert [each["description"] for each in seen] == [why for _, why in CYCLES]
    assert "ValueError: no" in seen[2]["verdict"]["reason"]
    # What the agent was told is what was recorded.
    table = [line.split("\t") for line in git(workspace, "show", "autoresearch/try:results.tsv").splitlines()[1:]]
    assert [row[3] for row in table] == ["keep", *STATUSES]
    assert [row[4].partition(" [")[0] for row in table] == ["baseline", *(why for _, why in CYCLES)]
    assert [row[0] for row in table[1:]] == [each["commit"][:7] for each in seen]
    assert (workspace / "train.py").read_text() == git(workspace, "show", "autoresearch/try:train.py") + "\n"
    assert BETTER[1] in (workspace / "train.py").read_text()
    assert git(workspace, "status", "--porcelain", "--untracked-files=no").split() == ["M", "train.py"]
    assert "## One cycle" in json.dumps(model.bodies[-1]), "the agent has not read the guide"


def test_sandbox_of_codex_is_explained(workspace: Path, tmp_path: Path) -> None:
    """Its sandbox makes .git read-only: nothing is lost, and the error says what to do."""
    codex = next(each for each in REAL_AGENTS if each.name == "codex")

    def script() -> Script:
        yield from codex.edit(workspace / "train.py", *BETTER)
        yield from codex.shell("autoresearch try")

    model = codex.model(script())
    program = codex.install(tmp_path / "agent")
    try:
        with model_server(model.answer) as server:
            codex.run(program, tmp_path / "home", workspace, server.url, mcp=True)
    finally:
        shutil.rmtree(tmp_path / "agent")
    assert "exited with code 3" in model.results[-1]
    assert f"error: {workspace / '.git'} is read-only, so no candidate can be committed" in model.results[-1]
    assert "hint: in the sandbox of a coding agent, use the tools of `autoresearch mcp`" in model.results[-1]
    assert BETTER[1] in (workspace / "train.py").read_text()
    assert not (workspace / ".autoresearch").exists()
