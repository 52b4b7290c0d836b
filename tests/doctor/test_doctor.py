"""doctor and doctor --repair on sessions that a kill or a user left inconsistent."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock

from agent.doctor import reach, smoke
from agent.doctor.machine import UV_INSTALLER
from agent.execution.fingerprint import backend
from agent.execution.kill import MARK, start_of
from agent.journal.paths import journal_path
from agent.proposers.agent.presets import PRESETS
from agent.proposers.choose import ProposerConfig
from agent.proposers.model.servers import SERVERS
from tests.common.forked import Forked
from tests.common.in_process import call
from tests.common.sessions import assert_consistent, journal, rows
from tests.common.workspaces import Cli, git, quick_protocol, set_protocol

# Checks whose result depends on the machine.
SYSTEM = {"awake", "power", "sandbox", "swap"}


def checks(folder: Path) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in asked(folder)}


def asked(folder: Path, *args: str, **env: str) -> list[dict[str, Any]]:
    done = call(folder, "doctor", "--json", *args, **env)
    found: list[dict[str, Any]] = json.loads(done.stdout)["data"]["checks"]
    assert done.returncode == any(check["status"] == "broken" for check in found)
    return found


def cut(folder: Path, events: int) -> None:
    """Truncate the journal, as if the loop had died after this many events."""
    path = journal_path(folder, "t")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:events]))


def test_healthy_workspace_passes_doctor(quick: Path, program: Cli) -> None:
    (before,) = (check for name, check in checks(quick).items() if name == "tree")
    assert before["status"] == "ok"
    program(quick, "run", "--tag", "t", "--max-experiments", "3")
    found = checks(quick)
    assert {check["status"] for name, check in found.items() if name not in SYSTEM} == {"ok"}
    mine = {"protocol", "tree", "identity", "disk", "memory", "proposer"}
    assert mine | {"t: journal", "t: branch", "t: rows", "t: commits"} == set(found) - SYSTEM
    assert "the recipe needed 2.0 GB" in found["memory"]["message"]
    done = program(quick, "doctor", "--repair")
    assert done.returncode == 0
    assert done.stdout.startswith("did      nothing: no repair needed")


def test_long_session_takes_no_more_processes_of_git(quick: Path, program: Cli) -> None:
    """A process for each experiment takes seconds after a thousand."""
    real, count = shutil.which("git"), quick.parent / "count"
    fake = quick.parent / "bin"
    fake.mkdir()
    (fake / "git").write_text(f'#!/bin/sh\necho . >> {count}\nexec {real} "$@"\n')
    (fake / "git").chmod(0o755)
    started = []
    for experiments in ("1", "6"):
        assert program(quick, "run", "--tag", "t", "--max-experiments", experiments).returncode == 0
        count.unlink(missing_ok=True)
        done = program(quick, "doctor", PATH=f"{fake}:{os.environ['PATH']}")
        assert "all commits exist" in done.stdout
        started.append(len(count.read_text()))
    assert started[0] == started[1]


def test_rows_and_commits_are_checked_although_git_lacks_a_commit(quick: Path, program: Cli) -> None:
    worse = ("--proposer", "command", "--agent-cmd", 'sed -i "s/^WIDTH = 64 /WIDTH = 32 /" train.py')
    program(quick, "run", "--tag", "t", "--max-experiments", "1", *worse)
    lost = next(event["commit"] for event in journal(quick) if event["event"] == "committed" and event["number"] == 1)
    assert rows(quick)[1]["status"] == "discard"
    (quick / ".git" / "objects" / lost[:2] / lost[2:]).unlink()
    found = checks(quick)
    assert found["t: rows"]["status"] == "ok"
    assert "the commits of #1 are missing" in found["t: commits"]["message"]


def test_memory_of_a_kept_baseline_is_known_before_the_first_session(quick: Path, cli: Cli) -> None:
    assert cli(quick, "baseline").returncode == 0
    assert "the recipe needed 2.0 GB" in checks(quick)["memory"]["message"]


def test_changed_tree_is_broken_since_no_session_starts_on_it(quick: Path) -> None:
    (quick / "train.py").write_text("RATE = 1.0\n")
    tree = checks(quick)["tree"]
    assert tree["status"] == "broken"
    assert "git stash" in tree["message"]
    assert call(quick, "doctor").returncode == 1
    assert call(quick, "run", "--tag", "t").returncode == 3


def test_protocol_that_was_never_committed_is_refused(quick: Path) -> None:
    git(quick, "rm", "--quiet", "--cached", "protocol.json")
    git(quick, "commit", "--quiet", "-m", "without")
    found, done = checks(quick)["protocol"], call(quick, "run", "--tag", "t", "--max-experiments", "1")
    assert (found["status"], done.returncode) == ("broken", 3)
    for said in (found["message"], done.stderr):
        assert "protocol.json is not committed" in said
        assert "add protocol.json && git commit -m protocol`" in said
    assert git(quick, "branch", "--list", "autoresearch/*") == ""
    git(quick, "add", "protocol.json")
    git(quick, "commit", "--quiet", "-m", "protocol")
    assert checks(quick)["protocol"]["status"] == "ok"


def test_rows_of_an_earlier_version_with_rests_of_colors_are_those_of_the_journal(quick: Path) -> None:
    edit = r"""sed -i 's/^sys.exit.*/if __name__ == "__main__": raise SystemExit("\\x1b[31mred\\x1b[0m")/' train.py"""
    agent = ("--proposer", "command", "--agent-cmd", edit)
    done = call(quick, "run", "--tag", "t", "--max-experiments", "1", *agent)
    assert rows(quick)[1]["description"].endswith(": red]"), done.stderr
    assert checks(quick)["t: rows"]["status"] == "ok"
    text = (quick / "results.tsv").read_text()
    (quick / "results.tsv").write_text(text.replace(" red]", "  [31mred [0m]"))
    old, path = git(quick, "rev-parse", "HEAD"), journal_path(quick, "t")
    git(quick, "commit", "--quiet", "--amend", "--no-edit", "results.tsv")
    path.write_text(path.read_text().replace(old, git(quick, "rev-parse", "HEAD")))
    assert checks(quick)["t: rows"]["status"] == "ok"


def with_results_of_others(folder: Path) -> None:
    (folder / "results.tsv").write_text("model\tf1\nsmall\t0.5\n")
    git(folder, "add", "results.tsv")
    git(folder, "commit", "--quiet", "-m", "results")


def with_untracked_results(folder: Path) -> None:
    (folder / "results.tsv").write_text("model\tf1\n")


def with_branch_in_the_way(folder: Path) -> None:
    git(folder, "branch", "autoresearch")


def with_tracked_state(folder: Path) -> None:
    (folder / ".autoresearch").mkdir()
    (folder / ".autoresearch" / "notes").write_text("x")
    git(folder, "add", "--force", ".autoresearch/notes")
    git(folder, "commit", "--quiet", "-m", "state")


def with_globs_that_match_nothing(folder: Path) -> None:
    surface = quick_protocol()["mutableSurface"]
    set_protocol(folder, mutableSurface={**surface, "allowedGlobs": ["src/**/*.py"]})


def with_a_draft(folder: Path) -> None:
    set_protocol(folder, schemaKind="discoveryDraft")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (with_results_of_others, "results.tsv has other columns than the protocol"),
        (with_untracked_results, "results.tsv exists and git does not track it"),
        (with_branch_in_the_way, "while autoresearch exists"),
        (with_tracked_state, "git tracks .autoresearch/notes"),
        (with_globs_that_match_nothing, "src/**/*.py"),
        (with_a_draft, "is a discoveryDraft, not a protocol"),
    ],
)
def test_what_stops_a_session_from_starting_is_broken(quick: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(quick)
    found, refused = checks(quick), call(quick, "run", "--tag", "t", "--dry-run")
    assert refused.returncode in (2, 3)
    assert said in refused.stderr
    assert found["start"]["status"] == "broken"
    assert said in found["start"]["message"]
    assert not (quick / ".autoresearch" / "sessions").exists()


@pytest.mark.parametrize(
    ("command", "setup", "said"),
    [
        ("trainer --fast", [], {"command": ("broken", "trainer is not found on PATH")}),
        ("SEED=1 ./bench | tail", [], {"command": ("broken", "./bench is not found")}),
        ("bash run.sh", [], {"command": ("broken", "run.sh is not found in the workspace")}),
        ("python3 -u scripts/train.py > run.log 2>&1", [], {"command": ("broken", "scripts/train.py is not found")}),
        ("./bench", ["make bench || true"], {"command": ("warning", "./bench is not found, unless set-up adds it")}),
        ("python3 train.py", ["no-such-tool install"], {"setup": ("broken", "no-such-tool is not found on PATH")}),
        ("if true; then python3 train.py; fi", ["true"], {}),
        ("(cd harness && ls); python3 -c pass", [], {}),
        ("$HOME/bin/python x.py", [], {}),
        ("python3 -m train.py 'unclosed", [], {}),
    ],
)
def test_missing_program_or_script_is_found_before_the_first_run(
    quick: Path, command: str, setup: list[str], said: dict[str, tuple[str, str]]
) -> None:
    protocol = quick_protocol()
    environment = {**protocol["environment"], "setupCommands": setup}
    set_protocol(quick, execution={**protocol["execution"], "command": command}, environment=environment)
    found = {name: check for name, check in checks(quick).items() if name in ("command", "setup")}
    assert {name: check["status"] for name, check in found.items()} == {name: each[0] for name, each in said.items()}
    for name, (_, words) in said.items():
        assert words in found[name]["message"]


def test_missing_folder_of_the_command_is_broken(quick: Path) -> None:
    set_protocol(quick, execution={**quick_protocol()["execution"], "cwd": "sub"})
    found = checks(quick)["command"]
    assert (found["status"], found["message"]) == ("broken", "execution.cwd is sub, which is not a folder")


def test_rows_of_a_session_are_checked_against_its_own_protocol(quick: Path) -> None:
    assert call(quick, "run", "--tag", "t", "--max-experiments", "1", "--no-report").returncode == 0
    git(quick, "checkout", "--quiet", "main")
    set_protocol(quick, **renamed("loss"))
    found = checks(quick)["t: rows"]
    assert (found["status"], found["message"]) == ("ok", "results.tsv has all rows of the journal (2)")
    refused = call(quick, "run", "--tag", "t", "--max-experiments", "2")
    assert refused.returncode == 3
    assert "measurement.primaryMetric.name: val_bpb -> loss" in refused.stderr


def renamed(name: str) -> dict[str, Any]:
    """Return the sections of a protocol that give its metric another name."""
    protocol = quick_protocol()
    provenance = json.loads(json.dumps(protocol["provenance"]).replace("val_bpb", name))
    measurement = protocol["measurement"]
    measurement["primaryMetric"]["name"] = name
    return {"measurement": measurement, "provenance": provenance}


def test_repair_finishes_half_done_step(quick: Path, cli: Cli) -> None:
    cli(quick, "run", "--tag", "t", "--max-experiments", "2")
    expected = rows(quick)
    last = max(number for number, event in enumerate(journal(quick)) if event["event"] == "recorded")
    old = [event["head"] for event in journal(quick) if event["event"] == "recorded"][-2]
    cut(quick, last + 1)
    git(quick, "update-ref", "refs/heads/autoresearch/t", old)
    (quick / "results.tsv").write_text((quick / "results.tsv").read_text()[:30])
    with journal_path(quick, "t").open("a") as file:
        file.write('{"event": "prop')
    git(quick, "update-ref", "-d", "refs/autoresearch/t/1")
    found = checks(quick)
    assert {name for name, check in found.items() if check["status"] == "warning"} - SYSTEM == {
        "t: journal", "t: branch", "t: commits"
    }  # fmt: skip
    assert found["tree"]["status"] == "broken"
    assert found["t: branch"]["command"] == "autoresearch doctor --repair --tag t"
    done = cli(quick, "doctor", "--repair")
    assert done.returncode == 0, done.stderr
    for what in ("dropped the incomplete last line", "moved autoresearch/t", "results.tsv", "refs/autoresearch/t/1"):
        assert any(line.startswith("did ") and what in line for line in done.stdout.splitlines()), what
    assert {check["status"] for name, check in checks(quick).items() if name not in SYSTEM} == {"ok"}
    assert_consistent(quick)
    assert rows(quick) == expected


def test_repair_ends_orphan(quick: Path, program: Cli) -> None:
    program(quick, "run", "--tag", "t", "--max-experiments", "1")
    started = max(number for number, event in enumerate(journal(quick)) if event["event"] == "started")
    before = [event for event in journal(quick)[:started] if event["event"] == "recorded"][-1]["head"]
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={**os.environ, MARK: "x"}) as run:
        threading.Thread(target=run.wait, daemon=True).start()  # as init does with orphans
        lines = journal_path(quick, "t").read_text().splitlines()[: started + 1]
        born = psutil.Process(run.pid).create_time() + 3600  # before somebody set the clock
        event = {**json.loads(lines[-1]), "pid": run.pid, "born": born, "start": start_of(run.pid)}
        journal_path(quick, "t").write_text("\n".join([*lines[:-1], json.dumps(event)]) + "\n")
        git(quick, "update-ref", "refs/heads/autoresearch/t", before)
        git(quick, "checkout", "--quiet", before, "--", ".")
        assert "still running without its loop" in checks(quick)["t: run"]["message"]
        done = program(quick, "doctor", "--repair")
        assert done.returncode == 0, done.stderr
        assert f"killed the orphaned run with pid {run.pid}" in done.stdout
        assert run.wait(timeout=30) != 0
    assert "was proposed but not recorded" in done.stdout
    assert program(quick, "run", "--tag", "t", "--max-experiments", "1").returncode == 0
    assert_consistent(quick)


def test_changes_by_user_are_explained_and_kept(quick: Path, cli: Cli) -> None:
    cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    git(quick, "commit", "--quiet", "--allow-empty", "-m", "mine")
    mine = git(quick, "rev-parse", "HEAD")
    found = checks(quick)["t: branch"]
    assert found["status"] == "broken"
    assert found["command"].startswith("git update-ref refs/heads/autoresearch/t ")
    refused = cli(quick, "doctor", "--repair")
    assert refused.returncode == 3
    assert "keep the new commits" in refused.stderr
    assert git(quick, "rev-parse", "HEAD") == mine
    subprocess.run(found["command"].split(), cwd=quick, check=True)
    assert checks(quick)["t: branch"]["status"] == "ok"


def test_doctor_names_damaged_journal_and_keeps_it(quick: Path, cli: Cli) -> None:
    cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    path = journal_path(quick, "t")
    damaged = path.read_text().replace('"event"', '"evnt"', 2)
    path.write_text(damaged)
    assert "line 1 of" in checks(quick)["t: journal"]["message"]
    done = cli(quick, "doctor", "--repair")
    assert done.returncode == 1
    assert "line 1 of" in done.stderr
    assert "Traceback" not in done.stderr
    assert path.read_text() == damaged
    (quick / "protocol.json").write_text("{")
    assert checks(quick)["workspace"]["status"] == "broken"


def test_blas_is_reported_without_running_workspace_code(quick: Path, tmp_path: Path) -> None:
    (quick / "blas.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    git(quick, "add", "blas.py")
    git(quick, "commit", "--quiet", "-m", "a blas")
    found = checks(quick)
    if sys.platform == "linux" and backend() == "cpu":
        assert found["blas"]["status"] == "ok"
        assert "openblas" in found["blas"]["message"]
    else:
        assert found.get("blas", {"status": "ok"})["status"] == "ok"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("unset", "says", "command"),
    [
        (
            ["name"],
            "user.name is not set in git: commits are authored by autoresearch <",
            "git config --global user.name",
        ),
        (["email"], "user.email is not set in git: commits are authored by ", "git config --global user.email"),
        (["name", "email"], "user.name and user.email are not set in git: ", "git config --global user.name"),
    ],
)
def test_doctor_names_the_half_of_the_identity_that_is_missing(
    quick: Path, unset: list[str], says: str, command: str
) -> None:
    for key in unset:
        git(quick, "config", "--unset", f"user.{key}")
    found = {check["name"]: check for check in asked(quick)}["identity"]
    assert found["status"] == "warning"
    assert found["message"].startswith(says)
    assert found["command"].startswith(command)
    assert found["command"].count("git config") == len(unset)


@pytest.mark.parametrize("by", ["name", "date"])
def test_identity_that_git_refuses_ends_no_session_after_its_baseline(quick: Path, program: Cli, by: str) -> None:
    variables = {}
    if by == "name":
        git(quick, "config", "user.name", "<>")
    else:
        variables = {"GIT_AUTHOR_DATE": "garbage"}
    done = program(quick, "run", "--tag", "t", "--max-experiments", "1", **variables)
    assert done.returncode == 3
    words = {"name": "disallowed characters", "date": "invalid date format: garbage"}[by]
    assert re.search(rf"^error: git refuses the author of commits: .*{words}", done.stderr, re.MULTILINE)
    assert not (quick / ".autoresearch" / "sessions").exists()
    found = {check["name"]: check for check in asked(quick, **variables)}["identity"]
    assert found["status"] == "broken"
    assert words in found["message"]


def test_hint_names_the_setting_of_the_committer_that_git_refuses(quick: Path, program: Cli) -> None:
    git(quick, "config", "committer.name", "<>")
    done = program(quick, "run", "--tag", "t", "--max-experiments", "1")
    assert "error: git refuses the committer of commits: " in done.stderr
    assert "committer.name" in done.stderr.partition("hint: ")[2]


def test_doctor_names_missing_requirements(quick: Path, tmp_path: Path) -> None:
    """Each line names the command that fixes it."""
    protocol = json.loads((quick / "protocol.json").read_bytes())
    protocol["meta"]["archetype"] = "ml_train"
    protocol["execution"]["command"] = "uv run train.py"
    (quick / "protocol.json").write_text(json.dumps(protocol))
    git(quick, "commit", "--quiet", "-am", "another protocol")
    git(quick, "config", "--unset", "user.name")
    # Only git on PATH, and an empty cache.
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "git").symlink_to(str(shutil.which("git")))
    found = {check["name"]: check for check in asked(quick, PATH=str(tools), AUTORESEARCH_CACHE=str(tmp_path))}
    assert (found["uv"]["status"], found["uv"]["command"]) == ("broken", UV_INSTALLER)
    assert found["identity"]["status"] == "warning"
    assert found["identity"]["command"].startswith("git config --global")
    assert (found["data"]["status"], found["data"]["command"]) == ("warning", "uv run prepare.py")
    assert found["mlx"]["status"] == "ok"
    assert "smoke" not in found
    assert found["awake"]["status"] == "warning"
    assert found["awake"]["command"]
    assert "known after its first run" in found["memory"]["message"]


def test_doctor_compares_memory_with_peak_of_recipe(quick: Path, cli: Cli) -> None:
    cli(quick, "run", "--tag", "t", "--max-experiments", "0")
    path = journal_path(quick, "t")
    total = psutil.virtual_memory().total / 2**20
    path.write_text(path.read_text().replace('"peak_vram_mb": 2048.0', f'"peak_vram_mb": {2 * total}'))
    (memory,) = (check for check in asked(quick) if check["name"] == "memory")
    assert memory["status"] == "broken"
    assert "halve DEVICE_BATCH_SIZE" in memory["message"]
    assert memory["command"].startswith("ps aux")


def test_smoke_training_leaves_no_trace(quick: Path, cli: Cli) -> None:
    cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    budget = "import os\nassert os.environ['AUTORESEARCH_TRAINING_SECONDS'] == '2'\nopen('left', 'w').close()\n"
    (quick / "train.py").write_text(budget + (quick / "train.py").read_text())
    git(quick, "commit", "--quiet", "-am", "budget")
    before = (git(quick, "rev-parse", "HEAD"), sorted(quick.iterdir()), journal_path(quick, "t").read_text())
    (smoke,) = (check for check in asked(quick, "--smoke") if check["name"] == "smoke")
    assert smoke["status"] == "ok"
    assert smoke["message"].startswith("val_bpb 1.")
    assert before == (git(quick, "rev-parse", "HEAD"), sorted(quick.iterdir()), journal_path(quick, "t").read_text())
    assert git(quick, "status", "--porcelain") == ""
    for text, words in [
        ("raise SystemExit('no luck')", "exit code 1: no luck"),
        ("print('x')", "no line of the log matches"),
    ]:
        (quick / "train.py").write_text(text)
        git(quick, "commit", "--quiet", "-am", "broken")
        (smoke,) = (check for check in asked(quick, "--smoke") if check["name"] == "smoke")
        assert smoke["status"] == "broken"
        assert words in smoke["message"]
        assert smoke["command"].startswith("AUTORESEARCH_TRAINING_SECONDS=2 ")


@pytest.mark.parametrize(("budget", "said"), [(None, "after one run, "), (4, "after two seconds of training, ")])
def test_smoke_waits_for_a_run_that_no_budget_shortens(
    quick: Path, monkeypatch: pytest.MonkeyPatch, budget: int | None, said: str
) -> None:
    monkeypatch.setattr(smoke, "LONGEST_SECONDS", 1.0)
    execution = quick_protocol()["execution"]
    execution["stopCondition"] = {"type": "fixed_suite"}
    if budget is not None:
        execution["stopCondition"] = {"type": "wall_clock", "trainingSecondsBudget": budget}
    long = "import os, time\nend = time.monotonic() + 2\nwhile time.monotonic() < end:\n    pass\n"
    if budget is None:
        long += "assert 'AUTORESEARCH_TRAINING_SECONDS' not in os.environ\n"
    (quick / "train.py").write_text(long + (quick / "train.py").read_text())
    set_protocol(quick, execution=execution)
    done = call(quick, "doctor", "--smoke")
    (line,) = (line for line in done.stdout.splitlines() if " smoke " in line)
    assert line.startswith("ok ")
    assert said in line
    assert ("smoke: one whole run" in done.stderr) == (budget is None)


def trains(pid: int) -> bool:
    for each in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):
            if "train.py" in each.cmdline():
                return True
    return False


def test_smoke_training_and_loop_are_mutually_exclusive(quick: Path, cli: Cli, tmp_path: Path) -> None:
    cli(quick, "run", "--tag", "t", "--max-experiments", "0")
    with FileLock(quick / ".autoresearch" / "lock"):  # by a loop that has begun a moment ago
        (smoke,) = (check for check in asked(quick, "--smoke") if check["name"] == "smoke")
    assert smoke["status"] == "warning"
    assert "a loop is already running in this workspace" in smoke["message"]
    (tmp_path / "signals").mkdir()
    go = tmp_path / "signals" / "go"
    waits = f"import os, time\nwhile not os.path.exists({str(go)!r}):\n    time.sleep(0.02)\n"
    (quick / "train.py").write_text(waits + (quick / "train.py").read_text())
    git(quick, "commit", "--quiet", "-am", "waits")
    doctor = Forked(quick, ["doctor", "--smoke"], {**os.environ, "AUTORESEARCH_READ": str(go.parent)})
    while not trains(doctor.pid):
        assert doctor.poll() is None
        time.sleep(0.02)
    for args, words in [(["run", "--tag", "u"], "is already running"), (["stop"], "no loop is running")]:
        refused = cli(quick, *args)
        assert (refused.returncode, words in refused.stderr) == (3, True)
    go.touch()
    assert "val_bpb 1." in doctor.communicate(timeout=60)[0]


def test_smoke_training_uses_interpreter_of_workspace(quick: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", ".venv"], cwd=quick, check=True)
    rules = json.loads((quick / "protocol.json").read_bytes())
    rules["execution"]["command"] = ".venv/bin/python train.py > run.log 2>&1"
    (quick / "protocol.json").write_text(json.dumps(rules))
    git(quick, "commit", "--quiet", "-am", "an environment of its own")
    (smoke,) = (check for check in asked(quick, "--smoke") if check["name"] == "smoke")
    assert smoke["status"] == "ok", smoke


@contextmanager
def listing(status: int, body: bytes, only: str = "") -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """Serve one answer to every GET. Yields the address, and path and key of each request.

    Args:
        only: a path; any other is not found. Empty for all.
    """
    seen: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers.get("x-api-key") or self.headers.get("Authorization")))
            self.send_response(status if only in ("", self.path) else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.quick
@pytest.mark.parametrize(
    ("status", "body", "name", "expected", "words"),
    [
        (200, b'{"data": [{"id": "qwen"}]}', "qwen", "ok", "is available at"),
        (200, b'{"data": [{"id": "qwen:8b"}]}', "qwen", "ok", "is available at"),
        (200, b'{"data": [{"id": "qwen"}]}', "gemma", "warning", "does not list gemma, only qwen"),
        (200, b"<html>", "qwen", "ok", "unknown format"),
        (401, b"", "qwen", "broken", "rejected the key (HTTP 401)"),
        (405, b"", "qwen", "ok", "is reachable"),
        (503, b"", "qwen", "warning", "(HTTP 503)"),
    ],
)
def test_doctor_checks_model_without_spending(status: int, body: bytes, name: str, expected: str, words: str) -> None:
    with listing(status, body) as (url, seen):
        (check,) = reach.checks(ProposerConfig(model=f"{url}/v1 {name}"))
    assert check.status == expected
    assert words in check.message
    assert [path for path, _ in seen] == ["/v1/models"]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("only", "path", "right"),
    [
        ("/v1/models", "", "/v1"),
        ("/v1/models", "/v1/chat/completions", "/v1"),
        ("/v1/models", "/chat/completions", "/v1"),
        ("/models", "/v1", ""),
        ("/api/v1/models", "/api", "/api/v1"),
        ("/elsewhere", "/v1", None),
        ("/elsewhere", "", None),
    ],
)
def test_doctor_names_the_address_that_works(only: str, path: str, right: str | None) -> None:
    with listing(200, b'{"data": [{"id": "qwen"}]}', only) as (url, seen):
        (check,) = reach.checks(ProposerConfig(model=f"{url}{path} qwen"))
    assert f"{url}{path}/models is not found (HTTP 404)" in check.message
    assert len(seen) <= 4
    if right is None:  # many a server has no list
        assert (check.status, check.command) == ("ok", None)
        assert f"{url}{path} is reachable, but does not list its models" in check.message
        return
    assert check.status == "warning"
    assert check.message.endswith(f": the address of the models is {url}{right}")
    assert check.command is not None
    assert check.command.endswith(f"doctor --model '{url}{right} qwen'")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("scheme", "only", "path", "right"),
    [
        ("anthropic", "/v1/models", "/v1", ""),
        ("anthropic", "/v1/models", "/v1/messages", ""),
        ("openai", "/v1/models", "", "/v1"),
        ("ollama", "/v1/models", "", "/v1"),
    ],
)
def test_doctor_names_the_variable_for_the_address(
    monkeypatch: pytest.MonkeyPatch, scheme: str, only: str, path: str, right: str
) -> None:
    _, _, variable, key = SERVERS[scheme]
    monkeypatch.setenv(key or "UNUSED_KEY", "sk-test")
    with listing(200, b'{"data": [{"id": "qwen"}]}', only) as (url, _):
        monkeypatch.setenv(variable, f"{url}{path}")
        (check,) = reach.checks(ProposerConfig(model=f"{scheme}:qwen"))
    assert (check.status, check.command) == ("warning", f"export {variable}={url}{right}")
    assert "sk-test" not in str(check)


@pytest.mark.quick
@pytest.mark.parametrize(("scheme", "path"), [("anthropic", ""), ("openai", "/v1")])
def test_provider_without_a_list_of_models_is_ok(monkeypatch: pytest.MonkeyPatch, scheme: str, path: str) -> None:
    _, _, variable, key = SERVERS[scheme]
    monkeypatch.setenv(key or "UNUSED_KEY", "sk-test")
    with listing(404, b"") as (url, _):
        monkeypatch.setenv(variable, f"{url}{path}")
        (check,) = reach.checks(ProposerConfig(model=f"{scheme}:qwen"))
    assert (check.status, check.command) == ("ok", None)
    assert "does not list its models" in check.message


@pytest.mark.quick
@pytest.mark.parametrize("scheme", ["ollama", "lmstudio", "mlx"])
def test_doctor_names_the_model_that_sends_a_key(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with listing(401, b"") as (url, _):
        monkeypatch.setenv(SERVERS[scheme][2], f"{url}/v1")
        (check,) = reach.checks(ProposerConfig(model=f"{scheme}:qwen"))
    assert check.status == "broken"
    assert check.message == f"{url}/v1 requires a key (HTTP 401), which `{scheme}:` does not send"
    assert check.command is not None
    assert check.command.startswith("export AUTORESEARCH_MODEL_KEY=...; ")
    assert check.command.endswith(f"doctor --model '{url}/v1 qwen'")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("model", "variable"),
    [
        ("http://127.0.0.1:1/v1 m", "AUTORESEARCH_MODEL_KEY"),
        ("openai:m", "OPENAI_API_KEY"),
        ("anthropic:m", "ANTHROPIC_API_KEY"),
    ],
)
def test_doctor_reports_a_key_that_is_none(monkeypatch: pytest.MonkeyPatch, model: str, variable: str) -> None:
    monkeypatch.setenv(variable, "\u201csk-test\u201d")
    (check,) = reach.checks(ProposerConfig(model=model))
    assert (check.status, check.command) == ("broken", f"export {variable}=...")
    assert check.message == f"{variable} holds characters that no API key has"


@pytest.mark.quick
def test_doctor_reports_keys_and_agents(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    (check,) = reach.checks(ProposerConfig(model="anthropic:m"))
    assert (check.status, check.command) == ("broken", "export ANTHROPIC_API_KEY=...")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    with listing(200, b'{"data": [{"id": "m"}]}') as (url, seen):
        monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
        (check,) = reach.checks(ProposerConfig(model="anthropic:m"))
    assert check.status == "ok"
    assert seen == [("/v1/models", "sk-test")]
    (check,) = reach.checks(ProposerConfig(model="anthropic:m"))
    assert check.status == "broken"
    assert "is unreachable" in check.message
    assert "sk-test" not in str(check)
    monkeypatch.setenv("OLLAMA_BASE_URL", url)
    assert [each.command for each in reach.checks(ProposerConfig(model="ollama:m"))] == ["ollama serve"]
    (check,) = reach.checks(ProposerConfig(model="oracle"))
    assert check.status == "broken"
    assert "must be openai:NAME" in check.message
    monkeypatch.setenv("PATH", str(tmp_path))
    (check,) = reach.checks(ProposerConfig(agent="claude"))
    assert (check.status, check.command) == ("broken", "npm install -g @anthropic-ai/claude-code")
    (tmp_path / "claude").write_text("#!/bin/sh\n")
    (tmp_path / "claude").chmod(0o755)
    assert [each.status for each in reach.checks(ProposerConfig(agent="claude"))] == ["ok"]
    assert [each.status for each in reach.checks(ProposerConfig(agent="nobody"))] == ["broken"]
    assert set(reach.INSTALL) == set(PRESETS)
