"""Every row of the table in docs/errors.md."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.cli import app
from agent.journal import lock
from agent.journal.paths import journal_path, state_folder
from tests.common.in_process import call
from tests.common.workspaces import ROOT, make_quick

ROW = re.compile(
    r"\| (?P<where>an?y?[\w ]+?) \| `autoresearch (?P<args>[^`]*)` \| (?P<code>\d+) \| (?P<says>.*) \| (?P<hint>.*) \|"
)
ROWS = [
    pytest.param(*found.groups(), id=found["args"])
    for line in (ROOT / "docs" / "errors.md").read_text().splitlines()
    if (found := ROW.fullmatch(line.replace("\\|", "\x00"))) is not None
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The folders that the rows name, each made once, as invalid input changes nothing."""
    base = tmp_path_factory.mktemp("places")
    names = {
        "an empty folder": "empty",
        "a new workspace": "new",
        "a folder without git": "plain",
        "a changed tree": "changed",
        "a broken protocol": "broken",
        "a workspace in use": "used",
        "after a session t": "session",
        "a damaged journal": "damaged",
    }
    found = {where: base / name for where, name in names.items()}
    for where, folder in found.items():
        folder.mkdir() if where == "an empty folder" else make_quick(folder)
    shutil.rmtree(found["a folder without git"] / ".git")
    (found["a changed tree"] / "train.py").write_text("RATE = 1.0\n")
    (found["a broken protocol"] / "protocol.json").write_text('{"schemaKind": "protocol"}')
    command = [sys.executable, "-m", "agent", "-C", str(found["after a session t"])]
    subprocess.run([*command, "run", "--tag", "t", "--max-experiments", "2"], cwd=ROOT, check=True, capture_output=True)
    journal = journal_path(found["a damaged journal"], "t")
    journal.parent.mkdir(parents=True)
    journal.write_text("nonsense\n")
    found["anywhere"] = found["an empty folder"]
    with contextlib.ExitStack() as held:
        held.enter_context(lock.hold(state_folder(found["a workspace in use"]), "t"))
        yield found


@pytest.mark.parametrize(("where", "args", "code", "says", "hint"), ROWS)
def test_documented_error_matches_program(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, where: str, args: str, code: str, says: str, hint: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    before = sorted(path.name for path in places[where].iterdir())
    done = call(places[where], *shlex.split(args))
    assert done.returncode == int(code), done.stderr
    # A session that is refused has said by then how it is confined.
    lines = [line for line in done.stderr.splitlines() if not line.startswith("sandbox: ")]
    expected = [f"error: {says}", *([f"hint: {hint}"] if hint else [])]
    assert len(lines) == len(expected), done.stderr
    for line, documented in zip(lines, expected, strict=True):
        parts = [re.escape(part.strip()) for part in documented.replace("\x00", "|").split("…")]
        assert re.fullmatch(r"\s?.*\s?".join(parts), line), line
    assert sorted(path.name for path in places[where].iterdir()) in (before, sorted([*before, ".autoresearch"]))


def assert_as_on_stderr(envelope: dict[str, Any], stderr: str) -> None:
    lines = [f"error: {each}" for each in envelope["errors"]] + [f"hint: {each}" for each in envelope["hints"]]
    assert stderr.splitlines() == lines


def test_errors_print_as_json(places: dict[str, Path]) -> None:
    for args in (["status"], ["show", "1"], ["diff"], ["log"], ["sessions"], ["doctor", "--repair"], ["baseline"]):
        where = "a changed tree" if args == ["baseline"] else "a new workspace"
        done = call(places[where], *args, "--json")
        envelope = json.loads(done.stdout)
        assert done.returncode == 3
        assert envelope["status"] == "error"
        assert envelope["data"] is None
        assert_as_on_stderr(envelope, done.stderr)


def test_system_error_prints_as_json(tmp_path: Path) -> None:
    make_quick(tmp_path / "quick")
    journal_path(tmp_path / "quick", "t").mkdir(parents=True)  # no rights are needed for it to be unreadable
    for args in (["status"], ["show", "1"], ["diff"], ["log"]):
        done = call(tmp_path / "quick", *args, "--json")
        envelope = json.loads(done.stdout)
        assert done.returncode == 1
        assert envelope["status"] == "error"
        assert "Is a directory" in envelope["errors"][0]
        assert_as_on_stderr(envelope, done.stderr)


def test_error_table_names_every_command() -> None:
    commands = {str(each.name or each.callback.__name__) for each in app.registered_commands if each.callback}
    named = {str(row.values[1]).split()[0] for row in ROWS}
    assert commands | {"protocol"} <= named, commands - named
