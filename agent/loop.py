"""The research loop: propose, commit, measure, judge, record. It never prompts the user."""

from __future__ import annotations

from agent.session.session import Session


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
