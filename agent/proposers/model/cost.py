"""What models cost, and the cap on it: checked before each call, with that call's own worst case."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import UsageError
from agent.format import one_line
from agent.journal.state import Spent
from agent.proposers.base import NoProposal, Unavailable
from agent.proposers.model.wire import Answer, ModelSpec
from agent.system.files import read_bounded, reason
from agent.system.patterns import short

TABLE = Path(__file__).with_name("prices.toml")
# Beyond the bytes of a prompt: what a server adds to it for roles and formatting.
OVERHEAD_TOKENS = 1000
LARGEST_TABLE = 2**20
DEAREST = 1e6  # dollars for a million tokens


@dataclass(frozen=True)
class Price:
    """Dollars for a million tokens."""

    input: float
    output: float

    def of(self, input_tokens: int, output_tokens: int) -> float:
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


def price_of(model: ModelSpec, own_table: Path) -> Price | None:
    """From the person's own table, then the one that comes with the program. None where neither knows the model.

    Raises UsageError where the person's own cannot be read.
    """
    if model.local:
        return Price(0.0, 0.0)
    for table in (own_table, TABLE):
        entries = _read(table)
        fitting = [name for name in entries if model.label.startswith(name)]
        if fitting:
            entry = entries[max(fitting, key=len)]
            return Price(float(entry["input"]), float(entry["output"]))
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        entries = tomllib.loads(read_bounded(path, LARGEST_TABLE).decode())
        for name, entry in entries.items():
            if not (isinstance(entry, dict) and _is_price(entry.get("input")) and _is_price(entry.get("output"))):
                raise ValueError(f"{short(name)} needs input and output in dollars for a million tokens")
        return entries
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"the price table {path} cannot be used: {reason(error)}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the price table {path} cannot be used: {one_line(str(error))}") from None


def _is_price(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= DEAREST


class SpendingCap:
    """spent: what the session has cost so far, by experiment. record: journals a call; it comes back in `spent`.

    A call is journalled before it is made, at the worst that it can cost, and again when that is known: a loop that is
    killed in between has paid nobody knows what.
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
            raise UsageError(
                f"the price of {model.label} is not known, so a cap on its cost cannot be kept: add it to "
                ".autoresearch/prices.toml (docs/models.md), or leave the cap out"
            )
        self._model, self._price = model, price
        self._most, self._most_per_experiment = most, most_per_experiment
        self._spent, self._record = spent, record

    def require(self, number: int, prompt: str, most_tokens: int) -> None:
        """Raises Unavailable for good, or a final NoProposal, where the next call could go beyond a cap.

        No tokenizer makes more tokens than there are bytes.
        """
        if self._price is None:
            return
        worst = self._price.of(len(prompt.encode()) + OVERHEAD_TOKENS, most_tokens)
        spent = self._spent()
        total = sum(max(0.0, each.dollars) for each in spent.values())
        # Asked so that what is no number is beyond any cap.
        if self._most is not None and not total + worst <= self._most:
            raise Unavailable(
                f"the next call could cost ${worst:.2f}, and ${total:.2f} of --max-cost {self._most:g} is spent",
                for_good=True,
            )
        here = max(0.0, spent.get(number, Spent()).dollars)
        if self._most_per_experiment is not None and not here + worst <= self._most_per_experiment:
            reason = (
                f"the next call could cost ${worst:.2f}, and ${here:.2f} of --max-cost-per-experiment "
                f"{self._most_per_experiment:g} is spent"
            )
            # A first call that is too dear is so in each experiment to come.
            raise NoProposal(reason, final=True) if here else Unavailable(reason, for_good=True)

    def reserve(self, number: int, prompt: str, most_tokens: int) -> None:
        """Journal a call that is about to be made."""
        self._journal("calling", number, prompt, most_tokens, None)

    def charge(self, number: int, prompt: str, most_tokens: int, answer: Answer | None) -> None:
        """Journal what a call has cost.

        What the server does not tell, or tells beyond all that the call can cost, is taken to be the worst.
        """
        self._journal("called", number, prompt, most_tokens, answer)

    def refund(self, number: int) -> None:
        """Journal that the call which was about to be made was not taken."""
        self._record("refused", number=number)

    def _journal(self, kind: str, number: int, prompt: str, most_tokens: int, answer: Answer | None) -> None:
        told = answer or Answer("", None, None)
        tokens_in = _told(told.input_tokens, len(prompt.encode()) + OVERHEAD_TOKENS)
        tokens_out = _told(told.output_tokens, most_tokens)
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
