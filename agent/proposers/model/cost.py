"""Compute the cost of model calls, and enforce the cap: before each call, with the worst-case cost of that call."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import UsageError
from agent.format import one_line
from agent.journal.state import Spent
from agent.proposers.base import NoProposal, Unavailable
from agent.proposers.model.servers import ModelSpec
from agent.proposers.model.wire import Answer
from agent.system.files import read_bounded, reason
from agent.system.patterns import short

TABLE = Path(__file__).with_name("prices.toml")
# What a server adds to a prompt for roles and formatting.
OVERHEAD_TOKENS = 1000
LARGEST_TABLE = 2**20
# What may follow the name of a model at one price: a minor version or a date, and `-latest`.
OF_ONE_PRICE = re.compile(r"(-\d+)*(-latest)?")
DEAREST = 1e6  # dollars per million tokens


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens."""

    input: float
    output: float

    def of(self, input_tokens: int, output_tokens: int) -> float:
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


def price_of(model: ModelSpec, own_table: Path) -> Price | None:
    """Return the price of a model, or None if it is not listed.

    Args:
        own_table: the user's price table, which takes precedence over the program's.

    Raises:
        UsageError: the user's price table cannot be read.
    """
    for table in (own_table, TABLE):
        entries = _read(table)
        fitting = [name for name in entries if model.label.startswith(name)]
        if table == TABLE:  # the user knows what costs the same, but gpt-5.2 is no gpt-5
            fitting = [name for name in fitting if OF_ONE_PRICE.fullmatch(model.label.removeprefix(name))]
        if fitting:
            entry = entries[max(fitting, key=len)]
            return Price(float(entry["input"]), float(entry["output"]))
    return Price(0.0, 0.0) if model.free else None


def _read(path: Path) -> dict[str, Any]:
    try:
        entries = tomllib.loads(read_bounded(path, LARGEST_TABLE).decode())
        for name, entry in entries.items():
            if not (isinstance(entry, dict) and _is_price(entry.get("input")) and _is_price(entry.get("output"))):
                raise ValueError(f"{short(name)} needs input and output in dollars per million tokens")
        return entries
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"cannot read the price table {path}: {reason(error)}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"invalid price table {path}: {one_line(str(error))}", hint="fix it, or remove it to use built-in prices"
        ) from None


def _is_price(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= DEAREST


class SpendingCap:
    """A cap on the cost of model calls.

    A call is journaled at its worst-case cost before it is made, and again when its cost is known: if the loop is
    killed in between, the real cost is unknown.

    Args:
        price: None if it is unknown.
        most: dollars per session; None for no cap.
        most_per_experiment: dollars per experiment; None for no cap.
        spent: returns the cost of the session so far, by experiment.
        record: writes a call to the journal, so that `spent` includes it.

    Raises:
        UsageError: there is a cap but no known price.
    """

    def __init__(
        self,
        model: ModelSpec,
        price: Price | None,
        most: float | None,
        most_per_experiment: float | None,
        spent: Callable[[], Mapping[int, Spent]],
        record: Callable[..., None],
    ) -> None:
        if price is None and (most is not None or most_per_experiment is not None):
            flag = "--max-cost" if most is not None else "--max-cost-per-experiment"
            raise UsageError(
                f"{flag} needs the price of {model.label}, which is unknown",
                hint=f"add it to .autoresearch/prices.toml, 0 if it is free (see docs/models.md), or use `{flag} inf`",
            )
        self._model, self._price = model, price
        self._most, self._most_per_experiment = most, most_per_experiment
        self._spent, self._record = spent, record

    def require(self, number: int, prompt: str, most_tokens: int, *, opens: bool = True) -> None:
        """Check that the next call cannot exceed a cap.

        Its worst case is one input token per byte of the prompt, because no tokenizer makes more.

        Args:
            opens: whether it asks for a proposal. One that corrects or repairs it may be larger than those to come.

        Raises:
            Unavailable: it could exceed a cap for the rest of the session.
            NoProposal: it could exceed the cap of this experiment, or that of the session although another may not.
        """
        if self._price is None:
            return
        worst = self._price.of(len(prompt.encode()) + OVERHEAD_TOKENS, most_tokens)
        spent = self._spent()
        total = sum(max(0.0, each.dollars) for each in spent.values())
        # Written so that NaN exceeds any cap.
        if self._most is not None and not total + worst <= self._most:
            reason = f"the next call could cost ${worst:.2f}, and ${total:.2f} of --max-cost {self._most:g} is spent"
            raise Unavailable(reason, for_good=True) if opens else NoProposal(reason, final=True)
        here = max(0.0, spent.get(number, Spent()).dollars)
        if self._most_per_experiment is not None and not here + worst <= self._most_per_experiment:
            reason = (
                f"the next call could cost ${worst:.2f}, and ${here:.2f} of --max-cost-per-experiment "
                f"{self._most_per_experiment:g} is spent"
            )
            # If the first call is too expensive, it is so in every later experiment.
            raise NoProposal(reason, final=True) if here else Unavailable(reason, for_good=True)

    def reserve(self, number: int, prompt: str, most_tokens: int) -> None:
        """Journal a call that is about to be made."""
        self._journal("calling", number, prompt, most_tokens, None)

    def charge(self, number: int, prompt: str, most_tokens: int, answer: Answer | None) -> None:
        """Journal the cost of a call.

        The worst case stands in for counts that the server does not report, or that exceed it.

        Args:
            answer: None if the call failed.
        """
        self._journal("called", number, prompt, most_tokens, answer)

    def refund(self, number: int) -> None:
        """Journal that the server refused the call, which costs nothing."""
        self._record("refused", number=number)

    def _journal(self, kind: str, number: int, prompt: str, most_tokens: int, answer: Answer | None) -> None:
        told = answer or Answer("", None, None)
        # Some gateways report zeros while they stream. Only an answer without text may have none.
        untold = not told.output_tokens and (told.text or not told.input_tokens)
        tokens_in = _told(told.input_tokens or None, len(prompt.encode()) + OVERHEAD_TOKENS)
        tokens_out = _told(None if untold else told.output_tokens, most_tokens)
        dollars = self._price.of(tokens_in, tokens_out) if self._price else 0.0
        self._record(
            kind,
            number=number,
            model=self._model.label,
            input_tokens=tokens_in,
            output_tokens=tokens_out,
            dollars=dollars,
        )


def _told(tokens: int | None, worst: int) -> int:
    return tokens if tokens is not None and 0 <= tokens <= worst else worst
