"""`show`, `diff`, `log` and `sessions` on real sessions."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.journal import lock
from agent.journal.experiment import Evidence
from agent.journal.journal import Journal
from agent.journal.paths import journal_path, state_folder
from agent.report.gain import standing
from tests.common.in_process import call
from tests.common.journals import JournalBuilder
from tests.common.sessions import journal
from tests.common.workspaces import ROOT, Cli, git


def data(cli: Cli, folder: Path, *args: str) -> Any:
    done = cli(folder, *args, "--json")
    assert done.returncode == 0, done.stderr
    envelope = json.loads(done.stdout)
    assert envelope["command"] == args[0]
    assert envelope["errors"] == []
    return envelope["data"]


@pytest.fixture
def cli() -> Cli:
    return call


@pytest.fixture
def session(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(finished, tmp_path / "quick", symlinks=True)


def test_sessions_of_another_working_tree_are_named_where_there_are_none(session: Path, cli: Cli) -> None:
    other = session.with_name("an other")
    git(session, "worktree", "add", "-q", "-b", "mine", str(other), "main")
    done = cli(other, "status")
    assert done.returncode == 3
    see = done.stderr.partition(f"or see those in {session} with `")[2].partition("`")[0]
    shown = subprocess.run(see, shell=True, cwd=other, capture_output=True, text=True, check=True)
    assert "autoresearch/t" in shown.stdout
    git(session, "worktree", "remove", "--force", str(other))
    (session / ".autoresearch").rename(session / "moved")
    assert "or see those" not in cli(session, "status").stderr


def test_estimate_names_the_runs_that_it_is_from(session: Path, cli: Cli) -> None:
    lines = journal(session)
    own = [line for line in lines if line["event"] == "measured" and line["number"] == 0]
    for line in own:
        line |= {"seconds": 10.0, "conditions": {"others": 0.0}}
    own[-1] |= {"conditions": {"others": 1000.0}, "metric": own[0]["metric"] + 0.1}
    write(session, [line for line in lines if "of" not in line])
    assert f"estimate  {own[0]['metric']:.6f}, without disturbed runs" in cli(session, "show", "0").stdout
    write(session, lines)  # with a repeat beside a later experiment
    assert ", with held-out runs" in cli(session, "show", "0").stdout
    JournalBuilder("pruned").baseline().prune().save(journal_path(session, "pruned"))
    assert ", from a run that was stopped early" in cli(session, "show", "1", "--tag", "pruned").stdout


def write(folder: Path, lines: Sequence[dict[str, Any]]) -> None:
    journal_path(folder, "t").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_show_an_experiment_by_number_and_by_hash(session: Path, cli: Cli) -> None:
    recorded = {event["number"]: event for event in journal(session) if event["event"] == "proposed"}
    measured = {
        event["number"]: event for event in journal(session) if event["event"] == "measured" and "of" not in event
    }
    for number in (0, 1, 4):
        shown = data(cli, session, "show", str(number))
        assert shown["description"] == recorded[number]["description"]
        assert shown["value"] == shown["runs"][-1]["metric"] == measured[number]["metric"]
        assert data(cli, session, "show", shown["commit"][:9]) == shown
    text = cli(session, "show", "4").stdout
    assert recorded[4]["description"] in text
    assert "\x1b" not in text
    assert f"result    val_bpb {measured[4]['metric']:.6f}" in text
    assert "peak_vram_mb 2048" in text
    change = [line for line in text.splitlines() if re.match(r"[+-][A-Z]", line)]
    assert change
    assert all(line[1:].split(" = ")[0] in ("RATE", "DEPTH", "WIDTH") for line in change)
    assert "  num_steps:        10" in text.split("log  ")[1]
    git(session, "checkout", "--quiet", "main")
    (session / "protocol.json").write_text("{")
    assert "the diff cannot be shown" in cli(session, "show", "4").stdout


def test_show_evidence_fresh_runs_and_failures(session: Path, cli: Cli) -> None:
    (session / "train.py").write_text("raise SystemExit('no luck')\n")
    path = journal_path(session, "t")
    record = Journal(path)
    number = len(record.state.experiments)
    assert record.state.incumbent is not None
    commit = record.state.incumbent.commit
    what = {"description": "RATE 1 -> 2", "reasoning": "first\nsecond", "parameters": {}, "digest": "d"}
    record.append("proposed", number=number, proposer="llm", files=["train.py"], expected=-0.25, **what)
    for which in ("9" * 5000, "#" + "9" * 5000):
        assert "damaged" not in cli(session, "show", which).stderr
        assert cli(session, "show", which).returncode == 3
    assert cli(session, "show", str(number)).stdout.startswith(f"#{number} interrupted  ")
    with lock.hold(state_folder(session), "t"):
        assert "under way" in cli(session, "show", str(number)).stdout
    with lock.hold(state_folder(session), "other"):
        assert "interrupted" in cli(session, "show", str(number)).stdout
    assert "not measured yet" in cli(session, "show", str(number)).stdout
    assert "has no commit yet" in cli(session, "diff", str(number)).stderr
    assert "experiment #5 of session t has no runs yet" in cli(session, "log").stderr
    record.append("committed", number=number, commit=commit)
    lost = {"metric": None, "seconds": 2.0, "error": "crashed: exit code 1"}
    found = {"metric": 1.25, "seconds": 61.0, "conditions": {"load": 0.5}}
    record.append("measured", number=number, run=1, **lost)
    record.append("measured", number=number, run=2, **found)
    record.append("measured", number=number, run=1, of=record.state.incumbent.number, **found)
    evidence = Evidence("confirmed", 1.25, 2, 1.5, 3, 0.25, 0.01, 8.5)
    record.append("judged", number=number, status="keep", reason="better", evidence=vars(evidence))
    record.append("recorded", number=number, head=commit)
    record.close()
    text = cli(session, "show", "best").stdout
    assert "  first\n  second\n" in text
    assert "expected  -0.25 of val_bpb" in text
    assert "+0.250000 against 1.500000" in text
    assert "of #4 (better)" in text
    assert "repeated: mean 1.250000 of 2 against 1.500000 of 3, gain +0.250000 (8.5 sigma)" in text
    assert "crashed: exit code 1" in text
    assert "1m01s  load 0.5" in text
    earlier = next(e for e in reversed(record.state.experiments[:-1]) if e.verdict.status == "keep")
    text = cli(session, "show", str(earlier.number)).stdout
    assert "repeat, beside a later experiment" in text
    assert "held out" not in text.partition("\nruns\n")[2]  # the word of `confirm`, which chose nothing
    assert (standing(record.state).noise or 0) > 0  # from the runs, not from the verdicts in the journal


def test_log_of_the_incumbents_repeat_is_labelled(session: Path, cli: Cli) -> None:
    record = Journal(journal_path(session, "t"))
    number, best = len(record.state.experiments), record.state.incumbent
    assert best is not None
    what = {"description": "d", "reasoning": "", "parameters": {}, "digest": "d", "files": ["train.py"]}
    record.append("proposed", number=number, proposer="search", expected=None, **what)
    record.append("committed", number=number, commit=best.commit)
    log = Path(best.runs[0].log)
    about = {"number": number, "pid": 1, "born": 1.0, "run": 1, "expected": 1.0}
    record.append("started", log=str(log), **about)
    own = session / ".autoresearch" / str(log).partition("/.autoresearch/")[2]
    assert f"log  {own}" in cli(session, "show", str(number)).stdout
    assert cli(session, "log").stderr == ""
    record.append("started", log=str(log), of=best.number, **about)
    record.close()
    assert f"log of the repeat of #{best.number}  {own}" in cli(session, "show", str(number)).stdout
    assert data(cli, session, "show", str(number))["log_of"] == best.number
    said = cli(session, "log")
    assert said.stderr == f"this run repeats #{best.number}, with which #{number} is compared\n"
    assert said.stdout == own.read_text()
    assert data(cli, session, "log")["of"] == best.number


def test_diff_shows_change_of_experiment(session: Path, cli: Cli) -> None:
    whole = data(cli, session, "diff")
    best, base = whole["to"]["commit"], whole["from"]["commit"]
    text = cli(session, "diff").stdout
    assert text == git(session, "diff", base, best, "--", "train.py") + "\n"
    assert "results.tsv" not in text
    assert "+++ b/train.py" in text
    git(session, "checkout", "--quiet", "--detach", base)
    subprocess.run(["git", "apply", "-"], cwd=session, input=text, text=True, check=True)
    assert (session / "train.py").read_text() + "" == git(session, "show", f"{best}:train.py") + "\n"
    one = data(cli, session, "diff", "3")
    assert one["from"]["commit"].endswith("^")
    assert one["diff"]
    forth, back = data(cli, session, "diff", "3", "2"), data(cli, session, "diff", "2", "3")
    swap = str.maketrans("+-", "-+")
    lines = [re.findall(r"^[+-][A-Z].*$", each["diff"], re.MULTILINE) for each in (forth, back)]
    assert sorted(line.translate(swap) for line in lines[0]) == sorted(line for line in lines[1])
    same = cli(session, "diff", "2", "2")
    assert (same.returncode, same.stdout, same.stderr) == (0, "", "no difference\n")


@pytest.mark.parametrize(("variables", "colour"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colour_on_a_terminal_alone(finished: Path, variables: dict[str, str], colour: bool) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(finished)
        os.environ |= {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **variables}
        os.execv(sys.executable, [sys.executable, "-m", "agent", "diff"])
    shown = b""
    try:
        while chunk := os.read(terminal, 65536):
            shown += chunk
    except OSError:
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert ("\x1b[32m+" in shown.decode()) is colour
    assert "+++ b/train.py" in shown.decode()


def test_log_shows_output_of_run(finished: Path, session: Path, cli: Cli) -> None:
    text = cli(session, "log").stdout
    assert text == (finished / "run.log").read_text()
    assert text.startswith("---")
    assert cli(session, "log", "2", "--run", "1").stdout.startswith("---")
    assert data(cli, session, "log", "0")["path"].endswith("incumbent-1.log")
    assert cli(session, "log", "--follow").stdout == text
    journal_path(session, "t").write_text(journal_path(session, "t").read_text().replace("0002/run-2.log", "gone.log"))
    assert "of experiment #2 not found" in cli(session, "log", "2").stderr


def test_runs_have_the_numbers_of_show_and_those_of_confirm_are_among_them(session: Path, cli: Cli) -> None:
    assert cli(session, "confirm", "--runs", "2").returncode == 0
    shown = data(cli, session, "show", "best")
    assert [run["kind"] for run in shown["runs"]].count("confirming") == 2
    assert "held out, for `confirm`" in cli(session, "show", "best").stdout
    for number, run in enumerate(shown["runs"], start=1):
        found = data(cli, session, "log", "best", "--run", str(number))
        assert found["path"].endswith(run["log"].partition("/.autoresearch/")[2])
    record = Journal(journal_path(session, "t"))
    best = record.state.incumbent
    assert best is not None
    record.append("comparing", commits={"a": record.state.experiments[0].commit, "b": best.commit}, files=[], count=2)
    log, about = best.runs[0].log, {"pid": 1, "born": 1.0, "run": 1, "expected": 1.0}
    latest = data(cli, session, "log")["path"]
    record.append("running", label="b", log=log, **about)
    record.close()
    assert data(cli, session, "log")["path"] == latest  # it was killed
    with lock.hold(state_folder(session), "t"):
        assert data(cli, session, "log")["path"].endswith(log.partition("/.autoresearch/")[2])


def test_runs_of_ablate_are_shown_after_its_end(session: Path, cli: Cli) -> None:
    assert cli(session, "ablate", "--runs", "2").returncode == 0
    found = [run for run in data(cli, session, "show", "best")["runs"] if run["kind"] == "ablating"]
    assert len(found) >= 2
    assert "for `ablate`" in cli(session, "show", "best").stdout


def test_screens_come_first_among_the_runs(session: Path, cli: Cli) -> None:
    record = Journal(journal_path(session, "t"))
    number, best = len(record.state.experiments), record.state.incumbent
    assert best is not None
    what = {"description": "d", "reasoning": "", "parameters": {}, "digest": "d", "files": ["train.py"]}
    record.append("proposed", number=number, proposer="search", expected=None, **what)
    record.append("committed", number=number, commit=best.commit)
    first, second = (record.state.experiments[each].runs[0] for each in (0, 1))
    screen = {"rung": 1.0, "edit": "", "lead": 0.0, "chance": 1.0, "then": "on", "reason": ""}
    record.append("screened", number=number, run=1, **screen, metric=1.0, seconds=1.0, log=first.log)
    record.append("measured", number=number, run=1, metric=1.0, seconds=1.0, log=second.log)
    record.close()
    shown = data(cli, session, "show", str(number))
    assert [run["kind"] for run in shown["runs"]] == ["screen", "measured"]
    assert data(cli, session, "log", "--run", "2")["path"].endswith(second.log.partition("/.autoresearch/")[2])


def test_log_follows_a_run_to_its_end(quick: Path, cli: Cli) -> None:
    slow = (quick / "train.py").read_text().replace("loss = ", "import time\nprint('begun')\ntime.sleep(2)\nloss = ")
    (quick / "train.py").write_text(slow)
    git(quick, "commit", "--quiet", "-am", "slower")
    command = [sys.executable, "-m", "agent", "run", "--tag", "t", "--max-experiments", "0"]
    with subprocess.Popen(
        command, cwd=quick, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE
    ) as run:
        assert run.stderr is not None
        while b"#0 running" not in run.stderr.readline():
            assert run.poll() is None
        text = cli(quick, "log", "--follow").stdout
        run.stderr.read()
    assert run.returncode == 0
    assert text.startswith("begun\n")
    assert text.endswith("num_steps:        10\n")


def test_last_activity_of_a_session_is_its_last_event_and_not_the_time_of_the_file(session: Path, cli: Cli) -> None:
    path = journal_path(session, "t")
    os.utime(path, (path.stat().st_mtime + 5000,) * 2)
    (found,) = [each for each in data(cli, session, "sessions")["sessions"] if each["tag"] == "t"]
    assert found["last_activity"] == journal(session)[-1]["at"]


def test_sessions_lists_all_sessions(session: Path, cli: Cli) -> None:
    git(session, "checkout", "--quiet", "main")
    shutil.copytree(journal_path(session, "t").parent, journal_path(session, "u").parent)
    lines = journal_path(session, "u").read_text().replace('"tag": "t"', '"tag": "u"').splitlines(keepends=True)
    journal_path(session, "u").write_text("".join(lines[:2]))
    found = data(cli, session, "sessions")["sessions"]
    assert [each["tag"] for each in found] == ["u", "t"]
    assert found[1]["experiments"] == 4
    assert found[1]["branch"] == "autoresearch/t"
    assert not found[1]["running"]
    text = cli(session, "sessions").stdout
    assert re.search(
        r"^t +4 .* (provisional|by repeated runs|confirmed|none yet) .* ago +autoresearch/t$", text, re.MULTILINE
    )
    record = Journal(journal_path(session, "t"))
    best, base = record.state.incumbent, record.state.baseline
    assert best is not None
    assert base is not None
    means = {"a": base.commit, "b": best.commit, "gain": 0.125, "low": 0.1, "high": 0.15}
    record.append("confirmed", **means)
    assert standing(record.state).word == "confirmed"
    assert "0.125000 confirmed" in cli(session, "sessions").stdout
    record.append("confirmed", **{**means, "low": -0.1})
    assert standing(record.state).word == "by repeated runs"
    record.append("confirmed", **{**means, "b": "another"})
    assert standing(record.state).word == "by repeated runs"
    record.close()
    journal_path(session, "u").write_text("nonsense\n")
    assert re.search(r"u: line 1 of .* is not an event", cli(session, "sessions").stdout)


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["show", "99"], 3, "experiment #99 not found in session t\nhint: the session has #0 to #4"),
        (["show", "zebra"], 2, "unknown experiment 'zebra'"),
        (["show", "fffffff"], 3, "no experiment with hash fffffff in session t"),
        (["show", "1", "--tag", "u"], 3, "unknown session 'u'"),
        (["diff", "1", "98"], 3, "experiment #98 not found"),
        (["log", "1", "--run", "7"], 3, "experiment #1 of session t has no run 7, only runs 1 to 2"),
        (["log", "--follow", "--json"], 2, "mutually exclusive"),
    ],
)
def test_missing_experiment_is_named(finished: Path, cli: Cli, args: list[str], code: int, words: str) -> None:
    done = cli(finished, *args)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    first, *rest = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert [line for line in rest if not line.startswith("hint: ")] == []


def test_keep_has_a_bound_and_status_a_statement(session: Path, cli: Cli) -> None:
    status = data(cli, session, "status")
    said = status["statement"]
    assert said["line"] in cli(session, "status").stdout
    numbers = [each["number"] for each in said["keeps"]]
    assert numbers
    for each in status["rows"][1:]:
        shown = data(cli, session, "show", str(each["number"]))
        assert (shown["bound"] in said["keeps"]) == (each["number"] in numbers)
    assert "\n  bound     " in cli(session, "show", str(numbers[-1])).stdout
