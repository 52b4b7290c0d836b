"""The night in docs/night is whole: its bundle holds the commit of every row, and the branch ends with these rows."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path

import pytest

from tests.common.workspaces import ROOT, git

NIGHT = ROOT / "docs" / "night"
BRANCH = "autoresearch/nov27"


@pytest.fixture
def fetched(tmp_path: Path) -> Path:
    """A repository with nothing but this one's history and the night's bundle."""
    shallow = git(ROOT, "rev-parse", "--is-shallow-repository") == "true"
    if shallow or not (ROOT / ".git").exists():
        pytest.skip("the bundle adds to the history of the repository, which is not all here")
    subprocess.run(["git", "init", "--quiet", "--bare", str(tmp_path)], check=True)
    git(tmp_path, "fetch", "--quiet", str(ROOT), "HEAD")
    git(tmp_path, "fetch", "--quiet", str(NIGHT / "commits.bundle"), "refs/*:refs/*")
    return tmp_path


def test_every_row_has_its_commit_in_the_bundle(fetched: Path) -> None:
    rows = list(csv.DictReader((NIGHT / "results.tsv").open(), delimiter="\t"))
    assert len(rows) > 10
    for row in rows:
        assert git(fetched, "cat-file", "-t", f"{row['commit']}^{{commit}}") == "commit"
    kept = [row["commit"] for row in rows if row["status"] == "keep"]
    on_branch = git(fetched, "rev-list", "--abbrev=7", "--abbrev-commit", f"refs/heads/{BRANCH}").split()
    assert {*kept} <= {*on_branch}


def test_branch_ends_with_the_rows(fetched: Path) -> None:
    written = git(fetched, "show", f"refs/heads/{BRANCH}:results.tsv")
    assert written == (NIGHT / "results.tsv").read_text().strip()
