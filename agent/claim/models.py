"""The files of a claim as models: claim.json, and the attestations of those who verified it.

Both are read from folders of strangers, so the models are closed: unknown fields, other types and long texts are
refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agent.protocol.extract import LARGEST_VALUE
from agent.protocol.models import LONGEST_SECONDS

CLAIM_SCHEMA = "claim.schema.json"
MOST_RUNS, MOST_CHANGES, MOST_SEEDS = 1000, 1000, 100
LONGEST_TEXT = 1000
LARGEST_SEED = 2**63 - 1

Text = Annotated[str, Field(max_length=LONGEST_TEXT)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Commit = Annotated[str, Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")]
Seconds = Annotated[float, Field(ge=0, le=LONGEST_SECONDS)]
# As a run's own: the sums and squares of larger numbers are infinite.
Measured = Annotated[float, Field(ge=-LARGEST_VALUE, le=LARGEST_VALUE)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]


class ClaimModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True)


class Commits(ClaimModel):
    baseline: Commit = Field(description="Commit of the baseline.")
    best: Commit = Field(description="Commit of the best.")


class ChangedConstant(ClaimModel):
    file: Text = Field(description="Its file.")
    name: Text = Field(description="Its name.")
    before: bool | int | float | Text = Field(description="Value in the baseline.")
    after: bool | int | float | Text = Field(description="Value in the best.")


class Changes(ClaimModel):
    files: list[Text] = Field(description="Files that differ.", max_length=MOST_CHANGES)
    constants: list[ChangedConstant] = Field(description="Constants with other values.", max_length=MOST_CHANGES)
    code: bool = Field(description="Whether anything else differs.")


class Data(ClaimModel):
    id: Digest = Field(description="Identifier of the snapshot, a hash of its content.")
    source: Literal["climbmix", "tinystories", "embedded", "folder"] = Field(
        description="What it was prepared from; `folder` is a folder of the author's, whose path is not written."
    )
    num_shards: Annotated[int, Field(ge=-1, le=10**6)] | None = Field(
        description="Training shards that were requested; null for the default of the source."
    )
    profile: Annotated[str, Field(pattern=r"^[a-z]{1,20}$")] = Field(description="Profile of the task.")


class Machine(ClaimModel):
    chip: Text = Field(description="Processor.")
    cores: int | None = Field(description="Logical cores.")
    memory_gb: int = Field(description="Memory, in GiB.")
    os: Text = Field(description="Name and release of the operating system.")
    macos: Text | None = Field(description="Version of macOS; null elsewhere.")
    mlx: Text | None = Field(description="Version of MLX; null if it is not installed.")
    backend: Text | None = Field(description="Back end of MLX; null if there is none.")
    mlx_variables: Text = Field(description="Environment variables that change MLX's numbers.")


class ClaimedRun(ClaimModel):
    metric: Measured = Field(description="The metric.")
    holdout: Measured | None = Field(description="Metric of its model on the holdout; null if it was not computed.")
    seed: Seed | None = Field(description="Seed that was set; null for the recipe's own.")
    seconds: Seconds = Field(description="Duration of the command.")
    num_steps: Annotated[float, Field(ge=0)] | None = Field(description="Training steps; null if not reported.")
    source: Literal["", "attested", "from the log", "untraced"] = Field(description="Who computed the metric.")
    log: Annotated[str, Field(pattern=r"^logs/[ab]-[1-9][0-9]{0,3}\.log$")] = Field(description="Its log.")
    sha256: Digest = Field(description="SHA-256 of the log.")


Runs = Annotated[list[ClaimedRun], Field(min_length=2, max_length=MOST_RUNS)]


class Sides(ClaimModel):
    a: Runs = Field(description="Held-out runs of the baseline.")
    b: Runs = Field(description="Held-out runs of the best.")


class Means(ClaimModel):
    a: float = Field(description="Mean of the baseline.")
    b: float = Field(description="Mean of the best.")


class Shown(ClaimModel):
    means: Means = Field(description="Mean of each side; runs with the same seed count as one.")
    gain: float = Field(description="Gain of the best over the baseline; positive is better.")
    low: float = Field(description="Lower end of its 95 % interval.")
    high: float = Field(description="Upper end of the interval.")


class Confirmation(Shown):
    noise: Annotated[float, Field(ge=0)] = Field(description="Standard deviation of one run.")
    verdict: Literal["confirmed"] = Field(description="Verdict of `confirm`.")
    holdout: Shown | None = Field(description="The same models on the holdout; null if they were not scored there.")


class Claim(ClaimModel):
    """`claim.json`: the evidence of one session for the gain of its best over its baseline."""

    schema_: Literal["claim.schema.json"] = Field(
        alias="$schema", description="JSON Schema of this file, in the same folder."
    )
    version: Literal[1] = Field(description="Version of the format.")
    program: Text = Field(description="Version of autoresearch that wrote it.")
    created: Text = Field(description="When it was written, as an ISO 8601 date and time.")
    tag: Text = Field(description="Session.")
    metric: Text = Field(description="Name of the metric.")
    direction: Literal["minimize", "maximize"] = Field(description="Which direction is better.")
    commits: Commits = Field(description="The two commits, which `commits.bundle` contains.")
    changes: Changes = Field(description="What the best changes.")
    protocol: Digest = Field(description="SHA-256 of the protocol, independent of its layout.")
    harness: Digest = Field(description="SHA-256 of the harness files.")
    snapshot: Data | None = Field(description="The prepared data; null if the protocol uses none.")
    holdout: Digest | None = Field(description="Identifier of the holdout; null if there is none.")
    machine: Machine = Field(description="Machine of the runs.")
    training_seconds: Annotated[float, Field(gt=0, le=LONGEST_SECONDS)] | None = Field(
        description="Training budget of a run, in seconds; null if there is none."
    )
    runs: Sides = Field(description="All held-out runs of both that the confirmation counts.")
    looks: Annotated[int, Field(ge=0, le=MOST_RUNS)] = Field(
        default=0,
        description="How often both were compared before, with fewer of these runs; above 0 the interval is one that "
        "holds however often it is read.",
    )
    confirmation: Confirmation = Field(description="What these runs show.")
    statement: dict[str, Any] | None = Field(
        description="Statement of the session about its night, which nothing checks; null if none."
    )
    unconfined: bool = Field(description="Whether no sandbox confined a run.")
    unattested: bool = Field(description="Whether a run computed its own metric, because its model cannot be traced.")


class Interval(ClaimModel):
    gain: float = Field(description="Gain of the best over the baseline; positive is better.")
    low: float | None = Field(description="Lower end of its 95 % interval; null if it has none.")
    high: float | None = Field(description="Upper end of the interval; null if it has none.")


class Pair(ClaimModel):
    seed: Seed | None = Field(description="Seed of both runs; null for the recipe's own.")
    first: Literal["a", "b"] = Field(description="Which of them ran first.")
    a: float = Field(description="Metric of the baseline.")
    b: float = Field(description="Metric of the best.")
    holdout_a: float | None = Field(description="Metric of the baseline on the holdout; null if not computed.")
    holdout_b: float | None = Field(description="Metric of the best on the holdout; null if not computed.")


class Attestation(ClaimModel):
    """`attestations/*.json`: the result of one `verify` of a claim."""

    version: Literal[1] = Field(description="Version of the format.")
    claim: Digest = Field(description="SHA-256 of the claim.json that was verified.")
    program: Text = Field(description="Version of autoresearch that verified it.")
    created: Text = Field(description="When, as an ISO 8601 date and time.")
    verdict: Literal["replicated", "not replicated", "cannot tell"] = Field(description="The result.")
    why: Text | None = Field(description="Why, if the interval does not say it; else null.")
    metric: Text = Field(description="Name of the metric.")
    direction: Literal["minimize", "maximize"] = Field(description="Which direction is better.")
    claimed: Interval = Field(description="What the claim shows.")
    found: Interval | None = Field(description="What the runs here show, valid whenever it is read; null without runs.")
    percent: Interval | None = Field(description="The same in percent of the baseline here; null if that is 0.")
    holdout: Interval | None = Field(description="The same on the holdout; null if it was not computed.")
    noise: Annotated[float, Field(ge=0)] | None = Field(description="Standard deviation of one run here.")
    pairs: list[Pair] = Field(description="The pairs of runs, in order.", max_length=MOST_SEEDS)
    training_seconds: float | None = Field(description="Training budget of a run, in seconds.")
    machine: Machine = Field(description="Machine that verified it.")
    sandbox: Text = Field(description="How the runs were confined.")


class Verification(Attestation):
    """Result of a verification."""

    says: Text = Field(description="The result in one line.")
    path: str = Field(description="The attestation.")


def schema_of(model: type[ClaimModel], title: str, description: str) -> dict[str, Any]:
    """Return the JSON Schema of a model, without references."""
    whole = model.model_json_schema()
    found = _inlined({key: value for key, value in whole.items() if key != "$defs"}, whole.get("$defs", {}))
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, "description": description}
    return {**head, **{key: value for key, value in found.items() if key not in head}}


def claim_schema() -> dict[str, Any]:
    return schema_of(Claim, "Claim", "`claim.json`: evidence for the gain of a session's best over its baseline.")


def attestation_schema() -> dict[str, Any]:
    return schema_of(Attestation, "Attestation", "`attestations/*.json`: the result of one `verify` of a claim.")


def _inlined(part: Any, known: dict[str, Any]) -> Any:
    """Replace references by what they refer to, and leave out what only repeats names."""
    if isinstance(part, list):
        return [_inlined(each, known) for each in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        referred = known[part["$ref"].rpartition("/")[2]]
        return _inlined({**referred, **{key: value for key, value in part.items() if key != "$ref"}}, known)
    kept: dict[str, Any] = {}
    others = [each for each in part.get("anyOf", []) if each != {"type": "null"}]
    if len(others) == 1 and len(part["anyOf"]) == 2:
        only = _inlined(others[0], known)
        if isinstance(only.get("type"), str) and not {"enum", "const"} & only.keys():
            kept = {**only, "type": [only["type"], "null"]}
            part = {key: value for key, value in part.items() if key != "anyOf"}
    for key, value in part.items():
        if key == "properties":
            kept[key] = {name: _inlined(each, known) for name, each in value.items()}
        elif key != "title":
            kept[key] = _inlined(value, known)
    return kept
