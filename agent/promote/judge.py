"""Compare two commits at a rung by held-out runs, in pairs as `confirm` does, and say whether the gain transfers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from agent.comparison.compare import compare
from agent.comparison.confirm import described
from agent.comparison.evidence import HOLDOUT, ONE_SEED, alike, evidence, sample_of
from agent.comparison.pairs import Pairs, logs_of, plan_pairs, unfinished
from agent.errors import AutoresearchError
from agent.journal.comparison import PendingComparison
from agent.journal.experiment import Run
from agent.journal.state import State
from agent.promote.rung import why_no_longer
from agent.report.gain import standing
from agent.session.workbench import Workbench

Part = Literal["whole", "each", "rest"]
PARTS: tuple[Part, ...] = ("whole", "each", "rest")
Verdict = Literal["transfers", "does not transfer", "undecided"]
# A gain that is shown to be smaller than this fraction of the gain in the session does not transfer.
NEGLIGIBLE = 0.1


@dataclass(frozen=True)
class Measured:
    """A comparison that is complete.

    Attributes:
        commits: label -> commit.
        runs: label -> runs that count; those of a label that failed end with a run without a metric.
        seeds: of the pairs; empty if runs have the recipe's own seed.
        one_seed: why they have; None if they have not.
    """

    commits: Mapping[str, str]
    runs: Mapping[str, Sequence[Run]]
    seeds: tuple[int, ...]
    one_seed: str | None

    def failure(self, label: str) -> str | None:
        """Return why the runs of a label failed; None if they succeeded."""
        last = self.runs[label][-1]
        return None if last.metric is not None else last.error or "no metric"


def measure(bench: Workbench, commits: Mapping[str, str], pairs: Pairs, part: Part) -> Measured:
    """Run commits alternately at the rung. All but the first may fail.

    Args:
        bench: with a rung.
        commits: label -> commit.
        pairs: how many runs of each, and with which seeds.
        part: of the promotion. Each has logs and seeds of its own.

    Raises:
        AutoresearchError: the first failed, or the recipe ignores the training budget of the rung.
    """
    begun = unfinished(bench, commits)
    seeds, one_seed, again = plan_pairs(bench, commits, [*_at_rung(bench), *begun], pairs)
    folder = _log_folder(bench) / (f"{part}-{len(begun) + 1}" if begun else part)
    if again is not None:
        folder = logs_of(again) or folder
    else:
        seeds = tuple(seed + PARTS.index(part) * pairs.count for seed in seeds)
    first = next(iter(commits))
    runs = compare(bench, commits, pairs.count, folder, seeds, commits.keys() - {first})
    _require_longer(bench, [run for each in runs.values() for run in each])
    return Measured(commits, runs, seeds, one_seed)


def _log_folder(bench: Workbench) -> Path:
    """Return where the logs of a promotion go: two may be under way, each at its rung."""
    state, rung = bench.journal.state, bench.rung
    assert state.incumbent is not None and rung is not None
    conditions = json.dumps(rung.to_dict(), sort_keys=True, default=str)
    which = f"{len(state.promotions) + 1}-{hashlib.sha256(conditions.encode()).hexdigest()[:6]}"
    return bench.journal.path.parent / "promote" / f"{state.incumbent.commit[:12]}-{which}"


def _require_longer(bench: Workbench, runs: Sequence[Run]) -> None:
    state, rung = bench.journal.state, bench.rung
    assert state.session is not None and state.baseline is not None and rung is not None
    own = state.session["fingerprint"].get("training_seconds")
    if took := why_no_longer(own, rung.training_seconds, state.baseline.runs, runs):
        raise AutoresearchError(
            f"the recipe ignores --training-seconds: a run took {took}",
            hint="let it read AUTORESEARCH_TRAINING_SECONDS, or set the budget in its own constant with --set",
        )


def judge(bench: Workbench, measured: Measured, a: str, b: str, own: float | None) -> dict[str, Any]:
    """Return the gain of `b` over `a` at the rung with its verdict, as plain data.

    All runs at this rung count, including those of earlier promotions, and the whole pairs of those that were begun
    with another number of pairs and not finished.

    Args:
        bench: with a rung.
        measured: the latest runs.
        a: a label, as is `b`. Both succeeded.
        b: see `a`.
        own: the gain in the session, as a fraction of the baseline; None if unknown.
    """
    commits = {"a": measured.commits[a], "b": measured.commits[b]}
    pair = set(commits.values())
    every = alike(bench.journal.state.comparison, [*_at_rung(bench), *_given_up(bench, measured.commits)])
    earlier = [each for each in every if pair <= set(each.commits.values())]
    sample = sample_of(commits, {"a": measured.runs[a], "b": measured.runs[b]}, earlier, measured.seeds)
    found = evidence(bench, commits, sample)
    reason = found.pop("reason")
    says, why = verdict_at(found, own)
    return {
        **described(bench, commits, sample),
        "seeds": [*dict.fromkeys(run.seed for run in sample.runs["a"] if run.seed is not None)],
        "one_seed": measured.one_seed,
        **found,
        "verdict": says,
        "why": (why == ONE_SEED and reason) or why,
    }


def failed(bench: Workbench, measured: Measured, a: str, b: str, verdict: Verdict, why: str) -> dict[str, Any]:
    """Return the same for a pair of which a side failed, without a gain."""
    commits = {"a": measured.commits[a], "b": measured.commits[b]}
    nothing = dict.fromkeys(("gain", "low", "high", "noise", "holdout", "cost"))
    return {
        **described(bench, commits, sample_of(commits, dict.fromkeys("ab", ()), (), measured.seeds)),
        "seeds": list(measured.seeds),
        "one_seed": measured.one_seed,
        "means": {},
        **nothing,
        "verdict": verdict,
        "why": why,
    }


def verdict_at(found: Mapping[str, Any], own: float | None) -> tuple[Verdict, str]:
    """Return the verdict that the evidence of held-out runs allows, and what keeps it from another.

    Args:
        found: what `confirm.evidence` returned.
        own: the gain in the session, as a fraction of the baseline; None if unknown.
    """
    if found["verdict"] == "confirmed":
        return "transfers", ""
    holdout = found["holdout"]
    if found["why"] == HOLDOUT and holdout is not None and holdout["high"] < 0:
        return "does not transfer", HOLDOUT
    least = NEGLIGIBLE * max(0.0, own or 0.0) * abs(found["means"]["a"])
    if found["high"] <= 0:
        return "does not transfer", ""
    if found["high"] < least:
        return "does not transfer", f"less than {100 * NEGLIGIBLE:.0f} % of the gain in the session"
    return "undecided", found["why"]


def gain_in_session(state: State) -> float | None:
    """Return the gain of the best over the baseline in the session, as a fraction of the baseline."""
    stands = standing(state)
    found = stands.apparent if stands.confirmed is None else stands.confirmed
    return found / abs(stands.baseline) if found is not None and stands.baseline else None


def _given_up(bench: Workbench, commits: Mapping[str, str]) -> list[PendingComparison]:
    """Return the unfinished comparisons of these commits other than the one in progress."""
    latest = bench.journal.state.comparison
    return [replace(each, unfinished=True) for each in unfinished(bench, commits) if each != latest]


def _at_rung(bench: Workbench) -> list[PendingComparison]:
    return [each for each in bench.journal.state.climbed if each.rung == bench.rung]
