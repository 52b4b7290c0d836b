"""Questions to tools of the system, whose answers are never errors."""

from __future__ import annotations

import pytest

from agent.system.ask import ask

pytestmark = pytest.mark.quick


def test_answer_has_no_blanks_around_it() -> None:
    assert ask("printf", " a b\n\n") == "a b"
    assert ask("cat") == ""


@pytest.mark.parametrize("command", ["no-such-tool", "/", "a\0b", "false"])
def test_tool_that_is_missing_or_fails_has_no_answer(command: str) -> None:
    assert ask(command) is None


def test_tool_that_may_fail_has_an_answer() -> None:
    command = ("sh", "-c", "echo 0; exit 1")
    assert (ask(*command), ask(*command, may_fail=True)) == (None, "0")


def test_tool_that_takes_too_long_has_no_answer() -> None:
    assert ask("sleep", "60", seconds=0.1) is None
