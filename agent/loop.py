"""The research loop: propose, commit, measure, judge, record. It never prompts the user."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.session.session import Session

if TYPE_CHECKING:
    from agent.fleet.decider import Fleet


def run_session(session: Session) -> None:
    """Run experiments until a stop condition holds.

    Every step is journaled before it takes effect, and skipped if the journal shows that it was done. A session that
    was killed at any point therefore resumes there.
    """
    session.recover()
    incumbent = session.baseline()
    while not session.should_stop():
        proposal = session.propose(incumbent)
        session.commit(proposal)
        session.measure()
        verdict = session.judge()
        incumbent = session.record(verdict)


def run_fleet(fleet: Fleet) -> None:
    """Run experiments on several stations until a stop condition holds.

    No station waits for another: each idle one gets its next run, and each answer may complete a verdict.
    """
    fleet.recover()
    while not fleet.should_stop():
        fleet.assign()
        fleet.receive()
        while fleet.decide():
            pass
