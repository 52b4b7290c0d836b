"""Fixtures of the tests of the harness."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import settings
from prepare import Tokenizer
from tests.common.bigram import Bigram
from tests.common.caches import current

# isort: split
import mlx.core as mx


@pytest.fixture
def cache(embedded: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of the embedded text, set as CACHE_DIR in this process."""
    monkeypatch.setattr(settings, "CACHE_DIR", embedded)
    return embedded


@pytest.fixture
def tokenizer(cache: Path) -> Tokenizer:
    return Tokenizer.from_directory(current(cache))


@pytest.fixture
def model() -> Iterator[Bigram]:
    mx.random.seed(0)
    yield Bigram()
