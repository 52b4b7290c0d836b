"""What a reasoning model thinks aloud before its answer: drafts, which are no part of what it proposes.

Servers that do not keep the two apart send the thinking as text, between tags or with the closing one alone, because
many chat templates put the opening one into the prompt.
"""

from __future__ import annotations

import re

_WORDS = r"think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratch_?pad"
# <think>, <seed:think>, [THINK], and the signs of Kimi's templates; then those of Cohere's and of OpenAI's open models.
_CLOSING = re.compile(
    rf"[<\[◁]\s*\|?/\s*(?:\w+:)?(?:{_WORDS})\s*\|?[>\]▷]"
    rf"|<\|end_(?:of_)?(?:{_WORDS})\|>|<\|channel\|>\s*final\s*(?:<\|message\|>)?",
    re.IGNORECASE,
)
# At the start of a line alone: elsewhere it is more likely talked about.
_OPENING = re.compile(
    rf"^[ \t]*(?:[<\[◁]\|?(?:\w+:)?(?:{_WORDS})\|?[>\]▷]|<\|(?:start|begin)_(?:of_)?(?:{_WORDS})\|>"
    r"|<\|channel\|>\s*analysis)",
    re.IGNORECASE | re.MULTILINE,
)
LONGEST_LINE = 200  # characters before a tag that may put it into quotes


def answered(text: str) -> str:
    """What follows the thinking: all after its last closing tag, and before one that opens and is not closed.

    A tag in quotes is one that the text is about, such as a token in a tokenizer's list.
    """
    tags = reversed([*_CLOSING.finditer(text)])
    begin = next((tag.end() for tag in tags if not _is_quoted(text, tag)), 0)
    opened = _OPENING.search(text, begin)
    return text[begin : opened.start() if opened else len(text)]


def _is_quoted(text: str, tag: re.Match[str]) -> bool:
    """Whether quotes of one kind stand open before the tag and are closed after it, on its line."""
    start = max(text.rfind("\n", 0, tag.start()) + 1, tag.start() - LONGEST_LINE)
    end = text.find("\n", tag.end(), tag.end() + LONGEST_LINE)
    before, after = text[start : tag.start()], text[tag.end() : end if end >= 0 else tag.end() + LONGEST_LINE]
    return any(_marks(before, mark) % 2 == 1 and _marks(after, mark) for mark in "\"'`")


def _marks(text: str, mark: str) -> int:
    """How often it stands there; an apostrophe within a word is no quotation mark."""
    return len(re.findall(r"(?<!\w)'|'(?!\w)" if mark == "'" else re.escape(mark), text))
