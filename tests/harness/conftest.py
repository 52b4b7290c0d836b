"""Fixtures of the tests of the harness."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import dataset, settings
from prepare import Tokenizer
from tests.common.bigram import Bigram
from tests.common.caches import current
from tests.common.data_server import DataServer, serve
from tests.common.parquet import parquet, stories

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


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[DataServer]:
    """A mirror of climbmix with two training shards of half a megabyte and the validation shard."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve() as data:
        monkeypatch.setenv("AUTORESEARCH_DATA_URL", data.url)
        for index in (0, 1, dataset.CLIMBMIX_VALIDATION):
            data.files[f"shard_{index:05d}.parquet"] = parquet(stories(index))
        yield data
