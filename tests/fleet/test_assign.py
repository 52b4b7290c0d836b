"""The assignment: who confirms, who measures the incumbent, who takes the next proposal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.decision.sequential_test import REFRESH_EVERY
from agent.decision.stations import Wants
from agent.fleet.assign import LEAST_REPEATED, MOST_BETWEEN, STATIONS_PER_RUN, InFlight, Task, View, next_task

pytestmark = pytest.mark.quick

BOTH = frozenset(("studio", "mini"))
IDLE = View({"studio": None, "mini": None}, (), {"studio": 2, "mini": 2}, BOTH)
INCUMBENT, PROPOSE = Task("incumbent"), Task("propose")


def flight(number: int, finished: int = 1, running: tuple[str, ...] = (), **wants: object) -> InFlight:
    return InFlight(number, finished, running, Wants(**wants) if wants else None)  # type: ignore[arg-type]


def test_idle_station_proposes_if_nothing_waits() -> None:
    assert next_task("mini", IDLE) == PROPOSE
    assert next_task("mini", replace(IDLE, may_propose=False)) is None


def test_late_joiner_begins_with_incumbent() -> None:
    joined = replace(IDLE, stations={**IDLE.stations, "lab": None})
    assert next_task("lab", joined) == INCUMBENT
    assert next_task("lab", replace(joined, known=BOTH | {"lab"})) == PROPOSE


def test_session_begins_with_repetitions_of_the_incumbent() -> None:
    assert next_task("mini", View({"studio": None, "mini": None})) == INCUMBENT
    once = replace(IDLE, measured={"studio": 1, "mini": 1}, repeated=0.1)
    assert next_task("mini", once) == INCUMBENT
    assert next_task("mini", replace(once, repeated=LEAST_REPEATED)) == PROPOSE
    # One that another station is making counts.
    assert next_task("mini", replace(once, repeated=1.1, stations={"studio": INCUMBENT, "mini": None})) == PROPOSE


def test_promising_candidate_is_confirmed_before_new_proposals() -> None:
    waiting = [
        flight(3, candidate=1, stations=BOTH, priority=0.5),
        flight(4, candidate=1, stations=BOTH, priority=2.0),
        flight(5, running=("studio",), candidate=1, stations=BOTH, priority=9.0),
    ]
    assert next_task("mini", replace(IDLE, flights=waiting)) == Task("candidate", 4)
    parallel = [flight(5, running=("studio",), candidate=2, stations=BOTH, priority=9.0)]
    assert next_task("mini", replace(IDLE, flights=parallel)) == Task("candidate", 5)
    elsewhere = [flight(5, candidate=1, stations=frozenset(("studio",)))]
    assert next_task("mini", replace(IDLE, flights=elsewhere)) == PROPOSE


def test_incumbent_is_measured_where_a_verdict_waits_for_it() -> None:
    waiting = [flight(3, incumbent=frozenset(("mini",)))]
    assert next_task("mini", replace(IDLE, flights=waiting)) == INCUMBENT
    assert next_task("studio", replace(IDLE, flights=waiting)) == PROPOSE
    changed = [flight(3, incumbent=frozenset(("mini",)), rebase=frozenset(("mini",)))]
    assert next_task("mini", replace(IDLE, flights=changed)) == Task("incumbent", rebase=True)


def test_new_incumbent_is_no_barrier() -> None:
    new = replace(IDLE, measured={}, flights=[flight(3, running=("studio",))])
    assert next_task("mini", new) == PROPOSE
    # To confirm where neither program has run takes two runs: only if no other station has the incumbent's value.
    waiting = replace(new, flights=[flight(3, candidate=1, stations=BOTH)])
    assert next_task("mini", waiting) == INCUMBENT
    assert next_task("mini", replace(waiting, measured={"studio": 1})) == PROPOSE


def test_new_incumbent_is_measured_at_once_on_some_of_many_stations() -> None:
    names = [f"s{number}" for number in range(2 * STATIONS_PER_RUN)]
    new = View(dict.fromkeys(names), (), {"s0": 1}, frozenset(names))
    assert next_task("s0", new) == PROPOSE
    assert next_task("s1", new) == INCUMBENT
    assert next_task("s2", replace(new, stations={**new.stations, "s1": INCUMBENT})) == PROPOSE
    assert next_task("s1", replace(new, may_propose=False)) is None
    promising = [flight(3, candidate=1, stations=frozenset(names), priority=2.0)]
    assert next_task("s0", replace(new, flights=promising)) == Task("candidate", 3)
    few = names[: STATIONS_PER_RUN - 1]
    assert next_task("s1", View(dict.fromkeys(few), (), {}, frozenset(few))) == PROPOSE


def test_candidate_whose_run_was_lost_is_measured_first() -> None:
    assert next_task("mini", replace(IDLE, flights=[flight(7, finished=0)])) == Task("candidate", 7)
    assert next_task("mini", replace(IDLE, flights=[flight(7, finished=0, running=("studio",))])) == PROPOSE


def test_incumbent_is_refreshed_with_age() -> None:
    old = replace(IDLE, measured={"studio": 1}, age=2 * REFRESH_EVERY)
    assert next_task("mini", old) == INCUMBENT
    assert next_task("mini", replace(old, stations={"studio": INCUMBENT, "mini": None})) == PROPOSE
    assert next_task("mini", replace(IDLE, since={"mini": MOST_BETWEEN})) == INCUMBENT
