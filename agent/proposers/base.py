"""Define the proposer interface: it is asked for the next candidate and told the result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.journal.experiment import Direction, Experiment, Proposal, Value
from agent.playbook.entries import Entry
from agent.proposers.earlier import Earlier
from agent.source.merging import Merge


@dataclass(frozen=True)
class WorkspaceView:
    """Read-only access to the workspace for a proposer; everything it returns is a copy.

    Attributes:
        texts: experiment -> its mutable files as they were measured.
        check: all mutable files of a candidate -> why they would fail to start, or None; takes seconds.
        tick: must be called several times a second during long work; let its exceptions propagate.
        export: write every tracked file of the incumbent below a folder; return the workspace inside it.
        allows: whether a candidate may change a path.
        merge: (ours, base, theirs) -> the merged text, or None if the changes conflict.
    """

    texts: Callable[[Experiment], Mapping[str, str]] = lambda _: {}
    check: Callable[[Mapping[str, str]], str | None] = lambda _: None
    tick: Callable[[], None] = lambda: None
    export: Callable[[Path], Path] = lambda folder: folder
    allows: Callable[[str], bool] = lambda _: True
    merge: Merge = lambda *_: None


NO_WORKSPACE = WorkspaceView()
REPAIRED = " (repaired)"


@dataclass(frozen=True)
class Flying:
    """A candidate that is being measured.

    Attributes:
        files: the files that it changes.
        metric: the mean of its runs so far, on the scale of the session's other metrics; None before the first.
        playbook: the title of the entry of the playbook that it tries; empty for none.
    """

    number: int
    description: str
    parameters: Mapping[str, Value]
    digest: str
    files: tuple[str, ...]
    metric: float | None = None
    playbook: str = ""


@dataclass(frozen=True)
class Context:
    """Everything a proposer may know. All of it is a copy: a proposer never touches the workspace.

    Attributes:
        number: the experiment to propose; together with `seed` it makes a proposal reproducible.
        files: path -> text of every mutable file of the incumbent.
        history: all experiments of the session, the baseline (number 0) first.
        constants: values that the harness defines and the files use (PROFILE, MAX_SEQ_LEN, ...), from the snapshot.
        metric: name of the metric.
        rules: goal and rules, from the protocol.
        program: the user's current program.md.
        machine: hardware and data, one per line.
        workspace: read-only access to the workspace.
        folder: where to keep transcripts and logs of this experiment; None to keep none.
        earlier: experiments of other sessions to learn from.
        flight: the candidates that are being measured.
        playbook: the entries of the user's current playbook.md.
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
    earlier: tuple[Earlier, ...] = ()
    flight: tuple[Flying, ...] = ()
    playbook: tuple[Entry, ...] = ()


def as_repaired(description: str) -> str:
    """Return the description of a candidate that its author has repaired: its words are those of the first version."""
    return description if description.endswith(REPAIRED) else f"{description}{REPAIRED}"


def question_of(context: Context, draft: Mapping[str, str] | None = None) -> str:
    """Return a SHA-256 over all that an answer may change: one to another question is no answer to this.

    Args:
        draft: path -> text, which an agent finds in its copy as an uncommitted change.
    """
    asked = [context.number, context.incumbent.commit, sorted(context.files.items()), sorted((draft or {}).items())]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


class Exhausted(Exception):
    """A proposer has no new candidates left; the text says why."""


class Unavailable(Exception):
    """A proposer is unavailable; the text says why.

    Attributes:
        retry_after: seconds that the server asked to wait; None if it did not say.
        lasting: retrying soon is pointless, because the user has to fix something.
        for_good: do not ask again in this session.
    """

    def __init__(
        self, reason: str, retry_after: float | None = None, *, lasting: bool = False, for_good: bool = False
    ) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.lasting = lasting or for_good
        self.for_good = for_good


class NoProposal(Exception):
    """A proposer answered, but without a usable proposal; the text says why.

    Attributes:
        final: asking again for the same experiment gives no usable proposal either.
        replayed: it was not asked now: the answers are those of an earlier start.
    """

    def __init__(self, reason: str, *, final: bool = False, replayed: bool = False) -> None:
        super().__init__(reason)
        self.final = final
        self.replayed = replayed


class Proposer(Protocol):
    """A source of candidates."""

    name: str

    def ask(self, context: Context) -> Proposal:
        """Return a candidate that differs from all those in `context.history` and `context.flight`.

        Raises:
            Exhausted: no new candidates are left.
            Unavailable: the model or agent that it depends on is unavailable.
            NoProposal: the model or agent gave no usable proposal.
        """
        ...

    def repair(self, context: Context, error: str, attempt: int) -> Proposal | None:
        """Return a repaired version of the proposer's own candidate, which crashed, or None.

        Args:
            context: its files are those of the crashed candidate.
            error: the end of the candidate's log.
            attempt: 1, 2, ... within the experiment.
        """
        ...

    def tell(self, experiment: Experiment) -> None:
        """Learn from a finished experiment; called for the whole history, in order, before the first `ask`."""
        ...
