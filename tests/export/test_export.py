"""`export` writes what the journal holds: the same values in every format, with a column for each constant."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from agent.decision import student_t
from agent.export.export import content
from agent.export.formats import as_csv, as_jsonl
from agent.export.rows import EXPERIMENT, POINT, RUN
from agent.export.table import Column, Extra, Table
from agent.journal.experiment import Value
from agent.journal.journal import fold
from agent.journal.paths import journal_path, state_folder
from agent.report.gain import outcome
from tests.common.journals import NAMES, JournalBuilder
from tests.common.sessions import confirmed, events, keep_in_turn
from tests.common.station_journals import StationsBuilder
from tests.common.workspaces import ROOT, Cli, commit_all


def exported(folder: Path, cli: Cli, *args: str) -> list[dict[str, Any]]:
    done = cli(folder, "export", "--format", "jsonl", *args)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def synthetic(quick: Path) -> Path:
    """A workspace with two sessions of every kind of result, and logs with learning curves."""
    for tag, seed in (("one", 1), ("two", 2)):
        logs = journal_path(quick, tag).parent
        JournalBuilder(tag, seed=seed, logs=logs).baseline().mixed(60).confirmed().save(journal_path(quick, tag))
    return quick


def test_experiments_are_those_of_the_journal(finished: Path, cli: Cli) -> None:
    rows, state = exported(finished, cli), fold(journal_path(finished, "t"))
    assert [row["number"] for row in rows] == [0, 1, 2, 3, 4]
    for row, each in zip(rows, state.experiments, strict=True):
        came = outcome(state, each)
        assert (row["tag"], row["status"], row["commit"]) == ("t", each.verdict.status, each.commit)
        assert (row["metric"], row["gain"], row["incumbent"]) == (each.metric, came.gain, came.incumbent)
        assert {name: row[name] for name in each.parameters} == dict(each.parameters)
        assert row["parent"] == (state.experiments[came.incumbent].commit if came.incumbent is not None else None)
        assert (row["memory_gb"], row["num_steps"], row["description"]) == (2.0, 10.0, each.description)
        assert row["code_changed"] is False
    assert rows[0]["metric_name"] == "val_bpb"


def test_interval_allows_for_a_noise_that_few_runs_have_shown(quick: Path, cli: Cli) -> None:
    text = (quick / "train.py").read_text()
    noise = "import os, random\nloss += random.Random(os.urandom(8)).gauss(0, 0.001)\n"
    (quick / "train.py").write_text(text.replace('print("---")', f'{noise}print("---")'))
    commit_all(quick, "noise")
    keep_in_turn(quick, cli, "s/^RATE = 0.1 /RATE = 0.3 /")
    path = journal_path(quick, "t")
    evidence = fold(path).experiments[1].verdict.evidence
    assert evidence is not None
    assert evidence.degrees is not None
    assert evidence.degrees < 10
    lines = path.read_text().replace(f', "degrees": {evidence.degrees}', "")
    for quantile in (student_t.quantile(0.975, evidence.degrees), 1.96):  # now, and by an earlier version
        row = exported(quick, cli)[1]
        error = row["gain"] / row["sigmas"]
        assert [row["gain"] - row["gain_low"], row["gain_high"] - row["gain"]] == pytest.approx([quantile * error] * 2)
        path.write_text(lines)


def test_all_formats_hold_the_same_values(synthetic: Path, cli: Cli, tmp_path: Path) -> None:
    for flags in ([], ["--runs"], ["--curves"]):
        both = ["--tag", "one", "--tag", "two", *flags]
        objects, file = exported(synthetic, cli, *both), tmp_path / "all.parquet"
        assert cli(synthetic, "export", *both, "--out", str(file)).returncode == 0
        table = pq.read_table(file)
        found = cli(synthetic, "export", *both).stdout
        cells = list(csv.DictReader(io.StringIO(found)))
        assert list(objects[0]) == table.column_names == list(cells[0])
        assert len(objects) == table.num_rows == len(cells) > 100
        for row, object_, texts in zip(table.to_pylist(), objects, cells, strict=True):
            for name, value in object_.items():
                if name == "at":
                    assert row[name].isoformat(timespec="milliseconds").replace("+00:00", "Z") == value == texts[name]
                elif isinstance(value, str):
                    assert row[name] == value == texts[name].removeprefix("'")
                elif value is None:
                    assert row[name] is None
                    assert texts[name] == ""
                else:
                    assert row[name] == value
                    assert float({"true": "1", "false": "0"}.get(texts[name], texts[name])) == value


def test_columns_keep_order_and_types_as_a_session_grows(quick: Path, cli: Cli) -> None:
    for count in (3, 40):
        JournalBuilder("t").baseline().mixed(count).save(journal_path(quick, "t"))
        shutil.copy(journal_path(quick, "t"), quick / f"{count}.jsonl")
        assert cli(quick, "export", "--out", f"{count}.parquet").returncode == 0
    short, long = (pq.read_schema(quick / f"{count}.parquet") for count in (3, 40))
    assert short.names == long.names
    assert set(NAMES) <= set(long.names)
    assert [str(kind) for kind in long.types[:6]] == [
        *("string", "int64", "timestamp[ms, tz=UTC]", "string", "string", "double")
    ]


def test_runs_are_labelled_by_what_they_were_for(quick: Path, cli: Cli) -> None:
    code = 'import json, random\nloss += random.gauss(0, 0.01)\njson.dump(RATE, open("model.json", "w"))\n'
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace('print("---")', f'{code}print("---")', 1))
    score = (
        'import json\nrate = json.load(open("model.json"))\nprint(f"val_bpb:          {3 + (rate - 0.4) ** 2:.6f}")\n'
    )
    (quick / "score.py").write_text(score)
    commit_all(quick, "noise, and a model with what scores it")
    # After one run of the baseline the noise is a guess, so that the first candidate always needs a second one.
    alone = ("--baseline-runs", "1")
    keep_in_turn(quick, cli, "s/^RATE = 0.1 /RATE = 0.3 /", "s/^WIDTH = 64 /WIDTH = 256 /", flags=alone)
    data = confirmed(quick, cli, "--holdout", f"{sys.executable} score.py")
    assert cli(quick, "ablate").returncode == 0
    rows = exported(quick, cli, "--runs")
    measured, compared = events(quick, "measured"), events(quick, "compared")
    assert [row["metric"] for row in rows] == [event["metric"] for event in (*measured, *compared)]
    of_confirm = sum(event["label"] in ("a", "b") for event in compared)
    assert any("of" in event for event in measured)
    assert [row["role"] for row in rows] == [
        *("repeat" if "of" in event else "selection" for event in measured),
        *["held-out"] * of_confirm,
        *["ablation"] * (len(compared) - of_confirm),
    ]
    for row, event in zip(rows, measured, strict=False):
        of = event.get("of")
        assert (row["number"], row["beside"]) == ((event["number"], None) if of is None else (of, event["number"]))
    assert {row["RATE"] for row in rows if row["number"] == 1} == {0.3}
    for number in (0, 1, 2):
        found = [row["run"] for row in rows if row["number"] == number]
        assert found == list(range(1, len(found) + 1))
    # What the page and the report call the holdout is the same number.
    means = data["holdout"]["means"]
    assert [row["holdout"] for row in exported(quick, cli)] == [means["a"], None, means["b"]]


def test_holdout_is_that_of_heldout_runs(quick: Path, cli: Cli) -> None:
    """Neither a selection run nor the model that was scored when it was kept counts, and a seed counts once."""
    session = JournalBuilder("t").baseline()
    session.write("scored", number=0, metric=1.9, holdout=9.0)
    number = session.keep().number - 1
    session.write("scored", number=number, metric=1.8, holdout=8.0)
    session.write("comparing", commits={"a": session.base, "b": session.best}, files=[], count=3, seeds=[1, 2, 2])
    for index, (seed, a, b) in enumerate(((1, 4.0, 1.0), (2, 5.0, 2.0), (2, 7.0, None)), start=1):
        for label, value in (("a", a), ("b", b)):
            session.write("compared", label=label, run=index, metric=1.0, seconds=9.0, seed=seed, holdout=value)
    session.write("confirmed", a=session.base, b=session.best, means={"a": 1.0, "b": 1.0}, gain=0.0, verdict="equal")
    session.write("comparing", commits={"best": session.best, "smaller": session.base}, files=[], count=1)
    session.write("compared", label="best", run=1, metric=1.0, seconds=9.0, holdout=7.0)
    session.discard().save(journal_path(quick, "t"))
    path = journal_path(quick, "t")
    path.write_text(path.read_text().replace('"pruned": null', '"pruned": null, "holdout": 6.0'))
    rows = exported(quick, cli)
    assert [row["holdout"] for row in rows] == [5.0, 1.5, None]
    assert [row["holdout_when_kept"] for row in rows] == [9.0, 8.0, None]
    roles = [(row["role"], row["holdout"]) for row in exported(quick, cli, "--runs")]
    assert roles[:2] == [("selection", 6.0)] * 2
    assert roles[2:8] == [("held-out", value) for value in (4.0, 1.0, 5.0, 2.0, 7.0, None)]
    assert roles[8] == ("ablation", 7.0)


def test_holdout_is_that_of_the_latest_confirmation(quick: Path, cli: Cli) -> None:
    """Neither runs with other seeds than its own count, nor those beside another program."""
    code = (
        "import random\nSEED = 42  # search: off\nshift = random.Random(SEED).random() / 1000 + (SEED == 42)\n"
        'open("model.txt", "w").write(str(loss + shift))\n'
    )
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace('print("---")', f'{code}print("---")', 1))
    (quick / "score.py").write_text('print("val_bpb: %.6f" % float(open("model.txt").read()))\n')
    commit_all(quick, "a model whose score depends on its seed", "score.py")
    keep_in_turn(quick, cli, "s/^RATE = 0.1 /RATE = 0.3 /", "s/^WIDTH = 64 /WIDTH = 256 /")
    scored = ("--holdout", f"{sys.executable} score.py")
    for sides, flags in (((0, 2), ("--seeds", "1")), ((0, 2), ()), ((0, 1), ("--seeds", "1"))):
        means = confirmed(quick, cli, *map(str, sides), "--runs", "2", *scored, *flags)["holdout"]["means"]
        assert [exported(quick, cli)[side]["holdout"] for side in sides] == [means["a"], means["b"]]


def test_holdout_follows_the_confirmation_that_status_shows(quick: Path, cli: Cli) -> None:
    """One with the recipe's own seed does not take the place of one with new seeds."""
    code = (
        'import random\nSEED = 42  # search: off\nrandom.seed(SEED)\nopen("model.txt", "w").write(str(loss + SEED))\n'
    )
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace('print("---")', f'{code}print("---")', 1))
    (quick / "score.py").write_text('print("val_bpb: %.6f" % float(open("model.txt").read()))\n')
    commit_all(quick, "a model whose score depends on its seed", "score.py")
    keep_in_turn(quick, cli, "s/^RATE = 0.1 /RATE = 0.3 /")
    scored = ("--runs", "2", "--holdout", f"{sys.executable} score.py")
    shown = confirmed(quick, cli, *scored)["holdout"]["means"]
    own = confirmed(quick, cli, *scored, "--seeds", "1")["holdout"]["means"]
    assert own != shown
    assert [row["holdout"] for row in exported(quick, cli)] == [shown["a"], shown["b"]]


def test_curves_are_those_of_the_logs(synthetic: Path, cli: Cli) -> None:
    points = exported(synthetic, cli, "--tag", "one", "--curves")
    measured = exported(synthetic, cli, "--tag", "one", "--runs")
    assert len(points) == 60 * len(measured)
    first = [point for point in points if point["number"] == 7]
    assert [point["step"] for point in first] == [5 * i for i in range(1, 61)]
    assert first[-1]["fraction"] == 1.0
    # A log outside of the workspace is not read.
    path = journal_path(synthetic, "one")
    path.write_text(path.read_text().replace(str(path.parent), "/etc"))
    assert cli(synthetic, "export", "--tag", "one", "--curves").stdout == (
        "tag,number,run,role,fraction,step,seconds,loss\n"
    )


def test_code_changes_are_flagged(quick: Path, cli: Cli) -> None:
    keep_in_turn(
        quick,
        cli,
        "s/^RATE = 0.1 /RATE = 0.3 /",
        "s/0.001 \\* abs/0.0001 * abs/",
        "s/^DEPTH = 4 .*/DEPTH = 6  # search: 1..32/",
    )
    assert [row["code_changed"] for row in exported(quick, cli)] == [False, False, True, False]


@pytest.mark.quick
def test_formulas_are_text_in_spreadsheets_and_numbers_stay_numbers() -> None:
    texts = ("=1+1", "+1", "-1", "@SUM(A1)", "  =1", "\uff1d1", "plain", "a=b")
    columns = (Column("=name", "text"), Column("value", "float"))
    table = Table(columns, [(text, -0.5) for text in texts])
    read = list(csv.reader(io.StringIO(b"".join(as_csv(table)).decode())))
    assert read[0] == ["'=name", "value"]
    assert [row[0] for row in read[1:]] == [f"'{text}" for text in texts[:6]] + ["plain", "a=b"]
    assert {row[1] for row in read[1:]} == {"-0.5"}
    assert [json.loads(line)["=name"] for line in b"".join(as_jsonl(table)).decode().splitlines()] == list(texts)


def test_untrusted_text_stays_on_its_line(synthetic: Path, cli: Cli) -> None:
    out = cli(synthetic, "export", "--tag", "one").stdout
    assert not [sign for sign in out if (ord(sign) < 32 and sign != "\n") or sign in "\x7f\u202e\ud800"]
    assert len(out.splitlines()) == 62


@pytest.mark.quick
def test_names_are_prefixed_only_if_taken() -> None:
    row: dict[str, dict[str, Value]] = {
        "secondary": {"seconds": 1.0, "steps": 2.0},
        "constant": {"steps": 3, "DEPTH": 2**70, "train.py:A": True},
    }
    extra = Extra([row], ["seconds"])
    assert [column.name for column in extra.columns] == [
        *("secondary.seconds", "steps", "constant.steps", "DEPTH", "train.py:A")
    ]
    assert [column.kind for column in extra.columns] == ["float", "float", "float", "float", "bool"]
    assert list(extra.values(row)) == [1.0, 2.0, 3.0, 2.0**70, True]
    assert list(extra.values({"secondary": {}, "constant": {}})) == [None] * 5


@pytest.mark.quick
def test_later_rows_add_columns_and_change_none() -> None:
    """A value of another type gets a column of its own; a name that is taken later does not rename an earlier one."""
    constants: list[dict[str, Value]] = [
        {"DEPTH": 4, "FUSED": True},
        {"DEPTH": 4.5, "steps": 1},
        {"DEPTH": "auto", "DEPTH.text": 0},
        {"FUSED": 1, "DEPTH": 2**70},
    ]
    secondary: list[dict[str, Value]] = [{}, {}, {}, {"steps": 7.0, "late": 1.0}]
    rows = [{"secondary": one, "constant": other} for one, other in zip(secondary, constants, strict=True)]
    grown = [Extra(rows[:count], ["tag"]).columns for count in range(1, 5)]
    for before, after in itertools.pairwise(grown):
        assert [column for column in after if column in before] == before
        assert not {column.name for column in after if column not in before} & {column.name for column in before}
    last = Extra(rows, ["tag"])
    assert [(column.name, column.kind) for column in last.columns] == [
        ("secondary.steps", "float"),
        ("late", "float"),
        ("DEPTH", "float"),
        ("FUSED", "bool"),
        ("steps", "float"),
        ("DEPTH.text", "text"),
        ("constant.DEPTH.text", "float"),
        ("FUSED.float", "float"),
    ]
    assert [list(last.values(row))[2:] for row in rows] == [
        [4.0, True, None, None, None, None],
        [4.5, None, 1.0, None, None, None],
        [None, None, None, "auto", 0.0, None],
        [2.0**70, None, None, None, None, 1.0],
    ]


def test_candidate_that_stations_measured_before_adds_columns_at_the_end(quick: Path, cli: Cli) -> None:
    """Its runs are rows once it has its verdict, between those of others."""
    made = StationsBuilder("mac", "linux")
    made.answer(made.lease("mac", of=0)).record(None, "keep")
    number = made.propose()
    made.answer(made.lease("mac", candidate=number), celsius=50.0)
    made.answer(made.lease("linux", of=0), load=1.0)
    made.write.save(journal_path(quick, "t"))
    before = exported(quick, cli, "--runs")
    made.record(number, "discard").write.save(journal_path(quick, "t"))
    after = exported(quick, cli, "--runs")
    assert [*before[0]] == [*after[0]][: len(before[0])]
    assert [*after[0]][len(before[0]) :] == ["celsius"]
    assert [row["at"] for row in after] == sorted(row["at"] for row in after)
    assert [(row["number"], row["load"], row["celsius"]) for row in after] == [
        *((0, None, None), (1, None, 50.0), (0, 1.0, None)),
    ]


def test_type_of_a_constant_does_not_change_as_a_session_grows(quick: Path, cli: Cli) -> None:
    """Its first values are integers, then come a fraction and a string."""
    schemas = []
    path = journal_path(quick, "t")
    for values in ((4, 6), (4, 6, 6.5), (4, 6, 6.5, 9)):
        session = JournalBuilder("t").baseline()
        for value in values:
            session.discard({**dict.fromkeys(NAMES, 1), "DEPTH": value})
        session.save(path)
        path.write_text(path.read_text().replace('"DEPTH": 9', '"DEPTH": "auto"'))
        assert cli(quick, "export", "--out", "out.parquet").returncode == 0
        table = pq.read_table(quick / "out.parquet")
        schemas.append({field.name: str(field.type) for field in table.schema})
    assert {schema["DEPTH"] for schema in schemas} == {"double"}
    assert [schema.get("DEPTH.text") for schema in schemas] == [None, None, "string"]
    assert table["DEPTH"].to_pylist() == [1.0, 4.0, 6.0, 6.5, None]
    assert table["DEPTH.text"].to_pylist() == [None, None, None, None, "auto"]


def test_file_replaces_another_as_a_whole(finished: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("old")
    done = cli(finished, "export", "--out", str(out))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"wrote {out}\n")
    assert out.read_text() == cli(finished, "export").stdout
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_pipe_or_device_is_written_to_and_not_replaced(finished: Path, cli: Cli, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = [sys.executable, "-c", f"print(open({str(pipe)!r}).read(), end='')"]
    with subprocess.Popen(read, stdout=subprocess.PIPE, text=True) as reader:
        done = cli(finished, "export", "--out", str(pipe))
        if not pipe.is_fifo():
            reader.kill()
        assert (done.returncode, pipe.is_fifo()) == (0, True), done.stderr
        assert reader.communicate(timeout=60)[0] == cli(finished, "export").stdout


def test_errors_end_in_a_sentence(finished: Path, quick: Path, cli: Cli, tmp_path: Path) -> None:
    for folder, args, code, message in (
        (quick, [], 3, "no sessions in"),
        (finished, ["--tag", "none"], 3, "unknown session 'none'"),
        (finished, ["--runs", "--curves"], 2, "--runs and --curves are mutually exclusive"),
        (finished, ["--format", "parquet"], 2, "--format parquet needs a file"),
        (finished, ["--out", str(tmp_path)], 2, "--out needs a file"),
        (finished, ["--out", str(tmp_path / "x.xls")], 2, "x.xls names no format"),
        (finished, ["--out", str(tmp_path / "none" / "a.csv")], 2, "not found"),
        (finished, ["--to", "wandb", "--format", "csv"], 2, "--to wandb writes no table"),
        (finished, ["--to", "trackio", "--out", "x"], 2, "--to trackio writes no table"),
    ):
        done = cli(folder, "export", *args)
        assert done.returncode == code, done.stderr
        assert message in done.stderr
        assert "hint: " in done.stderr
        assert done.stdout == ""


def test_named_format_allows_any_ending(finished: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "x.txt"
    assert cli(finished, "export", "--out", str(out), "--format", "csv").returncode == 0
    assert out.read_text() == cli(finished, "export").stdout


def test_session_without_baseline_or_with_damage_is_refused(quick: Path, cli: Cli) -> None:
    path = journal_path(quick, "t")
    JournalBuilder("t").baseline().save(path)
    whole = path.read_text()
    path.write_text(whole.splitlines(keepends=True)[0])
    done = cli(quick, "export")
    assert done.returncode == 3
    assert "session t has no baseline yet" in done.stderr
    path.write_text(whole.replace('"event": "judged"', '"event": "judged'))
    done = cli(quick, "export")
    assert done.returncode == 1
    assert "is not an event" in done.stderr


def test_missing_tracker_is_named_with_its_command(finished: Path, cli: Cli) -> None:
    for name in ("wandb", "trackio", "tensorboard"):
        done = cli(finished, "export", "--to", name)
        assert done.returncode == 3
        assert f"{name} is not installed beside this program" in done.stderr
        assert "hint: run `uv " in done.stderr


def test_code_of_the_workspace_is_not_taken_for_a_tracker(
    finished: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(finished, tmp_path / "w")
    (folder / "wandb").mkdir()
    (folder / "trackio.py").write_text("raise SystemExit(9)")
    monkeypatch.syspath_prepend(folder)
    for name in ("wandb", "trackio"):
        assert cli(folder, "export", "--to", name).returncode == 3


def test_reader_may_leave(synthetic: Path) -> None:
    parts = content(synthetic, ["one"], "experiments", "csv")
    assert next(parts).startswith(b"tag,number,at,status")
    assert not list(state_folder(synthetic).rglob("*.part"))


@pytest.mark.quick
def test_page_names_every_column_in_order() -> None:
    page = (ROOT / "docs" / "export.md").read_text()
    sections = page.split("\n## ")[1:4]
    for section, columns in zip(sections, (EXPERIMENT, RUN, POINT), strict=True):
        cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
        assert re.findall(r"`(\w+)`", " ".join(cells)) == [*columns]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("train.py", "which sessions change"),
        ("link.csv", "which sessions change"),
        ("protocol.json", "which belongs to the harness"),
        ("results.tsv", "which sessions write"),
        (".autoresearch/sessions/t/journal.jsonl", "which sessions write"),
        (".git/config", "which belongs to git"),
        (".git/new.csv", "which belongs to git"),
    ],
)
def test_nothing_that_a_session_needs_is_replaced(quick: Path, cli: Cli, name: str, why: str) -> None:
    JournalBuilder("t").baseline().mixed(3).save(journal_path(quick, "t"))
    (quick / "results.tsv").write_text("rows\n")
    (quick / "link.csv").symlink_to(quick / "train.py")
    before = (quick / name).read_bytes() if (quick / name).exists() else None
    done = cli(quick, "export", "--out", name)
    assert done.returncode == 2
    assert why in done.stderr
    assert ((quick / name).read_bytes() if (quick / name).exists() else None) == before
    for _ in range(2):
        assert cli(quick, "export", "--out", "own.csv").returncode == 0


def test_link_is_followed_and_stays(quick: Path, cli: Cli, tmp_path: Path) -> None:
    JournalBuilder("t").baseline().mixed(3).save(journal_path(quick, "t"))
    (quick / "link.csv").symlink_to(tmp_path / "far.csv")
    assert cli(quick, "export", "--out", "link.csv").returncode == 0
    assert (quick / "link.csv").is_symlink()
    assert (tmp_path / "far.csv").read_text().startswith("tag,number,")
