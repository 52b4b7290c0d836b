"""Measure the machine time that pruning would have saved in recorded sessions, and the wins that it would have lost.

    uv run python -m benchmarks.pruning FOLDER... [--pool] [--chance 0.0075] [--overruns DIR]
    uv run python -m benchmarks.pruning --synthetic 100 [--lines 300]

A FOLDER is a session (`.autoresearch/sessions/TAG`) or contains some. Every run is replayed line by line, in the order
of its session, against the rule of pruning/prune.py with the history of that moment. A pruned run has no metric and
does not enter the history of later ones, and 1 in 20 of them finishes as a control. Machine time covers whole runs
including start, evaluation, failures and repeats; of a pruned experiment only that one run is cut short. Records after
a lost win are replayed unchanged, although the session would have continued from another incumbent. --pool lets a
session learn from those before it. If `benchmarks.overruns` has repeated a night's failures, the time saved by ending
runs over their budget is shown in a column of its own.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import AutoresearchError
from agent.journal.experiment import Direction, Experiment, Run
from agent.journal.journal import fold, read
from agent.journal.state import gain
from agent.pruning.curves import Curve, average, broken, curve
from agent.pruning.prune import APART, CHANCE, EARLIEST, Finished, Rival, hopeless, spared
from agent.source.diff import CODE
from benchmarks import synthetic_curves
from benchmarks.overruns import known

TARGET_SAVED, TARGET_LOST = 0.25, 0.01
LATENCY = 0.5  # seconds from a line in the log to the end of the process
NO_OVERRUNS: Mapping[int, float] = {}
MODELS = ("llm", "command")  # proposers that edit more than constants
START, EVALUATION = 3.5, 3.5  # seconds of a synthetic run, besides its training of one second a line


@dataclass(frozen=True)
class Recorded:
    """One experiment of a recorded session.

    Attributes:
        curve: of its first run that succeeded, otherwise of its last run.
        metric: of that run; None if no run succeeded.
        noise: standard deviation of the metric, as far as known from repeats at that time.
        seconds: of all its runs.
        remaining: maps a fraction of the training to the seconds that the run still takes from there.
    """

    number: int
    curve: Curve
    metric: float | None
    incumbent_curve: Curve
    incumbent_metric: float
    changed: frozenset[str]
    kept: bool
    noise: float
    seconds: float
    remaining: Callable[[float], float]


@dataclass
class Tally:
    name: str
    runs: int = 0
    pruned: int = 0
    controls: int = 0
    seconds: float = 0.0
    saved: float = 0.0
    over: float = 0.0
    most: float = 0.0
    wins: int = 0
    lost: list[int] = field(default_factory=list)
    better: int = 0
    errors: list[float] = field(default_factory=list)

    def __add__(self, other: Tally) -> Tally:
        pairs = {key: value + vars(other)[key] for key, value in vars(self).items() if key != "name"}
        return Tally(self.name, **pairs)

    def row(self) -> str:
        parts = (self.saved, self.over, self.most)
        share, over, most = (part / self.seconds if self.seconds else 0.0 for part in parts)
        return (
            f"{self.name[-40:]:40} {self.runs:6} {self.pruned:7} {self.controls:7} {share:7.1%} {over:7.1%} "
            f"{most:7.1%} {self.wins:5} {len(self.lost):5} {self.better:7}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what pruning would have saved and lost.")
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--pool", action="store_true", help="learn from earlier sessions, too")
    parser.add_argument("--chance", type=float, default=CHANCE)
    parser.add_argument("--overruns", type=Path, help="folder of a night that benchmarks.overruns has repeated")
    parser.add_argument("--synthetic", type=int, default=0, metavar="SESSIONS")
    parser.add_argument("--lines", type=int, default=10, help="lines of a synthetic log, one per second of training")
    parser.add_argument("--gaussian", action="store_true", help="synthetic noise without heavy tails")
    parser.add_argument("--verbose", action="store_true", help="print every pruned run")
    given = parser.parse_args()
    try:
        sessions = [load(folder) for folder in sorted(find(given.folders), key=began)]
    except AutoresearchError as error:
        sys.exit(str(error))
    made = [synthetic(seed, given.lines, not given.gaussian) for seed in range(given.synthetic)]
    if not sessions and not made:
        sys.exit("no session found: name a folder with a journal.jsonl in or under it, or use --synthetic 100")
    shorter = known(given.overruns) if given.overruns else {}
    tallies, history = [], list[Finished]()
    for name, direction, runs in [*sessions, *made]:
        if not given.pool:
            history = []
        over = {number: before - now for (session, number), (before, now) in shorter.items() if f"/{session}/" in name}
        tallies.append(replayed(name, runs, history, direction, given.chance, given.verbose, over))
    total = sum(tallies, Tally("total"))
    counts = " ".join(f"{name:>7}" for name in ("pruned", "control", "saved", "over", "at most"))
    print(f"{'session':40} {'runs':>6} {counts} {'wins':>5} {'lost':>5} {'better':>7}")
    for tally in tallies if given.synthetic < 20 else []:
        print(tally.row())
    print(total.row())
    saved, lost = (total.saved + total.over) / max(total.seconds, 1e-9), len(total.lost) / max(total.wins, 1)
    print(f"saved {saved:.1%} of machine time (target {TARGET_SAVED:.0%}), lost {lost:.2%} of wins ({TARGET_LOST:.0%})")
    print("saved: by the forecast; over: by ending runs that had trained too long to count (benchmarks.overruns)")
    print(f"at most: if every finished run that was no better had ended at {EARLIEST:.0%} of its training")
    print("lost: pruned although kept when recorded; better: pruned although its first run beat the incumbent")
    if len(total.errors) > 1:
        mean, spread = statistics.mean(total.errors), statistics.stdev(total.errors)
        print(f"estimates of pruned runs minus their final metric: mean {mean:+.4f}, standard deviation {spread:.4f}")
    sys.exit(0 if saved >= TARGET_SAVED and lost < TARGET_LOST else "missed a target")


def replayed(
    name: str,
    runs: Iterable[Recorded],
    history: list[Finished],
    direction: Direction,
    chance: float = CHANCE,
    verbose: bool = False,
    over: Mapping[int, float] = NO_OVERRUNS,
) -> Tally:
    """Replay one session under the rule. Runs that finish are appended to `history`.

    Args:
        over: seconds that the harness saves, by number of the experiment.
    """
    tally = Tally(name)
    for run in runs:
        tally.runs += 1
        tally.seconds += run.seconds
        tally.wins += run.kept
        if run.metric is not None and gain(run.incumbent_metric, run.metric, direction) <= 0:
            tally.most += max(0.0, run.remaining(EARLIEST) - LATENCY)
        stopped = ended_early(run, history, direction, chance)
        if stopped is not None and (run.metric is None or not spared(0, run.number)):
            fraction, estimate, reason = stopped
            tally.pruned += 1
            tally.saved += max(0.0, run.remaining(fraction) - LATENCY)
            tally.lost += [run.number] if run.kept else []
            tally.better += run.metric is not None and gain(run.incumbent_metric, run.metric, direction) > 0
            tally.errors += [] if run.metric is None or estimate is None else [estimate - run.metric]
            if verbose:
                print(f"{name} #{run.number}: {reason}; ended at {run.metric}, {', '.join(sorted(run.changed))}")
            continue
        tally.over += over.get(run.number, 0.0)
        tally.controls += stopped is not None
        if run.metric is not None and run.curve:
            history.append(
                Finished(run.curve, run.metric, run.incumbent_curve, run.incumbent_metric, run.changed),
            )
    return tally


def ended_early(
    run: Recorded, history: Sequence[Finished], direction: Direction, chance: float
) -> tuple[float, float | None, str] | None:
    """Return (fraction, estimate of the final metric, reason) if the rule ends this run, otherwise None."""
    looked = 0.0
    for end, point in enumerate(run.curve, start=1):
        if reason := broken(run.curve[:end]):
            return point.fraction, None, reason
        if point.fraction - looked < APART:
            continue
        looked = point.fraction
        pruned = hopeless(
            run.curve[:end],
            Rival(run.incumbent_curve, run.incumbent_metric, history, run.changed, direction, run.noise),
            chance,
        )
        if pruned:
            return pruned.fraction, pruned.estimate, pruned.reason
    return None


def find(folders: Iterable[Path]) -> set[Path]:
    """Return the sessions in or under `folders`, including those below the hidden .autoresearch."""
    return {journal.parent for folder in folders for journal in folder.rglob("journal.jsonl")}


def began(folder: Path) -> float:
    return next((event.at for event in read(folder / "journal.jsonl")), 0.0)


def load(folder: Path) -> tuple[str, Direction, list[Recorded]]:
    """Return a session's name, direction and experiments without the baseline.

    Raises:
        AutoresearchError: the journal is damaged.
    """
    state = fold(folder / "journal.jsonl")
    direction: Direction = (state.session or {}).get("direction", "minimize")
    found: list[Recorded] = []
    incumbent: Experiment | None = None
    for number, experiment in enumerate(state.experiments):
        if incumbent is not None and experiment.runs:
            found.append(_recorded(folder, experiment, incumbent, pooled_noise(state.experiments[:number])))
        if experiment.verdict.status == "keep":
            incumbent = experiment
    return str(folder), direction, found


def _recorded(folder: Path, experiment: Experiment, incumbent: Experiment, noise: float) -> Recorded:
    run = next((run for run in experiment.runs if run.metric is not None), experiment.runs[-1])
    good = [each for each in incumbent.runs if each.metric is not None]
    text = log_text(folder, experiment.number, run)
    curves = [found for each in good if (found := curve(log_text(folder, incumbent.number, each)))]
    return Recorded(
        number=experiment.number,
        curve=curve(text),
        metric=run.metric,
        incumbent_curve=average(curves),
        incumbent_metric=sum(each.metric or 0.0 for each in good) / len(good),
        changed=_changed(experiment, incumbent),
        kept=experiment.verdict.status == "keep",
        noise=noise,
        seconds=sum(each.seconds for each in experiment.runs),
        remaining=remaining(text, run.seconds),
    )


def pooled_noise(experiments: Iterable[Experiment]) -> float:
    """Return the standard deviation of the metric between runs of the same code; 0 without repeats."""
    squares, freedom = 0.0, 0
    for experiment in experiments:
        metrics = [run.metric for run in experiment.runs if run.metric is not None]
        if len(metrics) > 1:
            squares += statistics.variance(metrics) * (len(metrics) - 1)
            freedom += len(metrics) - 1
    return (squares / freedom) ** 0.5 if freedom else 0.0


def _changed(experiment: Experiment, incumbent: Experiment) -> frozenset[str]:
    """Return the differences that the journal records. A model's proposal always counts as changing code."""
    ours, theirs = experiment.parameters, incumbent.parameters
    names = {name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)}
    return frozenset(names | ({CODE} if experiment.proposer in MODELS or not names else set()))


def log_text(folder: Path, number: int, run: Run) -> str:
    """Return the log of a run, wherever the session's folder is now; empty if it is missing."""
    recorded = Path(run.log)
    places = [folder / "experiments" / f"{number:04d}" / recorded.name]
    if ".autoresearch" in recorded.parts:
        inside = recorded.parts[recorded.parts.index(".autoresearch") + 1 :]
        places.append(folder.parent.parent.joinpath(*inside))
    return next((place.read_text(errors="replace") for place in [*places, recorded] if place.is_file()), "")


def remaining(text: str, seconds: float) -> Callable[[float], float]:
    """Return the function that `Recorded.remaining` describes, from the times in the log, or as if all was training."""
    training = re.search(r"^training_seconds:\s+([\d.]+)", text, re.MULTILINE)
    evaluation = re.search(r"^evaluation: ([\d.]+)s", text, re.MULTILINE)
    if training is None:
        return lambda fraction: (1 - fraction) * seconds
    rest = float(evaluation[1]) if evaluation else 0.0
    return lambda fraction: min(seconds, (1 - fraction) * float(training[1]) + rest)


def synthetic(seed: int, lines: int = 10, heavy: bool = True) -> tuple[str, Direction, list[Recorded]]:
    made = synthetic_curves.session(seed, lines=lines, heavy=heavy)
    incumbent, found = made[0], list[Recorded]()
    for number, run in enumerate(made[1:], start=1):
        found.append(
            Recorded(
                number=1000 * seed + number,
                curve=run.curve,
                metric=run.metric,
                incumbent_curve=incumbent.curve,
                incumbent_metric=incumbent.metric,
                changed=run.changed,
                kept=run.won,
                noise=synthetic_curves.NOISE * (3**0.5 if heavy else 1),
                seconds=START + lines + EVALUATION,
                remaining=lambda fraction: EVALUATION + lines * (1 - fraction),
            )
        )
        if run.won:
            incumbent = run
    return f"synthetic {seed}", "minimize", found


if __name__ == "__main__":
    main()
