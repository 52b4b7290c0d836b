"""The chip and the variables that change MLX's numbers, in the fingerprint."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from agent.execution import fingerprint
from agent.execution.fingerprint import NUMERIC_VARIABLES, TF32, variables
from agent.journal.comparable import USUAL_VARIABLES, comparable, differences
from agent.system.ask import ask
from tests.common.journals import FINGERPRINT

pytestmark = pytest.mark.quick

OTHER = {"MLX_MAX_OPS_PER_BUFFER": "5", "PATH": "/bin"}


def test_tf32_is_recorded_with_its_default() -> None:
    assert variables(OTHER) == USUAL_VARIABLES == f"{TF32}=1"
    assert variables({TF32: "1"}) == variables({})
    assert variables({TF32: "0"}) == f"{TF32}=0"


def test_each_variable_that_changes_numbers_is_recorded_even_if_empty() -> None:
    found = {variables({name: value}) for name in NUMERIC_VARIABLES for value in ("", "1")}
    assert len(found) == 2 * len(NUMERIC_VARIABLES)
    assert variables({"MLX_METAL_JIT": "a\nb"}) == f"{TF32}=1 MLX_METAL_JIT=a b"


def test_measurements_without_variables_count_as_taken_with_the_usual_ones() -> None:
    usual = {**FINGERPRINT, "mlx_variables": USUAL_VARIABLES, "macos": "26.2"}
    precise = {**usual, "mlx_variables": f"{TF32}=0"}
    assert comparable(FINGERPRINT, usual)
    assert not comparable(FINGERPRINT, precise)
    assert differences(FINGERPRINT, precise) == []
    assert differences(usual, precise) == [f"mlx_variables was {TF32}=1 and is now {TF32}=0"]
    assert not comparable(usual, {**usual, "macos": "26.3"})


def test_chip_of_a_mac_is_known_even_if_its_tool_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    monkeypatch.setattr(fingerprint, "ask", partial(ask, seconds=0.5))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    tool = tmp_path / "sysctl"
    tool.write_text("#!/bin/sh\necho Apple M4 Pro\n")
    tool.chmod(0o755)
    assert fingerprint.chip() == "Apple M4 Pro"
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    assert fingerprint.chip() == "arm64"
