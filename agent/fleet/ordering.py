"""Turn leases into orders for stations, and what stations answer into runs."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.errors import PreconditionError
from agent.execution.allowance import INCUMBENT
from agent.execution.fingerprint import snapshot
from agent.format import named
from agent.journal.experiment import Experiment, Run
from agent.journal.flight import BASELINE, Lease
from agent.repository.bundle import require_whole, write_order_bundle
from agent.repository.git import Git
from agent.repository.refs import root_of
from agent.repository.workspace import Workspace
from agent.room.sandbox import Mode
from agent.session.context import known_constants
from agent.session.references import side_of
from agent.session.session import Session
from agent.source.seed import with_seed
from agent.station.orders import Answer, Leased, Order, digest_of
from agent.station.records import folder_name
from agent.system import temporary
from agent.system.invocation import version

NEWEST = 2000  # settled leases that an order names: a station keeps 200 runs, and an order is bounded


def require_sendable(workspace: Workspace, commit: str) -> None:
    """Check that a bundle of a commit brings all that stations need to check it out.

    Raises:
        PreconditionError: it does not.
    """
    require_no_submodules(workspace, commit)
    require_no_filters(workspace, commit)
    require_whole(workspace, commit)


def require_no_filters(workspace: Workspace, commit: str) -> None:
    """Refuse a commit with files that a filter must change as git checks them out, such as those of git-lfs.

    A station does not have what such a filter fetches, or its key, so that its checkout fails. Without a filter that
    is not required, git checks a file out as it is.

    Raises:
        PreconditionError: a required filter changes tracked files.
    """
    git = workspace.git
    needed = {name for (name, _), text in _of_filters(git, "required", "--type=bool").items() if text == "true"}
    commands = _of_filters(git, "(smudge|process)")
    active = {name for (name, _), text in commands.items() if text not in ("", "cat")} & needed
    if not active:
        return
    paths = os.fsencode("".join(f"{path}\0" for path in workspace.tree(commit)))
    with temporary.folder() as scratch:  # `check-attr --source` needs git 2.40
        index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
        git.run("read-tree", commit, env=index)
        said = os.fsdecode(git.fed(["check-attr", "--cached", "--stdin", "-z", "filter"], paths, index)).split("\0")
    found = {path: name for path, name in zip(said[::3], said[2::3], strict=False) if name in active}
    if found:
        raise PreconditionError(
            f"stations do not get the files of git's filter {min(found.values())}: {named([*found])}",
            hint="commit the files without it, or leave out `--stations` and `--scheduler`",
        )


def _of_filters(git: Git, key: str, *options: str) -> dict[tuple[str, str], str]:
    """Return (filter, key) -> value of the keys that match; of several values, git uses the last."""
    said = git.asked("config", "-z", *options, "--get-regexp", rf"^filter\..*\.{key}$") or ""
    entries = (entry.partition("\n") for entry in said.split("\0") if entry)
    parts = ((entry.removeprefix("filter.").rpartition("."), text) for entry, _, text in entries)
    return {(name, last): text for (name, _, last), text in parts}


def require_no_submodules(workspace: Workspace, commit: str) -> None:
    """Refuse a commit whose submodules no bundle brings, so that their folders would be empty on stations.

    Raises:
        PreconditionError: the workspace has submodules.
    """
    found = [inside for path in workspace.submodules(commit) if (inside := workspace.inside(path)) is not None]
    if found:
        raise PreconditionError(
            f"the workspace has submodules, which stations do not get: {named(found)}",
            hint="commit the files instead, or leave out `--stations` and `--scheduler`",
        )


class Orders:
    """Makes the orders of one session.

    Attributes:
        session: identifies the session on stations.
        prepares: whether stations run the setup commands.
    """

    def __init__(self, session: Session, sandbox: Mode = "auto", *, setup: bool = True) -> None:
        self._session, self.session = session, ""
        self._sandbox, self.prepares = sandbox, setup
        self._repository = ""
        self._holds: dict[str, set[str]] = {}

    def begin(self) -> None:
        """Name the session and its repository, once the session exists."""
        about, workspace = self._session.state.session, self._session.runner.workspace
        assert about is not None
        named = {name: about.get(name) for name in ("tag", "base", "pid", "fingerprint")}
        if "id" in about:  # sessions of a version before have none, and stations may hold answers for them
            named["id"] = about["id"]
        digest = hashlib.sha256(json.dumps(named, sort_keys=True, default=str).encode()).hexdigest()
        self.session = f"{about['tag'][:40]}-{digest[:16]}"
        self._repository = root_of(workspace, about["base"])

    def has(self, station: str, commit: str) -> None:
        """Note that a station has a commit."""
        self._holds.setdefault(station, set()).add(commit)

    def forget(self, station: str) -> None:
        """Note that it is unknown what a station has, so that it is sent everything."""
        self._holds.pop(station, None)

    def commit_of(self, number: int) -> str:
        """Return the commit of a kept experiment; before the baseline is recorded, that of the session's start."""
        state = self._session.state
        if number < len(state.experiments):
            return state.experiments[number].commit
        assert state.head is not None
        return state.head

    def log_path(self, station: str, lease: str) -> Path:
        """Return where the log of a run is stored."""
        return self._session.journal.path.parent / "stations" / folder_name(station) / f"{lease}.log"

    def log_of(self, lease: Lease) -> Path:
        """Return where the log of a lease is stored, also if the workspace has moved since."""
        path = self.log_path(lease.station, lease.lease)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def order(self, lease: Lease) -> Order:
        """Return the order for a run. One of a comparison has its seed set, and is scored on the holdout."""
        runner, state = self._session.runner, self._session.state
        workspace = runner.workspace
        holds = self._holds.get(lease.station, set())
        bundle = None if lease.commit in holds else write_order_bundle(workspace, lease.commit, sorted(holds))
        assert state.session is not None
        holdout = lease.label is not None
        return Order(
            version=version(),
            session=self.session,
            lease=lease.lease,
            repository=self._repository,
            prefix=workspace.prefix,
            commit=lease.commit,
            base=state.session["base"],
            files=self._seeded(lease),
            bundle=bundle,
            snapshot=snapshot(runner.protocol).get("id"),
            training_seconds=runner.training_seconds,
            sandbox=self._sandbox,
            setup=self.prepares,
            untraced=runner.harness.untraced if runner.harness else False,
            holdout=holdout,
            holdout_command=state.flags.get("holdout") if holdout else None,
            **self._references(lease),
            settled=self._settled(),
        )

    def is_of(self, answer: Answer, lease: Lease) -> bool:
        """Return whether a station measured what the lease is about."""
        return answer.run is None or answer.measured == digest_of(lease.commit, self._seeded(lease))

    def run_of(self, answer: Answer, lease: Lease) -> Run:
        """Return the run of an answer, with its station and its log here. A failed one replaces no earlier runs."""
        assert answer.run is not None
        rebased = lease.rebase and answer.run.metric is not None
        return replace(answer.run, station=lease.station, log=lease.log, seed=lease.seed, rebased=rebased)

    def runs_on(self, number: int, station: str) -> tuple[Run, ...]:
        """Return the runs of a kept experiment on one station."""
        state = self._session.state
        own: tuple[Run, ...] = state.experiments[number].runs if number < len(state.experiments) else ()
        return tuple(run for run in (*own, *state.flight.kept.get(number, ())) if run.station == station)

    def _seeded(self, lease: Lease) -> dict[str, str]:
        """Return the files of the lease's commit that change if its seed is set."""
        if lease.seed is None:
            return {}
        files, known = self._session.runs.files(lease.commit), known_constants(self._session.runner.protocol)
        return dict(with_seed(files, known, lease.seed))

    def _references(self, lease: Lease) -> dict[str, Any]:
        """Return the runs on the same station with which a run is compared, as fields of `Order`.

        They are those of `agent.session.references`.
        """
        kept = [each for each in self._session.state.experiments if each.kept]
        if not kept:
            return {}
        own = self._kept(kept, lease)
        before = [own] if lease.candidate is not None else [each for each in kept if each.number < own.number]
        # A candidate may have begun before the latest was kept, and a comparison names its sides otherwise.
        latest = lease.label is None and own is kept[-1]
        return {
            "own": self._leased(own.number, lease.station),
            "baseline": self._leased(BASELINE, lease.station),
            "other": self._leased(before[-1].number, lease.station) if before else (),
            "side": INCUMBENT if latest else side_of(kept, own),
        }

    def _kept(self, kept: list[Experiment], lease: Lease) -> Experiment:
        candidate = self._session.state.flight.candidates.get(lease.candidate) if lease.candidate is not None else None
        number = candidate.base if candidate is not None else lease.of
        return next((each for each in kept if each.number == number or each.commit == lease.commit), kept[-1])

    def _leased(self, number: int, station: str) -> tuple[Leased, ...]:
        return tuple(Leased(run, Path(run.log).stem) for run in self.runs_on(number, station) if run.metric is not None)

    def _settled(self) -> tuple[str, ...]:
        """Return the newest leases whose logs no later run needs: those of candidates that were not kept."""
        state = self._session.state
        kept = [each for each in state.experiments if each.kept]
        needed = {Path(run.log).stem for each in kept for run in each.runs}
        needed |= {Path(run.log).stem for runs in state.flight.kept.values() for run in runs}
        needed |= {Path(run.log).stem for each in state.flight.candidates.values() for run in each.runs}
        known = needed | {*state.flight.leases}
        done = (str(number) for number in range(state.flight.leased, 0, -1) if str(number) not in known)
        return tuple(sorted(itertools.islice(done, NEWEST)))
