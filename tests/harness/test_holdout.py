"""The holdout: a third split by document, made beside the snapshot and scored by the evaluator alone."""

import json
import math
import os
import shutil
import subprocess
import sys
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import dataset
from harness.loader import pack_rows, rows_of, shards_of
from prepare import Tokenizer, _trace
from tests.common.bigram import Bigram
from tests.common.caches import T, current, record, run
from tests.common.data_server import serve
from tests.common.workspaces import ROOT


def holdout_of(cache: Path) -> tuple[Path, dict[str, Any]]:
    folder = cache / "holdouts" / current(cache).name
    return folder, json.loads((folder / "holdout.json").read_bytes())


def documents(folder: Path, split: str) -> list[bytes]:
    found = []
    for tokens, offsets in shards_of(folder, split):  # type: ignore[arg-type]
        found += [tokens[begin:end].tobytes() for begin, end in pairwise(offsets)]
    return found


def test_embedded_holdout_is_what_the_metric_does_not_use(embedded: Path) -> None:
    folder, about = holdout_of(embedded)
    assert (about["EVAL_TOKENS"], about["rule"]) == (65536, "validation documents that the metric does not use")
    assert about["snapshot"] == record(embedded)["id"]
    apart, every = documents(folder, "holdout"), documents(current(embedded), "val")
    assert set(apart) < set(every)
    assert len(set(apart)) == len(apart)
    # No document of the holdout is in a row of the metric, not even a part of it.
    rows = [row for row, _ in islice(pack_rows(current(embedded), "val", T + 1), 65536 // T)]
    metric = b"".join(row.astype(np.uint16).tobytes() for row in rows)
    assert not any(text[:400] in metric for text in apart)
    assert len(apart) > 3 * len(set(every) - set(apart)) / 2
    assert not set(apart) & set(documents(current(embedded), "train"))


def test_snapshot_of_an_earlier_version_gets_a_holdout(embedded: Path, tmp_path: Path) -> None:
    cache = shutil.copytree(embedded, tmp_path / "cache")
    before = holdout_of(cache)[1]
    content = record(cache)
    del content["reserves_holdout"]
    (current(cache) / "snapshot.json").write_text(json.dumps(content))
    shutil.rmtree(cache / "holdouts")
    done = run(cache)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("already prepared: embedded")
    assert second == "holdout: 65,536 tokens, validation documents that the metric does not use"
    assert (record(cache)["id"], holdout_of(cache)[1]) == (content["id"], before)
    assert len(run(cache).stdout.splitlines()) == 1


def test_damaged_holdout_is_made_again(embedded: Path, tmp_path: Path) -> None:
    cache = shutil.copytree(embedded, tmp_path / "cache")
    folder, before = holdout_of(cache)
    for damage in (
        lambda: (folder / "holdout_00000.tokens.npy").write_bytes(b"short"),
        lambda: (folder / "holdout_00000.offsets.npy").unlink(),
        lambda: (folder / "holdout.json").write_text("[1, 2"),
        lambda: (folder / "holdout.json").write_text("[]"),
        lambda: shutil.rmtree(folder),
    ):
        damage()
        (cache / "building" / f"holdout-{folder.name}").mkdir(parents=True)  # left by a kill
        assert run(cache).returncode == 0
        assert holdout_of(cache)[1] == before


@pytest.fixture(scope="module")
def texts() -> list[str]:
    _, speeches = dataset.shards("embedded", None, Path(), 1, lambda *_: None)
    return list(islice(speeches.documents(), 2600))


def test_folder_is_split_by_hash(texts: list[str], tmp_path: Path) -> None:
    """Copies of a text are never on two sides, wherever they lie."""
    source, cache = tmp_path / "texts", tmp_path / "cache"
    source.mkdir()
    for name, part in (("a", [*texts[:1800], *texts[:50]]), ("b", [*texts[1800:], *texts[100:150]])):
        pq.write_table(pa.table({"text": part}), source / f"{name}.parquet")
    done = run(cache, "--source", str(source))
    assert done.returncode == 0, done.stderr
    assert "tokens, one in 20 documents, by a hash of its text\n" in done.stdout
    folder, about = holdout_of(cache)
    apart = set(documents(folder, "holdout"))
    assert about["EVAL_TOKENS"] >= 65536 / 8
    assert 0.02 < len(apart) / len(texts) < 0.08
    assert not apart & {*documents(current(cache), "train"), *documents(current(cache), "val")}


def test_published_sources_have_a_shard_of_their_own(
    texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve() as server:
        monkeypatch.setenv("AUTORESEARCH_DATA_URL", server.url)
        parts = {"shard_00000": texts[:1200], "shard_06541": texts[1200:1600], "shard_06542": texts[1600:2000]}
        for name, part in parts.items():
            pq.write_table(pa.table({"text": part}), tmp_path / "shard")
            server.files[f"{name}.parquet"] = (tmp_path / "shard").read_bytes()
        done = run(tmp_path / "cache", "--source", "climbmix", "--num-shards", "1", AUTORESEARCH_DATA_URL=server.url)
        assert done.returncode == 0, done.stderr
        assert "holdout:     65,536 tokens, shard 6541\n" in done.stdout
        tokenizer = Tokenizer.from_directory(current(tmp_path / "cache"))
        apart = documents(holdout_of(tmp_path / "cache")[0], "holdout")
        first = np.frombuffer(apart[0], np.uint16)[1:].tolist()
        assert (len(apart), tokenizer.decode(first)) == (400, texts[1200])
        # Without it, the validation text that is left serves.
        del server.files["shard_06541.parquet"]
        done = run(tmp_path / "other", "--source", "climbmix", "--num-shards", "1", AUTORESEARCH_DATA_URL=server.url)
        assert done.returncode == 0, done.stderr
        assert "validation documents that the metric does not use\n" in done.stdout
        assert "holdout: " in done.stderr


def test_copies_of_what_the_metric_uses_are_no_holdout(texts: list[str], tmp_path: Path) -> None:
    source, cache = tmp_path / "texts", tmp_path / "cache"
    source.mkdir()
    kept = [text for text in texts if not dataset.is_held_out(text)]
    pq.write_table(pa.table({"text": kept[:1200]}), source / "a.parquet")
    pq.write_table(pa.table({"text": 2 * kept[1200:1500]}), source / "b.parquet")
    done = run(cache, "--source", str(source))
    assert done.returncode == 0, done.stderr
    assert "holdout:     none: the source is too small for one\n" in done.stdout
    assert not (cache / "holdouts" / current(cache).name).exists()


def score(cache: Path, folder: Path, model: Path, rows: int) -> dict[str, Any]:
    env = {
        **os.environ,
        "AUTORESEARCH_CACHE": str(cache),
        "AUTORESEARCH_SNAPSHOT": current(cache).name,
        "AUTORESEARCH_HOLDOUT": str(folder),
    }
    command = [sys.executable, str(ROOT / "harness" / "evaluator.py"), "--holdout", str(model), str(rows)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_evaluator_scores_a_stored_model(cache: Path, tokenizer: Tokenizer, model: Bigram, tmp_path: Path) -> None:
    folder, about = holdout_of(cache)
    graph = tmp_path / "model"
    _trace(model, (16, T), 1024, graph)
    found = score(cache, folder, graph, 16)
    rows = rows_of(shards_of(folder, "holdout"), T, about["EVAL_TOKENS"])
    table, weight, bias = (
        np.array(each, dtype=np.float64) for each in (model.embedding.weight, model.head.weight, model.head.bias)
    )
    nats = 0.0
    for block in np.split(rows, 64):
        embedded = 8 * table[block[:, :-1]]
        hidden = embedded + np.cumsum(embedded, axis=1) / np.arange(1, T + 1)[:, None]
        logits = hidden @ weight.T + bias
        losses = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, block[:, 1:, None], -1)[..., 0]
        nats += losses[tokenizer.token_bytes[block[:, 1:]] > 0].sum()
    size = int(tokenizer.token_bytes[rows[:, 1:]].sum())
    assert found["event"] == "holdout"
    assert found["metric"] == pytest.approx(nats / math.log(2) / size, abs=1e-6)
    assert (found["eval_tokens"], found["holdout"]) == (65536, about["id"])


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x00" * 4096])
def test_file_that_is_no_model_is_refused(cache: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model").write_bytes(content)
    assert score(cache, holdout_of(cache)[0], tmp_path / "model", 16)["event"] == "refused"


def prepared_from(folder: Path, parts: list[list[str]]) -> tuple[Path, str]:
    """Prepare a folder of these files, and return its cache and what was said."""
    source, cache = folder / "texts", folder / "cache"
    source.mkdir(parents=True)
    for index, part in enumerate(parts):
        pq.write_table(pa.table({"text": part}), source / f"{index}.parquet")
    done = run(cache, "--source", str(source), "--profile", "cpu")
    assert done.returncode == 0, done.stderr
    trained = set(documents(current(cache), "train"))
    assert trained
    assert not trained & {*documents(current(cache), "val"), *documents(holdout_of(cache)[0], "holdout")}
    return cache, done.stdout


def test_copies_of_validation_documents_are_not_trained_on(texts: list[str], tmp_path: Path) -> None:
    kept = [text for text in dict.fromkeys(texts) if not dataset.is_held_out(text)][:2000]
    parts = [kept[:800], kept[800:1200], kept[1200:]]
    plain, said = prepared_from(tmp_path / "plain", parts)
    assert "copies: " not in said
    copied, said = prepared_from(tmp_path / "copied", [[*parts[2][:100], *parts[0]], parts[2], *parts[1:]])
    assert record(plain)["id"] == record(copied)["id"]
    assert "copies:      100 left out of training, because validation has the same text\n" in said
    assert record(copied)["counts"]["train"]["copies"] == 100


def test_long_documents_are_named_if_most_of_their_text_is_unused(texts: list[str], tmp_path: Path) -> None:
    long = ["\n\n".join(texts[index : index + 8]) for index in range(len(texts) - 8)]
    cache, said = prepared_from(tmp_path / "long", [long[:600], long[600:1400]])
    share = record(cache)["usable"]
    assert 0.05 < share < 0.2
    cut = "of a document, only the first 256 tokens are used: split long ones"
    assert f"usable:      {share:.0%} of the training tokens, {cut}\n" in said
    cache, said = prepared_from(tmp_path / "short", [texts[:600], texts[600:1600]])
    assert record(cache)["usable"] > 0.5
    assert "usable:" not in said
    for name, part, words in (
        (
            "few",
            [["\n\n".join(texts[:600])] * 2 + texts[:900], long[:50]],
            "split long documents, of which only the fir",
        ),
        ("one", [["\n\n".join(texts)]], "only the first 10,000 characters are read here: split long ones"),
    ):
        (tmp_path / name).mkdir()
        for index, each in enumerate(part):
            pq.write_table(pa.table({"text": each}), tmp_path / name / f"{index}.parquet")
        done = run(tmp_path / "cache", "--source", str(tmp_path / name), "--profile", "cpu")
        assert done.returncode == 3
        assert words in done.stderr.splitlines()[-1], done.stderr
