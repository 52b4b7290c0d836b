"""Three versions of a source merge by value where they differ in constants, and as text elsewhere."""

from __future__ import annotations

import pytest

from agent.source.constants import branches_of, constants
from agent.source.merging import carried_over, merged, runs

pytestmark = pytest.mark.quick

BASE = "A = 1\nB = 2\nC = 3\nprint(A)\n"


def never(*_: str) -> str | None:
    raise AssertionError("only values differ")


def test_neighboring_values_do_not_conflict() -> None:
    ours, theirs = BASE.replace("A = 1", "A = 5"), BASE.replace("B = 2", "B = 0.20")
    assert merged((ours, BASE, theirs), {}, never) == "A = 5\nB = 0.20\nC = 3\nprint(A)\n"


def test_value_that_both_changed_is_a_conflict() -> None:
    ours, theirs = BASE.replace("A = 1", "A = 5"), BASE.replace("A = 1", "A = 6")
    assert merged((ours, BASE, theirs), {}, never) is None
    assert merged((ours, BASE, ours), {}, never) == ours
    assert merged((ours, BASE, theirs), {}, never, values="theirs") == theirs
    assert merged((ours, BASE, theirs), {}, never, values="ours") == ours


def test_code_of_both_sides_is_merged_as_text() -> None:
    ours = BASE.replace("A = 1", "A = 5").replace("print(A)", "print(B)")
    theirs = BASE.replace("C = 3", "C = 4").replace("print(A)", "print(C)")
    seen = []

    def text(*versions: str) -> str | None:
        seen.append(versions)
        return None

    assert merged((ours, BASE, theirs), {}, text) is None
    # The values are the same in all three versions that are merged as text.
    assert [version.splitlines()[:3] for version in seen[0]] == [BASE.splitlines()[:3]] * 3


def test_code_of_one_side_needs_no_merge() -> None:
    theirs = BASE.replace("print(A)", "print(A + B)").replace("B = 2", "B = 7")
    ours = BASE.replace("C = 3", "C = 9")
    assert merged((ours, BASE, theirs), {}, never) == "A = 1\nB = 7\nC = 9\nprint(A + B)\n"


def test_value_whose_constant_is_gone_is_a_conflict() -> None:
    ours, theirs = BASE.replace("A = 1\n", ""), BASE.replace("A = 1", "A = 2")
    assert merged((ours, BASE, theirs), {}, lambda *_: None) is None


BRANCHES = """SMALL = True
if SMALL:
    DEPTH = 4
else:
    DEPTH = 8
RATE = 0.1
"""


def test_value_that_selects_a_branch_is_set_before_the_values_in_it() -> None:
    ours, theirs = BRANCHES.replace("0.1", "0.2"), BRANCHES.replace("True", "False")
    both = theirs.replace("0.1", "0.2")
    assert merged((ours, BRANCHES, theirs), {}, never) == both
    assert merged((theirs, BRANCHES, ours), {}, never) == both
    deeper = theirs.replace("DEPTH = 8", "DEPTH = 16")
    assert merged((ours, BRANCHES, deeper), {}, lambda *_: None) == deeper.replace("0.1", "0.2")


def test_value_is_not_given_to_another_branch() -> None:
    other = BRANCHES.replace("True", "False")
    theirs = BRANCHES.replace("DEPTH = 4", "DEPTH = 5")
    assert merged((other, BRANCHES, theirs), {}, never, values="theirs") is None
    alike = BRANCHES.replace("8", "4")
    assert merged((alike.replace("True", "False"), alike, theirs.replace("8", "4")), {}, never) is None
    assert merged((theirs.replace("8", "4"), alike, alike.replace("True", "False")), {}, never) is None


def test_test_that_is_nested_too_deeply_is_a_conflict() -> None:
    """It can be computed, but not spelled."""
    base = f"if {'not ' * 400}True:\n    DEPTH = 4\nelse:\n    DEPTH = 8\n"
    assert "DEPTH" in constants(base, {})
    assert merged((base, base, base.replace("    DEPTH = 4", "    DEPTH = 5")), {}, never) is None


def test_branches_of_a_constant() -> None:
    source = "A = 1\nif A == 1:\n    B = 2\nelif A == 2:\n    if A:\n        C = 3\nelse:\n    D = 4\n"
    found = {**constants(source, {}), **constants(source.replace("A = 1", "A = 2"), {})}
    assert branches_of(source, found["A"]) == []
    assert branches_of(source, found["B"]) == [("A == 1", True)]
    assert branches_of(source, found["C"]) == [("A == 1", False), ("A == 2", True), ("A", True)]


def test_default_that_a_later_branch_overrides_stays() -> None:
    base = "DEPTH = 8\nDIM = DEPTH * 64\nSMALL = False\nif SMALL:\n    DEPTH = 4\nRATE = 0.1\n"
    ours, theirs = base.replace("0.1", "0.2"), base.replace("False", "True")
    both = theirs.replace("0.1", "0.2")
    assert merged((ours, base, theirs), {}, never) == both
    assert merged((theirs, base, ours), {}, never) == both


def test_constant_that_does_not_get_its_value_is_a_conflict() -> None:
    """In the merged code, the width of one side selects where the depth of the other one stands."""
    base = "WIDTH = 1\nDEPTH = 4\nRATE = 0.1\n"
    ours = base.replace("1\n", "2\n", 1)
    code = base.replace("DEPTH = 4\n", "if WIDTH == 1:\n    DEPTH = 4\nelse:\n    DEEP = 8\n")
    assert merged((ours, base, code), {}, never) is None


def test_result_must_hold_its_asserts() -> None:
    assert runs("a.py", "A = 4\nassert A % 2 == 0\n", {})
    assert not runs("a.py", "A = 5\nassert A % 2 == 0\n", {})
    assert not runs("a.py", "A = (\n", {})
    assert runs("notes.txt", "A = (", {})


def test_files_are_merged_one_by_one() -> None:
    changed, ours = BASE.replace("A = 1", "A = 5"), BASE.replace("C = 3", "C = 4")
    base = dict.fromkeys(("alone", "same", "both", "broken.py", "left", "gone"), BASE)
    theirs = dict.fromkeys(("alone", "same", "both", "new", "broken.py", "clash"), changed) | {"left": BASE}
    mine = base | {"same": changed, "both": ours, "left": ours, "broken.py": "A = ", "clash": ours}
    found, conflicts = carried_over((mine, base, theirs), {}, lambda *_: None)
    assert found == {"alone": changed, "both": changed.replace("C = 3", "C = 4"), "new": changed}
    assert conflicts == ["broken.py", "clash", "gone"]
