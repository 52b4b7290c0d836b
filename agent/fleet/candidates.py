"""Candidates of a session with stations: a proposal gets a commit, one that did well on an old base is merged anew.

Once a candidate has its verdict, it becomes an experiment with the events of a session of one machine.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from agent.errors import Violation
from agent.format import one_line
from agent.journal import proposals
from agent.journal.experiment import Evidence, Experiment, Proposal, Run, Verdict, digest
from agent.journal.flight import BASELINE, Candidate
from agent.journal.paths import candidate_ref, flight_ref
from agent.proposers.search.space import tunable_parameters
from agent.session.baseline import propose_baseline
from agent.session.context import known_constants
from agent.session.session import Session
from agent.source.merging import carried_over

DID_WELL = " did well on #"
AS_IT_IS = "measured as it is, because it"
CLEARLY = 2.0  # standard errors by which one gain is clearly smaller than another


def launch(session: Session, proposal: Proposal, base: Experiment, onto: int | None = None) -> Candidate:
    """Commit a proposal as a candidate and announce it.

    Args:
        session: of the candidate.
        proposal: changes some files of the base.
        base: the kept experiment that it changes.
        onto: the candidate that it is merged from; None for a new proposal.

    Raises:
        Violation: it changes a file that may not change.
    """
    workspace, state = session.runner.workspace, session.state
    assert state.head is not None
    number = state.flight.proposed + 1
    files = session.runs.files(base.commit)
    # The branch holds the rows as well, which no run reads: what is measured are the files of the base.
    whole = {**files, **proposal.files}
    changes = {path: text for path, text in whole.items() if session.runs.files(state.head).get(path) != text}
    said = f"candidate {number}: {one_line(proposal.description)}\n\n{proposal.reasoning}".strip()
    commit = workspace.commit_candidate(flight_ref(session.tag, number), state.head, changes, said)
    about = proposals.described(proposal, whole, session.proposer)
    session.journal.append("candidate", candidate=number, base=base.number, commit=commit, merged=onto, **about)
    return session.state.flight.candidates[number]


def merge(
    session: Session, winner: Candidate, verdict: Verdict, base: Experiment, incumbent: Experiment
) -> Proposal | str:
    """Return the change of a winner on an old base as a proposal for the incumbent, or why there is none.

    If it conflicts with what was kept meanwhile, the winner itself is proposed: the better of both may have come last.
    """
    workspace, known = session.runner.workspace, known_constants(session.runner.protocol)
    now, before, after = (dict(session.runs.files(each.commit)) for each in (incumbent, base, winner))
    found, conflicts = carried_over((now, before, after), known, workspace.merge)
    why = f"conflicts with #{incumbent.number} in {conflicts[0]}" if conflicts else ""
    if conflicts:
        if _is_clearly_less(verdict, session.state.experiments[base.number + 1 :]) or now.keys() - after.keys():
            return why
        found = _changes(now, after)
    whole = {**now, **found}
    flying = {each.digest for each in session.state.flight.candidates.values() if each is not winner}
    if conflicts and digest(whole) in flying:
        return why
    if not conflicts and digest(whole) in {each.digest for each in session.state.experiments} | flying:
        return f"is part of what was measured since #{incumbent.number}"
    merged = f"{AS_IT_IS} {why}" if conflicts else f"merged onto #{incumbent.number}"
    reasoning = f"{winner.description}{DID_WELL}{base.number}; {merged}"
    parameters = tunable_parameters(whole, known)
    more = (winner.proposer, winner.expected, winner.playbook, winner.parts)
    return Proposal(found, winner.description, reasoning, parameters, *more)


def is_as_it_was(again: Candidate) -> bool:
    """Return whether a candidate of `merge` is the winner itself, because that conflicts with what was kept."""
    return AS_IT_IS in again.reasoning.rpartition(DID_WELL)[2]


def _is_clearly_less(verdict: Verdict, since: Sequence[Experiment]) -> bool:
    """Return whether a gain over a base is clearly smaller than that of what was kept since. Unknown ones are not."""
    kept = [each.verdict.evidence for each in since if each.kept]
    known = [each for each in (verdict.evidence, *kept) if each is not None]
    if len(known) <= len(kept):
        return False
    behind = sum(each.gain for each in known[1:]) - known[0].gain
    return behind > CLEARLY * math.sqrt(sum(map(_variance, known)))


def _variance(evidence: Evidence) -> float:
    doubt = evidence.doubt or 0.0
    return evidence.noise**2 * (1 / max(1, evidence.runs) + 1 / max(1, evidence.incumbent_runs) + doubt)


def record(session: Session, candidate: Candidate) -> Experiment:
    """Turn a candidate with a verdict into an experiment. Return the incumbent.

    A kill between two events changes nothing: each is skipped if the journal has it.
    """
    state, journal, verdict = session.state, session.journal, candidate.verdict
    assert verdict is not None
    if state.pending is None:
        names = ("proposer", "description", "reasoning", "parameters", "digest", "expected")
        about = {name: getattr(candidate, name) for name in names}
        about |= proposals.unknown_before(candidate)
        number = len(state.experiments)
        proposals.write(journal.path, number, 0, _proposal(session, candidate))
        journal.append("proposed", number=number, candidate=candidate.number, files=list(candidate.files), **about)
    pending = session.state.pending
    assert pending is not None and pending.candidate == candidate.number
    if pending.commit is None:
        commit = _on_the_branch(session, candidate, pending.number, verdict)
        journal.append("committed", number=pending.number, commit=commit)
    for index, run in enumerate(candidate.runs[len(pending.runs) :], start=len(pending.runs) + 1):
        journal.append("measured", number=pending.number, run=index, **dataclasses.asdict(run))
    if not candidate.runs and not pending.runs:
        lost = Run(None, 0.0, error=verdict.reason)
        journal.append("measured", number=pending.number, run=1, **dataclasses.asdict(lost))
    return session.record(verdict)


def record_baseline(session: Session) -> Experiment:
    """Record the first run of the untouched files as experiment 0."""
    state, journal = session.state, session.journal
    if state.pending is None:
        assert state.head is not None
        files = session.runs.files(state.head)
        parameters = tunable_parameters(files, known_constants(session.runner.protocol))
        propose_baseline(journal, files, parameters, candidate=BASELINE)
    pending = session.state.pending
    assert pending is not None
    if pending.commit is None:
        journal.append("committed", number=BASELINE, commit=state.head)
    if not pending.runs:
        first = next(run for run in state.flight.kept[BASELINE] if run.metric is not None)
        journal.append("measured", number=BASELINE, run=1, **dataclasses.asdict(first))
    return session.record(Verdict("keep", "baseline"))


def _proposal(session: Session, candidate: Candidate) -> Proposal:
    files = session.runs.files(candidate.commit)
    changed = {path: files[path] for path in candidate.files if path in files}
    more = (candidate.parameters, candidate.proposer, candidate.expected, candidate.playbook, candidate.parts)
    return Proposal(changed, candidate.description, candidate.reasoning, *more)


def _on_the_branch(session: Session, candidate: Candidate, number: int, verdict: Verdict) -> str:
    """Return the commit of the experiment: what was measured, on top of the branch if it is kept.

    The rows that other candidates got meanwhile are the only difference, so that history stays linear.
    """
    workspace, state = session.runner.workspace, session.state
    ref, head = candidate_ref(session.tag, number), state.head
    assert head is not None
    if verdict.status != "keep":
        workspace.keep(ref, candidate.commit)
        return candidate.commit
    changes = _changes(session.runs.files(head), session.runs.files(candidate.commit))
    message = f"experiment #{number}: {one_line(candidate.description)}\n\n{candidate.reasoning}".strip()
    commit = workspace.commit_candidate(ref, head, changes, message)
    if workspace.files(commit) != workspace.files(candidate.commit):
        raise Violation(f"candidate {candidate.number} is not what was measured once it is on the branch")
    return commit


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    return {path: text for path, text in after.items() if before.get(path) != text}
