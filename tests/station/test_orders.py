"""Orders and answers come from other machines: they survive the way as they were, and anything else is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from agent.journal.experiment import Run
from agent.station.orders import LARGEST_LOG, Answer, Invalid, Leased, Order

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
