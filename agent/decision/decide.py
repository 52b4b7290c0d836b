"""Turn the runs of an experiment into a verdict, or into the next run that the verdict needs."""

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
from agent.execution.conditions import disturbed, swaps_more
from agent.journal.experiment import Direction, Experiment, Run, Value, Verdict, metrics, succeeded
from agent.journal.pending import Pending
from agent.source.diff import changed, same_work
from agent.source.simplicity import leaner, repeats

MEMORY = "peak_vram_mb"


@dataclass(frozen=True)
class DecisionConfig:
    """How a session decides.

    Attributes:
        max_memory_gb: discard candidates that need more than this, whatever their gain; None for no limit.
        simplicity: keep candidates that are simpler at no loss.
        trains: discard candidates that trained longer than the baseline (`agent.decision.longer_training`).
    """

    kind: Kind = "confirm"
    max_memory_gb: float | None = None
    simplicity: bool = False
    trains: bool = False


@dataclass(frozen=True)
class Comparison:
    """A candidate and the incumbent that it is compared with.

    Attributes:
        experiments: all recorded experiments of the session, the baseline first.
        files: all mutable files of the candidate.
        incumbent_files: all mutable files of the incumbent.
        known: constants that the harness defines.
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
        """Whether a step of the candidate takes as long as one of the incumbent, judging by the edit."""
        return same_work(changed(self.incumbent_files, self.files, self.known))


def judge(case: Comparison, config: DecisionConfig) -> Verdict | Step:
    """Return the verdict, or which side must run first: "candidate" or "incumbent"."""
    found = _judged(case, config)
    if not (config.trains and case.experiments and isinstance(found, Verdict) and found.status == "keep"):
        return found
    why = why_longer(case.pending.runs, case.experiments[0], case.incumbent)
    if why is None:
        return found
    # A busy machine may have slowed the first run, so the candidate gets a second one.
    if len(succeeded(case.pending.runs)) < 2:
        return "candidate"
    return voided(found, why)


def _judged(case: Comparison, config: DecisionConfig) -> Verdict | Step:
    runs = case.pending.runs
    early = without_comparison(runs, config)
    if early is not None:
        return early
    noise = noise_of(case.experiments, runs)
    if config.kind == "greedy":
        return greedy(metrics(runs[-1:]), metrics(case.incumbent.runs), noise, case.direction)
    return _confirm(case, config, noise)


def without_comparison(runs: Sequence[Run], config: DecisionConfig) -> Verdict | None:
    """Return the verdict that the last run of a candidate gives alone: it has no metric, or exceeds a limit."""
    last = runs[-1]
    if last.pruned is not None:
        return Verdict("discard", last.error or "pruned")
    if last.fault:
        return Verdict("discard", f"could not be measured here: {last.error}")
    if last.metric is None:
        again = f"run {len(runs)} failed after an earlier run succeeded: " if succeeded(runs) else ""
        return Verdict("crash", again + (last.error or "no metric"))
    over = _over(last, config.max_memory_gb)
    return Verdict("discard", over) if over is not None else None


def voided(found: Verdict, why: str) -> Verdict:
    """Return the verdict instead of a keep that trained longer, as `why` says."""
    return Verdict(
        "discard", f"voided: {why}; longer training does not count as a gain ({found.reason})", found.evidence
    )


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
    values = slope.adjusted(good, good) if slope else metrics(good)
    return weigh(values, stands, used, case.direction, leaner=simpler, situation=situation)


def situation_of(case: Comparison) -> Situation:
    """Summarize what has been run for the candidate so far."""
    pending, reference = case.pending, _reference(case)
    tried = pending.runs[pending.rebased_at :]
    return Situation(
        attempts=len(pending.runs),
        refreshes=pending.refreshed,
        rebases=pending.rebases,
        slower=slower_in_a_row(tried, reference, same_work=case.same_work),
        faster=bool(tried) and why_faster(tried[-1], reference) is not None,
        swaps=bool(tried) and all(swaps_more([run], reference) for run in succeeded(pending.runs)),
        lost=is_lost(case.incumbent),
    )


def why_unlike(case: Comparison, run: Run) -> str | None:
    """Return why a run of the candidate is not comparable with the incumbent's; None if it is."""
    reference = _reference(case)
    return why_slower(run, reference, same_work=case.same_work) or why_faster(run, reference)


def why_slower(run: Run, reference: Sequence[Run], *, same_work: bool) -> str | None:
    """Return why a run of the candidate was slower than those of the incumbent; None if nothing disturbed it."""
    return disturbed([run], reference, equally_long=same_work)


def why_faster(run: Run, reference: Sequence[Run]) -> str | None:
    """Return why the runs of the incumbent were slower than one of the candidate; None if nothing disturbed them."""
    # Steps do not count here: if the edit leaves the work per step unchanged, the incumbent is adjusted for them.
    why = disturbed(reference, [run], equally_long=False, than="the candidate")
    return f"while the incumbent ran, {why}" if why is not None else None


def slower_in_a_row(runs: Sequence[Run], reference: Sequence[Run], *, same_work: bool) -> int:
    """Return how many of the latest runs of the candidate in a row were slower (`why_slower`)."""
    whys = (why_slower(run, reference, same_work=same_work) for run in reversed(runs))
    return next((n for n, why in enumerate(whys) if why is None), len(runs))


def _reference(case: Comparison) -> Sequence[Run]:
    return unbiased(case.incumbent) or succeeded(case.incumbent.runs)


def _slope(case: Comparison, good: Sequence[Run], noise: Noise) -> Slope | None:
    """Return the slope of the metric over steps, if the edit leaves the work per step unchanged; else None."""
    if noise.unsure or not case.same_work:
        return None
    incumbent = succeeded((*case.incumbent.runs, *case.incumbent.heldout_runs))
    return slope_of(repeated(case.experiments, case.pending.runs), [*good, *incumbent], noise, case.direction)


def require_limits(config: DecisionConfig, incumbent: Sequence[Run]) -> None:
    """Check that the memory limit can be enforced.

    Raises:
        PreconditionError: the incumbent's runs report no memory use.
    """
    good = succeeded(incumbent)
    if config.max_memory_gb is None or not good or any(MEMORY in run.secondary for run in good):
        return
    raise PreconditionError(
        f"--max-memory-gb {config.max_memory_gb:g} cannot be enforced: the protocol's secondaryMetrics find no "
        f"{MEMORY} in {good[-1].log}",
        hint="fix the pattern or the output of the command, or remove the limit with `--max-memory-gb inf`",
    )


def _over(run: Run, most: float | None) -> str | None:
    if most is None:
        return None
    if MEMORY not in run.secondary:
        return f"no {MEMORY} found in the log, which --max-memory-gb {most:g} requires"
    memory = run.secondary[MEMORY] / 1024
    return f"needs {memory:.1f} GB, --max-memory-gb is {most:g}" if memory > most else None
