"""Taking a change out may make a run slower than the best: with the real harness, which limits its time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.common.sessions import assert_consistent, events, keep_in_turn
from tests.common.workspaces import Cli, commit_all

START = """
START = 1.5  # search: off
FIRST = 1  # search: off
time.sleep(START)
"""
# Without the third change alone, training goes on beyond its budget.
LATE = """
if FIRST == 1 and START == 0.0:
    time.sleep(1.5)
"""


@pytest.fixture
def quicker(training: Path, cli: Cli) -> Path:
    """A session that kept a better rate, together with a start that takes no time, and a model."""
    text = (training / "train.py").read_text()
    text = text.replace("\ntokenizer = Tok", f"{START}\ntokenizer = Tok").replace("\nbatch_size", f"{LATE}\nbatch_size")
    (training / "train.py").write_text(text)
    commit_all(training, "starts slowly")
    change = "s/^RATE = 0.0001 /RATE = 0.02 /;s/^START = 1.5 /START = 0.0 /;s/^FIRST = 1 /FIRST = 2 /"
    keep_in_turn(training, cli, change, flags=("--training-seconds", "0.5"))
    return training


def by_constant(done: Any) -> dict[str, dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return {entry["constants"][0]: entry for entry in json.loads(done.stdout)["data"]["changes"]}


def failing(folder: Path) -> set[str]:
    return {run["label"].split("-")[-1] for run in events(folder, "compared") if run["metric"] is None}


def test_time_that_a_variant_takes_does_not_make_its_change_pay(quicker: Path, cli: Cli) -> None:
    found = by_constant(cli(quicker, "ablate", "--json"))
    assert found["RATE"]["verdict"] == "pays"
    assert "fails" not in found["START"]
    assert (found["FIRST"]["verdict"], found["FIRST"]["worth"]) == ("undecided", None)
    assert found["FIRST"]["fails"].startswith("voided: it trained for ")
    assert failing(quicker) == {"FIRST"}
    assert_consistent(quicker)


@pytest.mark.slow
def test_time_that_a_variant_takes_does_not_make_its_change_transfer(quicker: Path, cli: Cli) -> None:
    found = by_constant(cli(quicker, "promote", "--training-seconds", "1.5", "--each", "--runs", "2", "--json"))
    assert found["RATE"]["verdict"] == "transfers"
    assert "fails" not in found["START"]["why"]
    assert found["FIRST"]["verdict"] == "undecided"
    assert found["FIRST"]["why"].startswith("without it the run is voided: ")
    assert failing(quicker) == {"FIRST"}
