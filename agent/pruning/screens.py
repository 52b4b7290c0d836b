"""The screens of a session with `--ladder`: candidate and incumbent are trained for less before the full run.

The candidate is discarded if the forecast of `pruning.rungs` says that the verdict at the full rung will hardly be a
keep. Otherwise it goes on, and is judged there as if there had been no screen. A screen never keeps. One that fails or
was disturbed decides nothing.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from agent.decision.estimate import estimate
from agent.decision.longer_training import why_ladder_ends
from agent.decision.noise import noise_of, pooled
from agent.decision.sequential_test import keeps_failing
from agent.execution.allowance import NO_REFERENCES, References
from agent.execution.conditions import disturbed, undisturbed
from agent.execution.measure import Runner
from agent.format import brief, counted
from agent.journal.experiment import Experiment, Run, Screen, metrics, succeeded
from agent.journal.history import experiments_before
from agent.journal.journal import Journal
from agent.journal.paths import experiment_folder
from agent.journal.pending import Pending
from agent.journal.state import EDIT, State, gain
from agent.pruning import rungs
from agent.pruning.rungs import Forecast, Screened
from agent.source.diff import same_work
from agent.source.simplicity import leaner

# The hard limit beyond the training: so many seconds, or this multiple of what a full run takes beyond its own, since
# starting and evaluating do not get shorter.
LEAST_SLACK, SLACK = 120.0, 2.0
# Screens of an incumbent: one, then one more after every AGE candidates up to MOST. The baseline gets one more at once,
# which shows the noise. More of them cost more than the wins that they save: see benchmarks/ladder.py.
AGE, MOST = 15, 2


def wanted(age: int, *, baseline: bool) -> int:
    """Return how many screens an incumbent needs after `age` screened candidates."""
    return min(MOST, 1 + baseline + age // AGE)


def limit_of(limit: float, rung: float, full: float, usual: float) -> float:
    """Return the hard limit of a screen in seconds.

    Args:
        limit: that of a full run.
        rung: the training budget of a screen.
        full: that of a full run.
        usual: how long a full run takes.
    """
    slack = max(LEAST_SLACK, SLACK * (usual - full))
    return float(round(min(limit, max(limit * rung / full, rung + slack))))


class Runs(Protocol):
    """What screens need of `agent.session.runs.Runs`."""

    @property
    def runner(self) -> Runner: ...

    def screen(
        self, runner: Runner, commit: str, log: Path, references: References, about: Mapping[str, Any]
    ) -> Run: ...

    def edits(self, incumbent: Experiment) -> frozenset[str]: ...

    def files(self, commit: str) -> Mapping[str, str]: ...

    def expected_seconds(self) -> float: ...


class Screens:
    """The screens of a session's candidates and incumbents.

    Args:
        runs: the runs of the session.
        journal: of the session.
        rung: the training budget of a screen, in seconds.
        seed: the seed of the session.
    """

    def __init__(self, runs: Runs, journal: Journal, rung: float, seed: int) -> None:
        self._runs, self._journal, self._rung, self._seed = runs, journal, rung, seed
        self._before: list[Screened] | None = None
        self._told: set[str] = set()

    def screen(self, incumbent: Experiment) -> None:
        """Screen the candidate, and the incumbent as far as that is needed, unless the candidate goes on anyway."""
        pending, state = self._pending, self._journal.state
        if pending.runs or pending.screens or pending.number == 0:
            return
        if pending.proposer == EDIT:
            self._say("an edit made by hand is measured at the full rung, without a screen")
            return
        noise = noise_of(state.experiments)
        if noise.exact or noise.unsure or noise.sd <= 0:
            if noise.exact:
                self._say("equal programs give equal numbers here, so candidates are not screened")
            return
        edits, known = self._runs.edits(incumbent), self._known(state)
        kind = rungs.kind_of(edits)
        if not rungs.is_worth_a_screen(kind, known, self._seed, pending.number) or not self._stands(incumbent):
            return
        run = self._run(pending.commit or "", f"screen-{len(pending.screens) + 1}.log", len(pending.screens) + 1)
        beside = self._good(incumbent)
        if run.metric is None or disturbed([run], beside, equally_long=same_work(edits)) is not None:
            self._append(Screen(self._rung, run, kind, then="on"))
            return
        mean = statistics.fmean(each.metric for each in beside if each.metric is not None)
        lead = gain(mean, run.metric, self._runs.runner.protocol.metric.direction)
        found = rungs.forecast(
            kind, lead, known, max(noise.sd, self._noise(mean)), leaner=self._is_leaner(run, incumbent, beside)
        )
        self._append(self._decided(Screen(self._rung, run, kind, lead), found, known, incumbent))

    def _decided(
        self, screen: Screen, found: Forecast | None, known: Sequence[Screened], incumbent: Experiment
    ) -> Screen:
        """Return the screen with what follows from it."""
        kind, lead, number = screen.edit, screen.lead, self._pending.number
        assert lead is not None
        if found is None or not rungs.discards(kind, lead, known, found):
            return dataclasses.replace(screen, chance=found.chance if found else None, then="on")
        if rungs.is_control(kind, known, self._seed, number):
            return dataclasses.replace(screen, chance=found.chance, then="control")
        worth, sign = estimate(incumbent), 1 if self._runs.runner.protocol.metric.direction == "minimize" else -1
        reached = None if worth is None else worth - sign * found.gain
        by = counted(found.pairs, "pair") if found.pairs else "a prior"
        reason = (
            f"screened out at {self._rung:g} s: {brief(-lead)} behind #{incumbent.number} there, which forecasts a "
            f"final shortfall of {brief(-found.gain)} and a keep with a chance of {100 * found.chance:.2g} %, by {by} "
            f"of edits of {kind}"
        )
        run = dataclasses.replace(screen.run, estimate=reached)
        return dataclasses.replace(screen, run=run, chance=found.chance, then="discard", reason=reason)

    def _is_leaner(self, run: Run, incumbent: Experiment, beside: Sequence[Run]) -> bool:
        """Return whether the candidate would be kept as a simplification if it lost nothing."""
        files, before = self._runs.files(self._pending.commit or ""), self._runs.files(incumbent.commit)
        wanted = self._runs.runner.protocol.agent_rules.simplicity_criterion
        return bool(wanted and leaner(files, run, before, beside[-1]))

    def _stands(self, incumbent: Experiment) -> bool:
        """Screen the incumbent until it has enough screens. Return whether it has any that can be compared with."""
        while True:
            runs, experiments = self._of(incumbent.number), self._journal.state.experiments
            if why := why_ladder_ends(experiments, self._rung, self._runs.runner.training_seconds):
                self._say(f"--ladder has ended: {why}. The recipe must obey AUTORESEARCH_TRAINING_SECONDS")
                return False
            if keeps_failing(runs):
                self._say(f"#{incumbent.number} keeps failing when trained for {self._rung:g} s: no more screens of it")
                return False
            if len(self._seen(incumbent)) >= wanted(self._age(incumbent), baseline=incumbent.number == 0):
                return True
            count = len(runs) + 1
            run = self._run(incumbent.commit, f"incumbent-screen-{count}.log", count, incumbent)
            self._append(Screen(self._rung, run), of=incumbent.number)

    def _run(self, commit: str, name: str, count: int, incumbent: Experiment | None = None) -> Run:
        """Run a commit with the shorter training.

        Args:
            name: of the log.
            count: number of the screen.
            incumbent: whose commit it is; None for the candidate.
        """
        log = experiment_folder(self._journal.path, self._pending.number) / name
        about = {"rung": self._rung, "run": count, "expected": self.expected_seconds()}
        if incumbent is not None:
            about["of"] = incumbent.number
        experiments = self._journal.state.experiments
        # The time before the handover is compared with screens only: it depends on the training.
        kept = next((each for each in reversed(experiments) if each.kept), None)
        own = self._good(kept) if kept is not None else []
        references = References(tuple(own), tuple(self._good(experiments[0]))) if own else NO_REFERENCES
        return self._runs.screen(self._shorter, commit, log, references, about)

    @property
    def _shorter(self) -> Runner:
        """The runner of a screen: its training budget, and a hard limit that is shorter accordingly."""
        runner = self._runs.runner
        full = runner.training_seconds or self._rung
        limit = limit_of(runner.limit, self._rung, full, self._runs.expected_seconds())
        shorter = runner.protocol.with_limit(limit)
        return dataclasses.replace(runner, protocol=shorter, training_seconds=self._rung, keeps_models=False)

    def expected_seconds(self) -> float:
        """Return the expected duration of a screen: the median of earlier ones, or the full run without the rest."""
        made = [run.seconds for e in self._journal.state.experiments for run in (*self._own(e), *self._of(e.number))]
        if made:
            return statistics.median(made)
        return max(self._rung, self._runs.expected_seconds() - (self._runs.runner.training_seconds or 0) + self._rung)

    def _known(self, state: State) -> list[Screened]:
        """Return the screened candidates of the workspace's other sessions, read once, and of this one."""
        direction = self._runs.runner.protocol.metric.direction
        if self._before is None:
            about = (state.session or {}).get("fingerprint", {})
            sessions = experiments_before(self._journal.path, about, rungs.MOST_SCREENED)
            self._before = [one for each in sessions for one in rungs.screened_of(each, self._rung, direction)]
        return [*self._before, *rungs.screened_of(state.experiments, self._rung, direction)]

    def _noise(self, scale: float) -> float:
        """Return the noise of a screen, from the repeats of incumbents. One full repeat alone may look quiet by luck.

        Args:
            scale: typical size of the metric.
        """
        groups = [metrics(self._seen(each)) for each in self._journal.state.experiments]
        known = [group for group in groups if len(group) > 1]
        return pooled(known, scale).sd if known else 0.0

    def _age(self, incumbent: Experiment) -> int:
        return sum(bool(each.screens) for each in self._journal.state.experiments[incumbent.number + 1 :])

    def _of(self, number: int) -> list[Run]:
        """Return the held-out screens of a kept experiment."""
        return [each.run for each in self._journal.state.experiments[number].heldout_screens if each.rung == self._rung]

    def _own(self, experiment: Experiment) -> list[Run]:
        return [each.run for each in experiment.screens if each.rung == self._rung and each.run.error is None]

    def _seen(self, incumbent: Experiment) -> list[Run]:
        """Return its screens: the one of its time as a candidate, and the held-out ones.

        The verdict does not look at the first, and of the candidates that win hardly any was close to being screened
        out. So it is as good as a held-out one, and saves it. Without a lead it was disturbed, or of an older version.
        """
        own = [each.run for each in incumbent.screens if each.rung == self._rung and each.lead is not None]
        return succeeded([*own, *self._of(incumbent.number)])

    def _good(self, incumbent: Experiment) -> list[Run]:
        return undisturbed(self._seen(incumbent))

    def _append(self, screen: Screen, **more: int) -> None:
        data = {each.name: getattr(screen, each.name) for each in dataclasses.fields(Screen) if each.name != "run"}
        count = len(self._of(more["of"]) if more else self._pending.screens) + 1
        about = {**dataclasses.asdict(screen.run), **data, **more}
        self._journal.append("screened", number=self._pending.number, run=count, **about)

    def _say(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._journal.show("note", text=text)

    @property
    def _pending(self) -> Pending:
        assert self._journal.state.pending is not None
        return self._journal.state.pending
