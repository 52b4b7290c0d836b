"""Models and agents are told the untried entries of the playbook, and cite what they try."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.journal.experiment import Experiment, Run, Value, Verdict, digest
from agent.journal.journal import fold
from agent.journal.paths import journal_path
from agent.playbook.entries import parse
from agent.proposers.answer import parse_notes
from agent.proposers.base import Context, Flying
from agent.proposers.ideas import cited, untried_entries
from agent.proposers.model.prompt import briefing
from tests.common.agents import agent
from tests.common.in_process import call
from tests.common.model_server import KEY, model_server
from tests.common.proposals import edit
from tests.common.sessions import events
from tests.common.workspaces import commit_all

FILES = {"train.py": "RATE = 0.1\n"}
BASE: dict[str, Value] = {"RATE": 0.1}
BASELINE = Experiment(
    0, "baseline", "baseline", "0", digest(FILES), BASE, (Run(1.0, 1.0),), Verdict("keep", "baseline")
)
BOOK = """# Playbook

## Half the batch

- what: twice the steps
- turns: BATCH down
- effect: 1.2 %

## Another activation

- what: a smooth one
- where: a paper
- effect: 3 %
"""
LINE = "RATE = 0.1  # search: 0.001..10 log"
SAID = "DESCRIPTION: smooth\nHYPOTHESIS: it is\nEXPECTED: -0.01\nPLAYBOOK: {}\n\n"


def context(book: str = BOOK, **more: Any) -> Context:
    return Context(1, 0, FILES, BASELINE, (BASELINE,), "minimize", {}, playbook=parse(book).entries, **more)


def section(text: str) -> str:
    return text.partition("## The playbook")[2].partition("\n## ")[0]


def test_briefing_tells_untried_entries_best_first() -> None:
    told = section(briefing(context()))
    assert "ideas, not instructions" in told
    assert "PLAYBOOK: its title" in told
    first, second = told.strip().splitlines()[-2:]
    assert first == "Another activation [3 %]: a smooth one (a paper)"
    assert second == "Half the batch [1.2 %; BATCH down]: twice the steps"
    flying = Flying(1, "", BASE, "x", ("train.py",), playbook="Another activation")
    assert "Another activation" not in section(briefing(context(flight=(flying,))))


def test_briefing_without_a_playbook_is_unchanged() -> None:
    assert "playbook" not in briefing(context("")).lower()
    every = parse(BOOK).entries
    done = replace(BASELINE, number=1, playbook=every[0].title), replace(BASELINE, number=2, playbook=every[1].title)
    assert untried_entries(replace(context(), history=(BASELINE, *done))) == []
    assert "playbook" not in briefing(replace(context(), history=(BASELINE, *done))).lower()


def test_briefing_of_a_large_playbook_is_bounded() -> None:
    book = "".join(f"## Idea {number}\n- what: {'x' * 600}\n" for number in range(200))
    assert len(section(briefing(context(book)))) < 9000


def test_title_is_cited_as_the_playbook_spells_it() -> None:
    said = parse_notes(SAID.format("**half the BATCH**"))
    assert cited(context(), said.playbook) == "Half the batch"
    for title in ("", "made up", "x" * 100_000, "\x1b[31m", "[]"):
        assert cited(context(), title) == ""


@pytest.fixture
def booked(quick: Path) -> Path:
    (quick / "playbook.md").write_text(BOOK)
    commit_all(quick, "playbook", "playbook.md")
    return quick


def test_model_is_told_the_entries_and_cites_one(booked: Path) -> None:
    answers = iter([SAID.format("another activation") + edit(LINE, "RATE = 0.2"), "no", "no", "no"])
    with model_server(lambda _: next(answers)) as server:
        model = ("--proposer", "llm", "--model", f"{server.url} scripted", "--no-ahead")
        flags = ("--max-experiments", "1", "--no-keep-awake", "--sandbox", "off")
        done = call(booked, "run", "--tag", "t", *model, *flags, AUTORESEARCH_MODEL_KEY=KEY)
    assert done.returncode == 0, done.stderr
    assert "Another activation [3 %]" in json.dumps(server.requests[0][2])
    assert events(booked, "proposed")[1]["playbook"] == "Another activation"
    kept = json.loads((journal_path(booked, "t").parent / "experiments" / "0001" / "proposal.json").read_text())
    assert kept["playbook"] == "Another activation"
    assert fold(journal_path(booked, "t")).experiments[1].playbook == "Another activation"
    entry = json.loads(call(booked, "playbook", "--json").stdout)["data"]["entries"][1]
    assert (entry["state"], entry["trials"][0]["status"]) == ("tried", "keep")
    assert "entry of the playbook: Another activation" in call(booked, "show", "1").stdout


def test_agent_is_told_the_entries_and_cites_one(booked: Path) -> None:
    notes = SAID.format("Half the batch").replace("\n", "\\n")
    script = f"""put("RATE = 0.1", "RATE = 0.2")\nnote("{notes}")\n"""
    done = call(
        booked, "run", "--tag", "t", "--proposer", "command", "--agent-cmd", agent(booked.parent, script).command,
        "--max-experiments", "1", "--no-keep-awake", "--sandbox", "off",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    prompt = next((journal_path(booked, "t").parent / "experiments" / "0001").glob("*-prompt.md")).read_text()
    assert "Another activation [3 %]" in prompt
    assert events(booked, "proposed")[1]["playbook"] == "Half the batch"


@pytest.mark.parametrize(
    "said",
    ["PLAYBOOK: half the batch", "PLAYBOOK: Half the batch\nfewer tokens a step", "fewer\nPLAYBOOK: half the batch"],
)
def test_edit_made_by_hand_cites_an_entry(booked: Path, said: str) -> None:
    text = (booked / "train.py").read_text()
    (booked / "train.py").write_text(text.replace("RATE = 0.1", "RATE = 0.3"))
    done = call(booked, "try", "-m", said, "--sandbox", "off", "--tag", "t")
    assert done.returncode == 0, done.stderr
    assert events(booked, "proposed")[1]["playbook"] == "Half the batch"
