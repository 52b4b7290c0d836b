"""Diffs that change only values of constants, and those that change code."""

from __future__ import annotations

import pytest

from agent.source.diff import edits_code

pytestmark = pytest.mark.quick

HEAD = "diff --git a/{0} b/{0}\nindex 1..2 100644\n--- a/{0}\n+++ b/{0}\n@@ -1,3 +1,3 @@\n"


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ("-RATE = 0.1  # search: off\n+RATE = 0.3  # search: 1..9\n", False),
        ("-    RATE: float = 0.1\n+    RATE: float = -3\n", False),
        ("-RATE = 0.1\n-DEPTH = 4\n+DEPTH = 5\n+RATE = 0.2\n", False),
        ("-# a comment\n+\n+# another\n", False),
        ("-RATE = 0.1\n+RATE = 0.1 * 2\n", True),
        ("-RATE = 0.1\n", True),
        ("-x = relu(x)\n+x = gelu(x)\n", True),
        ("-OTHER = 1\n+OTHER = 2\n", True),
        ("--- a\n+++ a\n", True),  # inside a hunk these are lines that begin with -- and ++
        ("-RATE = 0.1; y = 2\n+RATE = 0.2; y = 3\n", True),
    ],
)
def test_values_are_told_from_code(lines: str, code: bool) -> None:
    assert edits_code(HEAD.format("train.py") + lines, {"RATE", "DEPTH"}) is code


def test_other_files_count_as_code() -> None:
    lines = "-RATE = 0.1\n+RATE = 0.3\n"
    assert edits_code(HEAD.format("config.yaml") + lines, {"RATE"})
    assert edits_code("diff --git a/w b/w\nBinary files a/w and b/w differ\n", {"RATE"})
    assert not edits_code("", {"RATE"})
