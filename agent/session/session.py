"""The steps of the loop, using journal, workspace and proposer."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agent.decision.decide import Comparison, DecisionConfig, judge, require_limits, why_unlike
from agent.decision.limits import Limits, goes_on, left_of, reached
from agent.decision.schedule import RUNS
from agent.decision.sequential_test import Step
from agent.errors import AutoresearchError
from agent.execution.fingerprint import fingerprint
from agent.execution.measure import Runner
from agent.journal import edits, proposals, results
from agent.journal.experiment import Experiment, Proposal, Value, Verdict, digest
from agent.journal.journal import Journal
from agent.journal.paths import candidate_ref, experiment_folder, head_ref, stop_file
from agent.journal.pending import Pending
from agent.journal.state import State
from agent.proposers import earlier
from agent.proposers.ahead import AheadProposer
from agent.proposers.base import Context, Exhausted, Flying, Proposer, as_repaired
from agent.proposers.earlier import Earlier
from agent.proposers.edit import proposal_of
from agent.proposers.luck import with_own_seed
from agent.proposers.search.space import is_same_code, tunable_parameters
from agent.pruning.screens import Screens
from agent.repository.checkout import Checkout
from agent.repository.workspace import Workspace
from agent.session import recovery
from agent.session.baseline import propose_baseline
from agent.session.context import context_of, known_constants
from agent.session.opening import create_session
from agent.session.retries import is_own_mistake, owed, smaller_candidate
from agent.session.runs import Runs
from agent.session.signals import Interrupts
from agent.session.workbench import Workbench
from agent.system.files import last_lines

LOG_LINES = 60  # last lines of a crash log, shown to its proposer


@dataclass(frozen=True)
class SessionConfig:
    """The settings of a session.

    Attributes:
        limits: the limits given by flags.
        baseline_runs: number of runs of the baseline.
        prune: end runs early that can no longer win.
        rung: the shorter training budget at which candidates are screened, in seconds; None for no screens.
        confirm: compare the best with the baseline at the end.
        flags: the flags that the session keeps, by their names in `run`.
        switch: check out the session's branch.
        start: for a new session, the session whose incumbent it starts from, and the commit of that; None for HEAD.
        learn: whether proposers may know the experiments of other sessions.
    """

    tag: str
    seed: int
    limits: Limits
    decision: DecisionConfig
    baseline_runs: int
    prune: bool
    confirm: bool
    flags: Mapping[str, Any]
    switch: bool = True
    start: tuple[str, str] | None = None
    learn: bool = False
    rung: float | None = None


STOPPED = "stopped by `autoresearch stop`"


class Session:
    """One session: a journal whose fold is the state, and one method for each step of the loop.

    Args:
        interrupts: the requests to stop; None for new ones.
    """

    def __init__(
        self,
        runner: Runner,
        journal: Journal,
        proposer: Proposer,
        config: SessionConfig,
        interrupts: Interrupts | None = None,
    ) -> None:
        self.tag, self._config = config.tag, config
        self.runner, self.journal, self.interrupts = runner, journal, interrupts or Interrupts()
        self.branch = runner.protocol.provenance.git_workflow.branch_pattern.replace("<tag>", config.tag)
        self.runs = Runs(self.workbench, prune=config.prune, seed=config.seed, require_going=self._require_going)
        rung = config.rung
        self._screens = Screens(self.runs, journal, rung, config.seed) if rung is not None else None
        self._proposer, self._ahead = proposer, proposer if isinstance(proposer, AheadProposer) else None
        self._fingerprint: dict[str, Any] = {}
        self._wanted, self._limits = config.limits, config.limits.within(runner.protocol)
        self._confirm = config.confirm
        self._stop_asked = False  # by `autoresearch stop`; it may be noticed while a proposer works
        self._began = time.monotonic()
        self._told: set[str] = set()
        self._earlier: tuple[Earlier, ...] = ()

    @property
    def workbench(self) -> Workbench:
        return Workbench(self.runner, self.journal, self.interrupts)

    def work_on(self, runner: Runner) -> None:
        """Replace the runner, after the setup commands have prepared it."""
        self.runner = runner
        self.runs.work_on(runner)

    @property
    def proposer(self) -> str:
        return self._proposer.name

    @property
    def ahead(self) -> AheadProposer | None:
        """The proposer, if it is a model or agent; whether it proposes while runs are in progress is its own affair."""
        return self._ahead

    @property
    def state(self) -> State:
        return self.journal.state

    @property
    def rung(self) -> float | None:
        """The shorter training budget at which candidates are screened, in seconds; None for no screens."""
        return self._config.rung

    @property
    def decision(self) -> DecisionConfig:
        return self._config.decision

    @property
    def most_experiments(self) -> int | None:
        return self._limits.experiments

    def recover(self) -> None:
        """Create the session, or finish or undo the step that a crash interrupted."""
        workspace, protocol = self.runner.workspace, self.runner.protocol
        _, start = self._config.start or (None, None)
        base = self.state.session["base"] if self.state.session else start or workspace.head
        self._fingerprint = fingerprint(protocol, self.runner.training_seconds, workspace.harness_digest(base))
        if self.state.session is None:
            create_session(self.journal, workspace, self._about(), start, switch=self._config.switch)
        else:
            flags, switch = self._config.flags, self._config.switch
            recovery.resume(self.journal, workspace, self.branch, self._fingerprint, flags, switch=switch)
            if self._config.learn and self.state.learned:
                self._earlier = earlier.read(self.journal.path)
        if self._earlier:
            self.journal.show("note", text=f"learning from {earlier.described(self.state.learned)}")
        for experiment in self.state.experiments:
            self._proposer.tell(experiment)
        # If a crash prevented it. The logs of a baseline are those of all sessions, and so are its models.
        for experiment in self.state.experiments[1:]:
            self.runs.score(experiment)

    def _about(self) -> dict[str, Any]:
        """Return the fields of the first event. What other sessions teach is on disk before it."""
        first, _ = self._config.start or (None, None)
        metric = self.runner.protocol.metric
        about = {"fingerprint": self._fingerprint, "metric": metric.name, "direction": metric.direction}
        about["flags"] = dict(self._config.flags)
        known = self._learned(about) if self._config.learn else earlier.Knowledge()
        for text in known.skipped:
            self.journal.show("note", text=text)
        if known.experiments:
            earlier.write(self.journal.path, known.experiments)
        self._earlier = known.experiments
        return {
            "tag": self.tag,
            "branch": self.branch,
            **about,
            "seed": self._config.seed,
            "proposer": self._proposer.name,
            "from": first,
            "learned": known.sources,
        }

    def _learned(self, about: Mapping[str, Any]) -> earlier.Knowledge:
        """Return what other sessions teach a new one."""
        first, start = self._config.start or (None, None)
        workspace, constants = self.runner.workspace, self._constants()
        files = workspace.files(start or workspace.head)

        def is_same(commit: str) -> bool:
            try:
                return is_same_code(files, workspace.files(commit), constants)
            except AutoresearchError:  # its commit is gone, or one of its search comments is refused
                return False

        def is_alike(base: str) -> bool:
            try:
                return not workspace.changed_beside(base, start or workspace.head)
            except AutoresearchError:
                return False

        return earlier.gather(self.journal.path, about, first, is_same, is_alike)

    def baseline(self) -> Experiment:
        """Return the incumbent. A new session first measures the baseline, or reuses one that is still valid."""
        if not self.state.experiments:
            if self.state.pending is None:
                files = self.runs.files(self._head)
                propose_baseline(self.journal, files, tunable_parameters(files, self._constants()))
            if self._pending.commit is None:
                self.journal.append("committed", number=0, commit=self._head)
            self.runs.baseline(self._config.baseline_runs, self._fingerprint)
            require_limits(self._config.decision, self._pending.runs)
            return self.record(Verdict("keep", "baseline"))
        require_limits(self._config.decision, self._incumbent.runs)
        return self._incumbent

    def should_stop(self) -> bool:
        """Return whether a limit is reached or the user asked to stop, and journal the reason."""
        self.interrupts.raise_if_immediate()
        reason = self.reason_to_stop()
        if reason:
            self.end(reason)
        return reason is not None

    def reason_to_stop(self) -> str | None:
        """Return the limit that is reached, or that the user asked to stop; None if neither holds."""
        if self.interrupts.finishing:
            return "stopped by Ctrl-C"
        if stop_file(self.journal.path).exists():
            stop_file(self.journal.path).unlink()
            self._stop_asked, self._confirm = True, False  # no further runs after a request to stop
        if self._stop_asked:
            return STOPPED
        reserve = 2 * RUNS * self.runs.expected_seconds() if self.owes_confirmation() else 0.0
        return reached(self._limits, self.state, time.monotonic() - self._began, reserve)

    def limits_left(self) -> Limits:
        """Return the limits that the user set for this start and that have not ended the session."""
        return left_of(self._wanted, self.state, time.monotonic() - self._began)

    def owes_confirmation(self) -> bool:
        """Return whether the best must still be compared with the baseline by held-out runs."""
        best = self.state.incumbent
        if not self._confirm or best is None or best.number == 0 or self.interrupts.finishing:
            return False
        if self.state.pending is not None:  # stopped while faults of the GPU kept ending its run
            return False
        return self.state.confirmation is None

    def propose(self, incumbent: Experiment) -> Proposal:
        """Return the next proposal, or the unrecorded one from before the last stop.

        Raises:
            Exhausted: the proposer has no new proposal, or the session must end.
        """
        pending = self.state.pending
        if pending is not None:
            return proposals.read(self.journal.path, pending.number, pending.revisions)
        recovery.require_undisturbed(self.runner.workspace, self.branch, self._head, self.tag)
        number, files = len(self.state.experiments), self.runs.files(incumbent.commit)
        edit, context = edits.read(self.journal.path, number), self.context(number, incumbent)
        if edit is None and self._config.switch:
            self._note_edits()
        proposal = self.ask(context) if edit is None else proposal_of(edit, context)
        # Proposing can take many minutes, in which the user may have moved the branch.
        recovery.require_undisturbed(self.runner.workspace, self.branch, self._head, self.tag)
        proposals.announce(self.journal, number, proposal, {**files, **proposal.files}, self._proposer.name)
        return proposal

    def ask(self, context: Context) -> Proposal:
        """Return a proposal that names its proposer.

        Raises:
            Exhausted: the proposer has no new proposal, or the session must end.
        """
        proposal = with_own_seed(self._proposer.ask(context), context)
        return dataclasses.replace(proposal, proposer=proposal.proposer or self._proposer.name)

    def commit(self, proposal: Proposal) -> None:
        """Commit the candidate."""
        pending = self._pending
        if pending.commit is None:
            commit = self._commit(pending.number, proposal)
            self.journal.append("committed", number=pending.number, commit=commit)

    def measure(self) -> None:
        """Run the candidate, and repeat the incumbent, until there is enough evidence for a verdict."""
        self._look_ahead()
        if self._screens is not None and self._pending.verdict is None:
            self._screens.screen(self._incumbent)
        while self._pending.verdict is None and self._pending.screened_out is None:
            step = owed(self._pending, self.runner.protocol.safety, self._incumbent.runs) or self._asked()
            if step is None:
                return
            if step == "incumbent":
                rebased = why_unlike(self._case(), self._pending.runs[-1]) is not None
                self.runs.incumbent(self._incumbent, rebased=rebased)
            elif step in ("run", "candidate"):
                self.runs.candidate(self._incumbent)
            elif not (self._revise() if step == "revision" else self._repair()):
                return

    def judge(self) -> Verdict:
        pending = self._pending
        if pending.verdict is not None:
            return pending.verdict
        if pending.screened_out is not None:
            return Verdict("discard", pending.screened_out.reason)
        verdict = judge(self._case(), self._config.decision)
        assert isinstance(verdict, Verdict)
        return verdict

    def _asked(self) -> Step | None:
        """Return which side must run before the verdict; None if the verdict is ready."""
        step = judge(self._case(), self._config.decision)
        return None if isinstance(step, Verdict) else step

    def _case(self) -> Comparison:
        pending = self._pending
        assert pending.commit is not None
        return Comparison(
            pending=pending,
            incumbent=self._incumbent,
            experiments=self.state.experiments,
            files=self.runs.files(pending.commit),
            incumbent_files=self.runs.files(self._incumbent.commit),
            direction=self.runner.protocol.metric.direction,
            known=self._constants(),
        )

    def record(self, verdict: Verdict) -> Experiment:
        """Move the branch to the incumbent and its rows. Return the incumbent."""
        workspace, pending, old = self.runner.workspace, self._pending, self._head
        if pending.verdict is None:
            self.journal.append("judged", number=pending.number, **dataclasses.asdict(verdict))
        recovery.require_undisturbed(workspace, self.branch, old, self.tag)
        experiment = self._pending.experiment
        parent = experiment.commit if verdict.status == "keep" else old
        assert self.state.session is not None
        others = workspace.results(self.state.session["base"])
        all_of_them = (*self.state.experiments, experiment)
        short = workspace.shorts(each.commit for each in all_of_them).__getitem__
        rows = results.render(self.runner.protocol, all_of_them, short, others)
        about = f"results: #{experiment.number} {verdict.status}"
        head = workspace.commit_results(parent, rows, about, head_ref(self.tag))
        self.journal.append("recorded", number=experiment.number, head=head)
        for note in recovery.move(workspace, self.branch, head, old):
            self._say_once(note)
        edit = edits.read(self.journal.path, experiment.number)
        if edit is not None:
            recovery.settle(self.journal, workspace, {experiment.number: edit})
        self._proposer.tell(experiment)
        self.runs.score(experiment)
        return self._incumbent

    def end(self, reason: str) -> None:
        if self._ahead is not None:
            self._ahead.give_up()
        if self.state.session is not None and self.state.ended is None:
            self.journal.append("ended", reason=reason)
            self.runner.workspace.release(head_ref(self.tag))

    def abandon(self, reason: str) -> None:
        """Discard the run in progress. The candidate is measured when the session resumes."""
        pending = self.state.pending
        if pending is not None:
            self.journal.append("interrupted", number=pending.number, reason=reason)
        self.end(reason)

    def _revise(self) -> bool:
        """Halve the candidate's device batch. Return whether that was possible."""
        revised = smaller_candidate(self._pending, self._candidate_files(), self._constants())
        if revised is not None:
            self._replace("revised", revised)
        return revised is not None

    def _repair(self) -> bool:
        """Ask the proposer to repair its crashed code. Return whether there is a new version to run."""
        pending, files = self._pending, self._candidate_files()
        tail = "\n".join(last_lines(Path(pending.runs[-1].log), LOG_LINES))
        if not is_own_mistake(pending, files, tail):
            return False
        context = self.context(pending.number, self._incumbent, files)
        repaired = self._proposer.repair(context, tail, pending.repairs + 1)
        if repaired is not None:
            repaired = with_own_seed(repaired, context, self.runs.files(self._incumbent.commit))
            self._replace("repaired", dataclasses.replace(repaired, description=as_repaired(pending.description)))
        return repaired is not None

    def _replace(self, kind: Literal["revised", "repaired"], proposal: Proposal) -> None:
        """Replace the candidate by a new version.

        Args:
            proposal: the files that the new version changes.
        """
        pending, files = self._pending, self._candidate_files()
        whole = {**files, **proposal.files}
        changed = {path: whole[path] for path in sorted({*pending.files, *proposal.files})}
        proposal = dataclasses.replace(proposal, files=changed)
        proposals.write(self.journal.path, pending.number, pending.revisions + 1, proposal)
        self.journal.append(
            kind,
            number=pending.number,
            commit=self._commit(pending.number, proposal),
            digest=digest(whole),
            description=proposal.description,
            parameters=dict(proposal.parameters),
            files=sorted(changed),
        )

    @property
    def _pending(self) -> Pending:
        assert self.state.pending is not None
        return self.state.pending

    @property
    def _incumbent(self) -> Experiment:
        assert self.state.incumbent is not None
        return self.state.incumbent

    @property
    def _head(self) -> str:
        assert self.state.head is not None
        return self.state.head

    def _constants(self) -> dict[str, Value]:
        return known_constants(self.runner.protocol)

    def _candidate_files(self) -> dict[str, str]:
        assert self._pending.commit is not None
        return dict(self.runs.files(self._pending.commit))

    def _note_edits(self) -> None:
        """Tell the user once that edits of the researched files are not used."""
        for path in Checkout(self.runner.workspace).edited():
            self._say_once(f"{path} has uncommitted changes, which are left alone; no run uses them")

    def _say_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.journal.show("note", text=text)

    def _look_ahead(self) -> None:
        """Let the next proposal be made while this experiment is measured, if another experiment will follow."""
        ahead, pending, number = self._ahead, self._pending, self._pending.number + 1
        asked = self.interrupts.finishing or stop_file(self.journal.path).exists()
        if ahead is None or pending.verdict is not None or asked:
            return
        unconfirmed = self._confirm and self._incumbent.number > 0 and self.state.confirmation is None
        left = (1 + 2 * RUNS * unconfirmed) * self.runs.expected_seconds()
        if not goes_on(self._limits, self.state, time.monotonic() - self._began, left):
            return
        if ahead.wants(self.context(number, self._incumbent)):
            about = (pending.description, pending.parameters, pending.digest, pending.files)
            flying = Flying(number - 1, *about, playbook=pending.playbook)
            ahead.begin(self.context(number, self._incumbent, flight=(flying,), ahead=True))

    def context(
        self,
        number: int,
        incumbent: Experiment,
        files: Mapping[str, str] | None = None,
        flight: tuple[Flying, ...] = (),
        *,
        ahead: bool = False,
    ) -> Context:
        """Return what the proposer may know.

        Args:
            number: of the experiment to propose.
            incumbent: what it changes.
            files: all mutable files to be edited; None for those of the incumbent.
            flight: the candidates that are being measured.
            ahead: whether another thread uses it.
        """
        runner = self.runner
        if ahead:  # the caches of a workspace are for one thread
            workspace = Workspace(runner.workspace.folder, runner.protocol)
            runner = dataclasses.replace(runner, workspace=workspace)
        return context_of(
            runner,
            files=files or self.runs.files(incumbent.commit),
            number=number,
            seed=self._config.seed,
            incumbent=incumbent,
            history=self.state.experiments,
            fingerprint=self._fingerprint,
            folder=experiment_folder(self.journal.path, number),
            tick=self._while_ahead if ahead else self._while_proposing,
            earlier=self._earlier,
            flight=flight,
        )

    def _require_going(self) -> None:
        """Stop repeating a run that faults of the GPU end, if the session must end.

        Raises:
            Exhausted: the session must end.
        """
        self.interrupts.raise_if_immediate()
        if reason := self.reason_to_stop():
            raise Exhausted(reason)

    def _while_proposing(self) -> None:
        """Stop waiting for a model if the session must end.

        Raises:
            Exhausted: the session must end.
        """
        self.interrupts.raise_if_immediate()
        if self.state.pending is None and (reason := self.reason_to_stop()):
            raise Exhausted(reason)

    def _while_ahead(self) -> None:
        """Stop making the next proposal, in its thread, if the session ends."""
        assert self._ahead is not None
        self.interrupts.raise_if_immediate()
        self._ahead.require_wanted()

    def _commit(self, number: int, proposal: Proposal) -> str:
        ref = candidate_ref(self.tag, number)
        message = recovery.message_of(number, proposal)
        return self.runner.workspace.commit_candidate(ref, self._head, proposal.files, message)
