"""What can happen in a session. The journal keeps events, the state is their fold, the views show them.

In the order in which an experiment goes through them:

    session    {tag, branch, base, metric, direction, fingerprint, seed, proposer, pid}   once, first
    resumed    {pid}                                     each later start
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
    compared   {label, run, and the fields of Run}       disturbed or not: `agent.turns` says which count
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
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """What happened (`kind`), when (Unix time in seconds) and its details."""

    kind: str
    at: float
    data: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps({"event": self.kind, "at": self.at, **self.data}, ensure_ascii=False)
