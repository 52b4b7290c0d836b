"""The experiment in progress, as the fold of a journal knows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.journal.experiment import Experiment, Run, Screen, Value, Verdict


@dataclass(frozen=True)
class Pending:
    """The experiment in progress.

    Attributes:
        proposed_at: Unix time in seconds, as is `started_at`.
        commit: None until the candidate is committed.
        revisions: number of new versions of the candidate, including repairs.
        started: the data of the `started` event while a run is in progress; else None.
        refreshed: number of runs of the incumbent during this experiment.
        rebases: number of those that were accepted after the machine's state had changed.
        rebased_at: number of runs of the candidate before the latest rebase.
        faulted: number of faults of the GPU in a row that ended runs of the candidate.
        provoked: whether the faults of an earlier version were its own.
        candidate: the candidate of a session with stations that this records (`agent.journal.flight`); else None.
        playbook: the title of the entry of the playbook that it tries; empty for none.
        screens: its screens, in which it was trained for less.
        parts: the numbers of the near misses that it makes together; empty for none.
    """

    number: int
    proposer: str
    description: str
    reasoning: str
    parameters: Mapping[str, Value]
    digest: str
    files: tuple[str, ...]
    proposed_at: float
    commit: str | None = None
    revisions: int = 0
    repairs: int = 0
    started: Mapping[str, Any] | None = None
    started_at: float | None = None
    runs: tuple[Run, ...] = ()
    verdict: Verdict | None = None
    expected: float | None = None
    refreshed: int = 0
    rebases: int = 0
    rebased_at: int = 0
    faulted: int = 0
    provoked: bool = False
    candidate: int | None = None
    playbook: str = ""
    screens: tuple[Screen, ...] = ()
    parts: tuple[int, ...] = ()

    @property
    def screened_out(self) -> Screen | None:
        """The screen whose forecast discards it; None if it is judged at the full rung."""
        return next((each for each in self.screens if each.then == "discard"), None)

    @property
    def experiment(self) -> Experiment:
        assert self.commit is not None and self.verdict is not None
        return Experiment(
            number=self.number,
            proposer=self.proposer,
            description=self.description,
            commit=self.commit,
            digest=self.digest,
            files=self.files,
            parameters=self.parameters,
            runs=self.runs,
            verdict=self.verdict,
            reasoning=self.reasoning,
            expected=self.expected,
            candidate=self.candidate,
            playbook=self.playbook,
            screens=self.screens,
            parts=self.parts,
        )
