"""From runs to a verdict or the next run that it needs: what a session knows, put before the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from agent.decision import sequential_test as verdict
from agent.decision.equal_steps import Slope, slope_of
from agent.decision.estimate import unbiased
from agent.decision.longer_training import why_longer
from agent.decision.noise import Noise, noise_of, repeated
from agent.errors import PreconditionError
from agent.execution.conditions import disturbed
from agent.journal.experiment import Direction, Experiment, Run, Value, Verdict, metrics, succeeded
from agent.journal.state import Pending
from agent.source.diff import changed, same_work
from agent.source.simplicity import leaner, repeats

MOST_DISTURBED = 3  # runs in a row; after that the incumbent is measured as things are now
# Within one experiment: a machine that is never the same for long must not hold up the night.
MOST_REBASES, MOST_ATTEMPTS, MOST_REFRESHES = 3, 16, 16
MOST_FAULTED = 2  # runs that a fault of the machine ended for good, of a candidate that has run
MEMORY = "peak_vram_mb"
UNMEASURED = "the incumbent could not be measured again to compare it with"


@dataclass(frozen=True)
class DecisionConfig:
    """How a session decides. max_memory_gb: more makes a candidate no keep, whatever it gains; None for no limit.

    trains: whether what trained longer than the baseline is no keep (`agent.decision.longer_training`).
    """

    kind: verdict.Kind = "confirm"
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


def judge(case: Comparison, rules: DecisionConfig) -> Verdict | verdict.Step:
    """The verdict, or whose run it takes first: "candidate" or "incumbent"."""
    found = _judged(case, rules)
    if not (rules.trains and case.experiments and isinstance(found, Verdict) and found.status == "keep"):
        return found
    why = why_longer(case.pending.runs, case.experiments[0], case.incumbent)
    if why is None:
        return found
    # A busy machine may have made it longer: it has a second run to be as short as it should.
    if len(succeeded(case.pending.runs)) < 2:
        return "candidate"
    return Verdict("discard", f"void: {why}; {found.reason} is no gain of the recipe", found.evidence)


def _judged(case: Comparison, rules: DecisionConfig) -> Verdict | verdict.Step:
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
    over = _over(last, rules.max_memory_gb)
    if over is not None:
        return Verdict("discard", over)
    if rules.kind == "greedy":
        return verdict.greedy([last.metric], metrics(case.incumbent.runs), noise, case.direction)
    return _confirm(case, rules, noise)


def _confirm(case: Comparison, rules: DecisionConfig, noise: Noise) -> Verdict | verdict.Step:
    pending, incumbent = case.pending, case.incumbent
    again = repeats(case.files, case.incumbent_files)
    if again is not None:
        stands = verdict.standing(incumbent, pending.number)
        return verdict.repeat(metrics(pending.runs), stands, noise, case.direction, again)
    good = succeeded(pending.runs)
    if not noise.exact:
        why = why_unlike(case, good[-1])
        owed = _owed_by_the_machine(case, why) if why is not None else None
        if owed is not None:
            return owed
        good = [run for run in good if why_unlike(case, run) is None] or good
    reference = _reference(case)
    simpler = leaner(case.files, good[-1], case.incumbent_files, reference[-1]) if rules.simplicity else None
    slope = _slope(case, good, noise)
    stands = verdict.standing(incumbent, pending.number, slope, good)
    step = verdict.weigh(metrics(good), stands, slope.noise if slope else noise, case.direction, leaner=simpler)
    if step == "incumbent" and pending.refreshed >= MOST_REFRESHES:
        return Verdict("discard", UNMEASURED)
    return step


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


def _owed_by_the_machine(case: Comparison, why: str) -> Verdict | verdict.Step | None:
    """Whose run it takes after one of the candidate that does not compare: its own, three times, where it was slower;
    then the incumbent's, as the machine is now. None where it has to be judged as it is."""
    pending = case.pending
    if pending.rebases >= MOST_REBASES or len(pending.runs) >= MOST_ATTEMPTS:
        return Verdict("discard", f"the machine was never the same for it and the incumbent: {why}")
    tried = pending.runs[pending.rebased_at :]
    again = not tried or (_why_faster(case, tried[-1]) is None and _slower_in_a_row(case, tried) < MOST_DISTURBED)
    if again:
        return "candidate"
    if verdict.is_lost(case.incumbent):
        return None
    return "incumbent" if pending.refreshed < MOST_REFRESHES else Verdict("discard", f"{UNMEASURED}: {why}")


def _slower_in_a_row(case: Comparison, runs: Sequence[Run]) -> int:
    return next((n for n, run in enumerate(reversed(runs)) if _why_slower(case, run) is None), len(runs))


def _slope(case: Comparison, good: Sequence[Run], noise: Noise) -> Slope | None:
    """How the metric goes with the steps, where those of candidate and incumbent take equally long by their edit."""
    if noise.unsure or not case.same_work:
        return None
    incumbent = succeeded((*case.incumbent.runs, *case.incumbent.fresh))
    return slope_of(repeated(case.experiments, case.pending.runs), [*good, *incumbent], noise, case.direction)


def require_limits(rules: DecisionConfig, incumbent: Sequence[Run]) -> None:
    """Raises PreconditionError where a limit that a person set could not be kept: runs do not tell what it limits."""
    good = succeeded(incumbent)
    if rules.max_memory_gb is None or not good or any(MEMORY in run.secondary for run in good):
        return
    raise PreconditionError(
        f"--max-memory-gb {rules.max_memory_gb:g} cannot be kept: no {MEMORY} can be read by the protocol's "
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
