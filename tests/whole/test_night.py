"""The night in docs/night is whole: its bundle holds the commit of every row, and the branch ends with these rows."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path

import pytest

from tests.common.workspaces import ROOT, git

NIGHT = ROOT / "docs" / "night"
BRANCH = "refs/heads/autoresearch/nov27"


@pytest.fixture
def bundle(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A repository with nothing but the objects of the bundle, and its refs; the commit it builds on is `base`.

    A clone may not have the history that `git fetch` asks for, so the pack is unpacked without it.
    """
    header, _, pack = (NIGHT / "commits.bundle").read_bytes().partition(b"\n\n")
    subprocess.run(["git", "init", "--quiet", "--bare", str(tmp_path)], check=True)
    subprocess.run(["git", "index-pack", "--stdin"], cwd=tmp_path, input=pack, check=True, capture_output=True)
    form, base, *refs = header.decode().splitlines()
    assert form == "# v2 git bundle"
    found = {name: commit for commit, name in (line.split() for line in refs)}
    return tmp_path, {"base": base.removeprefix("-").split()[0], **found}


def test_every_row_has_its_commit_in_the_bundle(bundle: tuple[Path, dict[str, str]]) -> None:
    folder, refs = bundle
    baseline, *rows = csv.DictReader((NIGHT / "results.tsv").open(), delimiter="\t")
    assert len(rows) == 10
    assert refs["base"].startswith(baseline["commit"])
    for number, row in enumerate(rows, start=1):
        commit = refs[f"refs/autoresearch/nov27/{number}"]
        assert commit.startswith(row["commit"])
        assert git(folder, "cat-file", "-t", commit) == "commit"
        if row["status"] == "keep":
            git(folder, "merge-base", "--is-ancestor", commit, refs[BRANCH])


def test_branch_ends_with_the_rows(bundle: tuple[Path, dict[str, str]]) -> None:
    folder, refs = bundle
    assert git(folder, "show", f"{refs[BRANCH]}:results.tsv") == (NIGHT / "results.tsv").read_text().strip()
