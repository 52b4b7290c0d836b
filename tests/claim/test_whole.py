"""A real claim: train.py with the real harness, replicated in a clone with another HOME and cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.common import claims
from tests.common.workspaces import ROOT, commit_all, git

pytestmark = pytest.mark.slow
SECONDS = "4"
OWN, DEEP, FLAT = "DEPTH = 2 ", "DEPTH = 4 ", "DEPTH = 1 "  # the depth of the profile for a CPU, and others


def start(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent", *args]
    whole = {**os.environ, "PYTHONPATH": str(ROOT), "AUTORESEARCH_CONFIRM": "0", "AUTORESEARCH_REPORT": "0", **env}
    return subprocess.run(command, cwd=folder, env=whole, capture_output=True, text=True, check=False)


def test_real_claim_is_replicated_elsewhere(embedded: Path, tmp_path: Path) -> None:
    author = tmp_path / "author"
    git(tmp_path, "clone", "--quiet", "--no-local", str(ROOT), str(author))
    git(author, "config", "user.name", "Author")
    git(author, "config", "user.email", "author@example.invalid")
    protocol = json.loads((author / "protocol.json").read_bytes())
    protocol["execution"]["command"] = f"{sys.executable} train.py"
    (author / "protocol.json").write_text(json.dumps(protocol))
    # A recipe that takes few steps, so that the gain of the next one is sure in seconds.
    text = (author / "train.py").read_text()
    assert OWN in text
    (author / "train.py").write_text(text.replace(OWN, DEEP, 1))
    commit_all(author, "a model that is too deep")
    git(author, "switch", "--quiet", "-c", "published")
    ours = {"AUTORESEARCH_CACHE": str(embedded)}
    edit = f"sed -i 's/{DEEP}/{FLAT}/' train.py"
    flags = ("--training-seconds", SECONDS, "--max-experiments", "1", "--no-setup")
    done = start(author, "run", "--tag", "t", "--proposer", "command", "--agent-cmd", edit, *flags, **ours)
    assert done.returncode == 0, done.stderr
    ran = done.stderr
    done = start(author, "confirm", "--json", **ours)
    assert done.returncode == 0, ran + done.stderr
    assert json.loads(done.stdout)["data"]["verdict"] == "confirmed", done.stdout + done.stderr
    claim = tmp_path / "claim"
    done = start(author, "claim", "--out", str(claim), **ours)
    assert done.returncode == 0, done.stderr
    reader = tmp_path / "reader"
    branch = ("--single-branch", "--branch", "published")
    git(tmp_path, "clone", "--quiet", "--no-local", *branch, str(author), str(reader))
    home = tmp_path / "home"
    home.mkdir()
    theirs = {"HOME": str(home), "AUTORESEARCH_CACHE": str(home / "cache")}
    done = start(reader, "verify", str(claim), "--no-setup", "--json", **theirs)
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads(done.stdout)["data"]
    assert data["verdict"] == "replicated"
    assert data["holdout"]["low"] > 0
    assert "preparing snapshot" in done.stderr
    print(data["says"])
    # The data that the claim names is another one now.
    claims.edit(claim, lambda content: content["snapshot"].update(id="0" * 64))
    done = start(reader, "verify", str(claim), "--no-setup", **theirs)
    assert done.returncode == 1
    assert "the data prepared here has another id" in done.stderr
