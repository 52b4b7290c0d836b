"""Compare commits by held-out runs, alternating, so that a machine that slows down affects all of them."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from agent.decision.difference import NO_NOISE
from agent.decision.noise import Noise, noise_of
from agent.decision.schedule import counted, fails, lacking, next_seed, next_turn, reasons
from agent.errors import AutoresearchError, Interrupted, Suspended
from agent.execution import holdout
from agent.execution.kill import Process
from agent.execution.measure import Edited, measure
from agent.execution.process import Observer
from agent.journal.comparison import PendingComparison
from agent.journal.experiment import Run
from agent.journal.journal import Journal
from agent.journal.paths import stop_file
from agent.journal.state import State, expected_seconds, side
from agent.session import faults
from agent.session.context import known_constants
from agent.session.references import of_comparison, runs_at
from agent.session.workbench import Workbench
from agent.source.seed import seed_names, with_seed
from agent.source.values import with_values
from agent.system.invocation import here


def compare(
    bench: Workbench,
    commits: Mapping[str, str],
    count: int,
    folder: Path,
    seeds: Sequence[int] = (),
    may_fail: Collection[str] = (),
) -> Mapping[str, Sequence[Run]]:
    """Run every commit `count` times. An interrupted comparison continues.

    Disturbed runs are repeated (`decision.schedule`).

    Args:
        commits: label -> commit.
        count: runs per commit.
        folder: where the logs go.
        may_fail: labels for which a failure is a result. Their last run then has no metric.
        seeds: the seed of each run of a commit, `count` in all; empty for the recipe's own.

    Returns:
        label -> runs that count.

    Raises:
        AutoresearchError: a run of another label failed.
        Interrupted: the user stopped it.
    """
    journal = bench.journal
    begin(bench, commits, count, seeds)
    while (label := next_turn(_comparison(journal))) is not None:
        raise_if_stopped(bench)
        number = len(_comparison(journal).runs.get(label, ())) + 1
        if number > count:
            _note_repeat(journal, label)
        run, more = _run(bench, label, folder, may_fail=label in may_fail), {}
        if run.fault:
            # The faults are this commit's own if another one runs now.
            more = {"provoked": journal.state.faults.in_a_row}
            other = next(each for each in commits if each not in may_fail)
            _add(journal, other, _run(bench, other, folder, may_fail=False))
        _add(journal, label, run, **more)
    for label in commits:
        _note_still_disturbed(journal, label)
    return {label: counted(_comparison(journal), label) for label in commits}


def begin(bench: Workbench, commits: Mapping[str, str], count: int, seeds: Sequence[int]) -> None:
    """Make a comparison the one in progress, with the runs that it already has.

    Args:
        bench: what every step uses.
        commits: label -> commit.
        count: runs per commit.
        seeds: see `compare`.
    """
    about: dict[str, Any] = {"rung": bench.rung.to_dict()} if bench.rung else {}
    if names := varied_by(bench, commits, seeds):
        about["varied"] = list(names)
    bench.journal.append("comparing", commits=dict(commits), files=[], count=count, seeds=list(seeds), **about)


def varied_by(bench: Workbench, commits: Mapping[str, str], seeds: Sequence[int]) -> tuple[str, ...]:
    """Return the constants that the seeds set if they are several: an earlier version set one of them alone."""
    workspace, known = bench.runner.workspace, known_constants(bench.runner.protocol)
    names = {name for commit in commits.values() for name in seed_names(workspace.files(commit), known)}
    return tuple(sorted(names)) if seeds and len(names) > 1 else ()


def _add(journal: Journal, label: str, run: Run, **more: Any) -> None:
    number = len(_comparison(journal).runs.get(label, ())) + 1
    journal.append("compared", label=label, run=number, **asdict(run), **more)


def _name(journal: Journal, label: str) -> str:
    return side(journal.state, label, _comparison(journal).commits[label])


def _note_repeat(journal: Journal, label: str) -> None:
    """Note which run is repeated and why."""
    comparison = _comparison(journal)
    seed = next_seed(comparison, label)
    runs, why = comparison.runs[label], reasons(comparison, label)
    index = next(each for each in why if runs[each].seed == seed)
    journal.show("note", text=f"{_name(journal, label)} run {index + 1} is repeated: {why[index]}")


def _note_still_disturbed(journal: Journal, label: str) -> None:
    comparison = _comparison(journal)
    if not fails(comparison, label) and lacking(comparison, label):
        why = reasons(comparison, label)
        latest = why[max(why)]
        name, count = _name(journal, label), comparison.count
        journal.show("note", text=f"{name} is still disturbed: {latest}; its latest {count} runs count anyway")


def raise_if_stopped(bench: Workbench) -> None:
    """Raise Interrupted if the user asked the comparison to stop: it continues when it is requested again."""
    if bench.interrupts.finishing:
        raise Interrupted("stopped; run the same command again to continue", 130)
    asked = stop_file(bench.journal.path)
    if asked.exists():
        asked.unlink()
        raise Interrupted("stopped by `autoresearch stop`; run the same command again to continue", 0)


def _changed_by(bench: Workbench, commit: str, seed: int | None) -> Mapping[str, str]:
    """Return the files of the commit that change if this seed and the constants of the rung are set: path -> text."""
    if seed is None and bench.rung is None:
        return {}
    files, known = bench.runner.workspace.files(commit), known_constants(bench.runner.protocol)
    changed = with_values(files, known, bench.rung.values) if bench.rung else {}
    return changed if seed is None else {**changed, **with_seed({**files, **changed}, known, seed)}


def noise_here(state: State) -> Noise:
    """Return what the session knows of the noise of a run on this machine: nothing if stations made its runs."""
    return NO_NOISE if state.flight.stations else noise_of(state.measured)


def expected(bench: Workbench) -> float:
    """Return the expected duration of a run in seconds.

    At another rung, or on another machine than the session's stations, it is the median of the runs there. Before the
    first, it is the time in the session plus the training that is added.
    """
    runner, state, rung = bench.runner, bench.journal.state, bench.rung
    away = rung is not None or bool(state.flight.stations)
    if away and (there := [run.seconds for runs in runs_at(state, rung).values() for run in runs]):
        return statistics.median(there)
    if rung is None:
        return expected_seconds(state, runner.training_seconds, runner.limit)
    assert state.session is not None
    own = state.session["fingerprint"].get("training_seconds")
    more = (rung.training_seconds or 0.0) - own if own is not None else 0.0
    return min(runner.limit, expected_seconds(state, own, runner.limit) + more)


def _comparison(journal: Journal) -> PendingComparison:
    """Return the comparison with the runs of this machine: those of stations have their other halves there."""
    comparison = journal.state.comparison
    assert comparison is not None
    runs = {label: tuple(run for run in each if not run.station) for label, each in comparison.runs.items()}
    return replace(comparison, runs=runs)


def _run(bench: Workbench, label: str, folder: Path, *, may_fail: bool) -> Run:
    """Run a commit until neither sleep nor a fault of the GPU ends it.

    Args:
        bench: what every step uses.
        label: of the commit.
        folder: where the log goes.
        may_fail: return a failed run, and the last one of too many faults in a row.

    Raises:
        AutoresearchError: the run failed.
        MachineFault: too many faults in a row ended it.
    """
    runner, journal, commit = bench.runner, bench.journal, _comparison(bench.journal).commits[label]
    due = expected(bench)
    number = len(_comparison(journal).runs.get(label, ())) + 1
    log = folder / f"{label}-{number}.log"
    seed = next_seed(_comparison(journal), label)
    recipe = Edited(commit, _changed_by(bench, commit, seed))

    def started(process: Process) -> None:
        about: dict[str, Any] = {"label": label, "run": number, "log": str(log), "expected": due}
        journal.append("running", pid=process.pid, born=process.born, start=process.start, **about)

    observer = Observer(started, lambda _: bench.interrupts.raise_if_immediate())
    while True:
        references = of_comparison(journal.state, bench.rung, commit)
        try:
            run = measure(runner, recipe, log, observer, references)
        except Suspended as pause:
            journal.show("note", text=f"{_name(journal, label)} is repeated: {pause}")
            raise_if_stopped(bench)
            continue
        most = None if may_fail else faults.MOST_IN_A_ROW
        if run.fault:
            about = {"label": label, "run": number}
            going = lambda: raise_if_stopped(bench)  # noqa: E731
            faults.wait_for_repeat(bench, run, most=most, require_going=going, about=about)
            if not (may_fail and journal.state.faults.in_a_row >= faults.MOST_IN_A_ROW):
                continue
        elif run.metric is None and not may_fail:
            hint = f"see the log {here(Path(run.log))}"
            raise AutoresearchError(f"{_name(journal, label)} failed: {run.error}", hint=hint)
        return replace(holdout.scored(runner, run, log, bench.interrupts.raise_if_immediate), seed=seed)
