"""The tokenizer: byte-pair encoding with a vocabulary trained on the snapshot's text."""

import base64
import json
import os
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
            return self._encoding.encode_ordinary(text)
        return self._encoding.encode_ordinary_batch(text, num_threads=os.cpu_count() or 1)

    def decode(self, ids: Sequence[int]) -> str:
        return self._encoding.decode(ids)
