"""What a station keeps, and for how long."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.journal.experiment import Run
from agent.station import records
from agent.station.orders import LARGEST_LOG, Answer

pytestmark = pytest.mark.quick


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path))


def keep(lease: str, log: bytes = b"line\n") -> Path:
    folder = records.run_folder("a", "repo", "s", lease)
    records.keep(folder, Answer(lease, "a", Run(1.0, 2.0), log))
    (folder / records.LOG).write_bytes(log)
    return folder


def test_kept_answer_has_the_end_of_its_log() -> None:
    folder = keep("r1", b"x" * LARGEST_LOG + b"end")
    found = records.read_kept(folder)
    assert found is not None
    assert (found.run, len(found.log), found.log[-3:]) == (Run(1.0, 2.0), LARGEST_LOG, b"end")
    assert [path.name for path in records.kept("a", "s")] == ["r1"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"lease": 1}', "[" * 10000])
def test_damaged_answer_is_none(text: str) -> None:
    folder = keep("r1")
    (folder / records.ANSWER).write_text(text)
    assert records.read_kept(folder) is None


def test_settled_answers_are_dropped_but_their_losses_stay() -> None:
    one, two, three = (keep(f"r{number}") for number in (1, 2, 3))
    (two / "run.losses.npy").write_bytes(b"losses")
    records.settle(one.parent, ["r1", "r2", "never"])
    assert not one.exists()
    assert [path.name for path in two.iterdir()] == ["run.losses.npy"]
    assert records.read_kept(three) is not None


def test_only_the_latest_runs_are_kept() -> None:
    for number in range(5):
        last = keep(f"r{number}")
        os.utime(last, (number, number))
    records.prune("a", last, most=2)
    assert [path.name for path in records.kept("a", "s")] == ["r3", "r4"]
    records.prune("a", last, most=0)
    assert not list(records.records_folder("a").iterdir())


def test_runs_from_before_the_clock_was_set_back_are_old() -> None:
    for number, at in enumerate((3600, 3602, 3601, 10, 11)):
        last = keep(f"r{number}")
        os.utime(last, (at, at))
    records.prune("a", last, most=3)
    assert [path.name for path in records.kept("a", "s")] == ["r1", "r3", "r4"]


def test_names_of_stations_are_safe_and_distinct() -> None:
    names = ["studio", "studio.local", "tcp://10.0.0.1:5", "../../x", "..", "", "a b", "a-b", "é" * 300]
    folders = [records.folder_name(name) for name in names]
    assert len({*folders}) == len(names)
    assert folders[:2] == names[:2]
    assert all("/" not in each and not each.startswith(".") and len(each) < 100 for each in folders)


def test_end_of_a_log_is_sent_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstu")
    (tmp_path / "run.log").write_bytes(b"\xff hf_abcdefghijklmnopqrstu\n")
    assert records.log_end(tmp_path / "run.log") == b"\xff (HF_TOKEN)\n"
