"""Carry out an order: bring the clone up to date, prepare it, run the command once, and keep the answer."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.errors import AutoresearchError, PreconditionError, explain, fault
from agent.execution import fingerprint, holdout, setup
from agent.execution.allowance import References
from agent.execution.measure import Edited, Runner, measure
from agent.execution.process import Observer
from agent.format import duration, figure, one_line
from agent.journal.experiment import Run
from agent.journal.paths import stations_folder
from agent.session.opening import open_runner, prepared
from agent.station import clone, records
from agent.station.orders import LONGEST_TEXT, Answer, Invalid, Leased, Order
from agent.station.state import Station, station
from agent.system.invocation import version

# How hints end that are for the person at a command; the decider asks a station again by itself.
REPEATS = re.compile(r"[,;] then run the same command again.*$")


def measure_order(data: dict[str, Any], name: str, tick: Callable[[float], None] = lambda _: None) -> dict[str, Any]:
    """Carry out an order, and return its answer. It never raises: what goes wrong is part of the answer.

    Args:
        data: of an Order.
        name: the station's.
        tick: called several times a second with the seconds of the run so far.
    """
    here = station(name)
    try:
        order = Order.from_dict(data)
    except Invalid as reason:
        return Answer("invalid", name, failed=f"sent an order that is not valid: {reason}"[:LONGEST_TEXT]).to_dict()
    try:
        answer = _answer(here, order, tick)
    except clone.Lacking:
        answer = Answer(order.lease, name, failed="lacks commits that the bundle is based on", lacks=True)
    except (AutoresearchError, OSError) as error:
        answer = Answer(order.lease, name, failed=_why(error)[:LONGEST_TEXT])
    except Exception as error:  # a fault of this program says nothing about the candidate
        answer = Answer(order.lease, name, failed=fault(error))
    here.say(_line(answer))
    return answer.to_dict()


def _answer(here: Station, order: Order, tick: Callable[[float], None]) -> Answer:
    if order.version != version():
        raise PreconditionError(
            f"{here.name} has autoresearch {version()}, and the session has {order.version}",
            hint="install the same version on both",
        )
    records.begin()
    folder = records.run_folder(here.name, order.repository, order.session, order.lease)
    if (known := records.read_kept(folder)) is not None and known.measured == order.digest:
        return known
    log = folder / records.LOG
    with here.running(order.session, order.lease, log):
        records.drop_earlier_clones()
        records.settle(folder.parent, order.settled)
        folder.mkdir(parents=True, exist_ok=True)

        def watch(seconds: float) -> None:
            here.require_going(order.session, order.lease)
            tick(seconds)

        run = _measured(here, order, records.clone_folder(here.name, order.repository), watch)
        answer = Answer(order.lease, here.name, run, records.log_end(log), measured=order.digest)
        records.keep(folder, answer)
        records.prune(here.name, folder)
        return answer


def _measured(here: Station, order: Order, place: Path, watch: Callable[[float], None]) -> Run:
    """Run the command of an order once, in the clone `place`."""
    folder = clone.update(place, order)
    log = records.run_folder(here.name, order.repository, order.session, order.lease) / records.LOG
    watch(0.0)
    if order.setup:
        clone.require_prepared(folder, order.base)
    with (
        open_runner(folder, order.session, order.training_seconds, order.sandbox, stops=False) as opened,
        prepared(
            replace(opened, linked=False, say=here.say),
            setup=order.setup,
            commit=order.base,
            untraced=order.untraced,
            tick=_limited(setup.most_seconds(opened.protocol), lambda: watch(0.0)),
        ) as ready,
    ):
        _require_snapshot(here, order, ready)
        runner = replace(ready, keeps_models=order.holdout, holdout_command=order.holdout_command)
        earlier = (_at_home(here, order, runs) for runs in (order.own, order.baseline, order.other))
        references = References(*earlier, side=order.side)
        here.measuring = True
        run = measure(runner, Edited(order.commit, order.files), log, Observer(tick=watch), references)
        if order.holdout:
            run = holdout.scored(runner, run, log, lambda: watch(run.seconds))
    return replace(run, station=here.name, log="", error=run.error and run.error[:LONGEST_TEXT])


def _limited(seconds: float, tick: Callable[[], None]) -> Callable[[], None]:
    """Return a `tick` of the setup commands that ends them after so many seconds."""
    ends = time.monotonic() + seconds

    def limited() -> None:
        tick()
        if time.monotonic() > ends:
            raise AutoresearchError(f"the setup commands took more than {duration(seconds)}")

    return limited


def _require_snapshot(here: Station, order: Order, runner: Runner) -> None:
    found = fingerprint.snapshot(runner.protocol).get("id")
    if found != order.snapshot:
        raise PreconditionError(
            f"{here.name} has snapshot {found or 'none'}, the session has {order.snapshot or 'none'}",
            hint="prepare the same data there",
        )


def _at_home(here: Station, order: Order, runs: Iterable[Leased]) -> tuple[Run, ...]:
    """Return runs with the paths of their logs on this station, and without one if they ran elsewhere.

    Their folders count as recent: a kept program is compared with for as long as nothing is better.
    """
    found = []
    for each in runs:
        folder = records.run_folder(here.name, order.repository, order.session, each.lease or "none")
        known = bool(each.lease) and folder.is_dir()
        if known:
            os.utime(folder)
        found.append(replace(each.run, log=str(folder / records.LOG) if known else ""))
    return tuple(found)


def _why(error: AutoresearchError | OSError) -> str:
    """Return why a station could not measure, with what fixes it there."""
    known = explain(error, str(stations_folder())) if isinstance(error, OSError) else error
    hint = REPEATS.sub("", known.hint)
    return f"{known}; {hint}" if hint else str(known)


def _line(answer: Answer) -> str:
    run = answer.run
    if run is None:
        return one_line(f"run {answer.lease}: not measured: {answer.failed}")
    result = figure(run.metric) if run.metric is not None else one_line(run.error or "failed")
    return f"run {answer.lease}: {result} in {duration(run.seconds)}"
