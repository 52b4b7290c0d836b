"""protocol.json as typed models: what may change, how to run, what to measure, how to record.

The schema is public and closed: an unknown field is refused. Every field says through `enforced` or `information`
what the program does about it; `autoresearch protocol check` prints that.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from agent.system.names import (
    PROTOCOL,
    STATE,
    fault_of_branch,
    fault_of_own,
    fault_of_path,
    may_be_committed,
)
from agent.system.patterns import LONGEST_GLOB, fault_of_expression, short
from agent.system.patterns import matches as matches

FILENAME = PROTOCOL
RESULT_COLUMNS = ("commit", "memory_gb", "status", "description")
LARGEST_EXAMPLE = 100_000  # characters
LONGEST_NAME, LONGEST_COMMAND = 100, 10_000
MOST_GLOBS, MOST_METRICS = 1000, 100
LONGEST_SECONDS = 365 * 24 * 3600.0
LARGEST_COUNT = 10**12


def enforced(effect: str, **kwargs: Any) -> Any:
    return Field(description=effect, json_schema_extra={"enforced": True}, **kwargs)


def information(text: str, **kwargs: Any) -> Any:
    return Field(description=text, json_schema_extra={"enforced": False}, **kwargs)


class ProtocolModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, allow_inf_nan=False)


def _checked_path(path: str) -> str:
    return _checked(path, fault_of_own(path))


def _checked_glob(glob: str) -> str:
    too_long = f"is longer than {LONGEST_GLOB} characters" if len(glob) > LONGEST_GLOB else None
    return _checked(glob, too_long or fault_of_path(glob))


def _checked_own_glob(glob: str) -> str:
    return _checked(_checked_glob(glob), fault_of_own(glob))


def _checked_name(name: str) -> str:
    """It is a column's title and stands in every line: one line of plain text."""
    if len(name) > LONGEST_NAME or any(unicodedata.category(sign)[0] == "C" for sign in name):
        raise ValueError(f"{short(name)} has to be one line of at most {LONGEST_NAME} plain characters")
    return name


def _checked_command(command: str) -> str:
    if len(command) > LONGEST_COMMAND or "\0" in command or not _is_unicode(command):
        raise ValueError(f"has to be text of at most {LONGEST_COMMAND} characters, without NUL")
    return command


def _checked(text: str, fault: str | None) -> str:
    if fault is not None:
        raise ValueError(f"{short(text)} {fault}")
    return text


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")
    return value


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


InsidePath = Annotated[str, AfterValidator(_checked_path)]
Glob = Annotated[str, AfterValidator(_checked_own_glob)]
ForbiddenGlob = Annotated[str, AfterValidator(_checked_glob)]  # .git/** may be forbidden, too
Name = Annotated[str, AfterValidator(_checked_name)]
Command = Annotated[str, AfterValidator(_checked_command)]
Seconds = Annotated[float, BeforeValidator(_no_bool), Field(gt=0, le=LONGEST_SECONDS)]
Count = Annotated[int, BeforeValidator(_no_bool), Field(gt=0, le=LARGEST_COUNT)]


class Repo(ProtocolModel):
    owner: str | None = information("who published the protocol", default=None)
    name: str | None = information("where it was published", default=None)
    default_branch: str | None = information("its main branch", default=None)
    clone_url: str | None = information("where to clone it from", default=None)


class Meta(ProtocolModel):
    archetype: Literal[
        "ml_train",
        "rl_loop",
        "benchmark_opt",
        "build_test",
        "solver_compete",
        "pipeline_job",
        "inference_serving",
        "unknown",
    ] = enforced("ml_train: the prepared data snapshot is part of the fingerprint")
    eligibility: Literal["eligible", "needs_harness", "ineligible"] = enforced("anything but eligible is refused")
    repo: Repo | None = information("where the protocol comes from", default=None)
    purpose_statement: str | None = information("shown to the person", default=None)
    created_at: str | None = information("when it was written", default=None)
    updated_at: str | None = information("when it was changed", default=None)
    protocol_bundle_id: str | None = information("its name in a catalogue", default=None)


class Constraints(ProtocolModel):
    no_new_dependencies: bool = information(
        "kept through forbiddenGlobs: name the dependency files there", default=False
    )
    network_policy: Literal["sandbox", "full", "offline", "unknown"] = enforced(
        "anything but full: training has no network, as far as the system can keep it from it (--sandbox)",
        default="full",
    )
    network_allowlist: list[str] | None = information(
        "1.1; hosts cannot be told apart: the network stays open, and --sandbox strict refuses", default=None
    )


class SandboxSettings(ProtocolModel):
    image: str | None = information("not enforced: runs are processes, not containers", default=None)
    cpus: float | None = information("not enforced", default=None)
    memory: str | None = information("not enforced", default=None)
    pids: Count | None = information("not enforced", default=None)


class SetupCommand(ProtocolModel):
    kind: Literal["pip", "uv", "npm", "pnpm", "yarn", "cargo", "make", "bash", "sh"] = enforced(
        "the program that runs; bash and sh are given `-c`"
    )
    args: list[Command] = enforced("its arguments, each quoted")


class Environment(ProtocolModel):
    os_hints: list[str] = information("where it was made for", default=[])
    package_managers: list[str] = information("what its commands need", default=[])
    setup_commands: list[Command | SetupCommand] = enforced(
        "run in order before the first run, once per workspace (--no-setup leaves them out)", default=[]
    )
    asset_prep: list[str] = information("told to the person", default=[])
    constraints: Constraints = information("limits of a run", default=Constraints())
    sandbox: SandboxSettings | None = information("1.1; not enforced", default=None)


class MutableSurface(ProtocolModel):
    allowed_globs: list[Glob] = enforced("only files that match enter a candidate", min_length=1, max_length=MOST_GLOBS)
    forbidden_globs: list[ForbiddenGlob] = enforced(
        "files that match never change: no candidate has another one of them", default=[], max_length=MOST_GLOBS
    )
    allowed_kinds: list[Literal["code_edit", "config_edit"]] = information(
        "what proposers are told; the globs are what is enforced", default=["code_edit"]
    )

    def allows(self, path: str) -> bool:
        """Whether a candidate may change `path` (relative to the workspace, forward slashes).

        However wide the globs are: never the protocol itself, the program's state, or a name that git refuses.
        """
        return (
            path != FILENAME
            and may_be_committed(path)
            and any(matches(path, glob) for glob in self.allowed_globs)
            and not any(matches(path, glob) for glob in self.forbidden_globs)
        )


class ImmutableHarness(ProtocolModel):
    paths: list[Glob] = enforced(
        "never changed by a candidate, and neither are the modules here that they import, unless allowedGlobs tell "
        "them apart; a run finds them as they were committed, and they are part of the fingerprint",
        default=[],
        max_length=MOST_GLOBS,
    )
    rationale: str | None = information("why", default=None)


class StopCondition(ProtocolModel):
    type: Literal["wall_clock", "max_steps", "epochs", "until_metric", "fixed_suite"] = information(
        "how the command itself decides to end"
    )
    training_seconds_budget: Seconds | None = enforced(
        "handed to the command as AUTORESEARCH_TRAINING_SECONDS (--training-seconds)", default=None
    )
    max_steps: Count | None = information("the command's own limit", default=None)
    epochs: Count | None = information("the command's own limit", default=None)
    target_metric: float | None = information("the command's own limit; --target stops the session", default=None)
    exclude_compilation_from_budget: bool | None = information("the command's own clock decides", default=None)
    notes: str | None = information("remarks", default=None)


class Determinism(ProtocolModel):
    seed_policy: Literal["optional", "required"] = information("told to proposers", default="optional")
    notes: str | None = information("remarks", default=None)


class Execution(ProtocolModel):
    command: Command = enforced("run by the shell, output to run.log", min_length=1)
    cwd: InsidePath = enforced("where, relative to the workspace", default=".")
    stop_condition: StopCondition | None = information("when a run ends", default=None)
    hard_timeout_seconds: Seconds = enforced("a run that takes longer is killed with all its children", default=900)
    determinism: Determinism = information("about seeds", default=Determinism())


class Extract(ProtocolModel):
    """How a number is found. Which further fields a kind takes stands in `_FIELDS`."""

    kind: Literal["regex", "json_pointer", "junit", "pytest_summary", "custom"] = enforced(
        "how the number is found; custom is refused: print a line and use regex"
    )
    pattern: str | None = enforced(
        "regex: the number is group 1; it ends its line, or the pattern goes on to the line's end", default=None
    )
    pointer: str | None = enforced(
        "json_pointer: RFC 6901, into `path` or the log's last JSON line", default=None, max_length=LONGEST_COMMAND
    )
    path: InsidePath | None = enforced("json_pointer, junit: the file the command writes", default=None)
    count: Literal["passed", "failed", "errors", "skipped", "total", "seconds"] = enforced(
        "junit, pytest_summary: which figure counts", default="passed"
    )
    example_stdout: str | None = enforced(
        "the extraction is tried on it when the protocol is loaded", default=None, max_length=LARGEST_EXAMPLE
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        needed = {"regex": "pattern", "json_pointer": "pointer", "junit": "path"}.get(self.kind)
        if needed and getattr(self, needed) is None:
            raise ValueError(f"kind {self.kind} needs the field {needed}")
        if self.kind == "custom":
            raise ValueError("kind custom cannot be run; let the command print a line and use kind regex")
        if self.pattern is not None:
            fault = fault_of_expression(self.pattern)
            if fault is not None:
                raise ValueError(f"the pattern {short(self.pattern)} {fault}")
        if self.pointer is not None and self.pointer and not self.pointer.startswith("/"):
            raise ValueError(f"the pointer {short(self.pointer)} must be empty or start with '/'")
        return self


class Metric(ProtocolModel):
    name: Name = enforced("its column and its word everywhere", min_length=1)
    direction: Literal["minimize", "maximize"] = enforced("which way is better")
    extract: Extract = enforced("how it is read")


class BaselinePolicy(ProtocolModel):
    establish_on_hardware: bool = enforced("the baseline is always measured on this machine", default=True)
    same_data_snapshot: bool = enforced("a session refuses to continue on other data", default=True)
    baseline_notes: str | None = information("remarks", default=None)


class Measurement(ProtocolModel):
    primary_metric: Metric = enforced("what a candidate is judged by")
    secondary_metrics: list[Metric] = enforced("recorded with every run", default=[], max_length=MOST_METRICS)
    baseline_policy: BaselinePolicy = enforced("how the baseline is made", default=BaselinePolicy())


class ResultsLog(ProtocolModel):
    format: Literal["tsv", "csv", "jsonl"] = enforced("the form of the results", default="tsv")
    path: InsidePath = enforced("where, relative to the workspace", default="results.tsv")
    columns: list[Name] | None = enforced("its columns, in this order", default=None, max_length=MOST_METRICS)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if STATE in (part.casefold() for part in PurePosixPath(self.path).parts):
            raise ValueError(f"the path {short(self.path)} lies in {STATE}, which git does not keep")
        return self


class GitWorkflow(ProtocolModel):
    branch_pattern: str = enforced("the session's branch; <tag> is replaced", default="autoresearch/<tag>")
    commit_scope: str | None = information(
        "kept anyway: only candidate files and the results are committed", default=None
    )
    staging_example: str | None = information("the program stages by path itself", default=None)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "<tag>" not in self.branch_pattern:
            raise ValueError("branchPattern needs <tag> in it, as in autoresearch/<tag>")
        fault = fault_of_branch(self.branch_pattern.replace("<tag>", "tag"))
        if fault is not None:
            raise ValueError(f"branchPattern {short(self.branch_pattern)} {fault}")
        return self


class Provenance(ProtocolModel):
    results_log: ResultsLog = enforced("the table of experiments", default=ResultsLog())
    git_workflow: GitWorkflow = enforced("where it is kept", default=GitWorkflow())
    baseline_artifact_path: InsidePath = enforced(
        "where the baseline's log is kept", default=".autoresearch/create/baseline_run.log"
    )


class Safety(ProtocolModel):
    oom_policy: Literal["reduce_batch", "fail", "unknown"] = enforced(
        "reduce_batch: halve the device batch and run again, at most twice; else out of memory is a crash",
        default="unknown",
    )
    crash_status: Literal["crash", "discard", "retry"] = enforced(
        "crash, discard: revert and go on; retry: once more first; the row says crash", default="crash"
    )


class Autonomy(ProtocolModel):
    no_ask_human_to_continue: bool = enforced("the loop never asks, whatever this says", default=True)


class AgentRules(ProtocolModel):
    simplicity_criterion: bool = enforced(
        "what is simpler, or needs clearly less memory, is kept where nothing is lost; proposers are told",
        default=False,
    )
    autonomy: Autonomy = enforced("about questions", default=Autonomy())
    experiment_timeout_notes: str | None = information("hardTimeoutSeconds is what is enforced", default=None)
    log_redirect_example: str | None = information("the program redirects by itself", default=None)


class MiningLoop(ProtocolModel):
    max_trials: Count | None = enforced("like --max-experiments", default=None)
    max_session_wall_seconds: Seconds | None = enforced("like --max-hours", default=None)
    max_consecutive_non_improvements: Count | None = enforced("like --patience", default=None)
    stop_after_successful_pr: bool | None = information("no pull requests are made", default=None)
    on_chain_project_id: str | int | None = information("nothing is sent anywhere", default=None)


class Protocol(ProtocolModel):
    schema_kind: Literal["protocol", "discoveryDraft"] = enforced("a discoveryDraft is refused: it is unfinished")
    protocol_version: Literal["1.0", "1.1"] = enforced("fields of 1.1 are refused in 1.0")
    meta: Meta = enforced("what it is")
    environment: Environment = enforced("what a run needs", default=Environment())
    mutable_surface: MutableSurface = enforced("what may change")
    immutable_harness: ImmutableHarness = enforced("what must not", default=ImmutableHarness())
    execution: Execution = enforced("how to run")
    measurement: Measurement = enforced("what to measure")
    provenance: Provenance = enforced("how to record", default=Provenance())
    safety: Safety = enforced("when a run fails", default=Safety())
    agent_rules: AgentRules = information("for proposers", default=AgentRules())
    archetype_extensions: dict[str, dict[str, Any]] = information("remarks of the archetype", default={})
    mining_loop: MiningLoop = enforced("when to stop", default=MiningLoop())

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.protocol_version == "1.0":
            newer = {
                "environment.constraints.networkAllowlist": self.environment.constraints.network_allowlist is not None,
                "environment.sandbox": self.environment.sandbox is not None,
                "environment.setupCommands as objects": any(
                    isinstance(command, SetupCommand) for command in self.environment.setup_commands
                ),
            }
            for name, used in newer.items():
                if used:
                    raise ValueError(f'{name} needs "protocolVersion": "1.1"')
        known = {*RESULT_COLUMNS, self.metric.name, *(m.name for m in self.measurement.secondary_metrics)}
        for column in self.columns:
            if column not in known:
                raise ValueError(
                    f"provenance.resultsLog.columns: {column!r} is not known; possible here: {', '.join(sorted(known))}"
                )
        for field, path in self.written:
            taken = self._taken(path)
            if taken is not None:
                raise ValueError(f"{field}: {short(path)} would be written over: it is {taken}")
        first, second = (PurePosixPath(path) for _, path in self.written)
        if first == second or first in second.parents or second in first.parents:
            raise ValueError("provenance.baselineArtifactPath: the results are written there, or beside it")
        return self

    @property
    def written(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """The files that the program writes where the protocol says: field and path."""
        return (
            ("provenance.resultsLog.path", self.provenance.results_log.path),
            ("provenance.baselineArtifactPath", self.provenance.baseline_artifact_path),
        )

    def _taken(self, path: str) -> str | None:
        """What a file is already that the program would write; None where it is nothing."""
        path = PurePosixPath(path).as_posix()
        if path in (".", FILENAME):
            return "the protocol's own file" if path == FILENAME else "the workspace itself"
        if any(matches(path, glob) for glob in self.immutable_harness.paths):
            return "part of the harness"
        if any(PurePosixPath(glob).as_posix() == path for glob in self.mutable_surface.allowed_globs):
            return "a file that candidates change"
        if any(PurePosixPath(glob).as_posix() == path for glob in self.mutable_surface.forbidden_globs):
            return "a file that must not change"
        if any(source.path is not None and PurePosixPath(source.path).as_posix() == path for source in self._sources):
            return "what the command writes"
        return None

    @property
    def _sources(self) -> Iterator[Extract]:
        yield from (metric.extract for metric in (self.metric, *self.measurement.secondary_metrics))

    @property
    def metric(self) -> Metric:
        return self.measurement.primary_metric

    @property
    def columns(self) -> list[str]:
        """The columns of the results, the family's five unless the protocol names others."""
        return self.provenance.results_log.columns or [
            "commit",
            self.metric.name,
            "memory_gb",
            "status",
            "description",
        ]

    @property
    def training_seconds(self) -> float | None:
        stop = self.execution.stop_condition
        return stop.training_seconds_budget if stop else None

    @property
    def digest(self) -> str:
        """SHA-256 of the content: layout and key order do not count."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()
