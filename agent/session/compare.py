"""Compare commits by held-out runs, alternating, so that a machine that slows down affects all of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.decision.noise import Noise
from agent.decision.schedule import counted, fails, next_turn, reasons
from agent.decision.student_t import quantile
from agent.errors import AutoresearchError, Interrupted, Suspended
from agent.execution.kill import Process
from agent.execution.measure import measure
from agent.execution.process import Observer
from agent.journal.experiment import Direction, Run
from agent.journal.journal import Journal
from agent.journal.paths import stop_file
from agent.journal.state import PendingComparison, expected_seconds, gain, side
from agent.session import faults
from agent.session.references import of_commit
from agent.session.workbench import Workbench
from agent.system.files import last_lines
from agent.system.invocation import here

LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """The improvement of `b` over `a`.

    Attributes:
        gain: positive is better in either direction.
        low: lower bound of the confidence interval at LEVEL; `high` is the upper bound.
        noise: standard deviation of one run, from these runs and the session's.
    """

    gain: float
    low: float
    high: float
    noise: float

    @property
    def verdict(self) -> str:
        return "confirmed" if self.low > 0 else "refuted" if self.high < 0 else "not confirmed"


def compare(
    bench: Workbench,
    commits: Mapping[str, str],
    count: int,
    folder: Path,
    may_fail: Collection[str] = (),
) -> Mapping[str, Sequence[Run]]:
    """Run every commit `count` times. An interrupted comparison continues.

    Disturbed runs are repeated (`decision.schedule`).

    Args:
        commits: label -> commit.
        count: runs per commit.
        folder: where the logs go.
        may_fail: labels for which a failure is a result. Their last run then has no metric.

    Returns:
        label -> runs that count.

    Raises:
        AutoresearchError: a run of another label failed.
        Interrupted: the user stopped it.
    """
    journal = bench.journal
    journal.append("comparing", commits=dict(commits), files=[], count=count)
    while (label := next_turn(_comparison(journal))) is not None:
        _raise_if_stopped(bench)
        number = len(_comparison(journal).runs.get(label, ())) + 1
        if number > count:
            _note_repeat(journal, label, number - count)
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


def _add(journal: Journal, label: str, run: Run, **more: Any) -> None:
    number = len(_comparison(journal).runs.get(label, ())) + 1
    journal.append("compared", label=label, run=number, **dataclasses.asdict(run), **more)


def _name(journal: Journal, label: str) -> str:
    return side(journal.state, label, _comparison(journal).commits[label])


def _note_repeat(journal: Journal, label: str, times: int) -> None:
    """Note why a run is repeated.

    Args:
        times: number of the repeat, from 1. Each repeat replaces one run that does not count.
    """
    index, why = list(reasons(_comparison(journal), label).items())[times - 1]
    journal.show("note", text=f"{_name(journal, label)} run {index + 1} is repeated: {why}")


def _note_still_disturbed(journal: Journal, label: str) -> None:
    comparison = _comparison(journal)
    why, done = reasons(comparison, label), len(comparison.runs[label])
    if not fails(comparison, label) and done - len(why) < comparison.count:
        latest = why[max(why)]
        name, count = _name(journal, label), comparison.count
        journal.show("note", text=f"{name} is still disturbed: {latest}; its latest {count} runs count anyway")


def _raise_if_stopped(bench: Workbench) -> None:
    if bench.interrupts.finishing:
        raise Interrupted("stopped; run the same command again to continue", 130)
    asked = stop_file(bench.journal.path)
    if asked.exists():
        asked.unlink()
        raise Interrupted("stopped by `autoresearch stop`; run the same command again to continue", 0)


def difference(a: Sequence[Run], b: Sequence[Run], session: Noise, direction: Direction) -> Difference:
    """Return the difference with Student's t interval. The noise is pooled over both sides and the session's estimate.

    Args:
        session: the noise estimate of the session.
    """
    ours = [[run.metric for run in runs if run.metric is not None] for runs in (a, b)]
    means = [math.fsum(each) / len(each) for each in ours]
    by = gain(means[0], means[1], direction)
    squares = sum((value - mean) ** 2 for each, mean in zip(ours, means, strict=True) for value in each)
    if session.sd == 0 and all(min(each) == max(each) for each in ours):
        return Difference(by, by, by, 0.0)
    known = 0.0 if math.isinf(session.degrees) else session.degrees
    degrees = sum(len(each) - 1 for each in ours) + known
    noise = math.sqrt((squares + known * session.sd**2) / max(degrees, 1.0))
    width = quantile(0.5 + LEVEL / 2, max(degrees, 1.0)) * noise * math.sqrt(sum(1 / len(each) for each in ours))
    return Difference(by, by - width, by + width, noise)


def _comparison(journal: Journal) -> PendingComparison:
    assert journal.state.comparison is not None
    return journal.state.comparison


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
    expected = expected_seconds(journal.state, runner.training_seconds, runner.limit)
    number = len(_comparison(journal).runs.get(label, ())) + 1
    log = folder / f"{label}-{number}.log"

    def started(process: Process) -> None:
        about: dict[str, Any] = {"pid": process.pid, "born": process.born, "log": str(log), "expected": expected}
        journal.append("running", label=label, run=number, **about)

    def tick(seconds: float) -> None:
        bench.interrupts.raise_if_immediate()
        journal.show("progress", seconds=seconds, expected=expected, line="".join(last_lines(log)))

    while True:
        try:
            run = measure(runner, commit, log, Observer(started, tick), of_commit(journal.state.experiments, commit))
        except Suspended as pause:
            journal.show("note", text=f"{_name(journal, label)} is repeated: {pause}")
            continue
        most = None if may_fail else faults.MOST_IN_A_ROW
        if run.fault:
            about = {"label": label, "run": number}
            going = lambda: _raise_if_stopped(bench)  # noqa: E731
            faults.wait_for_repeat(bench, run, most=most, require_going=going, about=about)
            if not (may_fail and journal.state.faults.in_a_row >= faults.MOST_IN_A_ROW):
                continue
        elif run.metric is None and not may_fail:
            hint = f"see the log {here(Path(run.log))}"
            raise AutoresearchError(f"{_name(journal, label)} failed: {run.error}", hint=hint)
        return run
