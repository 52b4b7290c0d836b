"""Constants that differ are put back one by one, or together where an assert demands it."""

from __future__ import annotations

import pytest

from agent.source.values import changed_values, described, groups, level, put_back, with_values

pytestmark = pytest.mark.quick

BEFORE = {"train.py": "A = 1\nB = 2\nC = 3  # note\nassert A < B\n"}
AFTER = {"train.py": "A = 5\nB = 9\nC = 4  # note\nassert A < B\nD = 1\n"}


def test_changed_values_are_found_in_order() -> None:
    assert changed_values(BEFORE, AFTER, {}) == [("train.py", name) for name in "ABC"]
    assert described(BEFORE, AFTER, [("train.py", "A"), ("train.py", "C")], {}) == "A 1 -> 5, C 3 -> 4"


def test_name_that_two_files_have_is_described_with_its_file() -> None:
    before, after = ({"train.py": f"A = {a}\nB = 1\n", "model.py": "A = 0\n"} for a in (1, 2))
    places = [("train.py", "A"), ("train.py", "B")]
    assert described(before, after, places, {}) == "train.py:A 1 -> 2, B 1 -> 1"


def test_single_values_are_put_back() -> None:
    assert put_back(AFTER, BEFORE, [("train.py", "C")], {})["train.py"] == AFTER["train.py"].replace("C = 4", "C = 3")


def test_assert_ties_values_together() -> None:
    # B = 2 alone would not be above A = 5.
    assert groups(BEFORE, AFTER, {}) == [[("train.py", "A"), ("train.py", "B")], [("train.py", "C")]]
    assert groups(AFTER, AFTER, {}) == []


def test_leveled_versions_differ_in_code_only() -> None:
    assert level(BEFORE, AFTER, {})["train.py"] == AFTER["train.py"].replace("D = 1\n", "")


def test_values_are_set_in_the_branch_that_they_select() -> None:
    before = {"train.py": "SMALL = True\nif SMALL:\n    DEPTH = 4\nelse:\n    DEPTH = 8\n"}
    after = {"train.py": before["train.py"].replace("True", "False").replace("8", "12")}
    assert with_values(before, {}, {"SMALL": False, "DEPTH": 12}) == after
    assert with_values(before, {}, {"DEPTH": 12, "SMALL": False}) == after
    back = put_back(after, before, changed_values(before, after, {}), {})["train.py"]
    assert back == before["train.py"].replace("8", "12")
    assert level(before, after, {}) == after


def test_default_that_a_later_branch_overrides_is_neither_leveled_nor_put_back() -> None:
    before = {"train.py": "DEPTH = 8\nSMALL = False\nif SMALL:\n    DEPTH = 4\nRATE = 0.1\n"}
    after = {"train.py": before["train.py"].replace("False", "True")}
    assert level(before, after, {}) == after
    assert put_back(after, before, changed_values(before, after, {}), {}) == before
    assert put_back(before, after, changed_values(after, before, {}), {}) == after
