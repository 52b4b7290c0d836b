"""`autoresearch field` on small workspaces: all parts, failures, interruptions, and the untouched checkout."""

from __future__ import annotations

import getpass
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from agent.field.field import sizes_of
from agent.proposers.search.space import space_of
from agent.session import faults
from tests.common.field_recipes import MEMORY, TIMED, make_timed
from tests.common.machine_faults import log_of
from tests.common.workspaces import ROOT, Cli, git

MINUTES = ("--minutes", "2")
OPEN = ("--sandbox", "off")


def data_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout)["data"]
    return found


def state(folder: Path) -> dict[str, Any]:
    """Return everything of a user's workspace that `field` must leave alone."""
    files = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    refs = git(folder, "for-each-ref"), git(folder, "rev-parse", "HEAD"), git(folder, "symbolic-ref", "HEAD")
    sessions = [path for path in (folder / ".autoresearch").rglob("*") if path.name not in ("lock", "loop.json")]
    return {"files": files, "refs": refs, "status": git(folder, "status", "--porcelain"), "sessions": sessions}


def test_field_measures_every_part(quick: Path, cli: Cli) -> None:
    make_timed(quick)
    done = cli(quick, "field", *MINUTES, *OPEN, "--json")
    assert done.returncode == 0, done.stderr
    data = data_of(done)
    assert [run["metric"] for run in data["runs"]] == [1.6] * 5
    assert data["noise"]["metric"] == {"runs": 5, "mean": 1.6, "sd": 0.0, "low": 1.6, "high": 1.6}
    assert (data["runs"][0]["step_ms"], data["runs"][0]["tokens_per_second"]) == (10, 100_000)
    assert {"total", "data", "first step", "evaluation", "room", "start and rest"} == set(data["lost"])
    assert {size["value"]: size["run"]["metric"] for size in data["sizes"]} == {2: 1.8, 4: 1.6, 8: 1.2}
    assert data["session"]["experiments"] >= 2
    assert data["session"]["baseline"] == 1.6
    assert data["machine"]["chip"]
    assert data["left_out"] == []


def test_session_reuses_runs_as_its_baseline(quick: Path, cli: Cli) -> None:
    make_timed(quick)
    done = cli(quick, "field", *MINUTES, *OPEN)
    assert done.stderr.count("reusing the baseline") == 1
    assert re.search(r"reusing the baseline, which is still valid: .* \(5 runs\)", done.stderr)
    assert "#0 running" not in done.stderr


def test_block_says_the_same_and_identifies_nobody(quick: Path, cli: Cli) -> None:
    make_timed(quick, f'if DEPTH == 8:\n        sys.exit("error: {quick}/secret.bin is missing")')
    done = cli(quick, "field", *MINUTES)
    assert done.returncode == 0, done.stderr
    first, *_, last = done.stdout.splitlines()
    assert (first, last) == ("```text", "```")
    assert "secret.bin is missing" in done.stdout
    assert "val_bpb   mean 1.600000" in done.stdout
    for private in (str(quick), str(Path.home()), tempfile.gettempdir(), "quick"):
        assert private not in done.stdout
    words = done.stdout.replace("/", " ").split()
    assert not {getpass.getuser(), socket.gethostname()} & set(words)


def test_checkout_branches_and_sessions_do_not_change(quick: Path, cli: Cli) -> None:
    make_timed(quick)
    (quick / "notes.txt").write_text("mine")
    (quick / "train.py").write_text("raise SystemExit('an uncommitted change')")
    before = state(quick)
    done = cli(quick, "field", *MINUTES, *OPEN, "--json")
    assert done.returncode == 0, done.stderr
    assert data_of(done)["noise"]["metric"]["mean"] == 1.6
    assert state(quick) == before


def test_runs_see_untracked_files_and_cannot_change_them(quick: Path, cli: Cli) -> None:
    make_timed(quick, 'assert open("notes/mine.txt").read() == "mine"; open("notes/mine.txt", "w").write("theirs")')
    (quick / "notes").mkdir()
    (quick / "notes" / "mine.txt").write_text("mine")
    done = cli(quick, "field", *MINUTES, "--json")
    assert done.returncode == 0, done.stdout
    assert [run["error"] for run in data_of(done)["runs"]] == [None] * 5
    assert (quick / "notes" / "mine.txt").read_text() == "mine"


def test_no_clone_is_left(quick: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_timed(quick)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    assert cli(quick, "field", *MINUTES, *OPEN).returncode == 0
    assert [*temporary.iterdir()] == []


def test_size_that_runs_out_of_memory_is_a_line(quick: Path, cli: Cli) -> None:
    make_timed(quick, f'if DEPTH >= 4:\n        sys.exit("{MEMORY}")')
    text = (quick / "train.py").read_text().replace("DEPTH = 4 ", "DEPTH = 2 ")
    (quick / "train.py").write_text(text)
    git(quick, "commit", "--quiet", "-am", "smaller")
    done = cli(quick, "field", *MINUTES, *OPEN, "--json")
    data = data_of(done)
    assert done.returncode == 0
    assert data["sizes"][1]["run"]["error"].startswith("out of memory")
    assert [size["value"] for size in data["sizes"]] == [2, 4]
    assert "DEPTH 8: 4 already failed" in data["left_out"]
    assert data["session"] is not None


def failing(numbers: str, count: Path) -> str:
    """Return a statement that fails the runs with these numbers, from 1, as a fault of the GPU does."""
    text = log_of("watchdog/metal_timeout")
    return f"""open({str(count)!r}, "a").write("x")
    if os.path.getsize({str(count)!r}) in {numbers}:
        sys.stderr.write({text!r})
        sys.exit(1)"""


def test_runs_that_faults_of_the_gpu_ended_are_lines_of_the_block(
    quick: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "FIRST_PAUSE", 0.01)
    # The first run, the second of the recipe, the smallest size, and two runs of the session.
    make_timed(quick, failing("(1, 4, 8, 11, 12)", tmp_path / "count"))
    done = cli(quick, "field", *MINUTES, *OPEN, "--json")
    assert done.returncode == 0, done.stderr
    data = data_of(done)
    assert data["first"]["metric"] == 1.6
    assert [run["fault"] for run in data["runs"]] == [None, "watchdog", None, None, None]
    assert data["noise"]["metric"]["runs"] == 4
    assert [size["run"]["fault"] for size in data["sizes"]] == ["watchdog", None, None]
    assert data["session"]["faults"] == 2
    assert data["session"]["crashed"] == 0
    (line,) = data["left_out"]
    assert line.startswith("first run, try 1: the GPU's watchdog stopped it: exit code 1: ")


def test_session_on_a_gpu_that_keeps_failing_is_left_out(
    quick: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(faults, "LONGEST_PAUSE", 0.05)
    make_timed(quick, failing("range(2, 1000)", tmp_path / "count"))
    done = cli(quick, "field", *MINUTES, *OPEN)
    assert done.returncode == 0, done.stderr
    assert "failed    5 runs: the GPU's watchdog stopped it: exit code 1: " in done.stdout
    assert "left out  session: the GPU failed in 6 runs in a row, " in done.stdout
    assert "run the same command again" not in done.stdout


def test_recipe_that_always_fails_is_described_with_exit_code_1(quick: Path, cli: Cli) -> None:
    make_timed(quick, 'sys.exit("error: no data")')
    done = cli(quick, "field", *MINUTES, *OPEN)
    assert done.returncode == 1
    assert "crashed: exit code 1: no data" in done.stdout
    assert "left out  session: the baseline failed" in done.stdout


def test_recipe_without_a_size_leaves_the_sizes_out(quick: Path, cli: Cli) -> None:
    make_timed(quick)
    (quick / "train.py").write_text(TIMED.replace("DEPTH", "LAYERS"))
    git(quick, "commit", "--quiet", "-am", "other names")
    done = cli(quick, "field", *MINUTES, *OPEN, "--json")
    assert done.returncode == 0, done.stderr
    data = data_of(done)
    assert (data["constant"], data["sizes"]) == (None, [])
    assert data["left_out"] == ["sizes: the recipe has no searched constant DEPTH"]
    assert len(data["runs"]) == 5


def test_interrupted_field_prints_what_it_has(quick: Path) -> None:
    make_timed(quick, "time.sleep(0 if seconds == 5 else 600)")
    command = [sys.executable, "-m", "agent", "-C", str(quick), "field", *MINUTES, *OPEN, "--json"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as field:
        assert field.stderr is not None
        for line in field.stderr:
            if line.startswith("run 1 of 5"):
                break
        field.send_signal(signal.SIGINT)
        out, said = field.communicate(timeout=60)
    assert field.returncode == 130
    assert "stopping; the figures so far follow" in said
    data = json.loads(out)["data"]
    assert data["stopped"] == "stopped by Ctrl-C"
    assert data["first"]["metric"] == 1.6
    assert data["runs"] == []
    assert data["left_out"] == [
        f"{part}: stopped by Ctrl-C" for part in ("5 runs of the recipe", "DEPTH 2, 4, 8", "session")
    ]


def test_time_that_is_no_number_is_refused(quick: Path, cli: Cli) -> None:
    for minutes in ("nan", "inf"):
        done = cli(quick, "field", "--minutes", minutes)
        assert done.returncode == 2
        assert "--minutes must be" in done.stderr


def test_protocol_without_training_time_is_refused(sieve: Path, cli: Cli) -> None:
    done = cli(sieve, "field", *MINUTES)
    assert done.returncode == 3
    assert "error: protocol.json sets no training time" in done.stderr
    assert "hint: set execution.stopCondition.trainingSecondsBudget" in done.stderr


def test_sizes_are_powers_of_two_that_the_recipe_accepts() -> None:
    assert sizes_of(space_of({"train.py": TIMED}, {})) == (2, 4, 8)
    assert sizes_of(space_of({"train.py": TIMED.replace("DEPTH = 4", "DEPTH = 6")}, {})) == (2, 4, 6, 8)
    assert sizes_of(space_of({"train.py": TIMED.replace("1..8", "12..24").replace("= 4", "= 12")}, {})) == (12,)
    assert sizes_of(space_of({"train.py": "RATE = 0.1\n"}, {})) == ()


@pytest.mark.slow
def test_real_recipe_has_all_figures(embedded: Path, tmp_path: Path, cli: Cli) -> None:
    """Needs two minutes: MLX trains the repository's own recipe."""
    folder = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(ROOT), str(folder))
    (folder / ".venv").symlink_to(Path(sys.prefix))
    done = cli(folder, "field", *MINUTES, "--no-setup", "--json", AUTORESEARCH_CACHE=str(embedded))
    assert done.returncode == 0, done.stderr
    data = data_of(done)
    assert data["noise"]["metric"]["mean"] > 0
    for run in (*data["runs"], *(size["run"] for size in data["sizes"] if size["value"] == 2)):
        assert None not in (run["step_ms"], run["tokens_per_second"], run["mfu_percent"], run["peak_mb"])
    assert data["machine"]["mlx"].startswith("0.")
    assert {"data", "first step", "evaluation"} <= set(data["lost"])
