"""What a proposer is: it is asked for the next candidate and told what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from agent.experiment import Direction, Experiment, Proposal, Value


@dataclass(frozen=True)
class Context:
    """What a proposer may know. Everything here is a copy: a proposer never touches the workspace.

    number: of the experiment to propose; with `seed` it makes a proposal repeatable.
    files: path -> text of every mutable file as the incumbent has it.
    history: all experiments of the session, the baseline (number 0) first.
    constants: what the harness defines and the files use (PROFILE, MAX_SEQ_LEN, ...), from the snapshot.
    """

    number: int
    seed: int
    files: Mapping[str, str]
    incumbent: Experiment
    history: tuple[Experiment, ...]
    direction: Direction
    constants: Mapping[str, Value]


class Exhausted(Exception):
    """A proposer has nothing new to propose; its text says why."""


class Proposer(Protocol):
    name: str

    def ask(self, context: Context) -> Proposal:
        """Return a candidate that differs from every one in `context.history`. Raises Exhausted."""
        ...

    def tell(self, experiment: Experiment) -> None:
        """Learn from a finished experiment. Called for the whole history, in order, before the first `ask`."""
        ...
