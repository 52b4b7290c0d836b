from __future__ import annotations

import ast
import random

import pytest

from agent.errors import UsageError
from agent.journal.experiment import Value
from agent.proposers.search.space import space_of, tunable_parameters
from agent.source.constants import constants, refuses, replace
from tests.common.workspaces import ROOT

pytestmark = pytest.mark.quick

SOURCE = '''"""Doc — with a dash."""\r
import math

NAME = "é"; RATE = 1e-3  # search: 0.0001..0.1 log; é
BATCH = 2**16
SIZE: int = 1_000
SHIFT = -0.5 # keep
QUOTED = 'SSSL'  # search: 'SSSL' | 'LLLL'
FLAG = (True)
lower = 3
if PROFILE == "cpu":
    DEPTH = 2  # search: 1..8
else:
    DEPTH = 4
if unknown():
    RATE2 = 1.0
def f():
    INNER = 1
COMPUTED = SIZE * 2
LATE = 1
LATE = 7
PAIR = (0.8, 0.95)
'''
KNOWN: dict[str, Value] = {"PROFILE": "cpu", "MAX_SEQ_LEN": 256}


def test_live_literal_constants_are_found_and_nothing_else() -> None:
    found = {name: constant.value for name, constant in constants(SOURCE, KNOWN).items()}
    expected = {"NAME": "é", "RATE": 1e-3, "BATCH": 65536, "SIZE": 1000, "SHIFT": -0.5, "QUOTED": "SSSL", "FLAG": True}
    assert found == expected | {"DEPTH": 2, "LATE": 7}
    assert constants(SOURCE, {"PROFILE": "mac"})["DEPTH"].value == 4
    assert "DEPTH" not in constants(SOURCE, {})
    assert constants("RATE = (", {}) == {}


def test_replacing_keeps_every_other_byte() -> None:
    found = constants(SOURCE, KNOWN)
    changed = replace(SOURCE, found, {"RATE": 0.002, "BATCH": 32768, "QUOTED": "LLLL", "FLAG": False, "SHIFT": -0.25})
    expected = SOURCE.replace("1e-3", "0.002").replace("2**16", "2**15").replace("= 'SSSL'", "= 'LLLL'")
    assert changed == expected.replace("(True)", "(False)").replace("-0.5 #", "-0.25 #")
    assert replace(SOURCE, found, {"RATE": 1e-3, "DEPTH": 2}) == SOURCE


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_many_random_edits(ending: str, mark: str) -> None:
    rng = random.Random(ending + mark)
    source = mark + SOURCE.replace("\r\n", "\n").replace("\n", ending)
    for _ in range(100):
        found = constants(source, KNOWN)
        name = rng.choice([n for n, c in found.items() if isinstance(c.value, float)])
        value = float(f"{rng.uniform(-9, 9):.3g}")
        changed = replace(source, found, {name: value})
        assert constants(changed, KNOWN)[name].value == value
        before, after = found[name], constants(changed, KNOWN)[name]
        assert source.encode()[: before.begin] == changed.encode()[: after.begin]
        assert source.encode()[before.end :] == changed.encode()[after.end :]
        source = changed


def test_asserts_refuse_what_the_file_would_refuse() -> None:
    source = (
        "BATCH = 2**11\nROWS = 8\nWIDTH = 128\nHEAD = 64\n"
        "assert BATCH % (ROWS * MAX_SEQ_LEN) == 0\n"
        "STEPS = BATCH // (ROWS * MAX_SEQ_LEN)\nassert STEPS >= 1 and WIDTH % HEAD == 0, 'no'\n"
        "assert something_unknown(BATCH)\nassert 0 < WIDTH <= 512\n"
    )
    assert refuses(source, KNOWN, {}) is None
    assert refuses(source, KNOWN, {"ROWS": 16}) is not None
    assert refuses(source, KNOWN, {"BATCH": 1024}) is not None
    assert refuses(source, KNOWN, {"BATCH": 4096, "ROWS": 16}) is None
    assert refuses(source, KNOWN, {"HEAD": 48}) == "STEPS >= 1 and WIDTH % HEAD == 0"
    assert refuses(source, {}, {"ROWS": 16}) is None
    assert refuses("x = 10**10**10\nassert x > 1\nassert 'a' * 10**9 != ''", {}, {}) is None


@pytest.mark.parametrize(
    "rebound",
    [
        "BATCH *= 2",
        "for BATCH in (16,): pass",
        "with opened() as BATCH: pass",
        "try: BATCH = 16\nfinally: pass",
        "BATCH, other = 16, 1",
        "print(BATCH := 16)",
        "other = (BATCH := 16)",
        "del BATCH; from settings import *",
    ],
)
def test_a_name_that_is_rebound_in_another_way_is_unknown(rebound: str) -> None:
    source = f"BATCH = 8\n{rebound}\nassert BATCH % 16 == 0\n"
    assert refuses(source, {}, {}) is None
    assert constants(source, {})["BATCH"].value == 8
    own = "BATCH = 8\ndef f():\n    BATCH = 16\nassert BATCH % 16 == 0\n"
    assert refuses(own, {}, {}) == "BATCH % 16 == 0"


ENDLESS = ["0..inf", "1..inf log", "-inf..1", "nan..1", "0..1e999", "0..1e308", "0.5 | 1e999", f"1 | 1{'0' * 400}"]
UNREADABLE = ["{[]} | 1", f"{'(' * 1000}1 | 2", f"{'-' * 100_000}1 | 2", "1j | 2", "[1] | 2", r'"\ud83d" | "L"']


@pytest.mark.parametrize("value", ["0.5", "3", "1e999"])
@pytest.mark.parametrize(
    "comment", ["1..", "5..1", "0..1 log", "a..b", "1 | x y", "nonsense", "", *ENDLESS, *UNREADABLE]
)
def test_a_malformed_search_comment_is_named(comment: str, value: str) -> None:
    with pytest.raises(UsageError, match=r"t\.py:2: the search comment of RATE is malformed"):
        space_of({"t.py": f"\nRATE = {value}  # search: {comment}\n"}, {})


def test_a_value_without_end_is_not_searched() -> None:
    for comment in ("1..2", "1.0 | 2.0"):
        with pytest.raises(UsageError, match="malformed"):
            space_of({"t.py": f"RATE = 1e999  # search: {comment}\n"}, {})
    assert tunable_parameters({"t.py": f"A = 1e999\nB = 1{'0' * 305}\nC = 1e308\nD = 1\n"}, {}) == {"D": 1}


def test_ranges_from_comments_and_from_values() -> None:
    source = (
        "A = 0.5  # search: off\nSEED = 4\nEVAL_TOKENS = 64\nB = 0.04\nBATCH = 64\nDEPTH = 6\nC_RATIO = 0.5\n"
        "D_DECAY = 0.0\nE = 0.0\nF = -1.0\nG = False\nH = 'text'\nK = 3  # search: 1..8\nL = 8  # search: 2..32 log\n"
        "M = 64  # search: 32..128\n"
    )
    by_name = {d.name: d for d in space_of({"t.py": source}, {}).dimensions}
    assert set(by_name) == {"B", "BATCH", "DEPTH", "C_RATIO", "D_DECAY", "G", "K", "L", "M"}
    assert (by_name["B"].low, by_name["B"].high, by_name["B"].log) == (0.005, 0.32, True)
    assert by_name["BATCH"].kind == "power"
    assert by_name["L"].kind == "power"
    assert by_name["K"].kind == "int"
    assert by_name["M"].kind == "int"
    assert by_name["M"].rounded(80.2) == 80
    assert by_name["C_RATIO"].high == 1.0
    assert by_name["D_DECAY"].high == 0.5
    assert by_name["B"].rounded(0.123456) == 0.123
    assert by_name["L"].rounded(20.0) == 16


def test_files_that_share_names_are_told_apart() -> None:
    files = {"a.py": "RATE = 1.0\n", "b.py": "RATE = 2.0\n", "c.txt": "RATE = 3.0\n"}
    assert tunable_parameters(files, {}) == {"a.py:RATE": 1.0, "b.py:RATE": 2.0}
    assert space_of(files, {}).apply({"b.py:RATE": 4.0}) == {"b.py": "RATE = 4.0\n"}


@pytest.mark.parametrize("profile", ["cpu", "mac"])
def test_our_own_recipe_is_searchable_on_every_profile(profile: str) -> None:
    text = (ROOT / "train.py").read_text()
    sizes = {"cpu": {"MAX_SEQ_LEN": 256, "VOCAB_SIZE": 1024}, "mac": {"MAX_SEQ_LEN": 2048, "VOCAB_SIZE": 8192}}
    space = space_of({"train.py": text}, {"PROFILE": profile, **sizes[profile]})
    names = {d.name for d in space.dimensions}
    assert {"DEPTH", "TOTAL_BATCH_SIZE", "DEVICE_BATCH_SIZE", "MATRIX_LR", "EMBEDDING_LR"} <= names
    assert "SEED" not in names
    assert not any("EVAL" in name for name in names)
    assert not space.refuses({})
    assert space.refuses({"DEVICE_BATCH_SIZE": 1024})
    for dimension in space.dimensions:
        assert "search:" in constants(text, space.known)[dimension.name].comment, dimension.name
    ast.parse(space.apply({"DEPTH": 3})["train.py"])


def test_a_source_cannot_make_the_evaluator_work_for_ever() -> None:
    squares = "A = 2**60\n" + "A = A * A\n" * 40 + "RATE = 1\n"
    assert set(constants(squares, {})) == {"A", "RATE"}
    assert set(constants(f"BIG = 0x{'f' * 20_000}\nRATE = 1\n", {})) == {"RATE"}
    pairs = "A = (1, 1)\nB = (1, 1)\n" + "A = (A, A)\nB = (B, B)\n" * 60 + "assert A == B"
    sums = "A = (0, 0)\n" + "A = A + A\n" * 60
    formatted, rounded = 'A = "%99999999999d" % 1', "assert round(5, -99999999999) == 0"
    for large in (pairs, sums, formatted, rounded, 'A = b"x" * 2**40', 'A = b"x" + b"y"\n' + "A = A + A\n" * 60):
        assert set(constants(f"{large}\nRATE = 1\n", {})) == {"RATE"}
        assert refuses(f"{large}\nassert 1 < 2\n", {}, {}) is None
    for deep in (f"RATE = {'-' * 100_000}1\n", "RATE = 1\nif 0: pass\n" + "elif 0: pass\n" * 3000):
        assert constants(deep, {}) == {}
        assert refuses(deep, {}, {}) is not None
