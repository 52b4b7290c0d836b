"""The stations of a session as plain data: what they run, their noise and level, and the share of time used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.journal.events import Event
from agent.journal.paths import journal_path
from agent.protocol.load import load_protocol
from agent.report.gain import estimate_of, outcome
from agent.report.gather import gather
from agent.report.stations import by_station, machine_of, stations_line, stations_of
from agent.report.timing import time_spent
from agent.repository.workspace import Workspace
from agent.views.plain import event_lines
from tests.common import schemas
from tests.common.journals import JournalBuilder, as_named
from tests.common.station_journals import StationsBuilder, night
from tests.common.workspaces import git


@pytest.mark.quick
def test_stations_say_what_they_run_and_what_came_of_it() -> None:
    state = night().state
    now = state.latest_at + 50
    gpu, mini, studio = stations_of(state, now)
    assert (gpu.name, mini.name, studio.name) == ("gpu10", "mini", "studio")
    assert studio.running is not None
    assert studio.running.text == "candidate 3: DEPTH 5 -> 6"
    assert studio.running.seconds == pytest.approx(150)
    assert studio.running.done_at - studio.running.since == 300
    assert mini.running is not None
    assert (mini.running.kind, mini.running.text) == ("incumbent", "incumbent #1")
    assert (gpu.here, gpu.gone, gpu.running) == (False, "it is not connected any more", None)
    assert [each.runs for each in (gpu, mini, studio)] == [1, 3, 5]
    assert [each.lost for each in (gpu, mini, studio)] == [1, 0, 0]
    assert [each.kept for each in (gpu, mini, studio)] == [0, 1, 1]
    assert gpu.noise is None
    assert gpu.level == pytest.approx(1.005, abs=0.02)
    assert studio.noise is not None
    assert (studio.reference, studio.level) == (True, 0.0)
    assert mini.level == pytest.approx(0.5, abs=0.02)
    assert studio.machine == "H100, 8 cores, host-studio"
    assert stations_line(state) == "gpu10 1 run (1 lost), mini 3 runs, studio 5 runs"


@pytest.mark.quick
def test_time_between_a_stop_and_the_next_start_is_neither_used_nor_idle() -> None:
    made = night()
    before = {each.name: each for each in stations_of(made.state, made.state.latest_at)}
    assert before["studio"].busy == 5 * 300 + 100
    assert before["studio"].used == pytest.approx(1600 / 2800)
    made.add("resumed", 36_000.0, pid=2, flags={})
    lease = next(each for each in made.state.flight.leases.values() if each.station == "mini")
    whose = {**made.of_lease[lease.lease], "label": None}
    made.add("lost", 10.0, lease=lease.lease, station="mini", reason="the session was interrupted", fault="", **whose)
    after = {each.name: each for each in stations_of(made.state, made.state.latest_at)}
    assert after["studio"].used == pytest.approx(1610 / 2810)
    assert after["mini"].busy == 3 * 300 + 110
    # A loop that was killed leaves leases in the journal, and no station runs anything for it.
    killed = stations_of(made.state, made.state.latest_at + 1e6, running=False)
    assert [each.running for each in killed] == [None] * 3
    assert not any(each.here for each in killed)
    assert all(each.used is not None and each.used <= 1 for each in killed)


@pytest.mark.quick
def test_an_experiment_is_compared_with_its_base_even_if_another_was_kept_meanwhile() -> None:
    state = night().state
    assert [each.base for each in state.experiments] == [None, 0, 0]
    assert outcome(state, state.experiments[2]).incumbent == 0


@pytest.mark.quick
def test_time_spent_is_that_of_all_stations() -> None:
    made = night()
    events = [json.loads(line) for line in made.write.lines]
    spent = time_spent([Event(each.pop("event"), each.pop("at"), each) for each in events], as_named)
    assert (spent.training, spent.repeats, spent.interruptions) == (4 * 300, 5 * 300, 100)
    there = 3 * made.state.seconds
    assert spent.other == pytest.approx(there - 9 * 300 - 100)


@pytest.mark.quick
def test_journal_of_stations_fits_the_schema_and_has_lines() -> None:
    made = night()
    lines = [json.loads(line) for line in made.write.lines]
    assert [fault for line in lines if (fault := schemas.fault("event", line)) is not None] == []
    asked = [line for line in lines if line["event"] == "leased"][-3]
    at, kind = asked.pop("at"), asked.pop("event")
    assert event_lines(Event(kind, at, asked), made.state) == ["studio runs candidate 3, about 5m00s: DEPTH 5 -> 6"]


@pytest.mark.quick
def test_texts_of_stations_stay_on_one_short_line() -> None:
    assert by_station({"studio": 0.012, "mini": -0.004}, 1.5) == "better on studio (+0.012000), not on mini (-0.004000)"
    assert machine_of({"accelerator": "x\n\x1b[31my" + "z" * 500, "host": None}) == "x y" + "z" * 57
    assert machine_of({}) == ""


def test_report_says_that_sessions_were_not_measured_on_the_same_stations(quick: Path) -> None:
    head = git(quick, "rev-parse", "HEAD")
    for tag, names in (("one", ("studio",)), ("two", ("studio", "mini"))):
        made = StationsBuilder(*names, tag=tag, base=head)
        made.run("studio", of=0).record(None, "keep")
        made.write.save(journal_path(quick, tag))
    JournalBuilder("here", base=head).baseline().save(journal_path(quick, "here"))
    unlike = gather(Workspace(quick, load_protocol(quick)), ["here", "one", "two"])["unlike"]
    assert unlike == {
        "one": ["stations was none and is now studio"],
        "two": ["stations was none and is now mini, studio"],
    }


@pytest.mark.quick
def test_discard_without_evidence_is_shown_on_the_scale_of_the_rows() -> None:
    """Mini adds 0.5 to each number, and the level of a station that joined late is unknown."""
    made = StationsBuilder("studio", "mini", "late")
    for name in ("studio", "mini", "studio", "mini"):
        made.run(name, 1.5, of=0)
        if not made.state.experiments:
            made.record(None, "keep")
    there, both, unknown = (made.propose() for _ in range(3))
    made.run("mini", 1.6, candidate=there).record(there, "discard")
    made.run("studio", 1.6, candidate=both).run("mini", 1.6, candidate=both).record(both, "discard")
    made.run("late", 1.6, candidate=unknown).record(unknown, "discard")
    state = made.state
    for number, raw in ((1, 2.1), (2, 1.85)):
        experiment = state.experiments[number]
        assert experiment.metric == pytest.approx(raw)
        came = outcome(state, experiment)
        assert came.value == pytest.approx(1.6)
        assert came.gain == pytest.approx(-0.1)
        assert came.word == "worse"
        assert estimate_of(state, experiment) == pytest.approx(1.6)
    last = outcome(state, state.experiments[3])
    assert (last.value, last.gain, last.incumbent) == (None, None, 0)
    assert [outcome(state, each).value for each in state.experiments[:1]] == [1.5]
