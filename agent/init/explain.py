"""Explain the result of `init`: one line per field with its reason, and notes for the user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.format import named
from agent.init.choose import hinted_direction, said_direction
from agent.init.discover import has_name, prose
from agent.init.draft import Draft, Plan
from agent.init.names import meaning
from agent.init.surface import said_fixed
from agent.proposers.search.space import tunable_parameters
from agent.protocol.models import Protocol
from agent.session.context import known_constants
from agent.system.invocation import typed
from agent.system.names import PROTOCOL
from agent.system.patterns import short

MOST_NAMED, LONGEST_SAID = 4, 120


@dataclass(frozen=True)
class Because:
    """One field: its value, the reason, and how to change it."""

    field: str
    value: str
    why: str
    change: str

    @property
    def line(self) -> str:
        return f"{self.field:<13} {self.value}  ({self.why}{f'; change: {self.change}' if self.change else ''})"


def explain(outcome: Draft) -> list[Because]:
    plan, found, protocol = outcome.plan, outcome.found, outcome.protocol
    execution, around = protocol["execution"], plan.surface
    rule = {key: value for key, value in found.extract.items() if key != "exampleStdout"}
    ran = protocol["schemaKind"] == "protocol"
    fixed = ", ".join(dict.fromkeys((*around.harness, *around.forbidden, PROTOCOL)))
    by_name = (
        "from its name"
        if meaning(found.name)[0] == found.direction
        else "from --direction, a README, its unit or pytest"
    )
    tested = "tested on a run" if ran else "a draft, not tested"
    return [
        Because("command", execution["command"], plan.candidate.why, "--command"),
        Because("set-up", "; ".join(plan.setup) or "none", "run before the first run", "environment.setupCommands"),
        Because("may change", ", ".join(around.mutable), around.why, "--mutable GLOB"),
        Because("must not", fixed, "tests, data, evaluation, dependencies", "mutableSurface.forbiddenGlobs"),
        Because("metric", f"{found.name} = {found.value:g}" if ran else found.name, found.where, "--metric NAME"),
        Because("direction", str(found.direction), by_name, "--direction minimize|maximize"),
        Because("rule", " ".join(str(value) for value in rule.values()), tested, "measurement.primaryMetric.extract"),
        _training(plan),
        Because("limit", f"{execution['hardTimeoutSeconds']:g} s", outcome.seconds, "execution.hardTimeoutSeconds"),
        Because("network", plan.network[0], plan.network[1], "environment.constraints.networkPolicy"),
        Because("noise", outcome.repeated, "limits how small a gain can be detected; a fixed seed reduces it", ""),
    ]


def _training(plan: Plan) -> Because:
    if plan.length.stop is not None:
        why = "not searched, because longer training is not a better recipe"
        return Because("training", plan.length.constant, why, "execution.stopCondition")
    seconds = plan.budget.seconds
    return Because("training", f"{seconds:g} s" if seconds else "no budget", plan.budget.why, "--training-seconds")


def tunes(outcome: Draft, protocol: Protocol) -> bool:
    """Return whether the search finds a constant to tune."""
    return bool(tunable_parameters(_mutable(outcome, protocol), known_constants(protocol)))


def _mutable(outcome: Draft, protocol: Protocol) -> dict[str, str]:
    return {path: text for path, text in outcome.plan.files.items() if protocol.mutable_surface.allows(path)}


def _on_judge(outcome: Draft, mutable: Mapping[str, str]) -> str | None:
    """Return a note if a file that may change computes or prints the metric itself."""
    plan, name = outcome.plan, outcome.found.name
    if plan.candidate.kind == "tests":
        return None
    if plan.surface.judged_inside:
        return (
            f"{plan.candidate.script} may change, and it computes {name} itself: to protect the metric, move its "
            "computation to a separate file and list that in immutableHarness"
        )
    prints = [path for path in plan.surface.read if path in mutable and has_name(mutable[path], name)]
    if not prints:
        return None
    return (
        f"{prints[0]} may change, and it prints {name} itself: to protect the metric, compute and print it in a file "
        "that must not change, and list that in immutableHarness"
    )


def notes_on(outcome: Draft, protocol: Protocol, changed: list[str]) -> list[str]:
    plan, notes = outcome.plan, []
    mutable = _mutable(outcome, protocol)
    if not tunes(outcome, protocol):
        notes.append(
            f"the built-in search found nothing to tune in {', '.join(sorted(mutable)[:3])}: assign tunable values to "
            "names in capitals at module level, as in RATE = 0.1, or let a model edit the code with --model or --agent"
        )
    asked = said_fixed(plan.files)
    for path in [path for path in plan.surface.read if path in asked and path in plan.surface.harness][:MOST_NAMED]:
        notes.append(f"{path} must not change, because of {short(asked[path], LONGEST_SAID)}; change: --mutable GLOB")
    if (fixed := plan.surface.by_name) and plan.candidate.kind != "tests":
        notes.append(f"{named(fixed, MOST_NAMED)} must not change, because of the name; change: --mutable GLOB")
    if also := [path for path in plan.surface.also_run if path in plan.surface.harness and path not in asked]:
        notes.append(
            f"{named(also, MOST_NAMED)} must not change, because `{plan.candidate.command}` runs more than "
            f"{plan.candidate.script}; change: --mutable GLOB"
        )
    notes += _on_direction(outcome)
    if note := _on_judge(outcome, mutable):
        notes.append(note)
    if searched := plan.length.searched:
        notes.append(
            f"the built-in search changes {named(searched, MOST_NAMED)}: longer training is not a better recipe, so if "
            "that is how long training runs, add the comment `# search: off` to its line"
        )
    if plan.budget.seconds is not None and not plan.budget.honoured:
        notes.append("the code does not read AUTORESEARCH_TRAINING_SECONDS, so `run --training-seconds` has no effect")
    if outcome.rewritten:
        notes.append(
            f"a run writes {named(outcome.rewritten, MOST_NAMED)} anew, which git does not track and which was there "
            "before: if runs continue from it, as from a checkpoint, move it away, because each run starts with yours"
        )
    if changed:
        notes.append(f"uncommitted changes were ignored ({', '.join(changed[:3])}): commit or stash them before `run`")
    if protocol.schema_kind != "protocol":
        notes.append(f"a discoveryDraft cannot be run: `{typed('init --force')}` tests it and makes it a protocol")
    return notes


def _on_direction(outcome: Draft) -> list[str]:
    """Return a note if a sentence of the README contradicts the name of the metric, or may do so."""
    name, direction, text = outcome.found.name, outcome.found.direction, prose(outcome.plan.files)
    by_name, said, hinted = meaning(name)[0], said_direction(name, text), hinted_direction(name, text)
    if by_name is None:
        return []
    if said is not None and said != by_name and said == direction:
        return [
            f"the README says {said} of {name}, although its name says {by_name}: if the README means "
            f"something else, add --direction {by_name}"
        ]
    if said is None and hinted is not None and hinted != by_name and direction == by_name:
        return [
            f"a sentence of the README with {name} says {hinted}, although its name says {by_name}: if it is about "
            f"{name}, add --direction {hinted}"
        ]
    return []
