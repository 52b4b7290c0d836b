"""The models of protocol.json: what may change, how to run, what to measure, how to record.

The schema is public and closed: unknown fields are rejected. Every field states through `enforced` or `information`
what the program does with it; `autoresearch protocol check` and docs/protocol.md show these texts.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
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
from agent.system.patterns import LONGEST_GLOB, fault_of_expression, matches, short

RESULT_COLUMNS = ("commit", "memory_gb", "status", "description")
NO_METRICS = ("commit", "status", "description")  # columns that cannot be a metric's own
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
    """Validate a metric's name, which is a column header and part of progress lines."""
    if len(name) > LONGEST_NAME or any(unicodedata.category(sign)[0] == "C" for sign in name):
        raise ValueError(f"{short(name)} must be one line of at most {LONGEST_NAME} printable characters")
    return name


def _checked_command(command: str) -> str:
    if len(command) > LONGEST_COMMAND or "\0" in command or not _is_unicode(command):
        raise ValueError(f"must be text of at most {LONGEST_COMMAND} characters, without NUL")
    return command


def _checked(text: str, fault: str | None) -> str:
    if fault is not None:
        raise ValueError(f"{short(text)} {fault}")
    return text


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


InsidePath = Annotated[str, AfterValidator(_checked_path)]
Glob = Annotated[str, AfterValidator(_checked_own_glob)]
ForbiddenGlob = Annotated[str, AfterValidator(_checked_glob)]  # may also name .git/**
Name = Annotated[str, AfterValidator(_checked_name)]
Command = Annotated[str, AfterValidator(_checked_command)]
Seconds = Annotated[float, BeforeValidator(_no_bool), Field(gt=0, le=LONGEST_SECONDS)]
Count = Annotated[int, BeforeValidator(_no_bool), Field(gt=0, le=LARGEST_COUNT)]


class Repo(ProtocolModel):
    owner: str | None = information("the owner of the repository", default=None)
    name: str | None = information("the repository's name", default=None)
    default_branch: str | None = information("the repository's default branch", default=None)
    clone_url: str | None = information("where to clone the repository from", default=None)


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
    eligibility: Literal["eligible", "needs_harness", "ineligible"] = enforced("only eligible protocols are run")
    repo: Repo | None = information("the repository that the protocol was written for", default=None)
    purpose_statement: str | None = information("passed on to models and agents", default=None)
    created_at: str | None = information("when the protocol was written", default=None)
    updated_at: str | None = information("when the protocol was last changed", default=None)
    protocol_bundle_id: str | None = information("the protocol's name in a catalog", default=None)


class Constraints(ProtocolModel):
    no_new_dependencies: bool = information(
        "add the dependency files to forbiddenGlobs to enforce it; `uv run train.py`, unlike `uv run python train.py`, "
        "also installs what a `# /// script` block names",
        default=False,
    )
    network_policy: Literal["sandbox", "full", "offline", "unknown"] = enforced(
        "full: training has network access; other values: none, as far as the sandbox can block it (--sandbox)",
        default="full",
    )
    network_allowlist: list[str] | None = information(
        "1.1; single hosts cannot be allowed: the network stays open, and --sandbox strict refuses to start",
        default=None,
    )


class SandboxSettings(ProtocolModel):
    image: str | None = information("not enforced: runs are processes, not containers", default=None)
    cpus: float | None = information("not enforced", default=None)
    memory: str | None = information("not enforced", default=None)
    pids: Count | None = information("not enforced", default=None)


class SetupCommand(ProtocolModel):
    kind: Literal["pip", "uv", "npm", "pnpm", "yarn", "cargo", "make", "bash", "sh"] = enforced(
        "the program to run; bash and sh get `-c` before the arguments"
    )
    args: list[Command] = enforced("the program's arguments, each quoted for the shell")


class Environment(ProtocolModel):
    os_hints: list[str] = information("operating systems that the protocol was written for", default=[])
    package_managers: list[str] = information("package managers that the commands need", default=[])
    setup_commands: list[Command | SetupCommand] = enforced(
        "run in order before the first run, once per workspace (--no-setup skips them)", default=[]
    )
    asset_prep: list[str] = information("for readers of the protocol", default=[])
    constraints: Constraints = information("limits of a run", default=Constraints())
    sandbox: SandboxSettings | None = information("1.1; not enforced", default=None)


class MutableSurface(ProtocolModel):
    allowed_globs: list[Glob] = enforced(
        "only matching files can be part of a candidate", min_length=1, max_length=MOST_GLOBS
    )
    forbidden_globs: list[ForbiddenGlob] = enforced(
        "matching files never change: no candidate may modify, add or remove one", default=[], max_length=MOST_GLOBS
    )
    allowed_kinds: list[Literal["code_edit", "config_edit"]] = information(
        "for readers of the protocol; only the globs are enforced", default=["code_edit"]
    )

    def allows(self, path: str) -> bool:
        """Return whether a candidate may change `path` (relative to the workspace, forward slashes).

        The protocol itself, the program's state and names that git rejects never may, whatever the globs are.
        """
        return (
            path != PROTOCOL
            and may_be_committed(path)
            and any(matches(path, glob) for glob in self.allowed_globs)
            and not any(matches(path, glob) for glob in self.forbidden_globs)
        )


class ImmutableHarness(ProtocolModel):
    paths: list[Glob] = enforced(
        "protected: no candidate may change them, or modules of the workspace that they import unless an allowed glob "
        "names those exactly or matches no harness file; runs get the committed versions, which are part of the "
        "fingerprint",
        default=[],
        max_length=MOST_GLOBS,
    )
    rationale: str | None = information("why these files are protected", default=None)


class StopCondition(ProtocolModel):
    type: Literal["wall_clock", "max_steps", "epochs", "until_metric", "fixed_suite"] = information(
        "how the command decides when to stop"
    )
    training_seconds_budget: Seconds | None = enforced(
        "passed to the command as AUTORESEARCH_TRAINING_SECONDS (--training-seconds)", default=None
    )
    max_steps: Count | None = information("the command's own limit", default=None)
    epochs: Count | None = information("the command's own limit", default=None)
    target_metric: float | None = information("the command's own limit; use --target to stop the session", default=None)
    exclude_compilation_from_budget: bool | None = information("decided by the command's own clock", default=None)
    notes: str | None = information("notes", default=None)


class Determinism(ProtocolModel):
    seed_policy: Literal["optional", "required"] = information("for readers of the protocol", default="optional")
    notes: str | None = information("notes", default=None)


class Execution(ProtocolModel):
    command: Command = enforced("run by the shell, with output redirected to run.log", min_length=1)
    cwd: InsidePath = enforced("working directory of the command, relative to the workspace", default=".")
    stop_condition: StopCondition | None = information("when a run is complete", default=None)
    hard_timeout_seconds: Seconds = enforced(
        "time limit of a run: when it expires, the process tree is killed", default=900
    )
    determinism: Determinism = information("how seeds are handled", default=Determinism())


class Extract(ProtocolModel):
    """The rule that extracts a metric from the log or a file. `kind` determines which other fields apply."""

    kind: Literal["regex", "json_pointer", "junit", "pytest_summary", "custom"] = enforced(
        "how the number is found; custom is not supported: print a line and use regex"
    )
    pattern: str | None = enforced(
        "regex: group 1 is the number; it must end its line, unless the pattern matches to the end of the line",
        default=None,
    )
    pointer: str | None = enforced(
        "json_pointer: an RFC 6901 pointer into `path`, or into the last line of JSON in the log",
        default=None,
        max_length=LONGEST_COMMAND,
    )
    path: InsidePath | None = enforced(
        "json_pointer, junit: the file that the command writes, relative to execution.cwd", default=None
    )
    count: Literal["passed", "failed", "errors", "skipped", "total", "seconds"] = enforced(
        "junit, pytest_summary: the figure to use as the metric", default="passed"
    )
    example_stdout: str | None = enforced(
        "the extraction rule is tested on it when the protocol is loaded", default=None, max_length=LARGEST_EXAMPLE
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        needed = {"regex": "pattern", "json_pointer": "pointer", "junit": "path"}.get(self.kind)
        if needed and getattr(self, needed) is None:
            raise ValueError(f"kind {self.kind} requires the field {needed}")
        if self.kind == "custom":
            raise ValueError("kind custom is not supported; let the command print a line, and use kind regex")
        if self.pattern is not None:
            fault = fault_of_expression(self.pattern)
            if fault is not None:
                raise ValueError(f"the pattern {short(self.pattern)} {fault}")
        if self.pointer is not None and self.pointer and not self.pointer.startswith("/"):
            raise ValueError(f"the pointer {short(self.pointer)} must be empty or start with '/'")
        return self


class Metric(ProtocolModel):
    name: Name = enforced("the metric's name, in the results and everywhere else", min_length=1)
    direction: Literal["minimize", "maximize"] = enforced("whether lower or higher is better")
    extract: Extract = enforced("how the metric is extracted")


class BaselinePolicy(ProtocolModel):
    establish_on_hardware: bool = enforced("the baseline is always measured on this machine", default=True)
    same_data_snapshot: bool = enforced("a session does not continue on other data", default=True)
    baseline_notes: str | None = information("notes", default=None)


class Measurement(ProtocolModel):
    primary_metric: Metric = enforced("the metric that candidates are judged by")
    secondary_metrics: list[Metric] = enforced("metrics recorded with every run", default=[], max_length=MOST_METRICS)
    baseline_policy: BaselinePolicy = enforced("how the baseline is measured", default=BaselinePolicy())


class ResultsLog(ProtocolModel):
    format: Literal["tsv", "csv", "jsonl"] = enforced("file format of the results", default="tsv")
    path: InsidePath = enforced("path of the results, relative to the workspace", default="results.tsv")
    columns: list[Name] | None = enforced(
        "columns of the results, in this order", default=None, max_length=MOST_METRICS
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if STATE in (part.casefold() for part in PurePosixPath(self.path).parts):
            raise ValueError(f"the path {short(self.path)} is in {STATE}, which git ignores")
        return self


class GitWorkflow(ProtocolModel):
    branch_pattern: str = enforced(
        "name of the session's branch; <tag> is replaced by the tag", default="autoresearch/<tag>"
    )
    commit_scope: str | None = information("always only candidate files and the results are committed", default=None)
    staging_example: str | None = information("the program stages files by path", default=None)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "<tag>" not in self.branch_pattern:
            raise ValueError("branchPattern must contain <tag>, as in autoresearch/<tag>")
        fault = fault_of_branch(self.branch_pattern.replace("<tag>", "tag"))
        if fault is not None:
            raise ValueError(f"branchPattern {short(self.branch_pattern)} {fault}")
        return self


class Provenance(ProtocolModel):
    results_log: ResultsLog = enforced("the table of experiments", default=ResultsLog())
    git_workflow: GitWorkflow = enforced("how git records it", default=GitWorkflow())
    baseline_artifact_path: InsidePath = enforced(
        "path of the baseline's log", default=".autoresearch/create/baseline_run.log"
    )


class Safety(ProtocolModel):
    oom_policy: Literal["reduce_batch", "fail", "unknown"] = enforced(
        "reduce_batch: halve the device batch size and repeat the run, at most twice; otherwise it counts as a crash",
        default="unknown",
    )
    crash_status: Literal["crash", "discard", "retry"] = enforced(
        "crash, discard: revert and continue; retry: repeat the run once first; the status in the results is crash",
        default="crash",
    )


class Autonomy(ProtocolModel):
    no_ask_human_to_continue: bool = enforced("the loop never asks, whatever the value", default=True)


class AgentRules(ProtocolModel):
    simplicity_criterion: bool = enforced(
        "simpler candidates, and those that need clearly less memory, are kept if the metric is no worse; shown to "
        "proposers",
        default=False,
    )
    autonomy: Autonomy = enforced("whether the loop asks questions", default=Autonomy())
    experiment_timeout_notes: str | None = information("not enforced; hardTimeoutSeconds is", default=None)
    log_redirect_example: str | None = information("the program redirects output itself", default=None)


class MiningLoop(ProtocolModel):
    max_trials: Count | None = enforced("same as --max-experiments", default=None)
    max_session_wall_seconds: Seconds | None = enforced("same as --max-hours, but in seconds", default=None)
    max_consecutive_non_improvements: Count | None = enforced("same as --patience", default=None)
    stop_after_successful_pr: bool | None = information(
        "not enforced: the program makes no pull requests", default=None
    )
    on_chain_project_id: str | int | None = information("not used: the program sends nothing anywhere", default=None)


class Protocol(ProtocolModel):
    schema_kind: Literal["protocol", "discoveryDraft"] = enforced("a discoveryDraft is not run")
    protocol_version: Literal["1.0", "1.1"] = enforced("1.0 rejects fields of 1.1")
    meta: Meta = enforced("what the protocol is for")
    environment: Environment = enforced("what a run needs", default=Environment())
    mutable_surface: MutableSurface = enforced("which files may change")
    immutable_harness: ImmutableHarness = enforced("which files must not change", default=ImmutableHarness())
    execution: Execution = enforced("how to run an experiment")
    measurement: Measurement = enforced("which metrics to measure")
    provenance: Provenance = enforced("how to record results", default=Provenance())
    safety: Safety = enforced("what happens when a run fails", default=Safety())
    agent_rules: AgentRules = information("rules for proposers", default=AgentRules())
    archetype_extensions: dict[str, dict[str, Any]] = information("notes on the archetype", default={})
    mining_loop: MiningLoop = enforced("when a session stops", default=MiningLoop())

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
                    raise ValueError(f'{name} requires "protocolVersion": "1.1"')
        if self.metric.name in NO_METRICS:
            raise ValueError(f"measurement.primaryMetric.name: {self.metric.name} is a column of the results")
        known = {*RESULT_COLUMNS, self.metric.name, *(m.name for m in self.measurement.secondary_metrics)}
        for column in self.columns:
            if column not in known:
                raise ValueError(
                    f"provenance.resultsLog.columns: unknown column {column!r}; choose from {', '.join(sorted(known))}"
                )
        for field, path in self.written:
            taken = self._taken(path)
            if taken is not None:
                raise ValueError(f"{field}: {short(path)} would be overwritten, but it is {taken}")
        first, second = (PurePosixPath(path) for _, path in self.written)
        if first == second or first in second.parents or second in first.parents:
            raise ValueError("provenance.baselineArtifactPath: conflicts with the path of the results")
        return self

    @property
    def written(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """The files that the program writes to paths of the protocol, as (field, path)."""
        return (
            ("provenance.resultsLog.path", self.provenance.results_log.path),
            ("provenance.baselineArtifactPath", self.provenance.baseline_artifact_path),
        )

    def _taken(self, path: str) -> str | None:
        """Return what `path` is already used for, None if it is free."""
        path = PurePosixPath(path).as_posix()
        if path in (".", PROTOCOL):
            return "the protocol's own file" if path == PROTOCOL else "the workspace itself"
        if any(matches(path, glob) for glob in self.immutable_harness.paths):
            return "part of the harness"
        if any(PurePosixPath(glob).as_posix() == path for glob in self.mutable_surface.allowed_globs):
            return "a file that candidates change"
        if any(PurePosixPath(glob).as_posix() == path for glob in self.mutable_surface.forbidden_globs):
            return "a file that must not change"
        if path in self._outputs:
            return "a file that the command writes"
        return None

    @property
    def _outputs(self) -> set[str]:
        """The files that the metrics are extracted from, relative to the workspace."""
        rules = (metric.extract for metric in (self.metric, *self.measurement.secondary_metrics))
        cwd = PurePosixPath(self.execution.cwd)
        return {(cwd / rule.path).as_posix() for rule in rules if rule.path is not None}

    @property
    def metric(self) -> Metric:
        return self.measurement.primary_metric

    @property
    def columns(self) -> list[str]:
        """The columns of the results, by default the usual five."""
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

    def with_limit(self, seconds: float) -> Protocol:
        """Return a copy with another hard limit of a run."""
        execution = self.execution.model_copy(update={"hard_timeout_seconds": seconds})
        return self.model_copy(update={"execution": execution})

    @property
    def digest(self) -> str:
        """SHA-256 of the content, independent of layout and key order."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()
