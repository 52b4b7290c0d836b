"""Which candidates are the same program."""

from __future__ import annotations

import pytest

from agent.proposers.search.space import is_same_code
from agent.source.equivalence import fingerprint_of

pytestmark = pytest.mark.quick

SOURCE = (
    "RATE = 0.1\nif PROFILE == 'a':\n    DEPTH = 4\nelse:\n    DEPTH = 2**3\nBASE = 3.0  # search: off\nprint(RATE)\n"
)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("RATE = 0.1", "RATE = 0.2  # search: 0.1..0.3", True),
        ("DEPTH = 4", "DEPTH = 5", True),
        ("DEPTH = 2**3", "DEPTH = 2**4", True),  # another machine's
        ("BASE = 3.0", "BASE = 2.0", False),  # no session changes it
        ("print(RATE)", "print(-RATE)", False),
        ("RATE = 0.1", "RATE = 0.2  # search: off", False),
        ("RATE = 0.1", "RATE = 0.1  # search: off", True),
        ("RATE = 0.1", "RATE = 0.1\nMORE = 1", False),
        ("print(RATE)", "print(", False),
    ],
)
def test_code_is_the_same_apart_from_what_is_searched(old: str, new: str, same: bool) -> None:
    changed = {"a.py": SOURCE.replace(old, new)}
    for one, other in (({"a.py": SOURCE}, changed), (changed, {"a.py": SOURCE})):
        assert is_same_code(one, other, {"PROFILE": "a"}) == same
    assert not is_same_code({"a.py": SOURCE}, {"b.py": SOURCE}, {"PROFILE": "a"})


def test_fingerprint_leaves_cached_trees_alone() -> None:
    before = fingerprint_of({"a.py": SOURCE})
    assert fingerprint_of({"a.py": SOURCE}, {"a.py": ["RATE"]}) != before
    assert fingerprint_of({"a.py": SOURCE}) == before
