"""The record of an experiment for the page: whose runs they were, its diff, and the end of its log."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.journal.experiment import Run
from agent.journal.paths import journal_path
from agent.protocol.load import load_protocol
from agent.report.close_up import LONGEST_LINE, MOST_RUNS, TAIL_LINES, close_ups
from agent.report.gather import gather
from agent.repository.workspace import Workspace
from tests.common.journals import FINGERPRINT, Writer
from tests.common.station_journals import StationsBuilder
from tests.common.workspaces import Cli, commit_all, commit_many, git

SESSION: dict[str, Any] = {
    "branch": "autoresearch/t",
    "metric": "val_bpb",
    "direction": "minimize",
    "seed": 0,
    "proposer": "search",
}
PROPOSAL: dict[str, Any] = {"proposer": "search", "description": "d", "reasoning": "", "parameters": {}}


def test_real_session_has_diffs_logs_and_runs(quick: Path, cli: Cli) -> None:
    assert cli(quick, "run", "--tag", "one", "--max-experiments", "2", "--sandbox", "off").returncode == 0
    state, (baseline, *others) = close_ups(Workspace(quick, load_protocol(quick)), "one")
    assert len(others) == 2
    assert baseline.diff is None
    for each, experiment in zip(others, state.experiments[1:], strict=True):
        assert each.diff is not None
        assert each.diff.startswith("diff --git a/train.py")
        assert "results.tsv" not in each.diff
        assert each.parameters == experiment.parameters
        assert each.tail[-1] == "num_steps:        10"
        assert each.log == Path(experiment.runs[0].log)
        assert {run.side for run in each.runs if run.side[:2] != "as"} <= {"candidate", "incumbent #0", "incumbent #1"}
        assert each.runs[0].metric == experiment.runs[0].metric


def test_runs_name_their_side(quick: Path) -> None:
    (commit,) = commit_many(quick, ["RATE = 1\n"])
    base = git(quick, "rev-parse", "HEAD")
    sessions = quick / ".autoresearch" / "sessions"
    log = sessions / "t" / "experiments" / "0001" / "run-1.log"
    log.parent.mkdir(parents=True)
    log.write_text("first\n" + "x" * 5000 + "\n\x1b[31mred\x1b[0m \u202e\n" + "line\n" * 30)
    write = Writer()
    write("session", tag="t", base=base, pid=1, fingerprint=FINGERPRINT, **SESSION)
    for number, of in ((0, base), (1, commit)):
        write("proposed", number=number, files=["train.py"], digest=str(number), **PROPOSAL)
        write("committed", number=number, commit=of)
        run: dict[str, Any] = {"seconds": 3.0, "secondary": {}, "error": None, "out_of_memory": False, "log": str(log)}
        write("started", number=number, run=1, pid=9, born=0.0, log=str(log))
        write("measured", number=number, run=1, metric=1.0 + number, **run)
        if number:
            write("measured", number=number, run=2, of=0, metric=1.5, **run)
            bad = {**run, "error": "out of\nmemory \x1b[31m"}
            write("measured", number=number, run=2, metric=None, **bad)
        write("judged", number=number, status="discard" if number else "keep", reason="worse", evidence=None)
        write("recorded", number=number, head=of)
    write("comparing", commits={"a": base, "b": commit}, files=["train.py"], count=1)
    write("compared", label="b", run=1, metric=1.25, seconds=3.0, secondary={}, error=None)
    write("confirmed", a=base, b=commit)
    write.save(sessions / "t" / "journal.jsonl")
    _, (baseline, candidate) = close_ups(Workspace(quick, load_protocol(quick)), "t")
    assert [(run.side, run.metric) for run in candidate.runs] == [
        ("candidate", 2.0),
        ("incumbent #0", 1.5),
        ("candidate", None),
        ("held out", 1.25),
    ]
    assert candidate.runs[2].note == "out of memory"
    assert [(run.side, run.metric) for run in baseline.runs] == [("candidate", 1.0), ("as incumbent, beside #1", 1.5)]
    assert candidate.diff is not None
    assert "+RATE = 1" in candidate.diff
    assert len(candidate.tail) == TAIL_LINES
    assert all(len(line) <= LONGEST_LINE for line in candidate.tail)
    log.write_text("x" * 5000 + "\n\x1b[31mred\x1b[0m \u202e\n")
    _, (_, candidate) = close_ups(Workspace(quick, load_protocol(quick)), "t")
    assert candidate.tail == ("x" * LONGEST_LINE, "red ")


def test_log_outside_of_the_workspace_is_not_read(quick: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.log"
    secret.write_text("secret\nevaluation: 0.3s\n")
    write = Writer()
    base = git(quick, "rev-parse", "HEAD")
    write("session", tag="t", base=base, pid=1, fingerprint=FINGERPRINT, **SESSION)
    write("proposed", number=0, files=[], digest="0", **PROPOSAL)
    write("committed", number=0, commit=base)
    write("started", number=0, run=1, pid=9, born=0.0, log=str(secret))
    measured: dict[str, Any] = {"metric": 1.0, "seconds": 1.0, "secondary": {"training_seconds": 0.5}, "error": None}
    write("measured", number=0, run=1, log=str(secret), **measured)
    write("judged", number=0, status="keep", reason="baseline", evidence=None)
    write("recorded", number=0, head=base)
    write.save(quick / ".autoresearch" / "sessions" / "t" / "journal.jsonl")
    _, (baseline,) = close_ups(Workspace(quick, load_protocol(quick)), "t")
    assert baseline.tail == ()
    assert baseline.log is None or "secret" not in str(baseline.log) or not baseline.log.exists()
    spent = gather(Workspace(quick, load_protocol(quick)), ["t"])["sessions"][0]["time"]
    assert (spent["training"], spent["evaluation"]) == (0.5, 0.0)


def test_log_of_a_baseline_that_a_later_session_has_overwritten_is_not_shown(quick: Path, cli: Cli) -> None:
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "1").returncode == 0
    assert cli(quick, "log", "0", "--tag", "t").returncode == 0
    git(quick, "checkout", "--quiet", "main")
    (quick / "train.py").write_text((quick / "train.py").read_text().replace("RATE = 0.1 ", "RATE = 0.2 "))
    commit_all(quick, "another recipe")
    assert cli(quick, "run", "--tag", "u", "--max-experiments", "1").returncode == 0
    workspace = Workspace(quick, load_protocol(quick))
    shown = {tag: close_ups(workspace, tag)[1] for tag in ("t", "u")}
    assert [(each.log is None, each.tail == ()) for each in shown["t"]] == [(True, True), (False, False)]
    assert [(each.log is None, each.tail == ()) for each in shown["u"]] == [(False, False), (False, False)]
    done = cli(quick, "log", "0", "--run", "1", "--tag", "t")
    assert done.returncode == 3
    assert "now holds the baseline of a later session" in done.stderr
    assert "num_steps:        10" not in cli(quick, "show", "0", "--tag", "t").stdout
    assert "num_steps:        10" in cli(quick, "show", "0", "--tag", "u").stdout


def test_runs_that_are_left_out_are_counted_and_none_of_a_comparison(quick: Path) -> None:
    made = StationsBuilder("studio", base=git(quick, "rev-parse", "HEAD"))
    made.run("studio", of=0).record(None, "keep")
    for _ in range(MOST_RUNS + 10):
        made.run("studio", of=0)
    made.add("comparing", commits={"a": made.base, "b": "b" * 40}, files=[], count=3, seeds=[])
    for seed in range(3):
        run = Run(1.5, 300.0, seed=seed, station="studio")
        made.add("compared", 300.0, label="a", run=seed + 1, **asdict(run))
    made.write.save(journal_path(quick, "t"))
    _, (baseline,) = close_ups(Workspace(quick, load_protocol(quick)), "t")
    sides = Counter(run.side for run in baseline.runs)
    assert sides == {
        "candidate on studio": 1, "as incumbent on studio": MOST_RUNS - 4, "held out on studio": 3,
    }  # fmt: skip
    assert baseline.more == 14
