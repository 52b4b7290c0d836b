"""Files beside the recipe: those that a run may read count as changes, those that only people read do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.protocol.load import load_protocol
from agent.repository.workspace import Workspace
from tests.common.workspaces import QUICK, git, quick_protocol, repository

COUNT = (
    "config.json",
    "data/authors.txt",
    "data/README.csv",
    "prompts/system.md",
    "lib.py",
    ".gitattributes",
    "notes.csv",
)
DO_NOT = (
    "README.md",
    "CLAUDE.md",
    "docs/plan.md",
    ".github/workflows/ci.yml",
    ".gitignore",
    "results.tsv",
    "playbook.md",
    "program.md",
    "claim-t/logs/a-1.log",
    "train.py",
)


@pytest.fixture
def below(tmp_path: Path) -> Workspace:
    """A workspace that is not at the top of its repository."""
    files = dict.fromkeys((f"ml/{name}" for name in (*COUNT, *DO_NOT)), "before\n")
    claim = json.dumps({"$schema": "claim.schema.json", "version": 1})
    files |= {"ml/protocol.json": json.dumps(quick_protocol()), "ml/claim-t/claim.json": claim, "ml/prepare.py": ""}
    repository(tmp_path, {**files, "ml/train.py": QUICK, "web/app.js": "before\n", "README.md": "before\n"})
    return Workspace(tmp_path / "ml", load_protocol(tmp_path / "ml"))


@pytest.mark.parametrize("name", [*COUNT, *DO_NOT])
def test_what_a_run_may_read_counts(below: Workspace, name: str) -> None:
    before = below.head
    (below.folder / name).write_text("after\n")
    git(below.folder, "commit", "--quiet", "--all", "-m", name)
    wanted = [f"ml/{name}"] if name in COUNT else []
    assert below.changed_beside(before, below.head) == wanted
    recipe = ["ml/train.py"] if name == "train.py" else []
    assert below.changed_beside(before, below.head, every=True) == wanted + recipe


def test_files_outside_of_the_workspace_count_on_request(below: Workspace) -> None:
    before = below.head
    for name in ("web/app.js", "README.md"):
        (below.top / name).write_text("after\n")
    git(below.top, "commit", "--quiet", "--all", "-m", "others")
    assert below.changed_beside(before, below.head) == []
    assert below.changed_beside(before, below.head, every=True) == ["web/app.js"]
