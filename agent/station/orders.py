"""Orders and answers: plain data that crosses machines, checked and bounded where it arrives."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, TypeVar, cast, get_args

from agent.execution.allowance import INCUMBENT
from agent.journal.experiment import Fault, Run
from agent.protocol.extract import LARGEST_VALUE
from agent.room.sandbox import Mode
from agent.system.names import fault_of_own, fault_of_path

LARGEST_LOG = 2**20  # bytes of an answer's log: its end
LONGEST_TEXT, LONGEST_SIDE = 4000, 100  # characters
MOST_ENTRIES = 1000  # of a mapping or a sequence
MOST_SETTLED = 100_000
LARGEST_NUMBER, MOST_SECONDS = 1e300, 1e9  # as in a journal (`agent.journal.events`)
LARGEST_FILE = 2**24  # characters of a changed file
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
SOURCES = ("", "attested", "from the log", "untraced")

T = TypeVar("T")


class Invalid(ValueError):
    """Data that is no order or answer. `str` gives the field and why."""


@dataclass(frozen=True)
class Leased:
    """An earlier run, with which a run is compared.

    Attributes:
        lease: its lease if this station made it, so that its log is here; else empty.
    """

    run: Run
    lease: str = ""


@dataclass(frozen=True)
class Order:
    """One run that a station is asked for.

    Attributes:
        version: of the program. It must be the same on both sides.
        session: unique ID of the session.
        lease: ID of the run, unique in the session.
        repository: ID of the repository, which names its clone on the station.
        prefix: the workspace's path in the repository; `.` at its top.
        commit: full hash of the commit to run.
        base: full hash of the commit that provides the harness.
        files: path relative to the workspace -> new text, on top of the commit.
        bundle: a git bundle with what the station lacks; None if it lacks nothing.
        snapshot: ID of the prepared data; None if the protocol uses none.
        training_seconds: the training budget; None for the protocol's.
        setup: run the setup commands if they are due.
        untraced: accept a run whose model cannot be traced.
        holdout: score the model on the holdout.
        holdout_command: prints the metric on the holdout after the run; None for none.
        own: runs of the same commit as `allowance.References.own`; `baseline` and `other` likewise.
        side: name of the program that `own` are runs of, for the sentences of the run.
        settled: leases of this session whose answers are in the decider's journal.
    """

    version: str
    session: str
    lease: str
    repository: str
    commit: str
    base: str
    prefix: str = "."
    files: Mapping[str, str] = field(default_factory=dict)
    bundle: bytes | None = None
    snapshot: str | None = None
    training_seconds: float | None = None
    sandbox: Mode = "auto"
    setup: bool = True
    untraced: bool = False
    holdout: bool = False
    holdout_command: str | None = None
    own: tuple[Leased, ...] = ()
    baseline: tuple[Leased, ...] = ()
    other: tuple[Leased, ...] = ()
    side: str = INCUMBENT
    settled: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Return the identity of what is measured. Leases repeat if a session is copied, or restored from a backup."""
        return digest_of(self.commit, self.files)

    def to_dict(self) -> dict[str, Any]:
        return cast(dict[str, Any], _listed(asdict(self)))

    @staticmethod
    def from_dict(data: object) -> Order:
        """Check data that claims to be an order. Raises Invalid."""
        return cast(Order, _built(Order, data, _ORDER))


@dataclass(frozen=True)
class Answer:
    """What became of an order.

    Attributes:
        run: None if the station could not measure.
        log: the end of the run's log.
        failed: why the station could not measure, which says nothing about the candidate; empty if it could.
        lacks: the station lacks commits that the bundle is based on: send a whole one.
        measured: `Order.digest` of what was measured; empty if nothing was.
    """

    lease: str
    station: str
    run: Run | None = None
    log: bytes = b""
    failed: str = ""
    lacks: bool = False
    measured: str = ""

    def to_dict(self) -> dict[str, Any]:
        return cast(dict[str, Any], _listed(asdict(self)))

    @staticmethod
    def from_dict(data: object) -> Answer:
        """Check data that claims to be an answer. Raises Invalid."""
        answer = cast(Answer, _built(Answer, data, _ANSWER))
        if (answer.run is None) != bool(answer.failed):
            raise Invalid("run and failed: exactly one is required")
        return answer


def digest_of(commit: str, files: Mapping[str, str]) -> str:
    """Return the SHA-256 of a commit and of the files on top of it."""
    return hashlib.sha256(json.dumps([commit, dict(files)], sort_keys=True).encode()).hexdigest()


def run_from_dict(data: object) -> Run:
    """Check data that claims to be a run. Raises Invalid."""
    run = cast(Run, _built(Run, data, _RUN))
    if (run.metric is None) != bool(run.error):
        raise Invalid("metric and error: exactly one is required")
    return run


def name(value: object) -> str:
    """Return a value that is usable as the name of a folder. Raises Invalid."""
    if not isinstance(value, str) or not NAME.fullmatch(value) or ".." in value:
        raise Invalid("is not a name of letters, digits, dots and dashes")
    return value


def text(value: object, most: int = LONGEST_TEXT) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise Invalid(f"is not a text of at most {most} characters")
    return value


def _built(kind: type[Any], data: object, checks: Mapping[str, Callable[[Any], Any]]) -> object:
    if not isinstance(data, Mapping):
        raise Invalid(f"{kind.__name__.lower()}: is not an object")
    required = {each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING}
    if wrong := (required - {*data}) | ({*data} - {*checks}):
        raise Invalid(f"{kind.__name__.lower()}: missing or unknown: {', '.join(sorted(map(str, wrong)))[:200]}")
    found = {}
    for key, value in data.items():
        try:
            found[key] = checks[key](value)
        except Invalid as reason:
            raise Invalid(f"{key}: {reason}") from None
    return kind(**found)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST_NUMBER:
        raise Invalid("is not a finite number")
    return float(value)


def _measured(value: object) -> float:
    """Check a metric, or a forecast of it, as `extract` bounds that of a run on this machine."""
    found = _number(value)
    if abs(found) > LARGEST_VALUE:
        raise Invalid("is too large to compare")
    return found


def _seconds(value: object) -> float:
    seconds = _number(value)
    if not abs(seconds) <= MOST_SECONDS:
        raise Invalid("is not a number of seconds")
    return seconds


def _duration(value: object) -> float:
    seconds = _seconds(value)
    if seconds < 0:
        raise Invalid("is negative")
    return seconds


def _seed(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 2**63:
        raise Invalid("is not an integer")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise Invalid("is not true or false")
    return value


def _hash(value: object) -> str:
    if not isinstance(value, str) or not HASH.fullmatch(value):
        raise Invalid("is not a full hash")
    return value


def _optional(check: Callable[[Any], T]) -> Callable[[object], T | None]:
    return lambda value: None if value is None else check(value)


def _one_of(*words: str) -> Callable[[object], Any]:
    def check(value: object) -> Any:
        if value not in words:
            raise Invalid(f"is not one of {', '.join(word or 'an empty text' for word in words)}")
        return value

    return check


def _numbers(value: object) -> dict[str, float]:
    if not isinstance(value, Mapping) or len(value) > MOST_ENTRIES:
        raise Invalid("is not an object of numbers")
    return {text(key, 200): _measured(each) for key, each in value.items()}


def _files(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping) or len(value) > MOST_ENTRIES:
        raise Invalid("is not an object of texts")
    found = {text(path): text(content, LARGEST_FILE) for path, content in value.items()}
    for path in found:
        if reason := fault_of_own(path):
            raise Invalid(f"{path} {reason}")
    return found


def _prefix(value: object) -> str:
    path = text(value)
    if path != "." and (reason := fault_of_path(path) or fault_of_own(path)):
        raise Invalid(f"{path} {reason}")
    return path


def _log(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) > LARGEST_LOG:
        raise Invalid(f"is not a log of at most {LARGEST_LOG // 2**20} MiB")
    return value


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise Invalid("is not bytes")
    return value


def _leased(value: object) -> tuple[Leased, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) > MOST_ENTRIES:
        raise Invalid("is not a list of runs")
    checks = {"run": run_from_dict, "lease": lambda each: name(each) if each else ""}
    return tuple(cast(Leased, _built(Leased, each, checks)) for each in value)


def _settled(value: object) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) > MOST_SETTLED:
        raise Invalid("is not a list of leases")
    return tuple(name(each) for each in value)


def _listed(value: Any) -> Any:
    """Return data with lists for tuples and dictionaries for other mappings, as JSON has them."""
    if isinstance(value, Mapping):
        return {key: _listed(each) for key, each in value.items()}
    return [_listed(each) for each in value] if isinstance(value, list | tuple) else value


_RUN: dict[str, Callable[[Any], Any]] = {
    "metric": _optional(_measured),
    "seconds": _duration,
    "secondary": _numbers,
    "error": _optional(text),
    "out_of_memory": _flag,
    "conditions": _numbers,
    "log": text,
    "pruned": _optional(_number),
    "estimate": _optional(_measured),
    "rebased": _flag,
    "source": _one_of(*SOURCES),
    "untimed": _optional(_seconds),
    "overrun": _optional(_seconds),
    "evaluated": _optional(_seconds),
    "unconfined": _flag,
    "fault": _one_of(*get_args(Fault)),
    "trained": _optional(_seconds),
    "seed": _optional(_seed),
    "holdout": _optional(_measured),
    "station": text,
}
_ANSWER: dict[str, Callable[[Any], Any]] = {
    "lease": name,
    "station": text,
    "run": _optional(run_from_dict),
    "log": _log,
    "failed": text,
    "lacks": _flag,
    "measured": text,
}
_ORDER: dict[str, Callable[[Any], Any]] = {
    "version": text,
    "session": name,
    "lease": name,
    "repository": name,
    "prefix": _prefix,
    "commit": _hash,
    "base": _hash,
    "files": _files,
    "bundle": _optional(_bytes),
    "snapshot": _optional(text),
    "training_seconds": _optional(_number),
    "sandbox": _one_of(*get_args(Mode)),
    "setup": _flag,
    "untraced": _flag,
    "holdout": _flag,
    "holdout_command": _optional(text),
    "own": _leased,
    "baseline": _leased,
    "other": _leased,
    "side": lambda value: text(value, LONGEST_SIDE),
    "settled": _settled,
}
