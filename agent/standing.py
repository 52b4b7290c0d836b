"""How much of a session's gain is known, and how well: what every view says of it."""

from __future__ import annotations

from dataclasses import dataclass

from agent.experiment import reservations
from agent.noise import PRIOR_DEGREES, noise_of
from agent.state import State, gain


@dataclass(frozen=True)
class Standing:
    """Positive gains are better, in either direction; None where there is nothing to compare yet.

    apparent: by the numbers that chose the best, so on the lucky side. confirmed: by fresh runs of baseline and best,
    with `low` and `high` as its interval; None until `confirm` has compared these very two.
    repeated: whether the best was kept after more than one run, or where equal programs give equal numbers.
    noise: standard deviation of one run; None before anything was repeated, and where there is none.
    reservations: what to say with it: "unconfined", "unattested".
    """

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


def standing(state: State) -> Standing:
    baseline, best = state.baseline, state.incumbent
    if state.session is None or baseline is None or best is None or baseline.metric is None or best.metric is None:
        return Standing()
    apparent = gain(baseline.metric, best.metric, state.session["direction"])
    known = noise_of(state.experiments)
    noise = known.sd if known.degrees > PRIOR_DEGREES and known.sd else None
    repeated = best.verdict.evidence is not None and best.verdict.evidence.confirmed
    said = tuple(reservations([*baseline.runs, *best.runs]))
    found = state.confirmation
    # An interval that holds zero confirms nothing, and one of an earlier best says nothing of this one.
    if found is None or found.get("low", 0.0) <= 0:
        return Standing(apparent, noise=noise, repeated=repeated, reservations=said)
    return Standing(apparent, found["gain"], found["low"], found["high"], noise, repeated, said)
