"""A night with faults of the GPU at random: the table is that of a night without, and the time lost is stated."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.session import faults
from tests.common.machine_faults import FAULTS, KINDS, Plan, faulty
from tests.common.sessions import assert_consistent, events, journal, rows
from tests.common.workspaces import QUICK, Cli, commit_all, git

# Some candidates crash by themselves.
CRASHES = QUICK.replace("loss =", "if DEPTH == 8:\n    raise RuntimeError('this depth crashes')\nloss =")
SEEDS = (2, 3, 4)


@pytest.mark.parametrize(
    ("count", "experiments", "seed"),
    [(8, 8, 1), *(pytest.param(30, 40, seed, marks=pytest.mark.slow) for seed in SEEDS)],
)
def test_night_with_faults_at_random_ends_as_one_without(
    quick: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, count: int, experiments: int, seed: int
) -> None:
    monkeypatch.setattr(faults, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(faults, "LONGEST_PAUSE", 0.05)
    plan = Plan(tmp_path / "outlives")
    (quick / "train.py").write_text(faulty(plan, CRASHES))
    commit_all(quick, "fails as planned")
    undisturbed = night(quick, cli, "undisturbed", experiments)
    git(quick, "checkout", "--quiet", "main")
    shutil.rmtree(quick / ".autoresearch" / "create")

    # The runs that fail, by their numbers, of all that a night with these faults has, and a log for each.
    chance, logs = random.Random(seed), logs_of(seed, count)
    numbers = chance.sample(range(1, plan.runs + count + 1), count)
    chance.shuffle(logs)
    plan.fail_at({number: log.read_text() for number, log in zip(numbers, logs, strict=True)})
    assert night(quick, cli, "t", experiments) == undisturbed
    assert_consistent(quick)

    table = rows(quick)
    assert len(table) == 1 + experiments
    assert "crash" in [row["status"] for row in table]
    assert all("this depth crashes" in row["description"] for row in table if row["status"] == "crash")
    found = events(quick, "faulted")
    assert sorted(event["fault"] for event in found) == sorted(log.parent.name for log in logs)
    assert not any("provoked" in event for event in journal(quick))
    lost = sum(event["seconds"] + event["pause"] for event in found)
    told = json.loads(cli(quick, "status", "--json").stdout)["data"]["faults"]
    assert told == {"runs": count, "seconds": pytest.approx(lost), "until": None}
    print(f"seed {seed}: {experiments} experiments, {count} faults, {lost:.1f} s lost, the same rows as without")
    for kind in KINDS:
        own = [event for event in found if event["fault"] == kind]
        seconds, pauses = (sum(event[name] for event in own) for name in ("seconds", "pause"))
        print(f"  {kind:8}  {len(own):2} runs  {seconds:5.2f} s of runs  {pauses:5.2f} s of pauses")


def night(folder: Path, cli: Cli, tag: str, experiments: int) -> tuple[list[Any], list[Mapping[str, Any]]]:
    """Run a session, and return its rows without hashes, and what the search proposed."""
    flags = ("--fresh", "--sandbox", "off", "--no-keep-awake", "--max-experiments", str(experiments))
    done = cli(folder, "run", "--tag", tag, *flags)
    assert done.returncode == 0, done.stderr
    table = [(row["val_bpb"], row["status"], row["description"]) for row in rows(folder)]
    names = ("number", "parameters", "reasoning", "digest")
    return table, [
        {name: event[name] for name in names} for event in journal(folder, tag) if event["event"] == "proposed"
    ]


def logs_of(seed: int, count: int) -> list[Path]:
    return [FAULTS[(15 * seed + each) % len(FAULTS)] for each in range(count)]


def test_slow_nights_have_every_recorded_fault() -> None:
    assert {log for seed in SEEDS for log in logs_of(seed, 30)} == set(FAULTS)
