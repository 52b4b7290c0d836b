"""The results of a session: rows of results.tsv, the journal, and whether git agrees with both."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.journal.journal import fold
from agent.journal.paths import journal_path
from tests.common.workspaces import Cli, git


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def cells(folder: Path) -> list[list[str]]:
    return [line.split("\t") for line in (folder / "results.tsv").read_text().splitlines()[1:]]


def journal(folder: Path, tag: str = "t") -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal_path(folder, tag).read_text().splitlines()]


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in journal(folder) if event["event"] == kind]


def assert_consistent(folder: Path, file: str = "train.py", tag: str = "t") -> None:
    """Check the invariants of the design: rows, hashes, branch, tree."""
    state = fold(journal_path(folder, tag))
    table = rows(folder)
    assert len(table) == len(state.experiments)
    for row, experiment in zip(table, state.experiments, strict=True):
        assert experiment.commit.startswith(row["commit"])
        measured = git(folder, "show", f"{experiment.commit}:{file}")
        for name, value in experiment.parameters.items():
            assert any(line.startswith(f"{name} = ") and str(value) in line for line in measured.splitlines()), name
    incumbent = state.incumbent
    assert incumbent is not None
    assert git(folder, "rev-parse", "HEAD") == state.head
    assert git(folder, "symbolic-ref", "--short", "HEAD") == f"autoresearch/{tag}"
    assert git(folder, "status", "--porcelain", "--untracked-files=no") == ""
    assert git(folder, "show", f"HEAD:{file}") == git(folder, "show", f"{incumbent.commit}:{file}")
    assert git(folder, "rev-list", "--merges", "HEAD") == ""
    for experiment in state.experiments[1:]:
        assert git(folder, "rev-parse", f"refs/autoresearch/{tag}/{experiment.number}") == experiment.commit
        if experiment.verdict.status == "keep":
            git(folder, "merge-base", "--is-ancestor", experiment.commit, "HEAD")


def keep_in_turn(folder: Path, cli: Cli, *changes: str, flags: Sequence[str] = ()) -> None:
    """A session whose experiments are these changes of train.py, each of which is kept.

    Args:
        flags: further ones of `run`.
    """
    for count, change in enumerate(changes, start=1):
        agent = ("--proposer", "command", "--agent-cmd", f'sed -i "{change}" train.py')
        done = cli(folder, "run", "--tag", "t", *agent, "--max-experiments", str(count), *flags)
        assert done.returncode == 0, done.stderr
    assert [row["status"] for row in rows(folder)] == ["keep"] * (1 + len(changes))


def confirmed(folder: Path, cli: Cli, *flags: str) -> dict[str, Any]:
    """Run `confirm --json` and return its data."""
    done = cli(folder, "confirm", "--json", *flags)
    assert done.returncode == 0, done.stderr
    data: dict[str, Any] = json.loads(done.stdout)["data"]
    return data
