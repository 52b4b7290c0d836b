"""The seed of a recipe: found, set, and seeds that setting it does not reach."""

from __future__ import annotations

import pytest

from agent.source.seed import (
    alters_randomness,
    differing_seeds,
    literal_seeds,
    read_seeds,
    seed_of,
    why_no_seed,
    with_seed,
    with_seeds_of,
)
from tests.common.workspaces import ROOT

TEXT = """import mlx.core as mx
if PROFILE == "cpu":
    SEED = 42  # search: off
else:
    SEED = 7
mx.random.seed(SEED)
"""


def test_seed_of_the_live_branch_is_found_and_set() -> None:
    files, known = {"train.py": TEXT, "notes.md": "SEED = 1"}, {"PROFILE": "cpu"}
    assert seed_of(files, known) == 42
    assert seed_of(files, {"PROFILE": "mac"}) == 7
    assert with_seed(files, known, 43) == {"train.py": TEXT.replace("SEED = 42", "SEED = 43")}
    assert with_seed(files, known, 42) == {}


@pytest.mark.parametrize(
    ("old", "new", "alters"),
    [
        ("RATE = 0.1", "RATE = 0.2", False),
        ("return x + rate", "y = 2 * x\n    return y + rate", False),
        ("random.seed(SEED)", "random.seed(0 * SEED)", True),
        ("random.seed(SEED)", "random.seed(SEED)\nrandom.setstate(KNOWN)", True),
        ("if draws > 1:\n    x = random.random()", "if draws > 1:\n    x = 0.5", True),
        ("RATE = 0.1", "RATE = (", True),
    ],
)
def test_edit_of_how_random_numbers_are_used_is_seen(old: str, new: str, alters: bool) -> None:
    text = (
        "import random\nSEED = 1\nRATE = 0.1\nrandom.seed(SEED)\ndef f(x, rate=random.random()):\n    return x + rate\n"
        "if draws > 1:\n    x = random.random()\n"
    )
    assert old in text
    assert alters_randomness({"train.py": text}, {"train.py": text.replace(old, new)}) == alters


def test_edit_of_a_seed_in_a_file_of_values_is_seen() -> None:
    files = {"train.py": "import json\n", "conf.json": '{"rate": 1,\n"seed": 3}\n'}
    assert alters_randomness(files, {**files, "conf.json": '{"rate": 1,\n"seed": 4}\n'})
    assert not alters_randomness(files, {**files, "conf.json": '{"rate": 2,\n"seed": 3}\n'})


def test_expression_of_a_thousand_terms_is_no_reason_to_fail() -> None:
    long = {"train.py": f"x = rand() + {' + '.join(['1'] * 1000)}\n"}
    assert alters_randomness(long, {"train.py": "x = rand()\n"})


def test_random_state_is_a_seed() -> None:
    files = {"train.py": "RANDOM_STATE = 42\nfit(random_state=RANDOM_STATE)\nsplit(random_state=0)\n"}
    assert seed_of(files, {}) == 42
    assert with_seed(files, {}, 5) == {"train.py": files["train.py"].replace("= 42", "= 5")}
    assert (read_seeds(files), literal_seeds(files)) == (1, 1)
    both = {"train.py": "SEED = 1\nRANDOM_STATE = 2\nrandom.seed(RANDOM_STATE)\n"}
    assert seed_of(both, {}) == 2
    assert seed_of({"train.py": both["train.py"] + "def fit(RANDOM_STATE): pass\n"}, {}) is None


def test_our_own_recipe_has_a_seed() -> None:
    files = {"train.py": (ROOT / "train.py").read_text()}
    assert seed_of(files, {"PROFILE": "cpu"}) == 42
    changed = with_seed(files, {"PROFILE": "cpu"}, 5)["train.py"]
    assert "\nSEED = 5  # search: off\n" in changed
    assert len(changed.splitlines()) == len(files["train.py"].splitlines())


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\n",
        "SEED = 42\n",  # nothing reads it
        "SEED = True\nprint(SEED)\n",
        "SEED = 4.2\nprint(SEED)\n",
        "SEED = make()\nprint(SEED)\n",
        "SEED = 42\nprint(SEED",
        "SEED = 42\nprint(SEED)\ndef main():\n    SEED = 7\n    random.seed(SEED)\n",
        "SEED = 42\nprint(SEED)\ndef main(SEED=7):\n    random.seed(SEED)\n",
    ],
)
def test_a_recipe_without_a_usable_seed_has_none(text: str) -> None:
    assert seed_of({"train.py": text}, {}) is None


def test_the_seed_may_be_in_another_file_than_its_use() -> None:
    files = {"config.py": "SEED = 3\n", "train.py": "from config import SEED\nrandom.seed(SEED)\n"}
    assert seed_of(files, {}) == 3
    assert [*with_seed(files, {}, 4)] == ["config.py"]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("mx.random.seed(SEED)\nload(data, seed=SEED)\n", 0),
        ("mx.random.seed(1337)\n", 1),
        ("rng = np.random.default_rng(7)\nload(data, seed=8)\n", 2),
        ("mx.random.key(3)\ntorch.manual_seed(SEED + 1)\n", 1),
        ("mx.random.seed(-1)\n", 1),
        ("INIT = 1234\nmx.random.seed(INIT)\n", 1),
        ("random.seed()\n", 0),
        ("mx.random.seed(", 0),
    ],
)
def test_seeds_that_do_not_read_the_constant_are_counted(text: str, count: int) -> None:
    assert literal_seeds({"train.py": text, "notes.md": "seed(1)"}) == count


def test_seeds_that_read_the_constant_are_counted() -> None:
    assert read_seeds({"train.py": "random.seed(SEED + 1)\nload(seed=SEED)\nload(seed=3)\nload()\n"}) == 2


@pytest.mark.parametrize(
    ("base", "text", "expected"),
    [
        ("N = 1\n", "N = 2\nSEED = 5\n", None),  # neither has one that could be put back
        ("SEED = 1\n", "N = 2\n", None),
        ("SEED = 1\n", "SEED = 1\nN = 2\n", None),
        ("SEED = 1\nRANDOM_STATE = 2\n", "SEED = 3\nRANDOM_STATE = 4\nN = 2\n", "SEED = 1\nRANDOM_STATE = 2\nN = 2\n"),
        ("DATA_SEED = 1\n", "DATA_SEED = 3  # größer\n", "DATA_SEED = 1  # größer\n"),
        ("SEED_TOKENS = 1\n", "SEED_TOKENS = 3\n", None),  # a length
        ("SEED = True\n", "SEED = False\n", None),
        ("f(seed=1)\nd.seed(2)\n", "ä = f(seed=30); d.seed(40)\n", "ä = f(seed=1); d.seed(2)\n"),
        ("f(seed=1)\n", "f(seed=2)\nd.seed(3)\n", None),  # which one is which is unknown
        # Code that only moved keeps its seeds.
        ("def m(): return R.Random(0)\nn = R.Random(42)\n", "n = R.Random(42)\ndef m(): return R.Random(0)\n", None),
        ("a = split(random_state=42)\nM(random_state=0)\n", "M(random_state=0)\na = split(random_state=42)\n", None),
        ("a = key(1)\nb = key(2)\n", "b = key(2)\na = key(1)\n", None),
        ("[key(1), key(2)]\n", "[key(2), key(1)]\n", None),
        # One is gone, and another one is new.
        ("a = key(1)\nb = key(2)\n", "b = key(2)\nc = key(3)\n", None),
        ("a = key(1)\n", "c = key(3)\n", None),
        ("[key(1), key(2)]\n", "[key(2), key(3)]\n", None),
        ("m = M(random_state=0)\n", "k = K(random_state=1)\n", None),
        ("d['a'] = key(1)\nd['b'] = key(2)\n", "d['b'] = key(2)\nd['c'] = key(3)\n", None),
        # What changed beside code that moved.
        ("a = key(1)\nself.b = key(2)\n", "self.b = key(2)\na = key(3)\n", "self.b = key(2)\na = key(1)\n"),
        (
            "S(random_state=42)\nM(random_state=0)\n",
            "M(random_state=42)\nS(random_state=42)\n",
            "M(random_state=0)\nS(random_state=42)\n",
        ),
        (
            "np.random.seed(7)\nrandom.seed(7)\n",
            "random.seed(8)\nnp.random.seed(8)\n",
            "random.seed(7)\nnp.random.seed(7)\n",
        ),
        ("[key(0x1), key(2)]\n", "[key(7), key(8)]\n", "[key(0x1), key(2)]\n"),
        ("\ufeffr = key(4242); N = 1\n", "\ufeffr = key(5); N = 2\n", "\ufeffr = key(4242); N = 2\n"),
        ("N = 1\r\nr = key(4242)\r", "N = 2\r\rr = key(5)\r", "N = 2\r\rr = key(4242)\r"),
    ],
)
def test_seeds_of_another_version_are_put_back(base: str, text: str, expected: str | None) -> None:
    found = with_seeds_of({"a.py": base, "notes.md": "SEED = 1"}, {"a.py": text, "notes.md": "SEED = 2"}, {})
    assert found == ({} if expected is None else {"a.py": expected})


def test_other_seeds_are_named_with_their_lines() -> None:
    before = {"a.py": "N = 1\nSEED = 1\nr = key(2)\n"}
    after = {"a.py": "r = key(3)\nN = 2\nSEED = 4\n"}
    assert differing_seeds(after, with_seeds_of(before, after, {}), {}) == [
        "line 1 of a.py has 3 instead of 2",
        "line 3 of a.py has 4 instead of 1",
    ]


def test_seed_in_a_text_changes_nothing_else() -> None:
    """Before Python 3.12 the offsets there are wrong."""
    text = 'N = 2\ny = (f"é" f"a"\n f"{f(seed=7)}")\n'
    found = with_seeds_of({"a.py": "N = 1\ny = f(seed=1)\n"}, {"a.py": text}, {})
    assert found in ({}, {"a.py": text.replace("7", "1")})


def test_seed_that_moved_to_another_file_keeps_its_value() -> None:
    before = {"a.py": "SEED = 1\n", "b.py": ""}
    assert with_seeds_of(before, {"a.py": "", "b.py": "SEED = 5\n"}, {}) == {"b.py": "SEED = 1\n"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("N = 1\n", "has no constant SEED or RANDOM_STATE"),
        ('SEED = "a"\nprint(SEED)\n', "has no constant SEED or RANDOM_STATE"),
        ("SEED = 1\n", "reads its constant SEED nowhere"),
        ("SEED = 1\nRANDOM_STATE = 2\n", "reads its constant SEED and RANDOM_STATE nowhere"),
        ("SEED = 1\nprint(SEED)\ndef f(SEED): pass\n", "has a function with its own SEED"),
    ],
)
def test_recipe_says_why_its_seed_cannot_be_set(text: str, why: str) -> None:
    assert seed_of({"a.py": text}, {}) is None
    assert why_no_seed({"a.py": text}, {}) == why
