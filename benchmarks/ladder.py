"""Measure the machine time that `--ladder` saves, and the wins that it loses.

    uv run python -m benchmarks.ladder [--sessions 200] [--experiments 100]
    uv run python -m benchmarks.ladder FOLDER...
    uv run python -m benchmarks.ladder --record -- run --tag pairs --ladder 60,300 --until 07:00

Synthetic sessions meet the same proposals twice: without a ladder, and with the rule of pruning/rungs.py. The verdict
is the real one (decision/sequential_test.py), with its repeats of both sides. Each candidate that is discarded at the
short rung is judged at the full one as well, at no cost: a lost win is one that the verdict would have kept there.
Nights follow each other in one workspace, and each has the pairs of those before it. Neither side prunes.

What is assumed. True gains at the full rung are those of synthetic_curves.py: 15 % of the edits are better, 40 % worse
by about as much, and 45 % clearly worse; --noise is the noise of a run in the same unit. At the short rung a candidate
shows its gain times a factor, plus a deviation; both are drawn for each edit, and their spread depends on its kind: see
KINDS. A short run is SHORT_NOISE as noisy as a full one. A full run takes 300 s, a short one 60 s, and each 7 s more.

A FOLDER is a session that was run with a ladder, or contains some. Its candidates are replayed in their order. Record
sessions with --record: there every candidate is screened, and all of them go on. Their screens decide nothing, so the
wins that the rule would have lost are known. The time of repeats of the incumbent is left as it was.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.decision.noise import noise_of, pooled
from agent.errors import AutoresearchError
from agent.journal.experiment import Run
from agent.journal.journal import fold
from agent.pruning import rungs, screens
from agent.pruning.rungs import Screened, discards, forecast, is_control, is_worth_a_screen, screened_of
from benchmarks import synthetic_curves, verdict
from benchmarks.pruning import began, find

TARGET_SAVED, TARGET_LOST = 0.35, 0.01
FULL, SHORT = 307.0, 67.0
SHORT_NOISE = 1.2
LONGEST_NAME = 44


@dataclass(frozen=True)
class Kind:
    """A kind of edit.

    Attributes:
        share: of the proposals.
        factor: mean of what a short training shows of a gain.
        spread: its standard deviation between edits.
        deviation: what a short training adds, in the metric; with heavy tails (Student's t, 3 degrees of freedom).
    """

    name: str
    share: float
    factor: float
    spread: float
    deviation: float


# Rates, code and others transfer; a batch or a size that makes more steps pays most in a short training.
KINDS = (
    Kind("rates", 0.50, 1.0, 0.3, 0.004),
    Kind("schedule", 0.10, 0.8, 0.4, 0.015),
    Kind("other", 0.10, 1.0, 0.3, 0.008),
    Kind("code", 0.10, 1.0, 0.4, 0.015),
    Kind("batch", 0.10, 0.5, 0.8, 0.04),
    Kind("size", 0.10, 0.3, 1.0, 0.06),
)
MIXES = {"all kinds": KINDS, "rates alone": (Kind("rates", 1.0, 1.0, 0.3, 0.004),)}
NOISES = {"noisy": synthetic_curves.NOISE, "quiet": synthetic_curves.NOISE / 4}


@dataclass(frozen=True)
class Edit:
    """A proposal: its true gain at the full rung and what the short one shows, both in noises of a full run."""

    kind: str
    gain: float
    lead: float


@dataclass
class Tally:
    """The figures of sessions. `most` is the time with a perfect forecast for every candidate that is worse."""

    name: str
    plain: float = 0.0
    spent: float = 0.0
    most: float = 0.0
    tried: int = 0
    screened: int = 0
    out: int = 0
    wins: int = 0
    lost: int = 0
    forecast: float = 0.0

    @property
    def saved(self) -> float:
        return 1 - self.spent / self.plain if self.plain else 0.0

    def row(self) -> str:
        most = f"{1 - self.most / self.plain:7.1%}" if self.most else " " * 7
        share = self.lost / self.wins if self.wins else 0.0
        return (
            f"{self.name[-LONGEST_NAME:]:{LONGEST_NAME}} {self.saved:7.1%} {most} {self.screened / self.tried:8.0%} "
            f"{self.out / self.tried:9.0%} {self.wins:5} {self.lost:5} {share:7.2%} {self.forecast:8.1f}"
        )


@dataclass
class Simulated(verdict.Simulated):
    """A simulated session that remembers its runs, with the program of each."""

    made: list[tuple[verdict.Program, Run]] = field(default_factory=list)

    def run(self, program: verdict.Program, effect: float = 0.0) -> Run:
        run = super().run(program, effect)
        self.made.append((program, run))
        return run

    @property
    def noise(self) -> float:
        return pooled([verdict.metrics(group) for group in self.repeated()], verdict.BASE).sd


class Night:
    """A session with a ladder.

    Args:
        known: the screened candidates of the nights before, which those of this one are added to.
    """

    def __init__(self, seed: int, known: list[Screened], tally: Tally) -> None:
        self._seed, self._known, self._tally = seed, known, tally
        self._session = Simulated("confirm", verdict.gaussian(random.Random(f"ladder {seed}")))
        self._rng = random.Random(f"short {seed}")
        self._incumbent: list[float] = []
        self._repeats = [self._incumbent]
        self._age, self._kept, self._luck = 0, False, 0.0
        tally.spent += verdict.BASELINE_RUNS * FULL

    def edit(self, number: int, edit: Edit) -> None:
        tally, session = self._tally, self._session
        tally.tried += 1
        lead = self._lead(number, edit)
        stopped = lead is not None and self._stops(edit, lead)
        if lead is not None and stopped and not is_control(edit.kind, self._known, self._seed, number):
            tally.out += 1
            tally.lost += copy.deepcopy(session).edit(edit.gain)
            session.age += 1
            self._known.append(Screened(edit.kind, lead, stopped=True))
            return
        gain, kept, runs = judged(session, edit.gain)
        tally.spent += runs * FULL
        tally.wins += kept
        if lead is not None:
            self._known.append(Screened(edit.kind, lead, gain, kept, stopped))
        if kept:
            # Its own screen is the first of it as the incumbent.
            self._incumbent, self._age, self._kept = [] if lead is None else [self._luck], 0, True
            self._repeats.append(self._incumbent)

    def _lead(self, number: int, edit: Edit) -> float | None:
        """Return what the screens say of a candidate; None if it is not screened."""
        tally = self._tally
        if not is_worth_a_screen(edit.kind, self._known, self._seed, number):
            return None
        while len(self._incumbent) < screens.wanted(self._age, baseline=not self._kept):
            self._incumbent.append(self._rng.gauss(0.0, SHORT_NOISE))
            tally.spent += SHORT
        tally.screened += 1
        tally.spent += SHORT
        self._age += 1
        self._luck = self._rng.gauss(0.0, SHORT_NOISE)
        return edit.lead + self._luck - statistics.fmean(self._incumbent)

    def _stops(self, edit: Edit, lead: float) -> bool:
        repeats = [each for each in self._repeats if len(each) > 1]
        noise = max(self._session.noise, pooled(repeats, verdict.BASE).sd if repeats else 0.0)
        found = forecast(edit.kind, lead, self._known, noise)
        if found is None or not discards(edit.kind, lead, self._known, found):
            return False
        self._tally.forecast += found.chance
        return True


def judged(session: Simulated, gain: float) -> tuple[float, bool, int]:
    """Return the gain of a candidate as measured, whether it is kept, and the number of runs."""
    before, first = session.program, len(session.made)
    known = verdict.metrics(session.values or session.chosen)
    kept = session.edit(gain)
    made = session.made[first:]
    own = [verdict.metric(run) for program, run in made if program is not before]
    incumbent = [*known, *(verdict.metric(run) for program, run in made if program is before)]
    return statistics.fmean(incumbent) - statistics.fmean(own), kept, len(made)


def proposals(seed: int, count: int, kinds: Sequence[Kind], noise: float) -> list[Edit]:
    rng, found = random.Random(f"proposals {seed}"), []
    for _ in range(count):
        kind = rng.choices(kinds, [each.share for each in kinds])[0]
        gain = -synthetic_curves._effect(rng)
        lead = gain * rng.gauss(kind.factor, kind.spread) + kind.deviation * synthetic_curves._draw(rng, heavy=True)
        found.append(Edit(kind.name, gain / noise, lead / noise))
    return found


def simulated(name: str, sessions: int, experiments: int, nights: int) -> list[Tally]:
    """Return the figures of each night, over many workspaces. The name is that of a noise and of a mix of edits."""
    noise, kinds = next((NOISES[one], MIXES[other]) for one in NOISES for other in MIXES if name == f"{one}, {other}")
    tallies = [Tally(f"{name}, night {night + 1}") for night in range(nights)]
    for workspace in range(sessions):
        known: list[Screened] = []
        for night, tally in enumerate(tallies):
            seed = 1000 * workspace + night
            edits = proposals(seed, experiments, kinds, noise)
            _without(seed, edits, tally)
            with_ladder = Night(seed, known, tally)
            for number, edit in enumerate(edits, start=1):
                with_ladder.edit(number, edit)
    for tally in tallies:
        tally.wins += tally.lost  # those that the verdict would have kept
    return tallies


def _without(seed: int, edits: Sequence[Edit], tally: Tally) -> None:
    """Add the time of a session without a ladder, and that with a perfect forecast."""
    session = Simulated("confirm", verdict.gaussian(random.Random(f"plain {seed}")))
    tally.plain += verdict.BASELINE_RUNS * FULL
    tally.most += verdict.BASELINE_RUNS * FULL
    for edit in edits:
        _, kept, runs = judged(session, edit.gain)
        tally.plain += runs * FULL
        tally.most += SHORT + (runs * FULL if kept or edit.gain > 0 else 0.0)


def recorded(folder: Path, known: list[Screened]) -> Tally:
    """Return the figures of a session that was run with a ladder, replayed under the rule.

    Args:
        known: the screened candidates of the sessions before, which those of this one are added to.

    Raises:
        AutoresearchError: the journal is damaged.
    """
    state = fold(folder / "journal.jsonl")
    tally, about = Tally(str(folder)), state.session or {}
    for number, each in enumerate(state.experiments):
        spent = each.seconds + sum(run.seconds for run in each.heldout_runs)
        short = sum(one.run.seconds for one in (*each.screens, *each.heldout_screens))
        tally.plain += spent - sum(one.run.seconds for one in each.screens)
        tally.spent += spent + sum(one.run.seconds for one in each.heldout_screens)
        tally.tried += number > 0
        tally.screened += bool(each.screens)
        tally.wins += number > 0 and each.verdict.status == "keep"
        rung = each.screens[-1].rung if each.screens else None
        pair = screened_of(state.experiments[: number + 1], rung, about.get("direction", "minimize")) if rung else []
        if not pair or each.screens[-1].lead is None or short <= 0:
            continue
        latest, noise = pair[-1], noise_of(state.experiments[:number]).sd
        found = forecast(latest.kind, latest.lead, known, noise) if noise > 0 and math.isfinite(noise) else None
        if found is not None and discards(latest.kind, latest.lead, known, found):
            latest = Screened(latest.kind, latest.lead, latest.gain, latest.kept, stopped=True)
            if not is_control(latest.kind, known, int(about.get("seed", 0)), number):
                tally.out += 1
                tally.forecast += found.chance
                tally.lost += latest.kept
                tally.spent -= sum(run.seconds for run in each.runs)
                latest = Screened(latest.kind, latest.lead, stopped=True)
        known.append(latest)
    return tally


def record(arguments: Sequence[str]) -> None:
    """Run a command of the program with a ladder on which everything is screened, and everything goes on."""
    from agent.cli import app

    rungs.CONTROL = 1.0
    app([*arguments])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what --ladder saves and loses.")
    parser.add_argument("folders", nargs="*", help="recorded sessions; with --record, a command of autoresearch")
    parser.add_argument("--record", action="store_true", help="run a session whose candidates all go on")
    parser.add_argument("--sessions", type=int, default=200, help="synthetic workspaces")
    parser.add_argument("--experiments", type=int, default=100, help="experiments of a synthetic night")
    parser.add_argument("--nights", type=int, default=3)
    given = parser.parse_args()
    if given.record:
        record(given.folders)
        return
    print(
        f"{'':{LONGEST_NAME}} {'saved':>7} {'at most':>7} {'screened':>8} {'discarded':>9} {'wins':>5} {'lost':>5} "
        f"{'share':>7} {'forecast':>8}"
    )
    tallies: list[Tally] = []
    known: list[Screened] = []
    try:
        for folder in sorted(find(map(Path, given.folders)), key=began):
            tallies.append(recorded(folder, known))
    except AutoresearchError as error:
        sys.exit(str(error))
    if given.folders and not tallies:
        sys.exit("no session found: name a folder with a journal.jsonl in or under it, or none")
    for noise in NOISES if not tallies else ():
        for mix in MIXES:
            made = simulated(f"{noise}, {mix}", given.sessions, given.experiments, given.nights)
            tallies += made
            for tally in made:
                print(tally.row(), flush=True)
    for tally in tallies if given.folders else ():
        print(tally.row())
    print("at most: with a perfect forecast for each candidate that is worse, after its screen")
    print("lost: discarded at the short rung, and kept by the verdict at the full one; wins: with these")
    print("forecast: wins that the rule expected to lose, its controls included")
    met = [each.saved >= TARGET_SAVED and each.lost <= TARGET_LOST * each.wins for each in tallies]
    print(f"target: {TARGET_SAVED:.0%} saved at {TARGET_LOST:.0%} of wins lost: met by {sum(met)} of {len(met)}")
    sys.exit(0 if all(met) else "missed a target")


if __name__ == "__main__":
    main()
