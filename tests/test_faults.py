"""Each operation of the loop fails in turn: a sentence or nothing at all, and the next start comes to the same end."""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from rich.progress import track

from tests import faults
from tests.conftest import make_quick
from tests.test_session import assert_consistent, rows

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="the faults are Linux's")
SAMPLE = 14


def table(folder: Path) -> list[tuple[str, ...]]:
    return [(row["val_bpb"], row["status"], row["description"]) for row in rows(folder)]


def problem(folder: Path, expected: list[tuple[str, ...]]) -> str:
    try:
        assert_consistent(folder)
    except AssertionError as error:
        return f"inconsistent: {str(error).splitlines()[0]}"
    return "" if table(folder) == expected else f"other rows: {table(folder)}"


def try_all(folder: Path, choose: slice | int) -> list[tuple[faults.Fault, faults.Outcome]]:
    make_quick(folder / "undisturbed")
    found = faults.operations(folder / "undisturbed", folder / "counts")
    expected = table(folder / "undisturbed")
    cases = faults.faults(found)
    if isinstance(choose, int):
        cases = random.Random(choose).sample(cases, SAMPLE)
    make_quick(folder / "fresh")
    outcomes = []
    for number, fault in enumerate(track(cases, disable=not sys.stderr.isatty())):
        workspace = folder / f"case-{number}"
        shutil.copytree(folder / "fresh", workspace)
        outcomes.append((fault, faults.try_out(workspace, fault, lambda at: problem(at, expected))))
    return outcomes


def test_some_operations_fail(tmp_path: Path) -> None:
    outcomes = try_all(tmp_path, choose=5)
    assert len(outcomes) == SAMPLE
    assert not [pair for pair in outcomes if pair[1].wrong]


@pytest.mark.slow
def test_every_operation_fails(tmp_path: Path) -> None:
    outcomes = try_all(tmp_path, choose=slice(None))
    assert len(outcomes) > 200
    assert not [pair for pair in outcomes if pair[1].wrong]


def print_table() -> None:
    """One line for each operation and error, in Markdown."""
    with tempfile.TemporaryDirectory() as name:
        outcomes = try_all(Path(name), choose=slice(None))
        print(
            "| operation | which | fault | exit code | what the loop says | the next start |\n|---|---|---|---|---|---|"
        )
        for fault, outcome in outcomes:
            said = outcome.said.replace(name, "").replace("|", "/")[:160]
            after = f"WRONG: {outcome.wrong}" if outcome.wrong else "same rows"
            operation = f"{fault.kind} {fault.name}"
            print(f"| {operation} | {fault.nth} | {fault.error} | {outcome.code} | {said} | {after} |")
        print(f"\n{len(outcomes)} faults, {sum(bool(outcome.wrong) for _, outcome in outcomes)} wrong")
