"""The bounds of what the server sends."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.errors import AutoresearchError
from agent.mcp.bounds import LONGEST_ANSWER, bounded, cut

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**6,
        ["x" * 10**5] * 1000,
        {str(number): "x" * 1000 for number in range(10_000)},
        {"k" * 10**6: "v"},
        [[["\x00\x1b[31mx" * 1000] * 300] * 30],
        {"rows": [{"description": "é" * 2000, "reason": "x" * 3000}] * 100},
    ],
)
def test_long_answers_are_cut(value: Any) -> None:
    text = json.dumps(bounded(value), indent=2)
    assert len(text) <= LONGEST_ANSWER
    assert "\\u001b" not in text


def test_short_answers_are_unchanged() -> None:
    value = {"a": [1, None, 2.5, True, "text\n"], "b": {"c": []}}
    assert bounded(value) == value


def test_cut_parts_are_counted() -> None:
    assert cut("x" * 10, 4) == "xxxx\n[cut: 6 more characters]"
    assert bounded(list(range(201)))[-1] == "[cut: 1 more]"
    assert bounded({str(number): 0 for number in range(205)})["[cut]"] == "5 more"


def test_numbers_that_json_lacks_become_text() -> None:
    assert json.loads(json.dumps(bounded([float("inf"), float("nan"), 1.5]), allow_nan=False)) == ["inf", "nan", 1.5]


def test_deeply_branched_answer_is_refused() -> None:
    value: Any = "x" * 100
    for _ in range(5):
        value = [value] * 10
    with pytest.raises(AutoresearchError, match="too long to send"):
        bounded(value)
