"""Test that a model's thinking is not part of its answer."""

from __future__ import annotations

import time

import pytest

from agent.proposers.model.thinking import answered
from tests.common.proposals import FILE, edit

pytestmark = pytest.mark.quick

ANSWER = "DESCRIPTION: raise the rate\n\n" + edit("RATE = 0.1", "RATE = 0.2")
DRAFT = "DESCRIPTION: halve the depth\n" + edit("DEPTH = 4", "DEPTH = 2") + "No, that isn't deep enough."


@pytest.mark.parametrize(
    "text",
    [
        f"<think>\n{DRAFT}\n</think>\n{ANSWER}",
        f"{DRAFT}</think>{ANSWER}",
        f"<think>{DRAFT}</think>\nHm.\n{DRAFT}\n</think>\n{ANSWER}",
        f"<thinking>{DRAFT}</thinking>\n{ANSWER}",
        f"<THINKING>{DRAFT}</ THINKING >\n{ANSWER}",
        f"[THINK]{DRAFT}[/THINK]{ANSWER}",
        f"<reasoning>\n{DRAFT}\n</reasoning>\n\n{ANSWER}",
        f"<seed:think>{DRAFT}</seed:think>{ANSWER}",
        f"◁think▷{DRAFT}◁/think▷{ANSWER}",
        f"<|START_THINKING|>{DRAFT}<|END_THINKING|>{ANSWER}",
        f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}",
        f"<think>the tag `</think>` ends it; {DRAFT}</think>\n{ANSWER}",
        f'<think>{DRAFT}"quoted"</think>\n{ANSWER}',
        f"{DRAFT}</think>\n{ANSWER}<think>\nOr rather:\n{DRAFT}",
    ],
)
def test_the_answer_begins_after_the_last_closing_tag(text: str) -> None:
    assert answered(text).strip() == ANSWER.strip()


@pytest.mark.parametrize(
    "text",
    [
        ANSWER,
        ANSWER
        + edit(FILE, FILE.replace("RATE = 0.1", "RATE = 0.1\nTOKENS = ['<think>', '</think>', \"</think>\\n\"]")),
        "The tokens `<think>` and `</think>` are added.\n" + ANSWER,
        "",
    ],
)
def test_an_answer_without_thinking_is_all_of_it(text: str) -> None:
    assert answered(text) == text


TAGGED = '"""\n<reasoning>\n...\n</reasoning>\n<think>\n"""\n'


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "edits",
    [
        edit(TAGGED, TAGGED.replace("...", "step by step")),
        "train.py\n> <<<<<<< SEARCH\n> </think>\n> =======\n> x\n> >>>>>>> REPLACE\n",
        f"WHOLE FILE train.py\n\n```python\n{TAGGED}```\n",
        f"{edit('RATE = 0.1', 'RATE = 0.2')}\nThis leaves the <reasoning>...</reasoning> format alone.\n",
    ],
)
def test_tags_that_an_edit_quotes_end_no_thinking(edits: str, end: str) -> None:
    answer = f"DESCRIPTION: a longer reasoning\n\n{edits}".replace("\n", end)
    assert answered(answer) == answer
    for thought in (f"<think>\n{DRAFT}\n</think>", f"{answer}\n</think>", "<<<<<<< SEARCH\nOr </think>"):
        assert answered(f"{thought}\n{answer}").strip() == answer.strip()
    begun = "WHOLE FILE train.py\n```\nDEPTH = 2\nNo.\n</think>"
    assert answered(f"{begun}\n{answer}").strip() == answer.strip()


def test_thinking_without_an_end_is_no_answer() -> None:
    assert answered(f"<think>\n{DRAFT}") == ""
    assert answered(f"{ANSWER}</think>") == ""


def test_tags_take_no_longer_than_their_length() -> None:
    began = time.process_time()  # other load does not count
    for part in ("</think>", "'</think>'", "<think>\n", "</", "<|channel|>", "don't"):
        answered(part * 20_000)
        answered("'" * 20_000 + part * 5000)
        lines = "x" * 100_000 + "<think>\n" + f"{part}\n" * 10_000
        answered(f"WHOLE FILE train.py\n```\n{lines}```\n", {})
    assert time.process_time() - began < 4


@pytest.mark.parametrize("opened", ["<think>\n", ""])
@pytest.mark.parametrize(
    "answer",
    [
        *(f"{mark}\n\n{edit('RATE = 0.1', 'RATE = 0.2')}" for mark in ("**DESCRIPTION:** d", "1. DESCRIPTION: d")),
        f"**Description**: d\n\ntrain.py\n```\n{edit('RATE = 0.1', 'RATE = 0.2')}```\n",
        f"train.py\n```\n{edit('RATE = 0.1', 'RATE = 0.2')}```\n",
    ],
)
def test_draft_that_is_left_open_does_not_hide_the_end_of_thinking(opened: str, answer: str) -> None:
    thought = f"{opened}Maybe\nWHOLE FILE train.py\n```python\nDEPTH = 2\nNo.\n</think>\n"
    assert answered(f"{thought}\n{answer}", {"train.py": FILE}).strip() == answer.strip()


def test_edit_may_add_tags_or_quote_those_of_a_file() -> None:
    page = "train.py\n```\nA = '''\n{}</think>\n'''\n```\n"
    for inside, text in (("<think>\n", FILE), ("", "A = '''\n</think>\n'''\n")):
        answer = "DESCRIPTION: d\n\nWHOLE FILE " + page.format(inside)
        assert answered(answer, {"train.py": text}) == answer
    added = "DESCRIPTION: d\n\n" + edit("RATE = 0.1", "END = '''\n</think>\n'''")
    assert answered(added, {"train.py": FILE}) == added
