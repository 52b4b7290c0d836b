"""Variables that change MLX's numbers: a session refuses a change, and no baseline is reused across one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.journal.journal import read
from agent.journal.paths import journal_path
from tests.common.workspaces import Cli, git

RECENT = ("macos", "mlx_variables")
PRECISE = {"MLX_ENABLE_TF32": "0"}


def run(cli: Cli, folder: Path, tag: str, count: int = 1, **environment: str) -> Any:
    return cli(folder, "run", "--tag", tag, "--max-experiments", str(count), **environment)


def is_reused(folder: Path, tag: str) -> bool:
    return any(event.data.get("reused") for event in read(journal_path(folder, tag)) if event.kind == "measured")


def forget(folder: Path, tag: str) -> None:
    """Leave journal and baseline as an earlier version did."""
    for path in (journal_path(folder, tag), folder / ".autoresearch/create/baseline.json"):
        texts = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        records = [json.loads(text) for text in texts]
        for record in records:
            for name in RECENT:
                record.get("fingerprint", {}).pop(name, None)
        path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_session_refuses_a_changed_variable(quick: Path, cli: Cli) -> None:
    assert run(cli, quick, "t").returncode == 0
    done = run(cli, quick, "t", 2, **PRECISE)
    assert done.returncode == 3
    assert "mlx_variables was MLX_ENABLE_TF32=1 and is now MLX_ENABLE_TF32=0" in done.stderr
    assert run(cli, quick, "t", 2, MLX_ENABLE_TF32="1").returncode == 0


def test_session_of_an_earlier_version_goes_on(quick: Path, cli: Cli) -> None:
    run(cli, quick, "t")
    forget(quick, "t")
    assert not any(name in journal_path(quick, "t").read_text() for name in RECENT)
    done = run(cli, quick, "t", 2)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("earlier", [True, False])
@pytest.mark.parametrize(("environment", "reused"), [({}, True), (PRECISE, False)])
def test_baseline_is_reused_while_the_variables_are_the_same(
    quick: Path, cli: Cli, environment: dict[str, str], reused: bool, earlier: bool
) -> None:
    run(cli, quick, "a")
    if earlier:
        forget(quick, "a")
    git(quick, "checkout", "--quiet", "main")
    done = run(cli, quick, "b", 1, **environment)
    assert done.returncode == 0, done.stderr
    assert is_reused(quick, "b") is reused
