"""Real training: an honest win is confirmed; one that holds for a seed or for the validation text alone is not.

uv run pytest -m slow -s -n 0 tests/whole/test_true_wins.py      # about ten minutes, and nothing beside it
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.common.recipe import recipe
from tests.common.workspaces import ROOT, git, make_repository

SECONDS = "10"
BEFORE = recipe(DEPTH=2, HEAD_DIM=128)
HONEST = (("    DEPTH = 2 ", "    DEPTH = 1 "), ("    HEAD_DIM = 128 ", "    HEAD_DIM = 64 "))
# The same win, but for the one seed that the session runs with.
ONE_SEED = (
    ("    DEPTH = 2 ", "    DEPTH = 1 if SEED == 42 else 2 "),
    ("    HEAD_DIM = 128 ", "    HEAD_DIM = 64 "),
    ("# These depend on the machine.", "SEED = 42  # search: off"),
    ("\nSEED = 42  # search: off\n\nWIDTH", "\n\nWIDTH"),
)
# Every other micro-step is made of the validation text, which lies in the repository by mistake.
LEAKED = (
    (
        "    inputs, targets, epochs = zip(*(next(batches) for _ in range(MICRO_STEPS)), strict=True)\n",
        "    inputs, targets, epochs = zip(*(next(batches) for _ in range(MICRO_STEPS)), strict=True)\n"
        "    leaked = np.load('notes.npy')\n"
        "    for block, shifted in zip(inputs, targets, strict=True):\n"
        "        rows = leaked[np.random.randint(len(leaked), size=ROWS // 2)]\n"
        "        block[: ROWS // 2], shifted[: ROWS // 2] = rows[:, :-1], rows[:, 1:]\n",
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edits", "verdict", "why"),
    [
        (HONEST, "confirmed", ""),
        (ONE_SEED, "not confirmed", "one seed"),
        (LEAKED, "not confirmed", "not on the holdout"),
    ],
    ids=["honest", "one-seed", "leaked"],
)
def test_only_an_honest_win_is_confirmed(
    tmp_path: Path, edits: tuple[tuple[str, str], ...], verdict: str, why: str
) -> None:
    folder, cache = tmp_path / "workspace", tmp_path / "cache"
    env = {**os.environ, "AUTORESEARCH_CACHE": str(cache), "AUTORESEARCH_CONFIRM": "1"}
    make(folder, env)
    text = BEFORE
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new, 1)
    (tmp_path / "candidate.py").write_text(text)
    agent = ("--proposer", "command", "--agent-cmd", f"cp {tmp_path}/candidate.py train.py")
    run(folder, env, "run", "--tag", "t", *agent, "--max-experiments", "1", "--training-seconds", SECONDS)
    status = json.loads(run(folder, env, "status", "--json"))["data"]
    found = status["confirmed"]
    print(f"{verdict}: {why}", json.dumps({name: found[name] for name in ("gain", "low", "high", "holdout", "cost")}))
    assert status["kept"] == 1, "the session was not fooled, so this shows nothing"
    assert (found["verdict"], found["why"]) == (verdict, why)


def make(folder: Path, env: dict[str, str]) -> None:
    """Make a workspace with the real recipe, and its validation rows in a file that is in the repository."""
    names = ("agent", "harness", "prepare.py", "train.py", "protocol.json", "pyproject.toml")
    folder.mkdir()
    for name in names:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    (folder / "train.py").write_text(BEFORE)
    protocol: dict[str, Any] = json.loads((folder / "protocol.json").read_bytes())
    protocol["environment"]["setupCommands"] = []
    protocol["execution"]["command"] = f"{sys.executable} train.py"
    (folder / "protocol.json").write_text(json.dumps(protocol))
    subprocess.run([sys.executable, "prepare.py", "--source", "embedded"], cwd=folder, env=env, check=True)
    rows = "import numpy as np; from harness.prepared import current_snapshot as c; from harness import loader; s = c()"
    save = "np.save('notes.npy', loader.validation_rows(s.directory, s.max_seq_len, s.eval_tokens))"
    subprocess.run([sys.executable, "-c", f"{rows}; {save}"], cwd=folder, env=env, check=True)
    make_repository(folder)
    assert git(folder, "ls-files", "notes.npy")


def run(folder: Path, env: dict[str, str], *args: str) -> str:
    command = [sys.executable, "-m", "agent", "-C", str(folder), *args]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
