"""The search while other stations measure candidates: pending points, and nothing proposed twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from agent.journal.experiment import Experiment, Proposal, Run, Verdict, digest
from agent.proposers.base import Context, Flying
from agent.proposers.search.gaussian_process import GaussianProcess, fit
from agent.proposers.search.search import SearchProposer
from agent.proposers.search.space import space_of, tunable_parameters
from agent.proposers.search.training_set import measured_in_flight, pending_points

pytestmark = pytest.mark.quick

FILES = {"train.py": "RATE = 0.1  # search: 0.01..1.0 log\nMODE = 'a'  # search: 'a' | 'b' | 'c'\n"}


def experiment(number: int, proposal: Proposal, value: float, status: str = "discard") -> Experiment:
    files = {**FILES, **proposal.files}
    verdict = Verdict("keep" if status == "keep" else "discard", "")
    return Experiment(
        number, "search", "", str(number), digest(files), proposal.parameters, (Run(value, 10.0),), verdict
    )


def context(number: int, history: list[Experiment], flight: tuple[Flying, ...] = ()) -> Context:
    return Context(number, 0, FILES, history[0], tuple(history), "minimize", {}, flight=flight)


def flying(number: int, proposal: Proposal) -> Flying:
    return Flying(number, proposal.description, proposal.parameters, digest({**FILES, **proposal.files}), ("train.py",))


def baseline() -> Experiment:
    return experiment(0, Proposal(FILES, "baseline", parameters=tunable_parameters(FILES, {})), 1.0, "keep")


def test_candidates_in_flight_are_never_proposed_again() -> None:
    history, search = [baseline()], SearchProposer()
    flight: tuple[Flying, ...] = ()
    texts: dict[int, Mapping[str, str]] = {}
    for number in range(1, 25):
        proposal = search.ask(context(number, history, flight))
        found = flying(number, proposal)
        assert found.digest not in {each.digest for each in history} | {each.digest for each in flight}
        flight, texts[number] = (*flight, found), proposal.files
        if number > 12:
            # The oldest has been measured.
            done, *rest = flight
            value = 1.0 + abs(float(done.parameters["RATE"]) - 0.3)
            files = texts[done.number]
            history.append(experiment(len(history), Proposal(files, "", parameters=done.parameters), value))
            flight = tuple(rest)


def test_empty_flight_changes_nothing() -> None:
    history = [baseline()]
    for number in range(1, 14):
        proposal = SearchProposer().ask(context(number, history))
        assert proposal == SearchProposer().ask(replace(context(number, history), flight=()))
        history.append(experiment(number, proposal, 1.0 + abs(float(proposal.parameters["RATE"]) - 0.3)))


def model() -> GaussianProcess:
    rng = np.random.default_rng(0)
    points = rng.random((12, 2))
    return fit(points, ((points - 0.4) ** 2).sum(1), np.array([0, 1]), np.ones(12))


def test_pending_points_make_the_model_sure_without_moving_it() -> None:
    known, rng = model(), np.random.default_rng(1)
    pending, others = rng.random((3, 2)), rng.random((20, 2))
    told = known.pending(pending)
    assert np.allclose(told.predict(others)[0], known.predict(others)[0])
    assert (told.predict(others)[1] <= known.predict(others)[1] + 1e-9).all()
    assert (told.predict(pending)[1] < 0.9 * known.predict(pending)[1]).all()
    assert known.pending(np.zeros((0, 2))) is known


def test_pending_model_is_the_one_refitted_with_what_it_predicted() -> None:
    known = model()
    pending = np.array([[0.1, 0.9], [0.5, 0.5]])
    told, place = known.pending(pending), np.array([[0.3, 0.6]])
    covariance = np.linalg.inv(told.inverse)
    assert np.allclose(covariance[:12, :12], np.linalg.inv(known.inverse), atol=1e-6)
    believed = (known.predict(pending)[0] - known.mean) / known.scale
    values = np.concatenate([np.linalg.inv(known.inverse) @ known.weights, believed])
    # The believed values differ from the prediction by nothing, up to the noise that the diagonal holds.
    assert np.allclose(covariance @ told.weights, values, atol=1e-6)
    assert told.predict(place)[0] == pytest.approx(known.predict(place)[0])


def test_candidates_in_flight_count_with_their_runs() -> None:
    start = baseline()
    ran = Flying(1, "", {**start.parameters, "RATE": 0.3}, "d", ("train.py",), 0.9)
    waits = Flying(2, "", {**start.parameters, "RATE": 0.5}, "e", ("train.py",))
    about = context(3, [start], (ran, waits))
    assert measured_in_flight(about) == [(ran.parameters, 0.9)]
    assert measured_in_flight(replace(about, direction="maximize")) == [(ran.parameters, -0.9)]
    assert len(pending_points(space_of(FILES, {}), about)) == 1
