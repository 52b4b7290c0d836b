"""The runs of the experiment in progress: each is journaled, watched, and repeated if the machine slept or failed."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.decision.estimate import estimate, unbiased
from agent.decision.noise import noise_of
from agent.decision.sequential_test import MOST_FAILURES, is_lost
from agent.errors import AutoresearchError, Suspended
from agent.execution import evaluation, holdout
from agent.execution.allowance import INCUMBENT, References
from agent.execution.kill import Process
from agent.execution.measure import Runner, measure
from agent.execution.process import Observer
from agent.format import counted, figure
from agent.journal.experiment import Experiment, Run, succeeded
from agent.journal.history import experiments_before
from agent.journal.paths import experiment_folder, is_overwritten
from agent.journal.pending import Pending
from agent.journal.state import expected_seconds
from agent.pruning.curves import broken, misleads
from agent.pruning.monitor import CurveCache, RunMonitor
from agent.pruning.prune import MOST_HISTORY, Finished, Rival, spared
from agent.session import baseline, faults
from agent.session.context import known_constants
from agent.session.references import of_candidate, of_commit
from agent.session.workbench import Workbench
from agent.source.diff import CODE, changed
from agent.system.memory import remember

MOST_TEXTS = 40  # candidates in flight on many stations


class Runs:
    """The runs of a session's experiments.

    Args:
        prune: end runs early that can no longer win or count.
        seed: the session's seed.
        require_going: raises if the session should stop, for which a run that must be repeated does not wait.
    """

    def __init__(self, bench: Workbench, *, prune: bool, seed: int, require_going: Callable[[], None]) -> None:
        self._patient, self._require_going = not prune, require_going
        self.work_on(bench.runner)
        self._journal, self._interrupts = bench.journal, bench.interrupts
        self._prune, self._seed = prune, seed
        self._curves = CurveCache(self._is_overwritten)
        self._texts: dict[str, Mapping[str, str]] = {}
        self._edits: dict[tuple[str, str], frozenset[str]] = {}
        self._earlier: list[Finished] | None = None

    def work_on(self, runner: Runner) -> None:
        """Replace the runner, after it has been prepared."""
        self._runner = dataclasses.replace(runner, patient=self._patient, keeps_models=True)

    def baseline(self, wanted: int, fingerprint: dict[str, Any]) -> None:
        """Run the baseline until it has `wanted` runs. Valid runs of an earlier session are reused first."""
        commit = self._pending.commit
        assert commit is not None
        done = [run for run in self._pending.runs if run.metric is not None]
        if not done:
            valid = baseline.valid_baseline(self._runner, fingerprint, commit)[:wanted]
            if valid:
                came = dict.fromkeys(figure(run.metric) for run in valid if run.metric is not None)
                values = f"{self._runner.protocol.metric.name} {', '.join(came)}"
                self._journal.show(
                    "note", text=f"reusing the baseline, which is still valid: {values} ({counted(len(valid), 'run')})"
                )
            for run in valid:
                evaluation.drop_models(Path(run.log))  # it may be that of another recipe
                self._measured(run, reused=True)
                done.append(run)
        while len(done) < wanted:
            log = baseline.log_path(self._runner, len(done) + 1)
            observer, before = Observer(self._started(log), self._tick()), tuple(done)
            run = self._repeated(
                lambda: baseline.measure_baseline(self._runner, fingerprint, before, observer, commit),  # noqa: B023
                most=faults.MOST_IN_A_ROW,
            )
            self._measured(run)
            done.append(run)

    def candidate(self, incumbent: Experiment) -> None:
        """Run the candidate once. If faults of the GPU keep ending the run, find out whether they are its own."""
        pending = self._pending
        assert pending.commit is not None
        commit, references = pending.commit, of_candidate(self._journal.state.experiments, incumbent)
        log = experiment_folder(self._journal.path, pending.number) / f"run-{len(pending.runs) + 1}.log"
        watch = self._watch(log, incumbent) if self._prune else None
        observer = Observer(self._started(log), self._tick(watch))
        while (run := self._undisturbed(lambda: measure(self._runner, commit, log, observer, references))).fault:
            again = self._pending.provoked
            if again or self._is_own(run, incumbent):
                count = self._pending.faulted
                # A smaller device batch may help against the watchdog. Anything else is a crash like any other.
                if run.fault != "watchdog":
                    times = f"{counted(count, 'time')} in a row while #{incumbent.number} ran"
                    error = f"crashed {'like the version before it' if again else times}: {run.error}"
                    run = dataclasses.replace(run, fault="", error=error)
                self._measured(run, provoked=count)
                return
        self._measured(run)

    def _is_own(self, run: Run, incumbent: Experiment) -> bool:
        """Wait until a run that a fault ended may be repeated. Return whether the candidate itself is to blame."""
        self._wait_for_repeat(run)
        suspect = self._pending.faulted % faults.SUSPICIOUS == 0
        return suspect and self._runs_now(incumbent) and faults.is_own(self._journal.state, self._pending)

    def _runs_now(self, incumbent: Experiment) -> bool:
        """Run the incumbent. Return whether it succeeded at once, so that the machine is not to blame."""
        before = self._journal.state.faults.runs
        self.incumbent(incumbent, rebased=False)
        run = self._journal.state.experiments[incumbent.number].heldout_runs[-1]
        return run.metric is not None and self._journal.state.faults.runs == before

    def incumbent(self, incumbent: Experiment, *, rebased: bool) -> None:
        """Repeat the incumbent, for comparison with the candidate.

        Args:
            rebased: the run is accepted after the machine's state has changed.
        """
        pending = self._pending
        references = of_commit(self._journal.state.experiments, incumbent.commit)
        references = dataclasses.replace(references, side=INCUMBENT)
        log = experiment_folder(self._journal.path, pending.number) / f"incumbent-{pending.refreshed + 1}.log"
        observer = Observer(self._started(log, of=incumbent.number), self._tick())
        runner = dataclasses.replace(self._runner, keeps_models=False)  # its own was scored when it was kept
        run = self._repeated(
            lambda: measure(runner, incumbent.commit, log, observer, references), most=None, of=incumbent.number
        )
        self._measured(dataclasses.replace(run, rebased=rebased and run.metric is not None), of=incumbent.number)
        if is_lost(self._journal.state.experiments[incumbent.number]):
            why = f"failed {MOST_FAILURES} times in a row when repeated ({run.error}; see {run.log})"
            text = f"#{incumbent.number} {why}: no more repeats, candidates are compared with its known runs"
            self._journal.show("note", text=text)

    def screen(self, runner: Runner, commit: str, log: Path, references: References, about: Mapping[str, Any]) -> Run:
        """Run a commit once with a shorter training. It is not pruned, and not journaled: a fault ends it.

        Args:
            runner: that of the shorter training.
            about: fields of the event `started`.
        """
        observer = Observer(self._started(log, **about), self._tick())
        return self._undisturbed(lambda: measure(runner, commit, log, observer, references))

    @property
    def runner(self) -> Runner:
        return self._runner

    def edits(self, incumbent: Experiment) -> frozenset[str]:
        """Return what the candidate changes of the incumbent."""
        return changed(self.files(incumbent.commit), self.files(self._pending.commit or ""), self._constants())

    def files(self, commit: str) -> Mapping[str, str]:
        """Return the mutable files of a commit; empty if it no longer exists. Recent results are cached."""
        if commit not in self._texts:
            try:
                texts = self._runner.workspace.files(commit)
            except AutoresearchError:
                return {}
            remember(self._texts, commit, texts, MOST_TEXTS)
        return self._texts[commit]

    def score(self, experiment: Experiment) -> None:
        """Score a kept model on the holdout, once, for the user alone. Delete the models of its other runs."""
        runs, number = succeeded(experiment.runs), experiment.number
        if experiment.kept and runs and number not in self._journal.state.scored:
            value = holdout.score(self._runner, Path(runs[-1].log), self._interrupts.raise_if_immediate)
            if value is not None:
                self._journal.append("scored", number=number, metric=runs[-1].metric, holdout=value)
        for run in experiment.runs:
            evaluation.drop_models(Path(run.log))

    def expected_seconds(self) -> float:
        return expected_seconds(self._journal.state, self._runner.training_seconds, self._runner.limit)

    def remaining_seconds(self) -> float:
        began = self._pending.started_at
        return max(0.0, self.expected_seconds() - (time.time() - began)) if began else self.expected_seconds()

    def _watch(self, log: Path, incumbent: Experiment) -> RunMonitor:
        own = unbiased(incumbent) or succeeded(incumbent.runs)
        usual, limit, budget = self._curves.of(own), self._runner.limit, self._runner.training_seconds
        rises = any(broken(usual[:count]) for count in range(1, len(usual) + 1))
        if own and misleads(usual, own[0].seconds, limit, budget):
            # Nor can losses be compared at fractions that are none.
            return RunMonitor(log, math.inf, budget, None, rises=rises)
        return RunMonitor(log, limit, budget, self._rival(incumbent), rises=rises)

    def _rival(self, incumbent: Experiment) -> Rival | None:
        """Return the incumbent to prune against; None if the candidate has run before, or is a control."""
        state, number = self._journal.state, self._pending.number
        if len(self._pending.runs) > self._pending.revisions or spared(self._seed, number):
            return None
        value = estimate(incumbent)
        if value is None:
            return None
        return Rival(
            curve=self._curves.of_own(unbiased(incumbent) or incumbent.runs),
            metric=value,
            history=[*self._before(), *self._curves.finished(state.experiments, self._changed)],
            changed=self.edits(incumbent),
            direction=self._runner.protocol.metric.direction,
            noise=noise_of(state.experiments).sd,
        )

    def _before(self) -> list[Finished]:
        """Return the finished runs of the workspace's other sessions, read once."""
        if self._earlier is None:
            session = self._journal.state.session or {}
            sessions = experiments_before(self._journal.path, session.get("fingerprint", {}), MOST_HISTORY)
            self._earlier = [run for each in sessions for run in self._curves.finished(each, self._changed)]
        return self._earlier

    def _changed(self, experiment: Experiment, before: Experiment) -> frozenset[str]:
        pair = (before.commit, experiment.commit)
        if pair not in self._edits:
            old, new = self.files(before.commit), self.files(experiment.commit)
            # A commit that no longer exists may have changed anything.
            self._edits[pair] = changed(old, new, self._constants()) if old and new else frozenset({CODE})
        return self._edits[pair]

    def _constants(self) -> Mapping[str, Any]:
        return known_constants(self._runner.protocol)

    def _is_overwritten(self, run: Run) -> bool:
        artifact = self._runner.protocol.provenance.baseline_artifact_path
        return is_overwritten(self._runner.workspace.folder, artifact, run)

    def _undisturbed(self, run_once: Callable[[], Run]) -> Run:
        """Repeat a run until the machine does not sleep through it, unless the session should stop."""
        while True:
            try:
                run = run_once()
            except Suspended as pause:
                self._journal.append("interrupted", number=self._pending.number, reason=str(pause))
                self._require_going()
                continue
            if run.metric is None:
                # A shutdown may have ended the run's processes as well: then its failure is not the candidate's.
                self._interrupts.raise_if_immediate()
            return run

    def _repeated(self, run_once: Callable[[], Run], *, most: int | None, **more: Any) -> Run:
        """Repeat a run until no fault of the GPU ends it.

        Args:
            run_once: runs it.
            most: the most faults in a row; None if only the night is limited.
            more: fields of the events of these runs.
        """
        while (run := self._undisturbed(run_once)).fault:
            self._wait_for_repeat(run, most=most, **more)
        return run

    def _wait_for_repeat(self, run: Run, *, most: int | None = None, **more: Any) -> None:
        about = {"number": self._pending.number, "run": len(self._pending.runs) + 1, **more}
        bench = Workbench(self._runner, self._journal, self._interrupts)
        faults.wait_for_repeat(bench, run, most=most, require_going=self._require_going, about=about)

    def _measured(self, run: Run, **more: Any) -> None:
        number = len(self._pending.runs) + 1
        self._journal.append("measured", number=self._pending.number, run=number, **dataclasses.asdict(run), **more)

    def _started(self, log: Path, **more: Any) -> Callable[[Process], None]:
        def started(process: Process) -> None:
            about = {"run": len(self._pending.runs) + 1, "expected": self.expected_seconds(), **more}
            self._journal.append(
                "started",
                number=self._pending.number,
                pid=process.pid,
                born=process.born,
                start=process.start,
                log=str(log),
                sandbox=self._runner.sandbox.says,
                **about,
            )

        return started

    def _tick(self, watch: RunMonitor | None = None) -> Callable[[float], None]:
        def tick(seconds: float) -> None:
            self._interrupts.raise_if_immediate()
            if watch is not None:
                watch(seconds)

        return tick

    @property
    def _pending(self) -> Pending:
        assert self._journal.state.pending is not None
        return self._journal.state.pending
