"""Promotions as text."""

from __future__ import annotations

from typing import Any

import pytest

from agent.journal.comparison import Rung
from agent.journal.state import State
from agent.report.promotion import change_words, judged_words, promotion_line, promotion_lines, rung_words

pytestmark = pytest.mark.quick


def judged(gain: float | None = 0.062, mean: float = 2.0, **more: Any) -> dict[str, Any]:
    ends = {"low": None, "high": None} if gain is None else {"low": gain - 0.01, "high": gain + 0.01}
    found = {"gain": gain, **ends, "means": {} if gain is None else {"a": mean, "b": 1.9}, "runs": {"a": 4, "b": 3}}
    return {"verdict": "transfers", "why": "", "reservations": [], "seeds": [2], "one_seed": None, **found, **more}


def change(verdict: str, **more: Any) -> dict[str, Any]:
    about = {"number": 2, "numbers": [1, 2], "description": "RATE 1 -> \x1b[31m2", "set": []}
    return {**about, "verdict": verdict, "why": "", "judged": None, **more}


def promotion(**more: Any) -> dict[str, Any]:
    known = {"best": "b", "conditions": "900 s of training", "session": 0.04, "whole": judged()}
    return {**known, "changes": None, "rest": None, **more}


def test_verdict_in_words() -> None:
    assert judged_words(judged()) == "transfers: 3.10 % better, 95 % interval 2.60 % to 3.60 %, 3 pairs"
    undecided = judged(0.0, verdict="undecided", why="one seed")
    assert judged_words(undecided).startswith(
        "undecided after 3 pairs (one seed): no difference, 95 % interval -0.50 %"
    )
    assert judged_words(judged(-0.5, reservations=["unattested"])).endswith("3 pairs, unattested")
    assert "0.062000 better" in judged_words(judged(mean=0.0))
    assert judged_words(judged(None, verdict="does not transfer", why="its run fails: no")) == (
        "does not transfer (its run fails: no)"
    )


def test_gain_over_a_mean_near_zero_is_in_the_units_of_the_metric() -> None:
    found = judged(0.7, mean=0.003)
    assert judged_words(found) == "transfers: 0.700000 better, 95 % interval 0.690000 to 0.710000, 3 pairs"
    assert change_words(change("transfers", judged=found)) == "transfers +0.700000 (0.690000 to 0.710000)"
    assert judged_words(judged(-0.7, mean=-0.003)).startswith("transfers: 0.700000 worse")
    (_, line, *_) = promotion_lines(promotion(whole=found, session=233.0))
    assert "%" not in line.replace("95 %", "")
    assert line.endswith("times the baseline in the session")


def test_change_in_words() -> None:
    assert change_words(change("set by you", set=["RATE"])) == "set by you"
    assert change_words(change("undecided", set=["RATE"], why="so")) == "undecided (so), RATE set by you"
    assert change_words(change("transfers", judged=judged())) == "transfers +3.10 % (2.60 % to 3.60 %)"


def test_lines_of_a_promotion() -> None:
    rest = {"descriptions": ["RATE", "DEPTH"], "offered": True, "judged": judged()}
    whole = judged(-0.1, verdict="does not transfer")
    lines = promotion_lines(promotion(whole=whole, changes=[change("does not transfer")], rest=rest))
    assert [line.split()[0] for line in lines] == ["rung", "whole", "#1", "rest", "adopt"]
    assert lines[1].endswith("; 4.00 % in the session")
    assert "without RATE; DEPTH: transfers" in lines[3]
    nothing = promotion_lines(promotion(whole=whole, changes=[change("does not transfer")], session=None))
    assert "nothing remains" in nothing[-1]
    assert "\x1b" not in "".join([*lines, *nothing])


def test_promotion_of_an_earlier_best_says_so() -> None:
    assert promotion_line(promotion(), "b").startswith("at 900 s of training: transfers: ")
    line = promotion_line(promotion(changes=[change("transfers"), change("set by you")]), "c")
    assert line.startswith("an earlier best at 900 s")
    assert line.endswith("; 1 of 2 changes transfers")


def test_rung_in_words() -> None:
    before = {"chip": "M1", "training_seconds": 300.0, "os": "1", "snapshot": "x"}
    state = State(session={"fingerprint": before})
    longer = Rung(900.0, {"DEPTH": 8, "KIND": "a"}, {**before, "training_seconds": 900.0})
    assert rung_words(longer, state) == "900 s of training, DEPTH = 8, KIND = 'a'"
    assert rung_words(Rung(300.0, {}, {**before, "chip": "M4"}), state) == "on M4"
    assert rung_words(Rung(300.0, {}, {**before, "os": "2"}), state) == "under other conditions of the machine"
