"""What can happen in a session. The journal keeps events, the state is their fold, the views show them.

In the order in which an experiment goes through them:

    session    {tag, branch, base, metric, direction, fingerprint, seed, proposer, pid}   once, first
    resumed    {pid}                                     each later start
    called     {number, model, input_tokens, output_tokens, dollars}   a model was asked, whatever came of it
    away       {proposer, reason, until}                 it cannot be had now; until then another proposes
    back       {proposer}
    nothing    {proposer, number, reason}                it gave nothing that can be measured; another proposes
    proposed   {number, proposer, description, reasoning, parameters, digest, files, expected}
    committed  {number, commit}                          the candidate has its commit; nothing else has changed
    started    {number, run, pid, born, log, expected}   its command runs; {of} where it is the incumbent's, see there
    measured   {number, run, and the fields of Run}; a reused baseline adds {reused}, a run of the incumbent during
               the experiment adds {of}, its number
    revised    {number, commit, digest, description, parameters}   a smaller batch within the same candidate
    repaired   {number, commit, digest, description, parameters, files}   its proposer has mended a crash
    interrupted{number, reason}                          the run is void and is repeated
    judged     {number, status, reason, evidence}        evidence: the fields of Evidence, or null
    recorded   {number, head}                            the branch moves to `head`: incumbent plus rows
    ended      {reason}

Between experiments:

    comparing  {a, b, runs}                              `confirm` begins: two commits
    compared   {side, run, and the fields of Run}        one of its runs; side: "a" or "b"
    confirmed  {a, b, means, runs, gain, low, high, noise, verdict, ...}   what it found (`agent.confirm`)

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
