"""The tokenizer: byte-pair encoding with a vocabulary trained on the snapshot's text."""

import base64
import itertools
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import tiktoken

from harness.prepared import current_snapshot

# GPT-4's pattern, with numbers split into at most two digits: three would fill a small vocabulary with numbers.
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
BOS = "<|bos|>"
# The pattern's engine keeps a state for each character of a run of spaces, and fails above a million.
MOST_SPACES = 900_000
SPECIAL_TOKENS = (BOS, "<|reserved_1|>", "<|reserved_2|>", "<|reserved_3|>")


class Tokenizer:
    """The byte-pair encoding that tokenizer.json describes.

    Attributes:
        bos_token_id: token that begins every document.
        token_bytes: int32 (vocab_size,), number of bytes of text that each token encodes, 0 for special tokens.
    """

    def __init__(self, content: dict[str, Any]) -> None:
        tokens = [base64.b64decode(token) for token in content["mergeable_ranks"]]
        self._encoding = tiktoken.Encoding(
            "autoresearch",
            pat_str=content["pattern"],
            mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
            special_tokens=content["special_tokens"],
        )
        self.bos_token_id: int = content["special_tokens"][BOS]
        self.vocab_size = self._encoding.n_vocab
        # A token may be part of a character, so count its own bytes: decoded, it would be the three bytes of "\ufffd".
        self.token_bytes = np.zeros(self.vocab_size, dtype=np.int32)
        self.token_bytes[: len(tokens)] = [len(token) for token in tokens]

    @classmethod
    def from_directory(cls, path: Path | None = None) -> "Tokenizer":
        """Load the tokenizer in `path`, by default that of the current snapshot."""
        directory = current_snapshot().directory if path is None else path
        return cls(json.loads((directory / "tokenizer.json").read_bytes()))

    def get_vocab_size(self) -> int:
        return self.vocab_size

    @overload
    def encode(self, text: str) -> list[int]: ...
    @overload
    def encode(self, text: list[str]) -> list[list[int]]: ...
    def encode(self, text: str | list[str]) -> list[int] | list[list[int]]:
        """Return token ids without BOS. Names of special tokens in the text are encoded as ordinary text."""
        if isinstance(text, str):
            return list(itertools.chain.from_iterable(map(self._encoding.encode_ordinary, _pieces(text))))
        pieces = [_pieces(each) for each in text]
        flat = list(itertools.chain.from_iterable(pieces))
        encoded = self._encoding.encode_ordinary_batch(flat, num_threads=os.cpu_count() or 1)
        if len(flat) == len(text):
            return encoded
        rest = iter(encoded)
        return [list(itertools.chain.from_iterable(itertools.islice(rest, len(each)))) for each in pieces]

    def decode(self, ids: Sequence[int]) -> str:
        return self._encoding.decode(ids)


def _pieces(text: str) -> list[str]:
    """Return a text in pieces without a run of more than MOST_SPACES spaces, tabs and so on."""
    if len(text) <= MOST_SPACES:
        return [text]
    runs = (run.span() for run in re.finditer(r"\s+", text))
    cuts = (cut for start, end in runs for cut in range(start + MOST_SPACES, end, MOST_SPACES))
    return [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]
