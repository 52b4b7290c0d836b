"""From flags to a running session: what `run` and `baseline` do before and after the loop."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.cli.afterwards import confirm_gain, report_on
from agent.decision.decide import DecisionConfig
from agent.decision.limits import Limits
from agent.decision.longer_training import trains
from agent.decision.sequential_test import Kind
from agent.errors import AutoresearchError, Interrupted, PreconditionError, UsageError, explain
from agent.execution.awake import kept_awake
from agent.execution.fingerprint import fingerprint
from agent.execution.measure import Runner
from agent.format import duration
from agent.journal.journal import Journal, View
from agent.journal.paths import journal_path
from agent.loop import run_session
from agent.proposers.base import Exhausted
from agent.proposers.choose import ProposerConfig
from agent.proposers.choose import choose as choose_proposer
from agent.proposers.search.space import remarks as remarks_on
from agent.proposers.search.space import why_nothing
from agent.report.summary import summarize
from agent.room.sandbox import Mode
from agent.session import recovery
from agent.session.baseline import log_path, measure_baseline
from agent.session.context import known_constants
from agent.session.opening import open_bench, prepared
from agent.session.session import Session
from agent.session.signals import Interrupts
from agent.views.notify import Notifier
from agent.views.text import closing

BASELINE_RUNS = 2
MOST_REMARKS = 5
NO_LIMITS = Limits()
SEARCH = ProposerConfig()


@dataclass(frozen=True)
class RunConfig:
    """The flags of `run`. training_seconds None: what the protocol says; baseline_runs None: what the verdict needs.

    kept: those that the session keeps, by name. said: what of them has changed, a sentence each.
    """

    tag: str
    consult: ProposerConfig = SEARCH
    seed: int = 0
    training_seconds: float | None = None
    setup: bool = True
    keep_awake: bool = True
    sandbox: Mode = "auto"
    dry_run: bool = False
    json: bool = False
    limits: Limits = NO_LIMITS
    verdict: Kind = "confirm"
    baseline_runs: int | None = None
    prune: bool = True
    max_memory_gb: float | None = None
    confirm: bool = True
    report: bool = True
    notify: tuple[str, ...] = ()
    allow_untraced: bool = False
    kept: Mapping[str, Any] = field(default_factory=dict)
    said: Sequence[str] = ()


def run(folder: Path, wanted: RunConfig) -> int:
    """The command `run`. Returns the exit code."""
    tag = wanted.tag
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", tag) or tag.endswith((".", ".lock")) or ".." in tag:
        raise UsageError(f"the tag {tag!r} cannot name a branch: use letters, digits, '_', '-' and single dots")
    with (
        Notifier(wanted.notify) as notifier,
        open_bench(folder, wanted.tag, wanted.training_seconds, wanted.sandbox, wanted.limits) as bench,
        _view(wanted, bench) as view,
    ):
        journal = Journal(journal_path(bench.workspace.folder, wanted.tag), [view, notifier])
        bench = dataclasses.replace(bench, say=lambda text: journal.show("note", text=text))
        session = Session(
            tag=wanted.tag,
            seed=wanted.seed,
            bench=bench,
            journal=journal,
            proposer=choose_proposer(wanted.consult, journal, bench.workspace, bench.sandbox),
            wanted=wanted.limits,
            interrupts=Interrupts(),
            rules=DecisionConfig(
                wanted.verdict,
                wanted.max_memory_gb,
                bench.protocol.agent_rules.simplicity_criterion,
                trains(bench.protocol),
            ),
            baseline_runs=wanted.baseline_runs or (1 if wanted.verdict == "greedy" else BASELINE_RUNS),
            prune=wanted.prune,
            confirm=wanted.confirm,
            flags=wanted.kept,
        )
        if journal.state.session is None:
            recovery.require_startable(bench.workspace, bench.protocol, session.branch, wanted.tag)
        remarks = _about_the_search(session, wanted)
        if wanted.dry_run:
            print("\n".join([_plan(session), *remarks]))
            return 0
        for text in (bench.sandbox.says, *wanted.said, *remarks):
            journal.show("note", text=text)
        base = journal.state.session["base"] if journal.state.session else None
        with (
            prepared(bench, setup=wanted.setup, commit=base, untraced=wanted.allow_untraced) as ready,
            kept_awake() if wanted.keep_awake else contextlib.nullcontext(),
        ):
            session.work_on(ready)
            try:
                code = guarded(session)
                if code == 0 and session.owes_confirmation():
                    if wanted.report and (page := report_on(session)):  # a kill must not take the night's with it
                        journal.show("note", text=f"the report so far: {page}")
                    code = confirm_gain(session)
            finally:
                journal.close()
        page = report_on(session) if wanted.report else None
    _summarize(session, wanted.json, page)
    return code


def baseline(folder: Path, training_seconds: float | None, setup: bool, sandbox: Mode) -> dict[str, Any]:
    """The command `baseline`: a fresh one, whatever is kept. Returns what it measured."""
    interrupts = Interrupts()

    def tick(_: float) -> None:
        interrupts.raise_if_immediate()
        if interrupts.finishing:
            raise Interrupted("stopped: the baseline was not measured", 130)

    with (
        open_bench(folder, "baseline", training_seconds, sandbox) as opened,
        prepared(opened, setup=setup) as bench,
    ):
        bench.workspace.require_clean()
        harness = bench.workspace.harness_digest(bench.workspace.head)
        found = fingerprint(bench.protocol, bench.training_seconds, harness)
        interrupts.install()
        print(bench.sandbox.says, file=sys.stderr)
        print(f"measuring the baseline; its log is {log_path(bench)}", file=sys.stderr, flush=True)
        measured = measure_baseline(bench, found, (), lambda _: None, tick)
        return {
            "metric": bench.protocol.metric.name,
            "value": measured.metric,
            "secondary": dict(measured.secondary),
            "seconds": measured.seconds,
            "log": measured.log,
            "fingerprint": found,
        }


def guarded(session: Session) -> int:
    """The loop and its ends: a limit, an exhausted proposer, Ctrl-C, or an error. The tree is clean after each."""
    interrupts = session.interrupts
    interrupts.on_first = lambda: session.journal.show("note", text=_finishing(session), ending=True)
    interrupts.install()
    try:
        run_session(session)
    except Exhausted as reason:
        session.end(str(reason))
    except Interrupted as stop:
        session.abandon(str(stop))
        return stop.exit_code
    except (AutoresearchError, OSError) as error:
        sentence = explain(error) if isinstance(error, OSError) else str(error)
        # The next start heals what cannot be put right now; what the person needs is the error itself.
        with contextlib.suppress(AutoresearchError, OSError):
            session.journal.show("failed", reason=sentence)
            session.abandon(sentence)
        raise
    return 130 if interrupts.finishing else 0


def _finishing(session: Session) -> str:
    pending = session.state.pending
    if pending is None:
        return "ending after this step; Ctrl-C again stops at once"
    left = duration(session.runs.remaining_seconds())
    return f"finishing experiment #{pending.number}, about {left} more; Ctrl-C again stops it at once"


def _about_the_search(session: Session, wanted: RunConfig) -> list[str]:
    """Sentences about what keeps the search from finding something. Raises PreconditionError where nobody else does.

    A session that has begun may have used up all there was.
    """
    bench = session.bench
    if session.state.experiments or wanted.limits.experiments == 0:
        return []
    files = bench.workspace.files(bench.workspace.head)
    nothing = why_nothing(files, known_constants(bench.protocol))
    found = [*remarks_on(files)[:MOST_REMARKS], *([nothing] if nothing else [])]
    if nothing and session.proposer == "search":
        raise PreconditionError(". ".join(reversed(found)))
    return found


def _plan(session: Session) -> str:
    bench, state = session.bench, session.state
    start = f"go on after {len(state.experiments) - 1} experiments" if state.experiments else "start"
    return "\n".join(
        [
            f"would {start} on the branch {session.branch}",
            f"would run `{bench.protocol.execution.command}` in a fresh copy of each candidate, each at most "
            f"{duration(bench.limit)}"
            + (f", {duration(bench.training_seconds)} of it training" if bench.training_seconds else ""),
            f"would change {', '.join(bench.workspace.files(bench.workspace.head))} and write "
            f"{bench.protocol.provenance.results_log.path}",
            bench.sandbox.says,
        ]
    )


def _summarize(session: Session, as_json: bool, page: Path | None) -> None:
    summary = summarize(session.state)
    if as_json:
        print(json.dumps({"event": "summary", **summary, "report": str(page) if page else None}), flush=True)
        return
    commit = (summary["best_commit"] or "")[:7]
    print(
        "\n".join(
            closing(session.state, summary, commit, str(session.journal.path.parent), session.bench.workspace.top)
        )
    )
    if page is not None:
        print(f"report    {page}")


def _view(wanted: RunConfig, bench: Runner) -> AbstractContextManager[View]:
    if wanted.json:
        from agent.views.ndjson import show

        return contextlib.nullcontext(show)
    if sys.stderr.isatty():
        from agent.views.terminal.live import LiveView, can_draw

        if can_draw(sys.stderr):
            return LiveView(wanted.limits.within(bench.protocol))
    from agent.views.plain import show as show_plain

    return contextlib.nullcontext(show_plain)
