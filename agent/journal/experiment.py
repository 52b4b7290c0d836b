"""The data types of the loop: a proposal, the runs that measure it, and the experiment they form."""

from __future__ import annotations

import hashlib
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

# The kind of failure of the GPU that ended a run, see execution/gpu_fault.py. "watchdog": the system stopped work that
# took too long, as it does while a display is on. "kernel": a kernel failed, which the candidate or the machine may
# have caused. "leak": too many buffers. "machine": the device or its driver failed, or another program's work did.
Fault = Literal["", "watchdog", "kernel", "leak", "machine"]

Direction = Literal["minimize", "maximize"]
Status = Literal["keep", "discard", "crash"]
Value = int | float | bool | str
# In standard errors. A smaller difference is within the noise.
CLEAR = 2.0
# The error of a few sums and differences, as a fraction of the largest number in them.
ROUNDING = 16 * sys.float_info.epsilon
# How the error of a run begins that knew its metric before it failed: it is not repeated.
KNEW = "failed after its metric was known: "
# How the reason of a voided experiment begins: now, and in the journals of earlier versions.
VOIDED = re.compile(r"void(?:ed)?: ")
# How the reason of a candidate begins that did well on an incumbent which another one replaced meanwhile.
OVERTAKEN = re.compile(r"(?:better than|promising against) #\d+, but #\d+ was kept meanwhile[^(]*")
# How the reason of a candidate goes on that did well on an old incumbent, if nothing follows from that.
OPEN = re.compile(r", and (?:it conflicts with|the session ends before) ")


@dataclass(frozen=True)
class Proposal:
    """New contents for some of the mutable files.

    Attributes:
        files: path relative to the workspace -> the complete new text.
        parameters: every tunable constant of the candidate, for the search to learn from.
        proposer: the name of the proposer, if it is not the session's own; else empty.
        expected: the change of the metric that the proposer expects; None if it named none.
        playbook: the title of the entry of the playbook that it tries; empty for none.
        parts: the numbers of the near misses that it makes together; empty for none.
    """

    files: Mapping[str, str]
    description: str
    reasoning: str = ""
    parameters: Mapping[str, Value] = field(default_factory=dict)
    proposer: str = ""
    expected: float | None = None
    playbook: str = ""
    parts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Run:
    """One execution of the protocol's command.

    Attributes:
        metric: None if the run failed; `error` then holds the reason.
        seconds: wall-clock time of the command.
        conditions: the state of the machine during the run (`agent.execution.conditions`).
        pruned: the fraction of its budget after which the run was pruned; None if it was not.
        estimate: of a pruned run, the metric it would probably have reached.
        rebased: a run of the incumbent that was accepted after the machine's state had changed. Earlier runs of the
            incumbent are no longer comparable.
        source: who computed the metric. "attested": the harness's evaluator, which saw only the run's model. "from the
            log": the run itself. "untraced": the run itself, with the harness's code, because its model could not be
            traced.
        untimed: seconds from the start of the command to the handover of its model, minus the budget.
        overrun: the same, counted from the first text that it trained on.
        evaluated: seconds that the evaluator took to compute its metric.
        unconfined: no sandbox kept the run away from the user's files.
        fault: the fault of the GPU that ended it; empty for none. Such a run is repeated, and is part of an experiment
            only if the fault kept coming back.
        trained: seconds of training as printed in its log, which the run itself writes.
        seed: the seed that was set for this run; None if it used the recipe's own.
        holdout: the metric of its model on the holdout; None if that was not computed.
        station: the name of the station that it ran on; empty in a session of one machine.
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
    evaluated: float | None = None
    unconfined: bool = False
    fault: Fault = ""
    trained: float | None = None
    seed: int | None = None
    holdout: float | None = None
    station: str = ""

    @property
    def voided(self) -> bool:
        """Whether it was rejected as a measure of its recipe, as a run that trained for too long is."""
        return self.metric is None and VOIDED.match(self.error or "") is not None


@dataclass(frozen=True)
class Screen:
    """A run at a rung below the full one: with a shorter training. It is never among an experiment's `runs`.

    Attributes:
        rung: its training budget in seconds.
        run: its metric is that of the shorter training. If the candidate was discarded for it, `estimate` is the metric
            that it would probably have reached at the full rung.
        edit: the kind of its edit (`agent.pruning.rungs`).
        lead: how much better than the incumbent's it was; positive is better. None if it decides nothing.
        chance: the forecast probability that the verdict at the full rung would be a keep; None without a forecast.
        then: what follows from it. "discard": the verdict. "control": the candidate goes on although the forecast would
            discard it. "on": it goes on. Empty for a run of the incumbent.
        reason: of the discard.
    """

    rung: float
    run: Run
    edit: str = ""
    lead: float | None = None
    chance: float | None = None
    then: Literal["", "discard", "control", "on"] = ""
    reason: str = ""


@dataclass(frozen=True)
class Evidence:
    """The numbers behind a verdict.

    Attributes:
        how: "confirmed": by repeated runs, or because equal programs give equal numbers. "one run": not repeated.
            "simplification": less code at no loss. "repeat": a program that is already known. "greedy": the classic
            rule.
        mean: mean metric of the candidate over `runs` runs.
        incumbent_mean: mean metric of the incumbent over `incumbent_runs` runs.
        gain: positive is better in either direction.
        noise: standard deviation of one run; 0 if equal programs give equal numbers.
        sigmas: the gain in its own standard errors; None without noise, or if the noise is only a guess.
        doubt: if incumbent_mean is adjusted for the candidate's number of steps (`decision.equal_steps`), the variance
            that this adds, in units of the variance of one run; else None. In a session with stations it is the
            variance that their differences add as well.
        stations: the gain on each station that both ran on; empty in a session of one machine.
        adjusted: whether `doubt`, if any, is that of an adjustment for steps.
        own_noise: whether `noise` is the candidate's own, because its runs clearly differ by more than the session's.
        degrees: degrees of freedom of `noise`; None without noise, and in journals of earlier versions.
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
    stations: Mapping[str, float] = field(default_factory=dict)
    adjusted: bool = True
    own_noise: bool = False
    degrees: float | None = None

    @property
    def equal_steps(self) -> bool:
        return self.doubt is not None and self.adjusted

    @property
    def confirmed(self) -> bool:
        return self.how in ("confirmed", "simplification")

    @property
    def word(self) -> str:
        """Describe the gain as `better`, `worse`, `equal`, or `within noise`."""
        if self.gain and self.sigmas is not None and abs(self.sigmas) < CLEAR:
            return "within noise"
        return "better" if self.gain > 0 else "worse" if self.gain < 0 else "equal"


@dataclass(frozen=True)
class Verdict:
    """The decision about a candidate. `evidence` is None for the baseline and for a candidate without a metric."""

    status: Status
    reason: str
    evidence: Evidence | None = None


@dataclass(frozen=True)
class Experiment:
    """One proposal and its verdict: one row of results.tsv. Number 0 is the baseline.

    Attributes:
        commit: the candidate's own commit, the one that was measured.
        digest: `digest` of all mutable files as measured; equal digests mean the same candidate.
        files: the files that the proposal changed.
        runs: selection runs, made before the verdict.
        heldout_runs: held-out runs, made after it was kept.
        base: number of the kept experiment that stations compared it with; None for the incumbent of its time.
        candidate: its number in order of proposal, in a session with stations; else None.
        playbook: the title of the entry of the playbook that it tries; empty for none.
        screens: its screens as a candidate, made before the verdict.
        heldout_screens: its screens as the incumbent, made after it was kept.
        parts: the numbers of the near misses that it makes together; empty for none.
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
    base: int | None = None
    candidate: int | None = None
    playbook: str = ""
    screens: tuple[Screen, ...] = ()
    heldout_screens: tuple[Screen, ...] = ()
    parts: tuple[int, ...] = ()

    @property
    def kept(self) -> bool:
        """Whether its verdict is a keep, as that of the baseline is."""
        return self.verdict.status == "keep"

    @property
    def seconds(self) -> float:
        """The duration of its runs before the verdict, screens included."""
        return sum(run.seconds for run in (*(each.run for each in self.screens), *self.runs))

    @property
    def rung(self) -> float | None:
        """The training budget of the screen that discarded it; None if it was judged at the full rung."""
        return next((each.rung for each in self.screens if each.then == "discard"), None)

    @property
    def voided(self) -> bool:
        """Whether its metric was rejected as a measure of its recipe."""
        return self.verdict.status == "discard" and VOIDED.match(self.verdict.reason) is not None

    @property
    def ended_by_fault(self) -> bool:
        """Whether a fault of the machine ended it, which says nothing about its recipe."""
        return bool(self.runs) and self.runs[-1].fault != ""

    @property
    def overtaken(self) -> str | None:
        """Why a candidate that did well was not kept, as another one was meanwhile, and what follows; else None."""
        found = OVERTAKEN.match(self.verdict.reason)
        return found[0].strip() if found and self.verdict.status == "discard" else None

    @property
    def is_open(self) -> bool:
        """Whether it did well, and neither it nor its change was compared with what was kept meanwhile.

        Its program may be proposed again, unlike that of any other experiment.
        """
        return self.overtaken is not None and OPEN.search(self.overtaken) is not None

    @property
    def metric(self) -> float | None:
        """The mean that the verdict used, as in its row; None if voided, or if its last run failed or was pruned."""
        if self.voided:
            return None
        if self.verdict.evidence is not None:
            return self.verdict.evidence.mean
        values = [run.metric for run in self.runs if run.metric is not None]
        return mean(values) if values and self.runs[-1].metric is not None else None


def verdict_from(data: Mapping[str, Any]) -> Verdict:
    """Return the verdict of an event."""
    evidence = Evidence(**data["evidence"]) if data.get("evidence") else None
    return Verdict(data["status"], data["reason"], evidence)


def succeeded(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if run.metric is not None]


def metrics(runs: Iterable[Run]) -> list[float]:
    return [run.metric for run in runs if run.metric is not None]


def mean(values: Sequence[float]) -> float:
    """Return the mean. That of equal numbers is the number itself, which their sum may miss in the last digit.

    Where equal programs give equal numbers, that digit would be a gain.
    """
    if min(values) == max(values):
        return values[0]
    return math.fsum(values) / len(values)


def beyond_rounding(difference: float, *numbers: float) -> float:
    """Return a difference of these numbers, or of differences of them; 0 if rounding alone explains it.

    Where equal programs give equal numbers, the rest would be a gain, or a cost, with an interval without zero.
    """
    return 0.0 if abs(difference) <= ROUNDING * max(map(abs, numbers)) else difference


def by_station(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return the runs of each station in their order; in a session of one machine all have the same station."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.station, []).append(run)
    return found


def digest(files: Mapping[str, str]) -> str:
    """Return the SHA-256 of paths and texts, the identity of a candidate."""
    sha = hashlib.sha256()
    for path in sorted(files):
        sha.update(f"{path}\0{len(files[path].encode())}\0".encode())
        sha.update(files[path].encode())
    return sha.hexdigest()


# The caveat if faults of the GPU ended runs of one side alone: a program can fake one, to be repeated.
REPEATED = "repeated after faults"


def reservations(runs: Iterable[Run]) -> list[str]:
    """Return the caveats that belong to every claim based on these runs."""
    every = list(runs)
    said = ["unconfined"] if any(run.unconfined for run in every) else []
    return [*said, *(["unattested"] if any(run.source == "untraced" for run in every) else [])]
