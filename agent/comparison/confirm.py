"""Confirm a gain: compare baseline and best, or any two commits, by held-out runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.comparison.compare import compare as compare_here
from agent.comparison.evidence import Sample, alike, evidence_in_session, on_reference, runs_that_count, sample_of
from agent.comparison.pairs import BY_DEFAULT, Pairs, logs_of, plan_pairs, unfinished
from agent.errors import PreconditionError, UsageError
from agent.execution.measure import Runner
from agent.journal.comparison import PendingComparison
from agent.journal.experiment import REPEATED, Run, metrics, reservations
from agent.journal.state import State, experiment_named, side
from agent.report.inspection import find, is_number
from agent.session.workbench import Workbench
from agent.system.invocation import typed

# (bench, commits, runs per commit, folder of the logs, seeds of the runs) -> label -> runs that count
Compare = Callable[[Workbench, Mapping[str, str], int, Path, Sequence[int]], Mapping[str, Sequence[Run]]]


def sides(runner: Runner, state: State, a: str | None, b: str | None) -> dict[str, str]:
    """Return the two commits to compare, as `a` and `b`.

    Without names these are the baseline and the best. A single name is compared with the baseline.

    Args:
        a: the number of an experiment, `best`, `baseline`, or anything that git resolves to a commit. So is `b`.

    Raises:
        UsageError: a name is not a commit, or both are the same program.
        PreconditionError: there is nothing to compare.
    """
    baseline, best = state.baseline, state.incumbent
    if baseline is None or best is None:
        start = typed(f"run --tag {state.session['tag'] if state.session else 'NAME'}")
        raise PreconditionError("the session has no baseline yet", hint=f"run it first with `{start}`")
    if a is not None and b is None:
        a, b = None, a
    if b is None and best.number == 0:
        raise PreconditionError("nothing better than the baseline was kept, so no gain can be confirmed")
    found = {
        "a": baseline.commit if a is None else _commit(runner, state, a),
        "b": best.commit if b is None else _commit(runner, state, b),
    }
    own = {label: _experiment_of(runner, state, commit) for label, commit in found.items()}
    if own["a"] == own["b"] and found["a"] != found["b"]:
        raise UsageError(
            f"{a or 'baseline'} and {b} are the same program",
            hint="choose two that differ, such as two experiment numbers",
        )
    return own


def _commit(runner: Runner, state: State, name: str) -> str:
    found = experiment_named(state, name)
    commit = found.commit if found is not None else runner.workspace.resolve(name)
    if commit is None:
        if is_number(name):
            assert state.session is not None
            find(state, state.session["tag"], name)  # which says what the session has
        raise UsageError(f"unknown commit {name[:80]!r}", hint="use an experiment number, or a hash from results.tsv")
    return commit


def _experiment_of(runner: Runner, state: State, commit: str) -> str:
    """Return the commit of the experiment with the same program, else the commit itself.

    A commit that only adds rows has the same program, and its result counts for the experiment.
    """
    commits = dict.fromkeys(e.commit for e in reversed(state.experiments))
    if commit in commits:
        return commit
    return next((own for own in commits if not runner.workspace.diff(own, commit)), commit)


def confirm(
    bench: Workbench, commits: Mapping[str, str], pairs: Pairs = BY_DEFAULT, compare: Compare = compare_here
) -> dict[str, Any]:
    """Compare the commits `a` and `b`, and journal and return the evidence as plain data.

    Runs come in pairs, one of each commit with the same seed, which neither the recipe nor an earlier pair has used.
    All held-out runs of the two count, including those of earlier confirmations, and the whole pairs of those that were
    begun with another number of pairs and not finished: else bad ones could be dropped.

    Args:
        bench: what every step uses.
        commits: label -> commit.
        pairs: how many, with which seeds.
        compare: makes the runs: here, or on stations.

    Raises:
        UsageError: a command for the holdout is given where the harness scores it.
    """
    journal = bench.journal
    pair = set(commits.values())
    earlier = [each for each in journal.state.compared if len(pair) > 1 and set(each.commits.values()) == pair]
    begun = unfinished(bench, commits)
    plan, one_seed, again = plan_pairs(bench, commits, [*earlier, *begun], pairs)
    folder = _log_folder(bench, commits, len(earlier) + len(begun), again)
    scored = scoring(bench, pairs.holdout)
    latest = compare(scored, commits, pairs.count, folder, plan)
    given_up = _given_up(journal.state, commits)
    whole = sum(len(runs_that_count(each, next(iter(each.commits)))) for each in given_up)
    same = [*alike(journal.state.comparison, earlier), *given_up]
    sample = on_reference(journal.state, sample_of(commits, latest, same, plan))
    data = {
        **described(bench, commits, sample),
        "seeds": list(plan),
        "unfinished": whole,
        "one_seed": one_seed,
        **evidence_in_session(scored, commits, sample),
    }
    journal.append("confirmed", **data)
    return data


def _log_folder(bench: Workbench, commits: Mapping[str, str], known: int, again: PendingComparison | None) -> Path:
    """Return where the logs go: where those of an interrupted comparison are, or else where no other has any.

    Args:
        bench: what every step uses.
        commits: label -> commit.
        known: number of comparisons of the two so far.
        again: the interrupted one.
    """
    if again is not None and (there := logs_of(again)) is not None:
        return there
    name = f"{commits['a'][:12]}-{commits['b'][:12]}"
    return bench.journal.path.parent / "confirm" / (f"{name}-{known + 1}" if known else name)


def _given_up(state: State, commits: Mapping[str, str]) -> list[PendingComparison]:
    """Return the unfinished comparisons of the two commits whose runs add to those of the one in progress."""
    if commits["a"] == commits["b"]:
        return []
    return [replace(each, unfinished=True) for each in state.given_up]


def described(bench: Workbench, commits: Mapping[str, str], sample: Sample) -> dict[str, Any]:
    """Return the commits and their runs, as fields of `confirmed`."""
    state, runs = bench.journal.state, sample.runs
    return {
        **commits,
        "names": {label: side(state, label, commit) for label, commit in commits.items()},
        "metric": bench.runner.protocol.metric.name,
        "values": {label: sample.values(label) for label in runs},
        "runs": {label: len(metrics(each)) for label, each in runs.items()},
        "reservations": [
            *reservations([*runs["a"], *runs["b"]]),
            *([REPEATED] if _one_sided_faults(state, commits) else []),
        ],
    }


def _one_sided_faults(state: State, commits: Mapping[str, str]) -> bool:
    """Return whether faults of the GPU ended held-out runs of one of the two commits alone."""
    every = (*state.compared, *((state.comparison,) if state.comparison else ()))
    same = [each for each in every if {*each.commits.values()} == {*commits.values()}]
    ended = {each.commits[label] for each in same for label, count in each.faulted.items() if count}
    return len(ended) == 1


def scoring(bench: Workbench, command: str | None) -> Workbench:
    """Return the workbench whose runs are also scored on the holdout.

    Args:
        bench: what every step uses.
        command: prints the metric on the holdout; None for the one that the session keeps, if any.

    Raises:
        UsageError: a command is given where the harness scores it.
    """
    runner, command = bench.runner, command or bench.journal.state.flags.get("holdout")
    require_no_evaluator(runner, command)
    return replace(bench, runner=replace(runner, holdout_command=command, keeps_models=True))


def require_no_evaluator(runner: Runner, command: str | None) -> None:
    """Raise UsageError if a command for the holdout is given where the harness scores it."""
    if command and runner.harness is not None:
        raise UsageError("--holdout is for a harness without an evaluator; this one scores it", hint="drop the flag")
