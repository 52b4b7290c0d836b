"""Set up and close a session: what `run` and `baseline` do before and after the loop."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from agent.cli.afterwards import extend_playbook, report_on
from agent.cli.fleet import StationsConfig, Work, joined, require_measurable, require_same_kind, where, work_of
from agent.comparison.confirm import require_no_evaluator
from agent.decision.decide import DecisionConfig
from agent.decision.limits import Limits, noted
from agent.decision.longer_training import trains
from agent.errors import AutoresearchError, Interrupted, PreconditionError, UsageError, in_one_line
from agent.execution.awake import kept_awake
from agent.execution.fingerprint import fingerprint
from agent.execution.measure import Runner
from agent.execution.process import Observer
from agent.execution.setup import is_due
from agent.format import block, counted, duration, one_line
from agent.journal.journal import Journal, View
from agent.journal.paths import LONGEST_TAG, is_tag, journal_path, next_tag, state_folder
from agent.loop import run_session
from agent.playbook.entries import read_book
from agent.playbook.tried import misfits
from agent.proposers.base import Exhausted
from agent.proposers.choose import ProposerConfig, choose_proposer
from agent.proposers.search.space import NAME_CONSTANTS, remarks_on, tunable_parameters, why_nothing
from agent.protocol.models import Protocol
from agent.pruning.ladder import require_top
from agent.report.summary import summarize
from agent.repository.ready import require_clean
from agent.room.sandbox import Mode
from agent.session import at_login
from agent.session.at_login import Starter
from agent.session.baseline import log_path, measure_baseline
from agent.session.context import known_constants, notes_on_program
from agent.session.faults import repeat
from agent.session.opening import open_runner, prepared, require_startable, start_of
from agent.session.recovery import require_resumable
from agent.session.session import Session, SessionConfig
from agent.session.signals import Interrupts
from agent.system.names import PROGRAM
from agent.views.notify import Notifier
from agent.views.text import Places, closing

BASELINE_RUNS = 2
MOST_REMARKS = 5
NO_LIMITS = Limits()
SEARCH = ProposerConfig()
BY_TEST = DecisionConfig()


@dataclass(frozen=True)
class ExecutionConfig:
    """How runs are executed.

    Attributes:
        training_seconds: training budget of a run; None takes that of the protocol.
        setup: run the setup commands of the protocol if they are due.
        prune: stop runs early that cannot win.
        allow_untraced: accept models that cannot be traced.
        ladder: the training budgets of the rungs, the full one last; None for no screens.
    """

    training_seconds: float | None = None
    setup: bool = True
    sandbox: Mode = "auto"
    keep_awake: bool = True
    prune: bool = True
    allow_untraced: bool = False
    ladder: tuple[float, ...] | None = None


@dataclass(frozen=True)
class OutputConfig:
    """What `run` prints, and what follows the loop.

    Attributes:
        json: print events as NDJSON.
        notify: ways to notify the user: `bell`, `desktop` or commands.
        confirm: confirm the gain at the end.
        report: write the report at the end.
        dry_run: print the plan and do nothing.
    """

    json: bool = False
    notify: tuple[str, ...] = ()
    confirm: bool = True
    report: bool = True
    dry_run: bool = False


@dataclass(frozen=True)
class RunConfig:
    """All settings of `run`.

    Attributes:
        baseline_runs: runs of the baseline; None takes the default of the verdict.
        kept: the flags that the session keeps, by name.
        said: a note for each kept flag that has changed.
        at_login: go on at the next login after a reboot; None if an earlier start of the session asked for it.
        start: the session whose best a new session starts at; None for HEAD.
        fresh: learn nothing from other sessions.
        stations: None if the runs are made by this process.
    """

    tag: str
    seed: int = 0
    limits: Limits = NO_LIMITS
    proposer: ProposerConfig = SEARCH
    execution: ExecutionConfig = ExecutionConfig()
    decision: DecisionConfig = BY_TEST
    baseline_runs: int | None = None
    output: OutputConfig = OutputConfig()
    kept: Mapping[str, Any] = field(default_factory=dict)
    said: Sequence[str] = ()
    at_login: bool | None = None
    start: str | None = None
    fresh: bool = False
    stations: StationsConfig | None = None


def require_tag(tag: str) -> None:
    """Raise UsageError if a tag cannot name a branch."""
    if not is_tag(tag):
        raise UsageError(
            f"--tag {tag[:LONGEST_TAG]!r} cannot name a branch",
            hint=f"use at most {LONGEST_TAG} letters, digits, `_`, `-` and single dots",
        )


def run(folder: Path, config: RunConfig, started: Callable[[], None] = lambda: None) -> int:
    """Run a session from start to report.

    Args:
        folder: the workspace.
        config: the settings of the session.
        started: called once nothing is in the way of the session, or its setup commands begin.

    Returns:
        The exit code.

    Raises:
        UsageError: the tag cannot name a branch.
    """
    tag, execution, output = config.tag, config.execution, config.output
    require_tag(tag)
    with (
        Notifier(output.notify) as notifier,
        open_runner(folder, tag, execution.training_seconds, execution.sandbox, config.limits) as opened,
        _view(config, opened) as view,
    ):
        journal = Journal(journal_path(opened.workspace.folder, tag), [view, notifier, _on_start(started)])
        runner = dataclasses.replace(opened, say=lambda text: journal.show("note", text=text))
        require_top(execution.ladder, runner.training_seconds)
        new = journal.state.session is None
        start = start_of(runner.workspace, config.start) if new and config.start else None
        session = _session(runner, journal, config, start)
        require_same_kind(journal.state, tag, config.stations)
        _require_startable(session, config, start)
        at = start or runner.workspace.head
        remarks = _about_the_search(session, config, at)
        starter = _starter(runner, config)
        if output.dry_run:
            plan = _plan(session, config, config.start if start else None, at)
            ends = config.limits.within(runner.protocol).words()
            print(_shown_plan(plan, ends, config, starter, remarks, {*journal.state.flight.stations}))
            return 0
        if execution.setup and is_due(runner.protocol, state_folder(runner.workspace.folder)):
            started()
        for text in (runner.sandbox.says, *config.said, *remarks, *_on_instructions(runner.workspace.folder)):
            journal.show("note", text=text)
        base = journal.state.session["base"] if journal.state.session else start
        with (
            prepared(
                runner, setup=execution.setup, commit=base, untraced=execution.allow_untraced, journal=journal.path
            ) as ready,
            kept_awake() if execution.keep_awake else contextlib.nullcontext(),
            joined(config.stations, runner, execution.sandbox, {*journal.state.flight.stations}) as connect,
            contextlib.closing(journal),
        ):
            require_no_evaluator(ready, config.kept.get("holdout"))  # now, rather than after the night
            session.work_on(ready)
            for text in starter.install() if starter else at_login.forget(runner.workspace.folder, tag):
                runner.say(text)
            code = _done(session, output, work_of(session, execution.sandbox, connect, setup=execution.setup))
            if starter:
                runner.say(starter.after(code))
        page = report_on(session) if output.report else None
    _summarize(session, output.json, page)
    return code


def _require_startable(session: Session, config: RunConfig, start: str | None) -> None:
    """Raise PreconditionError if a session cannot start; one that has begun checks it itself, after its setup."""
    runner, begun = session.runner, session.state.session
    if begun is None:
        require_measurable(config.stations, runner, start or runner.workspace.head)
        return require_startable(runner.workspace, session.branch, session.tag, start)
    if not config.output.dry_run:
        return None
    now = fingerprint(runner.protocol, runner.training_seconds, runner.workspace.harness_digest(begun["base"]))
    return require_resumable(session.journal, runner.workspace, session.branch, now)


def _on_start(started: Callable[[], None]) -> View:
    return lambda event, _: started() if event.kind in ("session", "resumed") else None


def _starter(runner: Runner, config: RunConfig) -> Starter | None:
    """Return the file that resumes the session at login; None if the user does not want one.

    Raises:
        UsageError: the system reads no such file, or the file cannot hold a flag.
        PreconditionError: a key would be missing at login.
    """
    folder, wanted = runner.workspace.folder, config.at_login
    if wanted is None:
        wanted = at_login.installed(folder, config.tag)
    if not wanted:
        return None
    at_login.require_keys(config.proposer)
    missing = at_login.keys_of_agents(config.proposer)
    if missing:
        runner.say(f"{', '.join(missing)}: not written to a file, so at login the agent needs a sign-in of its own")
    return at_login.starter(folder, config.tag, _flags_again(config, config.limits.within(runner.protocol)))


def _flags_again(config: RunConfig, limits: Limits) -> dict[str, Any]:
    """Return the flags of a later start that continues this one, with hours as a date and time."""
    ends, execution, output = noted(limits, time.time()), config.execution, config.output
    until = ends.get("until")
    return {
        "tag": config.tag,
        "at_login": True,
        **config.kept,
        "max_experiments": ends.get("experiments"),
        "until": until and datetime.fromtimestamp(until).astimezone().isoformat(timespec="seconds"),
        "patience": ends.get("patience"),
        "target": ends.get("target"),
        "setup": execution.setup,
        "keep_awake": execution.keep_awake,
        "confirm": output.confirm,
        "report": output.report,
        "notify": output.notify,
    }


def _session(runner: Runner, journal: Journal, config: RunConfig, start: str | None) -> Session:
    wanted = config.proposer
    # Else every station of a scheduler would wait for the model. Those of this machine share it with the model.
    if config.stations is not None and config.stations.scheduler and wanted.ahead is None:
        wanted = dataclasses.replace(wanted, ahead=True)
    proposer = choose_proposer(wanted, journal, runner.workspace, runner.sandbox)
    return Session(runner, journal, proposer, session_config(config, runner.protocol, start))


def session_config(config: RunConfig, protocol: Protocol, start: str | None = None) -> SessionConfig:
    return SessionConfig(
        tag=config.tag,
        seed=config.seed,
        limits=config.limits,
        decision=dataclasses.replace(
            config.decision, simplicity=protocol.agent_rules.simplicity_criterion, trains=trains(protocol)
        ),
        baseline_runs=config.baseline_runs or (1 if config.decision.kind == "greedy" else BASELINE_RUNS),
        prune=config.execution.prune,
        confirm=config.output.confirm,
        flags=config.kept,
        start=(config.start, start) if config.start and start else None,
        learn=not config.fresh,
        rung=config.execution.ladder[0] if config.execution.ladder else None,
    )


def _done(session: Session, output: OutputConfig, work: Work) -> int:
    """Run the loop, the confirmation that is due after it and what follows from it, and return the exit code."""
    code = guarded(session, work.loop)
    if code == 0 and session.owes_confirmation():
        if output.report and (page := report_on(session)):  # written now, so that a kill cannot prevent it
            session.journal.show("note", text=f"wrote the report so far to {page}")
        code = work.confirm()
    if code == 0:
        extend_playbook(session)
    return code


def baseline(folder: Path, training_seconds: float | None, setup: bool, sandbox: Mode) -> dict[str, Any]:
    """Measure a new baseline, even if a valid one is stored, and return it as plain data."""
    interrupts = Interrupts()

    def tick(_: float) -> None:
        interrupts.raise_if_immediate()
        if interrupts.finishing:
            raise Interrupted("stopped before the baseline was measured", 130)

    with (
        open_runner(folder, "baseline", training_seconds, sandbox, stops=False) as opened,
        prepared(opened, setup=setup) as runner,
    ):
        require_clean(runner.workspace)
        harness = runner.workspace.harness_digest(runner.workspace.head)
        found = fingerprint(runner.protocol, runner.training_seconds, harness)
        interrupts.install()
        print(runner.sandbox.says, file=sys.stderr)
        print(f"measuring the baseline, log in {log_path(runner)}", file=sys.stderr, flush=True)
        measured = repeat(
            lambda: measure_baseline(runner, found, (), Observer(tick=tick)),
            tick,
            lambda text: print(one_line(text), file=sys.stderr, flush=True),
        )
        return {
            "metric": runner.protocol.metric.name,
            "value": measured.metric,
            "secondary": dict(measured.secondary),
            "seconds": measured.seconds,
            "log": measured.log,
            "fingerprint": found,
        }


def guarded(session: Session, loop: Callable[[], None] | None = None) -> int:
    """Run the loop until a limit, an exhausted proposer, Ctrl-C or an error ends it, and leave a clean tree.

    Returns:
        The exit code.
    """
    interrupts = session.interrupts
    interrupts.on_first = lambda: session.journal.show("note", text=_finishing(session), ending=True)
    interrupts.install()
    try:
        loop() if loop else run_session(session)
    except Exhausted as reason:
        session.end(str(reason))
    except Interrupted as stop:
        session.abandon(str(stop))
        return stop.exit_code
    except (AutoresearchError, OSError) as error:
        sentence = in_one_line(error)
        # What cannot be cleaned up now is repaired at the next start; the user needs to see the first error.
        with contextlib.suppress(AutoresearchError, OSError):
            session.journal.show("failed", reason=sentence)
            session.abandon(sentence)
        raise
    return 130 if interrupts.finishing else 0


def _finishing(session: Session) -> str:
    pending, flying = session.state.pending, session.state.flight.candidates
    if flying:
        return f"press Ctrl-C again to stop at once; finishing {counted(len(flying), 'candidate')} under way"
    if pending is None:
        return "press Ctrl-C again to stop at once; stopping after this step"
    left = duration(session.runs.remaining_seconds())
    return f"press Ctrl-C again to stop at once; finishing experiment #{pending.number}, about {left} left"


def _on_instructions(folder: Path) -> list[str]:
    """Say which of the user's instructions no proposer gets."""
    return [*notes_on_program(folder / PROGRAM), *read_book(folder).notes]


def _about_the_search(session: Session, config: RunConfig, at: str) -> list[str]:
    """Return remarks on what limits the search; empty once the session has experiments.

    Args:
        at: the commit with the files that a new session starts with.

    Raises:
        PreconditionError: the search finds nothing to change and is the only proposer.
    """
    runner = session.runner
    if session.state.experiments or config.limits.experiments == 0:
        return []
    files = runner.workspace.files(at)
    known = known_constants(runner.protocol)
    nothing = why_nothing(files, known)
    misfitting = misfits(read_book(runner.workspace.folder).entries, tunable_parameters(files, known))
    found = [*remarks_on(files)[:MOST_REMARKS], *misfitting, *([nothing] if nothing else [])]
    if nothing and session.proposer == "search":
        raise PreconditionError(". ".join(reversed(found)), hint=NAME_CONSTANTS)
    return found


def _plan(session: Session, config: RunConfig, first: str | None, at: str) -> dict[str, Any]:
    """Return what a start would do, as plain data.

    Args:
        first: the session whose best a new session starts at; None for HEAD.
        at: the commit with the files that it starts with.
    """
    runner, state, wanted = session.runner, session.state, config.proposer
    limits, files = config.limits.within(runner.protocol), runner.workspace.files(at)
    return {
        "tag": session.tag,
        "branch": session.branch,
        "resumes": bool(state.experiments),
        "experiments": max(0, len(state.experiments) - 1),
        "from": first,
        "command": runner.protocol.execution.command,
        "limit_seconds": runner.limit,
        "training_seconds": runner.training_seconds or None,
        "screen_seconds": session.rung or None,
        "files": [*files],
        "results": runner.protocol.provenance.results_log.path,
        "ends": noted(limits, time.time()),
        "proposer": session.proposer,
        "asks": wanted.model or wanted.agent or wanted.agent_cmd,
        "constants": len(tunable_parameters(files, known_constants(runner.protocol))),
        "sandbox": runner.sandbox.says,
    }


def _plan_lines(plan: Mapping[str, Any], ends: str) -> list[str]:
    start = f"resume after {counted(plan['experiments'], 'experiment')}" if plan["resumes"] else "start"
    training, screen, asked = plan["training_seconds"], plan["screen_seconds"], plan["asks"]
    hybrid = plan["proposer"] in ("search", "hybrid")
    searched = f", {counted(plan['constants'], 'constant')} to search" if hybrid else ""
    return [
        f"would {start} on branch {plan['branch']}"
        + (f", at the best of session {plan['from']}" if plan["from"] else ""),
        f"would run `{plan['command']}` in a new copy of each candidate, for at most {duration(plan['limit_seconds'])}"
        + (f", with {duration(training)} of training" if training else "")
        + (f", after a screen with {duration(screen)}" if screen else ""),
        f"would change {', '.join(plan['files'])} and write {plan['results']}",
        f"would end {ends or 'only when it is stopped'}",
        f"would propose by {plan['proposer']}{f' ({asked})' if asked else ''}{searched}",
        plan["sandbox"],
    ]


def _shown_plan(
    plan: dict[str, Any],
    ends: str,
    config: RunConfig,
    starter: Starter | None,
    remarks: Sequence[str],
    known: Collection[str],
) -> str:
    """Return the plan of `--dry-run` as lines, or under --json as one JSON object, a line of `run --json`.

    Args:
        ends: what ends the session, in words.
        known: names of the session's stations so far.
    """
    places = where(config.stations, known)
    if config.output.json:
        at_login = {"path": str(starter.path), "text": starter.text} if starter else None
        more = {"stations": [*places], "at_login": at_login, "remarks": [*remarks]}
        return json.dumps({"event": "plan", **plan, **more})
    login = starter.plan() if starter else []
    return block("\n".join([*_plan_lines(plan, ends), *places, *login, *remarks]))


def _summarize(session: Session, as_json: bool, page: Path | None) -> None:
    summary = summarize(session.state)
    if as_json:
        print(json.dumps({"event": "summary", **summary, "report": str(page) if page else None}), flush=True)
        return
    commit = (summary["best_commit"] or "")[:7]
    folder, later = session.journal.path.parent, next_tag(session.runner.workspace.folder, session.tag)
    flags = session.limits_left().flags()
    lines = closing(session.state, summary, Places(commit, str(folder), str(page) if page else None, later, flags))
    if sys.stdout.isatty():
        from agent.views.color import closing_page  # slow to import

        lines = closing_page(lines)
    print("\n".join(lines))


def _view(config: RunConfig, runner: Runner) -> AbstractContextManager[View]:
    if config.output.json:
        from agent.views.ndjson import show_ndjson

        return contextlib.nullcontext(show_ndjson)
    if sys.stderr.isatty():
        from agent.views.terminal.live import LiveView, can_draw

        if can_draw(sys.stderr):
            return LiveView(config.limits.within(runner.protocol))
    from agent.views.plain import show_plain

    return contextlib.nullcontext(show_plain)
