"""Curves from logs, failures visible in a curve, and the pruning rule on sessions with known truth."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path

import pytest

from agent.journal.experiment import Run, Verdict
from agent.pruning.curves import (
    FINEST,
    Curve,
    CurveReader,
    Point,
    at,
    average,
    broken,
    curve,
    misleads,
    overdue,
    pace,
    too_late,
)
from agent.pruning.monitor import CurveCache
from agent.pruning.prune import CONTROL, EARLIEST, LEAST, Finished, Rival, forecast, hopeless, spared
from agent.source.diff import CODE, changed, kinds
from tests.common.experiments import kept

pytestmark = pytest.mark.quick

LINE = (
    "step {step:05d} ({percent}%) | loss: {loss} | lrm: 1.00 | dt: 25ms | tok/sec: 327,680 | epoch: 1 | remaining: 88s"
)


def line(percent: float, loss: float | str, step: int = 12) -> str:
    return LINE.format(step=step, percent=percent, loss=loss) + "\n"


def straight(start: float, end: float, lines: int = 20, upto: float = 1.0) -> Curve:
    return tuple(
        Point(n / lines, start + (end - start) * n / lines) for n in range(lines + 1) if n / lines <= upto + 1e-9
    )


# ----------------------------------------------------------------------------------------------------------------------
# Reading


def test_reads_what_train_py_prints() -> None:
    text = (
        "data: 0.1s | profile cpu | vocabulary 1,024\n"
        + line(0.0, 6.931443, 1)
        + line(12.3, 3.21)
        + "---\nval_bpb: 1.9\n"
    )
    assert [point[:2] for point in curve(text)] == [(0.0, 6.931443), (pytest.approx(0.123), 3.21)]
    assert [point.step for point in curve(text)] == [1, 12]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12.5% loss=0.5", (0.125, 0.5)),
        ("step 3/12 - train_loss: 2.5e-1", (0.25, 0.25)),
        ("[iter 30 of 40] Loss 1.5, lr 0.1", (0.75, 1.5)),
        (" 25%|##   | 25/100 [00:03<00:09, loss=3.25]", (0.25, 3.25)),
        ("step 1/2 | val_loss: 9.0 | loss: 2", (0.5, 2.0)),
        ("step 5/10 | loss: inf", (0.5, math.inf)),
        ("acc 38.2% | loss: 2 | progress 25%", (0.25, 2.0)),
        ("GPU 98% | 12.5% done | loss: 2", (0.125, 2.0)),
    ],
)
def test_reads_other_programs_too(text: str, expected: tuple[float, float]) -> None:
    assert [point[:2] for point in curve(text + "\n")] == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "loss: 3.2",
        "12% done",
        "step 3/0 loss: 2",
        "step 13/12 loss: 2",
        "140% loss: 2",
        "10% val_loss: 2.0",
        "10% best loss: 2.0",
        "10% loss: not known",
        "10% lossless: 3",
        "10% loss: 3.2.1",
        "a\0b\xff 10% lo\nss: 2",
        "epoch 12 | loss 2.41 | acc 38.2%",
        "loss: 2 | top1: 40.0% | top-5 = 61.8%",
        "loss: 2 | val_accuracy 12 %",
        "loss: 2 | Acc@1 40% | error rate: 60%",
        "gpu 98% | gpu 1: 97% | GPU util: 60% | mem 40% | loss: 2",
    ],
)
def test_passes_over_what_is_no_point(text: str) -> None:
    assert curve(text + "\n") == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("step 1,200/10,000 | loss: 1,234.5 | tok/sec: 33,000", (0.12, 1234.5)),
        ("step 12 (12.0%) | \x1b[32mloss: \x1b[1m3.5\x1b[0m | tok/sec: 33,000", (0.12, 3.5)),
        ("loss 3,14 (12%)", (0.12, 3.0)),
    ],
)
def test_thousands_and_colours_change_no_loss(text: str, expected: tuple[float, float]) -> None:
    found = curve(f"{text}\n")
    assert [(point.fraction, point.loss) for point in found] == [expected]


def test_nan_is_a_point() -> None:
    assert math.isnan(curve(line(10, "nan"))[0].loss)


def test_torn_lines_and_carriage_returns_in_any_pieces() -> None:
    whole = (line(10, 5.0) + line(20, 4.0).replace("\n", "\r\n") + line(30, 3.0).replace("\n", "\r")).encode()
    for size in (1, 7, 1000):
        reader = CurveReader()
        for begin in range(0, len(whole), size):
            reader.feed(whole[begin : begin + size], seconds=begin / 10)
        assert [point[:2] for point in reader.curve] == [(0.1, 5.0), (0.2, 4.0), (0.3, 3.0)]
    torn = CurveReader()
    assert torn.feed(whole + line(40, 2.5).encode()[:30])
    assert not torn.feed(b"1")
    assert torn.curve[-1].fraction == 0.3


def test_a_share_that_goes_back_is_passed_over() -> None:
    assert [point.fraction for point in curve(line(50, 3.0) + line(10, 9.0) + line(60, 2.0))] == [0.5, 0.6]


def test_ten_megabytes_are_bounded_work_and_a_short_curve() -> None:
    reader, began = CurveReader(), time.process_time()
    for n in range(10_000):
        reader.feed((line(n / 100, 5 - n / 2500) + "garbage \0 " * 90 + "\n").encode())
    reader.feed(b"x" * 5_000_000)
    reader.feed(b"x\n" + line(100, 1.0).encode())
    assert len(reader.curve) <= 2 / FINEST + 2
    assert reader.curve[-1][:2] == (1.0, 1.0)
    # Takes about half a second; a reader that starts over at each call would take minutes.
    assert time.process_time() - began < 10


def test_interpolation_and_average() -> None:
    wave = (Point(0.0, 4.0), Point(0.5, 2.0), Point(1.0, 1.0))
    assert [at(wave, f) for f in (0.0, 0.25, 0.5, 1.0)] == [4.0, 3.0, 2.0, 1.0]
    assert at(wave, 1.1) is None
    assert at(wave[1:], 0.2) is None
    assert at((), 0.5) is None
    assert [point.loss for point in average([wave, straight(6.0, 3.0)])] == [5.0, 3.25, 2.0]
    assert average([]) == ()


# ----------------------------------------------------------------------------------------------------------------------
# At once


def test_a_loss_that_is_no_number_ends_a_run() -> None:
    assert broken(curve(line(10, 5.0) + line(12, "nan"))) == "pruned at 12%: the loss became nan"
    assert broken(curve(line(10, 5.0) + line(12, "inf"))) == "pruned at 12%: the loss became inf"
    assert broken(curve(line(10, 5.0) + line(12, "3e200"))) == "pruned at 12%: the loss became inf"
    assert broken(curve(line(0, "nan"))) is None  # printed before there was one
    assert broken(curve(line(0, "nan") + line(1, 5.0))) is None
    assert broken(()) is None


def test_divergence_needs_a_multiple_of_the_first_loss_three_times() -> None:
    def losses(*values: float) -> Curve:
        return tuple(Point(n / 10, loss) for n, loss in enumerate(values))

    assert "diverged, from 2 to 9" in (broken(losses(2, 1.5, 8, 9, 9)) or "")
    assert broken(losses(2, 1.5, 8, 9, 5)) is None
    assert broken(losses(2, 9, 9)) is None
    assert broken(losses(-2, -1, -1, -0.5, 3, 3, 3)) is None


def test_a_run_too_slow_for_its_limit_is_ended_once_its_pace_is_clear() -> None:
    def pace(seconds: float, upto: float, start: float = 5.0) -> Curve:
        return tuple(Point(n / 100, 3.0, start + n / 100 * seconds) for n in range(round(100 * upto) + 1))

    assert overdue(pace(2000, 0.1), 205, 900) == "pruned at 10%: at this pace it takes 2005 s, the hard limit is 900 s"
    assert overdue(pace(2000, 0.03), 65, 900) is None
    assert overdue(pace(950, 0.5), 480, 900) is None  # within the margin
    assert overdue(pace(300, 0.5), 155, 900) is None
    assert overdue(pace(300, 0.5), 800, 900) is None  # a pause, after which it may still end in time
    assert overdue(straight(5, 2), 100, 10) is None  # nobody looked at a clock
    slow_start = (Point(0.0, 5.0, 0.0), *(Point(0.1 + n / 100, 4.0, 400.0 + 3 * n) for n in range(20)))
    assert overdue(slow_start, 460, 900) is None


def test_a_run_that_has_no_time_left_for_its_budget_is_ended() -> None:
    begun = (Point(0.0, 5.0, 590.0),)
    late = "pruned at 0%: after 601 s it has 300 s of training left, the hard limit is 900 s"
    assert too_late(begun, 601, 900, 300) == late
    assert too_late(begun, 599, 900, 300) is None
    assert too_late((*begun, Point(0.5, 4.0, 700.0)), 701, 900, 300) is None
    assert too_late((*begun, Point(1.0, 4.0, 700.0)), 899, 900, 300) is None  # its evaluation takes long
    assert too_late((), 899, 900, 300) is None
    assert too_late(begun, 899, 900, None) is None
    assert too_late(begun, 30, 60, 300) is None  # a protocol that contradicts itself


def test_fractions_by_which_the_incumbent_itself_was_too_slow_are_none_of_the_training() -> None:
    def rising(start: float, end: float) -> Curve:
        return tuple(Point(start + (end - start) * n / 40, 2.0) for n in range(41))

    assert not misleads(rising(0.0, 1.0), 300, 900, 300)
    assert not misleads(rising(0.0, 1.0), 890, 900, 300)
    assert not misleads((), 300, 900, 300)
    assert misleads(rising(0.1, 0.382), 300, 900, None)  # an accuracy
    assert misleads(rising(0.8, 0.9), 800, 900, None)
    assert misleads(rising(0.0, 0.9), 325, 330, 300)


# ----------------------------------------------------------------------------------------------------------------------
# Against the incumbent

BEST = straight(5.0, 2.0)


def history(count: int, changed: frozenset[str] = frozenset({"MATRIX_LR"}), recovers: float = 0.0) -> list[Finished]:
    """Return runs that end behind by about half of their gap; one recovers from `recovers`."""
    runs = []
    for n in range(count):
        above = 0.02 + 0.03 * (n % 7)
        noise = 0.004 * (-1) ** n
        final = 2 + above
        runs.append(Finished(straight(5.0 + above, final), 1.0 + above / 2 + noise, BEST, 1.0, changed))
    if recovers:
        runs.append(Finished(straight(5.0 + recovers, 2.0 + recovers), 0.99, BEST, 1.0, changed))
    return runs


def behind(above: float, upto: float = 0.5) -> Curve:
    return straight(5.0 + above, 2.0 + above, upto=upto)


def test_a_run_that_is_far_behind_is_pruned_and_says_why() -> None:
    pruned = hopeless(behind(0.4), Rival(BEST, 1.0, history(14), {"MATRIX_LR"}))
    assert pruned is not None
    assert pruned.fraction == 0.5
    assert pruned.estimate == pytest.approx(1.2, abs=0.01)
    assert pruned.chance < 0.005
    assert pruned.reason.startswith("pruned at 50%: the loss is 0.4 above the incumbent's at that point")
    assert pruned.reason.endswith("of 14 earlier runs, none that fell behind recovered")


def test_a_maximised_metric_is_turned_round() -> None:
    runs = [dataclasses.replace(run, metric=2 - run.metric) for run in history(14)]
    pruned = hopeless(behind(0.4), Rival(BEST, 1.0, runs, {"MATRIX_LR"}, "maximize"))
    assert pruned is not None
    assert pruned.estimate == pytest.approx(0.8, abs=0.01)
    assert hopeless(behind(0.4), Rival(BEST, 1.0, history(14), {"MATRIX_LR"}, "maximize")) is None


def test_what_is_not_behind_or_not_known_goes_on() -> None:
    runs = history(14)
    assert hopeless(behind(0.004), Rival(BEST, 1.0, runs, {"MATRIX_LR"})) is None
    assert hopeless(behind(-0.4), Rival(BEST, 1.0, runs, {"MATRIX_LR"})) is None
    assert hopeless((), Rival(BEST, 1.0, runs, {"MATRIX_LR"})) is None
    assert hopeless(behind(0.4), Rival((), 1.0, runs, {"MATRIX_LR"})) is None
    assert hopeless(behind(math.nan), Rival(BEST, 1.0, runs, {"MATRIX_LR"})) is None
    assert hopeless(behind(0.4, upto=1.0), Rival(BEST, 1.0, runs, {"MATRIX_LR"})) is None  # only the evaluation is left


def test_off_without_history() -> None:
    assert hopeless(behind(9.0), Rival(BEST, 1.0, history(LEAST - 1), {"MATRIX_LR"})) is None
    assert hopeless(behind(9.0), Rival(BEST, 1.0, history(LEAST), {"MATRIX_LR"})) is not None
    failed = [dataclasses.replace(run, curve=()) for run in history(30)]
    assert hopeless(behind(9.0), Rival(BEST, 1.0, failed, {"MATRIX_LR"})) is None


def test_never_in_the_first_fifth_and_never_by_one_point() -> None:
    runs = history(14)
    assert hopeless(behind(0.4, upto=EARLIEST), Rival(BEST, 1.0, runs, {"MATRIX_LR"})) is None
    assert hopeless(behind(0.4, upto=EARLIEST + 0.05), Rival(BEST, 1.0, runs, {"MATRIX_LR"})) is not None
    spike = (*behind(0.0, upto=0.45), Point(0.5, 9.0))
    assert hopeless(spike, Rival(BEST, 1.0, runs, {"MATRIX_LR"})) is None
    hole = (*behind(0.4, upto=0.25), Point(0.9, 9.0))
    assert hopeless(hole, Rival(BEST, 1.0, runs, {"MATRIX_LR"})) is None


def test_not_while_one_that_was_as_far_behind_has_come_back() -> None:
    assert hopeless(behind(0.15), Rival(BEST, 1.0, history(30), {"MATRIX_LR"})) is not None
    assert hopeless(behind(0.15), Rival(BEST, 1.0, history(30, recovers=0.2), {"MATRIX_LR"})) is None


def test_noise_of_the_metric_is_the_least_uncertainty() -> None:
    assert hopeless(behind(0.15), Rival(BEST, 1.0, history(30), {"MATRIX_LR"}, noise=0.01)) is not None
    assert hopeless(behind(0.15), Rival(BEST, 1.0, history(30), {"MATRIX_LR"}, noise=0.05)) is None


@pytest.mark.parametrize("name", ["TOTAL_BATCH_SIZE", "WARMDOWN_RATIO", "DEPTH", CODE])
def test_kinds_whose_curves_cross_are_doubted_more(name: str) -> None:
    def chance(changed: set[str], known: str = "MATRIX_LR") -> float:
        found = forecast(behind(0.1), Rival(BEST, 1.0, history(14, frozenset({known})), changed), 0.5)
        assert found is not None
        return found.chance

    assert chance({name}) > 5 * chance({"MATRIX_LR"})
    assert chance({name, "MATRIX_LR"}) == chance({name})
    assert chance({name}, known=name) < chance({name})


def test_kinds_of_edits() -> None:
    assert kinds({"MATRIX_LR", "ADAM_BETA1", "SEED"}) == set()
    assert kinds({"WARMUP_RATIO"}) >= {"schedule"}
    assert kinds({"BIGRAM_LR_RATIO", "HEAD_LR", "LAYER_BETA2", "HIDDEN_MOMENTUM"}) == set()
    assert kinds({"LAYER_LR_DECAY"}) == {"schedule"}
    assert kinds({"TOTAL_BATCH_SIZE", "DEPTH", CODE}) == {"batch", "size", CODE}


def test_what_an_edit_changes() -> None:
    before = {"train.py": "LR = 0.1  # search: 0..1\nDEPTH = 2\nprint(LR)\n", "more.py": "A = 1\n"}
    assert changed(before, before, {}) == set()
    assert changed(before, {**before, "train.py": before["train.py"].replace("0.1 ", "0.25 ")}, {}) == {"LR"}
    assert changed(before, {**before, "train.py": before["train.py"].replace("print", "log")}, {}) == {CODE}
    assert changed(before, {**before, "train.py": "LR = 3\nDEPTH = 2\nprint(LR)\n"}, {}) == {"LR", CODE}
    assert changed(before, {"train.py": before["train.py"]}, {}) == {CODE}


def test_a_busy_machine_is_no_reason() -> None:
    def stepping(curve: Curve, steps: int) -> Curve:
        return tuple(point._replace(step=point.fraction * steps) for point in curve)

    best, runs = stepping(BEST, 100), history(14)
    assert pace(stepping(behind(0.4), 60), best) == pytest.approx(0.6)
    assert pace(stepping(behind(0.4), 0), best) == 0
    assert pace(behind(0.4), best) is None
    assert pace((), best) is None
    assert pace(best, ()) is None
    assert hopeless(stepping(behind(0.4), 90), Rival(best, 1.0, runs, {"MATRIX_LR"})) is not None
    assert hopeless(stepping(behind(0.4), 60), Rival(best, 1.0, runs, {"MATRIX_LR"})) is None
    assert hopeless(stepping(behind(0.9), 60), Rival(best, 1.0, runs, {"DEPTH"})) is not None
    slow = [dataclasses.replace(run, curve=stepping(run.curve, 60), incumbent_curve=best) for run in runs]
    assert hopeless(behind(0.4), Rival(BEST, 1.0, slow, {"MATRIX_LR"})) is None


def test_one_in_twenty_is_spared_and_always_the_same() -> None:
    chosen = [number for number in range(4000) if spared(1, number)]
    assert 0.7 * CONTROL < len(chosen) / 4000 < 1.3 * CONTROL
    assert chosen == [number for number in range(4000) if spared(1, number)]
    assert chosen != [number for number in range(4000) if spared(2, number)]


def test_voided_run_teaches_nothing(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(line(50, 2.0) + line(100, 1.0))
    first, later = (
        dataclasses.replace(kept(n, [1.0]), runs=(Run(1.0, 9.0, log=str(tmp_path / "log")),)) for n in (0, 1)
    )
    short = dataclasses.replace(later, verdict=Verdict("discard", "worse by 0.1"))
    voided = dataclasses.replace(later, verdict=Verdict("discard", "voided: it trained for longer"))
    found = CurveCache().finished([first, short, voided], lambda *_: frozenset())
    assert [run.metric for run in found] == [1.0]


def test_history_is_that_of_the_latest_runs_each_with_its_own_incumbent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.pruning.monitor.MOST_HISTORY", 3)
    monkeypatch.setattr("agent.pruning.monitor.MOST_CURVES", 4)
    experiments = []
    for number in range(8):
        log = tmp_path / f"{number}.log"
        log.write_text(line(50, 2.0 + number) + line(100, 1.0 + number))
        verdict = Verdict("keep" if number in (0, 5) else "discard", "")
        run = Run(1.0 + number, 9.0, log=str(log))
        experiments.append(dataclasses.replace(kept(number, [1.0]), runs=(run,), verdict=verdict))
    cache = CurveCache()
    for _ in range(2):
        found = cache.finished(experiments, lambda after, before: frozenset({f"{after.number} on {before.number}"}))
        assert [[*run.changed] for run in found] == [["5 on 0"], ["6 on 5"], ["7 on 5"]]
        assert [run.incumbent_curve[-1].loss for run in found] == [1.0, 6.0, 6.0]
        assert [run.curve[-1].loss for run in found] == [6.0, 7.0, 8.0]


def test_logs_without_a_curve_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.pruning.monitor.MOST_HISTORY", 3)
    monkeypatch.setattr("agent.pruning.monitor.MOST_CURVES", 2)
    experiments = []
    for number in range(6):
        log = tmp_path / f"{number}.log"
        log.write_text("no curve\n")
        run = Run(1.0, 9.0, log=str(log))
        experiments.append(dataclasses.replace(kept(number, [1.0]), runs=(run,)))
    cache = CurveCache()
    assert cache.finished(experiments, lambda *_: frozenset()) == []
    for log in tmp_path.iterdir():
        log.write_text(line(50, 2.0) + line(100, 1.0))
    assert cache.finished(experiments, lambda *_: frozenset()) == []
    assert len(CurveCache().finished(experiments, lambda *_: frozenset())) == 3
