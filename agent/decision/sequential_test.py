"""Keep or discard: a sequential test that spends runs only where they change the decision.

One run screens. What is clearly worse is discarded at once; else candidate and incumbent are run again in turn until
the likelihood ratio of "better by EFFECT or more" against "equal" passes one of two bounds (Wald's sequential test with
a generalised ratio of Student's t, because the noise is estimated too). The incumbent's value is the mean of runs that
did not choose it. `benchmarks/verdict.py` measures the rates of error that these constants give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from agent.decision.equal_steps import Slope
from agent.decision.estimate import unbiased
from agent.decision.next_run import Situation, next_run
from agent.decision.noise import Noise
from agent.execution.conditions import undisturbed
from agent.journal.experiment import Direction, Evidence, Experiment, Run, Verdict, metrics, succeeded
from agent.journal.state import gain

Kind = Literal["confirm", "greedy"]
Step = Literal["candidate", "incumbent"]

# In standard deviations of one run as measured: the gain that the test is made to find. At equal steps it stays the
# same, as less is not worth the runs, up to MOST_EFFECT of the smaller noise there: that far off, it is no luck.
EFFECT, MOST_EFFECT = 2.8, 6.0
# Log likelihood ratios. A single run alone keeps only what no noise explains; it discards a little more readily than
# repeated ones do, because most candidates end there.
FIRST_KEEP, KEEP = 6.0, 3.0
FIRST_DISCARD, DISCARD = -0.8, -1.6
MOST_RUNS = 8  # of the candidate
# The incumbent is run once more after every REFRESH_EVERY experiments until it has MOST_REFRESHES runs: one that was
# measured too good by luck would else never be measured again, since nothing comes near it.
REFRESH_EVERY, MOST_REFRESHES = 4, 6
# An incumbent that fails so often in a row is asked for no more: the candidates after it are judged by what is known.
MOST_FAILURES = 3
# An incumbent that only the runs that chose it vouch for is run again before it judges anything within this distance.
DOUBTFUL = 2.0
FRESH = Situation()


@dataclass(frozen=True)
class IncumbentSample:
    """An incumbent. heldout: metrics of runs that did not choose it; selection: of those that did.

    age: experiments since it was kept. doubt: where these are restated for the candidate's steps, the variance that
    this adds to their mean, in that of one run; else None. effect: the gain to look for, in noises.
    lost: it has failed each time that it was run again lately, and is judged by as it was.
    """

    heldout: Sequence[float]
    selection: Sequence[float]
    age: int = 0
    doubt: float | None = None
    effect: float = EFFECT
    lost: bool = False


def sample_of(
    incumbent: Experiment, number: int, slope: Slope | None = None, candidate: Sequence[Run] = ()
) -> IncumbentSample:
    """What is known of the incumbent when the experiment `number` is judged."""
    selection, age = undisturbed(succeeded(incumbent.runs)), number - 1 - incumbent.number
    found = incumbent_sample(unbiased(incumbent), selection, age, slope, candidate)
    return replace(found, lost=is_lost(incumbent))


def is_lost(incumbent: Experiment) -> bool:
    latest = incumbent.heldout_runs[-MOST_FAILURES:]
    return len(latest) == MOST_FAILURES and not succeeded(latest)


def incumbent_sample(
    heldout: Sequence[Run], selection: Sequence[Run], age: int, slope: Slope | None, candidate: Sequence[Run]
) -> IncumbentSample:
    """heldout: runs that did not choose the incumbent. All have a metric.

    slope: how the metric goes with the steps, where only the machine can make the candidate take more or fewer.
    """
    if slope is None:
        return IncumbentSample(metrics(heldout), metrics(selection), age)
    values, first = (slope.restated(runs, candidate) for runs in (heldout, selection))
    effect = min(EFFECT * slope.raw.sd / slope.noise.sd, MOST_EFFECT)
    return IncumbentSample(values, first, age, slope.doubt(heldout or selection, candidate), effect)


def weigh(
    candidate: Sequence[float],
    incumbent: IncumbentSample,
    noise: Noise,
    direction: Direction,
    *,
    leaner: str | None = None,
    situation: Situation = FRESH,
) -> Verdict | Step:
    """The verdict, or whose run is needed before there is one.

    candidate: metrics of its runs, one at least. leaner: how it is simpler; then it is kept where nothing is lost.
    """
    evidence = _evidence(candidate, incumbent.heldout or incumbent.selection, noise, direction, doubt=incumbent.doubt)
    situation = replace(situation, attempts=max(situation.attempts, evidence.runs), lost=incumbent.lost)
    if not noise.exact:
        doubtful = _is_doubtful(evidence, incumbent, noise)
        row = next_run(replace(situation, unsure=noise.unsure, doubtful=doubtful))
        if row.then != "test":
            return "incumbent" if row.then == "incumbent" else Verdict("discard", row.why)
    if noise.sd == 0.0:
        return _exact(evidence, leaner)
    first, effect = evidence.runs == 1, incumbent.effect
    ratio = _log_ratio(evidence, noise, effect, 0.0)
    if ratio >= (FIRST_KEEP if first else KEEP):
        return Verdict("keep", f"better by {_amount(evidence)}", evidence)
    if ratio > (FIRST_DISCARD if first else DISCARD) and evidence.runs < MOST_RUNS:
        return _next(evidence, incumbent, situation)
    if leaner is not None:
        # The same test, moved: "nothing is lost" against "worse by the effect".
        ratio = _log_ratio(evidence, noise, effect, effect)
        if ratio >= KEEP and not first and evidence.gain >= 0:
            why = f"simplification: {leaner}, and nothing is lost ({_amount(evidence)})"
            return Verdict("keep", why, replace(evidence, how="simplification"))
        if ratio > DISCARD and evidence.runs < MOST_RUNS:
            return _next(evidence, incumbent, situation)
    return Verdict("discard", f"{_short(evidence)}: {_amount(evidence)}", evidence)


def _short(evidence: Evidence) -> str:
    """How what is discarded falls short."""
    return "not shown to be better" if evidence.word == "better" else evidence.word


def _is_doubtful(evidence: Evidence, incumbent: IncumbentSample, noise: Noise) -> bool:
    """Whether the incumbent has to be run again before anything is compared with it."""
    if incumbent.heldout:
        return len(incumbent.heldout) < min(MOST_REFRESHES, 1 + incumbent.age // REFRESH_EVERY)
    return evidence.gain > -DOUBTFUL * noise.sd


def greedy(candidate: Sequence[float], incumbent: Sequence[float], noise: Noise, direction: Direction) -> Verdict:
    """The classic rule: whatever is strictly better than the number that the incumbent was kept with."""
    evidence = _evidence(candidate, incumbent, noise, direction, how="greedy")
    if noise.degrees < 1:
        # Nothing was run twice: a number of sigmas would be that of a guess.
        evidence = replace(evidence, sigmas=None)
    if evidence.gain > 0:
        return Verdict("keep", f"better by {_amount(evidence)}", evidence)
    return Verdict("discard", "equal" if evidence.gain == 0 else f"{_short(evidence)}: {_amount(evidence)}", evidence)


def repeat(
    candidate: Sequence[float], incumbent: IncumbentSample, noise: Noise, direction: Direction, what: str
) -> Verdict:
    evidence = _evidence(candidate, incumbent.heldout or incumbent.selection, noise, direction, how="repeat")
    return Verdict("discard", f"a repeat: {what}", evidence)


def _evidence(
    candidate: Sequence[float],
    incumbent: Sequence[float],
    noise: Noise,
    direction: Direction,
    how: str = "",
    doubt: float | None = None,
) -> Evidence:
    n, m = len(candidate), len(incumbent)
    mean, other = math.fsum(candidate) / n, math.fsum(incumbent) / m
    by = gain(other, mean, direction)
    error = noise.sd * math.sqrt(1 / n + 1 / m + (doubt or 0.0))
    sigmas = by / error if error else None
    confirmed = n > 1 or noise.exact
    how = how or ("confirmed" if confirmed else "one run")
    return Evidence(how, mean, n, other, m, by, noise.sd, sigmas, doubt)


def _exact(evidence: Evidence, leaner: str | None) -> Verdict:
    """Where repeated runs gave equal numbers every difference is real."""
    if evidence.gain > 0:
        return Verdict("keep", f"better by {evidence.gain:.6g}; equal programs give equal numbers here", evidence)
    if evidence.gain == 0 and leaner is not None:
        why = f"simplification: {leaner}, and the result is equal"
        return Verdict("keep", why, replace(evidence, how="simplification"))
    return Verdict("discard", f"worse by {-evidence.gain:.6g}" if evidence.gain else "equal", evidence)


def _log_ratio(evidence: Evidence, noise: Noise, effect: float, margin: float) -> float:
    """Log of the likelihood of "better by effect - margin or more" over that of "by -margin or less", in noise sds.

    Each side by the value that fits best, so that a result beyond both is as decisive as it looks.
    """
    information = 1 / (1 / evidence.runs + 1 / evidence.incumbent_runs + (evidence.doubt or 0.0))
    root, degrees = math.sqrt(information), noise.degrees
    z = (evidence.gain / noise.sd + margin) * root
    from_better, from_equal = min(0.0, z - effect * root), max(0.0, z)
    return (degrees + 1) / 2 * (math.log1p(from_equal**2 / degrees) - math.log1p(from_better**2 / degrees))


def _next(evidence: Evidence, incumbent: IncumbentSample, situation: Situation) -> Verdict | Step:
    """In turn, the incumbent one run ahead: what it costs serves the next candidates too."""
    row = next_run(replace(situation, turn=len(incumbent.heldout) <= evidence.runs + 1))
    if row.then == "discard":
        return Verdict("discard", row.why)
    return "incumbent" if row.then == "incumbent" else "candidate"


def _amount(evidence: Evidence) -> str:
    runs = f"{evidence.runs} run{'s' if evidence.runs > 1 else ''} against {evidence.incumbent_runs}"
    if evidence.sigmas is None:
        return f"{evidence.gain:+.4g}, {runs}"
    how = "" if evidence.doubt is None else " at equal steps"
    return f"{evidence.gain:+.4g}{how}, {evidence.sigmas:+.1f} sigma, {runs}, noise {evidence.noise:.2g}"
