"""What can happen in a session. The journal keeps events, the state is their fold, the views show them.

In the order in which an experiment goes through them:

    session    {tag, branch, base, metric, direction, fingerprint, seed, proposer, pid, flags, left}   once, first;
               flags: those that it keeps; left: the branch that the person was on
    resumed    {pid, flags}                              each later start
    calling    {number, model, input_tokens, output_tokens, dollars}   a model is asked: the worst that it can cost
    called     {number, model, input_tokens, output_tokens, dollars}   what it has cost, whatever came of it
    refused    {number}                                  it did not take the call, which costs nothing
    waiting    {proposer, reason, until}                 it cannot be had this moment, and is tried again then
    away       {proposer, reason, until}                 it cannot be had now; until then another proposes
    back       {proposer}
    nothing    {proposer, number, reason}                it gave nothing that can be measured; another proposes
    dropped    {proposer, number, what, count}           what an agent did that is not taken; count: of all, what: some
    proposed   {number, proposer, description, reasoning, parameters, digest, files, expected}
    committed  {number, commit}                          the candidate has its commit; nothing else has changed
    started    {number, run, pid, born, log, expected}   its command runs; {of} where it is the incumbent's, see there
    measured   {number, run, and the fields of Run}; a reused baseline adds {reused}, a run of the incumbent during
               the experiment adds {of}, its number
    revised    {number, commit, digest, description, parameters, files}   a smaller batch within the same candidate
    repaired   {number, commit, digest, description, parameters, files}   its proposer has mended a crash
    unmended   {proposer, number, reason}                it could not mend a crash
    interrupted{number, reason}                          the run is void and is repeated
    judged     {number, status, reason, evidence}        evidence: the fields of Evidence, or null
    recorded   {number, head}                            the branch moves to `head`: incumbent plus rows
    ended      {reason}

Between experiments:

    comparing  {commits, files, count}                   fresh runs of several commits begin: label -> commit
    running    {label, run, pid, born, log, expected}    one of them
    compared   {label, run, and the fields of Run}       disturbed or not: `agent.decision.schedule` says which count
    confirmed  {a, b, means, runs, gain, low, high, noise, verdict}   what `confirm` found about two commits
    ablated    {changes, commit, ...}                    what `ablate` found

Shown but never journalled:

    progress   {seconds, expected, line}                 several times a minute while a command runs
    failed     {reason}                                  an error ends the session; `ended` follows
    note       {text}                                    something that a person may want to know; adds {ending}
               where it says what a Ctrl-C began
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
    """What happened (`kind`), when (Unix time in seconds) and its details."""

    kind: str
    at: float
    data: dict[str, Any] = field(default_factory=dict)

    def to_json(self, *, ascii_only: bool = False) -> str:
        """On one line. ascii_only: all else is escaped, also what would steer a terminal."""
        content = {"event": self.kind, "at": self.at, **self.data}
        text = json.dumps(content, ensure_ascii=ascii_only)
        # Half of a character can be written with an escape alone.
        return json.dumps(content) if any("\ud800" <= sign <= "\udfff" for sign in text) else text


def fault_of(event: Event) -> str | None:
    """The field of an event that holds what it cannot hold; None where all that is there may be.

    A journal is read by programs that were not written for one that somebody made up. What is missing is another
    matter: versions before this one left out fields.
    """
    if not isinstance(event.kind, str) or not _time(event.at):
        return "event" if _time(event.at) else "at"
    checks = FIELDS.get(event.kind, {})
    return next((name for name, value in event.data.items() if name in checks and not checks[name](value)), None)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _figure(value: Any) -> bool:
    """A number, which may be infinite."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= 1e300 or (isinstance(value, float) and not math.isfinite(value))


def _number(value: Any) -> bool:
    return _figure(value) and math.isfinite(value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10**9


def _time(value: Any) -> bool:
    """Unix time that a calendar can show."""
    return _number(value) and 0 <= value <= 1e11


def _seconds(value: Any) -> bool:
    return _number(value) and -1e9 <= value <= 1e9


def _commit(value: Any) -> bool:
    """Nothing that git could take for an option or for a range."""
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


_EVIDENCE: dict[str, Check] = {
    "how": _text, "mean": _number, "runs": _count, "incumbent_mean": _number, "incumbent_runs": _count,
    "gain": _number, "noise": _number, "sigmas": _maybe(_figure), "doubt": _maybe(_figure),
}  # fmt: skip
_RUN: dict[str, Check] = {
    "number": _count, "run": _count, "of": _count, "label": _text, "metric": _maybe(_number), "seconds": _seconds,
    "secondary": _map(_figure), "error": _maybe(_text), "out_of_memory": _flag, "conditions": _map(_figure),
    "log": _text, "pruned": _maybe(_number), "estimate": _maybe(_number), "rebased": _flag,
    "fault": _one_of("", "watchdog", "machine"), "trained": _maybe(_seconds),
}  # fmt: skip
_STARTED: dict[str, Check] = {
    "number": _count, "run": _count, "of": _count, "label": _text, "pid": _count, "born": _number, "log": _text,
    "expected": _seconds,
}  # fmt: skip
_CANDIDATE: dict[str, Check] = {
    "number": _count, "proposer": _text, "description": _text, "reasoning": _text, "parameters": _map(_scalar),
    "digest": _text, "files": _list(_text), "expected": _maybe(_number), "commit": _commit,
}  # fmt: skip
_SAID: dict[str, Check] = {"proposer": _text, "number": _count, "reason": _text, "until": _maybe(_time)}
FIELDS: dict[str, dict[str, Check]] = {
    "session": {
        "tag": _text, "branch": _text, "base": _commit, "metric": _text, "direction": _one_of("minimize", "maximize"),
        "fingerprint": _map(lambda value: value is None or _scalar(value)), "seed": _number, "proposer": _text,
        "pid": _count, "flags": _map(_scalar),
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
    "proposed": _CANDIDATE,
    "revised": _CANDIDATE,
    "repaired": _CANDIDATE,
    "committed": {"number": _count, "commit": _commit},
    "started": _STARTED,
    "running": _STARTED,
    "measured": _RUN,
    "compared": _RUN,
    "judged": {
        "number": _count, "status": _one_of("keep", "discard", "crash"), "reason": _text,
        "evidence": _maybe(_fields(_EVIDENCE)),
    },
    "recorded": {"number": _count, "head": _commit},
    "ended": {"reason": _text},
    "comparing": {"commits": _map(_commit), "files": _list(_text), "count": _count},
    "confirmed": {
        "a": _commit, "b": _commit, "means": _map(_maybe(_number)), "gain": _maybe(_number), "low": _maybe(_figure),
        "high": _maybe(_figure), "noise": _maybe(_number), "verdict": _maybe(_text),
    },
}  # fmt: skip
