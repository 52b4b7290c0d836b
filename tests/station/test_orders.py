"""Orders and answers come from other machines: they survive the way as they were, and anything else is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from agent.journal.experiment import Run
from agent.station.orders import LARGEST_FILE, LARGEST_LOG, MOST_SETTLED, Answer, Invalid, Leased, Order

pytestmark = pytest.mark.quick

RUN = Run(1.5, 2.0, {"num_steps": 10.0}, conditions={"others": 0.5}, seed=3, source="attested", station="a")
ORDER = Order(
    *("0.1.0", "s-1", "lease-1", "repo", "a" * 40, "b" * 40),
    files={"train.py": "x = 1\n"},
    own=(Leased(RUN, "lease-0"),),
    other=(Leased(replace(RUN, metric=None, error="crashed: exit code 1", fault="kernel")),),
    settled=("lease-0",),
)
ANSWER = Answer("lease-1", "studio", RUN, b"---\n")


def test_order_survives_json() -> None:
    assert Order.from_dict(json.loads(json.dumps(ORDER.to_dict()))) == ORDER
    assert Order.from_dict(replace(ORDER, bundle=b"x").to_dict()).bundle == b"x"


def test_answer_survives() -> None:
    assert Answer.from_dict(ANSWER.to_dict()) == ANSWER
    lacking = Answer("lease-1", "studio", failed="lacks commits", lacks=True)
    assert Answer.from_dict(lacking.to_dict()) == lacking


@pytest.mark.parametrize(
    "changes",
    [
        {"log": b"x" * (LARGEST_LOG + 1)},
        {"log": "text"},
        {"lease": "../../etc"},
        {"lease": "a" * 101},
        {"station": "x" * 5000},
        {"run": {"metric": math.nan, "seconds": 1.0}},
        {"run": {"metric": 1.0, "seconds": math.inf}},
        {"run": {"metric": True, "seconds": 1.0}},
        {"run": {"metric": 1e101, "seconds": 1.0}},
        {"run": {"metric": 1.0, "seconds": 1.0, "holdout": -1e300}},
        {"run": {"metric": 1.0, "seconds": 1.0, "secondary": {"x": 1e200}}},
        {"run": {"metric": 1.0, "seconds": 1.0, "secondary": {"x": "y"}}},
        {"run": {"metric": 1.0, "seconds": 1.0, "secondary": {str(n): 1.0 for n in range(2000)}}},
        {"run": {"metric": 1.0, "seconds": 1.0, "source": "trust me"}},
        {"run": {"metric": 1.0, "seconds": 1.0, "untimed": 1e12}},
        {"run": {"metric": 1.0, "seconds": 1.0, "error": "x" * 5000}},
        {"run": {"metric": 1.0, "seconds": 1.0, "more": 1}},
        {"run": {"seconds": 1.0}},
        {"run": None},
        {"failed": "and yet it ran"},
        {"more": 1},
    ],
    ids=str,
)
def test_answer_that_is_none_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        Answer.from_dict({**ANSWER.to_dict(), **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"commit": "HEAD"},
        {"commit": "--upload-pack=x"},
        {"base": "a" * 39},
        {"prefix": "../other"},
        {"prefix": "/etc"},
        {"prefix": ".git"},
        {"files": {"../x": ""}},
        {"files": {".git/hooks/x": ""}},
        {"repository": ".."},
        {"session": "a/b"},
        {"sandbox": "none"},
        {"training_seconds": math.inf},
        {"own": [{"run": RUN.__dict__, "lease": "a/b"}]},
        {"settled": "lease"},
        {"bundle": "text"},
    ],
    ids=str,
)
def test_order_that_is_none_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        Order.from_dict({**ORDER.to_dict(), **changes})


@pytest.mark.parametrize("data", [None, [], "x", 1, {}])
def test_other_data_is_refused(data: object) -> None:
    for kind in (Order, Answer):
        with pytest.raises(Invalid):
            kind.from_dict(data)


RUN_DATA: dict[str, Any] = {"metric": 1.0, "seconds": 1.0}
DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]
LONG = "x" * 4001
# The kind of data, the field in it, and what it cannot be. `run` and `leased` are parts of the two others.
BAD: list[tuple[str, str, object]] = [
    ("run", "metric", None),
    ("run", "metric", "1"),
    ("run", "metric", -math.inf),
    ("run", "metric", 10**400),
    ("run", "metric", DEEP),
    ("run", "seconds", -1.0),
    ("run", "seconds", None),
    ("run", "seconds", 1e10),
    ("run", "seconds", False),
    ("run", "secondary", [("x", 1.0)]),
    ("run", "secondary", {1: 1.0}),
    ("run", "secondary", {"x" * 201: 1.0}),
    ("run", "secondary", {"x": None}),
    ("run", "error", "beside a metric"),
    ("run", "error", b"bytes"),
    ("run", "out_of_memory", 1),
    ("run", "conditions", {"x": math.nan}),
    ("run", "conditions", DEEP),
    ("run", "log", LONG),
    ("run", "pruned", 1e301),
    ("run", "estimate", 2e100),
    ("run", "rebased", None),
    ("run", "source", None),
    ("run", "source", ["attested"]),
    ("run", "untimed", "1.0"),
    ("run", "overrun", -1e10),
    ("run", "evaluated", math.nan),
    ("run", "unconfined", "true"),
    ("run", "fault", "fire"),
    ("run", "trained", math.inf),
    ("run", "seed", 1.0),
    ("run", "seed", True),
    ("run", "seed", 2**63 + 1),
    ("run", "holdout", {}),
    ("run", "station", None),
    ("leased", "run", None),
    ("leased", "run", RUN),
    ("leased", "lease", ["a"]),
    ("leased", "more", 1),
    ("answer", "lease", None),
    ("answer", "lease", "a..b"),
    ("answer", "lease", "a\n"),
    ("answer", "run", []),
    ("answer", "run", RUN),
    ("answer", "log", bytearray(b"x")),
    ("answer", "failed", 1),
    ("answer", "lacks", 0),
    ("answer", "measured", LONG),
    ("answer", "m" * 10**6, 1),
    ("order", "version", None),
    ("order", "session", ""),
    ("order", "repository", 7),
    ("order", "commit", "A" * 40),
    ("order", "commit", "a" * 40 + "\n"),
    ("order", "base", "a" * 41),
    ("order", "prefix", ""),
    ("order", "prefix", "a/" * 2001),
    ("order", "files", ["train.py"]),
    ("order", "files", {"train.py": b""}),
    ("order", "files", {"train.py": "x" * (LARGEST_FILE + 1)}),
    ("order", "files", {LONG: ""}),
    ("order", "files", {1: ""}),
    ("order", "files", {f"{number}.py": "" for number in range(1001)}),
    ("order", "snapshot", 1),
    ("order", "training_seconds", "60"),
    ("order", "sandbox", None),
    ("order", "setup", "yes"),
    ("order", "untraced", 1.0),
    ("order", "holdout", []),
    ("order", "holdout_command", b"python x.py"),
    ("order", "own", {"run": RUN_DATA}),
    ("order", "own", {1}),
    ("order", "own", b"runs"),
    ("order", "baseline", [None]),
    ("order", "baseline", [Leased(RUN)]),
    ("order", "other", [{"run": RUN_DATA}] * 1001),
    ("order", "side", "x" * 101),
    ("order", "settled", {"lease-0"}),
    ("order", "settled", ["lease-0", None]),
    ("order", "settled", ["a"] * (MOST_SETTLED + 1)),
    ("order", "settled", DEEP),
]


def whole(kind: str, changes: dict[str, Any]) -> Order | Answer:
    """Return the order or answer with changed data in it."""
    if kind == "order":
        return Order.from_dict({**ORDER.to_dict(), **changes})
    if kind == "leased":
        return whole("order", {"other": [{"run": RUN_DATA, "lease": "a", **changes}]})
    return Answer.from_dict({**ANSWER.to_dict(), **({"run": {**RUN_DATA, **changes}} if kind == "run" else changes)})


@pytest.mark.parametrize(("kind", "field", "value"), BAD, ids=[f"{kind}-{field[:20]}" for kind, field, _ in BAD])
def test_each_field_is_checked_and_named(kind: str, field: str, value: object) -> None:
    with pytest.raises(Invalid) as caught:
        whole(kind, {field: value})
    assert field[:200] in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("kind", ["run", "leased", "answer", "order"])
def test_object_without_its_fields_names_one(kind: str) -> None:
    if kind in ("answer", "order"):
        with pytest.raises(Invalid, match=r"version|lease"):
            (Answer if kind == "answer" else Order).from_dict({})
    elif kind == "run":
        with pytest.raises(Invalid, match="metric"):
            whole("answer", {"run": {}})
    else:
        with pytest.raises(Invalid, match="run"):
            whole("order", {"own": [{}]})


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("run", "metric", 3),
        ("run", "estimate", -1e100),
        ("run", "seconds", 0),
        ("run", "pruned", -1e300),
        ("run", "untimed", -1e9),
        ("run", "seed", -(2**63)),
        ("run", "secondary", {"a\udcff": 1}),
        ("run", "log", "\udcff" * 4000),
        ("run", "holdout", None),
        ("leased", "lease", ""),
        ("answer", "station", "a name of any kind"),
        ("order", "commit", "a" * 64),
        ("order", "bundle", b"x" * 10**7),
        ("order", "files", {"a b/c.txt": "\udcff\0"}),
        ("order", "prefix", "a/b"),
        ("order", "own", [{"run": RUN_DATA}] * 1000),
        ("order", "own", ({"run": RUN_DATA},)),
        ("order", "settled", ["a"] * MOST_SETTLED),
        ("order", "training_seconds", -1),
    ],
    ids=str,
)
def test_value_at_its_bounds_is_accepted(kind: str, field: str, value: Any) -> None:
    found: Any = whole(kind, {field: value})
    if kind in ("run", "leased"):
        found = found.run if kind == "run" else found.other[0]
    kept = getattr(found, field)
    assert kept == (tuple(value) if field == "settled" else kept if field == "own" else value)
    assert not isinstance(kept, int) or field == "seed"
