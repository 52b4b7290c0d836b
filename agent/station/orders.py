"""Orders and answers: plain data that crosses machines, checked and bounded where it arrives."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    FailFast,
    Field,
    PlainValidator,
    Strict,
    TypeAdapter,
    ValidationError,
    with_config,
)

from agent.execution.allowance import INCUMBENT
from agent.journal.experiment import Fault, Run
from agent.protocol.extract import LARGEST_VALUE
from agent.protocol.load import fault_of
from agent.room.sandbox import Mode
from agent.system.names import fault_of_own
from agent.system.patterns import short

LARGEST_LOG = 2**20  # bytes of an answer's log: its end
LONGEST_TEXT, LONGEST_KEY, LONGEST_SIDE = 4000, 200, 100  # characters
MOST_ENTRIES = 1000  # of a mapping or a sequence
MOST_SETTLED = 100_000
LARGEST_NUMBER, MOST_SECONDS = 1e300, 1e9  # as in a journal (`agent.journal.events`)
LARGEST_FILE = 2**24  # characters of a changed file
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

T = TypeVar("T")


class Invalid(ValueError):
    """Data that is no order or answer. `str` gives the field and why."""


def digest_of(commit: str, files: Mapping[str, str]) -> str:
    """Return the SHA-256 of a commit and of the files on top of it."""
    return hashlib.sha256(json.dumps([commit, dict(files)], sort_keys=True).encode()).hexdigest()


def run_from_dict(data: object) -> Run:
    """Check data that claims to be a run. Raises Invalid."""
    found = _checked(_RUN, data)
    run = Run(**{each: getattr(found, each) for each in found.model_fields_set})
    if (run.metric is None) != bool(run.error):
        raise Invalid("metric and error: exactly one is required")
    return run


def name(value: object) -> str:
    """Return a value that is usable as the name of a folder. Raises Invalid."""
    if not isinstance(value, str) or not NAME.fullmatch(value) or ".." in value:
        raise Invalid("must be a name of letters, digits, dots and dashes")
    return value


def _hash(value: str) -> str:
    if not HASH.fullmatch(value):
        raise Invalid("must be a full hash")
    return value


def _own_path(path: str) -> str:
    if reason := fault_of_own(path):
        raise Invalid(f"{short(path)} {reason}")
    return path


def _of(kind: type[Any] | tuple[type[Any], ...], most: int, what: str) -> BeforeValidator:
    """Check the kind and size of a value before what is in it. Pydantic counts no text with lone surrogates."""

    def check(value: Any) -> Any:
        if not isinstance(value, kind) or len(value) > most:
            raise Invalid(f"must be {what.format(most)}")
        return value

    return BeforeValidator(check)


def _within(most: float) -> Any:
    return Field(strict=True, allow_inf_nan=False, ge=-most, le=most)


_OBJECT = _of(dict, MOST_ENTRIES, "an object of at most {:,} entries")  # an instance would be taken unchecked
_LIST = "a list of at most {:,} entries"
_TEXT = "a text of at most {:,} characters"

Flag = Annotated[bool, Strict()]
Text = Annotated[str, _of(str, LONGEST_TEXT, _TEXT)]
Content = Annotated[str, _of(str, LARGEST_FILE, _TEXT)]
Name = Annotated[str, BeforeValidator(name)]
Hash = Annotated[Text, AfterValidator(_hash)]
OwnPath = Annotated[Text, AfterValidator(_own_path)]
Number = Annotated[float, _within(LARGEST_NUMBER)]
Measured = Annotated[float, _within(LARGEST_VALUE)]  # a metric, or a forecast of it, as `extract` bounds one from here
Seconds = Annotated[float, _within(MOST_SECONDS)]
Numbers = Annotated[dict[Annotated[str, _of(str, LONGEST_KEY, _TEXT)], Measured], _OBJECT]


class _Run(BaseModel, extra="forbid"):
    """The bounds of each field of a Run. What is left out gets the default of Run."""

    metric: Measured | None
    seconds: Annotated[Seconds, Field(ge=0)]
    secondary: Numbers = {}
    error: Text | None = None
    out_of_memory: Flag = False
    conditions: Numbers = {}
    log: Text = ""
    pruned: Number | None = None
    estimate: Measured | None = None
    rebased: Flag = False
    source: Literal["", "attested", "from the log", "untraced"] = ""
    untimed: Seconds | None = None
    overrun: Seconds | None = None
    evaluated: Seconds | None = None
    unconfined: Flag = False
    fault: Fault = ""
    trained: Seconds | None = None
    seed: Annotated[int, Field(strict=True, ge=-(2**63), le=2**63)] | None = None
    holdout: Measured | None = None
    station: Text = ""


Checked = Annotated[Run, PlainValidator(run_from_dict)]


@with_config(extra="forbid")
@dataclass(frozen=True)
class Leased:
    """An earlier run, with which a run is compared.

    Attributes:
        lease: its lease if this station made it, so that its log is here; else empty.
    """

    run: Checked
    lease: Annotated[str, BeforeValidator(lambda value: value if value == "" else name(value))] = ""


Runs = Annotated[tuple[Annotated[Leased, _OBJECT], ...], FailFast(), _of((list, tuple), MOST_ENTRIES, _LIST)]


@with_config(extra="forbid")
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

    version: Text
    session: Name
    lease: Name
    repository: Name
    commit: Hash
    base: Hash
    prefix: OwnPath = "."
    files: Annotated[Mapping[OwnPath, Content], _OBJECT] = field(default_factory=dict)
    bundle: Annotated[bytes, Strict()] | None = None
    snapshot: Text | None = None
    training_seconds: Number | None = None
    sandbox: Mode = "auto"
    setup: Flag = True
    untraced: Flag = False
    holdout: Flag = False
    holdout_command: Text | None = None
    own: Runs = ()
    baseline: Runs = ()
    other: Runs = ()
    side: Annotated[str, _of(str, LONGEST_SIDE, _TEXT)] = INCUMBENT
    settled: Annotated[tuple[Name, ...], FailFast(), _of((list, tuple), MOST_SETTLED, _LIST)] = ()

    @property
    def digest(self) -> str:
        """Return the identity of what is measured. Leases repeat if a session is copied, or restored from a backup."""
        return digest_of(self.commit, self.files)

    def to_dict(self) -> dict[str, Any]:
        return cast(dict[str, Any], _listed(asdict(self)))

    @staticmethod
    def from_dict(data: object) -> Order:
        """Check data that claims to be an order. Raises Invalid."""
        return _checked(_ORDER, data)


@with_config(extra="forbid")
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

    lease: Name
    station: Text
    run: Checked | None = None
    log: Annotated[bytes, _of(bytes, LARGEST_LOG, "a log of at most {:,} bytes")] = b""
    failed: Text = ""
    lacks: Flag = False
    measured: Text = ""

    def to_dict(self) -> dict[str, Any]:
        return cast(dict[str, Any], _listed(asdict(self)))

    @staticmethod
    def from_dict(data: object) -> Answer:
        """Check data that claims to be an answer. Raises Invalid."""
        answer = _checked(_ANSWER, data)
        if (answer.run is None) != bool(answer.failed):
            raise Invalid("run and failed: exactly one is required")
        return answer


def _checked(kind: TypeAdapter[T], data: object) -> T:
    try:
        return kind.validate_python(data)
    except ValidationError as error:
        raise Invalid(fault_of(error, most=1)) from None


def _listed(value: Any) -> Any:
    """Return data with lists for tuples and dictionaries for other mappings, as JSON has them."""
    if isinstance(value, Mapping):
        return {key: _listed(each) for key, each in value.items()}
    return [_listed(each) for each in value] if isinstance(value, list | tuple) else value


_RUN = TypeAdapter(Annotated[_Run, _OBJECT])
_ORDER = TypeAdapter(Annotated[Order, _OBJECT])
_ANSWER = TypeAdapter(Annotated[Answer, _OBJECT])
