from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from agent.errors import NoMetric
from agent.metrics import extract
from agent.protocol import Metric, load
from tests.conftest import ROOT


def metric(**how: Any) -> Metric:
    return Metric.model_validate({"name": "score", "direction": "minimize", "extract": how})


BPB = load(ROOT).metric


def test_the_protocols_own_example() -> None:
    assert BPB.extract.example_stdout is not None
    assert extract(BPB, BPB.extract.example_stdout) == 2.534


def test_padding_and_windows_line_ends() -> None:
    assert extract(BPB, "---\r\nval_bpb:          1.641200\r\ndepth: 2\r\n") == 1.6412


@pytest.mark.parametrize("line", ["1.2e-3", "1.5 (best)", "1.2.3", "12,3", "0x10", "1.5 1.6"])
def test_a_number_that_is_not_the_whole_rest_of_its_line_is_none(line: str) -> None:
    with pytest.raises(NoMetric):
        extract(BPB, f"val_bpb: {line}\n")


def test_a_pattern_that_goes_on_to_the_lines_end_says_what_may_follow() -> None:
    loss = metric(kind="regex", pattern=r"loss: ([0-9.]+)[^\n]*$")
    assert extract(loss, "loss: 1.5, acc: 0.5\n") == 1.5
    assert extract(loss, "loss: 1.5s (best of 3)\n") == 1.5
    for line in ("1.2e-3", "1.5,6", "1.5x10"):
        with pytest.raises(NoMetric):
            extract(loss, f"loss: {line} ms\n")


@pytest.mark.parametrize("log", ["", "val_bpb: nan\n", "val_bpb: inf\n", "loss: 1.0\n", "the val_bpb: 1.0\n"])
def test_no_metric(log: str) -> None:
    with pytest.raises(NoMetric):
        extract(BPB, log)


def test_two_different_values_are_none_and_the_same_twice_is_one() -> None:
    with pytest.raises(NoMetric, match="2 different values"):
        extract(BPB, "val_bpb: 1.0\nval_bpb: 1.1\n")
    assert extract(BPB, "val_bpb: 1.0\nval_bpb: 1.0\n") == 1.0


def test_json_pointer_reads_the_last_json_line() -> None:
    score = metric(kind="json_pointer", pointer="/runs/1/a~1b")
    assert extract(score, 'warming up\n{"runs": [{}, {"a/b": 2}]}\n{"runs": [{}, {"a/b": 3.5}]}\n') == 3.5
    for log in ('{"runs": []}', "nothing", '{"runs": [1, {"a/b": "x"}]}', '{"runs": [1, {"a/b": true}]}'):
        with pytest.raises(NoMetric):
            extract(score, log)


def test_a_file_counts_only_if_this_run_wrote_it(tmp_path: Path) -> None:
    score = metric(kind="json_pointer", pointer="/score", path="out.json")
    (tmp_path / "out.json").write_text('{\n  "score": 7\n}\n')
    assert extract(score, "", tmp_path, time.time() - 60) == 7
    with pytest.raises(NoMetric, match="not written by this run"):
        extract(score, "", tmp_path, time.time() + 60)
    (tmp_path / "out.json").unlink()
    with pytest.raises(NoMetric, match="cannot be read"):
        extract(score, "", tmp_path)


def test_junit(tmp_path: Path) -> None:
    (tmp_path / "j.xml").write_text(
        '<testsuites><testsuite tests="5" failures="1" errors="1" skipped="1" time="2.5"/></testsuites>'
    )
    assert extract(metric(kind="junit", path="j.xml"), "", tmp_path) == 2
    assert extract(metric(kind="junit", path="j.xml", count="seconds"), "", tmp_path) == 2.5
    (tmp_path / "j.xml").write_text("<testsuites")
    with pytest.raises(NoMetric, match="not XML"):
        extract(metric(kind="junit", path="j.xml"), "", tmp_path)


def test_pytest_summary() -> None:
    log = "....\n=== 2 failed, 3 passed, 1 error in 0.12s ===\n"
    assert extract(metric(kind="pytest_summary"), log) == 3
    assert extract(metric(kind="pytest_summary", count="errors"), log) == 1
    assert extract(metric(kind="pytest_summary", count="total"), log) == 6
    assert extract(metric(kind="pytest_summary", count="seconds"), log) == 0.12
    with pytest.raises(NoMetric):
        extract(metric(kind="pytest_summary"), "no tests here")
