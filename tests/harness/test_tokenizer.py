"""The tokenizer trained on the embedded text."""

import json
from pathlib import Path

import numpy as np
import pytest

from harness import snapshot
from prepare import Tokenizer
from tests.common.caches import current

TEXTS = [
    *snapshot.ROUND_TRIP,
    "Ünïcödé ﷽ \U00010348 क्षि ༄ 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    " \r\n \r \n\n\n\t",
    "".join(map(chr, range(0x250))),
    "x" * 5000,
]


def test_every_text_comes_back(tokenizer: Tokenizer) -> None:
    assert [tokenizer.decode(ids) for ids in tokenizer.encode(TEXTS)] == TEXTS
    assert [tokenizer.encode(text) for text in TEXTS] == tokenizer.encode(TEXTS)
    assert tokenizer.bos_token_id not in tokenizer.encode("<|bos|>")


@pytest.mark.parametrize("space", [" ", "\t", "\u3000"])
def test_a_long_run_of_spaces_comes_back(tokenizer: Tokenizer, space: str) -> None:
    texts = ["a b", "x" + space * 2_000_001 + "y z", space * 1_800_000]
    found = tokenizer.encode(texts)
    assert [tokenizer.decode(ids) for ids in found] == texts
    assert [tokenizer.encode(text) for text in texts] == found


def test_a_token_has_the_bytes_that_it_stands_for(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_bytes.shape == (tokenizer.get_vocab_size(),) == (1024,)
    assert tokenizer.token_bytes.dtype == np.int32
    for text in TEXTS:
        assert tokenizer.token_bytes[tokenizer.encode(text)].sum() == len(text.encode())
    # All 256 single bytes are tokens, including those that are not text on their own.
    assert (tokenizer.token_bytes[:256] == 1).all()
    assert (tokenizer.token_bytes[tokenizer.bos_token_id :] == 0).all()
    assert (tokenizer.token_bytes[: tokenizer.bos_token_id] > 0).all()


def test_the_tokenizer_file_is_readable_text(cache: Path) -> None:
    content = json.loads((current(cache) / "tokenizer.json").read_text())
    assert sorted(content) == ["mergeable_ranks", "pattern", "special_tokens"]
    assert not [path for path in current(cache).iterdir() if path.suffix in (".pkl", ".pickle", ".pt")]
