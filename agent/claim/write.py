"""Write the claim of a session: one small folder with all that another machine needs to check its gain."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agent.claim import check
from agent.claim.excerpt import excerpt
from agent.claim.figures import confirmation_of, in_words
from agent.claim.folder import (
    ATTESTATIONS,
    BUNDLE,
    CLAIM,
    LARGEST_BUNDLE,
    LARGEST_PROTOCOL,
    parsed_claim,
    read_claim,
)
from agent.claim.machine import data_of, holdout_id, machine_of
from agent.claim.models import CLAIM_SCHEMA, Claim, ClaimedRun, Commits, Confirmation, Sides, claim_schema
from agent.decision.schedule import counted
from agent.errors import PreconditionError, UsageError
from agent.format import counted as number_of
from agent.journal.comparison import PendingComparison
from agent.journal.experiment import Run, succeeded
from agent.journal.journal import fold
from agent.journal.paths import find_session, journal_path, own_log, state_folder
from agent.journal.state import State
from agent.protocol.changes import clause_of, protocol_of
from agent.protocol.load import fault_of, load_protocol
from agent.protocol.models import Protocol
from agent.repository.bundle import write_bundle
from agent.repository.workspace import Workspace
from agent.session.context import known_constants
from agent.source.seed import seed_of
from agent.system.files import read_bounded, reason, remove_tree, write_whole
from agent.system.invocation import git_here, here, typed, version
from agent.system.names import PROTOCOL

MB = 2**20
LONGEST_NAME = 255  # of a folder, which a long tag would exceed
Runs = Mapping[str, Sequence[Run]]


def write_claim(folder: Path, tag: str | None, out: Path | None) -> list[str]:
    """Write the claim of a session, and return what to tell the user.

    Args:
        folder: the workspace.
        tag: the session; None for the most recent one.
        out: the folder to write; None for `claim-TAG` in the current folder.

    Raises:
        PreconditionError: the session's gain is not confirmed, its evidence is incomplete, a claim cannot hold it, or
            it was measured on stations.
        UsageError: `out` exists and is not a claim, or is another one that was attested.
    """
    folder = folder.resolve()
    tag = find_session(folder, tag)
    target = out or Path(_folder_name(tag))
    earlier = _require_replaceable(target)
    state = fold(journal_path(folder, tag))
    _require_one_machine(state, tag)
    protocol = load_protocol(folder)
    workspace = Workspace(folder, protocol)
    _require_outside(target, workspace)
    confirmed = _confirmation(state, tag)
    _require_same_protocol(state, workspace, tag)
    _require_seeds(workspace, confirmed, tag)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".claim-") as name:
        part = Path(name) / "claim"
        (part / "logs").mkdir(parents=True)
        try:
            claim = _claim(part, workspace, state, confirmed)
        except ValidationError as error:
            raise PreconditionError(f"session {tag} does not fit into a claim: {fault_of(error)}") from None
        write_whole(part / CLAIM, json.dumps(claim.model_dump(by_alias=True, mode="json"), indent=2) + "\n")
        write_whole(part / CLAIM_SCHEMA, json.dumps(claim_schema(), indent=2) + "\n")
        write_whole(part / PROTOCOL, read_bounded(folder / PROTOCOL, LARGEST_PROTOCOL))
        write_bundle(workspace, part / BUNDLE, claim.commits.model_dump())
        size = (part / BUNDLE).stat().st_size
        if size > LARGEST_BUNDLE:
            raise PreconditionError(f"the history of both commits takes {size // MB} MiB, at most 256 MiB are allowed")
        evidence = read_claim(part)
        check.require_consistent(evidence)
        _replace(target, part, same=earlier is not None and _undated(earlier) == _undated(evidence.claim))
    about, written = claim.confirmation, sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    return [
        f"{claim.metric} {in_words(about.gain, about.low, about.high, about.means.a)}, "
        f"{number_of(len(claim.runs.a), 'run')} of baseline and best each",
        f"wrote {here(target)} ({written / MB:.1f} MiB)",
        f"check it on another machine with `autoresearch verify {here(target)}`",
    ]


def _require_replaceable(target: Path) -> Claim | None:
    """Return the claim that is there; None if there is nothing. Raises UsageError if it is anything else."""
    try:
        other = target.is_symlink() or (target.exists() and not target.is_dir())
    except OSError as error:  # a name that is too long
        raise UsageError(f"cannot write {here(target)}: {reason(error)}", hint="choose another --out") from None
    if other:
        raise UsageError(f"{here(target)} is not a folder", hint="choose another --out")
    if not target.is_dir() or not any(target.iterdir()):
        return None
    try:
        return parsed_claim(target)[0]
    except UsageError:
        raise UsageError(f"{here(target)} is not empty and is not a claim", hint="choose another --out") from None


def _require_outside(target: Path, workspace: Workspace) -> None:
    """Raise UsageError if a folder is in git's own, or in that of the workspace's state."""
    place = Path(os.path.realpath(target))  # unlike resolve, it takes a link to itself
    folders = {workspace.git.folder: "git", state_folder(workspace.folder): "the program"}
    owner = next((owner for folder, owner in folders.items() if place.is_relative_to(folder.resolve())), None)
    if owner is not None:
        raise UsageError(f"{here(target)} is in a folder that belongs to {owner}", hint="choose another --out")


def _undated(claim: Claim) -> Claim:
    return claim.model_copy(update={"created": ""})


def _replace(target: Path, part: Path, *, same: bool) -> None:
    """Move the new claim into place. Attestations name the hash of claim.json, so one that was attested stays as it is.

    Args:
        same: whether the claim that is there differs by its date at most.

    Raises:
        UsageError: the claim that is there is another one, and was attested.
    """
    attested = _holds_something(target / ATTESTATIONS)
    if attested and not same:
        raise UsageError(
            f"{here(target)} is another claim, which has attestations",
            hint=f"choose another --out, or remove {here(target / ATTESTATIONS)}",
        )
    kept = (CLAIM,) if attested else ()
    target.mkdir(exist_ok=True)
    for path in [each for each in part.iterdir() if each.name not in kept]:
        remove_tree(target / path.name)
        (target / path.name).unlink(missing_ok=True)
        path.replace(target / path.name)


def _holds_something(place: Path) -> bool:
    return any(place.iterdir()) if place.is_dir() else os.path.lexists(place)


def _require_one_machine(state: State, tag: str) -> None:
    """Raise PreconditionError if stations made the session's runs: a claim is about one machine, whose runs compare."""
    if stations := state.flight.stations:
        raise PreconditionError(
            f"session {tag} was measured on {number_of(len(stations), 'station')}, and a claim describes one machine",
            hint=f"`{typed(f'report --tag {tag}')}` shows its evidence by station",
        )


def _folder_name(tag: str) -> str:
    name = f"claim-{tag}"
    return name if len(name) <= LONGEST_NAME else f"{name[:200]}-{hashlib.sha256(tag.encode()).hexdigest()[:8]}"


def _confirmation(state: State, tag: str) -> Mapping[str, Any]:
    """Return the session's confirmation. Raises PreconditionError if there is none, or it does not show the gain."""
    hint = f"run `{typed(f'confirm --tag {tag}')}` first"
    if state.baseline is None or state.incumbent is None or state.incumbent.number == 0:
        raise PreconditionError(f"session {tag} kept nothing better than the baseline, so it has no gain to claim")
    found = state.confirmation
    if found is None:
        raise PreconditionError(f"the gain of session {tag} is not confirmed by held-out runs yet", hint=hint)
    if found.get("verdict") != "confirmed":
        why = f": {found['why']}" if found.get("why") else ""
        raise PreconditionError(f"the gain of session {tag} is {found.get('verdict')}{why}, so it cannot be claimed")
    return found


def _require_same_protocol(state: State, workspace: Workspace, tag: str) -> None:
    assert state.session is not None
    if state.session["fingerprint"].get("protocol") != workspace.protocol.digest:
        old = protocol_of(workspace.show(state.session["base"], PROTOCOL))
        switch = f"{git_here(workspace.top)} switch {shlex.quote(state.session['branch'])}"
        raise PreconditionError(
            f"{PROTOCOL} has changed since session {tag}{clause_of(old, workspace.protocol)}",
            hint=f"switch to its branch with `{switch}`, then run the same command again",
        )


def _require_seeds(workspace: Workspace, confirmed: Mapping[str, Any], tag: str) -> None:
    """Raise PreconditionError if the confirmation has one seed although others can be set: its gain may be luck."""
    known = known_constants(workspace.protocol)
    seeds = [seed_of(workspace.files(confirmed[label]), known) for label in ("a", "b")]
    if not confirmed.get("seeds") and None not in seeds:
        raise PreconditionError(
            f"the latest confirmation of session {tag} is for one seed alone, and its recipe takes others",
            hint=f"run `{typed(f'confirm --tag {tag}')}`, then run the same command again",
        )


def _claim(part: Path, workspace: Workspace, state: State, confirmed: Mapping[str, Any]) -> Claim:
    """Return the content of claim.json, and write the logs that it names into `part`."""
    assert state.session is not None
    session, protocol = state.session, workspace.protocol
    runs = _held_out(state, confirmed)
    sides = Sides(**{label: _claimed(workspace, part, label, each) for label, each in runs.items()})
    about = session["fingerprint"]
    commits = Commits(baseline=confirmed["a"], best=confirmed["b"])
    looks = len(_comparisons(state, confirmed)) - 1
    shows = _shown(sides, looks, protocol, session["tag"])
    return Claim(
        schema_="claim.schema.json",
        version=1,
        program=version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        tag=session["tag"],
        metric=protocol.metric.name,
        direction=protocol.metric.direction,
        commits=commits,
        changes=check.changes_of(workspace, commits.baseline, commits.best, known_constants(protocol)),
        protocol=protocol.digest,
        harness=workspace.harness_digest(session["base"]),
        snapshot=data_of(protocol, about.get("snapshot")),
        holdout=holdout_id(about.get("snapshot")) if shows.holdout else None,
        machine=machine_of(about),
        training_seconds=about.get("training_seconds"),
        runs=sides,
        looks=looks,
        confirmation=shows,
        statement=_statement(state),
        unconfined=any(run.unconfined for run in (*runs["a"], *runs["b"])),
        unattested=any(run.source == "untraced" for run in (*runs["a"], *runs["b"])),
    )


def _held_out(state: State, confirmed: Mapping[str, Any]) -> Runs:
    """Return the runs that the confirmation is based on: those with seeds set, or those with the recipe's own."""
    varied = bool(confirmed.get("seeds"))
    return {
        label: [
            run
            for each in _comparisons(state, confirmed)
            for own in each.commits
            if each.commits[own] == commit
            for run in succeeded(counted(each, own))
            if (run.seed is not None) == varied
        ]
        for label, commit in ((label, confirmed[label]) for label in ("a", "b"))
    }


def _comparisons(state: State, confirmed: Mapping[str, Any]) -> list[PendingComparison]:
    """Return all comparisons of the two commits whose runs, like the confirmation's, have new seeds, or have not."""
    pair, varied = {confirmed["a"], confirmed["b"]}, bool(confirmed.get("seeds"))
    same = [each for each in state.compared if set(each.commits.values()) == pair]
    return [each for each in same if bool(each.seeds) == varied]


def _shown(sides: Sides, looks: int, protocol: Protocol, tag: str) -> Confirmation:
    shows = confirmation_of(sides, protocol.metric.direction, looks)
    if shows is None:
        raise PreconditionError(
            f"the held-out runs of session {tag} do not show its gain by themselves",
            hint=f"add some with `{typed(f'confirm --tag {tag}')}`, then run the same command again",
        )
    return shows


def _claimed(workspace: Workspace, part: Path, label: str, runs: Sequence[Run]) -> list[ClaimedRun]:
    """Return the runs of a side as claim.json has them, and write their logs: of one that is too long a part."""
    found = []
    for index, run in enumerate(runs, 1):
        name = f"logs/{label}-{index}.log"
        about = _about(run, name)

        def shows(log: bytes, about: ClaimedRun = about) -> bool:
            return check.fault_of_metric(about, log, workspace.protocol) is None

        try:
            log = excerpt(own_log(workspace.folder, run.log), shows)
        except OSError as error:
            raise PreconditionError(
                f"the log of a held-out run is missing: {run.log}: {reason(error)}",
                hint=f"repeat the runs with `{typed('confirm')}`",
            ) from None
        write_whole(part / name, log, durable=False)
        found.append(about.model_copy(update={"sha256": hashlib.sha256(log).hexdigest()}))
    return found


def _about(run: Run, log: str) -> ClaimedRun:
    """Return a run as claim.json has it, without the hash of its log."""
    assert run.metric is not None
    return ClaimedRun(
        metric=run.metric,
        holdout=run.holdout,
        seed=run.seed,
        seconds=run.seconds,
        num_steps=run.secondary.get("num_steps"),
        source=run.source,
        log=log,
        sha256="0" * 64,
    )


def _statement(state: State) -> dict[str, Any] | None:
    """Return the session's statement about its night; None if this version makes none."""
    with contextlib.suppress(ImportError):
        found = importlib.import_module("agent.report.statement").statement(state)
        return found if isinstance(found, dict) else None
    return None
