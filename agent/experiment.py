"""The nouns of the loop: a proposal, the runs that measured it, and the experiment that both make."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Direction = Literal["minimize", "maximize"]
Status = Literal["keep", "discard", "crash"]
Value = int | float | bool | str


@dataclass(frozen=True)
class Proposal:
    """New texts for some of the mutable files.

    files: path relative to the workspace -> the whole new text.
    parameters: every tunable constant of the candidate, so that a search can learn from it later.
    proposer: who made it, where that is not the session's proposer itself.
    expected: the change of the metric that its proposer expects; None where it expects none in particular.
    """

    files: Mapping[str, str]
    description: str
    reasoning: str = ""
    parameters: Mapping[str, Value] = field(default_factory=dict)
    proposer: str = ""
    expected: float | None = None


@dataclass(frozen=True)
class Run:
    """One execution of the protocol's command. `metric` is None where the run failed; `error` then says why.

    conditions: the machine around it when it ended (`agent.conditions`).
    """

    metric: float | None
    seconds: float
    secondary: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    out_of_memory: bool = False
    conditions: Mapping[str, float] = field(default_factory=dict)
    log: str = ""


@dataclass(frozen=True)
class Verdict:
    status: Status
    reason: str


@dataclass(frozen=True)
class Experiment:
    """One proposal and its verdict: one row of results.tsv. Number 0 is the baseline.

    commit: the candidate's own commit, the one that was measured.
    digest: `digest` of all mutable files as measured: equal digests are the same candidate.
    files: those that the proposal changed.
    """

    number: int
    proposer: str
    description: str
    commit: str
    digest: str
    parameters: Mapping[str, Value]
    runs: tuple[Run, ...]
    verdict: Verdict
    files: tuple[str, ...] = ()
    reasoning: str = ""
    expected: float | None = None

    @property
    def metric(self) -> float | None:
        """The last run's metric: earlier ones failed and were repeated."""
        return self.runs[-1].metric if self.runs else None


def digest(files: Mapping[str, str]) -> str:
    """SHA-256 over paths and texts: the identity of a candidate."""
    sha = hashlib.sha256()
    for path in sorted(files):
        sha.update(f"{path}\0{len(files[path].encode())}\0".encode())
        sha.update(files[path].encode())
    return sha.hexdigest()
