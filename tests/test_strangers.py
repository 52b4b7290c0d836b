"""Bytes that strangers wrote end no session: proposers that fail, journals and folders that somebody prepared."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from agent.errors import AutoresearchError, Interrupted, Violation
from agent.experiment import Experiment, Proposal, Run, Verdict
from agent.proposers.base import Away, Context, Exhausted
from agent.proposers.hybrid import HybridProposer
from agent.proposers.search import SearchProposer

TEXT = "RATE = 0.1  # search: 0.001..10 log\nDEPTH = 4  # search: 1..16\n"


def experiment(number: int = 0, metric: float = 1.0) -> Experiment:
    run = Run(metric, 1.0)
    return Experiment(number, "baseline", "as it is", "c" * 40, f"d{number}", {}, (run,), Verdict("keep", "baseline"))


def context(**changes: Any) -> Context:
    base: dict[str, Any] = {
        "number": 1, "seed": 0, "files": {"train.py": TEXT}, "incumbent": experiment(), "history": (experiment(),),
        "direction": "minimize", "constants": {},
    }  # fmt: skip
    return Context(**{**base, **changes})


class Failing:
    """A proposer that fails as it is told to."""

    name = "llm"

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def tell(self, experiment: Experiment) -> None:
        pass

    def ask(self, context: Context) -> Proposal:  # noqa: ARG002
        raise self.error

    def mend(self, context: Context, error: str, attempt: int) -> Proposal:  # noqa: ARG002
        raise self.error


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError


ERRORS = [
    ValueError("odd\x1b[31m"), RecursionError(), MemoryError(), OSError(5, "Input/output error"), AttributeError("x"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), KeyError("usage"), AssertionError(), OverflowError("large"),
    StopIteration(), TimeoutError(), Violation("prepare.py changed"), Mute(), ZeroDivisionError(), ImportError("no"),
]  # fmt: skip


def hybrid(error: BaseException, said: list[tuple[str, dict[str, Any]]]) -> HybridProposer:
    def announce(kind: str, **data: Any) -> None:
        said.append((kind, data))

    return HybridProposer("llm", SearchProposer(), Failing(error), share=1.0, fallback_after=5.0, announce=announce)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_any_exception_of_a_proposer_is_an_absence(error: Exception) -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    proposer = hybrid(error, said)
    began = time.monotonic()
    assert proposer.ask(context()).proposer == "search"
    assert time.monotonic() - began < 3
    kind, data = said[-1]
    assert kind == "away" and type(error).__name__ in data["reason"]
    assert json.dumps(data) and "\x1b" not in data["reason"] and "\n" not in data["reason"]
    assert proposer.mend(context(), "log", 1) is None
    assert said[-1][0] == "unmended" and type(error).__name__ in said[-1][1]["reason"]


@pytest.mark.parametrize("error", [Interrupted("stop", 130), KeyboardInterrupt(), AutoresearchError("no room")])
def test_what_ends_the_session_passes(error: BaseException) -> None:
    with pytest.raises(type(error)):
        hybrid(error, []).ask(context())


def test_what_a_tick_raises_passes() -> None:
    class Stop(Exception):
        pass

    def tick() -> None:
        raise Stop

    class Ticking(Failing):
        def ask(self, context: Context) -> Proposal:
            context.tick()
            raise AssertionError

    proposer = HybridProposer(
        "llm", SearchProposer(), Ticking(ValueError()), share=1.0, fallback_after=0.0, announce=lambda *_, **__: None
    )
    with pytest.raises(Stop):
        proposer.ask(context(tick=tick))


@pytest.mark.parametrize("wanted", [float("nan"), float("inf"), -1e300, 1e300])
def test_no_wait_is_longer_than_an_hour(wanted: float) -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    assert hybrid(Away("busy", wanted), said).ask(context()).proposer == "search" if wanted > 0 else True
    if wanted > 0:
        assert said[-1][0] == "away" and said[-1][1]["until"] - time.time() < 3700


def test_a_search_that_fails_says_so_in_a_sentence() -> None:
    with pytest.raises(Exhausted, match="AttributeError"):
        SearchProposer().ask(context(files={"train.py": None}))
