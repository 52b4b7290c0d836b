"""Measure a machine: its facts, the recipe's noise and lost time, sizes of the model, and a short session.

Everything happens in a temporary clone of HEAD. Only the setup commands run in the user's workspace, as for `run`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agent.errors import AutoresearchError, Interrupted, PreconditionError, UsageError, in_one_line
from agent.execution.awake import kept_awake
from agent.execution.measure import Runner
from agent.execution.process import Observer
from agent.execution.setup import set_up
from agent.field import plan, runs
from agent.field.machine import facts, public
from agent.field.runs import limited, measured, repeated, with_figures
from agent.field.session import short_session
from agent.field.stop import Stop
from agent.format import counted, duration, figure, one_line
from agent.journal.experiment import Run, Value
from agent.journal.paths import state_folder
from agent.proposers.search.space import Dimension, Space, space_of
from agent.room.sandbox import Mode
from agent.session import faults
from agent.session.context import known_constants
from agent.session.opening import cloned, open_runner, prepared, showing
from agent.source.constants import constants
from agent.system.invocation import typed, version

VERSION = 1
SIZE = "DEPTH"  # the constant that sets the size of the model
SIZES = (1, 2, 4, 8, 16)
LARGEST_BY_DEFAULT = 8
# A size may take this many times its share before it is stopped.
PATIENCE = 3.0
FIRST_TRIES = 3
BATCH = "TOTAL_BATCH_SIZE"  # tokens in a step


def measure_machine(folder: Path, minutes: float, sandbox: Mode, setup: bool) -> tuple[dict[str, Any], int]:
    """Measure the machine with runs of the workspace's recipe.

    Args:
        folder: the workspace.
        minutes: the time for everything after the setup commands.
        setup: run the setup commands of the protocol if they are due.

    Returns:
        The figures as plain data, and the exit code: 130 after Ctrl-C, 1 if no run succeeded.

    Raises:
        UsageError: the time is not a number.
        PreconditionError: the protocol sets no training time.
    """
    if math.isnan(minutes):
        raise UsageError("--minutes must be a number, got nan", hint=f"see `{typed('field --help')}`")
    with open_runner(folder, "field", None, sandbox, stops=False) as opened:
        if opened.training_seconds is None:
            raise PreconditionError(
                "protocol.json sets no training time, so the time of a run cannot be chosen",
                hint="set execution.stopCondition.trainingSecondsBudget, then run the same command again",
            )
        if setup:
            set_up(opened, state_folder(opened.workspace.folder), say)
        stop = Stop(60 * minutes)
        stop.on_first = lambda: say("stopping; the figures so far follow")
        stop.install()
        with _ready(opened) as runner, kept_awake():
            field = Field(runner, stop, minutes)
            code = field.measure()
            return field.data, code


@contextlib.contextmanager
def _ready(opened: Runner) -> Iterator[Runner]:
    """Yield a runner for a clone of HEAD that shows the user's untracked files to runs."""
    reading_figures = dataclasses.replace(opened, protocol=with_figures(opened.protocol), patient=True, say=say)
    with cloned(reading_figures, "field") as runner, prepared(runner, setup=False) as ready:
        yield showing(opened.workspace, ready)


class Field:
    """The figures of a machine as they are measured, part by part.

    Attributes:
        data: the figures so far, as plain data.
    """

    def __init__(self, runner: Runner, stop: Stop, minutes: float) -> None:
        self._runner, self._stop, self._began = runner, stop, time.monotonic()
        self._logs = runner.workspace.folder / ".autoresearch" / "field"
        self._observer = Observer(tick=lambda _: stop.raise_if_immediate())
        self._batch: int | None = None
        self._baseline: list[Run] = []
        self._plan: plan.Plan | None = None
        self._left_out: list[str] = []
        self.data: dict[str, Any] = {
            "version": VERSION,
            "program": version(),
            "minutes": minutes,
            "seconds": 0.0,
            "stopped": None,
            "machine": {},
            "sandbox": {"says": runner.sandbox.says.removeprefix("sandbox: "), "missing": [*runner.sandbox.missing]},
            "metric": runner.protocol.metric.name,
            "direction": runner.protocol.metric.direction,
            "training_seconds": None,
            "first": None,
            "runs": [],
            "noise": None,
            "lost": None,
            "constant": None,
            "sizes": [],
            "session": None,
            "left_out": self._left_out,
        }

    def measure(self) -> int:
        """Measure all parts that fit into the time, and return the exit code."""
        code = 0
        try:
            self._measure()
        except Interrupted as reason:
            code = reason.exit_code
            self.data["stopped"] = str(reason)
            self._left_out += [f"{part}: {reason}" for part in self._missing()]
        self.data["noise"], self.data["lost"] = runs.noise(self.data["runs"]), runs.mean_lost(self.data["runs"])
        self.data["seconds"] = round(time.monotonic() - self._began, 1)
        every = [self.data["first"], *self.data["runs"], *(size["run"] for size in self.data["sizes"])]
        succeeded = any(run is not None and run["metric"] is not None for run in every)
        return code or (0 if succeeded else 1)

    def _measure(self) -> None:
        space = self._space()
        sizes = sizes_of(space) if space else ()
        guess = plan.divide(self._stop.left(), plan.SHORTEST, sizes, self._longest)
        say(f"plan, if a run takes {plan.SHORTEST:g} s besides its training: {plan.plan_line(guess, SIZE)}")
        self.data["machine"] = self._attempt("machine", lambda: facts(self._runner, self._observer)) or {}
        first = self._first()
        around = first["wall_seconds"] - (first["training_seconds"] or 0.0)
        say(f"a run takes {duration(around)} besides its training")
        parts = self._plan = plan.divide(self._stop.left(), around, sizes, self._longest)
        self._left_out += parts.left_out
        say(f"plan: {plan.plan_line(parts, SIZE)}")
        self.data["training_seconds"] = parts.training
        # One runner, and so one fingerprint: the session reuses these runs as its baseline.
        runner = dataclasses.replace(self._runner, training_seconds=parts.training)
        for number in range(parts.runs):
            self._repeat(runner, number + 1, parts.runs)
        if parts.sizes and space is not None:
            self._sizes(space, parts, around)
        if parts.experiments:
            self._session(runner, parts.experiments)

    def _missing(self) -> list[str]:
        """Return the parts of the plan that are not measured."""
        if self._plan is None:
            return ["everything else"]
        runs_left = self._plan.runs - len(self.data["runs"])
        sizes_left = self._plan.sizes[len(self.data["sizes"]) :]
        return [
            *([f"{counted(runs_left, 'run')} of the recipe"] if runs_left else []),
            *([f"{SIZE} {', '.join(map(str, sizes_left))}"] if sizes_left else []),
            *(["session"] if self._plan.experiments and self.data["session"] is None else []),
        ]

    @property
    def _longest(self) -> float:
        return min(plan.LONGEST, self._runner.training_seconds or plan.LONGEST)

    def _space(self) -> Space | None:
        """Return the search space of the recipe, and note its constants; None if it has no constant for its size."""
        workspace = self._runner.workspace
        files = workspace.files(workspace.head)
        known = known_constants(self._runner.protocol)
        found: dict[str, Value] = {}
        for path, text in files.items():
            if path.endswith(".py"):
                found |= {name: constant.value for name, constant in constants(text, known).items()}
        batch = found.get(BATCH)
        self._batch = batch if isinstance(batch, int) and batch > 0 else None
        space: Space | None = self._attempt("sizes", lambda: space_of(files, known))
        if space is None or size_of(space) is None:
            self._left_out.append(f"sizes: the recipe has no searched constant {SIZE}")
            return None
        self.data["constant"] = SIZE
        return space

    def _first(self) -> dict[str, Any]:
        """Run the recipe for a few seconds, to find out how long a run takes besides its training.

        A run that a fault of the GPU ended does not tell that, so it is repeated. Later runs are not: their faults are
        part of what describes the machine.
        """
        say("first run")
        runner = dataclasses.replace(self._runner, training_seconds=min(plan.SHORTEST, self._longest))
        commit, log = runner.workspace.head, self._logs / "first.log"
        for number in range(1, FIRST_TRIES + 1):
            first = measured(runner, commit, log, self._batch, self._observer)
            self.data["first"] = first
            self._tell("first run", first)
            if first["fault"] is None or number == FIRST_TRIES:
                break
            self._left_out.append(f"first run, try {number}: {first['error']}")
            faults.wait(faults.pause_after(number), self._observer.tick)
        return first

    def _repeat(self, runner: Runner, number: int, count: int) -> None:
        say(f"run {number} of {count}")
        run, found = repeated(runner, tuple(self._baseline), self._batch, self._observer)
        self.data["runs"].append(found)
        if run.metric is not None:
            self._baseline.append(run)
        self._tell(f"run {number}", found)

    def _sizes(self, space: Space, parts: plan.Plan, around: float) -> None:
        workspace = self._runner.workspace
        limit = PATIENCE * (parts.size_training + plan.SLOWER_SIZES * around)
        size = size_of(space)
        assert size is not None
        for number, value in enumerate(parts.sizes):
            say(f"{SIZE} {value}")
            commit = workspace.head
            if value != size.value:
                files = space.apply({size.key: value})
                ref = f"refs/autoresearch/field-sizes/{number}"
                commit = workspace.commit_candidate(ref, commit, files, f"{SIZE} {value}")
            runner = limited(self._runner, parts.size_training, limit)
            log = self._logs / f"size-{value}.log"
            found = measured(runner, commit, log, self._batch, self._observer)
            self.data["sizes"].append({"value": value, "run": found})
            self._tell(f"{SIZE} {value}", found)
            if (found["error"] or "").startswith(("timed out", "out of memory")) and parts.sizes[number + 1 :]:
                larger = ", ".join(map(str, parts.sizes[number + 1 :]))
                self._left_out.append(f"{SIZE} {larger}: {value} already failed")
                return

    def _session(self, runner: Runner, experiments: int) -> None:
        say(f"session of at most {counted(experiments, 'experiment')}, {duration(self._stop.left())} left")
        ended = short_session(runner, experiments, len(self._baseline), self._stop)
        self.data["session"] = ended.data
        if ended.error:
            self._left_out.append(f"session: {ended.error}")
        if ended.stopped is not None:
            raise ended.stopped

    def _attempt(self, part: str, work: Callable[[], Any]) -> Any:
        """Return the result of a part, or None if it fails, which leaves the part out."""
        try:
            return work()
        except Interrupted:
            raise
        except (AutoresearchError, OSError) as error:
            self._left_out.append(f"{part}: {public(in_one_line(error))}")
            return None

    def _tell(self, what: str, run: dict[str, Any]) -> None:
        metric = self.data["metric"]
        said = run["error"] or f"{metric} {figure(run['metric'])} in {duration(run['wall_seconds'])}"
        say(f"{what}: {said}")


def size_of(space: Space) -> Dimension | None:
    """Return the constant that sets the size of the model, if the recipe has it."""
    found = (each for each in space.dimensions if each.name == SIZE and isinstance(each.value, int))
    return next(found, None)


def sizes_of(space: Space) -> tuple[Value, ...]:
    """Return the sizes to measure: powers of two in the range of the constant that its recipe accepts, and its own."""
    size = size_of(space)
    if size is None or isinstance(size.value, str):
        return ()
    values = {value for value in SIZES if value <= max(LARGEST_BY_DEFAULT, size.value)} | {int(size.value)}
    return tuple(
        value for value in sorted(values) if size.fits(value) and not space.refuses({**space.values(), size.key: value})
    )


def say(text: str) -> None:
    """Print a line of progress on stderr."""
    print(one_line(text), file=sys.stderr, flush=True)
