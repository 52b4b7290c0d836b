from __future__ import annotations

import json
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.cli import app
from tests.common.in_process import call
from tests.common.workspaces import ROOT, Cli, git

COMMANDS: list[list[str]] = [
    [],
    *([str(each.name or each.callback.__name__)] for each in app.registered_commands if each.callback),
    ["protocol"],
    ["protocol", "check"],
    ["protocol", "schema"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_a_help_page_with_examples_that_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = call(tmp_path, *command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: autoresearch")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "..." not in done.stdout.split("\n", 1)[1].replace("NAME,...", "")
    examples = done.stdout.partition("Examples:\n")[2].partition("\n\n")[0].splitlines()
    assert len(examples) >= 2
    for example in examples:
        args = shlex.split(re.split(r" {2,}\w| [>|] ", example.strip())[0])
        assert args[0] == "autoresearch"
        # Parse the example exactly as printed; --help ends it before the command starts.
        assert call(tmp_path, *args[1:], "--help").returncode == 0, example


def test_every_flag_of_run_stands_in_a_section(tmp_path: Path) -> None:
    page = call(tmp_path, "run", "--help").stdout
    sections = [line for line in page.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert sections == [
        "Session:",
        "End of the session:",
        "Proposer:",
        "Runs and verdict:",
        "Stations:",
        "Output:",
        "Options:",
    ]
    assert page.partition("\nOptions:\n")[2].split()[:2] == ["-h,", "--help"]


def processor_seconds() -> float:
    """Return the processor time of finished child processes, which other load on the machine does not affect."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    seconds = []
    for _ in range(5):
        before = processor_seconds()
        subprocess.run([sys.executable, "-m", "agent", "--help"], cwd=ROOT, check=True, capture_output=True)
        seconds.append(processor_seconds() - before)
    assert 0 < min(seconds) < 0.3
    code = (
        "import sys, agent.cli; "
        "print([m for m in ('mlx', 'optuna', 'git', 'pydantic', 'numpy', 'ssl', 'rich.live') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_program_imports_neither_mlx_nor_workspace_scripts() -> None:
    for path in (ROOT / "agent").rglob("*.py"):
        assert "import mlx" not in path.read_text(), path
    for path in (ROOT / "prepare.py", ROOT / "train.py", *(ROOT / "harness").glob("*.py")):
        text = path.read_text()
        assert "import agent" not in text, path
        assert "from agent" not in text, path


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["status"], 3, "no sessions in"),
        (["stop"], 3, "no loop is running"),
        (["-C", "nowhere", "run", "--tag", "x"], 2, "folder nowhere not found"),
        (["run"], 2, "--tag"),
        (["run", "--tag", "x", "--proposer", "oracle"], 2, "unknown proposer 'oracle'"),
        (["run", "--tag", "x", "--until", "dawn"], 2, "such as 07:00"),
        (["run", "--tag", "x", "--max-experiments", "-1"], 2, "--max-experiments must be at least 0, got -1"),
    ],
)
def test_wrong_input_exits_with_one_sentence(quick: Path, cli: Cli, args: list[str], code: int, words: str) -> None:
    done = cli(quick, *args)
    assert done.returncode == code, done.stderr
    assert words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def test_errors_print_as_json_and_traceback_on_request(quick: Path, program: Cli) -> None:
    done = program(quick, "status", "--json")
    envelope = json.loads(done.stdout)
    assert done.returncode == 3
    assert envelope["status"] == "error"
    assert envelope["data"] is None
    assert "no sessions in" in envelope["errors"][0]
    assert "Traceback" in program(quick, "--debug", "status").stderr


def test_status_shows_named_or_latest_session(quick: Path, cli: Cli) -> None:
    cli(quick, "run", "--tag", "one", "--max-experiments", "3")
    text = cli(quick, "status").stdout
    assert text.startswith("one  val_bpb")
    assert "3 experiments: " in text
    assert "not running: 3 experiments" in text
    assert len(json.loads(cli(quick, "status", "--tag", "one", "--json", "-n", "2").stdout)["data"]["rows"]) == 2
    assert "unknown session 'two'" in cli(quick, "status", "--tag", "two").stderr


def test_missing_git_is_reported_in_one_sentence(quick: Path, program: Cli, tmp_path: Path) -> None:
    done = program(quick, "run", "--tag", "t", PATH=str(tmp_path / "nothing"))
    assert done.returncode == 3
    assert done.stderr.startswith("error: git ")
    assert "Traceback" not in done.stderr


def test_version_is_printed(tmp_path: Path, program: Cli) -> None:
    done = program(tmp_path, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"autoresearch \d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize(
    ("section", "field", "value", "words"),
    [
        ("meta", "eligibility", "ineligible", 'must be "eligible"'),
        ("mutableSurface", "allowedGlobs", ["nothing/*.py"], "no tracked file matches allowedGlobs (nothing/*.py)"),
        ("mutableSurface", "forbiddenGlobs", ["*.py"], "files that match forbiddenGlobs"),
    ],
)
def test_protocol_check_refuses_what_run_would(
    quick: Path, cli: Cli, section: str, field: str, value: Any, words: str
) -> None:
    protocol = json.loads((quick / "protocol.json").read_text())
    protocol[section][field] = value
    (quick / "protocol.json").write_text(json.dumps(protocol))
    git(quick, "commit", "--quiet", "-am", "protocol")
    assert words in cli(quick, "run", "--tag", "t", "--dry-run").stderr
    for more in ([], ["--json"]):
        done = cli(quick, "protocol", "check", *more)
        assert done.returncode == 2
        assert words in done.stderr
