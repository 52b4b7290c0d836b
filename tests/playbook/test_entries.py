"""Reading playbook.md: what a person writes, and what nobody should have."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from agent.playbook.entries import (
    LARGEST_FILE,
    LONGEST_FIELD,
    MOST_ENTRIES,
    MOST_NOTES,
    Turn,
    is_playbook,
    open_fence,
    parse,
    read_book,
    turns_of,
)
from tests.common.workspaces import ROOT

pytestmark = pytest.mark.quick

ONE = """# Playbook

Prose.

## How to use it

More prose.

## Half the batch

- what: half of the tokens,
  and twice the steps
- turns: `TOTAL_BATCH_SIZE` down
- where: an H100
- effect: 1.2 %, 95 % interval 1 to 1.4
- source: a record
"""


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "playbook.md"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_entry_has_its_fields(tmp_path: Path) -> None:
    write(tmp_path, ONE)
    book = read_book(tmp_path)
    assert book.notes == ()
    (entry,) = book.entries
    assert (entry.title, entry.line) == ("Half the batch", 9)
    assert entry.what == "half of the tokens, and twice the steps"
    assert entry.turns == (Turn("TOTAL_BATCH_SIZE", -1),)
    assert (entry.where, entry.source) == ("an H100", "a record")
    assert entry.gain == 1.2


def test_workspace_without_a_playbook_has_none(tmp_path: Path) -> None:
    book = read_book(tmp_path)
    assert (book.entries, book.notes, book.exists) == ((), (), False)


def test_hand_written_variants_are_read() -> None:
    text = "## A ##\n* **What**: x\n+ EFFECT: 2 %\nsource: y\n\n##  B\n1. no field\n## C\r\n- what: z\r\n"
    a, c = parse(text).entries
    assert (a.title, a.what, a.gain, a.source) == ("A", "x", 2.0, "y")
    assert (c.title, c.what) == ("C", "z")


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        ("", ()),
        ("none", ()),
        ("LR up, lr_max 0.1", (Turn("LR", 1), Turn("lr_max", 0, 0.1))),
        ('W "SL"; W = SSSL', (Turn("W", 0, "SL"), Turn("W", 0, "SSSL"))),
        ("FLAG True", (Turn("FLAG", 0, True),)),
        ("FLAG true; FLAG FALSE", (Turn("FLAG", 0, True), Turn("FLAG", 0, False))),
        ("RATE up.", (Turn("RATE", 1),)),
        ("N 128.", (Turn("N", 0, 128),)),
        ('W "SL.".', (Turn("W", 0, "SL."),)),
        ("N 4", (Turn("N", 0, 4),)),
        ("LR", None),
        ("LR 1e999", None),
        ("LR __import__('os')", None),
        ("LR [1, 2]", None),
        ("LR {[1]}", None),
        ("LR {{}}", None),
        ("A up, B up, C up, D up, E up", None),
    ],
)
def test_turns_are_names_with_a_direction_or_a_value(text: str, turns: tuple[Turn, ...] | None) -> None:
    assert turns_of(text) == turns


TURN_OF_A_FILE = Turn("src/my-model.py:DEPTH", 0, 6)


def test_turn_may_name_the_file_of_its_constant() -> None:
    assert turns_of("src/my-model.py:DEPTH 6, train.py:RATE up") == (TURN_OF_A_FILE, Turn("train.py:RATE", 1))
    assert turns_of(str(TURN_OF_A_FILE)) == (TURN_OF_A_FILE,)
    for text in (":DEPTH 6", "a b.py:DEPTH 6", "train.py: 6", "train.py:6 7"):
        assert turns_of(text) is None


@pytest.mark.parametrize(
    ("effect", "gain"),
    [
        ("0.8 %", 0.8),
        ("about 0.8% of the loss", 0.8),
        ("-0.37 %", -0.37),
        ("\u22120.5 %", -0.5),
        ("5 % less time", 0.5),
        ("0.5-1.5 %", 0.5),
        ("-0.5 to 1 %", -0.5),
        ("about 5\u20136 % less time", 0.5),
        ("1,5 %", 1.5),
        ("12-15 runs", None),
        ("5 % faster", 0.5),
        ("10 % less wall-clock", 1.0),
        ("15 % speedup", 1.5),
        ("20 % of the time", 2.0),
        ("2 % lower loss at equal time", 2.0),
        ("2 % less loss, 5 % faster", 2.0),
        ("1,234.5 %", 1234.5),
        ("1,000 %", 1000.0),
        ("-1,000 % of the loss", -1000.0),
        ("0,125 %", 0.125),
        ("25000 %", 25000.0),
        ("<1 %", 1.0),
        ("less than 1 %", 1.0),
        ("no figure published", None),
        ("95 runs", None),
        ("not confirmed: 3 % when kept", None),
        ("", None),
    ],
)
def test_effect_ranks_by_the_percentage_that_it_begins_with(effect: str, gain: float | None) -> None:
    (entry,) = parse(f"## a\n- what: b\n- effect: {effect}\n").entries
    assert entry.gain == gain


def test_odd_entries_are_left_out_with_a_note() -> None:
    whats = "".join(f"## {title}\n- what: a\n" for title in ("->", "x" * 10_000, "Twice", "twice!"))
    book = parse(f"{whats}## Bare\n- effect: 1 %\n")
    assert [each.title for each in book.entries] == ["Twice"]
    for words in ("line 1: its heading has no words", "line 3: its title is longer", "line 7: its title is that of"):
        assert any(words in note for note in book.notes), words
    assert any("line 9: it does not say `what`" in note for note in book.notes)


def test_malformed_turns_leave_the_entry() -> None:
    book = parse("## A\n- what: b\n- turns: make it larger\n")
    assert (len(book.entries), book.entries[0].turns) == (1, ())
    assert "`turns` is not like" in book.notes[0]


@pytest.mark.parametrize(
    "text",
    [
        "```\n{}```\n",
        "````\n```\n{}```\n````\n",  # an example with a fence of its own
        "````markdown\n```\n{}```\n`````\n",
        "~~~\n```\n{}```\n~~~\n",
        "```\n~~~\n{}~~~\n```  \n",
        "```\n``` not at its end\n{}```\n",
        "- ~~~ \n  ~~~ a ` b\n{}  ~~~\n",
    ],
)
def test_fenced_text_is_no_entry(text: str) -> None:
    example = text.format("## A\n- what: b\n")
    book = parse(f"# Playbook\n{example}## C\n- what: d\n")
    assert ([each.title for each in book.entries], book.notes) == (["C"], ())


def test_code_on_one_line_is_no_fence() -> None:
    book = parse("## A\n- what: run\n```x = 1``` twice\n\n## B\n- what: c\n")
    assert [(each.title, each.what) for each in book.entries] == [("A", "run ```x = 1``` twice"), ("B", "c")]
    assert open_fence("```x``` and\n") is None
    assert open_fence("a\n````\n```\n") == 2


def test_fence_that_is_not_closed_is_named() -> None:
    book = parse("## A\n- what: b\n\n```\n## B\n- what: c\n")
    assert [each.title for each in book.entries] == ["A"]
    assert book.notes == ("playbook.md, line 4: the fence is not closed, so nothing after it is read",)


def test_number_and_length_are_bounded() -> None:
    book = parse("".join(f"## T{number}\n- what: {'x' * 5000}\n" for number in range(5000)))
    assert len(book.entries) == MOST_ENTRIES
    assert all(len(each.what) == LONGEST_FIELD for each in book.entries)
    assert "only its first" in book.notes[-1]
    many = parse("## ->\n- what: a\n" * 1000)
    assert len(many.notes) == MOST_NOTES
    assert "more of its lines" in many.notes[-1]


@pytest.mark.parametrize("line", ["#", " ", "- what:", "## ", "`", "- turns: A up,", "*", "\t- "])
def test_repetitive_lines_take_no_time(line: str) -> None:
    text = f"## A\n- what: b\n{line * (LARGEST_FILE // len(line))}\n## B\n- what: c\n"
    assert len(parse(text).entries) <= 2


def test_control_characters_are_stripped(tmp_path: Path) -> None:
    write(tmp_path, "## \x1b[31mRed\x07\n- what: a\u202eb\x1b]0;title\x07c\n- source: \x9b2Jd\n")
    (entry,) = read_book(tmp_path).entries
    assert (entry.title, entry.what, entry.source) == ("Red", "abc", "d")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\xff\xfe## a\n- what: b", "is not valid UTF-8"), (b"## a\0\n- what: b\n", "is not text")],
)
def test_what_is_no_text_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    write(tmp_path, content)
    book = read_book(tmp_path)
    assert book.entries == ()
    assert words in book.notes[0]


def test_large_file_is_not_read(tmp_path: Path) -> None:
    with write(tmp_path, b"").open("r+b") as file:
        file.truncate(50 * 2**20)
    assert "is larger than 256 KiB" in read_book(tmp_path).notes[0]


def test_links_folders_and_pipes_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    outside = write(tmp_path / "elsewhere", ONE)
    places = {name: tmp_path / name for name in ("link", "folder", "pipe")}
    for place in places.values():
        place.mkdir()
    (places["link"] / "playbook.md").symlink_to(outside)
    (places["folder"] / "playbook.md").mkdir()
    os.mkfifo(places["pipe"] / "playbook.md")
    for name, words in (("link", "is a link"), ("folder", "is not a regular file"), ("pipe", "is not a regular file")):
        book = read_book(places[name])
        assert (book.entries, len(book.notes)) == ((), 1)
        assert words in book.notes[0]


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("", True),
        ("# Playbook\n", True),
        ("# The playbook\n", False),
        (ONE.removeprefix("# Playbook"), True),
        ("# Ansible\n\n## Deploy\n\nRun it.\n", False),
    ],
)
def test_file_of_another_kind_is_no_playbook(text: str, is_one: bool) -> None:
    assert is_playbook(text) is is_one


def test_own_playbook_has_forty_entries_that_say_everything() -> None:
    """On the branch of a session too, where the README's demo leaves the clone: that adds its own entries."""
    book = read_book(ROOT)
    own = [entry for entry in book.entries if not entry.source.startswith("session ")]
    assert (len(own), book.notes) == (40, ())
    for entry in book.entries:
        assert all((entry.what, entry.where, entry.effect, entry.source)), entry.title
        assert entry.gain is not None or entry.effect == "no figure published", entry.title
        text = f"{entry.what}{entry.where}{entry.effect}{entry.source}"
        assert len(text) < 4 * LONGEST_FIELD


def test_field_of_very_many_lines_is_read_at_once() -> None:
    began = time.process_time()
    book = parse("## A\n- what: x\n" + "y\n" * 400_000)
    assert time.process_time() - began < 4
    assert [len(entry.what) for entry in book.entries] == [LONGEST_FIELD]
