"""Run a short session of the built-in search, with the steps of a night."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from agent.decision.decide import DecisionConfig
from agent.decision.limits import Limits
from agent.decision.longer_training import trains
from agent.errors import AutoresearchError, Interrupted, explain
from agent.execution.measure import Runner
from agent.field.machine import public
from agent.field.stop import Stop
from agent.journal.journal import Journal
from agent.journal.paths import journal_path
from agent.journal.state import State
from agent.loop import run_session
from agent.proposers.base import Exhausted
from agent.proposers.choose import ProposerConfig, choose_proposer
from agent.report.summary import summarize
from agent.session.opening import require_startable
from agent.session.session import Session, SessionConfig
from agent.views.plain import show_plain

TAG = "field"
BASELINE_RUNS = 2


@dataclass(frozen=True)
class Ended:
    """A session that has ended.

    Attributes:
        data: its figures as plain data; None if it has no baseline.
        error: why it failed; None if it did not.
        stopped: what stopped it before its end; None if nothing did.
    """

    data: dict[str, Any] | None
    error: str | None = None
    stopped: Interrupted | None = None


def short_session(runner: Runner, experiments: int, runs: int, stop: Stop) -> Ended:
    """Run a session in the workspace of `runner`.

    Args:
        experiments: the number of experiments, at most.
        runs: runs of the baseline that are already measured.
        stop: ends it when the time is up.
    """
    began = time.monotonic()
    journal = Journal(journal_path(runner.workspace.folder, TAG), [show_plain])
    session = _session(runner, journal, experiments, max(runs, BASELINE_RUNS), stop)
    error, stopped = None, None
    try:
        require_startable(runner.workspace, session.branch, TAG)
        run_session(session)
    except Exhausted as reason:
        session.end(str(reason))
    except Interrupted as reason:
        session.abandon(str(reason))
        stopped = reason
    except (AutoresearchError, OSError) as reason:
        # Hints name files and commands of the temporary clone.
        error = public(str(explain(reason) if isinstance(reason, OSError) else reason))
    finally:
        journal.close()
    data = session_figures(journal.state, time.monotonic() - began) if journal.state.baseline else None
    return Ended(data, error, stopped)


def _session(runner: Runner, journal: Journal, experiments: int, runs: int, stop: Stop) -> Session:
    protocol = runner.protocol
    about = SessionConfig(
        tag=TAG,
        seed=0,
        limits=Limits(experiments=experiments, seconds=stop.left()),
        decision=DecisionConfig(simplicity=protocol.agent_rules.simplicity_criterion, trains=trains(protocol)),
        baseline_runs=runs,
        prune=True,
        confirm=False,
        flags={},
    )
    proposer = choose_proposer(ProposerConfig(), journal, runner.workspace, runner.sandbox)
    return Session(runner, journal, proposer, about, stop)


def session_figures(state: State, seconds: float) -> dict[str, Any]:
    """Return the figures of a session as plain data."""
    summary = summarize(state)
    return {
        **{name: summary[name] for name in ("experiments", "kept", "discarded", "crashed", "baseline", "best", "gain")},
        "provisional": summary["gain_is_provisional"],
        "noise": summary["noise"],
        "runs": sum(len(each.runs) for each in state.experiments[1:]),
        "faults": state.faults.runs,
        "seconds": round(seconds, 1),
        "ended": summary["ended"],
    }
