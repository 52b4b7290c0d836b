"""Usage errors: the flag, what it must be, and what it got."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.common.in_process import call
from tests.common.workspaces import Cli


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (["frobnicate"], "unknown command 'frobnicate'", "see `"),
        (["statu"], "unknown command 'statu'", "did you mean `status` or `station`? See `"),
        (["protocol", "frob"], "unknown command 'frob'", "see `"),
        (["run", "--zebra"], "unknown option --zebra", "see `"),
        (["run", "--tagg", "x"], "unknown option --tagg", "did you mean `--agent`, `--tag` or `--target`? See `"),
        (["run"], "missing option --tag", "see `"),
        (["run", "--tag"], "--tag needs a value", "see `"),
        (["run", "--prune=3"], "--prune takes no value", "see `"),
        (["run", "--tag", "x", "--share", "2"], "--share must be at most 1, got 2", "see `"),
        (["run", "--tag", "x", "--share", "half"], "--share must be a number, got 'half'", "see `"),
        (["run", "--max-experiments", "many"], "--max-experiments must be a whole number, got 'many'", "see `"),
        (["run", "--max-hours", "-1"], "--max-hours must be at least 0, got -1", "see `"),
        (["run", "--sandbox", "loose"], "--sandbox must be auto, off or strict, got 'loose'", "see `"),
        (["init", "--direction", "up"], "--direction must be minimize or maximize, got 'up'", "see `"),
        (["status", "-n", "x"], "-n must be a whole number, got 'x'", "see `"),
        (["status", "extra"], "unexpected argument 'extra'", "see `"),
        (["show"], "missing argument N|HASH", "see `"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else None,
)
def test_usage_error_names_flag_and_value(tmp_path: Path, args: list[str], message: str, hint: str) -> None:
    done = call(tmp_path, *args)
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert first == f"error: {message}"
    assert second.startswith(f"hint: {hint}")
    inside = {"frobnicate": "", "statu": "", "protocol": "protocol "}.get(args[0], f"{args[0]} ")
    assert second.endswith(f"autoresearch {inside}--help`")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("AUTORESEARCH_SEED", "1.5", "must be a whole number, got '1.5'"),
        ("AUTORESEARCH_TRAINING_SECONDS", "0", "must be at least 0.1, got 0"),
        ("AUTORESEARCH_CONFIRM", "maybe", "must be true or false, got 'maybe'"),
        ("AUTORESEARCH_SANDBOX", "loose", "must be auto, off or strict, got 'loose'"),
    ],
)
def test_usage_error_names_variable(tmp_path: Path, program: Cli, name: str, value: str, message: str) -> None:
    done = program(tmp_path, "run", "--tag", "t", **{name: value})
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == f"error: {name} {message}"


@pytest.mark.parametrize("command", ["adopt", "wait", "show", "playbook", "run", "protocol check"])
def test_help_shows_no_type_of_an_argument(tmp_path: Path, command: str) -> None:
    page = call(tmp_path, *command.split(), "--help").stdout
    assert not re.search(r"^ +\S+.* <[a-z][^>]*>( |$)", page, re.MULTILINE)
