"""`--holdout COMMAND`: a repository without our harness scores what its runs wrote on data of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from agent.format import brief, figure
from tests.common.sessions import assert_consistent, confirmed, events, keep_in_turn
from tests.common.terminals import in_window
from tests.common.workspaces import Cli, commit_all

# The model is the constants. RATE helps on both splits, WIDTH on the validation split alone.
WRITES = 'import json\njson.dump([RATE, WIDTH], open("model.json", "w"))\nprint("---")'
SCORES = """import json
rate, width = json.load(open("model.json"))
print(f"val_bpb:          {3 + (rate - 0.4) ** 2:.6f}")
"""
COMMAND = f"{sys.executable} score.py"


@pytest.fixture
def writing(quick: Path) -> Path:
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace('print("---")', WRITES, 1))
    (quick / "score.py").write_text(SCORES)
    commit_all(quick, "a model and what scores it")
    return quick


def test_gain_must_show_on_the_holdout(writing: Path, cli: Cli) -> None:
    keep_in_turn(writing, cli, "s/^RATE = 0.1 /RATE = 0.3 /")
    data = confirmed(writing, cli, "--holdout", COMMAND)
    assert (data["verdict"], data["why"]) == ("confirmed", "")
    assert data["holdout"] == {
        "means": {"a": pytest.approx(3.09), "b": pytest.approx(3.01)},
        **dict.fromkeys(("gain", "low", "high"), pytest.approx(0.08, abs=1e-6)),
    }
    assert data["cost"]["gain"] == pytest.approx(0.0, abs=1e-6)
    assert "on the holdout 0.08" in cli(writing, "confirm", "--holdout", COMMAND).stdout
    assert "holdout 0.08" in cli(writing, "status").stdout
    assert_consistent(writing)


def test_gain_on_validation_alone_is_not_confirmed(writing: Path, cli: Cli) -> None:
    keep_in_turn(writing, cli, "s/^WIDTH = 64 /WIDTH = 256 /")
    data = confirmed(writing, cli, "--holdout", COMMAND)
    assert (data["verdict"], data["why"]) == ("not confirmed", "not on the holdout")
    assert data["cost"]["gain"] == pytest.approx(0.192, abs=1e-6)
    line = "not confirmed: not on the holdout"
    assert line in cli(writing, "status").stdout
    (session,) = json.loads(cli(writing, "sessions", "--json").stdout)["data"]["sessions"]
    assert (session["confirmed_gain"], session["heldout_gain"]) == (None, data["gain"])
    both = f"{figure(data['gain'], 1.0)} {line}, {figure(session['gain'], 1.0)} apparent"
    assert both in cli(writing, "sessions").stdout
    _, shown = in_window(writing, [(120, 40)], "status")
    assert f"{figure(data['gain'], 1.0)} {line}" in shown
    assert f"apparent {figure(session['gain'], 1.0)}" in shown
    report = cli(writing, "report", "--json")
    assert report.returncode == 0, report.stderr
    assert confirmed(writing, cli)["verdict"] == "not confirmed"  # what was scored stays known


def test_rounding_is_no_cost_of_selection(writing: Path, cli: Cli) -> None:
    (writing / "score.py").write_text(
        'import json\nrate, width = json.load(open("model.json"))\n'
        "loss = 1.45 + (rate - 0.4) ** 2 + 0.001 * abs(width - 256)\n"
        'print(f"val_bpb:          {loss + 0.2:.6f}")\n'
    )
    keep_in_turn(writing, cli, "s/^RATE = 0.1 /RATE = 0.3 /")
    data = confirmed(writing, cli, "--holdout", COMMAND)
    assert data["holdout"]["gain"] == pytest.approx(0.08)
    assert data["cost"] == {"gain": 0.0, "low": 0.0, "high": 0.0}


def test_pairs_without_a_score_do_not_hide_the_others(writing: Path, cli: Cli) -> None:
    keep_in_turn(writing, cli, "s/^WIDTH = 64 /WIDTH = 256 /")
    assert confirmed(writing, cli)["holdout"] is None
    data = confirmed(writing, cli, "--holdout", COMMAND)
    assert data["runs"] == {"a": 6, "b": 6}
    assert (data["verdict"], data["why"]) == ("not confirmed", "not on the holdout")


def test_gain_on_validation_beside_that_on_the_holdout_is_of_the_same_pairs(writing: Path, cli: Cli) -> None:
    text = (writing / "train.py").read_text().replace("RATE = 0.1", "SEED = 42\nRATE = 0.1", 1)
    text = text.replace('print("---")', 'loss += RATE * (SEED % 997) / 1e4\nprint("---")', 1)
    (writing / "train.py").write_text(text)
    commit_all(writing, "a gain that varies with the seed")
    keep_in_turn(writing, cli, "s/^RATE = 0.1 /RATE = 0.3 /")
    confirmed(writing, cli, "--runs", "5")
    data = confirmed(writing, cli, "--runs", "3", "--holdout", COMMAND)
    assert (data["runs"], data["scored"]) == ({"a": 8, "b": 8}, 3)
    found = json.loads(cli(writing, "status", "--json").stdout)["data"]["holdout"]
    assert found["validation"] == pytest.approx(found["gain"] + found["cost"])
    assert found["validation"] != pytest.approx(data["gain"])
    assert (found["pairs"], found["partial"]) == (3, True)
    says = f"by the 3 pairs scored on it (validation {brief(found['validation'])}); "
    assert says in cli(writing, "status").stdout
    assert cli(writing, "report").returncode == 0
    page = (writing / ".autoresearch/sessions/t/report/index.html").read_text()
    assert says.removesuffix("; ") in page
    again = cli(writing, "confirm", "--runs", "2", "--holdout", COMMAND)
    assert " by the 5 pairs scored on it (validation " in again.stdout


def test_session_keeps_the_command(writing: Path, cli: Cli) -> None:
    done = cli(writing, "run", "--tag", "t", "--max-experiments", "6", "--holdout", COMMAND, "--confirm")
    assert done.returncode == 0, done.stderr
    assert events(writing, "session")[0]["flags"]["holdout"] == COMMAND
    assert all("holdout" in run and run["holdout"] is None for run in events(writing, "measured"))
    assert all(run["holdout"] is not None for run in events(writing, "compared"))
    assert "holdout   " in done.stdout


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("exit 3", "the command of --holdout failed: crashed: exit code 3"),
        ("echo nothing", "the command of --holdout failed: "),
    ],
)
def test_failing_command_is_said_to_fail(writing: Path, cli: Cli, command: str, says: str) -> None:
    keep_in_turn(writing, cli, "s/^RATE = 0.1 /RATE = 0.3 /")
    done = cli(writing, "confirm", "--holdout", command)
    assert done.returncode == 1
    assert f"error: {says}" in done.stderr
    assert "hint: see the log " in done.stderr
