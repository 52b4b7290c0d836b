"""The luck of a seed is no gain, with whatever it changes: candidates are measured with the incumbent's seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.common.sessions import rows
from tests.common.tries import edit
from tests.common.workspaces import Cli, commit_all, git, with_code

SEEDED = """import random
SEED = 42  # search: off
random.seed(SEED)
noise = random.Random(7)
"""
# Any other seed is far better.
METRIC = "loss -= 0.5 * (random.Random(42).random() != random.random())\n"


@pytest.fixture
def seeded(quick: Path) -> Path:
    return with_code(quick, SEEDED, METRIC)


def run(folder: Path, cli: Cli, change: str, count: int = 1) -> None:
    agent = ("--proposer", "command", "--agent-cmd", f"sed -i '{change}' train.py")
    done = cli(folder, "run", "--tag", "t", *agent, "--max-experiments", str(count))
    assert done.returncode == 0, done.stderr


def measured(folder: Path, number: int) -> str:
    return git(folder, "show", f"refs/autoresearch/t/{number}:train.py")


def test_candidate_has_the_seed_of_its_incumbent(seeded: Path, cli: Cli) -> None:
    run(seeded, cli, "s/^SEED = 42/SEED = 137/; s/^RATE = 0.1 /RATE = 0.1000001 /; s/Random(7)/Random(8)/")
    row = rows(seeded)[1]
    assert row["status"] == "discard"
    assert row["description"].endswith("(same seed)")
    text = measured(seeded, 1)
    assert "RATE = 0.1000001 " in text
    assert "SEED = 42 " in text
    assert "Random(7)" in text
    # The same with another seed is no new program.
    run(seeded, cli, "s/^SEED = 42/SEED = 138/; s/^RATE = 0.1 /RATE = 0.1000001 /", 2)
    assert "SEED = 42 " in measured(seeded, 2)
    assert "RATE = 0.1000001 " not in measured(seeded, 2)


def test_candidate_that_changes_nothing_but_the_seed_is_a_repeat(seeded: Path, cli: Cli) -> None:
    run(seeded, cli, "s/^SEED = 42/SEED = 137/")
    assert "SEED = 137" in measured(seeded, 1)
    assert rows(seeded)[1]["status"] == "discard"
    assert "same seed" not in rows(seeded)[1]["description"]


def test_search_of_a_seed_keeps_no_luck(seeded: Path, cli: Cli) -> None:
    edit(seeded, "# search: off", "# search: 1..100")
    commit_all(seeded, "a seed to search")
    assert cli(seeded, "run", "--tag", "t", "--max-experiments", "8").returncode == 0
    for number, row in enumerate(rows(seeded)[1:], start=1):
        assert "SEED = 42 " in measured(seeded, number) or row["status"] == "discard"


def test_edit_by_hand_that_moves_the_seed_is_refused(seeded: Path, cli: Cli) -> None:
    edit(seeded, "SEED = 42", "SEED = 137")
    edit(seeded, "RATE = 0.1", "RATE = 0.1000001")
    done = cli(seeded, "try", "--tag", "t")
    assert done.returncode == 3
    assert "train.py changes the seed along with the rest" in done.stderr
    assert "line 6 of train.py has 137 instead of 42" in done.stderr
    assert "put the seed back" in done.stderr
    edit(seeded, "SEED = 137", "SEED = 42")
    assert cli(seeded, "try", "--tag", "t").returncode == 0


def test_code_that_moved_keeps_its_seeds(quick: Path, cli: Cli) -> None:
    text = (quick / "train.py").read_text()
    model, noise = "def model():\n    return random.Random(0)\n", "noise = random.Random(42)\n"
    (quick / "train.py").write_text(f"import random\n{model}{noise}{text}")
    commit_all(quick, "two seeds")
    moved = f"import random\n{noise}{model}{text}".replace("RATE = 0.1", "RATE = 0.1000001")
    (quick / "train.py").write_text(moved)
    done = cli(quick, "try", "--tag", "t")
    assert done.returncode == 0, done.stderr
    assert measured(quick, 1) == moved.rstrip("\n")
