"""How much of a session's gain is known, and how well: what every view says of it."""

from __future__ import annotations

from dataclasses import dataclass

from agent.state import State, gain


@dataclass(frozen=True)
class Standing:
    """Positive gains are better, in either direction; None where there is nothing to compare yet.

    apparent: by the numbers that chose the best, so on the lucky side. confirmed: by fresh runs of baseline and best,
    with `low` and `high` as its interval; None until `confirm` has compared these very two.
    noise: standard deviation of one run, of the latest verdict that knew it.
    """

    apparent: float | None = None
    confirmed: float | None = None
    low: float | None = None
    high: float | None = None
    noise: float | None = None

    @property
    def word(self) -> str:
        return "provisional" if self.confirmed is None else "confirmed"


def standing(state: State) -> Standing:
    baseline, best = state.baseline, state.incumbent
    if state.session is None or baseline is None or best is None or baseline.metric is None or best.metric is None:
        return Standing()
    apparent = gain(baseline.metric, best.metric, state.session["direction"])
    seen = [e.verdict.evidence.noise for e in state.experiments if e.verdict.evidence is not None]
    noise = next((each for each in reversed(seen) if each > 0), None)
    found = state.confirmation
    # An interval that holds zero confirms nothing, and one of an earlier best says nothing of this one.
    if found is None or {found["a"], found["b"]} != {baseline.commit, best.commit} or found["low"] <= 0:
        return Standing(apparent, noise=noise)
    return Standing(apparent, found["gain"], found["low"], found["high"], noise)
