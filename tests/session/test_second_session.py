"""A session learns from the workspace's other sessions, and starts from one of them on request."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.journal.experiment import Experiment
from agent.journal.journal import fold
from agent.journal.paths import journal_path
from agent.journal.state import State
from agent.mcp.briefing import briefing
from agent.proposers import earlier
from tests.common.in_process import call
from tests.common.sessions import assert_consistent
from tests.common.workspaces import ROOT, commit_all, git, set_protocol


@pytest.fixture
def night(quick: Path) -> Path:
    """A workspace in which session t has improved the recipe, back on the branch of the user."""
    run(quick, "t", "--max-experiments", "12")
    git(quick, "checkout", "--quiet", "main")
    return quick


def run(folder: Path, tag: str, *args: str, code: int = 0) -> str:
    done = call(folder, "run", "--tag", tag, "--no-confirm", "--no-report", *args)
    assert done.returncode == code, done.stderr
    return done.stderr


def state(folder: Path, tag: str) -> State:
    return fold(journal_path(folder, tag))


def described(folder: Path, tag: str) -> list[str]:
    return [each.description for each in state(folder, tag).experiments]


def best(folder: Path, tag: str) -> Experiment:
    found = state(folder, tag).incumbent
    assert found is not None
    assert found.number > 0
    return found


def learned(folder: Path, tag: str) -> list[dict[str, Any]]:
    return [dict(each) for each in state(folder, tag).learned]


def change_fingerprint(folder: Path, **entries: str) -> None:
    """Let session t have been measured under other conditions."""
    path = journal_path(folder, "t")
    first, *rest = path.read_text().splitlines()
    event = json.loads(first)
    event["fingerprint"].update(entries)
    path.write_text("\n".join([json.dumps(event), *rest]) + "\n")


def test_earlier_best_is_proposed_first_and_measured_again(night: Path) -> None:
    said = run(night, "u", "--max-experiments", "3")
    assert "learning from t: 13 experiments" in said
    first = state(night, "u").experiments[1]
    assert first.parameters == best(night, "t").parameters
    assert first.verdict.status == "keep"
    assert first.runs  # its own evidence: nothing of the other session counts
    assert first.reasoning == f"#{best(night, 't').number} of session t, its best"
    assert learned(night, "u") == [{"tag": "t", "experiments": 13, "alike": True}]
    assert_consistent(night, tag="u")
    status = call(night, "status", "--tag", "u")
    assert "learned from t: 13 experiments" in status.stdout


def test_briefing_of_an_agent_knows_what_was_tried_elsewhere(night: Path) -> None:
    moved = re.match(r"(\w+) (\S+) -> (\S+)$", described(night, "t")[1])
    assert moved is not None
    turn = f"{moved[1]} {'up' if float(moved[3]) > float(moved[2]) else 'down'}"
    (night / "playbook.md").write_text(f"# Playbook\n\n## An old idea\n\n- what: this\n- turns: {turn}\n")
    commit_all(night, "a playbook", "playbook.md")
    for tag, flags in (("u", ()), ("v", ("--fresh",))):
        run(night, tag, "--max-experiments", "0", *flags)
        git(night, "checkout", "--quiet", "main")
    assert "An old idea" in briefing(night, "v")
    assert "An old idea" not in briefing(night, "u")


def test_gain_of_a_hand_edit_does_not_hide_what_an_earlier_session_found(night: Path) -> None:
    text = (night / "train.py").read_text()
    (night / "train.py").write_text(text.replace("loss = 1.0", "loss = 0.1"))
    git(night, "commit", "--quiet", "-am", "better code")
    run(night, "u", "--max-experiments", "3")
    first = state(night, "u").experiments[1]
    assert first.reasoning == f"#{best(night, 't').number} of session t, its best"
    assert (first.parameters, first.verdict.status) == (best(night, "t").parameters, "keep")
    assert not any(each.same_code for each in earlier.read(journal_path(night, "u")))
    git(night, "checkout", "--quiet", "main")
    # Other comments, ranges and values make no other code.
    (night / "train.py").write_text(
        text.replace("RATE = 0.1  # search: 0.001..10 log", "RATE = 0.2  # search: 0.01..1")
    )
    git(night, "commit", "--quiet", "-am", "another start")
    run(night, "v", "--max-experiments", "0")
    known = earlier.read(journal_path(night, "v"))
    assert {each.tag for each in known if each.same_code} == {"t"}
    assert all(each.same_code == (each.tag == "t") for each in known)


def test_earlier_best_is_proposed_once(night: Path) -> None:
    run(night, "u", "--max-experiments", "6")
    values = [each.parameters for each in state(night, "u").experiments]
    assert values.count(best(night, "t").parameters) == 1


def test_fresh_forgets_other_sessions(night: Path) -> None:
    said = run(night, "u", "--fresh", "--max-experiments", "5")
    assert "learning from" not in said
    assert described(night, "u") == described(night, "t")[:6]
    assert learned(night, "u") == []
    run(night, "u", "--max-experiments", "12")  # the flag is kept
    assert described(night, "u") == described(night, "t")


def test_fresh_can_be_asked_for_later(night: Path) -> None:
    run(night, "u", "--max-experiments", "0")
    assert learned(night, "u")
    run(night, "u", "--fresh", "--max-experiments", "1")
    assert described(night, "u")[1] == described(night, "t")[1]
    assert json.loads(call(night, "status", "--tag", "u", "--json").stdout)["data"]["learned"] == []


@pytest.mark.parametrize("entry", ["snapshot", "harness"])
def test_other_data_and_harness_teach_nothing(night: Path, entry: str) -> None:
    change_fingerprint(night, **{entry: "0" * 64})
    run(night, "u", "--max-experiments", "1")
    assert learned(night, "u") == []
    assert described(night, "u")[1] == described(night, "t")[1]


def test_other_machine_counts_less(night: Path) -> None:
    change_fingerprint(night, chip="another")
    said = run(night, "u", "--max-experiments", "1")
    assert "t: 13 experiments (other conditions)" in said
    assert learned(night, "u") == [{"tag": "t", "experiments": 13, "alike": False}]
    assert state(night, "u").experiments[1].parameters == best(night, "t").parameters


def test_resume_does_not_depend_on_other_sessions(night: Path, tmp_path: Path) -> None:
    run(night, "u", "--max-experiments", "3")
    changed = shutil.copytree(night, tmp_path / "changed", symlinks=True)
    shutil.rmtree(journal_path(changed, "t").parent)
    for folder in (night, changed):
        run(folder, "u", "--max-experiments", "7")
    assert described(night, "u") == described(changed, "u")
    assert len(described(night, "u")) == 8


def test_damaged_session_is_skipped(night: Path) -> None:
    with journal_path(night, "t").open("a") as file:
        file.write("garbage\n")
    said = run(night, "u", "--max-experiments", "1")
    assert "learned nothing from session t: line" in said
    assert learned(night, "u") == []


def test_damaged_copy_is_reported(night: Path) -> None:
    run(night, "u", "--max-experiments", "1")
    journal_path(night, "u").with_name(earlier.FILE).write_text('{"experiments": [{"tag": 1}]}')
    assert "is damaged or missing" in run(night, "u", "--max-experiments", "2", code=1)
    run(night, "u", "--fresh", "--max-experiments", "2")


def test_session_starts_from_the_best_of_another(night: Path) -> None:
    before = state(night, "t")
    run(night, "u", "--from", "t", "--max-experiments", "4")
    now = state(night, "u")
    assert now.session is not None
    assert now.session["from"] == "t"
    assert now.session["base"] == before.head
    assert now.experiments[0].parameters == best(night, "t").parameters
    assert now.flags["from"] == "t"
    run(night, "u", "--max-experiments", "5")  # the flag is kept, and the start stays
    assert len(state(night, "u").experiments) == 6
    assert git(night, "rev-parse", "autoresearch/t") == before.head
    assert git(night, "rev-list", "--merges", "HEAD") == ""
    assert git(night, "status", "--porcelain", "--untracked-files=no") == ""
    # Its rows follow those of the first session.
    table = (night / "results.tsv").read_text().splitlines()
    assert table[:14] == git(night, "show", "autoresearch/t:results.tsv").splitlines()
    assert len(table) == 14 + 6


def test_start_and_knowledge_are_separate(night: Path) -> None:
    run(night, "u", "--from", "t", "--fresh", "--max-experiments", "1")
    assert state(night, "u").experiments[0].parameters == best(night, "t").parameters
    assert learned(night, "u") == []


def test_plan_names_the_start(night: Path) -> None:
    done = call(night, "run", "--tag", "u", "--from", "t", "--dry-run")
    assert "would start on branch autoresearch/u, at the best of session t" in done.stdout
    assert not journal_path(night, "u").exists()


def test_impossible_starts_are_refused(night: Path) -> None:
    assert "unknown session 'missing'" in run(night, "u", "--from", "missing", code=3)
    assert "unknown session '../t'" in run(night, "u", "--from", "../t", code=3)
    run(night, "u", "--max-experiments", "0")
    assert "session u has already started" in run(night, "u", "--from", "t", code=2)
    git(night, "checkout", "--quiet", "main")
    set_protocol(night, miningLoop={"maxTrials": 100})
    refused = run(night, "v", "--from", "t", code=3)
    assert "protocol.json has changed since session t" in refused
    assert re.search(r"since session t: miningLoop\.maxTrials: \S+ -> 100\n", refused)


def test_start_needs_a_baseline(quick: Path) -> None:
    (quick / "train.py").write_text("raise SystemExit(1)\nRATE = 0.1\n")
    git(quick, "commit", "--quiet", "-am", "broken")
    run(quick, "t", code=1)
    git(quick, "checkout", "--quiet", "main")
    assert "session t has no baseline yet" in run(quick, "u", "--from", "t", code=3)


def test_baseline_is_measured_anew_when_a_file_beside_the_recipe_has_changed(quick: Path) -> None:
    """Of a tracked file that neither candidates change nor the protocol names, a run may read the data."""
    reused = "reusing the baseline, which is still valid"
    train = (quick / "train.py").read_text()
    reads = "import json\nlevel = json.load(open('config.json'))['level']\n"
    (quick / "train.py").write_text(reads + train.replace("loss = 1.0", "loss = 1.0 + level"))
    (quick / "config.json").write_text('{"level": 0.0}')
    (quick / "README.md").write_text("before\n")
    commit_all(quick, "config", "config.json", "README.md")
    flags = ("--max-experiments", "1", "--baseline-runs", "1")
    run(quick, "a", *flags)
    git(quick, "switch", "--quiet", "main")
    (quick / "README.md").write_text("after\n")
    commit_all(quick, "words")
    assert reused in run(quick, "b", *flags)
    assert learned(quick, "b") == [{"tag": "a", "experiments": 2, "alike": True}]
    git(quick, "switch", "--quiet", "main")
    (quick / "config.json").write_text('{"level": 0.5}')
    commit_all(quick, "another level")
    assert reused not in run(quick, "c", *flags)
    first, then = (state(quick, tag).experiments[0].runs[0].metric for tag in ("b", "c"))
    assert first is not None
    assert then is not None
    assert then - first > 0.4
    assert [each["alike"] for each in learned(quick, "c")] == [False, False]


def test_baseline_is_measured_anew_with_other_installed_packages(quick: Path) -> None:
    packages = quick / ".venv" / "lib" / "python3.11" / "site-packages"
    (packages / "thing-1.0.dist-info").mkdir(parents=True)
    (quick / ".venv" / "pyvenv.cfg").write_text("")
    found = []
    for tag in ("a", "b", "c"):
        if tag == "c":
            (packages / "thing-1.0.dist-info").rename(packages / "thing-2.0.dist-info")
        found.append("reusing the baseline" in run(quick, tag, "--max-experiments", "1", "--baseline-runs", "1"))
        git(quick, "switch", "--quiet", "main")
    assert found == [False, True, False]


def test_log_of_a_session_in_its_workspace_is_no_file_of_its_runs(quick: Path) -> None:
    """As of `autoresearch run >> logs/night.log`: it changes with each line, and tells what other runs measured."""
    (quick / "logs").mkdir()
    (quick / "logs" / "kept.txt").write_text("mine\n")
    train = (quick / "train.py").read_text()
    seen = "import os\nprint('sees', sorted(os.listdir('logs')))\n"
    (quick / "train.py").write_text(seen + train)
    commit_all(quick, "looks around")
    log = quick / "logs" / "night.log"
    program = [sys.executable, "-m", "agent", "-C", str(quick), "run", "--no-confirm", "--no-report"]
    for tag in ("a", "b"):
        with log.open("ab") as output:
            flags = ("--tag", tag, "--max-experiments", "1")
            subprocess.run([*program, *flags], cwd=ROOT, stdout=output, stderr=output, check=True)
        git(quick, "switch", "--quiet", "main")
    assert log.read_text().count("reusing the baseline, which is still valid") == 1
    runs = quick / ".autoresearch/sessions/b/experiments/0001"
    assert "sees ['kept.txt']" in next(runs.glob("run-*.log")).read_text()
