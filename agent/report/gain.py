"""How much is gained, and how well that is known: what every view says of a session and of each experiment.

A gain is positive where it is better, in either direction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from agent.decision.estimate import estimate, unbiased
from agent.decision.noise import PRIOR_DEGREES, noise_of
from agent.journal.experiment import Direction, Experiment, reservations, succeeded
from agent.journal.history import incumbent_before
from agent.journal.state import State, gain


@dataclass(frozen=True)
class Gain:
    """None where there is nothing to compare yet.

    baseline, best: what either is worth by all that was measured (`decision.estimate`), and how many runs that
    is the mean of. apparent: the gain from one to the other. confirmed: by fresh runs of baseline and best,
    with `low` and `high` as its interval; None until `confirm` has compared these very two.
    repeated: whether the best was kept after more than one run, or where equal programs give equal numbers.
    noise: standard deviation of one run; None before anything was repeated, and where there is none.
    reservations: what to say with it: "unconfined", "unattested".
    """

    baseline: float | None = None
    best: float | None = None
    baseline_runs: int = 0
    best_runs: int = 0
    apparent: float | None = None
    confirmed: float | None = None
    low: float | None = None
    high: float | None = None
    noise: float | None = None
    repeated: bool = False
    reservations: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        if self.confirmed is not None:
            return "confirmed"
        return "by repeated runs" if self.repeated else "provisional"


def standing(state: State) -> Gain:
    baseline, best = state.baseline, state.incumbent
    if state.session is None or baseline is None or best is None:
        return Gain()
    first, now = estimate(baseline), estimate(best)
    if first is None or now is None:
        return Gain()
    known, found = noise_of(state.experiments), state.confirmation
    # An interval that holds zero confirms nothing.
    sure = found if found is not None and found.get("low", 0.0) > 0 else {}
    return Gain(
        baseline=first,
        best=now,
        baseline_runs=_runs_behind(baseline),
        best_runs=_runs_behind(best),
        apparent=gain(first, now, state.session["direction"]),
        confirmed=sure.get("gain"),
        low=sure.get("low"),
        high=sure.get("high"),
        noise=known.sd if known.degrees > PRIOR_DEGREES and known.sd else None,
        repeated=best.verdict.evidence is not None and best.verdict.evidence.confirmed,
        reservations=tuple(reservations([*baseline.runs, *best.runs])),
    )


def _runs_behind(experiment: Experiment) -> int:
    evidence = experiment.verdict.evidence
    return len(unbiased(experiment)) or (evidence.runs if evidence else len(succeeded(experiment.runs)))


@dataclass(frozen=True)
class Outcome:
    """What an experiment came to beside the incumbent of its time, as its verdict had it; None where it has no result.

    value: the mean of `runs` runs. gain: on `against`, the mean of `against_runs` of the incumbent numbered
    `incumbent`. sigmas: the gain in its own standard errors, where the noise is known. word: `better`, `worse`,
    `equal`, `within noise`; empty where nothing was compared. equal_steps: whether `against` is what the incumbent
    would have given with as many steps. sure: whether repeated runs, or fresh ones after them, stand behind a keep.
    """

    value: float | None = None
    runs: int = 0
    gain: float | None = None
    against: float | None = None
    against_runs: int = 0
    incumbent: int | None = None
    sigmas: float | None = None
    word: str = ""
    equal_steps: bool = False
    sure: bool = False


def outcome(state: State, experiment: Experiment) -> Outcome:
    assert state.session is not None
    direction: Direction = state.session["direction"]
    before = incumbent_before(state.experiments, experiment.number)
    number = before.number if before else None
    evidence = experiment.verdict.evidence
    if evidence is not None:
        return Outcome(
            value=evidence.mean,
            runs=evidence.runs,
            gain=evidence.gain,
            against=evidence.incumbent_mean,
            against_runs=evidence.incumbent_runs,
            incumbent=number,
            sigmas=evidence.sigmas,
            word=evidence.word,
            equal_steps=evidence.doubt is not None,
            sure=evidence.confirmed or _confirmed_by_fresh_runs(state, experiment, before),
        )
    value, runs = experiment.metric, len(succeeded(experiment.runs))
    if value is None or before is None or before.metric is None:
        return Outcome(value=value, runs=runs, incumbent=number)
    by = gain(before.metric, value, direction)
    word = "better" if by > 0 else "worse" if by < 0 else "equal"
    return Outcome(value, runs, by, before.metric, len(succeeded(before.runs)), number, None, word)


def remeasured(state: State, experiment: Experiment) -> float | None:
    """Return what the verdict took the incumbent for, where that had been measured again since it was kept.

    The incumbent's own row shows the value that it was kept with, so the gain does not follow from the two rows. None
    where it does, and at equal steps, which every view says.
    """
    before, evidence = incumbent_before(state.experiments, experiment.number), experiment.verdict.evidence
    if before is None or evidence is None or evidence.doubt is not None:
        return None
    own = before.verdict.evidence
    shown = own.mean if own is not None else before.metric
    same = shown is not None and math.isclose(evidence.incumbent_mean, shown, rel_tol=1e-9)
    return None if same else evidence.incumbent_mean


def _confirmed_by_fresh_runs(state: State, experiment: Experiment, before: Experiment | None) -> bool:
    """Whether fresh runs have shown it to be better than the baseline or than the incumbent of its time."""
    others = [each.commit for each in (state.baseline, before) if each is not None]
    found = [state.confirmations.get(f"{commit} {experiment.commit}", {}) for commit in others]
    return any(each.get("low", 0.0) > 0 for each in found)
