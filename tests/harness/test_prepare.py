"""The names that train.py imports, and the metric of a real MLX model."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import prepare
from harness.loader import validation_rows
from prepare import Tokenizer, evaluate_bpb
from tests.common.bigram import Bigram, independent_bpb
from tests.common.caches import T, current, python
from tests.common.workspaces import ROOT

# isort: split
import mlx.core as mx

# Names that train.py imports


def test_without_data_the_constants_are_a_sentence(tmp_path: Path) -> None:
    done = python(tmp_path, "from prepare import MAX_SEQ_LEN")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"error: no prepared data found in {tmp_path}\nhint: run `uv run prepare.py`\n"


def test_a_cache_of_an_unknown_user_is_a_sentence() -> None:
    done = python(Path("~nobody-of-this-name/data"), "import prepare")
    assert done.returncode == 3
    said = "AUTORESEARCH_CACHE=~nobody-of-this-name/data: the home folder of ~nobody-of-this-name is unknown"
    assert done.stderr.startswith(f"error: {said}\nhint: ")


def test_the_constants_are_those_of_the_snapshot(embedded: Path) -> None:
    code = (
        "import sys, prepare; from prepare import *\n"
        "from prepare import EVAL_TOKENS, MAX_SEQ_LEN, PROFILE, SNAPSHOT, TIME_BUDGET, VOCAB_SIZE\n"
        "print(PROFILE, MAX_SEQ_LEN, VOCAB_SIZE, EVAL_TOKENS, TIME_BUDGET, SNAPSHOT.directory.name)\n"
        "print({'agent', 'pyarrow', 'requests', 'rich', 'rustbpe', 'harness.dataset'} & set(sys.modules))"
    )
    done = python(embedded, code, AUTORESEARCH_TRAINING_SECONDS="2.5")
    assert done.stdout == f"cpu 256 1024 65536 2.5 {current(embedded).name}\nset()\n", done.stderr


@pytest.mark.parametrize("value", ["", "soon", "0", "-3", "nan", "inf"])
def test_a_bad_time_budget_is_a_sentence(tmp_path: Path, value: str) -> None:
    done = python(tmp_path, "import prepare", AUTORESEARCH_TRAINING_SECONDS=value)
    assert done.returncode == 2
    message = f"AUTORESEARCH_TRAINING_SECONDS must be a positive number of seconds, got {value!r}"
    assert done.stderr.startswith(f"error: {message}\nhint: ")
    assert done.stderr.count("\n") == 2


def test_an_empty_source_is_not_the_current_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "prepare.py"), "--source", ""]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: --source must not be empty")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_of_the_output_is_not_that_of_the_data(embedded: Path) -> None:
    command, env = [sys.executable, str(ROOT / "prepare.py")], {**os.environ, "AUTORESEARCH_CACHE": str(embedded)}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, env=env, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: cannot write to standard output: No space left on device\n"


def test_a_damaged_record_is_a_sentence(embedded: Path, tmp_path: Path) -> None:
    cache = shutil.copytree(embedded, tmp_path / "cache")
    (current(cache) / "snapshot.json").write_text('{"id": ')
    done = python(cache, "from prepare import VOCAB_SIZE")
    assert done.returncode == 3
    failure, hint = done.stderr.splitlines()
    assert failure.startswith("error: cannot read the prepared data")
    assert hint == "hint: run `uv run prepare.py`"


# Metric


def test_bits_per_byte_are_those_of_the_definition(model: Bigram, tokenizer: Tokenizer) -> None:
    expected = independent_bpb(model, tokenizer)
    measured = [evaluate_bpb(model, tokenizer, batch_size) for batch_size in (3, 16, 256)]
    assert measured == pytest.approx([expected] * 3, abs=1e-4)
    assert max(measured) - min(measured) < 1e-6
    assert model.rows == [3, 16, 256]


def test_the_logits_alive_are_bounded(model: Bigram, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "EVAL_LOGITS_BYTES", 11 * T * 1024 * 4)
    evaluate_bpb(model, tokenizer, 256)
    assert max(model.rows) == 11


def test_a_uniform_model_needs_the_same_bits_for_every_token(tokenizer: Tokenizer) -> None:
    rows = validation_rows(prepare.SNAPSHOT.directory, T, 65536)
    targets = rows[:, 1:]
    ordinary = targets != tokenizer.bos_token_id
    expected = 10 * ordinary.sum() / tokenizer.token_bytes[targets].sum()
    assert evaluate_bpb(lambda tokens: mx.zeros((*tokens.shape, 1024)), tokenizer, 16) == pytest.approx(expected)


def test_logits_of_another_shape_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="1025"):
        evaluate_bpb(lambda tokens: mx.zeros((*tokens.shape, 1025)), tokenizer, 16)


# Models that cannot be traced


def untraceable(model: Bigram) -> Callable[[mx.array], mx.array]:
    def forward(tokens: mx.array) -> mx.array:
        logits = model(tokens)
        return mx.array(np.asarray(logits))  # the line

    return forward


def test_a_model_that_cannot_be_traced_is_told_its_line(model: Bigram, tokenizer: Tokenizer) -> None:
    (number,) = [n for n, line in enumerate(Path(__file__).read_text().splitlines(), 1) if line.endswith("# the line")]
    with pytest.raises(prepare.Untraceable, match=rf"cannot be traced \(line {number} of test_prepare.py\)") as raised:
        evaluate_bpb(untraceable(model), tokenizer, 16)
    # Of the last line of a traceback, the reason of a row has this much.
    assert "use no numpy, mx.eval or mx.checkpoint" in f"prepare.Untraceable: {raised.value}"[:120]
    assert len(str(raised.value).partition("MLX: ")[2]) > 20


def test_a_model_that_cannot_be_traced_may_be_evaluated_by_itself(
    model: Bigram, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluate_bpb(model, tokenizer, 16)
    monkeypatch.setenv("AUTORESEARCH_ALLOW_UNTRACED", "1")
    assert evaluate_bpb(untraceable(model), tokenizer, 16) == pytest.approx(expected, abs=1e-5)
