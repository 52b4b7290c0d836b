"""What a proposer is: it is asked for the next candidate and told what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.journal.experiment import Direction, Experiment, Proposal, Value


@dataclass(frozen=True)
class WorkspaceView:
    """What a proposer may ask of the workspace, which answers with copies.

    texts: an experiment -> its mutable files as they were measured.
    check: all mutable files of a candidate -> why they would not even start, None where nothing speaks against them;
        it takes seconds.
    tick: to be called several times a second by whatever takes long; what it raises must pass.
    export: writes every tracked file, as the incumbent has it, below a folder; returns the workspace in there.
    allows: whether a candidate may change a path.
    """

    texts: Callable[[Experiment], Mapping[str, str]] = lambda _: {}
    check: Callable[[Mapping[str, str]], str | None] = lambda _: None
    tick: Callable[[], None] = lambda: None
    export: Callable[[Path], Path] = lambda folder: folder
    allows: Callable[[str], bool] = lambda _: True


NO_WORKSPACE = WorkspaceView()


@dataclass(frozen=True)
class Context:
    """What a proposer may know. Everything here is a copy: a proposer never touches the workspace.

    number: of the experiment to propose; with `seed` it makes a proposal repeatable.
    files: path -> text of every mutable file as the incumbent has it.
    history: all experiments of the session, the baseline (number 0) first.
    constants: what the harness defines and the files use (PROFILE, MAX_SEQ_LEN, ...), from the snapshot.
    metric: its name. rules: goal and rules, from the protocol. program: the person's program.md as it is now.
    machine: hardware and data, a line each.
    workspace: what it may ask of the workspace.
    folder: where to keep what was said about this experiment; None where nothing is kept.
    """

    number: int
    seed: int
    files: Mapping[str, str]
    incumbent: Experiment
    history: tuple[Experiment, ...]
    direction: Direction
    constants: Mapping[str, Value]
    metric: str = "the metric"
    rules: str = ""
    program: str = ""
    machine: str = ""
    workspace: WorkspaceView = NO_WORKSPACE
    folder: Path | None = None


class Exhausted(Exception):
    """A proposer has nothing new to propose; its text says why."""


class Unavailable(Exception):
    """A proposer cannot be had for now; its text says why.

    retry_after: seconds that it asked for itself. lasting: trying again soon is of no use, a person has to mend it.
    for_good: it will not be asked again in this session.
    """

    def __init__(
        self, reason: str, retry_after: float | None = None, *, lasting: bool = False, for_good: bool = False
    ) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.lasting = lasting or for_good
        self.for_good = for_good


class NoProposal(Exception):
    """A proposer was there but gave nothing that can be measured; its text says why.

    final: asked again for the same experiment it gives nothing either.
    """

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


class Proposer(Protocol):
    name: str

    def ask(self, context: Context) -> Proposal:
        """Return a candidate that differs from every one in `context.history`.

        Raises Exhausted, and what depends on something outside Unavailable and NoProposal.
        """
        ...

    def repair(self, context: Context, error: str, attempt: int) -> Proposal | None:
        """Repair its own candidate, which crashed: the context's files are the candidate's, `error` ends its log.

        attempt: 1, 2, ... within the experiment. None where it has nothing better.
        """
        ...

    def tell(self, experiment: Experiment) -> None:
        """Learn from a finished experiment. Called for the whole history, in order, before the first `ask`."""
        ...
