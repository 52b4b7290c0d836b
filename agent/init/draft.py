"""Compose a protocol from what was detected, with the reason for each field."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.init.discover import Candidate, Files
from agent.init.length import Length
from agent.init.numbers import Found
from agent.init.surface import Surface
from agent.protocol.models import LONGEST_SECONDS

ROOM, SHORTEST_LIMIT = 3, 60.0
SECONDARY = {"peak_vram_mb": "minimize", "num_steps": "maximize"}
BUDGET = re.compile(r"^(\w*TIME_BUDGET\w*|TRAIN(?:ING)?_SECONDS|MAX_SECONDS)\s*(?::\s*\w+\s*)?=\s*([\d.]+)", re.M)
VARIABLE = "AUTORESEARCH_TRAINING_SECONDS"
DEFAULT = re.compile(rf"({VARIABLE})[\"'],\s*[\"']?([\d.]+)")  # os.environ.get(NAME, "300")
DOWNLOADS = re.compile(
    r"\b(requests\.(get|post)|urlopen|urlretrieve|httpx\.|hf_hub_download|snapshot_download|load_dataset\(|from_pretrained\("
    r"|get_kernel\(|wandb\.init|download=True|boto3|gdown\.)"
)
RATIONALE = "These files prepare the data or compute the metric; changing one would make results incomparable."
ARCHETYPES = {"training": "pipeline_job", "benchmark": "benchmark_opt", "tests": "build_test"}


@dataclass(frozen=True)
class TimeBudget:
    """The training time of a run.

    Attributes:
        seconds: the budget, None if unknown.
        honoured: whether the code reads AUTORESEARCH_TRAINING_SECONDS.
        why: where the budget comes from.
    """

    seconds: float | None
    honoured: bool
    why: str


def budget_of(surface: Surface, files: Files, wanted: float | None) -> TimeBudget:
    texts = [files[path] for path in surface.read]
    honoured = any(VARIABLE in text for text in texts)
    found = (
        (match[1], _seconds(match[2])) for text in texts for form in (BUDGET, DEFAULT) for match in form.finditer(text)
    )
    named = next(((name, seconds) for name, seconds in found if seconds is not None), None)
    if wanted is not None:
        blind = "" if honoured else f", but the code does not read {VARIABLE}"
        return TimeBudget(wanted, honoured, f"you named it{blind}")
    if named is not None:
        return TimeBudget(named[1], honoured, f"{named[0]} in the code")
    return TimeBudget(None, honoured, "no time budget found in the code")


def _seconds(text: str) -> float | None:
    """Parse seconds; None if the text is not a plausible time, such as 1.2.3 or a number of 400 digits."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 < seconds <= LONGEST_SECONDS else None


def network_of(surface: Surface, files: Files) -> tuple[str, str]:
    """Return networkPolicy and the reason. The harness does not count: it may download before the runs."""
    for path in surface.read:
        match = DOWNLOADS.search(files[path]) if path not in surface.harness else None
        if match:
            return "full", f"{path} contains {match[0].rstrip('(')}"
    return "offline", "the code downloads nothing"


def setup_of(files: Files, uv: bool, project: bool, candidate: Candidate) -> list[str]:
    prepares = candidate.kind == "training" and "prepare.py" in files and candidate.script != "prepare.py"
    return [*(["uv sync"] if project else []), *([f"{'uv run' if uv else 'python'} prepare.py"] if prepares else [])]


def limit_of(seconds: float, budget: TimeBudget, given: float | None) -> float:
    """Return a hard limit in seconds that leaves room for slower candidates.

    Args:
        seconds: duration of the trial run.
        budget: the training time of later runs.
        given: training time of the trial run in seconds, None if it had no budget.
    """
    expected = seconds
    if budget.honoured and budget.seconds is not None and given is not None:
        expected = max(0.0, seconds - given) + budget.seconds
    expected = max(ROOM * expected, 1.5 * (budget.seconds or 0))
    return max(SHORTEST_LIMIT, 60.0 * math.ceil(expected / 60))


def _whole(seconds: float) -> float:
    return int(seconds) if seconds == int(seconds) else seconds


def secondary(found: list[Found], name: str) -> list[dict[str, Any]]:
    """Return the usual secondary metrics that occur in this output."""
    seen = {f.name: f.extract for f in found}
    return [
        {"name": other, "direction": direction, "extract": seen[other]}
        for other, direction in SECONDARY.items()
        if other in seen and other != name
    ]


@dataclass(frozen=True)
class Plan:
    """A command and everything known about it before it has run.

    Attributes:
        network: networkPolicy and the reason.
        length: how long training runs if it has no time budget.
    """

    files: Files
    candidate: Candidate
    surface: Surface
    setup: list[str]
    network: tuple[str, str]
    budget: TimeBudget
    length: Length

    def protocol(self, metric: Mapping[str, Any], limit: float, kind: str = "protocol") -> dict[str, Any]:
        """Return the content of protocol.json, with the usual fields in the usual order.

        Args:
            metric: the primary metric, as in protocol.json.
            limit: hard timeout in seconds.
            kind: protocol or discoveryDraft.
        """
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        better = "lower" if metric["direction"] == "minimize" else "higher"
        return {
            "schemaKind": kind,
            "protocolVersion": "1.0",
            "meta": {
                "archetype": "ml_train" if self._prepares else ARCHETYPES[self.candidate.kind],
                "eligibility": "eligible",
                "purposeStatement": f"Make {metric['name']} {better} by changing {', '.join(self.surface.mutable)}.",
                "createdAt": now,
                "updatedAt": now,
            },
            "environment": self._environment(),
            "mutableSurface": {
                "allowedGlobs": [*self.surface.mutable],
                "forbiddenGlobs": [*self.surface.forbidden],
                "allowedKinds": ["code_edit"],
            },
            "immutableHarness": self._harness(),
            "execution": self._execution(limit),
            "measurement": {
                "primaryMetric": dict(metric),
                "secondaryMetrics": [],
                "baselinePolicy": {"establishOnHardware": True, "sameDataSnapshot": True},
            },
            "provenance": {
                "resultsLog": {
                    "format": "tsv",
                    "path": "results.tsv",
                    "columns": [*dict.fromkeys(("commit", metric["name"], "memory_gb", "status", "description"))],
                },
                "gitWorkflow": {"branchPattern": "autoresearch/<tag>"},
                "baselineArtifactPath": ".autoresearch/create/baseline_run.log",
            },
            "safety": {
                "oomPolicy": "reduce_batch" if self.candidate.kind == "training" else "fail",
                "crashStatus": "discard",
            },
            "agentRules": {"simplicityCriterion": True, "autonomy": {"noAskHumanToContinue": True}},
        }

    @property
    def _prepares(self) -> bool:
        return any("prepare.py" in command for command in self.setup)

    def _environment(self) -> dict[str, Any]:
        return {
            "packageManagers": ["uv"] if self.candidate.command.startswith("uv ") else [],
            "setupCommands": self.setup,
            "constraints": {"noNewDependencies": True, "networkPolicy": self.network[0]},
        }

    def _harness(self) -> dict[str, Any]:
        return {"paths": [*self.surface.harness], "rationale": RATIONALE} if self.surface.harness else {}

    def _execution(self, limit: float) -> dict[str, Any]:
        stop: dict[str, Any] = {"type": "fixed_suite"}
        if self.budget.seconds is not None:
            stop = {"type": "wall_clock", "trainingSecondsBudget": _whole(self.budget.seconds)}
        elif self.length.stop is not None:
            stop = dict(self.length.stop)
        stops = self.budget.seconds is not None or self.length.stop is not None or self.candidate.kind != "training"
        return {
            "command": self.candidate.command,
            "cwd": ".",
            **({"stopCondition": stop} if stops else {}),
            "hardTimeoutSeconds": _whole(limit),
            "determinism": {"seedPolicy": "optional"},
        }


@dataclass(frozen=True)
class Draft:
    """A protocol and its evidence: how long the command took, and whether a second run gave the same metric.

    Attributes:
        others: names of the other numbers that the command printed, the most likely metrics first.
        rewritten: untracked files that were there before and that the command wrote anew.
    """

    plan: Plan
    protocol: dict[str, Any]
    found: Found
    seconds: str
    repeated: str
    others: tuple[str, ...] = ()
    rewritten: tuple[str, ...] = ()
