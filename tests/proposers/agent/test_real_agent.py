"""Test a real coding agent from the package registry in a real session; its model is scripted on loopback.

It is the group `agents` of pyproject.toml, pinned like everything else and installed by nothing but this test.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.common.model_server import model_server, reply
from tests.common.sessions import cells, events
from tests.common.workspaces import ROOT, Cli, git

NOTES = "DESCRIPTION: a larger rate\\nHYPOTHESIS: it was too small\\nEXPECTED: -0.05\\n"
EDIT = f"sed -i 's/^RATE = 0.1 /RATE = 0.3 /' train.py && printf '{NOTES}' > autoresearch-notes.md"
FINISH = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"


def scripted_model() -> Any:
    """Return a model that edits the file with the agent's shell, then says that it is done."""
    numbers = itertools.count()

    def answer(body: dict[str, Any]) -> Any:
        done = any(message["role"] == "tool" for message in body["messages"])
        call = {"name": "bash", "arguments": json.dumps({"command": FINISH if done else EDIT})}
        message = {
            "role": "assistant",
            "content": "I raise the rate.",
            "tool_calls": [{"id": f"call{next(numbers)}", "type": "function", "function": call}],
        }
        content = {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }
        return lambda handler: reply(handler, 200, content)

    return answer


@pytest.mark.slow
def test_mini_swe_agent_improves_recipe(quick: Path, tmp_path: Path, cli: Cli) -> None:
    venv, home = tmp_path / "venv", tmp_path / "home"
    # A user runs `uv sync --group agents`; here without the project, in an environment that is removed with the test.
    sync = ["uv", "sync", "--quiet", "--locked", "--only-group", "agents"]
    subprocess.run(sync, cwd=ROOT, env={**os.environ, "UV_PROJECT_ENVIRONMENT": str(venv)}, check=True)
    (home / ".config" / "mini-swe-agent").mkdir(parents=True)
    with model_server(scripted_model()) as server:
        done = cli(
            quick,
            *("run", "--tag", "t", "--proposer", "command", "--agent", "mini", "--max-experiments", "1"),
            "--no-keep-awake",
            HOME=str(home),
            PATH=f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}",
            OPENAI_API_KEY="sk-0123456789abcdef",
            OPENAI_API_BASE=f"{server.url}/v1",
            MSWEA_MODEL_NAME="openai/gpt-4o",
            MSWEA_COST_TRACKING="ignore_errors",
            LITELLM_LOCAL_MODEL_COST_MAP="True",
        )
    assert done.returncode == 0, done.stderr
    assert [row[3:] for row in cells(quick)] == [["keep", "baseline"], ["keep", "a larger rate"]], done.stderr
    assert events(quick, "proposed")[1]["proposer"] == "command"
    assert events(quick, "proposed")[1]["expected"] == -0.05
    assert "RATE = 0.3 " in git(quick, "show", f"{cells(quick)[1][0]}:train.py")
    assert git(quick, "status", "--porcelain", "--untracked-files=no") == ""
    assert len(server.requests) >= 2
