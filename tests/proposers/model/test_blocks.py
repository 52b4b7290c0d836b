from __future__ import annotations

import contextlib
import time
from itertools import product

import pytest

from agent.proposers.answer import LONGEST_DESCRIPTION, Notes, parse_notes, summary_of_change
from agent.proposers.model.blocks import apply
from agent.proposers.model.placing import UnusableEdit
from agent.source.constants import parse
from tests.common.proposals import FILE, edit

pytestmark = pytest.mark.quick


def applied(answer: str, text: str = FILE) -> str:
    return apply(answer, {"train.py": text}, lambda path: path == "train.py")["train.py"]


@pytest.mark.parametrize(
    ("answer", "old", "new"),
    [
        (edit("RATE = 0.1", "RATE = 0.2"), "RATE = 0.1", "RATE = 0.2"),
        (f"```python\n{edit('RATE = 0.1', 'RATE = 0.2')}```\n", "RATE = 0.1", "RATE = 0.2"),
        (edit("RATE = 0.1", "RATE = 0.2", "`train.py`"), "RATE = 0.1", "RATE = 0.2"),
        (edit("RATE = 0.1", "RATE = 0.2", "I change the rate now, as said above:"), "RATE = 0.1", "RATE = 0.2"),
        (edit("RATE = 0.1   ", "RATE = 0.2"), "RATE = 0.1", "RATE = 0.2"),
        (edit("RATE = 0.1", "\\1 \\g<0>"), "RATE = 0.1", "\\1 \\g<0>"),
        (edit("DEPTH = 4", ""), "DEPTH = 4\n", "\n"),
        (edit("if x:\n    return RATE", "if x > 1:\n    return 2 * RATE"), "if x:\n        return RATE",
         "if x > 1:\n        return 2 * RATE"),
        (edit("RATE = 0.1", "RATE = 0.2") + edit("RATE = 0.2", "RATE = 0.3"), "RATE = 0.1", "RATE = 0.3"),
        (edit("    return 0", "    return 1"), "    return 0", "    return 1"),
    ],
)  # fmt: skip
def test_edits_that_apply(answer: str, old: str, new: str) -> None:
    assert applied(answer) == FILE.replace(old, new)


RAISED = FILE.replace("RATE = 0.1", "RATE = 0.2")
BLOCK = edit("RATE = 0.1", "RATE = 0.2")


def shifted(text: str, prefix: str) -> str:
    return "".join(f"{prefix}{line}\n" for line in text.splitlines())


@pytest.mark.parametrize(
    "answer",
    [
        f"1. The rate:\n\n{shifted(BLOCK, '   ')}",
        f"- The rate:\n{shifted(BLOCK, '  ')}",
        f"* Now\n{shifted(BLOCK, chr(9))}",
        shifted(BLOCK, "> "),
        shifted(BLOCK, ">"),
        f"1. ```python\n{shifted(BLOCK, '   ')}   ```\n",
        BLOCK.replace("<<<<<<<", "- <<<<<<<"),
        "train.py\n```\n" + BLOCK.split("\n", 1)[1].rstrip("\n") + "```\n",
        "train.py\n" + BLOCK.split("\n", 1)[1].replace("<<<<<<<", "```<<<<<<<"),
        "```train.py\n" + BLOCK.split("\n", 1)[1] + "```\n",
        BLOCK.replace("SEARCH", "SEARCH train.py").split("\n", 1)[1],
        BLOCK.replace("SEARCH", "search").replace("REPLACE", "replace:"),
        BLOCK.replace("train.py", "/workspace/train.py"),
        BLOCK.replace("train.py", "./train.py"),
        BLOCK.replace("    ", "  ").replace("\n", "\r\n"),
        f"1. WHOLE FILE /home/me/train.py\n   ```python\n{shifted(RAISED, '   ')}   ```\n",
        f"  WHOLE FILE train.py\n  ```python\n{shifted(RAISED, '  ')}  ```\n",
    ],
)
def test_blocks_in_lists_quotations_and_fences(answer: str) -> None:
    assert applied(answer) == RAISED


def test_a_block_of_several_files_is_named_wherever_the_model_names_it() -> None:
    files = {"a.py": "X = 1\n", "b.py": "X = 1\n"}
    block = edit("X = 1", "X = 2", "").lstrip("\n")
    for before in ("```b.py\n", "1. In `b.py` I raise X from one to two:\n", "/w/b.py\n", "b.py\n\n```python\n"):
        assert apply(before + block, files, lambda _: True) == {"b.py": "X = 2\n"}
    assert apply(block.replace("SEARCH", "SEARCH b.py"), files, lambda _: True) == {"b.py": "X = 2\n"}


NESTED = "def f(x):\n    if x > 0:\n        for i in range(3):\n            x += 1\n    return x\n"
TABS = NESTED.replace("    ", "\t")
LOOP = "    if x > 0:\n        for i in range(3):\n            x += 1"


@pytest.mark.parametrize(
    ("text", "search"),
    [
        (TABS, LOOP),
        (TABS, LOOP.lstrip()),
        (TABS, LOOP.replace("    ", "  ")),
        (TABS, shifted(LOOP, "   ").rstrip("\n")),
        (TABS, "for i in range(3):\n    x += 1"),
        (TABS, "        for i in range(3):"),
        (NESTED, LOOP.replace("    ", "\t")),
        (NESTED, LOOP.lstrip()),
        (NESTED, shifted(LOOP, "   ").rstrip("\n")),
        (NESTED, LOOP.replace("    ", "  ")),
        (NESTED, "if x > 0:\n    for i in range(3):"),
        (NESTED, "if x > 0:\nfor i in range(3):\nx += 1"),
        (NESTED, "        if x > 0:\n            for i in range(3):"),
    ],
)
def test_lines_are_indented_as_the_file_is(text: str, search: str) -> None:
    assert applied(edit(search, search.replace("3", "2")), text) == text.replace("3", "2")


def test_lines_that_an_edit_adds_are_indented_as_the_file_is() -> None:
    more = LOOP.replace("            x += 1", "            if i:\n                x += 2")
    assert applied(edit(LOOP, more), TABS) == TABS.replace("\t\t\tx += 1", "\t\t\tif i:\n\t\t\t\tx += 2")
    # Only the first line has lost its indentation; the lines after it have theirs, or have lost it as well.
    for second in ("    y = 1", "y = 1"):
        assert applied(edit("return x", f"x += 1\n{second}\n    return x" if second[0] == " " else "y = 1\nreturn x"),
                       NESTED).endswith("    y = 1\n    return x\n")  # fmt: skip


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_the_lines_that_an_edit_leaves_alone_keep_their_ends(end: str) -> None:
    mixed = FILE.replace("\n", end, 3).rstrip("\n")
    assert applied(edit("return 0", "return 1"), mixed) == mixed.replace("return 0", "return 1")
    assert applied(BLOCK, mixed) == mixed.replace("0.1", "0.2")


def test_line_endings_and_a_missing_last_one_stay() -> None:
    assert applied(edit("RATE = 0.1", "RATE = 0.2"), FILE.replace("\n", "\r\n")) == FILE.replace("0.1", "0.2").replace(
        "\n", "\r\n"
    )
    assert "return 1" in applied(edit("    return 0", "    return 1"), FILE.rstrip("\n"))


def test_whole_file_replaces_text() -> None:
    assert applied("WHOLE FILE train.py\n```python\nRATE = 1\n```\n") == "RATE = 1\n"
    assert applied("**WHOLE FILE: `train.py`**\n\n~~~\nRATE = 1\n```\n~~~\n") == "RATE = 1\n```\n"


PAGE = 'Summary\n=======\nAnswer in JSON.\n\n```json\n{"answer": 1}\n```\n\nRule A.\n'


@pytest.mark.parametrize(
    ("fence", "page", "after"),
    [
        ("```", PAGE, ""),
        ("```markdown", PAGE, "\nThat is clearer:\n```json\n1\n```\n"),
        ("````", PAGE.replace("json", ""), ""),
        ("~~~", PAGE.replace("json", ""), "\n```\nprose\n```\n"),
        ("```", "A = '''\n```json\n1\n```'''\nB = 1\n", ""),
        (
            "```",
            PAGE + "- a list:\n  ```py\n  x\n  ```\n",
            "prompt.md\n```\n" + edit("X", "Y").split("\n", 1)[1] + "```\n",
        ),
    ],
)
def test_whole_file_with_fences_is_taken_whole(fence: str, page: str, after: str) -> None:
    answer = f"WHOLE FILE prompt.md\n{fence}\n{page}X\n{fence.removesuffix('markdown')}\n{after}"
    changed = apply(answer, {"prompt.md": "old\n"}, lambda _: True)
    assert changed == {"prompt.md": page + ("Y\n" if "SEARCH" in after else "X\n")}


@pytest.mark.parametrize("part", ["```\ncode\n```\n", "```\n\ncode\n```\n", "x\n\n```\n\ncode\n\n```\n"])
def test_whole_file_that_may_go_on_after_a_fence_is_refused(part: str) -> None:
    with pytest.raises(UnusableEdit, match="seems to go on after the fence in line"):
        apply(f"WHOLE FILE prompt.md\n```\nRule A.\n{part}Rule B.\n```\n", {"prompt.md": "old\n"}, lambda _: True)
    with pytest.raises(UnusableEdit, match="seems to go on"):
        applied(f"WHOLE FILE train.py\n```python\nX = '''\n{part}X = 2\n```\n")


@pytest.mark.parametrize("name", ["train.py", "prompt.md"])
@pytest.mark.parametrize(
    "around",
    [
        *("```\n{}```\n", "````\n{}````\n", "```markdown\nDESCRIPTION: x\n\n{}```\n", "1. {}2. done\n"),
        *("{}This doubles it.\n", "{}---\nDone.\n", "{}- note\n", "{}</answer>\n", "{}<|im_end|>", "{}X = 2\n"),
        *("{}---\n{}", "{}and\n{}", "{}\nRun it:\n\n```bash\npython train.py\n```\n"),
    ],
)
def test_whole_file_may_be_enclosed_and_followed_by_words(name: str, around: str) -> None:
    answer = around.replace("{}", f"WHOLE FILE {name}\n```\nX = 1\n```\n")
    assert apply(answer, {name: "X = 0\n"}, lambda _: True) == {name: "X = 1\n"}


@pytest.mark.parametrize(
    "text", ["X = 1\n", "A = '''\n```json\n'''\n", "A = '''\n```\n1\n```\n'''\n", "A = '''\n```\n'''\n"]
)
def test_whole_python_file_ends_where_it_is_python(text: str) -> None:
    after = "\nRun it:\n\n```\npython train.py\n```\n"
    assert applied(f"WHOLE FILE train.py\n```python\n{text}```\n{after}") == text


@pytest.mark.parametrize(
    ("search", "replace"),
    [
        ("Summary\n=======\nAnswer in JSON.", "SUMMARY\n=======\nAnswer in JSON only."),
        ("Answer in JSON.", "Answer in JSON.\n\nNotes\n=====\nNone."),
        ("  Rule A.", "  Rules\n=======\n"),
    ],
)
def test_divider_is_where_the_quote_of_the_file_ends(search: str, replace: str) -> None:
    changed = apply(edit(search, replace, "prompt.md"), {"prompt.md": PAGE}, lambda _: True)["prompt.md"]
    assert changed == PAGE.replace(search.strip(), replace.strip(" "))


def test_dividers_after_no_quote_of_the_file_are_refused() -> None:
    with pytest.raises(UnusableEdit, match="block 1 has 2 dividers"):
        apply(edit("Other\n=======\nlines", "x", "prompt.md"), {"prompt.md": PAGE}, lambda _: True)
    with pytest.raises(UnusableEdit, match="block 1 has 2 dividers"):
        apply(edit("A", "B\n=======", "p.md"), {"p.md": "A\nA\n"}, lambda _: True)


@pytest.mark.parametrize("answer", [edit("RATE = 0.1", "RATE = 0.2\0"), "WHOLE FILE train.py\n```\n\0\n```\n"])
def test_edit_with_a_nul_character_is_refused(answer: str) -> None:
    with pytest.raises(UnusableEdit, match="puts a NUL character into train"):
        applied(answer)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_whole_file_keeps_line_ends_and_a_byte_order_mark(mark: str, end: str) -> None:
    old = mark + FILE.replace("\n", end)
    for said in (RAISED, mark + RAISED, RAISED.replace("\n", "\r\n")):
        assert applied(f"WHOLE FILE train.py\n```python\n{said}```\n", old) == mark + RAISED.replace("\n", end)
    with pytest.raises(UnusableEdit, match="change nothing"):
        applied(f"WHOLE FILE train.py\n```python\n{FILE}```\n", old)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("I would raise the rate.", "no edit block"),
        (edit("RATE = 0.5", "RATE = 0.2"), "do not occur"),
        (edit("", "RATE = 0.2"), "quotes no line"),
        (edit("RATE = 0.1", "RATE = 0.1"), "change nothing"),
        (edit("RATE = 0.1", "x", "prepare.py"), "is not a mutable file"),
        (edit("RATE = 0.1", "x", "../../etc/passwd.py"), "is not a mutable file"),
        ("<<<<<<< SEARCH\nRATE = 0.1\n=======\n", "line 1 is not closed: missing a line with only `>>>>>>> REPLACE`"),
        (
            "So:\n<<<<<<< SEARCH\nRATE = 0.1\n>>>>>>> REPLACE\n",
            "line 2 is not closed: missing a line with only `=======`",
        ),
        ("<<<<<<< SEARCH\nA\n=======\nB\n" + edit("RATE = 0.1", "x"), "line 1 is not closed before another"),
        ("------- SEARCH\nRATE = 0.1\n=======\nRATE = 0.2\n+++++++ REPLACE\n", "line 1, `------- SEARCH`, is not one"),
        (
            "<<<<<<< ORIGINAL\nRATE = 0.1\n=======\nRATE = 0.2\n>>>>>>> UPDATED\n",
            "line 1, `<<<<<<< ORIGINAL`, is not one",
        ),
        ("<<<\nRATE = 0.1\n===\nRATE = 0.2\n>>>\n", "line 1, `<<<`, is not one"),
        ("**SEARCH:**\n```\nRATE = 0.1\n```\n**REPLACE:**\n```\nRATE = 0.2\n```\n", r"line 1, `\*\*SEARCH"),
        (
            "```diff\n--- a/train.py\n+++ b/train.py\n@@ -3 +3 @@\n-RATE = 0.1\n+RATE = 0.2\n```\n",
            "line 2 begins a diff",
        ),
        ("*** Begin Patch\n*** Update File: train.py\n-RATE = 0.1\n+RATE = 0.2\n", "line 1 begins a diff"),
        ("```python\nRATE = 0.2\n```\n", "in a fence without the markers"),
        ("WHOLE FILE train.py\n```python\nRATE = 0.2\n", "line 1 is not enclosed in two identical fences"),
        (edit("if x:\nreturn RATE", "if x:\ny = RATE\nreturn y"), "lost the indentation"),
    ],
)
def test_unusable_edits_are_refused(answer: str, why: str) -> None:
    with pytest.raises(UnusableEdit, match=why):
        applied(answer)


def test_ambiguous_edit_is_refused() -> None:
    with pytest.raises(UnusableEdit, match="occur 2 times"):
        applied(edit("RATE = 0.1", "x"), "RATE = 0.1\nRATE = 0.1\n")
    with pytest.raises(UnusableEdit, match="occur 2 times"):
        applied(edit("return 1", "x"), "if a:\n    return 1\nelse:\n    return 1\n")


def test_two_files_need_a_name() -> None:
    files = {"a.py": "X = 1\n", "b.py": "X = 1\n"}
    with pytest.raises(UnusableEdit, match="which file"):
        apply(edit("X = 1", "X = 2", "Here:"), files, lambda _: True)
    assert apply(edit("X = 1", "X = 2", "b.py"), files, lambda _: True) == {"b.py": "X = 2\n"}
    assert apply("WHOLE FILE c.py\n```\nY = 1\n```", files, lambda _: True) == {"c.py": "Y = 1\n"}


def test_notes_are_read_from_answer() -> None:
    said = parse_notes("**DESCRIPTION:** halve the batch\nHypothesis: more\x1b[31m steps\nEXPECTED: about -0.004 bits")
    assert said == Notes("halve the batch", "more steps", -0.004)
    assert parse_notes("EXPECTED: \u22121e-3").expected == -0.001
    assert parse_notes("EXPECTED: nothing\n") == Notes()
    assert parse_notes("EXPECTED: -9e305").expected is None
    assert len(parse_notes("DESCRIPTION: " + "x" * 10_000).description) == LONGEST_DESCRIPTION


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("val_loss 1.0150 -> 1.0130 (-0.002)", -0.002),
        ("\u20130.002", -0.002),
        ("\u2014 0.002", -0.002),
        ("-2%", None),
        ("-2 percent", None),
        ("-0.004 (-2 %)", -0.004),
        ("val_bpb2 drops by -0.004", -0.004),
        ("-0.004 +/-0.001", -0.004),
        ("-0.004 \u00b1 0.001", -0.004),
        ("-0.004, that is -0.004 bits.", -0.004),
        ("0.002\u20130.004", None),
        ("-0.002 to -0.004", None),
        ("from 1.2 to 1.1", None),
        ("-1,000", -1000),
        ("+1,234,567.5", 1_234_567.5),
        ("-1,00", None),
        ("-0.0050 (-0.005)", -0.005),
        ("-0.005 (i.e. -5e-3)", -0.005),
        ("-0.01 (noise -0.002)", None),
        ("-0,004", None),
        ("+.5e\u22123bits", 0.0005),
        ("0.25", 0.25),
        ("v2", None),
    ],
)
def test_expected_effect_is_the_one_number_that_can_be_meant(said: str, expected: float | None) -> None:
    assert parse_notes(f"EXPECTED: {said}\n").expected == expected


def test_missing_notes_are_summarised() -> None:
    assert summary_of_change({"t.py": FILE}, {"t.py": FILE.replace("0.1", "0.2")}, {}) == "RATE 0.1 -> 0.2"
    profiles = 'if PROFILE == "cpu":\n    DEPTH = 2\nelse:\n    DEPTH = 4\n'
    smaller = profiles.replace("= 2", "= 1")
    assert summary_of_change({"t.py": profiles}, {"t.py": smaller}, {"PROFILE": "cpu"}) == "DEPTH 2 -> 1"
    assert summary_of_change({"t.py": FILE}, {"t.py": FILE + "print(1)\n"}, {}) == "1 line added, 0 removed in t.py"


ODD = [
    "<<<<<<< SEARCH\n=======\n",
    "<<<<<<< SEARCH\nRATE = 0.1\n",
    "=======\n",
    ">>>>>>> REPLACE\n",
    "WHOLE FILE train.py\n```\n",
    "WHOLE FILE train.py\n\n\n",
    "```\n~~~\n",
    "DESCRIPTION: \nHYPOTHESIS\nEXPECTED" + "*" * 50 + "\n",
    "*_`# " * 10,
    "`" * 60 + "\n",
    " _:_" * 30,
    "RATE = 0.1\n",
]


@pytest.mark.parametrize("parts", [*((part,) for part in ODD), *product(ODD, repeat=2)])
def test_answers_take_no_longer_than_their_length(parts: tuple[str, ...]) -> None:
    answer = ("".join(parts) * 60_000)[:200_000]
    began = time.process_time()  # other load does not count
    with contextlib.suppress(UnusableEdit):
        apply(answer, {"train.py": FILE, "b.py": "RATE = 0.1\n" * 2000}, lambda _: True)
    parse_notes(answer)
    assert time.process_time() - began < 4


def test_a_quote_of_many_like_lines_takes_no_longer_than_the_file() -> None:
    text = "x = 1\n" * 30_000
    for line in ("x = 1", " x = 1"):
        began = time.process_time()  # other load does not count
        with pytest.raises(UnusableEdit):
            applied(edit(f"{line}\n" * 15_000 + "y = 2", "z"), text)
        with pytest.raises(UnusableEdit, match="occur"):
            applied(edit(line, "z"), text)
        assert time.process_time() - began < 3


def test_a_thousand_blocks_are_enough() -> None:
    blocks = "".join(edit(f"A{n} = 1", f"A{n} = 2") for n in range(1001))
    with pytest.raises(UnusableEdit, match="more than 1000"):
        applied(blocks, "".join(f"A{n} = 1\n" for n in range(1001)))


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        ("<<<<<<< SEARCH\nDEPTH = 4\n=======\nDEPTH = 8\n", "line 7 is not closed: .*REPLACE"),
        ("<<<<<<< SEARCH\nDEPTH = 4\n====\nDEPTH = 8\n>>>>>>> REPLACE\n", "line 7 is not closed: .*======="),
        ("<<<<<<< FIND\nDEPTH = 4\n=======\nDEPTH = 8\n>>>>>>> REPLACE\n", "line 7, `<<<<<<< FIND`, is outside"),
        ("WHOLE FILE b.py\nDEPTH = 8\n", "line 7, `WHOLE FILE b.py`, is outside"),
        ("WHOLE FILE b.py\n```\nopen\n", "line 7, `WHOLE FILE b.py`, is outside"),
        ("WHOLE FILE my layers.py\n```\nDEPTH = 8\n```\n", "line 7, `WHOLE FILE my layers.py`, is outside"),
        ("```diff\n@@ -3 +3 @@\n-DEPTH = 4\n+DEPTH = 8\n```\n", "line 8, `@@ -3 .*`, is outside"),
        ("*** Begin Patch\n*** Update File: train.py\n", "line 7, .*Begin Patch`, is outside"),
    ],
)
def test_a_part_of_an_answer_is_not_taken_for_the_whole(rest: str, why: str) -> None:
    answer = edit("RATE = 0.1", "RATE = 0.2")
    with pytest.raises(UnusableEdit, match=why):
        applied(answer + rest)


def test_prose_and_files_may_mention_markers_beside_a_block() -> None:
    about = "The whole file stays as it is; x << 3 and a <<<< b.\n\n---\n"
    assert applied(about + edit("RATE = 0.1", "RATE = 0.2") + about) == FILE.replace("0.1", "0.2")
    assert applied("WHOLE FILE is not needed here.\n" + edit("RATE = 0.1", "RATE = 0.2")) == FILE.replace("0.1", "0.2")
    for line in ("# @@ -1 +1 @@", "<<<<<<< SEARCH", "======="):
        assert applied(f"WHOLE FILE train.py\n```python\n{RAISED}{line}\n```\n") == f"{RAISED}{line}\n"
    begun = "<<<<<<< SEARCH\nRATE = 0.1\n=======\nActually, the whole file:\n\n"
    assert applied(f"train.py\n{begun}WHOLE FILE train.py\n```python\n{RAISED}```\n") == RAISED


def test_blocks_can_be_stopped() -> None:
    calls: list[int] = []

    def tick() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    many = "".join(edit(f"  A{n} = 1", f"  A{n} = 2") for n in range(900))
    with pytest.raises(KeyboardInterrupt):
        apply(many, {"train.py": "".join(f"A{n} = 1\n" for n in range(900))}, lambda _: True, tick)


def test_inexact_quotes_of_a_large_file_are_applied_without_parsing_it_for_each() -> None:
    large = "1;" * 60 + "1\n"
    text = large * 2000 + "".join(f"A{n} = 1\n" for n in range(300))
    began = time.process_time()
    parse(text)
    once = time.process_time() - began
    began = time.process_time()
    applied("".join(edit(f"  A{n} = 1", f"  A{n} = 2") for n in range(60)), text)
    assert time.process_time() - began < 20 * once


def test_files_with_invisible_names_are_refused() -> None:
    for name in ("sub/\u202ex.py", "sub/\ufeffx.py"):
        with pytest.raises(UnusableEdit, match="is not a mutable file"):
            apply(f"WHOLE FILE {name}\n```\nx = 1\n```\n", {"train.py": FILE}, lambda _: True)
