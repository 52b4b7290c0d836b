"""Which experiments of other sessions a new one learns from: bounded, sound, and of the same task."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.errors import AutoresearchError
from agent.journal.history import experiments_before
from agent.journal.journal import fold
from agent.journal.paths import journal_path
from agent.playbook.entries import parse
from agent.playbook.tried import tried
from agent.proposers import earlier
from tests.common.journals import FINGERPRINT, JournalBuilder
from tests.common.station_journals import StationsBuilder

NOW: dict[str, Any] = {"fingerprint": FINGERPRINT, "metric": "val_bpb", "direction": "minimize", "flags": {}}


def add(folder: Path, tag: str, count: int, direction: str = "minimize", at: int = 0) -> Path:
    path = journal_path(folder, tag)
    JournalBuilder(tag, direction=direction).baseline().mixed(count).write.save(path)
    os.utime(path, (at, at))
    return path


def gather(folder: Path, first: str | None = None, **changes: Any) -> earlier.Knowledge:
    return earlier.gather(journal_path(folder, "new"), {**NOW, **changes}, first)


def test_number_of_experiments_is_bounded_and_keeps_come_first(tmp_path: Path) -> None:
    add(tmp_path, "old", 150, at=1)
    add(tmp_path, "late", 150, at=2)
    found = gather(tmp_path).experiments
    assert len(found) == earlier.MOST
    assert gather(tmp_path).sources == [
        {"tag": "late", "experiments": 151, "alike": True},
        {"tag": "old", "experiments": 49, "alike": True},
    ]
    everything = gather(tmp_path, fingerprint={**FINGERPRINT, "chip": "other"}, first="old").experiments
    kept = {each.number for each in everything if each.tag == "old" and each.status == "keep"}
    assert kept == {each.number for each in found if each.tag == "old" and each.status == "keep"}


def test_session_that_is_continued_is_read_first(tmp_path: Path) -> None:
    add(tmp_path, "old", 10, at=1)
    add(tmp_path, "late", 10, at=2)
    assert [each["tag"] for each in gather(tmp_path).sources] == ["late", "old"]
    assert [each["tag"] for each in gather(tmp_path, first="old").sources] == ["old", "late"]


def test_own_journal_is_not_read(tmp_path: Path) -> None:
    add(tmp_path, "new", 5)
    assert gather(tmp_path) == earlier.Knowledge()


@pytest.mark.parametrize(
    ("changes", "alike"),
    [
        ({}, True),
        ({"fingerprint": {**FINGERPRINT, "training_seconds": 60.0}}, False),
        ({"fingerprint": {**FINGERPRINT, "chip": "Apple M1"}}, False),
        ({"fingerprint": {**FINGERPRINT, "snapshot": "other"}}, None),
        ({"metric": "accuracy"}, None),
        ({"direction": "maximize"}, None),
    ],
)
def test_what_counts_as_the_same_task(tmp_path: Path, changes: dict[str, Any], alike: bool | None) -> None:
    add(tmp_path, "old", 5)
    assert {each.alike for each in gather(tmp_path, **changes).experiments} == (set() if alike is None else {alike})


@pytest.mark.parametrize(
    ("flags", "alike"),
    [
        ({"stations": 2}, True),
        ({"stations": 3}, False),  # other shares of this machine
        ({}, False),  # this machine as a whole
        ({"scheduler": "studio.local"}, False),  # whichever stations are there
    ],
)
def test_session_on_stations_is_alike_on_the_same_ones_only(tmp_path: Path, flags: dict[str, Any], alike: bool) -> None:
    made = StationsBuilder("cpu0", "cpu1")
    made.run("cpu0", of=0).record(None, "keep")
    made.write.save(journal_path(tmp_path, "old"))
    found = gather(tmp_path, flags=flags)
    assert [each.alike for each in found.experiments] == [alike]
    # Nor do its runs forecast those of this machine.
    assert experiments_before(journal_path(tmp_path, "new"), FINGERPRINT, 200) == []


def taken(folder: Path, *events: tuple[str, dict[str, Any]]) -> object:
    """Return what remains of a best by these events at the end of its session, as the copy of a new one holds it."""
    made = JournalBuilder("old").baseline()
    base = fold(made_at(folder, made)).experiments[0].parameters
    made.keep({**made.parameters, "DEPTH": 99, "MATRIX_LR": 0.5})
    best = fold(made_at(folder, made)).experiments[1].commit
    for kind, data in events:
        made.write(kind, best=best, **data)
    made_at(folder, made)
    path = journal_path(folder, "new")
    known = gather(folder)
    assert not known.skipped
    earlier.write(path, known.experiments)
    found = earlier.read(path)[1].reduced
    assert earlier.read(path)[0].reduced is None
    return found if not found else (found["DEPTH"] == base["DEPTH"], found["MATRIX_LR"])


def made_at(folder: Path, made: JournalBuilder) -> Path:
    made.write.save(journal_path(folder, "old"))
    return journal_path(folder, "old")


def promotion(verdict: str, rest: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
    rung = {"training_seconds": 900.0, "values": {}, "machine": FINGERPRINT}
    nothing = dict.fromkeys(("gain", "low", "high", "holdout", "cost", "one_seed"))
    about = {"a": "a" * 40, "b": "b" * 40, "means": {}, "runs": {}, "names": {}, "metric": "val_bpb"}
    whole = {**nothing, **about, "verdict": verdict, "why": "", "seeds": [1], "reservations": []}
    left = None if rest is None else {**rest, "descriptions": [], "judged": whole}
    more = {"conditions": "900 s of training", "session": 0.1, "changes": None}
    return "promoted", {"rung": rung, "whole": whole, "rest": left, **more}


SMALLER = {"constants": ["DEPTH"], "without": [], "commit": "c" * 40, "offered": True}
KEPT_TOGETHER = {**SMALLER, "offered": False}


@pytest.mark.parametrize(
    ("events", "left"),
    [
        ([], None),
        ([("ablated", {"smaller": SMALLER})], (True, 0.5)),
        ([("ablated", {"smaller": KEPT_TOGETHER})], None),
        ([("ablated", {"smaller": None})], None),
        ([promotion("does not transfer", SMALLER)], (True, 0.5)),
        ([promotion("does not transfer", KEPT_TOGETHER)], {}),
        ([promotion("does not transfer")], {}),
        ([promotion("undecided")], None),
        ([promotion("transfers", KEPT_TOGETHER)], None),
        ([promotion("transfers", SMALLER)], (True, 0.5)),
        ([promotion("does not transfer"), ("ablated", {"smaller": SMALLER})], (True, 0.5)),
        ([("ablated", {"smaller": SMALLER}), promotion("transfers")], None),
    ],
)
def test_what_was_taken_out_of_the_best_is_told(tmp_path: Path, events: list[Any], left: object) -> None:
    assert taken(tmp_path, *events) == left


def test_copy_is_the_same_after_reading(tmp_path: Path) -> None:
    add(tmp_path, "old", 40)
    found, path = gather(tmp_path).experiments, journal_path(tmp_path, "new")
    earlier.write(path, found)
    assert earlier.read(path) == found


def test_copy_tells_which_findings_of_a_session_were_tried(tmp_path: Path) -> None:
    """Until a version wrote commits into the copy, they are unknown."""
    add(tmp_path, "old", 40)
    found, path = gather(tmp_path).experiments, journal_path(tmp_path, "new")
    earlier.write(path, found)
    one = next(each for each in found if each.commit == f"{each.number:040x}")
    said = f"## Idea\n- what: x\n- source: session old, experiment #{one.number}, commit {one.commit}\n"
    (entry,) = parse(said).entries
    assert [each.number for each in tried(entry, earlier.trials_elsewhere(earlier.read(path)))] == [one.number]
    copy = json.loads(path.with_name(earlier.FILE).read_text())
    for row in copy["experiments"]:
        del row["commit"]
    path.with_name(earlier.FILE).write_text(json.dumps(copy))
    assert [each.digest for each in earlier.read(path)] == [each.digest for each in found]
    assert tried(entry, earlier.trials_elsewhere(earlier.read(path))) == []


def test_copy_knows_which_experiments_changed_other_code(tmp_path: Path) -> None:
    add(tmp_path, "old", 40)
    asked: list[str] = []

    def is_same(commit: str) -> bool:
        asked.append(commit)
        return commit != first.commit

    first = gather(tmp_path).experiments[0]
    path = journal_path(tmp_path, "new")
    found = earlier.gather(path, NOW, None, is_same).experiments
    keeps = [each.number for each in found if each.status == "keep"]
    assert [each.number for each in found if not each.same_code] == [*range(keeps[1] + 1)]
    assert len(asked) == len(set(asked)) <= len(keeps)  # git takes a while
    earlier.write(path, found)
    assert earlier.read(path) == found
    # Under other conditions nothing depends on it.
    assert all(e.same_code for e in earlier.gather(path, {**NOW, "flags": {"stations": 3}}, None, is_same).experiments)


def test_crash_of_other_code_has_tried_nothing_of_the_playbook(tmp_path: Path) -> None:
    add(tmp_path, "old", 40)
    found = gather(tmp_path).experiments
    crashes = {each.number for each in found if each.status == "crash"}
    assert crashes
    after = [replace(each, same_code=False) for each in found]
    known, left = ({each.number for each in earlier.trials_elsewhere(those)} for those in (found, after))
    assert known - left == crashes


def test_damaged_and_hostile_sessions_are_skipped(tmp_path: Path) -> None:
    good = add(tmp_path, "good", 5)
    texts = {"text": "nonsense\n", "binary": "\x00\n", "list": "[]\n", "new\nline \x1b[31m": "{}\n"}
    for tag, text in texts.items():
        path = journal_path(tmp_path, tag)
        path.parent.mkdir()
        path.write_text(text)
    journal_path(tmp_path, "link").parent.mkdir()
    journal_path(tmp_path, "link").symlink_to(good)
    journal_path(tmp_path, "pipe").parent.mkdir()
    os.mkfifo(journal_path(tmp_path, "pipe"))
    found = gather(tmp_path)
    assert {each.tag for each in found.experiments} == {"good"}
    assert 0 < len(found.skipped) <= earlier.MOST_NOTES
    assert all("\n" not in note and "\x1b" not in note for note in found.skipped)


def test_oversized_values_are_left_out(tmp_path: Path) -> None:
    path = add(tmp_path, "old", 0)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["event"] == "proposed":
            line["parameters"] = {"TEXT": "x" * 10_000}
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert gather(tmp_path).experiments == ()


DAMAGED = ("", "[]", "{}", '{"experiments": 1}', '{"experiments": [{}]}', '{"experiments": [[]]}')


@pytest.mark.parametrize("text", DAMAGED)
def test_damaged_copy_is_an_error_with_a_way_out(tmp_path: Path, text: str) -> None:
    path = journal_path(tmp_path, "new")
    path.parent.mkdir(parents=True)
    path.with_name(earlier.FILE).write_text(text)
    with pytest.raises(AutoresearchError) as caught:
        earlier.read(path)
    assert "--fresh" in (caught.value.hint or "")
