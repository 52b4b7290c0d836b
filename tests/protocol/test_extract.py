from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.errors import NoMetric
from agent.protocol.extract import extract, stamp
from agent.protocol.load import load_protocol
from agent.protocol.models import Metric
from tests.common.workspaces import ROOT

pytestmark = pytest.mark.quick


def metric(**how: Any) -> Metric:
    return Metric.model_validate({"name": "score", "direction": "minimize", "extract": how})


BPB = load_protocol(ROOT).metric


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


@pytest.mark.parametrize("text", ["1e101", "-3.5e200", "1e308", "9" * 150])
def test_number_that_is_too_large_to_compare_is_none(text: str) -> None:
    score = metric(kind="regex", pattern=r"^score: (\S+)$")
    with pytest.raises(NoMetric, match="too large to compare"):
        extract(score, f"score: {text}\n")
    assert extract(score, "score: -1e99\n") == -1e99


def test_two_different_values_are_none_and_the_same_twice_is_one() -> None:
    with pytest.raises(NoMetric, match="2 different values"):
        extract(BPB, "val_bpb: 1.0\nval_bpb: 1.1\n")
    assert extract(BPB, "val_bpb: 1.0\nval_bpb: 1.0\n") == 1.0


@pytest.mark.parametrize(
    ("texts", "value"),
    [
        (("2.04", "2.040000"), 2.04),
        (("2.040000", "2.04", "2.0400"), 2.04),
        (("2.03", "2.032900"), 2.0329),
        (("1.99", "1.9949999"), 1.9949999),
        (("204", "2.04e2", "204.0", "+204", "2.04E+2"), 204),
        (("1,234.50", "1234.5"), 1234.5),
    ],
)
def test_one_number_in_other_digits_is_one(texts: tuple[str, ...], value: float) -> None:
    score = metric(kind="regex", pattern=r"^score: (\S+)$")
    assert extract(score, "".join(f"score: {text}\n" for text in texts)) == value


@pytest.mark.parametrize(
    "texts", [("2.04", "2.05"), ("2.03", "2.036"), ("2", "2.04"), ("0.9", "0.93"), ("2.04", "2.04e1")]
)
def test_numbers_that_only_look_alike_are_several(texts: tuple[str, ...]) -> None:
    with pytest.raises(NoMetric, match="2 different values"):
        extract(metric(kind="regex", pattern=r"^score: (\S+)$"), "".join(f"score: {text}\n" for text in texts))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("45,060.2", 45060.2),
        ("1,234,567", 1234567),
        ("-1,024.5", -1024.5),
        ("45060.2", 45060.2),
        ("999", 999),
    ],
)
@pytest.mark.parametrize(
    "pattern", [r"^peak:\s+([-0-9]+(?:\.[0-9]+)?)", r"^peak: ([-\d.]+)", r"^peak: ([-0-9.,]+)$", r"^peak: (\S+)"]
)
def test_thousands_may_be_set_apart(text: str, value: float, pattern: str) -> None:
    peak = metric(kind="regex", pattern=pattern)
    assert extract(peak, f"peak: {text}\n") == value
    assert extract(metric(kind="json_pointer", pointer="/peak"), f'{{"peak": "{text}"}}') == value


@pytest.mark.parametrize(
    "text", ["0,987", "12,34", "1,2345", "1,234,56", "1,234,567,8", "1,234.5.6", "1234,567", ",123", "1,234 5"]
)
def test_what_only_looks_like_thousands_is_no_number(text: str) -> None:
    with pytest.raises(NoMetric):
        extract(metric(kind="regex", pattern=r"^peak: ([0-9]+(?:\.[0-9]+)?)"), f"peak: {text}\n")


DIGITS = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"  # as `init` wrote it before it captured any word
EARLIER = (
    rf"\A[\s\S]*(?<![\w./-])val_loss:\s*({DIGITS})[^\n]*$",
    rf"\A[\s\S]*(?<![\w./-])val_loss:\s*({DIGITS})\s*$",
    r"\A[\s\S]*val_loss: ([0-9.]+)",
    r"\A[\s\S]*(?:val|valid)_loss: (?P<loss>[0-9]+(?:\.[0-9]+)?)",
    r"\A[\s\S]*(?:val_loss: ([(]?[0-9.]+))",
)


@pytest.mark.parametrize("word", ["nan", "NaN", "inf", "-inf", "Infinity", "-Infinity", "None", "null", "N/A", "NAN"])
@pytest.mark.parametrize("pattern", EARLIER)
def test_last_place_counts_though_a_group_of_digits_passes_over_it(pattern: str, word: str) -> None:
    loss = metric(kind="regex", pattern=pattern)
    assert extract(loss, f"epoch 1: val_loss: {word}\nepoch 2: val_loss: 0.5\n") == 0.5
    assert extract(loss, f"epoch 1: val_loss: 0.5\ntrain_loss: {word}\n") == 0.5
    for log in (f"at 9.5: val_loss: 0.5\nat 10:  val_loss: {word}\n", f"val_loss: 0.5\rval_loss: {word}\ndone\n"):
        with pytest.raises(NoMetric, match=r"is (-?nan|-?inf|'\w+'|'N/A'), not a"):
            extract(loss, log)


@pytest.mark.parametrize(
    "log",
    [
        "Epoch 1:  50%|#####     | 5/10 [00:01, 5.0it/s, val_loss=0.5]\r"
        "Epoch 1: 100%|##########| 10/10 [00:09, 1.2s/it, val_loss=nan]\n",
        "INFO:train:val_loss=0.5\nWARNING:train:val_loss=nan\n",
        "epoch 1 (best) val_loss=0.5\nepoch 2 val_loss=inf\n",
        "lr 1E-3 val_loss=0.5\nlr 1.5e-05 val_loss=-inf\n",
    ],
)
def test_what_stands_before_a_nan_need_only_have_its_name(log: str) -> None:
    with pytest.raises(NoMetric, match=r"is -?(nan|inf)"):
        extract(metric(kind="regex", pattern=r"val_loss=([\d.]+)"), log.replace("=0.5]", "=0.5\n"))


@pytest.mark.parametrize(
    ("pattern", "log", "value"),
    [
        (r"accuracy[^\d]*([\d.]+)", "accuracy = 0.91\nper class accuracy:\nNone\n", 0.91),
        (r"accuracy[^\d]*([\d.]+)$", "accuracy 0.91\nSee accuracy notes\nscheduler: None\n", 0.91),
        (r"score:\s*(\d+)", "score: 12\nplots of score:\nNone\n", 12),
        (r"(?s)Results.*\s([\d.]+)", "Results\nacc 0.91\nscheduler None\n", 0.91),
        (r"val_loss: ([\d.]+)", "val_loss: 0.5\nprevious best val_loss: None\n", 0.5),
        (r"val.*loss=([0-9.]+)", "val loss=0.4\nval done, train loss=nan\n", 0.4),
    ],
)
def test_a_none_after_other_words_stands_for_something_else(pattern: str, log: str, value: float) -> None:
    assert extract(metric(kind="regex", pattern=pattern), log) == value


@pytest.mark.parametrize(
    ("pattern", "log"), [(r"best,(\d+),.*$", "best,5,120,yes\n"), (r"mean of \[(\d+)", "mean of [5,120,300,2]\n")]
)
def test_a_list_is_no_number_with_thousands(pattern: str, log: str) -> None:
    with pytest.raises(NoMetric, match="follows it on its line"):
        extract(metric(kind="regex", pattern=pattern), log)


def test_pattern_of_one_line_sees_what_is_no_number_after_it() -> None:
    with pytest.raises(NoMetric, match="score is nan, not a finite number"):
        extract(BPB.model_copy(update={"name": "score"}), "val_bpb: 1.5\nval_bpb: nan\n")
    assert extract(BPB, "val_bpb: nan\nval_bpb: 1.5\n") == 1.5
    assert extract(BPB, "val_bpb: 1.5\nval_bpb_best: nan\nval_bpb: nancy\nval_bpb: informed\n") == 1.5
    with pytest.raises(NoMetric, match="is nan"):
        extract(BPB, "val_bpb: nan\n")


@pytest.mark.parametrize(
    "pattern", [r"\A[\s\S]*^([0-9.]+)$", r"^(?P<value>[0-9.]+)\s*$", r"^(\d+\.\d+)\b", r"\A[\s\S]*^[A-Za-z ]*(\S*\d)$"]
)
def test_pattern_without_words_passes_over_a_line_of_none(pattern: str) -> None:
    assert extract(metric(kind="regex", pattern=pattern), "0.5\nNone\nnan\n") == 0.5


def test_verbose_pattern_is_left_as_it_is() -> None:
    loss = metric(kind="regex", pattern=r"(?x) ^loss: \s* # (the loss)\n" + "\n ([0-9.]+)")
    assert extract(loss, "loss: 1.5\nloss: nan\n") == 1.5


@pytest.mark.parametrize("pattern", EARLIER[1:])
def test_last_place_counts_where_thousands_are_set_apart(pattern: str) -> None:
    loss = metric(kind="regex", pattern=pattern)
    assert extract(loss, "val_loss: 800.0\nval_loss: 1,548.5\n") == 1548.5
    assert extract(loss, "val_loss: 1,548.5\nval_loss: 800.0\n") == 800


@pytest.mark.parametrize(("word", "said"), [("nan", "nan"), ("inf", "inf"), ("-Inf", "-inf"), ("null", "null")])
def test_json_of_other_languages_counts_where_it_is_no_number(word: str, said: str) -> None:
    loss = metric(kind="json_pointer", pointer="/loss")
    with pytest.raises(NoMetric, match=f"score is {said}, not a"):
        extract(loss, f'{{"epoch": 1, "loss": 0.5}}\n{{"epoch": 2, "loss": {word}, "list": [nan, inf]}}\n')
    assert extract(loss, f'{{"acc": {word}, "loss": 0.5}}\nLoss: {word}\n') == 0.5


def test_thousands_before_a_unit_that_the_pattern_names() -> None:
    peak = metric(kind="regex", pattern=r"peak: ([0-9.]+)[^\n]*$")
    assert extract(peak, "peak: 45,060.2 MB (of 80,000)\n") == 45060.2
    assert extract(peak, "peak: 45060.2 MB\n") == 45060.2


@pytest.mark.parametrize(
    "line",
    [
        "\x1b[32mval_bpb: 2.5\x1b[0m",
        "val_bpb: \x1b[1m2.5\x1b[0m",
        "val_bpb: \x1b[1;38;5;208m2.5\x1b[0m\x1b[K",
        "\x1b]8;;http://x\x1b\\val_bpb: 2.5\x1b]8;;\x1b\\",
        "\x1b[2K\x1b[1Gval_bpb: 2.5",
        "step 99: 100%\rval_bpb: 2.5",
        "step 99: 100%\x1b[Gval_bpb: 2.5   ",
        "val_bpb: 2.5\r",
        "val_bpb: 2.5\r\r",
        "val_bpb: 3.5\rval_bpb: 3.0\rval_bpb: 2.5",
        "val_bpb: 2.5\b\b\b",
        "\ufeffval_bpb: 2.5\0",
        "\x1b(B\x1b[mval_bpb: 2.5",
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_colours_and_carriage_returns_around_a_metric(line: str, end: str) -> None:
    log = f"step 1\n{line}{end}"
    for pattern in (BPB.extract.pattern, r"^val_bpb: ([0-9.]+)\s*$", r"\A[\s\S]*^val_bpb:\s*([0-9.]+)"):
        assert extract(metric(kind="regex", pattern=pattern), log) == 2.5


def test_lines_that_differ_are_no_progress_of_one() -> None:
    for log in ("val_bpb: 3.0\nval_bpb: 2.5\n", "x\rval_bpb: 3.0\ny\rval_bpb: 2.5\n"):
        with pytest.raises(NoMetric, match="2 different values"):
            extract(BPB, log)


def test_colours_in_a_pytest_summary_and_beside_json() -> None:
    log = "\x1b[31m\x1b[1m2 failed\x1b[0m, \x1b[32m3 passed\x1b[0m\x1b[31m in 0.12s\x1b[0m\n"
    assert extract(metric(kind="pytest_summary"), log) == 3
    assert extract(metric(kind="pytest_summary", count="seconds"), log) == 0.12
    assert extract(metric(kind="json_pointer", pointer="/a"), 'running\r\x1b[32m{"a": 1.5}\x1b[0m\r\n') == 1.5


def test_a_metric_among_a_million_carriage_returns() -> None:
    log = "".join(f"\rstep {n:05d} val_bpb {n}" for n in range(200_000)) + "\nval_bpb: 2.5\r\n"
    began = time.process_time()  # a busy machine takes no more of it
    assert extract(BPB, log) == 2.5
    assert extract(BPB, "\r".join(f"val_bpb: {n}.0" for n in range(100_000))) == 99_999
    assert time.process_time() - began < 60  # a quadratic search takes far longer


def test_json_pointer_reads_the_last_json_line() -> None:
    score = metric(kind="json_pointer", pointer="/runs/1/a~1b")
    assert extract(score, 'warming up\n{"runs": [{}, {"a/b": 2}]}\n{"runs": [{}, {"a/b": 3.5}]}\n') == 3.5
    for log in ('{"runs": []}', "nothing", '{"runs": [1, {"a/b": "x"}]}', '{"runs": [1, {"a/b": true}]}'):
        with pytest.raises(NoMetric):
            extract(score, log)


def test_a_file_counts_only_if_this_run_wrote_it(tmp_path: Path) -> None:
    score = metric(kind="json_pointer", pointer="/score", path="out.json")
    (tmp_path / "out.json").write_text('{\n  "score": 7\n}\n')
    assert extract(score, "", tmp_path) == 7
    before = stamp(tmp_path / "out.json")
    with pytest.raises(NoMetric, match="not written by this run"):
        extract(score, "", tmp_path, before)
    # The clock may have been set back since the run began.
    os.utime(tmp_path / "out.json", (1.0, 1.0))
    assert extract(score, "", tmp_path, before) == 7
    (tmp_path / "out.json").unlink()
    with pytest.raises(NoMetric, match="cannot read"):
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


@pytest.mark.parametrize(
    "line",
    [
        "2 files left unchanged in 0.01s",
        "Resolved 12 packages in 0.52s",
        "3 tests collected in 0.01s",
        "checked 5 unpassed and 2 passedout in 0.10s",
        "step 10 failed over in 0.5s",
    ],
)
def test_line_after_a_pytest_summary_is_not_taken_for_it(line: str) -> None:
    log = f"=== 2 failed, 3 passed in 0.12s ===\n{line}\n"
    assert extract(metric(kind="pytest_summary", count="failed"), log) == 2
    assert extract(metric(kind="pytest_summary", count="seconds"), log) == 0.12
    with pytest.raises(NoMetric, match="no pytest summary line"):
        extract(metric(kind="pytest_summary", count="failed"), f"{line}\n")


@pytest.mark.parametrize(
    ("line", "passed", "total", "seconds"),
    [
        ("===== 4 deselected in 0.01s =====", 0, 0, 0.01),
        ("1 passed, 1 warning in 0.01s", 1, 1, 0.01),
        ("2 xfailed, 1 xpassed, 2 warnings in 3.50s", 0, 0, 3.5),
        ("1 passed, 3 subtests passed in 0.05s", 1, 1, 0.05),
        ("1 passed, 2 rerun in 0.05s", 1, 1, 0.05),
        ("=== 3 passed in 75.02s (0:01:15) ===", 3, 3, 75.02),
        ("1 rerun, 1 passed, 2 more snapshots, 3 failed in 0.05s", 1, 4, 0.05),
    ],
)
def test_every_summary_of_pytest_counts(line: str, passed: float, total: float, seconds: float) -> None:
    for count, value in (("passed", passed), ("total", total), ("seconds", seconds)):
        assert extract(metric(kind="pytest_summary", count=count), f"....\n{line}\n") == value


def test_pytest_that_ran_no_tests_has_no_figure() -> None:
    for count in ("failed", "seconds"):
        with pytest.raises(NoMetric, match="pytest ran no tests"):
            extract(
                metric(kind="pytest_summary", count=count), "=== 2 failed in 0.12s ===\n= no tests ran in 0.01s =\n"
            )


@pytest.mark.parametrize(
    ("count", "name"),
    [("passed", "tests"), ("total", "tests"), ("failed", "failures"), ("errors", "errors"), ("seconds", "time")],
)
def test_figure_that_a_junit_file_does_not_give_is_not_zero(tmp_path: Path, count: str, name: str) -> None:
    rule = metric(kind="junit", path="j.xml", count=count)
    whole = '<testsuite tests="3" failures="1" errors="1" skipped="0" time="2.5"/>'
    (tmp_path / "j.xml").write_text(f"<testsuites>{whole}</testsuites>")
    assert extract(rule, "", tmp_path) > 0
    part = re.sub(rf' {name}="[^"]+"', "", whole)
    (tmp_path / "j.xml").write_text(f"<testsuites>{part}{part}</testsuites>")
    with pytest.raises(NoMetric, match=f"does not give its {name}"):
        extract(rule, "", tmp_path)


HUGE = "1" * 400
DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "value",
    [
        HUGE,
        "1" * 5000,
        "1e999",
        "-1e999",
        "NaN",
        "Infinity",
        "true",
        "null",
        '"1.2.3"',
        '"' + HUGE + '"',
        "[1]",
        '{"a": 1}',
        '"\\u0661\\u0662"',
        '"1_000"',
        '"\\u001b[31m"',
        '"' + "x" * 100_000 + '"',
    ],
)
def test_json_that_holds_no_number_is_one_sentence(value: str) -> None:
    with pytest.raises(NoMetric) as refused:
        extract(metric(kind="json_pointer", pointer="/score"), f'{{"score": {value}}}')
    assert len(str(refused.value)) < 200
    assert "\n" not in str(refused.value)
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize(
    "log", [DEEP, '{"score":' * 100_000, '{"score": 1, "score": 2}', '{"score": {}, "score": 1}', '{"score": 1' * 2000]
)
def test_json_that_cannot_be_read_is_one_sentence(log: str) -> None:
    with pytest.raises(NoMetric):
        extract(metric(kind="json_pointer", pointer="/score"), log)


def test_json_with_the_same_value_twice_and_with_doubles_elsewhere_counts() -> None:
    score = metric(kind="json_pointer", pointer="/score")
    assert extract(score, '{"score": 2, "score": 2}') == 2
    assert extract(score, '{"other": 1, "other": 2, "score": 3}') == 3


def test_json_pointers_count_as_their_standard_says() -> None:
    for pointer in ("/-1", "/01", "/" + "9" * 5000, "/\u0660", "/+0", "/ 0"):
        with pytest.raises(NoMetric):
            extract(metric(kind="json_pointer", pointer=pointer), "[1, 2]")


BOMB = '<!DOCTYPE a [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' if n else '<!ENTITY a0 "&a;">' for n in range(10)
)


@pytest.mark.parametrize(
    "text",
    [
        '<testsuite tests="many"/>',
        f'<testsuite tests="{HUGE}"/>',
        '<testsuite tests="nan"/>',
        '<testsuite tests="inf"/>',
        '<testsuite tests="1e999"/>',
        '<testsuite tests="-3"/>',
        '<testsuite tests="1" failures="5"/>',
        '<testsuite tests="1" tests="2"/>',
        '<testsuite tests="3" failures="x"/>',
        "<testsuites/>",
        "<html/>",
        "",
        f'{BOMB}]><testsuite tests="&a9;"/>',
        '<!DOCTYPE a SYSTEM "file:///etc/passwd"><testsuite tests="1"/>',
        '<?xml version="1.0" encoding="nonsense"?><testsuite tests="1"/>',
        "<testsuite>" * 200_000,
        "\0",
    ],
)
def test_junit_that_holds_no_number_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "j.xml").write_text(text)
    began = time.process_time()  # other load does not count
    with pytest.raises(NoMetric) as refused:
        extract(metric(kind="junit", path="j.xml"), "", tmp_path)
    assert time.process_time() - began < 5
    assert len(str(refused.value)) < 200


def test_junit_of_honest_tools_counts(tmp_path: Path) -> None:
    inner = '<testcase name="a"><system-out><![CDATA[<!DOCTYPE html><b>&x;</b>]]></system-out></testcase>'
    (tmp_path / "j.xml").write_text(
        f'<?xml version="1.0" encoding="utf-8"?><testsuites tests="9"><testsuite tests="3" failures="1" time="1,234.5">'
        f'{inner}<testsuite tests="2"/></testsuite><testsuite tests="4"/></testsuites>'
    )
    assert extract(metric(kind="junit", path="j.xml"), "", tmp_path) == 6
    assert extract(metric(kind="junit", path="j.xml", count="seconds"), "", tmp_path) == 1234.5


@pytest.mark.parametrize(
    "line", ["3 passed in 1.2.3s", "3 passed in ..s", f"{HUGE} passed in 1s", "3 passed, 4 passed in 1s"]
)
def test_pytest_summaries_that_hold_no_number(line: str) -> None:
    for count in ("passed", "seconds"):
        try:
            value = extract(metric(kind="pytest_summary", count=count), line)
        except NoMetric:
            continue
        assert value in (1, 3)


def test_long_lines_take_no_longer_than_their_length() -> None:
    began = time.process_time()  # other load does not count
    for kind in (
        {"kind": "pytest_summary"},
        {"kind": "regex", "pattern": r"(\d?)"},
        {"kind": "regex", "pattern": "(a+)+$"},
    ):
        with pytest.raises(NoMetric):
            extract(metric(**kind), "1 a" * 300_000 + " " * 1_000_000 + "x", seconds=1)
    assert time.process_time() - began < 8


def test_a_number_of_four_hundred_digits_in_a_log() -> None:
    for text in (HUGE, "9" * 5000, "1" * 5000 + ".5"):
        with pytest.raises(NoMetric) as refused:
            extract(BPB, f"val_bpb: {text}\n")
        assert len(str(refused.value)) < 200


def test_odd_files_of_a_run_are_one_sentence(tmp_path: Path) -> None:
    score = metric(kind="json_pointer", pointer="/score", path="out/score.json")
    folder, elsewhere = tmp_path / "room", tmp_path / "elsewhere"
    (folder / "out").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "score.json").write_text('{"score": 1}')
    path = folder / "out" / "score.json"

    def sparse() -> None:
        with path.open("wb") as file:
            file.truncate(16 * 2**30)

    makes: list[Callable[[], object]] = [
        lambda: os.mkfifo(path),
        path.mkdir,
        sparse,
        lambda: path.symlink_to(elsewhere / "score.json"),
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.symlink_to(path),
    ]
    for make in makes:
        make()
        with pytest.raises(NoMetric):
            extract(score, "", folder)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    (folder / "out").rmdir()
    (folder / "out").symlink_to(elsewhere)
    with pytest.raises(NoMetric, match="outside"):
        extract(score, "", folder)
