"""The nouns of the loop: a proposal, the runs that measured it, and the experiment that both make."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

# What of the machine ended a run through no fault of the candidate's: execution/gpu_fault.py tells them apart.
Fault = Literal["", "watchdog", "machine"]

Direction = Literal["minimize", "maximize"]
Status = Literal["keep", "discard", "crash"]
Value = int | float | bool | str
# A difference of fewer standard errors is within the noise.
CLEAR = 2.0


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

    conditions: the machine around it (`agent.execution.conditions`).
    pruned: the part of its budget after which it was ended as hopeless, and `estimate` what its metric would have been.
    rebased: the incumbent's, taken as it came after the machine had changed: earlier runs of it no longer compare.
    source: who computed the metric: the harness's evaluator, which saw nothing of the run but its model; the run
    itself, by its log; or the run itself with the harness's code, because its model could not be traced.
    untimed, overrun: seconds to the hand-over of its model, less the budget, from the command's start and from the
    first text that it trained on. unconfined: nothing kept the run from the person's files.
    fault: of the machine, that ended it again and again. trained: seconds of training by its log, which is the word of
    the run itself.
    """

    metric: float | None
    seconds: float
    secondary: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    out_of_memory: bool = False
    conditions: Mapping[str, float] = field(default_factory=dict)
    log: str = ""
    pruned: float | None = None
    estimate: float | None = None
    rebased: bool = False
    source: Literal["", "attested", "from the log", "untraced"] = ""
    untimed: float | None = None
    overrun: float | None = None
    unconfined: bool = False
    fault: Fault = ""
    trained: float | None = None


@dataclass(frozen=True)
class Evidence:
    """What a verdict rests on.

    how: "confirmed" by repeated runs or because equal programs give equal numbers; "one run"; "simplification", where
    nothing was lost; "repeat" of a known program; "greedy", the classic rule.
    mean, runs: of the candidate; incumbent_mean, incumbent_runs: what it was compared with.
    gain: positive is better, in either direction. noise: standard deviation of one run, 0 where equal programs give
    equal numbers. sigmas: the gain in its own standard errors; None without noise, and where it is only guessed.
    doubt: where incumbent_mean is restated for the steps that the candidate had time for (`decision.equal_steps`), the
    variance that this adds, in that of one run; else None.
    """

    how: str
    mean: float
    runs: int
    incumbent_mean: float
    incumbent_runs: int
    gain: float
    noise: float
    sigmas: float | None
    doubt: float | None = None

    @property
    def confirmed(self) -> bool:
        return self.how in ("confirmed", "simplification")

    @property
    def word(self) -> str:
        """`better`, `worse`, `equal`, or `within noise`."""
        if self.gain and self.sigmas is not None and abs(self.sigmas) < CLEAR:
            return "within noise"
        return "better" if self.gain > 0 else "worse" if self.gain < 0 else "equal"


@dataclass(frozen=True)
class Verdict:
    """evidence: None for the baseline and for what has no metric."""

    status: Status
    reason: str
    evidence: Evidence | None = None


@dataclass(frozen=True)
class Experiment:
    """One proposal and its verdict: one row of results.tsv. Number 0 is the baseline.

    commit: the candidate's own commit, the one that was measured.
    digest: `digest` of all mutable files as measured: equal digests are the same candidate.
    files: those that the proposal changed.
    runs: those before its verdict, which chose it. heldout_runs: those after it was kept, which did not.
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
    heldout_runs: tuple[Run, ...] = ()

    @property
    def void(self) -> bool:
        """Whether its number is no measure of its recipe."""
        return self.verdict.status == "discard" and self.verdict.reason.startswith("void: ")

    @property
    def metric(self) -> float | None:
        """What its row says: the mean that it was judged by. None where its last run failed or was pruned, or void."""
        if self.void:
            return None
        if self.verdict.evidence is not None:
            return self.verdict.evidence.mean
        values = [run.metric for run in self.runs if run.metric is not None]
        return sum(values) / len(values) if values and self.runs[-1].metric is not None else None


def succeeded(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if run.metric is not None]


def metrics(runs: Iterable[Run]) -> list[float]:
    return [run.metric for run in runs if run.metric is not None]


def digest(files: Mapping[str, str]) -> str:
    """SHA-256 over paths and texts: the identity of a candidate."""
    sha = hashlib.sha256()
    for path in sorted(files):
        sha.update(f"{path}\0{len(files[path].encode())}\0".encode())
        sha.update(files[path].encode())
    return sha.hexdigest()


def reservations(runs: Iterable[Run]) -> list[str]:
    """Return what has to be said with every claim that is made from these runs."""
    every = list(runs)
    said = ["unconfined"] if any(run.unconfined for run in every) else []
    return [*said, *(["unattested"] if any(run.source == "untraced" for run in every) else [])]
