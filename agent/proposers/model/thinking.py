"""Remove a reasoning model's thinking from its answer: the drafts in it are not part of the proposal.

Servers that do not separate the two send the thinking as text between tags, or with only the closing tag, because many
chat templates put the opening tag into the prompt.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Mapping, Set

from agent.proposers.model.blocks import spans

_WORDS = r"think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratch_?pad"
# <think>, <seed:think>, [THINK], and the signs of Kimi's templates; then those of Cohere's and OpenAI's open models.
_CLOSING = re.compile(
    rf"[<\[◁]\s*\|?/\s*(?:\w+:)?(?:{_WORDS})\s*\|?[>\]▷]"
    rf"|<\|end_(?:of_)?(?:{_WORDS})\|>|<\|channel\|>\s*final\s*(?:<\|message\|>)?",
    re.IGNORECASE,
)
# Only at the start of a line: elsewhere the text is more likely about the tag.
_OPENING = re.compile(
    rf"^[ \t]*(?:[<\[◁]\|?(?:\w+:)?(?:{_WORDS})\|?[>\]▷]|<\|(?:start|begin)_(?:of_)?(?:{_WORDS})\|>"
    r"|<\|channel\|>\s*analysis)",
    re.IGNORECASE | re.MULTILINE,
)
_OPENED = re.compile(rf"[<\[◁]\|?(?:\w+:)?(?:{_WORDS})\|?[>\]▷]", re.IGNORECASE)
LONGEST_LINE = 200  # characters around a tag that are searched for quotes


def answered(text: str, files: Mapping[str, str] | None = None) -> str:
    """Return the text after the last closing tag, up to an opening tag that is never closed.

    A tag in quotes does not count: the text is about it, such as a token in a tokenizer's list. Nor does one inside an
    edit, whose file may be about reasoning, or one that ends a pair within a sentence. But a whole file that the
    thinking leaves open seems to go on in the answer.

    Args:
        files: path -> text of the files that may be edited, if known: a line that they have may be quoted.
    """
    edits, opens = spans(text), [tag.start() for tag in _OPENED.finditer(text)]
    has = None if files is None else {line.strip() for each in files.values() for line in each.splitlines()}
    tags = reversed([*_CLOSING.finditer(text)])
    counting = (
        tag
        for tag in tags
        if not (_is_quoted(text, tag) or _is_in_sentence(text, tag))
        and (not _is_within(edits, tag) or (has is not None and _is_after_draft(text, edits, opens, tag, has)))
    )
    begin = next((tag.end() for tag in counting), 0)
    opened = next((tag for tag in _OPENING.finditer(text, begin) if not _is_within(edits, tag)), None)
    return text[begin : opened.start() if opened else len(text)]


def _is_after_draft(
    text: str, edits: list[tuple[int, int]], opens: list[int], tag: re.Match[str], has: Set[str]
) -> bool:
    """Return whether a tag within a whole file is alone on its line, closes nothing in it, and is in no known file.

    Args:
        opens: where tags open.
        has: the lines of the files.
    """
    start, end = text.rfind("\n", 0, tag.start()) + 1, text.find("\n", tag.end())
    rest = text[tag.end() : end if end >= 0 else len(text)]
    if text[start : tag.start()].strip() or rest.strip() or tag[0] in has:
        return False
    begin, _ = edits[bisect.bisect_right(edits, tag.start(), key=lambda edit: edit[0]) - 1]
    if "SEARCH" in text[begin : text.find("\n", begin)].upper():
        return False  # the next block or file ends such a draft
    return bisect.bisect_left(opens, begin) == bisect.bisect_left(opens, tag.start())


def _is_within(edits: list[tuple[int, int]], tag: re.Match[str]) -> bool:
    place = bisect.bisect_right(edits, tag.start(), key=lambda edit: edit[0]) - 1
    return place >= 0 and tag.start() < edits[place][1]


def _is_in_sentence(text: str, tag: re.Match[str]) -> bool:
    """Return whether the opening tag is on the same line, after other words."""
    start = max(text.rfind("\n", 0, tag.start()) + 1, tag.start() - LONGEST_LINE)
    before = text[start : tag.start()]
    return any(before[: opened.start()].strip() for opened in _OPENED.finditer(before))


def _is_quoted(text: str, tag: re.Match[str]) -> bool:
    """Return whether a quotation on the tag's line opens before it and closes after it."""
    start = max(text.rfind("\n", 0, tag.start()) + 1, tag.start() - LONGEST_LINE)
    end = text.find("\n", tag.end(), tag.end() + LONGEST_LINE)
    before, after = text[start : tag.start()], text[tag.end() : end if end >= 0 else tag.end() + LONGEST_LINE]
    return any(_marks(before, mark) % 2 == 1 and _marks(after, mark) for mark in "\"'`")


def _marks(text: str, mark: str) -> int:
    """Count a quotation mark in a text; an apostrophe inside a word does not count."""
    return len(re.findall(r"(?<!\w)'|'(?!\w)" if mark == "'" else re.escape(mark), text))
