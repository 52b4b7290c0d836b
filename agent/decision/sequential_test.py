"""Keep or discard: a sequential test that spends runs only if they can change the decision.

The first run screens: a clearly worse candidate is discarded at once. Otherwise candidate and incumbent are repeated,
alternating, until the likelihood ratio of "better by EFFECT or more" against "equal" passes one of two bounds. A keep
takes LEAST_RUNS runs, however large the gain, because a candidate may be less stable than all others. This is
Wald's sequential test with a generalized ratio of Student's t, because the noise is estimated too. The incumbent's
value is the mean of its held-out runs. `benchmarks/verdict.py` measures the error rates of these constants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from agent.decision.equal_steps import Slope
from agent.decision.estimate import unbiased
from agent.decision.next_run import Situation, next_run
from agent.decision.noise import Noise, of_candidate
from agent.execution.conditions import undisturbed
from agent.journal.experiment import Direction, Evidence, Experiment, Run, Verdict, mean, metrics, succeeded
from agent.journal.state import gain

Kind = Literal["confirm", "greedy"]
Step = Literal["candidate", "incumbent"]

# The gain that the test is designed to detect, in standard deviations of one run as measured. At equal steps the
# absolute gain stays the same, because a smaller one is not worth the runs. It is at most MOST_EFFECT times the smaller
# noise there: a gain of that size is not luck.
EFFECT, MOST_EFFECT = 2.8, 6.0
# Log likelihood ratios. A single run discards slightly more readily than repeated runs do, because most candidates end
# there. After one above FIRST_CLEAR only the candidate is repeated; nothing is kept before LEAST_RUNS.
FIRST_CLEAR, KEEP = 6.0, 2.6
FIRST_DISCARD, DISCARD = -0.8, -1.6
# Runs of the candidate: before a keep, so that they tell its own noise, and before the test ends undecided.
LEAST_RUNS, MOST_RUNS = 3, 8
# The incumbent is repeated after every REFRESH_EVERY experiments until it has MOST_REFRESHES runs. Otherwise one that
# was measured too good by luck would never be measured again, since no candidate comes near it.
REFRESH_EVERY, MOST_REFRESHES = 4, 6
# An incumbent that fails this often in a row is not repeated; later candidates are judged against its known runs.
MOST_FAILURES = 3
# False keeps, at most: so many while the noise is known from a few runs only, so many per experiment at equal steps,
# and so many per experiment as measured, where the machine may drift. Measured by `benchmarks/statement.py` for edits
# that change nothing, with and without real ones between them (docs/benchmarks.md).
EARLY_FALSE_KEEPS, FALSE_KEEPS, FALSE_KEEPS_AS_MEASURED = 0.2, 0.006, 0.018
# In standard deviations of one run. An incumbent without held-out runs is repeated before it is compared with a
# candidate that is less than this much worse.
UNCERTAIN = 2.0
FRESH = Situation()


@dataclass(frozen=True)
class IncumbentSample:
    """The measurements of an incumbent.

    Attributes:
        heldout: metrics of its held-out runs.
        selection: metrics of its selection runs.
        age: number of experiments since it was kept.
        added_variance: if the metrics are adjusted for the candidate's steps, the variance that this adds to their
            mean, in units of the variance of one run; else None.
        effect: the gain to detect, in standard deviations of one run.
        lost: it has failed on each of its recent repeats, so its known runs are used.
    """

    heldout: Sequence[float]
    selection: Sequence[float]
    age: int = 0
    added_variance: float | None = None
    effect: float = EFFECT
    lost: bool = False


def sample_of(
    incumbent: Experiment, number: int, slope: Slope | None = None, candidate: Sequence[Run] = ()
) -> IncumbentSample:
    """Return the measurements of the incumbent for judging experiment `number`."""
    selection, age = undisturbed(succeeded(incumbent.runs)), number - 1 - incumbent.number
    found = incumbent_sample(unbiased(incumbent), selection, age, slope, candidate)
    return replace(found, lost=is_lost(incumbent))


def is_lost(incumbent: Experiment) -> bool:
    return keeps_failing(incumbent.heldout_runs)


def keeps_failing(heldout: Sequence[Run]) -> bool:
    latest = heldout[-MOST_FAILURES:]
    return len(latest) == MOST_FAILURES and not succeeded(latest)


def incumbent_sample(
    heldout: Sequence[Run], selection: Sequence[Run], age: int, slope: Slope | None, candidate: Sequence[Run]
) -> IncumbentSample:
    """Return the measurements of the incumbent, at equal steps if a slope is given.

    Args:
        heldout: held-out runs of the incumbent, all with a metric.
        selection: its selection runs.
        age: number of experiments since it was kept.
        slope: the slope of the metric over steps, if only the machine can change the candidate's number of steps.
        candidate: the candidate's runs, whose steps the metrics are adjusted to.
    """
    if slope is None:
        return IncumbentSample(metrics(heldout), metrics(selection), age)
    values, first = (slope.adjusted(runs, candidate) for runs in (heldout, selection))
    effect = min(EFFECT * slope.raw.sd / slope.noise.sd, MOST_EFFECT)
    return IncumbentSample(values, first, age, slope.added_variance(heldout or selection, candidate), effect)


def weigh(
    candidate: Sequence[float],
    incumbent: IncumbentSample,
    noise: Noise,
    direction: Direction,
    *,
    leaner: str | None = None,
    situation: Situation = FRESH,
) -> Verdict | Step:
    """Return the verdict, or which side must run before there is one.

    Args:
        candidate: metrics of its runs, at least one; at equal steps if the incumbent's are.
        leaner: how it is simpler, which makes it a keep if nothing is lost; None if it is not simpler.
    """
    reference, added = incumbent.heldout or incumbent.selection, incumbent.added_variance
    own = of_candidate(noise, candidate)
    evidence = _evidence(candidate, reference, own, direction, doubt=added)
    evidence = replace(evidence, own_noise=own is not noise)
    situation = replace(situation, attempts=max(situation.attempts, evidence.runs), lost=incumbent.lost)
    if not noise.exact:
        uncertain = _is_uncertain(evidence, incumbent, own)
        row = next_run(replace(situation, unsure=noise.unsure, uncertain=uncertain))
        if row.then != "test":
            return "incumbent" if row.then == "incumbent" else Verdict("discard", row.why)
    if noise.sd == 0.0:
        gains = [gain(evidence.incumbent_mean, value, direction) for value in candidate]
        return exact(evidence, [gains], leaner) or "candidate"
    first, early, effect = evidence.runs == 1, evidence.runs < LEAST_RUNS, incumbent.effect
    ratio = log_ratio(evidence, own, effect, 0.0)
    if ratio >= (FIRST_CLEAR if first else KEEP):
        return "candidate" if early else Verdict("keep", f"better by {amount(evidence)}", evidence)
    if ratio > (FIRST_DISCARD if first else DISCARD) and evidence.runs < MOST_RUNS:
        return _next(evidence, incumbent, situation)
    if leaner is not None:
        # The same test, shifted: "nothing is lost" against "worse by the effect", which is no more for an unstable one.
        loss = effect * (noise.sd / own.sd)
        ratio = log_ratio(evidence, own, loss, loss)
        if ratio >= KEEP and not early and evidence.gain >= 0:
            why = f"simplification: {leaner}, and nothing is lost ({amount(evidence)})"
            return Verdict("keep", why, replace(evidence, how="simplification"))
        if ratio > DISCARD and evidence.runs < MOST_RUNS:
            return _next(evidence, incumbent, situation)
    return Verdict("discard", f"{short(evidence)}: {amount(evidence)}", evidence)


def most_false_keeps(kind: str, experiments: int, as_measured: int) -> float:
    """Return the expected number of false keeps among so many experiments, at most.

    All edits are taken to change nothing. The classic rule keeps such an edit if it is the best of all so far: the n-th
    one is with a probability of at most 1 / n.

    Args:
        as_measured: number of those experiments that were not compared at equal steps.
    """
    if not experiments:
        return 0.0
    if kind == "greedy":
        return math.fsum(1 / number for number in range(1, experiments + 1))
    return EARLY_FALSE_KEEPS + FALSE_KEEPS * (experiments - as_measured) + FALSE_KEEPS_AS_MEASURED * as_measured


def short(evidence: Evidence) -> str:
    """Describe how a discarded candidate falls short."""
    return "not shown to be better" if evidence.word == "better" else evidence.word


def _is_uncertain(evidence: Evidence, incumbent: IncumbentSample, noise: Noise) -> bool:
    """Return whether the incumbent must be repeated before anything is compared with it."""
    if incumbent.heldout:
        return len(incumbent.heldout) < min(MOST_REFRESHES, 1 + incumbent.age // REFRESH_EVERY)
    return evidence.gain > -UNCERTAIN * noise.sd


def greedy(candidate: Sequence[float], incumbent: Sequence[float], noise: Noise, direction: Direction) -> Verdict:
    """Apply the classic rule: keep if strictly better than the incumbent's metric when it was kept."""
    return strictly_better(_evidence(candidate, incumbent, noise, direction, how="greedy"), noise)


def strictly_better(evidence: Evidence, noise: Noise) -> Verdict:
    """Return the verdict of the classic rule."""
    if noise.degrees < 1:
        # Nothing was repeated, so the noise is a guess, and so would be the number of sigmas.
        evidence = replace(evidence, sigmas=None)
    if evidence.gain > 0:
        return Verdict("keep", f"better by {amount(evidence)}", evidence)
    return Verdict("discard", "equal" if evidence.gain == 0 else f"{short(evidence)}: {amount(evidence)}", evidence)


def repeat(
    candidate: Sequence[float], incumbent: IncumbentSample, noise: Noise, direction: Direction, what: str
) -> Verdict:
    evidence = _evidence(candidate, incumbent.heldout or incumbent.selection, noise, direction, how="repeat")
    return Verdict("discard", f"repeat: {what}", evidence)


def _evidence(
    candidate: Sequence[float],
    incumbent: Sequence[float],
    noise: Noise,
    direction: Direction,
    how: str = "",
    doubt: float | None = None,
) -> Evidence:
    n, m = len(candidate), len(incumbent)
    own, other = mean(candidate), mean(incumbent)
    by = gain(other, own, direction)
    error = noise.sd * math.sqrt(1 / n + 1 / m + (doubt or 0.0))
    sigmas = by / error if error else None
    confirmed = n > 1 or noise.exact
    how = how or ("confirmed" if confirmed else "one run")
    degrees = None if noise.exact else noise.degrees
    return Evidence(how, own, n, other, m, by, noise.sd, sigmas, doubt, degrees=degrees)


def exact(evidence: Evidence, gains: Sequence[Sequence[float]], leaner: str | None) -> Verdict | None:
    """Judge without noise: if repeated runs give equal numbers, every difference is real.

    A candidate may be random where the incumbent is not, so no single run keeps it. If its runs differ, MOST_RUNS of
    them must be better, without exception: one in 256 candidates that are better as often as worse passes.

    Args:
        gains: of each run over the incumbent, by station.

    Returns:
        None if another run of the candidate must come first.
    """
    least, runs = min(map(min, gains)), sum(map(len, gains))
    differ = ", whose numbers differ" if any(min(own) != max(own) for own in gains) else ""
    if least < 0 or (least == 0 and leaner is None):
        why = f"worse by {-evidence.gain:.6g}" if evidence.gain < 0 else "equal"
        return Verdict("discard", f"not better in each of {runs} runs{differ}" if differ else why, evidence)
    if runs < MOST_RUNS and (differ or runs == len(gains)):
        return None
    if least == 0:
        why = f"simplification: {leaner}, and the result is equal"
        return Verdict("keep", why, replace(evidence, how="simplification"))
    why = f" in {runs} of {runs} runs{differ}" if differ else "; equal programs give equal numbers here"
    return Verdict("keep", f"better by {evidence.gain:.6g}{why}", evidence)


def log_ratio(evidence: Evidence, noise: Noise, effect: float, margin: float) -> float:
    """Return the log likelihood ratio of "better by effect - margin or more" against "better by -margin or less".

    Each side uses the value that fits best, so that a result beyond both is as decisive as it looks.

    Args:
        effect: in standard deviations of one run, as is `margin`.
    """
    information = 1 / (1 / evidence.runs + 1 / evidence.incumbent_runs + (evidence.doubt or 0.0))
    root, degrees = math.sqrt(information), noise.degrees
    z = (evidence.gain / noise.sd + margin) * root
    from_better, from_equal = min(0.0, z - effect * root), max(0.0, z)
    # A power raises where a product is infinite.
    equal, better = (math.log1p(each * each / degrees) for each in (from_equal, from_better))
    return (degrees + 1) / 2 * (equal - better)


def _next(evidence: Evidence, incumbent: IncumbentSample, situation: Situation) -> Verdict | Step:
    """Alternate, with the incumbent one run ahead: its runs also serve the next candidates."""
    row = next_run(replace(situation, turn=len(incumbent.heldout) <= evidence.runs + 1))
    if row.then == "discard":
        return Verdict("discard", row.why)
    return "incumbent" if row.then == "incumbent" else "candidate"


def amount(evidence: Evidence) -> str:
    runs = f"{evidence.runs} run{'s' if evidence.runs > 1 else ''} against {evidence.incumbent_runs}"
    runs += f" on {len(evidence.stations)} stations" if len(evidence.stations) > 1 else ""
    if evidence.sigmas is None:
        return f"{evidence.gain:+.4g}, {runs}"
    how = " at equal steps" if evidence.equal_steps else ""
    noise = f"{'own ' if evidence.own_noise else ''}noise {evidence.noise:.2g}"
    return f"{evidence.gain:+.4g}{how}, {evidence.sigmas:+.1f} sigma, {runs}, {noise}"
