"""Run baseline and best of a claim alternately, with new seeds, until an interval that is valid at any time decides."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from agent.claim.figures import in_words, is_scored
from agent.claim.models import LONGEST_TEXT, Claim, Pair
from agent.comparison.pairs import LARGEST_SEED
from agent.decision import anytime
from agent.decision.difference import difference, equal_for_seeds, is_coarse
from agent.errors import Interrupted, MachineFault, PreconditionError, Suspended, in_one_line
from agent.execution import holdout
from agent.execution.allowance import TOO_LATE, References
from agent.execution.measure import Edited, Runner, measure
from agent.execution.process import Observer
from agent.format import counted, figure
from agent.journal.experiment import KNEW, Direction, Run, Value, mean
from agent.session import faults
from agent.session.references import BASELINE
from agent.session.signals import Interrupts
from agent.source.seed import alters_randomness, with_seed
from agent.system.invocation import here

ALPHA = 0.05
FAILURES = 2  # of the best with one seed
LEAST_PAIRS = 2
ONE_SEED = "the best gives the same number with every seed, unlike the baseline, so its gain may be that of one seed"
# How the errors of runs begin that a slower machine, or one with a smaller disk, may have alone.
LOCAL = (
    *("timed out: ", "out of memory: ", "killed: it filled the disk"),
    *(*TOO_LATE, "voided: its evaluation took "),
)

Verdict = Literal["replicated", "not replicated", "cannot tell"]
NAMES = {"a": "baseline", "b": "best"}


@dataclass(frozen=True)
class Setting:
    """What all runs of a verification share.

    Attributes:
        commits: `a` is the baseline, `b` the best.
        known: values of the names that the harness defines.
        seeds: whether the seed of a run can be set.
        steps: the fewest steps of a run of the best according to the claim; None if unknown.
        logs: folder of the logs.
    """

    runner: Runner
    commits: Mapping[str, str]
    known: Mapping[str, Value]
    seeds: bool
    steps: float | None
    logs: Path
    interrupts: Interrupts
    say: Callable[[str], None]


@dataclass
class Found:
    """The result so far.

    Attributes:
        why: what decided, if it was not the interval.
        runs: all runs of the baseline, with which those of the best are compared.
        alters_randomness: whether the best uses random numbers in another way than the baseline.
    """

    verdict: Verdict = "cannot tell"
    why: str | None = None
    pairs: list[Pair] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    alters_randomness: bool = True

    def interval(self, direction: Direction, *, holdout: bool = False) -> anytime.Interval | None:
        """Return the gain on the metric, or on the holdout by the pairs scored there; None before two such pairs."""
        every = [(pair.holdout_a, pair.holdout_b) if holdout else (pair.a, pair.b) for pair in self.pairs]
        known = [(a, b) for a, b in every if a is not None and b is not None]
        if len(known) < LEAST_PAIRS:
            return None
        return anytime.interval([a for a, _ in known], [b for _, b in known], direction, ALPHA)

    def noise(self, direction: Direction) -> float | None:
        if len(self.pairs) < LEAST_PAIRS:
            return None
        return difference([pair.a for pair in self.pairs], [pair.b for pair in self.pairs], direction).noise

    @property
    def of_one_seed(self) -> bool:
        """Whether the best gives the same number with every seed so far, unlike the baseline, because of its edit.

        If the metric is coarse and it uses random numbers as the baseline does, it may be at the end of its scale.
        """
        varied = [pair for pair in self.pairs if pair.seed is not None]
        a, b = [pair.a for pair in varied], [pair.b for pair in varied]
        return equal_for_seeds([a], [b]) and (self.alters_randomness or not is_coarse([*a, *b]))

    @property
    def unscored(self) -> int:
        """The number of pairs of which a run was not scored on the holdout."""
        return sum(None in (pair.holdout_a, pair.holdout_b) for pair in self.pairs)

    @property
    def baseline(self) -> float:
        return mean([pair.a for pair in self.pairs])


def replicate(setting: Setting, claim: Claim, most: int) -> Found:
    """Run pairs until the gain is shown, or shown to be smaller than claimed, or `most` pairs are run.

    Raises:
        PreconditionError: the baseline fails here.
        MachineFault: the GPU keeps failing it.
        Interrupted: the user stopped it.
    """
    # Not the seed of the runs: it only decides which side of a pair runs first, so that no order can be prepared for.
    chance = random.SystemRandom()
    used = {run.seed for run in (*claim.runs.a, *claim.runs.b)}
    files = {label: setting.runner.workspace.files(commit) for label, commit in setting.commits.items()}
    found = Found(alters_randomness=alters_randomness(files["a"], files["b"]))
    setting = replace(setting, runner=replace(setting.runner, keeps_models=True))
    setting.runner.workspace.tick = lambda: raise_if_asked(setting.interrupts, len(found.pairs))
    scores = setting.runner.harness is not None and setting.runner.harness.holdout is not None
    for number in range(1, most + 1):
        raise_if_asked(setting.interrupts, len(found.pairs))
        seed = _new_seed(chance, used) if setting.seeds else None
        used.add(seed)
        # The baseline is first once, because the evaluator compares every run of the best with one of it.
        order = ["a", "b"] if number == 1 or chance.random() < 0.5 else ["b", "a"]
        runs: dict[str, Run] = {}
        for label in order:
            tried = _measured(setting, found, label, seed, number)
            if tried[-1].metric is None:
                found.verdict, found.why = failed(tried)
                return found
            runs[label] = tried[-1]
        _add(found, runs, seed, order[0])
        _tell(setting, found, claim, number, most)
        if (decided := judged(found, claim, scores=scores)) is not None:
            found.verdict, found.why = decided
            return found
    now = found.interval(claim.direction)
    if now is not None and now.low > 0 and found.of_one_seed:
        found.why = ONE_SEED
    elif now is not None and now.low > 0:
        found.why = "the gain shows on the validation split, but not yet on the holdout"
    return found


def judged(found: Found, claim: Claim, *, scores: bool) -> tuple[Verdict, str | None] | None:
    """Return the verdict that the runs allow, and why if it is not for the interval; None if none yet.

    Args:
        scores: whether runs are scored on the holdout here. If they are, or if the claim's were, every pair must be,
            and the gain must show there as well.
    """
    now, held = found.interval(claim.direction), found.interval(claim.direction, holdout=True)
    if now is None:
        return None
    if now.high < max(0.0, claim.confirmation.low) and not now.low > 0:
        return "not replicated", None
    if held is not None and held.high < 0:
        return "not replicated", "the gain does not show on the holdout, where the best is worse than the baseline"
    if not now.low > 0 or found.of_one_seed:  # a coarse metric may give equal numbers by chance
        return None
    if not (scores or is_scored(claim.runs) or claim.confirmation.holdout):
        return "replicated", None
    if found.unscored:
        which = f"{found.unscored} of {counted(len(found.pairs), 'pair')}"
        why = f"{which} could not be scored on the holdout" if scores else "this machine has no holdout"
        return "cannot tell", f"the gain shows on the validation split, but {why}"
    return ("replicated", None) if held is not None and held.low > 0 else None


def failed(tried: Sequence[Run]) -> tuple[Verdict, str]:
    """Return the verdict about a best whose runs failed: nothing if only this machine may be why."""
    local = next((run for run in tried if _is_local(run)), None)
    if local is not None:
        return "cannot tell", f"its run failed on this machine: {local.error}"[:LONGEST_TEXT]
    return "not replicated", f"its run failed: {tried[-1].error}"[:LONGEST_TEXT]


def _is_local(run: Run) -> bool:
    return run.out_of_memory or bool(run.fault) or (run.error or "").removeprefix(KNEW).startswith(LOCAL)


def _new_seed(chance: random.Random, used: set[int | None]) -> int:
    while (seed := chance.randrange(LARGEST_SEED)) in used:
        pass
    return seed


def _add(found: Found, runs: Mapping[str, Run], seed: int | None, first: str) -> None:
    a, b = runs["a"], runs["b"]
    assert a.metric is not None and b.metric is not None
    found.pairs.append(
        Pair(
            seed=seed,
            first="a" if first == "a" else "b",
            a=a.metric,
            b=b.metric,
            holdout_a=a.holdout,
            holdout_b=b.holdout,
        )
    )


def _tell(setting: Setting, found: Found, claim: Claim, number: int, most: int) -> None:
    pair = found.pairs[-1]
    seed = f", seed {pair.seed}" if pair.seed is not None else ""
    setting.say(f"pair {number} of {most}{seed}: baseline {figure(pair.a)}, best {figure(pair.b)}")
    now = found.interval(claim.direction)
    if now is not None and math.isfinite(now.low):
        setting.say(f"so far {in_words(now.gain, now.low, now.high, found.baseline)}")


def _measured(setting: Setting, found: Found, label: str, seed: int | None, number: int) -> list[Run]:
    """Run one side once; a failed run of the best once more.

    Returns:
        The attempts. The last one has failed only if it is the best's.

    Raises:
        PreconditionError: the baseline failed.
        MachineFault: the GPU failed it in too many runs in a row.
        Interrupted: the user stopped it.
    """
    tried: list[Run] = []
    for attempt in range(FAILURES):
        log = setting.logs / f"{label}-{number}{'-again' * attempt}.log"
        run = _without_faults(setting, found, label, seed, log)
        raise_if_asked(setting.interrupts, len(found.pairs))  # a short run ends before its first tick
        tried.append(run)
        if run.metric is not None:
            found.runs += [run] if label == "a" else []
            return tried
        if run.fault:
            break
        if label == "a":
            raise PreconditionError(f"the baseline fails here: {run.error}", hint=f"see the log {here(log)}")
        setting.say(f"the best failed: {run.error}")
    return tried


def _without_faults(setting: Setting, found: Found, label: str, seed: int | None, log: Path) -> Run:
    """Run one side until no fault of the GPU ends it, or of the best, as a failed run, too many in a row.

    Raises:
        MachineFault: too many faults in a row ended the baseline.
    """
    latest: list[Run] = []

    def run_once() -> Run:
        latest[:] = [_awake(setting, found, label, seed, log)]
        return latest[0]

    try:
        return faults.repeat(run_once, lambda _: raise_if_asked(setting.interrupts, len(found.pairs)), setting.say)
    except MachineFault as hopeless:
        if label == "a":
            raise
        setting.say(in_one_line(hopeless))
        return replace(latest[0], error=str(hopeless))


def _awake(setting: Setting, found: Found, label: str, seed: int | None, log: Path) -> Run:
    """Run one side, again if the machine sleeps, and score its model on the holdout."""
    recipe = _with_seed(setting, setting.commits[label], seed)
    observer = Observer(tick=lambda _: raise_if_asked(setting.interrupts, len(found.pairs)))
    references = references_of(label, found.runs, setting.steps)
    while True:
        try:
            run = measure(setting.runner, recipe, log, observer, references)
        except Suspended as pause:
            setting.say(f"{NAMES[label]} is repeated: {pause}")
            raise_if_asked(setting.interrupts, len(found.pairs))
            continue
        return holdout.scored(setting.runner, run, log)


def references_of(label: str, baseline: Sequence[Run], steps: float | None) -> References:
    """Return the reference of a side: the runs of the baseline on this machine.

    Args:
        label: `a` or `b`.
        baseline: its runs.
        steps: see `_as_slow`.
    """
    runs = tuple(baseline)
    own, other = (runs, ()) if label == "a" else (_as_slow(runs, steps), runs)
    return References(own, runs, other, side=BASELINE)


def _as_slow(runs: Sequence[Run], steps: float | None) -> tuple[Run, ...]:
    """Return runs of the baseline as if their steps took as long as the best's, which limits how late a run may end.

    Args:
        steps: the fewest steps that a run of the best took according to the claim; None if unknown.
    """
    if steps is None:
        return tuple(runs)
    return tuple(
        replace(run, secondary={**run.secondary, "num_steps": min(steps, run.secondary.get("num_steps", steps))})
        for run in runs
    )


def _with_seed(setting: Setting, commit: str, seed: int | None) -> str | Edited:
    if seed is None:
        return commit
    return Edited(commit, with_seed(setting.runner.workspace.files(commit), setting.known, seed))


def raise_if_asked(interrupts: Interrupts, pairs: int) -> None:
    """Stop at the first Ctrl-C.

    Args:
        pairs: number of finished pairs, which are dropped.

    Raises:
        Interrupted: the user asked for it.
    """
    words = f"stopped; {pairs} finished pairs of runs are dropped, and the claim is as before"
    try:
        interrupts.raise_if_immediate()
    except Interrupted as reason:
        raise Interrupted(words, reason.exit_code) from None
    if interrupts.finishing:
        raise Interrupted(words, 130)
