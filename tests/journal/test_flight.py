"""The fold of what stations do."""

from __future__ import annotations

from typing import Any

import pytest

from agent.journal.events import Event, fault_of
from agent.journal.experiment import Run
from agent.journal.flight import NO_FLIGHT, Flight
from tests.common.station_journals import StationsBuilder

CANDIDATE: dict[str, Any] = {
    "base": 0,
    "commit": "c" * 40,
    "merged": None,
    "proposer": "search",
    "description": "RATE 1 -> 2",
    "reasoning": "",
    "parameters": {"RATE": 2},
    "digest": "d" * 64,
    "files": ["train.py"],
    "expected": None,
}
RUN = {"metric": 1.5, "seconds": 10.0, "secondary": {"num_steps": 5.0}, "log": "1.log", "station": "studio"}


def after(*events: tuple[str, dict[str, Any]]) -> Flight:
    flight = NO_FLIGHT
    for at, (kind, data) in enumerate(events):
        event = Event(kind, 100.0 + at, data)
        assert fault_of(event) is None, event
        flight = flight.after(event)
    return flight


JOINED = ("joined", {"station": "studio", "facts": {"cores": 8}})


def leased(lease: str, **of: Any) -> tuple[str, dict[str, Any]]:
    whose = {"candidate": None, "of": None, "label": None, "seed": None, "rebase": False, **of}
    place = {"station": "studio", "commit": "c" * 40, "log": f"{lease}.log", "expected": 10.0}
    return "leased", {"lease": lease, **place, **whose}


def test_run_of_a_candidate() -> None:
    flight = after(JOINED, ("candidate", {"candidate": 1, **CANDIDATE}), leased("1", candidate=1))
    assert flight.leases["1"].station == "studio"
    assert (flight.proposed, flight.leased) == (1, 1)
    flight = flight.after(Event("returned", 110.0, {"lease": "1", **RUN}))
    run = flight.candidates[1].runs[0]
    assert (run.metric, run.station, flight.leases) == (1.5, "studio", {})
    assert (flight.stations["studio"].busy, flight.stations["studio"].runs) == (10.0, 1)


def test_answer_that_comes_twice_or_too_late_counts_once() -> None:
    answer = ("returned", {"lease": "1", **RUN})
    flight = after(JOINED, ("candidate", {"candidate": 1, **CANDIDATE}), leased("1", candidate=1), answer, answer)
    assert len(flight.candidates[1].runs) == 1
    lost = ("lost", {"lease": "1", "reason": "it is gone", "fault": "", "died": True})
    flight = after(JOINED, ("candidate", {"candidate": 1, **CANDIDATE}), leased("1", candidate=1), lost, answer)
    assert flight.candidates[1].runs == ()
    assert flight.candidates[1].lost == 1
    assert flight.stations["studio"].lost == 1


def test_run_of_a_kept_experiment_and_a_rebase() -> None:
    events = (JOINED, ("candidate", {"candidate": 1, **CANDIDATE}), leased("1", of=0, rebase=True))
    flight = after(*events, ("returned", {"lease": "1", **RUN, "rebased": True}))
    assert flight.kept[0][0].rebased
    assert flight.candidates[1].rebases == {"studio": 1}


def test_fault_of_a_gpu_is_counted_apart() -> None:
    lost = ("lost", {"lease": "1", "reason": "watchdog", "fault": "watchdog"})
    flight = after(JOINED, ("candidate", {"candidate": 1, **CANDIDATE}), leased("1", candidate=1), lost)
    assert (flight.candidates[1].faulted, flight.candidates[1].lost) == (1, 0)


def test_first_run_of_the_baseline_is_its_row() -> None:
    flight = after(JOINED, leased("1", of=0), ("returned", {"lease": "1", **RUN}))
    run = flight.kept[0][0]
    assert flight.without(0, 0, (run,)).kept == {}
    assert flight.without(0, 0, (Run(2.0, 1.0),)).kept == {0: (run,)}


def test_station_that_comes_back() -> None:
    left = ("left", {"station": "studio", "reason": "asleep"})
    assert after(JOINED, left).stations["studio"].gone == "asleep"
    again = after(JOINED, left, JOINED).stations["studio"]
    assert (again.gone, again.since) == (None, 102.0)


def test_what_a_station_does_not_say_when_it_comes_back_is_as_it_was() -> None:
    card = ("joined", {"station": "studio", "facts": {"cores": 8, "accelerator": "H100"}})
    moved = ("joined", {"station": "studio", "facts": {"cores": 4}})
    assert after(card, moved).stations["studio"].facts == {"cores": 4, "accelerator": "H100"}


def test_time_in_which_no_loop_ran_does_not_keep_a_station_busy() -> None:
    lost = {"reason": "it is gone", "fault": "", "died": False}
    for kind, data in (("lost", lost), ("withdrawn", {"reason": "it has its verdict"})):
        flight = after(JOINED, leased("1", of=0))
        flight = flight.after(Event(kind, 90_000.0, {"lease": "1", **data}), seconds=20.0)
        assert flight.stations["studio"].busy == 20.0


def test_cost_of_a_proposal_made_ahead_is_that_of_its_candidate() -> None:
    """The search has used the number that it was made for, while the model was thinking."""
    made = StationsBuilder("studio").run("studio", of=0).record(None, "keep")
    call: dict[str, Any] = {"number": 1, "model": "m", "input_tokens": 10, "output_tokens": 10}
    made.add("calling", **call, dollars=1.0).add("called", **call, dollars=0.5)
    made.propose()
    made.add("prepared", number=1, base="a" * 40, proposer="llm", description="RATE 1 -> 2")
    made.add("candidate", candidate=2, **{**CANDIDATE, "proposer": "llm"})
    made.run("studio", 1.6, candidate=1).record(1, "discard")
    made.run("studio", 1.6, candidate=2).record(2, "discard")
    assert [made.state.cost_of(each).dollars for each in made.state.experiments] == [0.0, 0.0, 0.5]
    assert made.state.cost.dollars == 0.5


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("joined", {"station": 3, "facts": {}}),
        ("joined", {"station": "a", "facts": {"x": []}}),
        ("leased", {"lease": "1", "station": "a", "commit": "--upload-pack=x", "log": "", "expected": 1.0}),
        ("returned", {"lease": "1", "metric": "low"}),
        ("returned", {"lease": "1", "untimed": "long", "overrun": 1.0}),
        ("measured", {"number": 1, "overrun": []}),
        ("compared", {"label": "a", "unconfined": "no"}),
        ("measured", {"number": 1, "source": ["attested"]}),
        ("candidate", {"candidate": -1}),
        ("confirmed", {"runs": "three"}),
        ("confirmed", {"reservations": [3]}),
        ("ablated", {"smaller": ["a"]}),
        ("ablated", {"smaller": {"commit": "--output=x"}}),
        ("ablated", {"smaller": {"without": "none"}}),
    ],
)
def test_forged_event_is_refused(kind: str, data: dict[str, Any]) -> None:
    assert fault_of(Event(kind, 1.0, data)) is not None
