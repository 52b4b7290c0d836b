"""Each operation of the loop with each fault that it can meet: the message, and how the loop continues.

`python -m tests.common.fault_table` prints the whole table in Markdown, and takes half an hour.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from rich.progress import track

from tests.common.fault_trials import Outcome, faults, operations, try_out
from tests.common.faults import Fault
from tests.common.sessions import assert_consistent, rows
from tests.common.workspaces import make_quick

SAMPLE = 14


def table(folder: Path) -> list[tuple[str, ...]]:
    return [(row["val_bpb"], row["status"], row["description"]) for row in rows(folder)]


def problem(folder: Path, fault: Fault, expected: list[tuple[str, ...]]) -> str:
    try:
        assert_consistent(folder)
    except AssertionError as error:
        return f"inconsistent: {str(error).splitlines()[0]}"
    # A command that cannot write its log fails, and its row gives that reason.
    own = fault.kind == "write" and fault.name.endswith("run-N.log")
    same = len(table(folder)) == len(expected) if own else table(folder) == expected
    return "" if same else f"other rows: {table(folder)}"


def try_all(folder: Path, choose: slice | int) -> list[tuple[Fault, Outcome]]:
    make_quick(folder / "undisturbed")
    found = operations(folder / "undisturbed", folder / "counts")
    expected = table(folder / "undisturbed")
    cases = faults(found)
    if isinstance(choose, int):
        cases = random.Random(choose).sample(cases, SAMPLE)
    make_quick(folder / "fresh")

    def try_one(number: int, fault: Fault) -> tuple[Fault, Outcome]:
        workspace = folder / f"case-{number}"
        shutil.copytree(folder / "fresh", workspace)
        return fault, try_out(workspace, fault, partial(problem, fault=fault, expected=expected))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = pool.map(try_one, range(len(cases)), cases)
        return list(track(outcomes, total=len(cases), disable=not sys.stderr.isatty()))


def print_table() -> None:
    """Return one line of Markdown per operation, error and outcome."""
    with tempfile.TemporaryDirectory() as name:
        outcomes = try_all(Path(name), choose=slice(None))
    grouped: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for fault, outcome in outcomes:
        said = outcome.said.replace(str(Path(sys.executable).resolve()), "PYTHON").replace(str(Path.home()), "HOME")
        said = re.sub(rf"{name}/case-\d+", "FOLDER", said)
        said = re.sub(r"\b[0-9a-f]{40}\b", "HASH", re.sub(rf"{tempfile.gettempdir()}/[\w-]+", "TMP", said))
        said = said.replace("FOLDER/", "").replace("|", "/")
        after = f"WRONG: {outcome.wrong}" if outcome.wrong else "same rows"
        operation = f"{fault.kind} `{fault.name}`"
        grouped[operation, fault.error, f"{outcome.code}: {said[:200]}", after].append(str(fault.nth))
    print("| operation | which | fault | exit code: what the loop says | the next start |\n|---|---|---|---|---|")
    for (operation, error, said, after), numbers in grouped.items():
        print(f"| {operation} | {', '.join(numbers)} | {error} | {said} | {after} |")
    print(f"\n{len(outcomes)} faults, {sum(bool(outcome.wrong) for _, outcome in outcomes)} wrong.")


if __name__ == "__main__":
    print_table()
