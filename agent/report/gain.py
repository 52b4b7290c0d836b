"""The gain of a session and of each experiment, with its uncertainty, as every view shows it.

A positive gain is an improvement, whether the metric is minimized or maximized.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.decision.estimate import estimate, unbiased
from agent.decision.levels import records_of
from agent.decision.noise import noise_of
from agent.decision.pooling import value_on_reference
from agent.journal.experiment import REPEATED, Direction, Experiment, by_station, reservations, succeeded
from agent.journal.history import incumbent_before
from agent.journal.state import State, gain

ONE_SEED = "one seed alone shows the gain"  # the journal says `one seed`
# Why runs keep the recipe's seed although it could be set.
AS_ASKED, ONE_RUN = SEED_KEPT = ("as asked", "one run each")


@dataclass(frozen=True)
class Gain:
    """The gain of the best over the baseline. Values are None until both are measured.

    Attributes:
        baseline: estimate of the baseline by all its runs, see `decision.estimate`.
        best: estimate of the best by all its runs.
        baseline_runs: number of runs behind the estimate of the baseline.
        best_runs: number of runs behind the estimate of the best.
        apparent: gain from `baseline` to `best`.
        confirmed: gain by held-out runs of baseline and best; None until `confirm` has compared these two.
        heldout: the same, whatever their verdict.
        low: lower end of the interval of `heldout`.
        high: upper end of the interval of `heldout`.
        verdict: verdict of held-out runs of baseline and best, with its reason; None until `confirm` has compared them.
        noise: standard deviation of one run; 0 if runs are deterministic, None as long as it is unknown.
        repeated: whether the best was kept after more than one run, or runs are deterministic.
        reservations: caveats to show with the gain: "unconfined", "unattested", "repeated after faults".
    """

    baseline: float | None = None
    best: float | None = None
    baseline_runs: int = 0
    best_runs: int = 0
    apparent: float | None = None
    confirmed: float | None = None
    heldout: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: str | None = None
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
    found = state.confirmation
    whole = found is not None and None not in (found.get("gain"), found.get("low"), found.get("high"))
    says = whole and ("verdict" in (found or {}) or shows_gain(found or {}))  # earlier versions wrote no verdict
    heldout = found if found is not None and says else {}
    one_sided = bool(state.faulted.get(baseline.commit)) != bool(state.faulted.get(best.commit))
    faulted = one_sided or REPEATED in (found or {}).get("reservations", ())
    words = (*reservations([*baseline.runs, *best.runs]), *([REPEATED] if faulted else []))
    return Gain(
        baseline=first,
        best=now,
        baseline_runs=_runs_behind(baseline),
        best_runs=_runs_behind(best),
        apparent=gain(first, now, state.session["direction"]),
        confirmed=heldout.get("gain") if shows_gain(heldout) else None,
        heldout=heldout.get("gain"),
        low=heldout.get("low"),
        high=heldout.get("high"),
        verdict=verdict_of(found) if found is not None and "verdict" in found else None,
        noise=noise_of(state.measured).known,
        repeated=best.verdict.evidence is not None and best.verdict.evidence.confirmed,
        reservations=words,
    )


def _runs_behind(experiment: Experiment) -> int:
    evidence = experiment.verdict.evidence
    if evidence and any(run.station for run in experiment.runs):
        return evidence.runs
    return len(unbiased(experiment)) or (evidence.runs if evidence else len(succeeded(experiment.runs)))


@dataclass(frozen=True)
class Outcome:
    """The result of an experiment compared with the incumbent of its time, as the verdict saw it.

    Attributes:
        value: mean of the experiment's runs; None without a result.
        runs: number of runs behind `value`.
        gain: gain of `value` over `against`; None if nothing was compared.
        against: mean of the incumbent's runs.
        against_runs: number of runs behind `against`.
        incumbent: number of the incumbent.
        sigmas: gain in its standard errors; None if the noise is unknown.
        word: `better`, `worse`, `equal` or `within noise`; empty if nothing was compared.
        equal_steps: whether `against` is adjusted to the number of steps of this experiment.
        sure: whether a keep is backed by repeated runs, or by held-out runs afterwards.
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
            equal_steps=evidence.equal_steps,
            sure=evidence.confirmed or confirmed_by_heldout_runs(state, experiment),
        )
    value, runs = metric_of(state, experiment), len(succeeded(experiment.runs))
    if value is None or before is None or before.metric is None:
        return Outcome(value=value, runs=runs, incumbent=number)
    by = gain(before.metric, value, direction)
    word = "better" if by > 0 else "worse" if by < 0 else "equal"
    return Outcome(value, runs, by, before.metric, len(succeeded(before.runs)), number, None, word)


def metric_of(state: State, experiment: Experiment) -> float | None:
    """Return the metric of an experiment on the scale of the session's rows.

    Returns:
        None without a result, and if it was measured only on stations whose level is unknown.
    """
    metric = experiment.metric
    runs = by_station(succeeded(experiment.runs))
    if metric is None or experiment.number == 0 or experiment.verdict.evidence is not None or not any(runs):
        return metric
    assert state.session is not None
    return value_on_reference(runs, records_of(state.measured, state.session["direction"]))


def estimate_of(state: State, experiment: Experiment) -> float | None:
    """Return the best estimate of the metric of an experiment on the same scale (`decision.estimate`)."""
    on_stations = any(run.station for run in experiment.runs)
    return metric_of(state, experiment) if on_stations else estimate(experiment)


def remeasured(state: State, experiment: Experiment) -> float | None:
    """Return the value that the verdict used for the incumbent, if it was re-measured after it was kept.

    The incumbent's row shows the value at its keep, so without this value the gain does not follow from the two rows.

    Returns:
        The value; None if the gain follows from the rows, or was adjusted for steps, which every view shows.
    """
    before, evidence = incumbent_before(state.experiments, experiment.number), experiment.verdict.evidence
    if before is None or evidence is None or evidence.equal_steps:
        return None
    own = before.verdict.evidence
    shown = own.mean if own is not None else before.metric
    same = shown is not None and math.isclose(evidence.incumbent_mean, shown, rel_tol=1e-9)
    return None if same else evidence.incumbent_mean


def confirmed_by_heldout_runs(state: State, experiment: Experiment) -> bool:
    """Return whether held-out runs have shown a gain over the baseline or the incumbent of its time."""
    before = incumbent_before(state.experiments, experiment.number)
    others = [each.commit for each in (state.baseline, before) if each is not None]
    found = [state.confirmations.get(f"{commit} {experiment.commit}", {}) for commit in others]
    return any(map(shows_gain, found))


def verdict_of(confirmation: Mapping[str, Any]) -> str:
    """Return the verdict of held-out runs with its reason or caveat: `not confirmed: one seed alone shows the gain`."""
    why, caveat = confirmation.get("why"), caveat_of(confirmation)
    why = confirmation.get("reason") or (ONE_SEED if why == "one seed" else why)
    return f"{confirmation['verdict']}{f': {why}' if why else f' {caveat}' if caveat else ''}"


def caveat_of(confirmation: Mapping[str, Any]) -> str:
    """Return what a confirmed gain is limited to; empty for nothing."""
    why = confirmation.get("one_seed")
    # Runs that neither a seed nor noise varies are one run, repeated.
    one_run = why in SEED_KEPT or (why is not None and confirmation.get("noise") == 0)
    return "for one seed only" if one_run and shows_gain(confirmation) else ""


def shows_gain(confirmation: Mapping[str, Any]) -> bool:
    """Return whether held-out runs have confirmed a gain. An interval that contains zero confirms nothing."""
    low = confirmation.get("low")
    return low is not None and low > 0 and confirmation.get("verdict", "confirmed") == "confirmed"
