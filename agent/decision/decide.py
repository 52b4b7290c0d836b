"""From runs to a verdict or the next run that it needs: what a session knows, put before the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from agent.decision.equal_steps import Slope, slope_of
from agent.decision.estimate import unbiased
from agent.decision.longer_training import why_longer
from agent.decision.next_run import Situation, next_run
from agent.decision.noise import Noise, noise_of, repeated
from agent.decision.sequential_test import Kind, Step, greedy, is_lost, repeat, sample_of, weigh
from agent.errors import PreconditionError
from agent.execution.conditions import disturbed
from agent.journal.experiment import Direction, Experiment, Run, Value, Verdict, metrics, succeeded
from agent.journal.state import Pending
from agent.source.diff import changed, same_work
from agent.source.simplicity import leaner, repeats

MOST_FAULTED = 2  # runs that a fault of the machine ended for good, of a candidate that has run
MEMORY = "peak_vram_mb"


@dataclass(frozen=True)
class DecisionConfig:
    """How a session decides. max_memory_gb: more makes a candidate no keep, whatever it gains; None for no limit.

    trains: whether what trained longer than the baseline is no keep (`agent.decision.longer_training`).
    """

    kind: Kind = "confirm"
    max_memory_gb: float | None = None
    simplicity: bool = False
    trains: bool = False


@dataclass(frozen=True)
class Comparison:
    """What there is to judge.

    files, incumbent_files: every mutable file of either. known: names that the harness defines.
    """

    pending: Pending
    incumbent: Experiment
    experiments: Sequence[Experiment]
    files: Mapping[str, str]
    incumbent_files: Mapping[str, str]
    direction: Direction
    known: Mapping[str, Value] = field(default_factory=dict)

    @cached_property
    def same_work(self) -> bool:
        """Whether a step takes as long for either, as far as the edit tells."""
        return same_work(changed(self.incumbent_files, self.files, self.known))


def judge(case: Comparison, config: DecisionConfig) -> Verdict | Step:
    """The verdict, or whose run it takes first: "candidate" or "incumbent"."""
    found = _judged(case, config)
    if not (config.trains and case.experiments and isinstance(found, Verdict) and found.status == "keep"):
        return found
    why = why_longer(case.pending.runs, case.experiments[0], case.incumbent)
    if why is None:
        return found
    # A busy machine may have made it longer: it has a second run to be as short as it should.
    if len(succeeded(case.pending.runs)) < 2:
        return "candidate"
    return Verdict("discard", f"void: {why}; {found.reason} is no gain of the recipe", found.evidence)


def _judged(case: Comparison, config: DecisionConfig) -> Verdict | Step:
    pending = case.pending
    last = pending.runs[-1]
    if last.pruned is not None:
        return Verdict("discard", last.error or "pruned")
    if last.fault:
        if succeeded(pending.runs) and sum(run.fault != "" for run in pending.runs) < MOST_FAULTED:
            return "candidate"
        return Verdict("discard", f"it could not be measured here: {last.error}")
    if last.metric is None:
        again = f"run {len(pending.runs)} failed after one that did not: " if len(succeeded(pending.runs)) else ""
        return Verdict("crash", again + (last.error or "no metric"))
    noise = noise_of(case.experiments, pending.runs)
    over = _over(last, config.max_memory_gb)
    if over is not None:
        return Verdict("discard", over)
    if config.kind == "greedy":
        return greedy([last.metric], metrics(case.incumbent.runs), noise, case.direction)
    return _confirm(case, config, noise)


def _confirm(case: Comparison, config: DecisionConfig, noise: Noise) -> Verdict | Step:
    pending, incumbent = case.pending, case.incumbent
    again = repeats(case.files, case.incumbent_files)
    if again is not None:
        stands = sample_of(incumbent, pending.number)
        return repeat(metrics(pending.runs), stands, noise, case.direction, again)
    good, situation = succeeded(pending.runs), situation_of(case)
    why = None if noise.exact else why_unlike(case, good[-1])
    if why is not None:
        row = next_run(replace(situation, unlike=True))
        if row.then == "discard":
            return Verdict("discard", f"{row.why}: {why}")
        if row.then != "test":
            return row.then
    if not noise.exact:
        good = [run for run in good if why_unlike(case, run) is None] or good
    reference = _reference(case)
    simpler = leaner(case.files, good[-1], case.incumbent_files, reference[-1]) if config.simplicity else None
    slope = _slope(case, good, noise)
    stands = sample_of(incumbent, pending.number, slope, good)
    used = slope.noise if slope else noise
    return weigh(metrics(good), stands, used, case.direction, leaner=simpler, situation=situation)


def situation_of(case: Comparison) -> Situation:
    """What has been run for the candidate so far."""
    pending = case.pending
    tried = pending.runs[pending.rebased_at :]
    return Situation(
        attempts=len(pending.runs),
        refreshes=pending.refreshed,
        rebases=pending.rebases,
        slower=_slower_in_a_row(case, tried),
        faster=bool(tried) and _why_faster(case, tried[-1]) is not None,
        lost=is_lost(case.incumbent),
    )


def why_unlike(case: Comparison, run: Run) -> str | None:
    """Why a run of the candidate does not compare with the incumbent's, in words for a person; None where it does."""
    return _why_slower(case, run) or _why_faster(case, run)


def _why_slower(case: Comparison, run: Run) -> str | None:
    return disturbed([run], _reference(case), equally_long=case.same_work)


def _why_faster(case: Comparison, run: Run) -> str | None:
    # Steps are no reason here: where an edit leaves their work as it is, the incumbent is restated for them.
    why = disturbed(_reference(case), [run], equally_long=False, than="the candidate")
    return f"beside the incumbent {why}" if why is not None else None


def _reference(case: Comparison) -> Sequence[Run]:
    return unbiased(case.incumbent) or succeeded(case.incumbent.runs)


def _slower_in_a_row(case: Comparison, runs: Sequence[Run]) -> int:
    return next((n for n, run in enumerate(reversed(runs)) if _why_slower(case, run) is None), len(runs))


def _slope(case: Comparison, good: Sequence[Run], noise: Noise) -> Slope | None:
    """How the metric goes with the steps, where those of candidate and incumbent take equally long by their edit."""
    if noise.unsure or not case.same_work:
        return None
    incumbent = succeeded((*case.incumbent.runs, *case.incumbent.heldout_runs))
    return slope_of(repeated(case.experiments, case.pending.runs), [*good, *incumbent], noise, case.direction)


def require_limits(config: DecisionConfig, incumbent: Sequence[Run]) -> None:
    """Raises PreconditionError where a limit that a person set could not be kept: runs do not tell what it limits."""
    good = succeeded(incumbent)
    if config.max_memory_gb is None or not good or any(MEMORY in run.secondary for run in good):
        return
    raise PreconditionError(
        f"--max-memory-gb {config.max_memory_gb:g} cannot be kept: no {MEMORY} can be read by the protocol's "
        f"secondaryMetrics in {good[-1].log}; correct the pattern or what is printed there, or take the limit back "
        "with --max-memory-gb inf"
    )


def _over(run: Run, most: float | None) -> str | None:
    if most is None:
        return None
    if MEMORY not in run.secondary:
        return f"tells no {MEMORY} that can be read, and --max-memory-gb is {most:g}"
    memory = run.secondary[MEMORY] / 1024
    return f"needs {memory:.1f} GB, --max-memory-gb is {most:g}" if memory > most else None
