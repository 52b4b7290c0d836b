"""The loop: propose, commit, measure, judge, record. All night, without asking anything."""

from __future__ import annotations

from agent.session.session import Session


def run_session(session: Session) -> None:
    """Go on until a stop condition holds.

    Every step is journalled before its effect and skipped where the journal shows that it is done, so a session that
    died at any instant goes on from there.
    """
    session.recover()
    incumbent = session.baseline()
    while not session.should_stop():
        proposal = session.propose(incumbent)
        session.commit(proposal)
        session.measure()
        verdict = session.judge()
        incumbent = session.record(verdict)
