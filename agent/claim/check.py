"""Check that a claim follows from its own parts, and that its commits are those of this repository's harness."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath

from pydantic import ValidationError

from agent.claim.figures import confirmation_of, same
from agent.claim.folder import Evidence
from agent.claim.models import LONGEST_TEXT, ChangedConstant, Changes, Claim, ClaimedRun
from agent.errors import AutoresearchError, NoMetric, PreconditionError
from agent.execution.evaluation import TOLERANCE
from agent.format import figure, printed
from agent.journal.experiment import Value
from agent.protocol.changes import clause_of
from agent.protocol.extract import extract
from agent.protocol.models import Protocol
from agent.pruning.ladder import LEAST
from agent.repository.bundle import fetch_bundle, new_sizes
from agent.repository.edit import LARGEST_FILE
from agent.repository.harness import ATTRIBUTES
from agent.repository.links import way_out
from agent.repository.workspace import Workspace
from agent.source.constants import constants
from agent.source.diff import CODE, changed
from agent.source.seed import hides_seed, seed_of
from agent.system.names import PROTOCOL

LARGEST_CONTENT, MOST_FILES = 256 * 2**20, 10_000
LARGEST_CODE = 2 * 2**20  # what is parsed, in which time Ctrl-C waits: about 5 s a MiB
LINK = "120000"
STEPS = "num_steps"
# By these git and git-lfs choose the programs of the user's that write files, outside of any room, and what they fetch.
FILTERING = (ATTRIBUTES, ".lfsconfig")
LONGEST_SHOWN = 500  # characters of a text that is longer than a claim allows


class FalseClaim(AutoresearchError):
    """A claim whose parts contradict each other.

    Args:
        fault: how, as a sentence about the claim.
    """

    def __init__(self, fault: str) -> None:
        super().__init__(f"false claim: {fault}")


def require_named_protocol(evidence: Evidence) -> None:
    """Raise FalseClaim if the protocol in the claim's folder is not the one that claim.json names."""
    if evidence.protocol.digest != evidence.claim.protocol:
        raise FalseClaim(f"its {PROTOCOL} is not the one that its claim.json names")


def require_consistent(evidence: Evidence) -> None:
    """Check the claim against the logs and the protocol in its own folder.

    Raises:
        FalseClaim: a log, a metric, a count of steps, the gain, the training budget or the protocol was changed.
    """
    require_named_protocol(evidence)
    claim, protocol = evidence.claim, evidence.protocol
    if claim.training_seconds != protocol.training_seconds and (claim.training_seconds or LEAST) < LEAST:
        raise FalseClaim(f"its runs train for {claim.training_seconds:g} s, and no session for less than {LEAST:g} s")
    metric = protocol.metric
    if (claim.metric, claim.direction) != (metric.name, metric.direction):
        raise FalseClaim(f"its metric is {claim.metric} ({claim.direction}), but its {PROTOCOL} has another one")
    for run in (*claim.runs.a, *claim.runs.b):
        if hashlib.sha256(evidence.logs[run.log]).hexdigest() != run.sha256:
            raise FalseClaim(f"{run.log} was changed: its hash is not the one in claim.json")
        if fault := fault_of_metric(run, evidence.logs[run.log], protocol):
            raise FalseClaim(fault)
        shown = _steps_in(evidence.logs[run.log], protocol)
        if None not in (shown, run.num_steps) and shown != run.num_steps:
            raise FalseClaim(f"claim.json gives num_steps {run.num_steps:g} for {run.log}, which shows {shown:g}")
    _require_gain(claim)


def fewest_steps(evidence: Evidence) -> float | None:
    """Return the fewest steps of a run of the best that its log shows as claim.json does; None if no log does."""
    runs = [run for run in evidence.claim.runs.b if run.num_steps]
    shown = [run.num_steps for run in runs if _steps_in(evidence.logs[run.log], evidence.protocol) == run.num_steps]
    return min(filter(None, shown), default=None)


def _steps_in(log: bytes, protocol: Protocol) -> float | None:
    metrics = [each for each in protocol.measurement.secondary_metrics if each.name == STEPS]
    if not metrics or metrics[0].extract.path is not None:
        return None
    try:
        return extract(metrics[0], printed(log.decode(errors="replace")))
    except NoMetric:  # of a long log a claim has a part
        return None


def fault_of_metric(run: ClaimedRun, log: bytes, protocol: Protocol) -> str | None:
    """Return how a run's metric differs from that in its log; None if it agrees, or the log does not contain it."""
    metric = protocol.metric
    if metric.extract.path is not None:
        return None
    try:
        told = extract(metric, printed(log.decode(errors="replace")))
    except NoMetric as error:
        return f"{run.log} does not show the metric that claim.json gives for it: {error}"
    # An evaluator computes the number, and the log may round it.
    tolerance = TOLERANCE if run.source == "attested" else 0.0
    if math.isclose(told, run.metric, rel_tol=1e-9, abs_tol=tolerance):
        return None
    given, shown = _apart(run.metric, told)
    return f"claim.json gives {given} for {run.log}, which shows {shown}"


def _apart(one: float, other: float) -> tuple[str, str]:
    """Return two different numbers with as many digits as show that they differ."""
    return (figure(one), figure(other)) if figure(one) != figure(other) else (repr(one), repr(other))


def _require_gain(claim: Claim) -> None:
    found = confirmation_of(claim.runs, claim.direction, claim.looks)
    if found is None:
        raise FalseClaim(
            f"its gain of {figure(claim.confirmation.gain)} does not follow from its runs, which show none"
        )
    means = found.means.model_dump()
    if not same({"means": means, "gain": found.gain}, {"means": means, "gain": claim.confirmation.gain}):
        given, shown = _apart(claim.confirmation.gain, found.gain)
        raise FalseClaim(f"its gain of {given} does not follow from its runs, which show {shown}")
    if not same(found.model_dump(), claim.confirmation.model_dump()):
        raise FalseClaim("its interval does not follow from its runs")


def require_own_rules(evidence: Evidence, workspace: Workspace) -> None:
    """Raise PreconditionError if the claim has another protocol than the workspace, which decides what is run."""
    if evidence.protocol.digest != workspace.protocol.digest:
        differing = clause_of(evidence.protocol, workspace.protocol)
        raise PreconditionError(
            f"the claim was measured under another {PROTOCOL} than that of {workspace.folder}{differing}",
            hint="check out the commit that its session began with, then run the same command again",
        )


def fetch(evidence: Evidence, workspace: Workspace, refs: str, tick: Callable[[], None]) -> Mapping[str, str]:
    """Fetch the commits of a claim, and check them against the claim and HEAD.

    Args:
        workspace: a clone that can be thrown away.
        refs: where they are kept.
        tick: called while git reads the bundle; may raise to end it.

    Returns:
        The commits: `a` is the baseline, `b` the best.

    Raises:
        FalseClaim: the bundle does not hold what the claim says.
        PreconditionError: the commits have another harness than HEAD, other attributes of git, or other links out of
            the repository.
    """
    claim, head = evidence.claim, workspace.head
    commits = claim.commits.model_dump()
    if fault := fetch_bundle(workspace, evidence.bundle, commits, refs, tick):
        raise FalseClaim(f"its commits.bundle {fault}")
    for name, commit in commits.items():
        sizes = new_sizes(workspace, commit, head)
        count, size = len(sizes), sum(sizes.values())
        if count > MOST_FILES or size > LARGEST_CONTENT:
            raise FalseClaim(f"its {name} adds {count:,} files of {size // 2**20:,} MiB, which is too much to run")
        _require_small(claim, workspace, name, sizes)
        _require_own_protocol(claim, workspace, name, commit)
    digests = {name: workspace.harness_digest(commit) for name, commit in commits.items()}
    for name, digest in digests.items():
        if digest != claim.harness:
            raise FalseClaim(f"the harness of its {name} is not the one that its claim.json names")
    if claim.harness != workspace.harness_digest(head):
        path = _first_difference(workspace, commits["baseline"], head)
        raise PreconditionError(
            f"the claim has another harness than HEAD: {path} differs",
            hint="check out the commit that its session began with, then run the same command again",
        )
    _require_allowed(claim, workspace)
    for name, commit in commits.items():
        _require_own_filters(workspace, name, commit)
        _require_own_links(workspace, name, commit, tick)
    return {"a": claim.commits.baseline, "b": claim.commits.best}


def _require_small(claim: Claim, workspace: Workspace, name: str, sizes: Mapping[str, int]) -> None:
    """Raise FalseClaim if files that are parsed are too large for that: a tree takes 1,000 times the memory.

    Args:
        sizes: path -> bytes of the files that HEAD lacks.
    """
    before, after = (workspace.tree(commit) for commit in (claim.commits.baseline, claim.commits.best))
    parsed = {}
    for path, size in sizes.items():
        inside = workspace.inside(path)
        is_changed = before.get(path) != after.get(path)
        is_mutable = inside is not None and workspace.protocol.mutable_surface.allows(inside)
        # Imports of the harness are followed through any module.
        if inside == PROTOCOL or path.endswith(".py") or (is_mutable and is_changed):
            parsed[path] = size
    for path, size in parsed.items():
        if size > LARGEST_FILE:
            raise FalseClaim(
                f"{path[:LONGEST_SHOWN]} of its {name} has {size:,} bytes, of which {LARGEST_FILE:,} are read at most"
            )
    if sum(parsed.values()) > LARGEST_CODE:
        raise FalseClaim(f"its {name} has over {LARGEST_CODE // 2**20} MiB of code that HEAD lacks, too much to read")


def _require_own_protocol(claim: Claim, workspace: Workspace, name: str, commit: str) -> None:
    text = workspace.show(commit, PROTOCOL)
    if text is None:
        return
    try:
        found = Protocol.model_validate_json(text).digest
    except (ValueError, RecursionError):
        found = ""
    if found != claim.protocol:
        raise FalseClaim(f"{PROTOCOL} of its {name} is not the one that its claim.json names")


def _require_own_filters(workspace: Workspace, name: str, commit: str) -> None:
    before, after = (
        {
            path: entry
            for path, entry in workspace.tree(each).items()
            if PurePosixPath(path).name.casefold() in FILTERING
        }
        for each in (workspace.head, commit)
    )
    for path in sorted(after):  # one that only HEAD has chooses nothing
        if before.get(path) != after[path]:
            raise PreconditionError(
                f"the {name} of the claim has another {path[:LONGEST_SHOWN]} than HEAD, which chooses the programs by "
                "which git writes files",
                hint="check out the commit that its session began with, then run the same command again",
            )


def _require_own_links(workspace: Workspace, name: str, commit: str, tick: Callable[[], None]) -> None:
    """Raise PreconditionError if a link leads where none of HEAD does: a room shows what links lead to."""
    own = {lead for _, lead in _leading_out(workspace, workspace.head, tick)}
    for path, lead in _leading_out(workspace, commit, tick):
        if lead not in own:
            raise PreconditionError(
                f"the {name} of the claim has a link that leads out of the repository, and HEAD has none that leads "
                f"there: {path[:LONGEST_SHOWN]} -> {lead[:LONGEST_SHOWN]}",
                hint="if its runs may see that, check out the commit that its session began with, then run the same "
                "command again",
            )


def _leading_out(workspace: Workspace, commit: str, tick: Callable[[], None]) -> Iterator[tuple[str, str]]:
    """Yield the links of a commit that lead out of the repository, and where."""
    links = workspace.links(commit)
    folders = {str(each) for path in workspace.tree(commit) for each in PurePosixPath(path).parents} if links else set()
    for path in links:
        tick()
        if (lead := way_out(path, links, folders - {"."})) is not None:
            yield path, lead


def _first_difference(workspace: Workspace, one: str, other: str) -> str:
    trees = [workspace.tree(commit) for commit in (one, other)]
    paths = sorted(workspace.harness(one) | workspace.harness(other))
    entries = ((path, [tree.get(workspace.in_repository(path)) for tree in trees]) for path in paths)
    return next((path for path, (first, second) in entries if first != second), PROTOCOL)


def _require_allowed(claim: Claim, workspace: Workspace) -> None:
    """Raise FalseClaim if the best changes more than the protocol allows, or adds links."""
    before, after = (workspace.tree(commit) for commit in (claim.commits.baseline, claim.commits.best))
    own = {workspace.in_repository(path) for path in workspace.records}
    names = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    linked = next((name for name in names if after.get(name, ("", ""))[0] == LINK), None)
    for name in names:
        if name in own:
            continue
        path = workspace.inside(name)
        if path is None:
            raise FalseClaim(f"its best changes {name}, which is outside of the workspace")
        if refusal := workspace.refusal(claim.commits.baseline, [path]):
            raise FalseClaim(f"its best {refusal}")
    if linked is not None:
        raise FalseClaim(f"its best makes {linked} a link")


def require_described(claim: Claim, workspace: Workspace, known: Mapping[str, Value]) -> None:
    """Raise FalseClaim if the best changes something else than the claim says."""
    try:
        found = changes_of(workspace, claim.commits.baseline, claim.commits.best, known)
    except ValidationError:  # more than a claim can say
        found = None
    if found != claim.changes:
        raise FalseClaim("its description of what the best changes does not follow from its commits")


def changes_of(workspace: Workspace, baseline: str, best: str, known: Mapping[str, Value]) -> Changes:
    """Describe what the best changes.

    Args:
        known: values of the names that the harness defines.

    Raises:
        ValidationError: there are more changes than a claim can describe.
    """
    before, after = workspace.files(baseline), workspace.files(best)
    files = [path for path in sorted({*before, *after}) if before.get(path) != after.get(path)]
    found = []
    for path in files:
        olds, news = (constants(each.get(path, ""), known) for each in (before, after))
        found += [
            ChangedConstant(file=path, name=name, before=_cut(olds[name].value), after=_cut(news[name].value))
            for name in olds
            if name in news and olds[name].value != news[name].value
        ]
    return Changes(files=files, constants=found, code=CODE in changed(before, after, known))


def _cut(value: Value) -> Value:
    """Return a value as a claim gives it: of a long text only the beginning, with its length and hash."""
    if not isinstance(value, str) or len(value) <= LONGEST_TEXT:
        return value
    digest = hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()
    return f"{value[:LONGEST_SHOWN]}... ({len(value):,} characters, SHA-256 {digest})"


def require_seed_used(workspace: Workspace, commits: Mapping[str, str], known: Mapping[str, Value]) -> bool:
    """Return whether both commits have a seed that can be set.

    Raises:
        FalseClaim: only the baseline uses its seed, so that the best is compared at one seed of its choice.
    """
    files = {label: workspace.files(commit) for label, commit in commits.items()}
    if hides_seed(files["a"], files["b"], known):
        raise FalseClaim("its best does not use SEED where the baseline does, so its gain may be that of one seed")
    return None not in [seed_of(each, known) for each in files.values()]
