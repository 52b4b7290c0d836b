"""Where the evaluator checks for look-ahead, and what it compares losses with."""

from typing import Any

import numpy as np
import pytest

from harness import scoring

ROWS, LENGTH, VOCABULARY = 64, 32, 50


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.fixture
def losses(generator: np.random.Generator) -> Any:
    """Honest losses: most are small, some large."""
    return generator.exponential(3.0, (ROWS, LENGTH))


def test_every_position_is_as_likely_where_nothing_is_suspicious() -> None:
    even = np.full((ROWS, LENGTH), 2.0)
    expected = scoring.expected_places(even, [even], np.ones((ROWS, LENGTH), bool), ROWS)
    assert expected[:, :-1] == pytest.approx(ROWS / (ROWS * (LENGTH - 1)))
    assert not expected[:, -1].any()  # the target of the last position is not part of the input


def test_places_go_where_a_loss_is_lower_than_the_incumbent_explains(
    losses: Any, generator: np.random.Generator
) -> None:
    candidate = np.abs(losses + generator.normal(0, 0.2, losses.shape))
    high = np.argsort(-candidate[:, :-1], axis=None)[:5]
    rows, positions = np.divmod(high, LENGTH - 1)
    candidate[rows, positions] = 0.0
    expected = scoring.expected_places(candidate, [losses], np.ones(losses.shape, bool), ROWS)
    assert (expected[rows, positions] > 0.9).all()
    assert expected.sum() == pytest.approx(ROWS)
    assert expected.max() <= 1


def test_targets_of_no_bytes_are_not_tried(losses: Any) -> None:
    counted = np.ones(losses.shape, bool)
    counted[:, ::2] = False
    expected = scoring.expected_places(losses, [losses], counted, ROWS)
    assert not expected[:, ::2].any()


def test_draws_follow_what_is_expected(generator: np.random.Generator) -> None:
    expected = generator.uniform(0, 0.05, (ROWS, LENGTH))
    expected[3, 7] = 1.0
    drawn = np.zeros_like(expected)
    for _ in range(2000):
        rows, places = scoring.draw(expected, generator)
        assert (places >= 1).all()
        drawn[rows, places - 1] += 1
    assert drawn[3, 7] == 2000
    assert np.abs(drawn / 2000 - expected).max() < 0.03


@pytest.mark.parametrize(("gain", "noise", "refused"), [(0.012, 0.0, True), (0.012, 0.002, True), (0.0, 0.008, False)])
def test_a_gain_where_few_places_are_tried_shows_although_their_mean_is_zero(
    generator: np.random.Generator, gain: float, noise: float, refused: bool
) -> None:
    losses = generator.exponential(3.0, (800, 256))
    rare = losses > 1.0
    expected = np.where(rare, 0.4, 2.0)
    expected *= len(losses) / expected.sum()
    # What a model that knows the target takes where few are tried, it gives back where many are.
    change = np.where(rare, gain, -gain * expected[rare].sum() / expected[~rare].sum())
    for _ in range(20):
        picked, places = scoring.draw(expected, generator)
        again = losses[picked] + generator.normal(0, noise, (len(picked), 256))
        at = np.arange(len(picked)), places - 1
        again[at] += change[picked, places - 1]
        assert abs((again - losses[picked])[at].mean()) < scoring.MEAN_TOLERANCE
        if refused:
            with pytest.raises(scoring.NotEvaluated, match="on average over all positions"):
                scoring.require_even(losses, again, picked, places, expected)
        else:
            scoring.require_even(losses, again, picked, places, expected)


def test_a_spliced_row_goes_on_with_another_token(generator: np.random.Generator) -> None:
    text = generator.integers(0, VOCABULARY, (ROWS, LENGTH + 1))
    picked, places = np.arange(ROWS), generator.integers(1, LENGTH, ROWS)
    spliced, counted = scoring.splice(text, text[:, 1:] > 5, picked, places, generator)
    for row, place in enumerate(places):
        assert not counted[row, :place].any()
        assert (counted[row, place:] == (spliced[row, place + 1 :] > 5)).all()
        assert (spliced[row, :place] == text[row, :place]).all()
        assert spliced[row, place] != text[row, place]


def test_trigrams_give_shares_that_add_up_to_one(generator: np.random.Generator) -> None:
    text = generator.integers(0, VOCABULARY, 5000)
    begin = np.tile(text[:2], (VOCABULARY, 1))
    rows = np.concatenate([begin, np.arange(VOCABULARY)[:, None]], axis=1)
    shares = np.exp(-scoring.trigram_losses(text, rows, VOCABULARY)[:, -1])
    assert shares.sum() == pytest.approx(1.0)


class InProcess:
    """A worker without a process, which counts the rows that it computes."""

    rows = 0

    def __init__(self, losses: Any) -> None:
        self._losses = losses

    def start(self, name: str, *args: Any) -> Any:
        if name == "compare":
            InProcess.rows += len(args[0])
        answers = {"require_harmless": False, "predict": None, "compare": self._losses}
        return lambda: answers[name][: len(args[0])] if name == "compare" else answers[name]


@pytest.mark.parametrize(("share", "tried"), [(1.0, ROWS), (1.5, 7)])
def test_a_run_that_is_clearly_worse_than_its_incumbent_is_tried_at_fewer_places(
    share: float, tried: int, losses: Any, generator: np.random.Generator
) -> None:
    text = generator.integers(0, VOCABULARY, (ROWS, LENGTH + 1)).astype(np.int32)
    task = scoring.Task(text, np.ones(losses.shape, int), VOCABULARY, "s", [np.full(losses.shape, 2.0)], True)
    InProcess.rows = 0
    workers = [InProcess(np.full((ROWS, LENGTH), 2.0 * share)) for _ in range(2)]
    bits, _ = scoring.evaluate(None, 16, task, workers)  # type: ignore[arg-type]
    assert bits == pytest.approx(2.0 * share / np.log(2))
    assert InProcess.rows == ROWS + tried


class KnowsRows(InProcess):
    """A worker whose losses rise where a row goes on like another one. Each row repeats one token of its own."""

    def start(self, name: str, *args: Any) -> Any:
        if name != "compare":
            return super().start(name, *args)
        (targets,) = args
        found = self._losses + 4.0 * (targets != targets[:, :1])
        return lambda: found


@pytest.mark.parametrize("loss", [1.0, 0.9 * np.log(VOCABULARY), 1.1 * np.log(VOCABULARY), 500.0])
def test_only_a_loss_below_that_of_a_guess_can_be_memory(loss: float) -> None:
    """The losses of a diverged model are so large that they may differ by many nats from text to text."""
    text = np.repeat(np.arange(ROWS, dtype=np.int32)[:, None] % VOCABULARY, LENGTH + 1, axis=1)
    shape = (ROWS, LENGTH)
    task = scoring.Task(text, np.ones(shape, int), VOCABULARY, "s", [np.full(shape, 2.0)], True)
    workers: Any = [KnowsRows(np.float64(loss)) for _ in range(2)]
    if loss < np.log(VOCABULARY):
        with pytest.raises(scoring.NotEvaluated, match="memorized the validation text"):
            scoring.evaluate(None, 16, task, workers)  # type: ignore[arg-type]
    else:
        assert scoring.evaluate(None, 16, task, workers)[0] == pytest.approx(loss / np.log(2))  # type: ignore[arg-type]


class HidesRows(KnowsRows):
    """A worker with huge losses in the first half of its rows, where no target counts."""

    def start(self, name: str, *args: Any) -> Any:
        if name != "compare":
            return super().start(name, *args)
        found = super().start(name, *args)()
        found[:, : LENGTH // 2] = 1e4
        return lambda: found


def test_huge_losses_where_no_target_counts_hide_no_memory() -> None:
    text = np.repeat(np.arange(ROWS, dtype=np.int32)[:, None] % VOCABULARY, LENGTH + 1, axis=1)
    shape = (ROWS, LENGTH)
    lengths = np.ones(shape, int)
    lengths[:, : LENGTH // 2] = 0
    task = scoring.Task(text, lengths, VOCABULARY, "s", [np.full(shape, 2.0)], True)
    workers: Any = [HidesRows(np.float64(1.0)) for _ in range(2)]
    with pytest.raises(scoring.NotEvaluated, match="memorized the validation text"):
        scoring.evaluate(None, 16, task, workers)  # type: ignore[arg-type]
