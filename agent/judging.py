"""From runs to a verdict or the next run that it needs: what a session knows, put before `agent.verdict`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agent import verdict
from agent.changes import changed, kinds, same_work
from agent.conditions import disturbed
from agent.experiment import Direction, Experiment, Run, Value, Verdict, unbiased
from agent.noise import Noise, noise_of, repeated
from agent.simplicity import leaner, repeats
from agent.state import Pending
from agent.steps import Slope, slope_of

MOST_DISTURBED = 3  # runs in a row; after that the incumbent is measured as things are now
MOST_REFRESHES = 16  # of the incumbent within one experiment: one that keeps failing must not hold up the night
LONGER_STEPS = {"batch", "size", "code"}  # kinds of edits after which a step may take longer


@dataclass(frozen=True)
class Rules:
    """How a session decides. max_memory_gb: more makes a candidate no keep, whatever it gains; None for no limit."""

    kind: verdict.Kind = "confirm"
    max_memory_gb: float | None = None
    simplicity: bool = False


@dataclass(frozen=True)
class Case:
    """What there is to judge.

    files, incumbent_files: every mutable file of either. known: names that the harness defines (`agent.edits`).
    """

    pending: Pending
    incumbent: Experiment
    experiments: Sequence[Experiment]
    files: Mapping[str, str]
    incumbent_files: Mapping[str, str]
    direction: Direction
    known: Mapping[str, Value] = field(default_factory=dict)


def judge(case: Case, rules: Rules) -> Verdict | verdict.Step:
    """The verdict, or whose run it takes first: "candidate" or "incumbent"."""
    pending = case.pending
    last = pending.runs[-1]
    if last.pruned is not None:
        return Verdict("discard", last.error or "pruned")
    if last.metric is None:
        again = f"run {len(pending.runs)} failed after one that did not: " if len(_worked(pending.runs)) else ""
        return Verdict("crash", again + (last.error or "no metric"))
    noise = noise_of(case.experiments, pending.runs)
    over = _over(last, rules.max_memory_gb)
    if over is not None:
        return Verdict("discard", over)
    if rules.kind == "greedy":
        return verdict.greedy([last.metric], _metrics(case.incumbent.runs), noise, case.direction)
    return _confirm(case, rules, noise)


def _confirm(case: Case, rules: Rules, noise: Noise) -> Verdict | verdict.Step:
    pending, incumbent = case.pending, case.incumbent
    again = repeats(case.files, case.incumbent_files)
    if again is not None:
        stands = verdict.standing(incumbent, pending.number)
        return verdict.repeat(_metrics(pending.runs), stands, noise, case.direction, again)
    reference = unbiased(incumbent) or incumbent.runs
    good = [run for run in _worked(pending.runs) if not noise.sd or why_disturbed(case, run) is None]
    if not good:
        return "incumbent" if len(pending.runs) % MOST_DISTURBED == 0 else "candidate"
    simpler = leaner(case.files, good[-1], case.incumbent_files, reference[-1]) if rules.simplicity else None
    slope = _slope(case, good, noise)
    stands = verdict.standing(incumbent, pending.number, slope, good)
    step = verdict.weigh(_metrics(good), stands, slope.noise if slope else noise, case.direction, leaner=simpler)
    if step == "incumbent" and pending.refreshed >= MOST_REFRESHES:
        return Verdict("discard", "the incumbent could not be measured again to compare it with")
    return step


def why_disturbed(case: Case, run: Run) -> str | None:
    """Why a run of the candidate does not compare with the incumbent's, in words for a person; None where it does."""
    reference = unbiased(case.incumbent) or case.incumbent.runs
    return disturbed(run, reference, equally_long=not kinds(_edits(case)) & LONGER_STEPS)


def _slope(case: Case, good: Sequence[Run], noise: Noise) -> Slope | None:
    """How the metric goes with the steps, where those of candidate and incumbent take equally long by their edit."""
    if noise.unsure or not same_work(_edits(case)):
        return None
    incumbent = [run for run in (*case.incumbent.runs, *case.incumbent.fresh) if run.metric is not None]
    return slope_of(repeated(case.experiments, case.pending.runs), [*good, *incumbent], noise, case.direction)


def _edits(case: Case) -> frozenset[str]:
    return changed(case.incumbent_files, case.files, case.known)


def _over(run: Run, most: float | None) -> str | None:
    memory = run.secondary.get("peak_vram_mb", 0.0) / 1024
    return f"needs {memory:.1f} GB, --max-memory-gb is {most:g}" if most is not None and memory > most else None


def _worked(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.metric is not None]


def _metrics(runs: Sequence[Run]) -> list[float]:
    return [run.metric for run in runs if run.metric is not None]
