"""Fit prompt and answer to the limits that a server names when it refuses a request.

Sources: the errors of OpenAI, Anthropic, DeepSeek, Gemini, Groq, llama.cpp, LM Studio and vLLM. Most have no field for
the limit; it is a number in a sentence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from agent.proposers.model.prompt import TOKENS

MOST_TOKENS = 16_000  # per answer
LEAST = 256  # tokens; no model has a lower limit, and no answer is shorter
# The word "context" alone is in errors of many kinds: `context canceled`, `context deadline exceeded`.
PROMPT_TOO_LONG = re.compile(
    r"context[ _-]*(?:length|window|size|limit|exceed|overflow)|\bn_ctx\b"
    r"|(?:exceed|maximum|longer|larger|too (?:long|large)|\bfit)[^.:;,\"]{0,40}\bcontext"
    r"|\b(?:prompt|input|request|messages?)\b(?:(?!deadline|time-?out).){0,80}\b(?:too (?:long|large)|exceed)"
    r"|too many (?:input )?tokens",
    re.IGNORECASE | re.DOTALL,
)
# A number of three digits is the status, unless it is one of tokens.
COUNT = r"((?<!\d)(?:\d{1,3}(?:,\d{3}){1,2}|\d{4,10})(?!\d)|\d{3}(?= tokens))"
WINDOWS = tuple(
    re.compile(begins + COUNT, re.IGNORECASE) for begins in (r"n_ctx\D{1,5}", r"context\D{0,60}")
)  # the first is exact
ANSWER_TOO_LONG = re.compile(
    r"max_?(?:completion|output|new)?_?tokens|(?:output|completion) tokens", re.IGNORECASE
)  # the name of the parameter, or what it limits
NUMBER = re.compile(r"(?<![\w.,-])\d[\d,]{0,10}(?![\w-])")


@dataclass(frozen=True)
class Sizes:
    """The largest prompt, without system message and corrections, and the largest answer, in tokens."""

    prompt: int = TOKENS
    answer: int = MOST_TOKENS


def fitted(sizes: Sizes, said: str) -> Sizes | None:
    """Return smaller sizes that fit what a server said, or None if it said nothing about size or they are too small."""
    if PROMPT_TOO_LONG.search(said):
        window = next(filter(None, (window.search(said) for window in WINDOWS)), None)
        most = _count(window[1]) if window else 2 * sizes.answer
        # A quarter is left for the system message, for corrections, and for text of more tokens than expected.
        smaller = Sizes(min(sizes.prompt // 2, most // 2), min(sizes.answer, most // 4))
        return smaller if min(smaller.prompt, smaller.answer) >= LEAST else None
    if ANSWER_TOO_LONG.search(said):
        limits = [count for number in NUMBER.findall(said) if LEAST <= (count := _count(number)) < sizes.answer]
        # Rounded, because Gemini names the first number that is too large.
        return replace(sizes, answer=max(limits) // LEAST * LEAST) if limits else None
    return None


def _count(number: str) -> int:
    return int(number.replace(",", ""))
