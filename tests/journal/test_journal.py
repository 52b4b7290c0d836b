from __future__ import annotations

import cProfile
import errno
import fcntl
import os
import re
import shutil
import timeit
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import AutoresearchError, PreconditionError, explain
from agent.format import named, one_line
from agent.journal.experiment import Experiment, Run, Verdict
from agent.journal.journal import Journal, fold, read, read_and_fold
from agent.journal.lock import hold, holder
from agent.journal.results import render
from agent.journal.state import State, step
from agent.protocol.load import load_protocol
from agent.protocol.models import Protocol
from tests.common.journals import JournalBuilder
from tests.common.workspaces import ROOT

pytestmark = pytest.mark.quick


def experiment(number: int, metric: float | None, status: str = "keep", description: str = "x") -> Experiment:
    run = Run(metric=metric, seconds=1.0, secondary={"peak_vram_mb": 1536.0}, error=None if metric else "crashed: oops")
    return Experiment(number, "search", description, f"{number:040x}", "d", {}, (run,), Verdict(status, "why"))  # type: ignore[arg-type]


def test_events_come_back_and_the_state_is_their_fold(tmp_path: Path) -> None:
    seen = []
    journal = Journal(tmp_path / "s" / "journal.jsonl", [lambda event, _: seen.append(event.kind)])
    journal.append("session", tag="t", base="b0", direction="minimize")
    proposed = {"proposer": "p", "description": "é", "reasoning": "", "parameters": {}, "digest": "", "files": ["a"]}
    journal.append("proposed", number=0, **proposed)
    journal.append("committed", number=0, commit="c0")
    journal.append("measured", number=0, metric=1.5, seconds=2.0, secondary={}, error=None, log="")
    journal.append("judged", number=0, status="keep", reason="baseline")
    journal.append("recorded", number=0, head="h1")
    journal.close()
    assert seen == ["session", "proposed", "committed", "measured", "judged", "recorded"]
    state = fold(journal.path)
    assert state == journal.state
    assert state.pending is None
    assert state.head == "h1"
    assert state.previous == "b0"
    assert state.incumbent is not None
    assert state.incumbent.metric == 1.5
    assert state.incumbent.description == "é"


def test_torn_last_line_is_dropped_and_broken_line_reported(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"event": "session", "at": 1, "base": "b"}\n{"event": "prop')
    assert [event.kind for event in read(path)] == ["session"]
    journal = Journal(path)
    journal.append("resumed", pid=1)
    journal.close()
    assert [event.kind for event in read(path)] == ["session", "resumed"]
    broken = '{"event": "session", "at": 1, "base": "b"}\nnot json\n{"event": "resumed", "at": 2}\n'
    path.write_text(broken)
    with pytest.raises(AutoresearchError, match="line 2"):
        list(read(path))
    assert path.read_text() == broken


def test_unwritable_journal_is_reported_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    path.mkdir()
    with pytest.raises(AutoresearchError, match="cannot write"):
        journal.append("resumed", pid=1)


def protocol(form: str) -> Protocol:
    content = load_protocol(ROOT).model_dump(by_alias=True, exclude_unset=True)
    content["provenance"]["resultsLog"]["format"] = form
    return Protocol.model_validate(content)


def test_results_in_each_format_with_descriptions_neutralised() -> None:
    rows = [experiment(0, 2.0), experiment(1, None, "crash", 'a\tb\nc "d", e')]
    tsv = render(protocol("tsv"), rows, lambda commit: commit[-7:])
    assert tsv.splitlines() == [
        "commit\tval_bpb\tmemory_gb\tstatus\tdescription",
        "0000000\t2.000000\t1.5\tkeep\tx",
        '0000001\t0.000000\t0.0\tcrash\ta b c "d", e [why]',
    ]
    csv = render(protocol("csv"), rows, lambda commit: commit[-7:])
    assert csv.splitlines()[2] == '0000001,0.000000,0.0,crash,"a b c ""d"", e [why]"'
    assert '"status": "crash"' in render(protocol("jsonl"), rows, lambda commit: commit).splitlines()[1]
    assert one_line("\x1b[31mred\u2028\r\n") == "red"


COLORED = "\x1b[1;31mRuntimeError: \x1b[0m\x1b]8;;http://host/x\x07shape\x1b]8;;\x1b\\ mismatch"


def test_no_part_of_a_terminal_escape_is_left_on_one_line() -> None:
    assert one_line(COLORED) == "RuntimeError: shape mismatch"
    assert one_line("a\x1b[1;3") == one_line("a\x9b31m") == one_line("a\x1b(B") == "a"
    assert named(["\x1b[32ma.py\x1b[0m", "b\tc"]) == "a.py, b c"


def test_no_text_of_a_line_is_taken_for_a_terminal_string_without_end() -> None:
    said = "the key “learning rate” is unknown, expected one of lr, wd"
    misread = said.encode().decode("latin-1")  # as text of another encoding often is: “ and ” end in \x9c and \x9d
    assert one_line(misread) == re.sub(r"[\x80-\x9f]+", " ", misread)
    for mark in "\x9d\x90\x98\x9e\x9f":
        assert one_line(f"a{mark}b”") == "a b”"
        assert one_line(f"a{mark}b\x9cc") == "ac"
    assert one_line("a\x1b]0;b") == "a0;b"
    assert one_line("a\x1bPb\nc") == "ab c"
    assert one_line("a\x9b12") == "a 12"


@pytest.mark.parametrize("part", ["\x9d", "\x9dab", "\x1b]", "\x1b]a\x9d", "\x9b1", "\x1b[1 ", "\x1b "])
def test_a_long_line_of_unfinished_escapes_takes_no_longer_for_each_of_them(part: str) -> None:
    few, many = (
        timeit.repeat("one_line(text)", number=1, repeat=3, globals={"one_line": one_line, "text": part * n})
        for n in (2**12, 2**17)
    )
    assert min(many) < 320 * min(few) + 0.05  # 1024 times as long if each looks for its end in the rest of the line


def test_colored_error_leaves_no_escapes_in_results() -> None:
    row = replace(experiment(1, None, "crash", "c"), verdict=Verdict("crash", COLORED))
    content = render(protocol("tsv"), [experiment(0, 2.0), row], lambda commit: commit)
    assert content.splitlines()[2].endswith("crash\tc [RuntimeError: shape mismatch]")


def test_secondary_metric_named_as_a_column_has_its_own_number_there() -> None:
    content = protocol("tsv").model_dump(by_alias=True, exclude_unset=True)
    secondary = content["measurement"]["secondaryMetrics"]
    content["measurement"]["secondaryMetrics"] = [
        *secondary,
        *({**secondary[0], "name": n} for n in ("memory_gb", "status")),
    ]
    run = Run(2.0, 1.0, {"peak_vram_mb": 1536.0, "memory_gb": 7.25, "status": 3.0})
    found = render(Protocol.model_validate(content), [replace(experiment(0, 2.0), runs=(run,))], lambda _: "c")
    assert found.splitlines()[1] == "c\t2.000000\t7.25\tkeep\tx"


@pytest.mark.parametrize(
    ("metric", "cell"),
    [
        *((1.2945124, "1.294512"), (176890964.0, "176890964.000000"), (0.0, "0.000000"), (-0.0, "0.000000")),
        *((0.000123456789, "0.000123457"), (-3.2e-7, "-3.2e-07"), (5e-324, "4.94066e-324"), (-1.5e99, "-1.5e+99")),
    ],
)
def test_metric_of_any_size_keeps_its_digits(metric: float, cell: str) -> None:
    found = render(protocol("tsv"), [replace(experiment(0, 1.0), runs=(Run(metric, 1.0),))], lambda _: "c")
    assert dict(zip(*(line.split("\t") for line in found.splitlines()), strict=True))["val_bpb"] == cell


def test_metric_named_as_the_column_of_memory_has_its_own_number_there() -> None:
    content = protocol("tsv").model_dump(by_alias=True, exclude_unset=True)
    content["measurement"]["primaryMetric"]["name"] = "memory_gb"
    content["provenance"]["resultsLog"]["columns"] = ["commit", "memory_gb", "status", "description"]
    run = Run(2.5, 1.0, {"peak_vram_mb": 1536.0})
    found = render(Protocol.model_validate(content), [replace(experiment(0, 2.5), runs=(run,))], lambda _: "c")
    assert found.splitlines()[1] == "c\t2.500000\tkeep\tx"


def test_event_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("note", text="readable")
    with pytest.raises(AutoresearchError, match="noise of the event confirmed has a value that a journal cannot hold"):
        journal.append("confirmed", a="1234", b="5678", noise=float("nan"))
    with pytest.raises(AutoresearchError, match="the event note is longer than 16 MiB"):
        journal.append("note", text="é" * 2**23)
    assert [event.kind for event in read(journal.path)] == ["note"]


def session(tmp_path: Path, count: int) -> Path:
    path = tmp_path / "journal.jsonl"
    JournalBuilder("t").baseline().mixed(count).save(path)
    return path


def fresh(path: Path, tmp_path: Path) -> State:
    """Return the state as a process finds it that has never read the journal."""
    copy = tmp_path / f"{len([*tmp_path.iterdir()])}.jsonl"
    copy.write_bytes(path.read_bytes())
    return fold(copy)


def test_state_of_a_growing_journal_is_that_of_a_first_reading(tmp_path: Path) -> None:
    lines = session(tmp_path, 30).read_bytes().splitlines(keepends=True)
    path = tmp_path / "grows.jsonl"
    for end in range(0, len(lines), 7):
        path.write_bytes(b"".join(lines[:end]))
        assert fold(path) == fresh(path, tmp_path)
        path.write_bytes(b"".join(lines[:end]) + lines[end][:9])  # a torn line is read once it is whole
        assert fold(path) == fresh(path, tmp_path)


def test_changed_journal_is_read_anew(tmp_path: Path) -> None:
    path = session(tmp_path, 10)
    before, text = fold(path), path.read_text()
    path.write_text(text.replace('"tag": "t"', '"tag": "u"', 1))
    assert fold(path).session != before.session
    path.write_text("\n".join(text.splitlines()[:20]) + "\n")
    assert len(fold(path).experiments) < len(before.experiments)
    path.write_text(text.replace('{"event"', "{", 1))
    with pytest.raises(AutoresearchError, match="line 1"):
        fold(path)
    path.unlink()
    assert fold(path) == State()


def test_journal_that_was_read_is_not_parsed_again(tmp_path: Path) -> None:
    path = session(tmp_path, 1500)
    first, again = (timeit.timeit(lambda: fold(path), number=1) for _ in range(2))
    assert again < first / 4


def test_events_of_a_journal_that_was_read_are_not_folded_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    JournalBuilder("t").baseline().mixed(50).save(path)
    first, state = read_and_fold(path)
    assert first == list(read(path))
    profile = cProfile.Profile()
    assert profile.runcall(read_and_fold, path) == (first, state)
    assert not [entry for entry in profile.getstats() if entry.code is step.__code__]
    with path.open("a") as file:
        file.write('{"event": "note", "at": 1.0, "text": "new"}\n{"event": "torn')
    again, _ = read_and_fold(path)
    assert again == list(read(path))
    assert len(again) == len(first) + 1


def test_comparison_that_an_ablation_displaced_goes_on_with_its_runs(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("session", tag="t", base="b0", direction="minimize")
    sides = [{"a": "a1", "b": "b1"}, {"best": "b1", "without-1-RATE": "c1"}, {"best": "b1", "smaller": "d1"}]
    for commits in sides:
        journal.append("comparing", commits=commits, files=[], count=2, seeds=[])
        journal.append("compared", label=next(iter(commits)), run=1, metric=1.0, seconds=1.0)
    journal.append("ablated", best="b1", changes=[], runs=2, smaller=None)
    known = []
    for commits in sides:
        journal.append("comparing", commits=commits, files=[], count=2, seeds=[])
        assert journal.state.comparison is not None
        known.append({label: len(runs) for label, runs in journal.state.comparison.runs.items()})
    # Another ablation begins anew.
    assert known == [{"a": 1}, {}, {}]
    assert fold(journal.path) == journal.state


def test_a_disk_that_cannot_sync_or_lock_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(code: int) -> Callable[..., None]:
        def call(*_: object) -> None:
            raise OSError(code, os.strerror(code))

        return call

    monkeypatch.setattr(os, "fsync", fails(errno.EINVAL))
    with pytest.raises(AutoresearchError, match=r"cannot write .*journal\.jsonl") as caught:
        Journal(tmp_path / "s" / "journal.jsonl", []).append("note", text="x")
    assert "disk that can sync files" in caught.value.hint
    monkeypatch.setattr(fcntl, "flock", fails(errno.ENOLCK))
    with pytest.raises(AutoresearchError, match=r"cannot lock .*/lock: its disk has no locks"), hold(tmp_path, "t"):
        pass


def test_a_full_disk_is_that_of_the_file_that_could_not_be_written(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, "No space left", str(tmp_path / "none" / "file"))
    assert re.search(rf"^free disk space \([\d,]+ MiB are free in {re.escape(str(tmp_path))}\), ", explain(error).hint)


def test_a_full_disk_is_that_of_the_target_of_a_move(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, "No space left", "/", None, str(tmp_path / "none" / "file"))
    assert f"MiB are free in {tmp_path})" in explain(error).hint
    assert "MiB are free in /)" in explain(OSError(errno.ENOSPC, "No space left", "/")).hint
    assert f"MiB are free in {tmp_path})" in explain(OSError(errno.ENOSPC, "No space left", str(tmp_path))).hint


def test_a_limit_of_the_size_of_files_is_no_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "(`ulimit -f`)" in explain(OSError(errno.EFBIG, "File too large", "x")).hint

    def fails(_: int) -> None:
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(AutoresearchError, match="File too large") as caught:
        Journal(tmp_path / "journal.jsonl", []).append("note", text="x")
    assert caught.value.hint.startswith("raise the limit of the size of files (`ulimit -f`), then run the same")


def test_a_full_disk_is_said_with_what_is_free() -> None:
    assert re.search(
        r"free disk space \([\d,]+ MiB are free in /", explain(OSError(errno.ENOSPC, "No space left")).hint
    )
    assert explain(OSError(errno.EIO, "Input/output error")).hint.startswith("fix the cause")


def test_deleted_journal_is_written_again(tmp_path: Path) -> None:
    """`git clean -x` deletes it with its folder, while a loop has it open."""
    notes = []
    journal = Journal(tmp_path / "s" / "t" / "journal.jsonl", [lambda event, _: notes.append(event.data.get("text"))])
    journal.append("session", tag="t", base="b0", direction="minimize")
    journal.append("ended", reason="x")
    shutil.rmtree(tmp_path / "s")
    journal.append("resumed")
    journal.append("ended", reason="y")
    journal.close()
    assert [event.kind for event in read(journal.path)] == ["session", "ended", "resumed", "ended"]
    assert fold(journal.path) == journal.state
    assert [text for text in notes if text] == [
        f"{journal.path} was deleted, for example by `git clean`, and is written again"
    ]


def test_another_journal_in_its_place_is_not_overwritten(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", [])
    journal.append("session", tag="t", base="b0", direction="minimize")
    same = journal.path.read_bytes()
    journal.path.unlink()
    journal.path.write_bytes(same)  # as an editor saves it, and a disk that numbers files anew
    journal.append("ended", reason="x")
    assert [event.kind for event in read(journal.path)] == ["session", "ended"]
    journal.path.rename(tmp_path / "moved")
    journal.path.write_bytes(same)
    with pytest.raises(AutoresearchError, match=r"another program has replaced .*/journal\.jsonl"):
        journal.append("resumed")
    assert journal.path.read_bytes() == same
    journal.close()


@pytest.mark.parametrize("how", ["empty", "older", "link", "folder", "pipe"])
def test_events_of_a_replaced_journal_are_kept(tmp_path: Path, how: str) -> None:
    journal = Journal(tmp_path / "journal.jsonl", [])
    journal.append("session", tag="t", base="b0", direction="minimize")
    older = journal.path.read_bytes()
    journal.append("ended", reason="x")
    whole = journal.path.read_bytes()
    journal.path.unlink()
    if how == "link":
        journal.path.symlink_to(tmp_path / "elsewhere")
    elif how == "folder":
        journal.path.mkdir()
    elif how == "pipe":
        os.mkfifo(journal.path)
    else:
        journal.path.write_bytes(older if how == "older" else b"")
    for _ in range(2):  # the end of a session tries again
        with pytest.raises(AutoresearchError, match=r"another program has replaced .*/journal\.jsonl") as caught:
            journal.append("resumed")
    (kept,) = tmp_path.glob("journal.jsonl.own-*")
    assert kept.read_bytes() == whole
    assert (caught.value.hint or "").startswith(f"move {kept}, which has all of its events, to journal.jsonl")
    journal.close()


def test_journal_that_is_a_link_before_its_first_event_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", [])
    journal.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AutoresearchError, match=r"cannot write .*/journal\.jsonl: it is a link") as caught:
        journal.append("session", tag="t", base="b0", direction="minimize")
    assert (caught.value.hint or "").startswith("put the journal back in its place")
    assert not (tmp_path / "elsewhere").exists()


def test_lock_holds_after_its_folder_was_deleted(tmp_path: Path) -> None:
    """`git clean -x` deletes it, but nothing in the .git folder, which a repository may share among workspaces."""
    git, state = tmp_path / ".git", tmp_path / ".autoresearch"
    git.mkdir()
    with hold(state, "t", git=git):
        shutil.rmtree(state)
        with pytest.raises(PreconditionError, match="a loop is already running"), hold(state, "u", git=git):
            pass
        found = holder(state)
        assert found is not None
        assert (found.pid, found.tag) == (os.getpid(), "t")
        with hold(tmp_path / "other" / ".autoresearch", "u", git=git):
            pass
    assert holder(state) is None
    with hold(state, "u", git=git):
        assert holder(state) is not None
    taken = pytest.raises(PreconditionError, match=r"a loop is already running in this workspace: .*session u")
    with hold(state, "u"), taken, hold(state, "t", git=git):  # an earlier version has no lock in .git
        pass
    with hold(state, "u", git=tmp_path / "missing"):
        assert holder(state) is not None
    assert not (tmp_path / "missing").exists()


def test_note_in_the_git_folder_that_cannot_be_removed_fails_no_command(tmp_path: Path) -> None:
    git, state = tmp_path / ".git", tmp_path / ".autoresearch"
    git.mkdir()
    with hold(state, "t", git=git):
        (note,) = git.glob("*.json")
        note.unlink()
        note.mkdir()
    with hold(state, "u", git=git):
        assert holder(state) is not None


def test_lock_without_a_note_names_no_command_that_would_not_find_its_holder(tmp_path: Path) -> None:
    with hold(tmp_path, None), pytest.raises(PreconditionError) as caught, hold(tmp_path, "t"):
        pass
    assert caught.value.hint == f"wait for its end; `lsof {tmp_path}/lock` names the process"
