"""Verify a claim in another workspace: check its parts, repeat its runs with new seeds, and attest the result."""

from __future__ import annotations

import dataclasses
import math
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.claim import check
from agent.claim.data import provide, reading
from agent.claim.figures import in_words
from agent.claim.folder import Evidence, read_claim
from agent.claim.machine import holdout_id, machine_of
from agent.claim.models import Attestation, Claim, Interval
from agent.claim.replicate import Found, Setting, raise_if_asked, replicate
from agent.claim.target import save
from agent.claim.target import target as attestation_target
from agent.decision import anytime
from agent.errors import AutoresearchError, Interrupted, PreconditionError
from agent.execution.awake import kept_awake
from agent.execution.fingerprint import fingerprint
from agent.execution.measure import Runner
from agent.execution.setup import set_up
from agent.format import counted, one_line
from agent.journal.experiment import mean
from agent.journal.paths import state_folder
from agent.repository.outputs import require_no_part_of_session
from agent.room.sandbox import Mode
from agent.session.context import known_constants
from agent.session.opening import cloned, open_runner, prepared, showing
from agent.session.signals import Interrupts
from agent.source.seed import seed_of
from agent.system.files import remove_tree
from agent.system.invocation import version

OWN_SEED = "the recipe's own seed only"
CLAIMS = "claims"  # below the state folder: logs of verifications


@dataclass(frozen=True)
class VerifyConfig:
    """How to verify.

    Attributes:
        pairs: the most pairs of runs.
        setup: run the setup commands of the workspace's protocol if they are due.
        out: where to write the attestation; None for a new file in the claim's folder.
    """

    pairs: int
    sandbox: Mode
    setup: bool
    out: Path | None


def verify(folder: Path, claim: Path, config: VerifyConfig) -> dict[str, Any]:
    """Verify a claim in a workspace, and return the attestation, which is also written, as plain data.

    Raises:
        UsageError: `claim` is not a claim, or the attestation would replace something else.
        FalseClaim: its parts contradict each other.
        PreconditionError: the workspace has another protocol or harness, or the data or the baseline fails here.
        AutoresearchError: the attestation could not be written; the message has the result.
    """
    evidence = read_claim(claim)
    target = attestation_target(claim, config.out)
    check.require_named_protocol(evidence)
    with open_runner(folder, "verify", evidence.claim.training_seconds, config.sandbox, stops=False) as opened:
        require_no_part_of_session(target, opened.workspace)
        _require_confined(opened, config.sandbox)
        # First, because the pattern of another protocol, which reads the logs, is a stranger's.
        check.require_own_rules(evidence, opened.workspace)
        check.require_consistent(evidence)
        say(f"{claim}: its logs, figures and protocol agree")
        interrupts = Interrupts()
        interrupts.on_first = lambda: say("stopping")
        interrupts.install()
        with cloned(dataclasses.replace(opened, say=say), "verify") as runner:
            found = _replicated(evidence, opened, runner, interrupts, config)
        about = fingerprint(opened.protocol, opened.training_seconds, "")
    attestation = _attestation(evidence, found, about, opened)
    says = f"{line(attestation)}{_of_other_budget(opened)}"
    save(target, attestation, says)
    return {**attestation.model_dump(mode="json"), "says": says, "path": str(target)}


def _replicated(
    evidence: Evidence, opened: Runner, runner: Runner, interrupts: Interrupts, config: VerifyConfig
) -> Found:
    claim, workspace = evidence.claim, runner.workspace

    def tick() -> None:
        raise_if_asked(interrupts, 0)

    commits = check.fetch(evidence, workspace, f"refs/autoresearch/{CLAIMS}/{evidence.digest[:12]}", tick)
    tick()
    say("its commits have the harness of HEAD, and the best changes only files that may change")
    logs = state_folder(opened.workspace.folder) / CLAIMS / evidence.digest[:12]
    try:
        provide(claim.snapshot, workspace, say, tick)
        if config.setup:
            set_up(opened, state_folder(opened.workspace.folder), say, tick)
    except AutoresearchError:
        tick()  # Ctrl-C has ended the preparation as well
        raise
    with reading(claim.snapshot):
        known = known_constants(runner.protocol)
        check.require_described(claim, workspace, known)
        seeds = check.require_seed_used(workspace, commits, known)
        if not seeds and seed_of(workspace.files(workspace.head), known) is not None:
            say(f"the recipe of HEAD has a seed, and a commit of the claim has none: the result holds for {OWN_SEED}")
        steps = check.fewest_steps(evidence)
        remove_tree(logs)
        with prepared(runner, setup=False) as ready, kept_awake():
            ready = showing(opened.workspace, ready, commits["b"])
            setting = Setting(ready, commits, known, seeds, steps, logs, interrupts, say)
            try:
                _tell_holdout(claim, ready)
                _tell_budget(ready, config.pairs)
                return replicate(setting, claim, config.pairs)
            except Interrupted:
                remove_tree(logs)
                raise


def _tell_holdout(claim: Claim, runner: Runner) -> None:
    """Say before the runs if the holdout here is not that of the claim."""
    if claim.confirmation.holdout is None:
        return
    if runner.harness is None or runner.harness.holdout is None:
        say("the claim has a holdout and this machine has none, so the result cannot be `replicated`")
    elif holdout_id(claim.snapshot.id if claim.snapshot else None) != claim.holdout:
        say("the holdout here is another one than the claim's; the gain must show on it as well")


def _tell_budget(runner: Runner, pairs: int) -> None:
    """Say before the runs how long they train, which the author of the claim has chosen."""
    seconds, usual = runner.training_seconds, runner.protocol.training_seconds
    if seconds is not None:
        known = "none" if usual is None else f"{usual:g} s"
        say(f"runs train for {seconds:g} s (budget of the protocol: {known}), up to {counted(pairs, 'pair')}")


def _of_other_budget(runner: Runner) -> str:
    """Return a clause if runs train for longer or shorter than the protocol says, or nothing."""
    seconds, usual = runner.training_seconds, runner.protocol.training_seconds
    if seconds == usual or seconds is None:
        return ""
    return f"; runs trained for {seconds:g} s" + ("" if usual is None else f", not the {usual:g} s of the protocol")


def _require_confined(runner: Runner, mode: Mode) -> None:
    if runner.sandbox.way is None and mode != "off":
        raise PreconditionError(
            "runs cannot be confined here, and a claim is code of somebody else's",
            hint="install bubblewrap, or accept the risk with `--sandbox off`",
        )


def _attestation(evidence: Evidence, found: Found, about: dict[str, Any], runner: Runner) -> Attestation:
    claim = evidence.claim
    now = found.interval(claim.direction)
    held = found.interval(claim.direction, holdout=True)
    shows = claim.confirmation
    return Attestation(
        version=1,
        claim=evidence.digest,
        program=version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        verdict=found.verdict,
        why=None if found.why is None else one_line(found.why)[:1000],
        metric=claim.metric,
        direction=claim.direction,
        claimed=Interval(gain=shows.gain, low=shows.low, high=shows.high),
        found=_plain(now),
        percent=_plain(now, 100 / abs(found.baseline)) if now is not None and found.baseline else None,
        holdout=_plain(held),
        noise=found.noise(claim.direction),
        pairs=found.pairs,
        training_seconds=runner.training_seconds,
        machine=machine_of(about),
        sandbox=runner.sandbox.says,
    )


def _plain(found: anytime.Interval | None, times: float = 1.0) -> Interval | None:
    if found is None:
        return None
    low, high = (value * times if math.isfinite(value) else None for value in (found.low, found.high))
    return Interval(gain=found.gain * times, low=low, high=high)


def line(about: Attestation) -> str:
    """Say the result in one line: `replicated: 0.8 % better, 95 % interval 0.6 to 1.0 %, 3 seeds`."""
    found = about.found
    varied = all(pair.seed is not None for pair in about.pairs)
    runs = counted(len(about.pairs), "seed") if varied else f"{counted(len(about.pairs), 'pair')} with {OWN_SEED}"
    if about.why is not None:
        return f"{about.verdict}: {about.why}"
    if found is None or found.low is None or found.high is None:
        return f"{about.verdict}: too few runs for an interval, {runs}"
    baseline = mean([pair.a for pair in about.pairs])
    said = f"{about.verdict}: {in_words(found.gain, found.low, found.high, baseline)}, {runs}"
    low, high = about.claimed.low, about.claimed.high
    if low is None or high is None or (found.high >= low and about.verdict == "replicated"):
        return said
    return f"{said}; claimed was {in_words(about.claimed.gain, low, high, baseline)}"


def say(text: str) -> None:
    """Print a line of progress on stderr."""
    print(one_line(text), file=sys.stderr, flush=True)
