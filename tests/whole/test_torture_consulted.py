"""SIGKILL during a call to a model or agent: its answer is on disk, and the same question is never asked twice."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.journal.paths import experiment_folder, journal_path
from tests.common.forked import Forked
from tests.common.model_server import model_server, say
from tests.common.processes import survivors
from tests.common.proposals import edit
from tests.common.sessions import assert_consistent, rows
from tests.common.workspaces import Cli

SIZES = [(6, 5, 1), pytest.param(100, 60, 2, marks=pytest.mark.slow)]  # kills, experiments, seed
# The agent counts the rows, so it must not be asked before the last one is there.
FLAGS = ("--no-keep-awake", "--no-ahead", "--sandbox", "off", "--proposer")
# It reports what it finds at startup, in a file outside its copy.
AGENT = """
import os, pathlib, re, sys, time
prompt = pathlib.Path(sys.argv[1]).read_text()
number = int(re.findall(r"experiments so far: (\\d+)", prompt)[0]) + 1
left = pathlib.Path(sys.argv[2]) / f"{number:04d}" / "agent-left.json"
with open(sys.argv[3], "a") as file:
    file.write(f"{number} {'again' if left.exists() and left.read_text().endswith('}') else 'first'}\\n")
train = pathlib.Path("train.py")
train.write_text(re.sub("(?m)^RATE = .*", f"RATE = {0.1 + 0.003 * number:.3f}", train.read_text()))
pathlib.Path("autoresearch-notes.md").write_text(f"DESCRIPTION: step {number}\\nEXPECTED: -0.001\\n")
time.sleep(0.1)
"""


def kill_often(quick: Path, command: list[str], kills: int, seed: int) -> None:
    """Repeatedly start the loop, and kill it a moment after its journal has grown."""
    rng, journal = random.Random(seed), journal_path(quick, "t")
    for _ in range(kills):
        size = journal.stat().st_size if journal.exists() else 0
        loop = Forked(quick, command, os.environ)
        while loop.poll() is None and not (journal.exists() and journal.stat().st_size > size):
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 1.0))
        loop.kill()
        loop.wait()


def assert_complete(quick: Path, experiments: int) -> None:
    """Assert that each row occurs once, in order, and comes from the model."""
    assert_consistent(quick)
    described = [row["description"].removesuffix(" [unconfined]") for row in rows(quick)]
    assert described == ["baseline", *(f"step {n + 1}" for n in range(experiments))]
    assert {row["status"] for row in rows(quick)} == {"keep"}
    assert not survivors(quick)


@pytest.mark.parametrize(("kills", "experiments", "seed"), SIZES)
def test_session_survives_kills_during_model_calls(
    quick: Path, program: Cli, kills: int, experiments: int, seed: int
) -> None:
    asked: list[int] = []
    again: list[int] = []

    def answer(body: dict[str, Any]) -> Callable[[Any], None]:
        prompt = body["messages"][1]["content"]
        number = int(re.findall(r"experiments so far: (\d+)", prompt)[0]) + 1
        kept = experiment_folder(journal_path(quick, "t"), number) / "answers.jsonl"
        asked.append(number)
        if kept.exists() and kept.read_bytes().endswith(b"\n"):
            again.append(number)
        line = re.findall(r"(?m)^RATE = .*", prompt)[-1]
        text = f"DESCRIPTION: step {number}\nHYPOTHESIS: nearer\nEXPECTED: -0.001\n\n"
        text += edit(line, f"RATE = {0.1 + 0.003 * number:.3f}")

        def speak(handler: Any) -> None:
            handler.ends.wait(0.1)  # a model takes its time
            say(handler, text, body, stream=True)

        return speak

    with model_server(answer) as server:
        flags = [*FLAGS, "llm", "--model", f"{server.url} scripted", "--max-experiments", str(experiments)]
        command = ["run", "--tag", "t", *flags]
        kill_often(quick, command, kills, seed)
        done = program(quick, *command)
    assert done.returncode == 0, done.stderr
    assert_complete(quick, experiments)
    answers = sum(
        len((experiment_folder(journal_path(quick, "t"), n + 1) / "answers.jsonl").read_text().splitlines())
        for n in range(experiments)
    )
    assert answers == experiments
    assert again == []
    assert set(asked) == set(range(1, experiments + 1))
    assert len(asked) <= answers + kills
    events = [json.loads(line)["event"] for line in journal_path(quick, "t").read_text().splitlines()]
    counts = Counter(events)
    assert counts["called"] <= answers <= len(asked) <= counts["calling"], "a call that is in no record"


@pytest.mark.parametrize(("kills", "experiments", "seed"), SIZES)
def test_session_survives_kills_during_agent_work(
    quick: Path, program: Cli, tmp_path: Path, kills: int, experiments: int, seed: int
) -> None:
    (tmp_path / "agent.py").write_text(AGENT)
    folder, log = experiment_folder(journal_path(quick, "t"), 0).parent, tmp_path / "log"
    python, others = shlex.join([sys.executable, str(tmp_path / "agent.py")]), shlex.join([str(folder), str(log)])
    line = f"{python} {{prompt_file}} {others}"
    command = ["run", "--tag", "t", *FLAGS, "command", "--agent-cmd", line, "--max-experiments", str(experiments)]
    kill_often(quick, command, kills, seed)
    done = program(quick, *command)
    assert done.returncode == 0, done.stderr
    assert_complete(quick, experiments)
    started = [line.split() for line in log.read_text().splitlines()]
    assert {int(number) for number, _ in started} == set(range(1, experiments + 1))
    assert {found for _, found in started} == {"first"}
    assert len(started) <= experiments + kills
