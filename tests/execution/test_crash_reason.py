"""The reason of a crash, from the end of the run's log."""

from __future__ import annotations

import pytest

from agent.errors import Crashed
from agent.execution.measure import require_success
from agent.execution.process import Ended

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("step 1\nerror: no prepared data found\nhint: run `uv run prepare.py`\n", "no prepared data found"),
        ("error: training diverged: the loss is 21.0\n", "training diverged: the loss is 21.0"),
        ("Traceback\nValueError: no data\n\n", "ValueError: no data"),
    ],
)
def test_crash_reason_is_error_without_hint(log: str, reason: str) -> None:
    with pytest.raises(Crashed) as crash:
        require_success(Ended(1, 1.0), log)
    assert str(crash.value) == f"crashed: exit code 1: {reason}"
