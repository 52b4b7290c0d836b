"""The events of a session. The journal keeps them, the state is their fold, the views show them.

In the order in which they occur in an experiment:

    session    {tag, branch, base, metric, direction, fingerprint, seed, proposer, pid, id, flags, left, from, learned}
               once, first; id: random; flags: the flags that the session keeps; left: the branch that was checked out
               before; from: the session that it started from; learned: the sessions that it learns from, with their
               numbers of experiments, and whether their fingerprint is the same (`agent.proposers.earlier`)
    resumed    {pid, flags}                              on each later start
    calling    {number, model, input_tokens, output_tokens, dollars}   a call to a model begins: the most it can cost
    called     {number, model, input_tokens, output_tokens, dollars}   the actual cost, even if the call failed
    refused    {number}                                  the model refused the call, which is free
    waiting    {proposer, reason, until}                 the proposer is briefly unavailable and is retried then
    away       {proposer, reason, until}                 it is unavailable for longer; another proposes until then
    back       {proposer}
    nothing    {proposer, number, reason}                no usable proposal; another proposer takes over
    dropped    {proposer, number, what, count}           an agent's changes that were dropped: count in all, what: some
    preparing  {number, base, proposer}                  the next proposal is being made while a run is in progress; it
               changes the commit `base`
    prepared   {number, base, proposer, description}     it is on disk, for the next experiment
    outdated   {number, reason}                          it is thrown away, because it no longer applies
    proposed   {number, proposer, description, reasoning, parameters, digest, files, expected}; {playbook}: the title of
               the entry of the playbook that it tries; {parts}: the numbers of the near misses that it makes together
    committed  {number, commit}                          the candidate has a commit; nothing else has changed
    started    {number, run, pid, born, start, log, expected}   its command runs; {of} as in `measured`
    faulted    {number, run, fault, reason, seconds, pause}   the GPU failed: the run does not count, and is repeated
               after a pause; {of} as in `measured`
    measured   {number, run, and the fields of Run}; a reused baseline adds {reused}; a run of the incumbent
               during the experiment adds {of}, the incumbent's number; {provoked}: how many faults before it are
               the candidate's own, because the incumbent ran
    screened   {number, run, rung, edit, lead, chance, then, reason, and the fields of Run}   a run with a shorter
               training of `rung` seconds (`agent.journal.experiment.Screen`); {of} as in `measured`. Its `started` has
               {rung} as well
    revised    {number, commit, digest, description, parameters, files}   the same candidate with a smaller batch
    repaired   {number, commit, digest, description, parameters, files}   its proposer fixed a crash
    unmended   {proposer, number, reason}                the proposer could not fix a crash
    interrupted{number, reason}                          the run does not count and is repeated
    judged     {number, status, reason, evidence}        evidence: the fields of Evidence, or null
    recorded   {number, head}                            the branch moves to `head`: incumbent plus rows
    scored     {number, metric, holdout}                 one kept model on validation text and on the holdout
    ended      {reason}

Between experiments:

    comparing  {commits, files, count, seeds, rung}      held-out runs of several commits begin: label -> commit;
               seeds: that of each run of a commit, empty if they use the recipe's own; rung: only for `promote`;
               varied: the constants that a seed sets if they are several
               (`agent.journal.comparison`)
    running    {label, run, pid, born, start, log, expected}    one of these runs starts
    faulted    {label, run, fault, reason, seconds, pause}   as in an experiment
    compared   {label, run, and the fields of Run}       `agent.decision.schedule` decides which of them count
    confirmed  {a, b, means, runs, gain, low, high, noise, verdict, why, seeds, spread, holdout, cost}   the result of
               `confirm` for two commits
    ablated    {changes, commit, ...}                    the result of `ablate`
    promoted   {best, rung, session, whole, changes, rest}   the result of `promote`; session: the gain there; whole and
               rest: the fields of `confirmed` with a verdict of `promote`; changes: a verdict for each kept change, or
               null
    extended   {entries, head}                           the branch moves to `head`: playbook.md has an entry for each
               of these kept experiments

In a session with stations (`agent.journal.flight`). A candidate that has its verdict becomes an experiment, with the
events above:

    joined     {station, facts}                          a station is here; facts: what it says about its machine
    left       {station, reason}                         it is gone
    candidate  {candidate, base, commit, merged, and the fields of proposed but its number}   a candidate has a commit:
               base: the number of the kept experiment that it changes; merged: the candidate whose change it is
    leased     {lease, station, commit, log, expected, candidate, of, label, seed, rebase}   a station is asked for a
               run of a candidate, of the kept experiment with the number {of}, or of a commit of a comparison; rebase:
               it is accepted although the machine's state has changed
    compared   with {lease} as well                      the station returned a run of a comparison
    returned   {lease, candidate, of, and the fields of Run}   the station returned the run
    lost       {lease, candidate, of, label, station, reason, fault, died}   the run does not count and is measured
               elsewhere: the station is gone, could not measure, or its GPU failed; died: or left, in the run
    withdrawn  {lease, candidate, of, label, station, reason}   the run is ended, because it is not needed any more
    decided    {candidate, status, reason, evidence}     as judged; its experiment follows

Shown but never journaled:

    failed     {reason}                                  an error ends the session; `ended` follows
    note       {text}                                    information for the user; {ending} marks the effect of Ctrl-C
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Check = Callable[[Any], bool]


@dataclass(frozen=True)
class Event:
    """One event of a session.

    Attributes:
        kind: one of the kinds in the module docstring.
        at: Unix time in seconds.
        data: the fields of that kind.
    """

    kind: str
    at: float
    data: dict[str, Any] = field(default_factory=dict)

    def to_json(self, *, ascii_only: bool = False) -> str:
        """Return the event as one line of JSON.

        Args:
            ascii_only: escape everything else, including terminal control characters.
        """
        content = {"event": self.kind, "at": self.at, **self.data}
        text = json.dumps(content, ensure_ascii=ascii_only)
        # A lone surrogate can only be written as an escape.
        return json.dumps(content) if any("\ud800" <= sign <= "\udfff" for sign in text) else text


def fault_of(event: Event) -> str | None:
    """Return the first field of an event whose value is invalid; None if all are valid.

    A journal may be forged, and the code that reads it trusts the values. Missing fields are accepted here, because
    earlier versions left some out.
    """
    if not isinstance(event.kind, str) or not _time(event.at):
        return "event" if _time(event.at) else "at"
    checks = FIELDS.get(event.kind, {})
    return next((name for name, value in event.data.items() if name in checks and not checks[name](value)), None)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _figure(value: Any) -> bool:
    """Return whether this is a number, possibly infinite or NaN."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= 1e300 or (isinstance(value, float) and not math.isfinite(value))


def _number(value: Any) -> bool:
    return _figure(value) and math.isfinite(value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10**9


def _seed(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _time(value: Any) -> bool:
    """Return whether this is a Unix time that a calendar can show."""
    return _number(value) and 0 <= value <= 1e11


def _seconds(value: Any) -> bool:
    return _number(value) and -1e9 <= value <= 1e9


def _commit(value: Any) -> bool:
    """Return whether git would read this as a commit: not as an option, not as a range."""
    return isinstance(value, str) and re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z_-]{0,99}", value) is not None


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _scalar(value: Any) -> bool:
    return isinstance(value, bool | str) or _figure(value)


def _one_of(*values: str) -> Check:
    return lambda value: isinstance(value, str) and value in values


def _maybe(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _list(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _map(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _fields(checks: dict[str, Check]) -> Check:
    return lambda value: (
        isinstance(value, dict) and all(checks[name](each) for name, each in value.items() if name in checks)
    )


def _whole(checks: dict[str, Check]) -> Check:
    """As `_fields`, but none of them may be missing."""
    return lambda value: isinstance(value, dict) and checks.keys() <= value.keys() and _fields(checks)(value)


_EVIDENCE: dict[str, Check] = {
    "how": _text, "mean": _number, "runs": _count, "incumbent_mean": _number, "incumbent_runs": _count,
    "gain": _number, "noise": _number, "sigmas": _maybe(_figure), "doubt": _maybe(_figure),
    "stations": _map(_figure), "adjusted": _flag, "own_noise": _flag,
    "degrees": _maybe(_number),
}  # fmt: skip
_FAULT = _one_of("", "watchdog", "kernel", "leak", "machine")
_RUN: dict[str, Check] = {
    "number": _count, "run": _count, "of": _count, "label": _text, "metric": _maybe(_number), "seconds": _seconds,
    "secondary": _map(_figure), "error": _maybe(_text), "out_of_memory": _flag, "conditions": _map(_figure),
    "log": _text, "pruned": _maybe(_number), "estimate": _maybe(_number), "rebased": _flag,
    "provoked": _count, "source": _text, "untimed": _maybe(_seconds), "overrun": _maybe(_seconds),
    "evaluated": _maybe(_seconds), "unconfined": _flag, "fault": _FAULT,
    "trained": _maybe(_seconds), "seed": _maybe(_seed), "holdout": _maybe(_number),
    "station": _text,
}  # fmt: skip
_OTHER_GAIN: dict[str, Check] = {
    "means": _map(_number), "gain": _number, "low": _figure, "high": _figure,
}  # fmt: skip
_SCREEN: dict[str, Check] = {
    "rung": _seconds, "edit": _text, "lead": _maybe(_number), "chance": _maybe(_number),
    "then": _one_of("", "discard", "control", "on"), "reason": _text,
}  # fmt: skip
_STARTED: dict[str, Check] = {
    "number": _count, "run": _count, "of": _count, "label": _text, "pid": _count, "born": _number, "start": _text,
    "log": _text, "expected": _seconds, "rung": _seconds,
}  # fmt: skip
_CANDIDATE: dict[str, Check] = {
    "number": _count, "proposer": _text, "description": _text, "reasoning": _text, "parameters": _map(_scalar),
    "digest": _text, "files": _list(_text), "expected": _maybe(_number), "commit": _commit, "playbook": _text,
    "parts": _list(_count),
}  # fmt: skip
_LEASE: dict[str, Check] = {
    "lease": _text, "station": _text, "commit": _commit, "log": _text, "expected": _seconds,
    "candidate": _maybe(_count), "of": _maybe(_count), "label": _maybe(_text), "seed": _maybe(_seed),
    "rebase": _flag,
}  # fmt: skip
_FACT: Check = lambda value: value is None or _scalar(value)  # noqa: E731
_LEARNED: dict[str, Check] = {"tag": _text, "experiments": _count, "alike": _flag}
_SAID: dict[str, Check] = {"proposer": _text, "number": _count, "reason": _text, "until": _maybe(_time)}
_RUNG = _whole({"training_seconds": _maybe(_seconds), "values": _map(_scalar), "machine": _map(_FACT)})
_JUDGED: dict[str, Check] = {
    "a": _commit, "b": _commit, "means": _map(_number), "gain": _maybe(_number), "low": _maybe(_figure),
    "high": _maybe(_figure), "verdict": _text, "why": _text, "seeds": _list(_seed), "runs": _map(_count),
    "holdout": _maybe(_fields(_OTHER_GAIN)), "cost": _maybe(_fields(_OTHER_GAIN)), "one_seed": _maybe(_text),
    "reservations": _list(_text), "names": _map(_text), "metric": _text,
}  # fmt: skip
_SCORED: dict[str, Check] = {"scored": _count}  # earlier versions did not count them
_JUDGEMENT: Check = lambda value: _whole(_JUDGED)(value) and _fields(_SCORED)(value)  # noqa: E731
_CHANGE: dict[str, Check] = {
    "number": _count, "numbers": _list(_count), "commit": _commit, "description": _text, "constants": _list(_text),
    "set": _list(_text), "verdict": _text, "why": _text, "judged": _maybe(_JUDGEMENT),
}  # fmt: skip
_REST: dict[str, Check] = {
    "commit": _commit, "without": _list(_count), "constants": _list(_text), "descriptions": _list(_text),
    "offered": _flag, "judged": _JUDGEMENT,
}  # fmt: skip
_SMALLER: dict[str, Check] = {"commit": _commit, "without": _list(_count), "offered": _flag}
FIELDS: dict[str, dict[str, Check]] = {
    "session": {
        "tag": _text, "branch": _text, "base": _commit, "metric": _text, "direction": _one_of("minimize", "maximize"),
        "fingerprint": _map(lambda value: value is None or _scalar(value)), "seed": _number, "proposer": _text,
        "pid": _count, "id": _text, "flags": _map(_scalar), "from": _maybe(_text), "learned": _list(_whole(_LEARNED)),
    },
    "resumed": {"pid": _count, "flags": _map(_scalar)},
    "calling": {"number": _count, "model": _text},
    "called": {"number": _count, "model": _text},
    "refused": {"number": _count},
    "waiting": {**_SAID, "until": _time},
    "away": _SAID,
    "back": _SAID,
    "nothing": _SAID,
    "unmended": _SAID,
    "interrupted": _SAID,
    "dropped": {"proposer": _text, "number": _count, "what": _list(_text), "count": _count},
    "preparing": {"number": _count, "base": _commit, "proposer": _text},
    "prepared": {"number": _count, "base": _commit, "proposer": _text, "description": _text},
    "outdated": {"number": _count, "reason": _text},
    "proposed": {**_CANDIDATE, "candidate": _maybe(_count)},
    "revised": _CANDIDATE,
    "repaired": _CANDIDATE,
    "committed": {"number": _count, "commit": _commit},
    "started": _STARTED,
    "running": _STARTED,
    "measured": _RUN,
    "screened": {**_RUN, **_SCREEN},
    "compared": {**_RUN, "lease": _text},
    "faulted": {
        "number": _count, "run": _count, "of": _count, "label": _text, "fault": _FAULT, "reason": _text,
        "seconds": _seconds, "pause": _seconds,
    },
    "judged": {
        "number": _count, "status": _one_of("keep", "discard", "crash"), "reason": _text,
        "evidence": _maybe(_fields(_EVIDENCE)),
    },
    "recorded": {"number": _count, "head": _commit},
    "extended": {"entries": _list(_count), "head": _commit},
    "scored": {"number": _count, "metric": _number, "holdout": _number},
    "ended": {"reason": _text},
    "comparing": {
        "commits": _map(_commit), "files": _list(_text), "count": _count, "seeds": _list(_seed), "rung": _RUNG,
        "varied": _list(_text),
    },
    "joined": {"station": _text, "facts": _map(_FACT)},
    "left": {"station": _text, "reason": _text},
    "candidate": {**_CANDIDATE, "candidate": _count, "base": _count, "merged": _maybe(_count)},
    "leased": _LEASE,
    "returned": {**_RUN, "lease": _text, "candidate": _maybe(_count), "of": _maybe(_count)},
    "lost": {
        "lease": _text, "station": _text, "candidate": _maybe(_count), "of": _maybe(_count), "label": _maybe(_text),
        "reason": _text, "fault": _FAULT, "died": _flag,
    },
    "withdrawn": {
        "lease": _text, "station": _text, "candidate": _maybe(_count), "of": _maybe(_count), "label": _maybe(_text),
        "reason": _text,
    },
    "decided": {
        "candidate": _count, "status": _one_of("keep", "discard", "crash"), "reason": _text,
        "evidence": _maybe(_fields(_EVIDENCE)),
    },
    "confirmed": {
        "a": _commit, "b": _commit, "means": _map(_maybe(_number)), "gain": _maybe(_number), "low": _maybe(_figure),
        "high": _maybe(_figure), "noise": _maybe(_number), "verdict": _maybe(_text), "why": _text,
        "reason": _text, "unfinished": _count, "seeds": _list(_seed), "spread": _maybe(_map(_maybe(_number))),
        "holdout": _maybe(_fields(_OTHER_GAIN)), "cost": _maybe(_fields(_OTHER_GAIN)),
        "runs": _maybe(_map(lambda _: True)), "reservations": _list(_text), **_SCORED,
    },
    "ablated": {"best": _commit, "smaller": _maybe(_fields(_SMALLER))},
    "promoted": {
        "best": _commit, "rung": _RUNG, "conditions": _text, "session": _maybe(_number), "whole": _JUDGEMENT,
        "changes": _maybe(_list(_whole(_CHANGE))), "rest": _maybe(_whole(_REST)),
    },
}  # fmt: skip
