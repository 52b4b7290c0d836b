"""Judge a candidate whose runs are spread over several stations, or say which runs would help.

Only differences within a station are evidence for a keep. They are pooled by `pooling`, and judged by the thresholds of
`sequential_test`; a session with one station decides as one machine does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from agent.decision.decide import DecisionConfig, slower_in_a_row, voided, why_faster, why_slower, without_comparison
from agent.decision.equal_steps import Slope, slope_of
from agent.decision.estimate import undisturbed_on_stations, usable
from agent.decision.levels import Records, interaction
from agent.decision.longer_training import slowed, why_longer_than
from agent.decision.next_run import MOST_ATTEMPTS, MOST_DISTURBED, TOO_FEW, UNMEASURED, Row, Situation, next_run
from agent.decision.noise import OWN_NOISE, Noise, is_less_stable, sd_within
from agent.decision.pooling import Pooled, disagreement, predicted, value_on_reference, within
from agent.decision.sequential_test import (
    DISCARD,
    FIRST_CLEAR,
    FIRST_DISCARD,
    KEEP,
    LEAST_RUNS,
    MOST_REFRESHES,
    MOST_RUNS,
    REFRESH_EVERY,
    UNCERTAIN,
    amount,
    exact,
    keeps_failing,
    log_ratio,
    short,
    strictly_better,
)
from agent.execution.conditions import swaps_more
from agent.journal.experiment import ROUNDING, Evidence, Run, Verdict, by_station, mean, metrics, succeeded
from agent.journal.state import gain

# A keep needs runs on so many stations, if the session has them, until its programs have shown that they agree.
FEWEST_STATIONS = 2
# Log likelihood ratio from which a candidate is promising: several of its runs at the same time are worth it, where
# below the next one often ends it, and so is another one on top of what was kept meanwhile.
PROMISING = 1.0
PROMISE = "promising"  # how the reason of a keep begins that is no more than that
NOWHERE: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Trial:
    """A candidate and the program that it is compared with, the base.

    Attributes:
        runs: of the candidate, in order, at least one.
        base_heldout: runs of the base without selection bias, failed ones included (`estimate.split`).
        base_selection: its other runs.
        same_work: whether a step of both takes equally long, judging by the edit.
        leaner: how the candidate is simpler, if that counts.
        repeat: why it is a program that is known already.
        age: experiments since the base was kept.
        overtaken: another candidate was kept since, so a winner is measured again on top of that: only whether this one
            is promising matters.
        rebases: station -> number of runs of the base that were accepted, for this candidate, after the machine's state
            had changed.
    """

    runs: Sequence[Run]
    base_heldout: Sequence[Run]
    base_selection: Sequence[Run]
    same_work: bool = False
    leaner: str | None = None
    repeat: str | None = None
    age: int = 0
    overtaken: bool = False
    rebases: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Wants:
    """The runs that a verdict waits for.

    Attributes:
        candidate: number of further runs of the candidate that would probably decide; 0 if only the base is needed.
        stations: where such a run helps. It counts as soon as the base has a held-out run there.
        incumbent: where a held-out run of the base is needed.
        rebase: those of them where the machine's state has changed, so that earlier runs of the base no longer count.
        priority: log likelihood ratio of better against equal; more promising candidates first. 0 while nothing can be
            compared.
    """

    candidate: int = 0
    stations: frozenset[str] = NOWHERE
    incumbent: frozenset[str] = NOWHERE
    rebase: frozenset[str] = NOWHERE
    priority: float = 0.0


def judge_across(trial: Trial, records: Records, config: DecisionConfig) -> Verdict | Wants:
    """Return the verdict, or the runs that it waits for.

    Args:
        records: of the session, without the runs of this candidate.
    """
    for number in range(1, len(trial.runs) + 1):
        early = without_comparison(trial.runs[:number], config)
        if early is not None:
            return early
    case = _Case(trial, records)
    if trial.repeat is not None:
        return _repeat(case)
    found = _judged(case, config)
    return found if isinstance(found, Verdict) else _attainable(case, found)


def _judged(case: _Case, config: DecisionConfig) -> Verdict | Wants:
    """Return the verdict, or the runs that it waits for, whichever stations take part now."""
    found = _greedy(case) if config.kind == "greedy" else _confirm(case)
    if case.trial.overtaken and isinstance(found, Wants) and found.priority and config.kind != "greedy":
        found = _so_far(case, found)
    if not (config.trains and isinstance(found, Verdict) and found.status == "keep"):
        return found
    why = case.why_longer()
    if why is None:
        return found
    # A busy machine may have slowed the first run, so the candidate gets a second one.
    if len(case.good) < 2:
        return Wants(1, case.free, priority=KEEP)
    return voided(found, why)


def _so_far(case: _Case, found: Wants) -> Verdict:
    """Return the verdict by the runs that there are: a keep if more of them would have been worth it."""
    best, leaner = case.best, case.trial.leaner
    assert best is not None
    evidence = case.evidence(best)
    if (found.priority if leaner is None else _ratio(best)) > PROMISING:
        return Verdict("keep", f"{PROMISE}: {amount(evidence)}", evidence)
    lossless = best.for_loss()
    if leaner is not None and best.gain >= 0 and _ratio(lossless, lossless.effect) > PROMISING:
        return Verdict("keep", f"{PROMISE} simplification: {leaner} ({amount(evidence)})", evidence)
    return Verdict("discard", _why_not(case, best, evidence), evidence)


def _attainable(case: _Case, found: Wants) -> Verdict | Wants:
    """Return what a verdict waits for, or a run elsewhere if only stations that take no part could make it."""
    here = frozenset(case.records.stations)
    able = here - case.lost
    if not here or found.incumbent & able or (found.candidate and found.stations & here):
        return found
    if not able or len(case.trial.runs) >= MOST_ATTEMPTS:
        return Verdict("discard", UNMEASURED)
    return Wants(1, case.free & able or able, priority=found.priority)


@dataclass(frozen=True)
class _Case:
    """A trial, its comparable runs by station, and the estimates from them."""

    trial: Trial
    known: Records

    @cached_property
    def records(self) -> Records:
        return self.known.adding(undisturbed_on_stations(succeeded(self.trial.runs)[1:]))

    @property
    def noise(self) -> Noise:
        return self.records.noise

    @cached_property
    def heldout(self) -> dict[str, list[Run]]:
        return usable(self.trial.base_heldout)

    @cached_property
    def selection(self) -> dict[str, list[Run]]:
        return usable(self.trial.base_selection)

    @cached_property
    def base(self) -> dict[str, list[Run]]:
        """The runs that the candidate is compared with before a keep: held-out runs if there are any at all."""
        return self.heldout or self.selection

    @cached_property
    def lost(self) -> frozenset[str]:
        """Stations where the base fails on each of its recent repeats."""
        return frozenset(name for name, runs in by_station(self.trial.base_heldout).items() if keeps_failing(runs))

    @cached_property
    def good(self) -> list[Run]:
        """Runs of the candidate that are comparable with those of the base."""
        if self.noise.exact:
            return succeeded(self.trial.runs)
        return [run for run in self.trial.runs if self.why_unlike(run) is None]

    @cached_property
    def candidate(self) -> dict[str, list[Run]]:
        return by_station(self.good)

    @cached_property
    def slope(self) -> Slope | None:
        if self.noise.unsure or self.noise.exact or not self.trial.same_work:
            return None
        both = [name for name in self.candidate if name in self.heldout]
        compared = [run for name in both for run in (*self.candidate[name], *self.heldout[name])]
        return slope_of(self.records.repeated, compared, self.noise, self.records.direction)

    @cached_property
    def within(self) -> Pooled | None:
        return self._with_own_noise(self._measured)

    @cached_property
    def best(self) -> Pooled | None:
        """The more precise of both estimates; the measured one if only rounding tells them apart."""
        measured, model = self._measured, predicted(self.candidate, self.base, self.records, self.records.direction)
        if measured is None or model is None:
            return self._with_own_noise(measured or model)
        return self._with_own_noise(model if model.variance < measured.variance * (1 - ROUNDING) else measured)

    @cached_property
    def _measured(self) -> Pooled | None:
        return within(self.candidate, self.heldout, self.records, self.records.direction, self.slope)

    def _with_own_noise(self, found: Pooled | None) -> Pooled | None:
        """Return an estimate with the candidate's own noise, if its runs clearly differ by more than the session's."""
        measured = self._measured
        if found is None or measured is None or not measured.noise.sd > 0:
            return found
        if not is_less_stable(measured.noise, [self._deviations(measured, expected=True)], OWN_NOISE):
            return found
        sd, degrees = sd_within([self._deviations(measured, expected=False)])
        return found.with_own_noise(max(1.0, sd / measured.noise.sd), float(degrees))

    def _deviations(self, measured: Pooled, *, expected: bool) -> list[float]:
        """Return the deviations of the candidate's runs from its mean, on the scale of the noise of all stations.

        Between stations they contain the noise of the base, too, and what stations disagree by: without a correction,
        half of all candidates on eight stations seemed to have a noise of their own.

        Args:
            expected: scale that part so that it varies as runs within a station do if the candidate is like the others.
        """
        records, found = self.records, list[float]()
        # By what other programs showed: a candidate that is less stable seems to disagree.
        between = 2 * interaction(records.levels) if len(records.present) > 1 else 0.0
        for name, by in measured.gains.items():
            own, slope = self.candidate[name], self.slope
            values = slope.adjusted(own, own) if slope else metrics(own)
            sd = records.noise_on(name).sd * (slope.noise.sd / slope.raw.sd if slope else 1.0)
            more = 1 / len(self.heldout[name]) + between / sd / sd
            inflation = math.sqrt(1 + len(own) * more) if expected else 1.0
            # Its sign does not matter: deviations within a station sum to zero.
            beyond = (by - measured.gain) / inflation
            found += [(value - mean(values) + beyond) * (measured.noise.sd / sd) for value in values]
        return found

    @cached_property
    def free(self) -> frozenset[str]:
        """Stations where the candidate was not disturbed; all if it was disturbed everywhere."""
        unlike = {run.station for run in self.trial.runs if run not in self.good}
        return frozenset(self.records.present) - unlike - self.lost or frozenset(self.records.present)

    def evidence(self, found: Pooled) -> Evidence:
        value = value_on_reference(self.base, self.records)
        if value is None:
            value = mean(metrics(run for runs in self.base.values() for run in runs))
        return found.evidence(value, self.records.direction)

    def why_unlike(self, run: Run) -> str | None:
        reference = self.heldout.get(run.station) or self.selection.get(run.station)
        if not reference:
            return None
        return why_slower(run, reference, same_work=self.trial.same_work) or why_faster(run, reference)

    def row(self, station: str) -> Row:
        """Return what must happen on a station where the candidate's latest run was not comparable."""
        runs = [run for run in self.trial.runs if run.station == station]
        reference = self.heldout.get(station) or self.selection[station]
        rebases = self.trial.rebases.get(station, 0)
        slower = slower_in_a_row(runs, reference, same_work=self.trial.same_work)
        situation = Situation(
            attempts=len(self.trial.runs),
            rebases=rebases,
            unlike=True,
            slower=max(0, slower - MOST_DISTURBED * rebases),
            faster=why_faster(runs[-1], reference) is not None,
            swaps=all(swaps_more([run], reference) for run in runs),
            lost=station in self.lost,
        )
        return next_run(situation)

    def why_longer(self) -> str | None:
        """Return by how much the candidate trained longer than the baseline on each station that both ran on."""
        whys = []
        baseline = by_station(self.known.groups[0]) if self.known.groups else {}
        for name, runs in by_station(self.trial.runs).items():
            before = baseline.get(name) or self.heldout.get(name) or self.selection.get(name) or []
            if before:
                selection, heldout = self.selection.get(name, []), self.heldout.get(name, [])
                whys.append(why_longer_than(runs, before, slowed(selection, heldout)))
        return whys[0] if whys and None not in whys else None


def _confirm(case: _Case) -> Verdict | Wants:
    if not case.good:
        return _disturbed(case)
    if case.noise.exact:
        return _exact(case)
    found, places = case.best, frozenset(case.candidate) - case.lost
    if case.noise.unsure:
        return Wants(incumbent=places & frozenset(case.heldout) or places)
    if found is None:
        return _unmeasured(case)
    evidence, ratio = case.evidence(found), _ratio(found)
    if case.noise.sd == 0.0:
        return _exact(case)
    uncertain = not case.heldout and found.gain > -UNCERTAIN * found.noise.sd
    if uncertain and places:
        # The runs that the base was kept for are optimistic.
        return Wants(incumbent=places, priority=ratio)
    kept = _kept(case)
    if kept is not None:
        return kept
    first, open_ = found.runs == 1, found.runs < MOST_RUNS
    if ratio > (FIRST_DISCARD if first else DISCARD) and open_:
        return _more(case, found, 0.0)
    if case.trial.leaner is not None:
        simpler = _simpler(case, case.trial.leaner)
        if simpler is not None:
            return simpler
    return Verdict("discard", _why_not(case, found, evidence), evidence)


def _kept(case: _Case) -> Verdict | Wants | None:
    """Return the keep, what it waits for, or a discard since stations disagree; None if nothing speaks for a keep."""
    found = case.within
    if found is None:
        return None
    evidence = case.evidence(found)
    apart = disagreement(found) if len(found.gains) > 1 else None
    if apart is not None:
        return Verdict("discard", f"{apart}: {amount(evidence)}", evidence)
    if _ratio(found) < (FIRST_CLEAR if found.runs == 1 else KEEP):
        return None
    missing = _missing(case, found)
    return missing if missing is not None else Verdict("keep", f"better by {amount(evidence)}", evidence)


def _missing(case: _Case, found: Pooled) -> Verdict | Wants | None:
    """Return what a keep still needs: more runs of the base, another station, and more runs of the candidate.

    With too few comparable runs of the candidate when it may not run any more, nothing is kept.
    """
    ratio = _ratio(found)
    runs, wanted = sum(map(len, case.heldout.values())), min(MOST_REFRESHES, 1 + case.trial.age // REFRESH_EVERY)
    if runs < wanted:
        return Wants(incumbent=frozenset(found.gains), priority=ratio)
    lacking, further = LEAST_RUNS - found.runs, None
    if lacking > 0:
        if len(case.trial.runs) >= MOST_ATTEMPTS:
            return Verdict("discard", TOO_FEW)
        further = Wants(lacking, case.free, priority=ratio)
    if case.records.levels.agree or len(found.gains) >= min(FEWEST_STATIONS, len(case.records.present)):
        return further
    waiting = frozenset(case.candidate) - frozenset(found.gains) - case.lost
    if waiting:
        return Wants(incumbent=waiting, priority=ratio)
    others = frozenset(case.records.present) - frozenset(found.gains) - case.lost
    return Wants(max(1, lacking), others, priority=ratio) if others and found.runs < MOST_ATTEMPTS else further


def _simpler(case: _Case, leaner: str) -> Verdict | Wants | None:
    """Return the verdict that a simpler candidate gets by the same test, shifted by the effect; None for a discard."""
    assert case.best is not None
    best, found = case.best.for_loss(), case.within and case.within.for_loss()
    ratio, open_ = _ratio(best, best.effect), best.runs < MOST_RUNS
    if found is not None and found.runs > 1 and found.gain >= 0 and _ratio(found, found.effect) >= KEEP:
        missing = _missing(case, found)
        if missing is not None:
            return missing
        evidence = case.evidence(found)
        why = f"simplification: {leaner}, and nothing is lost ({amount(evidence)})"
        return Verdict("keep", why, replace(evidence, how="simplification"))
    return _more(case, best, best.effect) if ratio > DISCARD and open_ else None


def _more(case: _Case, found: Pooled, margin: float) -> Verdict | Wants:
    """Return the runs that the test needs."""
    priority = _ratio(found, margin)
    lacking = frozenset(case.candidate) - frozenset(case.heldout) - case.lost
    if case.within is None:
        # A run of either program decides whether they can be compared, whichever comes first.
        if not lacking and not frozenset(case.heldout) - case.lost:
            return Verdict("discard", UNMEASURED, case.evidence(found))
        return Wants(1, frozenset(case.heldout) - case.lost, lacking, priority=priority)
    runs = sum(map(len, case.heldout.values()))
    if runs <= found.runs + 1:
        fewest = min(case.within.gains, key=lambda name: len(case.heldout[name]))
        if fewest not in case.lost:
            return Wants(incumbent=frozenset([fewest]) | lacking, priority=priority)
    return Wants(_further(found, margin), case.free, lacking, priority=priority)


def _further(found: Pooled, margin: float) -> int:
    """Return how many more runs of the candidate would decide if the gain stayed as it is."""
    most = MOST_RUNS - found.runs
    if _ratio(found, margin) < PROMISING:
        return 1
    for more in range(1, most):
        runs, plain = found.runs + more, 1 / found.runs + 1 / found.incumbent_runs
        variance = found.variance * (1 / runs + 1 / (found.incumbent_runs + more)) / plain
        ratio = _ratio(replace(found, variance=variance, runs=runs), margin)
        if not DISCARD < ratio < KEEP:
            return more
    return max(1, most)


def _unmeasured(case: _Case) -> Verdict | Wants:
    """Return what a candidate waits for that ran only where neither the base nor the level is known."""
    places = frozenset(case.candidate) - case.lost
    if not places:
        return Wants(1, case.free) if len(case.trial.runs) < MOST_ATTEMPTS else Verdict("discard", UNMEASURED)
    return Wants(incumbent=places)


def _disturbed(case: _Case) -> Verdict | Wants:
    """Return what a candidate needs whose runs were all disturbed compared with the base."""
    rows = {name: case.row(name) for name in by_station(case.trial.runs)}
    ended = next((row for row in rows.values() if row.then == "discard"), None)
    elsewhere = frozenset(case.records.present) - frozenset(rows) - case.lost
    if ended is not None and (not elsewhere or len(case.trial.runs) >= MOST_ATTEMPTS):
        last = case.trial.runs[-1]
        return Verdict("discard", f"{ended.why}: {case.why_unlike(last)}")
    rebase = frozenset(name for name, row in rows.items() if row.then == "incumbent")
    again = frozenset(name for name, row in rows.items() if row.then == "candidate")
    return Wants(1 if elsewhere or again else 0, elsewhere or again, rebase, rebase)


def _exact(case: _Case) -> Verdict | Wants:
    """Judge without noise: differences on one station suffice."""
    found = within(case.candidate, case.heldout or case.selection, case.records, case.records.direction)
    if found is None:
        places = frozenset(case.candidate)
        return Wants(1, frozenset(case.base), places)
    evidence = case.evidence(found)
    if len(found.gains) > 1 and min(found.gains.values()) <= 0 < max(found.gains.values()):
        return Verdict("discard", f"{disagreement(found)}: {amount(evidence)}", evidence)
    base, direction = case.heldout or case.selection, case.records.direction
    values = {name: mean(metrics(base[name])) for name in found.gains}
    gains = [[gain(values[name], run, direction) for run in metrics(case.candidate[name])] for name in found.gains]
    again = frozenset(found.gains) - case.lost or case.free
    return exact(evidence, gains, case.trial.leaner) or Wants(1, again, priority=KEEP if case.best else 0.0)


def _greedy(case: _Case) -> Verdict | Wants:
    """Apply the classic rule within a station: keep if strictly better than the base there."""
    runs = by_station(succeeded(case.trial.runs))
    found = within(runs, case.selection | case.heldout, case.records, case.records.direction)
    if found is None:
        return Wants(incumbent=frozenset(runs))
    return strictly_better(replace(case.evidence(found), how="greedy"), case.noise)


def _repeat(case: _Case) -> Verdict:
    found = case.best or case.within
    evidence = replace(case.evidence(found), how="repeat") if found else None
    return Verdict("discard", f"repeat: {case.trial.repeat}", evidence)


def _why_not(case: _Case, found: Pooled, evidence: Evidence) -> str:
    where = f", predicted on {', '.join(case.candidate)}" if not found.gains and len(case.records.present) > 1 else ""
    return f"{short(evidence)}: {amount(evidence)}{where}"


def _ratio(found: Pooled, margin: float = 0.0) -> float:
    """Return the log likelihood ratio of the sequential test."""
    if not found.noise.sd:
        return math.copysign(math.inf, found.gain)
    return log_ratio(found.evidence(0.0, "minimize"), found.noise, found.effect, margin)
