"""The rung of a promotion: constants that a person sets, and the hard limit."""

from __future__ import annotations

import pytest

from agent.errors import UsageError
from agent.journal.experiment import Run
from agent.promote.rung import growth, hard_limit, values_for, why_no_longer
from agent.protocol.load import load_protocol
from agent.source.values import with_values
from tests.common.workspaces import ROOT

pytestmark = pytest.mark.quick

TEXT = """RATE = 0.1
DEPTH = 4
BATCH = 2**16
FAST = True
PATTERN = "SSSL"
assert BATCH % DEPTH == 0
"""
TREES = {"the baseline": {"train.py": TEXT}, "the best": {"train.py": TEXT.replace("0.1", "0.3")}}


@pytest.mark.parametrize(
    ("given", "name", "value", "line"),
    [
        ("DEPTH=8", "DEPTH", 8, "DEPTH = 8"),
        (" DEPTH = 8 ", "DEPTH", 8, "DEPTH = 8"),
        ("BATCH=2**17", "BATCH", 131072, "BATCH = 2**17"),
        ("RATE=1", "RATE", 1.0, "RATE = 1.0"),
        ("RATE=-1e-3", "RATE", -0.001, "RATE = -0.001"),
        ("FAST=False", "FAST", False, "FAST = False"),
        ("PATTERN=L", "PATTERN", "L", 'PATTERN = "L"'),
        ('PATTERN="L"', "PATTERN", "L", 'PATTERN = "L"'),
    ],
)
def test_value_has_the_type_of_the_constant(given: str, name: str, value: object, line: str) -> None:
    found = values_for([given], TREES, {})
    assert found == {name: value}
    assert type(found[name]) is type(value)
    for files in TREES.values():
        assert line in with_values(files, {}, found)["train.py"].splitlines()


@pytest.mark.parametrize(
    ("line", "given", "value"),
    [
        ("CLIP = 1  # search: 0.1..2.0 log", "CLIP=0.5", 0.5),
        ("CLIP = 1  # search: 0.1..2.0 log", "CLIP=2", 2),
        ("CLIP: float = 1", "CLIP=0.5", 0.5),
        ("CLIP = 1  # search: 0.5 | 1 | 2", "CLIP=0.5", 0.5),
    ],
)
def test_whole_number_with_a_fraction_in_its_range_takes_one(line: str, given: str, value: float) -> None:
    found = values_for([given], {"the baseline": {"train.py": line}, "the best": {"train.py": line}}, {})
    assert found == {"CLIP": value}
    assert type(found["CLIP"]) is type(value)


@pytest.mark.parametrize("order", [1, -1])
def test_whole_number_in_one_recipe_takes_the_fraction_of_the_other(order: int) -> None:
    trees = {"the baseline": {"train.py": "RATE = 1\n"}, "the best": {"train.py": "RATE = 0.3\n"}}
    found = values_for(["RATE=0.5"], dict([*trees.items()][::order]), {})
    assert found == {"RATE": 0.5}
    assert [with_values(files, {}, found)["train.py"] for files in trees.values()] == ["RATE = 0.5\n"] * 2


@pytest.mark.parametrize(
    "given",
    [
        *(
            "DEPTH=8.0",
            "DEPTH=True",
            "DEPTH=",
            "DEPTH=4 * 2",
            "DEPTH=8  # deep",
            "DEPTH=__import__('os')",
            "DEPTH=x\ny",
        ),
        *("FAST=1", "RATE=inf", "RATE=1e999", f"RATE={10**400}", f"DEPTH={'9' * 5000}", "PATTERN=3", "PATTERN=a\tb"),
        *("rate=1", "DEPTH", "=1", "A B=1", "NONE=1", "DEPTH=3"),
    ],
)
def test_other_values_are_refused_in_a_sentence(given: str) -> None:
    with pytest.raises(UsageError) as refused:
        values_for([given], TREES, {})
    assert len(str(refused.value)) < 300
    assert "\n" not in str(refused.value)


def test_different_constants_of_one_name_are_refused() -> None:
    trees = {name: {**files, "lib/conf.py": "DEPTH = 4\n"} for name, files in TREES.items()}
    assert values_for(["DEPTH=8"], trees, {}) == {"DEPTH": 8}
    for other in ("DEPTH = 2\n", "DEPTH = 4.0\n", 'DEPTH = "deep"\n'):
        both = {name: {**files, "lib/conf.py": other} for name, files in trees.items()}
        with pytest.raises(UsageError, match=r"lib/conf.py, train.py have different constants of this name"):
            values_for(["DEPTH=8"], both, {})


def test_constant_that_only_the_best_has_is_refused() -> None:
    trees = {**TREES, "the best": {"train.py": f"NEW = 1\n{TEXT}"}}
    with pytest.raises(UsageError, match="the baseline has no such constant"):
        values_for(["NEW=2"], trees, {})


@pytest.mark.parametrize(("first", "second"), [("1", "0.3"), ("0.3", "1")])
def test_constant_with_a_fraction_on_one_side_takes_fractions(first: str, second: str) -> None:
    trees = {"the baseline": {"train.py": f"RATE = {first}\n"}, "the best": {"train.py": f"RATE = {second}\n"}}
    assert values_for(["RATE=0.5"], trees, {}) == {"RATE": 0.5}
    for files in trees.values():
        assert with_values(files, {}, {"RATE": 0.5})["train.py"] == "RATE = 0.5\n"


def test_value_that_another_one_leaves_without_effect_is_refused() -> None:
    text = "SMALL = True\nif SMALL:\n    DEPTH = 4\nelse:\n    WIDTH = 8\n"
    trees = {"the baseline": {"train.py": text}, "the best": {"train.py": text.replace("4", "6")}}
    with pytest.raises(UsageError, match="--set DEPTH has no effect in the baseline with 'SMALL=False, DEPTH=12'"):
        values_for(["SMALL=False", "DEPTH=12"], trees, {})
    both = {name: {"train.py": files["train.py"].replace("WIDTH", "DEPTH")} for name, files in trees.items()}
    assert values_for(["DEPTH=12", "SMALL=False"], both, {}) == {"DEPTH": 12, "SMALL": False}


def test_hard_limit_grows_with_the_training_budget() -> None:
    protocol = load_protocol(ROOT)
    assert protocol.training_seconds == 300
    limit = protocol.execution.hard_timeout_seconds
    assert hard_limit(protocol, 1800.0, 300.0) == 6 * limit
    assert (
        hard_limit(protocol, 300.0, 300.0)
        == hard_limit(protocol, 60.0, 30.0)
        == hard_limit(protocol, None, None)
        == limit
    )


def test_hard_limit_grows_with_a_budget_in_the_recipe() -> None:
    trees = {"the baseline": {"train.py": "TIME_BUDGET = 60\nDEPTH = 4\n", "notes.md": "TIME_BUDGET = 1\n"}}
    assert growth(trees, {"TIME_BUDGET": 240, "DEPTH": 16}, {}) == 4
    assert growth(trees, {"TIME_BUDGET": 30}, {}) == growth(trees, {"DEPTH": 16}, {}) == growth(trees, {}, {}) == 1


@pytest.mark.parametrize(
    ("own", "seconds", "before", "now", "ignores"),
    [
        (300, 1800, 307, 307, True),
        (300, 1800, 307, 1807, False),
        (300, 1800, 307, 900, False),  # the data ended
        (300, 1800, 200, 200, False),  # it ends by itself
        (300, 1800, 0.1, 0.1, False),
        (300, 360, 307, 306, True),
        (30, 60, 100, 70, False),  # a faster machine: starting took most of the time
        (300, 300, 307, 200, False),
        (None, 1800, 307, 307, False),
        (300, None, 307, 307, False),
    ],
)
def test_recipe_that_ignores_its_training_budget_is_seen_by_its_time(
    own: float | None, seconds: float | None, before: float, now: float, ignores: bool
) -> None:
    runs = [Run(1.0, before), Run(1.0, before + 2)], [Run(1.0, now), Run(None, now / 2, error="failed")]
    assert (why_no_longer(own, seconds, *runs) is not None) == ignores


def test_training_time_of_the_log_counts_more_than_the_time_of_the_command() -> None:
    before = [Run(1.0, 400.0, trained=300.1)]
    assert why_no_longer(300, 1800, before, [Run(1.0, 2500.0, trained=300.2)]) is not None
    assert why_no_longer(300, 1800, before, [Run(1.0, 1900.0, trained=1800.1)]) is None
