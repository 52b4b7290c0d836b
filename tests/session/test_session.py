"""Sessions from end to end, as a user starts them: the contents of git, results.tsv and the journal afterwards."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agent.journal.journal import fold
from agent.journal.paths import journal_path, state_folder, stop_file
from agent.protocol.models import Protocol
from agent.repository.workspace import Workspace
from tests.common.in_process import call
from tests.common.processes import start, survivors, wait_for
from tests.common.sessions import assert_consistent, journal, rows
from tests.common.stations import until
from tests.common.workspaces import ROOT, Cli, commit_all, git, quick_protocol, set_protocol


def test_session_improves_and_keeps_invariants(quick: Path, program: Cli) -> None:
    (quick / "notes.txt").write_text("mine")
    done = program(quick, "run", "--tag", "t", "--max-experiments", "12")
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    table = rows(quick)
    assert len(table) == 13
    assert table[0]["description"] == "baseline"
    assert table[0]["status"] == "keep"
    kept = [float(row["val_bpb"]) for row in table if row["status"] == "keep"]
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] < kept[0]
    assert all(row["memory_gb"] == "2.0" for row in table)
    assert (quick / "notes.txt").read_text() == "mine"
    assert git(quick, "status", "--porcelain") == "?? notes.txt"
    assert "by repeated runs" in done.stdout
    assert "12 experiments are done" in done.stdout
    assert len({git(quick, "show", f"{row['commit']}:train.py") for row in table}) == 13


def test_closing_commands_of_session_work(quick: Path, cli: Cli) -> None:
    def closing(*args: str) -> tuple[str, dict[str, list[str]]]:
        done = cli(quick, *args)
        assert done.returncode == 0, done.stderr
        last = done.stdout.rpartition("\n\n")[2].splitlines()
        commands = dict(re.split(r"  +", line, maxsplit=1) for line in last)
        return done.stdout, {label: typed.removeprefix("autoresearch ").split() for label, typed in commands.items()}

    said, commands = closing("run", "--tag", "t", "--max-experiments", "0")
    assert [*commands] == ["view", "resume"]
    said, commands = closing(*commands["resume"], "--max-experiments", "12")
    best = fold(journal_path(quick, "t")).incumbent
    assert best is not None
    assert 0 < said.count("kept      #") <= 5
    assert said.count("bound     at any time: ") == 1
    assert [*commands] == ["view", "confirm", "resume"]
    assert commands["view"] == ["report", "--tag", "t", "--open"]
    assert cli(quick, *commands["confirm"]).returncode == 0
    said, commands = closing(*commands["resume"], "--max-experiments", "12")
    assert [*commands] == ["view", "adopt", "go on"]
    assert cli(quick, *commands["adopt"]).returncode == 0
    assert git(quick, "diff", "main", best.commit, "--", "train.py") == ""
    assert commands["go on"] == ["run", "--tag", "t-2", "--from", "t"]
    closing(*commands["go on"], "--max-experiments", "1")
    assert "started from t's best, learned from t: 13 experiments" in cli(quick, "status").stdout


def test_benchmark_archetype_runs_unchanged(sieve: Path, cli: Cli) -> None:
    done = cli(sieve, "run", "--tag", "t", "--max-experiments", "8")
    assert done.returncode == 0, done.stderr
    assert_consistent(sieve, "sieve.py")
    table = rows(sieve)
    assert list(table[0]) == ["commit", "numbers_per_second", "status", "description"]
    kept = [e for e in fold(journal_path(sieve, "t")).experiments if e.verdict.status == "keep"]
    # The clock is real: a keep beats the repeated runs of its incumbent, not the number in the incumbent's row.
    for experiment in kept[1:]:
        evidence = experiment.verdict.evidence
        assert evidence is not None
        assert evidence.gain == evidence.mean - evidence.incumbent_mean >= 0
    first, last = kept[0].metric, kept[-1].metric
    assert first is not None
    assert last is not None
    assert last > 1.3 * first


def test_same_command_resumes_to_same_end(quick: Path, program: Cli) -> None:
    whole = program(quick, "run", "--tag", "whole", "--max-experiments", "6", "--seed", "3")
    git(quick, "checkout", "--quiet", "main")
    assert program(quick, "run", "--tag", "t", "--fresh", "--max-experiments", "2", "--seed", "3").returncode == 0
    assert program(quick, "run", "--tag", "t", "--max-experiments", "6", "--seed", "3").returncode == 0
    again = program(quick, "run", "--tag", "t", "--max-experiments", "6", "--seed", "3")
    assert again.returncode == 0
    assert "6 experiments are done" in again.stdout
    assert_consistent(quick)
    parts = [row["description"] for row in rows(quick)]
    git(quick, "checkout", "--quiet", "autoresearch/whole")
    assert whole.returncode == 0
    assert [row["description"] for row in rows(quick)] == parts


def test_baseline_is_reused_while_valid(quick: Path, cli: Cli) -> None:
    data = json.loads(cli(quick, "baseline", "--json").stdout)
    assert data["status"] == "ok"
    assert data["data"]["metric"] == "val_bpb"
    assert (quick / ".autoresearch/create/baseline_run.log").read_text().startswith("---")
    cli(quick, "run", "--tag", "t", "--max-experiments", "0")
    assert any(event.get("reused") for event in journal(quick))
    (quick / "train.py").write_text((quick / "train.py").read_text().replace("DEPTH = 4", "DEPTH = 5"))
    commit_all(quick, "another recipe")
    cli(quick, "run", "--tag", "u", "--max-experiments", "0")
    assert not any(event.get("reused") for event in journal(quick, "u"))


@pytest.mark.parametrize(("name", "reused"), [("data/a.txt", False), ("data/new.txt", False), (".venv/a.py", True)])
def test_baseline_is_measured_again_if_untracked_data_changed(quick: Path, cli: Cli, name: str, reused: bool) -> None:
    for path in (quick / "data/a.txt", quick / ".venv/a.py", quick / name):
        path.parent.mkdir(exist_ok=True)
        path.write_text("10")
        if path.name == "new.txt":
            path.unlink()
    assert cli(quick, "baseline").returncode == 0
    (quick / name).write_text("2000")
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "0").returncode == 0
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "0").returncode == 0
    assert any(event.get("reused") for event in journal(quick)) is reused


def test_a_session_under_other_conditions_is_refused_and_named(quick: Path, cli: Cli) -> None:
    cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    refused = cli(quick, "run", "--tag", "t", "--training-seconds", "20")
    assert refused.returncode == 3
    assert "training_seconds was 300" in refused.stderr
    assert "is now 20" in refused.stderr
    assert_consistent(quick)


def test_crashes_get_rows_and_the_loop_goes_on(quick: Path, cli: Cli) -> None:
    text = (quick / "train.py").read_text()
    broken = text.replace("loss = ", "if RATE != 0.1:\n    raise ValueError(f'rate {RATE}\\tis off')\nloss = ")
    (quick / "train.py").write_text(broken.replace("# search: 1..16", "# search: off").replace("8..512", "off"))
    commit_all(quick, "crashes unless untouched")
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "3")
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    crashes = rows(quick)[1:]
    assert [row["status"] for row in crashes] == ["crash"] * 3
    assert all(row["val_bpb"] == "0.000000" and row["memory_gb"] == "0.0" for row in crashes)
    assert all("exit code 1: ValueError: rate" in row["description"] for row in crashes)


def test_run_that_diverges_to_a_huge_number_is_a_crash(quick: Path, cli: Cli) -> None:
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace("loss = ", "loss = (DEPTH == 5) * 1e200 + "))
    commit_all(quick, "diverges")
    change = "sed -i 's/^DEPTH = .*/DEPTH = 5/' train.py"
    agent = ("--proposer", "command", "--agent-cmd", change)
    done = cli(quick, "run", "--tag", "t", *agent, "--max-experiments", "1")
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert [row["status"] for row in rows(quick)] == ["keep", "crash"]
    assert "too large to compare" in rows(quick)[1]["description"]


def test_training_time_that_is_not_in_seconds_is_none(quick: Path, cli: Cli) -> None:
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace('print("---")', 'print("---")\nprint("train_time: 1732731234567")'))
    commit_all(quick, "a date")
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert {event["trained"] for event in journal(quick) if event["event"] == "measured"} == {None}


def test_changes_by_run_are_discarded_with_room(quick: Path, cli: Cli) -> None:
    """Each run finds tracked files, results and folders as committed, whatever the previous run did."""
    text = (quick / "train.py").read_text()
    changes = (
        "from pathlib import Path\nassert Path('notes.txt').read_text() == 'mine\\n', 'changed before'\n"
        "assert not Path('weights.npz').exists() and not Path('../weights.npz').exists()\n"
        "for name in ('notes.txt', 'results.tsv', 'weights.npz', '../weights.npz', 'numpy.py'):\n"
        "    Path(name).write_text('')\nloss = "
    )
    (quick / "train.py").write_text(text.replace("loss = ", changes))
    (quick / "notes.txt").write_text("mine\n")
    commit_all(quick, "changes all it can", "notes.txt")
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "3")
    assert done.returncode == 0, done.stderr
    assert "crash" not in [row["status"] for row in rows(quick)]
    assert (quick / "notes.txt").read_text() == "mine\n"
    assert not (quick / "numpy.py").exists()
    assert not (quick.parent / "weights.npz").exists()
    assert_consistent(quick)


def test_timed_out_run_is_a_crash(quick: Path, cli: Cli) -> None:
    text = (quick / "train.py").read_text()
    slow = text.replace("loss = ", "import time\nif RATE != 0.1:\n    time.sleep(600)\nloss = ")
    (quick / "train.py").write_text(slow.replace("1..16", "off").replace("8..512", "off"))
    protocol = quick_protocol()
    protocol["execution"]["hardTimeoutSeconds"] = 2
    set_protocol(quick, execution=protocol["execution"])
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    assert done.returncode == 0, done.stderr
    assert "timed out" in rows(quick)[1]["description"]
    assert_consistent(quick)


def test_lucky_run_of_a_random_candidate_is_no_gain_where_runs_are_deterministic(quick: Path, cli: Cli) -> None:
    (quick / "train.py").write_text(
        "import random\nRATE = 0.1  # search: 0.001..1.0 log\n"
        "draw = random.SystemRandom().random() if RATE != 0.1 else 0.2\n"  # better than 0.2 in one of five runs
        "print(f'val_bpb: {1 + draw}')\n"
    )
    commit_all(quick, "random")
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "12").returncode == 0
    assert [row["status"] for row in rows(quick)].count("keep") == 1


OUT_OF_MEMORY = """ROWS = 64  # search: 4..64 log
DEVICE_BATCH_SIZE = 32  # search: off
assert ROWS % DEVICE_BATCH_SIZE == 0 or ROWS < DEVICE_BATCH_SIZE
import sys
if ROWS != 64 and DEVICE_BATCH_SIZE > LIMIT:
    print("RuntimeError: [metal::malloc] Attempting to allocate 1 bytes which is greater than the maximum")
    sys.exit(1)
print(f"val_bpb: {1 + ROWS / 100:.6f}")
"""


@pytest.mark.parametrize(
    ("policy", "limit", "status", "batch", "runs"),
    [
        ("reduce_batch", 16, "keep", 16, 3),  # a keep is repeated once
        ("reduce_batch", 8, "keep", 8, 4),
        ("reduce_batch", 0, "crash", 8, 3),
        ("fail", 8, "crash", 32, 1),
    ],
)
def test_out_of_memory_is_met_as_the_protocol_says(
    quick: Path, cli: Cli, policy: str, limit: int, status: str, batch: int, runs: int
) -> None:
    (quick / "train.py").write_text(OUT_OF_MEMORY.replace("LIMIT", str(limit)))
    set_protocol(quick, safety={"oomPolicy": policy, "crashStatus": "discard"})
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "1", "--seed", "1")
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    row = rows(quick)[1]
    assert row["status"] == status, done.stderr
    assert sum(e["event"] == "measured" and e["number"] == 1 and "of" not in e for e in journal(quick)) == runs
    measured = git(quick, "show", f"{row['commit']}:train.py")
    assert f"DEVICE_BATCH_SIZE = {batch}" in measured
    assert ("DEVICE_BATCH_SIZE 32 -> 16: out of memory" in row["description"]) is (runs > 1)
    assert ("out of memory: exit code 1" in row["description"]) is (status == "crash")


def test_kernel_kill_counts_as_out_of_memory(quick: Path, cli: Cli) -> None:
    text = (quick / "train.py").read_text()
    killed = "import os, signal\nif RATE != 0.1:\n    os.kill(os.getpid(), signal.SIGKILL)\nloss = "
    (quick / "train.py").write_text(text.replace("loss = ", killed).replace("1..16", "off").replace("8..512", "off"))
    commit_all(quick, "dies")
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "1").returncode == 0
    assert "[out of memory: killed by SIGKILL" in rows(quick)[1]["description"]


def test_a_failing_baseline_ends_the_session_with_its_reason(quick: Path, cli: Cli) -> None:
    (quick / "train.py").write_text("RATE = 1.0\nraise SystemExit('no data here')\n")
    commit_all(quick, "broken")
    done = cli(quick, "run", "--tag", "t")
    assert done.returncode == 1
    assert "the baseline failed" in done.stderr
    assert "no data here" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda f: (f / "train.py").write_text("RATE = 2.0\n"), "uncommitted changes (train.py)"),
        (lambda f: git(f, "branch", "autoresearch/t"), "no session here belongs to it"),
        (lambda f: (f / "results.tsv").write_text("mine"), "results.tsv exists and git does not track it"),
        (
            lambda f: (f / ".git/MERGE_HEAD").write_text(git(f, "rev-parse", "HEAD") + "\n"),
            "in the middle of a merge",
        ),
        (
            lambda f: (f / ".git/REVERT_HEAD").write_text(git(f, "rev-parse", "HEAD") + "\n"),
            "revert or bisect (REVERT_HEAD)",
        ),
        (lambda f: (git(f, "rm", "--quiet", "train.py"), git(f, "commit", "-qm", "x")), "no tracked file matches"),
    ],
)
def test_invalid_workspace_is_refused_before_any_change(quick: Path, cli: Cli, prepare: Any, words: str) -> None:
    prepare(quick)
    before = git(quick, "for-each-ref"), git(quick, "status", "--porcelain")
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    assert done.returncode == 3, done.stderr
    assert words in done.stderr, done.stderr
    first, *rest = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert all(line.startswith("hint: ") for line in rest)
    assert (git(quick, "for-each-ref"), git(quick, "status", "--porcelain")) == before


def test_no_repository_no_commit_and_a_bad_tag(tmp_path: Path, quick: Path, cli: Cli) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "protocol.json").write_text((quick / "protocol.json").read_text())
    done = cli(tmp_path / "bare", "run", "--tag", "t")
    assert done.returncode == 3
    assert "not in a git repository" in done.stderr
    git(tmp_path / "bare", "init", "--quiet")
    done = cli(tmp_path / "bare", "run", "--tag", "t")
    assert done.returncode == 3
    assert "no commit yet" in done.stderr
    for tag in ("a b", "../x", "x.lock", "", "a" * 251, "a" * 300):
        done = call(quick, "run", "--tag", tag)
        assert done.returncode == 2
        assert "cannot name a branch" in done.stderr


def test_a_detached_head_a_subfolder_no_identity_hooks_and_a_nested_repository(quick: Path, cli: Cli) -> None:
    inner = quick / "work" / "inner"
    inner.mkdir(parents=True)
    for name in ("train.py", "prepare.py", "protocol.json"):
        (inner / name).write_text((quick / name).read_text())
    git(quick, "add", "work")
    git(quick, "commit", "--quiet", "-m", "a workspace below the top")
    for hook in ("pre-commit", "commit-msg", "post-checkout", "reference-transaction"):
        path = quick / ".git" / "hooks" / hook
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\nexit 1\n")
        path.chmod(0o755)
    git(quick, "-c", "core.hooksPath=/dev/null", "checkout", "--quiet", "--detach")
    git(quick, "config", "--unset", "user.name")
    git(quick, "config", "--unset", "user.email")
    (inner / "vendor").mkdir()
    git(inner / "vendor", "init", "--quiet")
    (inner / "vendor" / "train.py").write_text("RATE = 1\n")
    done = cli(inner, "run", "--tag", "t", "--max-experiments", "3")
    assert done.returncode == 0, done.stderr
    assert len(rows(inner)) == 4
    assert git(quick, "status", "--porcelain", "--untracked-files=no") == ""
    assert git(quick, "show", "HEAD:train.py") == (quick / "train.py").read_text().strip()
    assert "autoresearch" in git(quick, "log", "-1", "--format=%an %ae")
    assert (inner / "vendor" / "train.py").read_text() == "RATE = 1\n"


@pytest.fixture
def slow(quick: Path) -> Path:
    """Each experiment but the baseline takes about two seconds."""
    text = (quick / "train.py").read_text()
    wait = "import time\nif (RATE, DEPTH, WIDTH) != (0.1, 4, 64):\n    time.sleep(2)\nloss = "
    (quick / "train.py").write_text(text.replace("loss = ", wait))
    commit_all(quick, "slower")
    return quick


def test_first_ctrl_c_finishes_experiment(slow: Path) -> None:
    loop = start(slow, "--max-experiments", "50")
    wait_for(slow, "started", 1)
    loop.send_signal(signal.SIGINT)
    _, errors = loop.communicate(timeout=60)
    assert loop.returncode == 130
    assert "finishing experiment #1" in errors
    assert "ended: stopped by Ctrl-C" in errors
    assert len(rows(slow)) == 2
    assert_consistent(slow)


@pytest.mark.parametrize("call", ["cat-file --filters", "update-ref --stdin"])
def test_ctrl_c_in_a_terminal_reaches_no_git(quick: Path, tmp_path: Path, call: str) -> None:
    """A terminal interrupts its whole process group. This git does so, once the session has its first row."""
    tools, pressed = tmp_path / "tools", tmp_path / "pressed"
    tools.mkdir()
    started = f'[ "$(wc -l < {quick}/results.tsv)" -ge 2 ] && mkdir {pressed}'
    (tools / "git").write_text(
        f"""#!/bin/sh
case " $* " in *" {call} "*) {started} && kill -INT -$(ps -o pgid= -p $PPID | tr -d ' ') ;; esac
exec {shutil.which("git")} "$@"
"""
    )
    (tools / "git").chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "agent", "run", "--tag", "t", "--max-experiments", "9", "--no-report"],
        cwd=quick,
        env={**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    assert pressed.exists()
    assert done.returncode == 130, done.stderr
    assert_consistent(quick)
    assert len(rows(quick)) < 9


def test_ctrl_c_during_setup_ends_its_processes(quick: Path) -> None:
    set_protocol(quick, environment={"setupCommands": ["echo here; sleep 60 & wait"]})
    # Whatever starts the tests may ignore SIGINT, as a shell does for what it starts in the background.
    heeding = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    loop = subprocess.Popen(
        [sys.executable, "-P", "-c", f"{heeding}runpy.run_module('agent', run_name='__main__')", "run", "--tag", "t"],
        cwd=quick,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert loop.stderr is not None
    with loop:
        assert any(line == "here\n" for line in loop.stderr)
        os.killpg(loop.pid, signal.SIGINT)
        loop.stderr.read()
    assert loop.returncode == 130
    assert not survivors(quick)


@pytest.mark.parametrize(("signals", "code"), [([signal.SIGINT, signal.SIGINT], 130), ([signal.SIGTERM], 143)])
def test_the_second_ctrl_c_and_sigterm_stop_at_once_and_the_candidate_is_measured_later(
    slow: Path, cli: Cli, signals: list[signal.Signals], code: int
) -> None:
    loop = start(slow, "--max-experiments", "2")
    wait_for(slow, "started", 1)
    for number in signals:
        loop.send_signal(number)
        time.sleep(0.3)
    loop.communicate(timeout=60)
    assert loop.returncode == code
    assert_consistent(slow)
    assert len(rows(slow)) == 1
    proposed = next(e for e in journal(slow) if e["event"] == "proposed" and e["number"] == 1)
    assert cli(slow, "run", "--tag", "t", "--max-experiments", "2").returncode == 0
    assert_consistent(slow)
    assert [r["description"] for r in rows(slow)][1] == proposed["description"]
    assert sum(e["event"] == "proposed" and e["number"] == 1 for e in journal(slow)) == 1


def test_a_link_is_none_of_the_files_that_may_change(quick: Path) -> None:
    surface = quick_protocol()["mutableSurface"]
    set_protocol(quick, mutableSurface={**surface, "allowedGlobs": ["train.py", "link.py"]})
    (quick / "link.py").symlink_to("train.py")
    git(quick, "add", "link.py")
    git(quick, "commit", "--quiet", "-m", "a link")
    done = call(quick, "run", "--tag", "t", "--max-experiments", "3")
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert git(quick, "show", "HEAD:link.py") == "train.py"
    assert str((quick / "link.py").readlink()) == "train.py"
    assert {name for event in journal(quick) if event["event"] == "proposed" for name in event["files"]} == {"train.py"}


def test_a_link_alone_is_refused(quick: Path) -> None:
    git(quick, "mv", "train.py", "real.py")
    (quick / "train.py").symlink_to("real.py")
    git(quick, "add", "train.py")
    git(quick, "commit", "--quiet", "-m", "a link")
    done = call(quick, "run", "--tag", "t", "--max-experiments", "1")
    assert done.returncode == 3
    assert "not counting links" in done.stderr
    assert "Traceback" not in done.stderr
    assert str((quick / "train.py").readlink()) == "real.py"


def test_one_loop_per_workspace_status_and_stop(slow: Path, cli: Cli) -> None:
    loop = start(slow, "--max-experiments", "50")
    wait_for(slow, "started", 1)
    second = cli(slow, "run", "--tag", "other")
    assert second.returncode == 3
    assert f"process {loop.pid} (session t)" in second.stderr
    shown = json.loads(cli(slow, "status", "--json").stdout)["data"]
    assert shown["running_pid"] == loop.pid
    assert shown["now"]["number"] >= 1
    assert shown["now"]["done_at"]
    follower = subprocess.Popen(
        [sys.executable, "-m", "agent", "status", "--follow"],
        cwd=slow,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    stopped = cli(slow, "stop")
    assert stopped.returncode == 0
    assert "stops after its current experiment" in stopped.stdout
    _, errors = loop.communicate(timeout=60)
    assert loop.returncode == 0
    assert "stopped by `autoresearch stop`" in errors
    followed, _ = follower.communicate(timeout=60)
    assert re.search(r"#\d+ ", followed)
    assert "stopped by" in followed
    assert cli(slow, "stop").returncode == 3
    assert_consistent(slow)


def test_a_request_to_stop_counts_while_a_session_resumes(quick: Path, program: Cli) -> None:
    begun, gate = quick / "begun", quick / "gate"
    wait = f"sh -c 'touch {begun}; while [ ! -e {gate} ]; do sleep 0.02; done'"
    gate.touch()
    set_protocol(quick, environment={**quick_protocol()["environment"], "setupCommands": [wait]})
    assert program(quick, "run", "--tag", "t", "--max-experiments", "1").returncode == 0
    stop_file(journal_path(quick, "t")).touch()  # one that nobody heard any more
    begun.unlink()
    gate.unlink()
    shutil.rmtree(state_folder(quick) / "create")  # so that setup is due
    loop = start(quick, "--max-experiments", "50", "--setup")
    until(begun.exists, "the setup has not begun")
    assert not stop_file(journal_path(quick, "t")).exists()
    assert program(quick, "stop").returncode == 0
    gate.touch()
    _, errors = loop.communicate(timeout=60)
    assert "stopped by `autoresearch stop`" in errors
    assert len(rows(quick)) <= 3


@pytest.mark.parametrize("flags", [(), ("--verdict", "greedy", "--baseline-runs", "3")], ids=["confirm", "greedy"])
@pytest.mark.parametrize("value", ["1.500003", "1.500009"])
def test_nothing_is_kept_where_nothing_has_an_effect(quick: Path, cli: Cli, flags: tuple[str, ...], value: str) -> None:
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace("{loss:.6f}", value))
    commit_all(quick, "the same number always")
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "3", *flags)
    assert done.returncode == 0, done.stderr
    assert [row["status"] for row in rows(quick)] == ["keep", "discard", "discard", "discard"]


def test_a_clock_that_is_set_hides_no_loop(slow: Path, cli: Cli) -> None:
    """The start of a process is told by the clock of the system, as it is now."""
    loop = start(slow, "--max-experiments", "50")
    wait_for(slow, "started", 1)
    note = state_folder(slow) / "loop.json"
    told = json.loads(note.read_text())
    note.write_text(json.dumps({**told, "born": told["born"] + 5}))
    assert cli(slow, "stop").returncode == 0
    loop.communicate(timeout=60)
    assert loop.returncode == 0
    assert cli(slow, "stop").returncode == 3


def test_limits(quick: Path, cli: Cli) -> None:
    assert "no improvement" in cli(quick, "run", "--tag", "t", "--patience", "2").stdout
    assert "is reached" in cli(quick, "run", "--tag", "t", "--target", "1000").stdout
    assert "hours have passed" in cli(quick, "run", "--tag", "t", "--max-hours", "0").stdout
    assert cli(quick, "run", "--tag", "t", "--until", "25:00").returncode == 2
    set_protocol_later = quick_protocol(miningLoop={"maxTrials": 1})
    git(quick, "checkout", "--quiet", "main")
    (quick / "protocol.json").write_text(json.dumps(set_protocol_later))
    commit_all(quick, "one trial")
    assert "1 experiment is done" in cli(quick, "run", "--tag", "u").stdout


def test_a_dry_run_changes_nothing(quick: Path, cli: Cli) -> None:
    before = git(quick, "for-each-ref")
    done = cli(quick, "run", "--tag", "t", "--dry-run")
    assert done.returncode == 0
    assert "would start on branch autoresearch/t" in done.stdout
    assert "\nwould end only when it is stopped\nwould propose by search, 3 constants to search\n" in done.stdout
    more = cli(quick, "run", "--tag", "t", "--dry-run", "--max-experiments", "3", "--agent-cmd", "true")
    assert "\nwould end after 3 experiments\nwould propose by hybrid (true), 3 constants to search\n" in more.stdout
    (line,) = cli(quick, "run", "--tag", "t", "--dry-run", "--max-experiments", "3", "--json").stdout.splitlines()
    plan = json.loads(line)
    assert (plan["event"], plan["branch"], plan["resumes"]) == ("plan", "autoresearch/t", False)
    assert (plan["ends"], plan["proposer"], plan["constants"]) == ({"experiments": 3}, "search", 3)
    assert git(quick, "for-each-ref") == before
    assert not journal_path(quick, "t").exists()


def test_dry_run_refuses_what_a_resume_refuses(quick: Path, cli: Cli) -> None:
    run = ("run", "--tag", "t", "--max-experiments", "1")
    assert cli(quick, *run).returncode == 0
    whole = (quick / "train.py").read_text()

    def refused(*flags: str) -> str:
        planned, begun = cli(quick, *run, *flags, "--dry-run"), cli(quick, *run, *flags)
        assert planned.returncode == begun.returncode == 3
        assert planned.stdout == ""
        assert begun.stderr.endswith(planned.stderr)  # a start says first how it confines its runs
        return planned.stderr

    assert "under other conditions" in refused("--training-seconds", "20")
    (quick / "train.py").write_text(whole + "# mine\n")
    assert "autoresearch try --tag t`" in refused()
    commit_all(quick, "mine")
    assert "measure the new commits with `autoresearch try --tag t`" in refused()
    git(quick, "reset", "--quiet", "--hard", "HEAD~1")
    git(quick, "switch", "--quiet", "main")
    (quick / "train.py").write_text(whole + "# mine\n")
    assert "uncommitted changes (train.py)" in refused()
    git(quick, "checkout", "--quiet", "--", "train.py")
    git(quick, "switch", "--quiet", "autoresearch/t")
    (quick / "results.tsv").write_text((quick / "results.tsv").read_text()[:-9])
    assert cli(quick, *run, "--dry-run").returncode == 0  # a resume restores it


def test_session_without_its_branch_moves_no_checkout_with_edits(quick: Path, cli: Cli) -> None:
    """It was killed between its first event and the creation of the branch."""
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "0").returncode == 0
    path = journal_path(quick, "t")
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    git(quick, "switch", "--quiet", "main")
    git(quick, "branch", "--quiet", "-D", "autoresearch/t")
    mine = (quick / "train.py").read_text() + "# mine\n"
    (quick / "train.py").write_text(mine)
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "0")
    assert done.returncode == 3
    assert "uncommitted changes (train.py)" in done.stderr
    assert git(quick, "branch", "--show-current") == "main"
    assert (quick / "train.py").read_text() == mine


def test_a_malformed_search_comment_costs_no_tag(quick: Path, cli: Cli) -> None:
    whole = (quick / "train.py").read_text()
    (quick / "train.py").write_text(whole.replace("1..16", "1-16"))
    commit_all(quick, "a slip")
    for flags in (["--dry-run"], []):
        refused = cli(quick, "run", "--tag", "t", "--max-experiments", "0", *flags)
        assert refused.returncode == 2
        assert "the search comment of DEPTH is malformed" in refused.stderr
        assert not journal_path(quick, "t").exists()
        assert "autoresearch" not in git(quick, "for-each-ref")
    (quick / "train.py").write_text(whole)
    commit_all(quick, "mended")
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "0")
    assert done.returncode == 0, done.stderr


def test_json_events_and_plain_lines(quick: Path, cli: Cli) -> None:
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "1", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e["event"] for e in events if e["event"] != "note"][:3] == ["session", "proposed", "committed"]
    assert events[-1]["event"] == "summary"
    assert events[-1]["experiments"] == 1
    assert done.stderr == ""
    plain = cli(quick, "run", "--tag", "t", "--max-experiments", "2", FORCE_COLOR="1")
    assert "\x1b" not in plain.stdout + plain.stderr
    assert any(line.startswith("#2 ") for line in plain.stderr.splitlines())


@pytest.mark.parametrize("sandbox", ["auto", "off"])
def test_candidate_that_prints_what_a_broken_room_does_is_a_crash(quick: Path, cli: Cli, sandbox: str) -> None:
    lies = 'if __name__ == "__main__":\\n    print("the room could not be set up: x")\\n    sys.exit(126)'
    agent = ("--proposer", "command", "--agent-cmd", f"sed -i 's/^import sys$/&\\n{lies}/' train.py")
    done = cli(quick, "run", "--tag", "t", *agent, "--max-experiments", "1", "--sandbox", sandbox)
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    assert [row["status"] for row in rows(quick)] == ["keep", "crash"]
    assert "exit code 126: the room could not be set up: x" in rows(quick)[1]["description"]


def test_session_of_a_version_that_did_not_protect_a_path_in_both_lists_is_told_so(quick: Path, cli: Cli) -> None:
    content = json.loads((quick / "protocol.json").read_text())
    (quick / "other.py").write_text("X = 1\n")
    content["mutableSurface"]["allowedGlobs"].append("other.py")
    # To that version this meant what the list of the harness without the path still means.
    former = Workspace(quick, Protocol.model_validate(content))
    content["immutableHarness"]["paths"].append("other.py")
    (quick / "protocol.json").write_text(json.dumps(content))
    git(quick, "add", "other.py")
    commit_all(quick, "in both lists")
    assert cli(quick, "run", "--tag", "t", "--max-experiments", "1").returncode == 0
    assert "t: harness" not in cli(quick, "doctor", "--tag", "t").stdout
    path = quick / ".autoresearch/sessions/t/journal.jsonl"
    base, begun = next((event["base"], event) for event in journal(quick) if event["event"] == "session")
    assert former.harness_digest(base) != begun["fingerprint"]["harness"]
    path.write_text(path.read_text().replace(begun["fingerprint"]["harness"], former.harness_digest(base)))
    refused = cli(quick, "run", "--tag", "t", "--max-experiments", "2")
    assert refused.returncode == 3
    said = "this version protects other.py, which allowedGlobs and immutableHarness.paths both name"
    assert said in refused.stderr
    assert "harness was" not in refused.stderr
    assert "hint: start a session with another --tag\n" in refused.stderr
    doctored = cli(quick, "doctor", "--tag", "t").stdout
    assert re.search(rf"warning  t: harness +{re.escape(said)}", doctored), doctored
    assert cli(quick, "run", "--tag", "again", "--max-experiments", "1").returncode == 0
