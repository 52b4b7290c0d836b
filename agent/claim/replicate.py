"""Run baseline and best of a claim alternately, with new seeds, until an interval that is valid at any time decides."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from agent.claim.figures import in_words
from agent.claim.models import Claim, Confirmation, Pair
from agent.decision import anytime
from agent.decision.difference import difference, mean
from agent.errors import Interrupted, PreconditionError, Suspended
from agent.execution.measure import Beside, Edited, Runner, measure
from agent.execution.process import Observer
from agent.format import figure
from agent.journal.experiment import Direction, Run, Value
from agent.session import faults
from agent.session.signals import Interrupts
from agent.source.seed import with_seed
from agent.system.invocation import here

ALPHA = 0.05
LARGEST_SEED = 2**31 - 10**6  # as a seed, some libraries take no more than 31 bits
FAILURES = 2  # of the best with one seed
LEAST_PAIRS = 2

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
        why: the failure that decided, if one did.
        runs: all runs of the baseline, with which those of the best are compared.
    """

    verdict: Verdict = "cannot tell"
    why: str | None = None
    pairs: list[Pair] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    def interval(self, direction: Direction, *, holdout: bool = False) -> anytime.Interval | None:
        """Return the gain on the metric or on the holdout; None if it was not computed, or before two pairs."""
        a = [pair.holdout_a if holdout else pair.a for pair in self.pairs]
        b = [pair.holdout_b if holdout else pair.b for pair in self.pairs]
        sides = [[value for value in each if value is not None] for each in (a, b)]
        if len(self.pairs) < LEAST_PAIRS or sides != [a, b]:
            return None
        return anytime.interval(sides[0], sides[1], direction, ALPHA)

    def noise(self, direction: Direction) -> float | None:
        if len(self.pairs) < LEAST_PAIRS:
            return None
        return difference([pair.a for pair in self.pairs], [pair.b for pair in self.pairs], direction).noise

    @property
    def baseline(self) -> float:
        return mean([pair.a for pair in self.pairs])


def replicate(setting: Setting, claim: Claim, most: int) -> Found:
    """Run pairs until the gain is shown, or shown to be smaller than claimed, or `most` pairs are run.

    Raises:
        PreconditionError: the baseline fails here.
        Interrupted: the user stopped it.
    """
    # Not the seed of the runs: it only decides which side of a pair runs first, so that no order can be prepared for.
    chance = random.SystemRandom()
    used = {run.seed for run in (*claim.runs.a, *claim.runs.b)}
    found = Found()
    for number in range(1, most + 1):
        seed = _new_seed(chance, used) if setting.seeds else None
        used.add(seed)
        # The baseline is first once, because the evaluator compares every run of the best with one of it.
        order = ["a", "b"] if number == 1 or chance.random() < 0.5 else ["b", "a"]
        runs: dict[str, Run] = {}
        for label in order:
            run = _measured(setting, found, label, seed, number)
            if run.metric is None:
                found.verdict, found.why = "not replicated", f"its run failed: {run.error}"[:1000]
                return found
            runs[label] = run
        _add(found, runs, seed, order[0])
        _tell(setting, found, claim, number, most)
        if (verdict := judged(found, claim.confirmation, claim.direction)) is not None:
            found.verdict = verdict
            return found
    return found


def judged(found: Found, claimed: Confirmation, direction: Direction) -> Verdict | None:
    """Return the verdict that the runs allow; None if none yet.

    On the holdout the gain must show as well if the claim has it there and it was computed here.
    """
    now = found.interval(direction)
    if now is None:
        return None
    held = found.interval(direction, holdout=True) if claimed.holdout else None
    if now.low > 0 and (held is None or held.low > 0):
        return "replicated"
    if now.high < max(0.0, claimed.low) and not now.low > 0:
        return "not replicated"
    if held is not None and held.high < 0:
        return "not replicated"
    return None


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


def _measured(setting: Setting, found: Found, label: str, seed: int | None, number: int) -> Run:
    """Run one side once; a failed run of the best once more.

    Returns:
        A run that has failed only if it is the best's.

    Raises:
        PreconditionError: the baseline failed.
    """
    for attempt in range(FAILURES):
        log = setting.logs / f"{label}-{number}{'-again' * attempt}.log"
        run = faults.repeat(
            lambda: _awake(setting, found, label, seed, log),  # noqa: B023
            lambda _: raise_if_asked(setting.interrupts, len(found.pairs)),
            setting.say,
        )
        if run.metric is not None:
            found.runs += [run] if label == "a" else []
            return run
        raise_if_asked(setting.interrupts, len(found.pairs))
        if label == "a":
            raise PreconditionError(f"the baseline fails here: {run.error}", hint=f"see the log {here(log)}")
        setting.say(f"the best failed: {run.error}")
    return run


def _awake(setting: Setting, found: Found, label: str, seed: int | None, log: Path) -> Run:
    """Run one side, again if the machine sleeps."""
    recipe = _with_seed(setting, setting.commits[label], seed)
    observer = Observer(tick=lambda _: raise_if_asked(setting.interrupts, len(found.pairs)))
    runs = tuple(found.runs)
    beside = Beside(runs, runs) if label == "a" else Beside(_as_slow(runs, setting.steps), runs, runs)
    while True:
        try:
            return measure(setting.runner, recipe, log, observer, beside)
        except Suspended as pause:
            setting.say(f"{NAMES[label]} is repeated: {pause}")


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
