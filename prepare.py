"""The harness: data, tokenizer, loader and the metric. It is what every experiment is measured with and never edited.

Run it once to prepare the data:  uv run prepare.py [--source auto|climbmix|tinystories|embedded|DIR]
train.py imports the rest:        from prepare import MAX_SEQ_LEN, Tokenizer, make_dataloader, evaluate_bpb

What it is made of lies in harness/, which no candidate changes either:
    settings, prepared       the scales of the task, and the snapshot in use
    tokenizer, loader        text into tokens, tokens into batches
    handover, evaluator      how a run hands its model to the process that computes its metric
    scoring                  the metric, and the proof that a model looks at no later token
    dataset, snapshot        documents from anywhere, and the snapshots made of them
    blas                     fast products on a Linux CPU

Everything lies under CACHE_DIR (docs/data.md):
    shards/<source>/     downloads, kept
    building/<request>/  a preparation under way; a killed one goes on from here
    requests/<request>   which snapshot answers a request, so that asking again takes no time
    snapshots/<id>/      prepared data, named by its content and never changed
    current              the id of the snapshot in use
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from harness import blas, handover, loader, scoring, settings
from harness.loader import TooFewTokens, make_dataloader, pack_rows, training_tokens, validation_rows
from harness.prepared import Snapshot, current_snapshot
from harness.settings import CACHE_DIR, PROFILES, Profile
from harness.tokenizer import BOS, SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer

blas.load()  # before MLX is imported, or MLX has bound its own slow one
import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402

__all__ = [
    "BOS", "CACHE_DIR", "EVAL_LOGITS_BYTES", "PROFILES", "SPECIAL_TOKENS", "SPLIT_PATTERN", "TIME_BUDGET",
    "Profile", "Snapshot", "Tokenizer", "TooFewTokens", "Untraceable", "WrongShape",
    "evaluate_bpb", "make_dataloader", "pack_rows", "training_tokens", "validation_rows",
]  # fmt: skip

# ----------------------------------------------------------------------------------------------------------------------
# Constants

EVAL_LOGITS_BYTES = 256 * 2**20  # the most that the float32 logits of one forward pass of the evaluation take


def _time_budget() -> float:
    given = os.environ.get("AUTORESEARCH_TRAINING_SECONDS", "300")
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        settings.fail(f"AUTORESEARCH_TRAINING_SECONDS must be a positive number of seconds, not {given!r}.", code=2)
    return seconds


TIME_BUDGET = _time_budget()  # seconds of training, without startup and evaluation

# Those of the current snapshot; __getattr__ looks them up when first used, as this file also runs before there is one.
SNAPSHOT: Snapshot
PROFILE: str
MAX_SEQ_LEN: int
VOCAB_SIZE: int
EVAL_TOKENS: int


def __getattr__(name: str) -> Any:
    if name == "SNAPSHOT":
        return current_snapshot()
    if name in ("PROFILE", "MAX_SEQ_LEN", "VOCAB_SIZE", "EVAL_TOKENS"):
        return getattr(current_snapshot(), name.lower())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# ----------------------------------------------------------------------------------------------------------------------
# Metric


def evaluate_bpb(model: Callable[[mx.array], mx.array], tokenizer: Tokenizer, batch_size: int) -> float:
    """Bits per byte on exactly EVAL_TOKENS tokens of the validation split, the same ones whatever the batch size.

    The cross-entropy of every target in nats, over the bytes of text that the targets stand for, over ln 2; special
    tokens stand for none and are left out of both. It is comparable between vocabularies (Gao et al. 2020, The Pile,
    section 3.1). `model` maps int32 (rows, MAX_SEQ_LEN) to logits (rows, MAX_SEQ_LEN, VOCAB_SIZE). It is traced, and
    the graph computed in another process (harness/evaluator.py), which a loop has started, or else this function: that
    process runs none of the model's Python. A model with an `eval` method is put into that mode before.

    Raises ValueError where the logits have another shape, where the model cannot be traced, with the line at which that
    fails, where its predictions depend on later tokens, and where a run has had its one evaluation.
    """
    if batch_size < 1:
        raise ValueError(f"A batch needs at least one row, not {batch_size}.")
    snapshot = current_snapshot()
    if tokenizer.vocab_size != snapshot.vocab_size:
        raise ValueError(f"The tokenizer is not the one of the snapshot in {snapshot.directory}.")
    row_bytes = snapshot.max_seq_len * snapshot.vocab_size * 4
    rows = max(1, min(batch_size, EVAL_LOGITS_BYTES // row_bytes, snapshot.eval_tokens // snapshot.max_seq_len))
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "model.mlxfn"
        try:
            _trace(model, (rows, snapshot.max_seq_len), snapshot.vocab_size, graph)
        except Untraceable:
            if os.environ.get(handover.UNTRACED_VARIABLE) != "1":
                raise
            return _evaluate_here(model, rows)
        with _evaluator() as address:
            answer, _ = handover.ask(address, {"ask": "model", "rows": rows}, graph)
    return float(answer["metric"])


class Untraceable(ValueError):
    """The model's forward pass is more than a graph of MLX."""


def _trace(model: Callable[[mx.array], mx.array], shape: tuple[int, int], vocab_size: int, graph: Path) -> None:
    """Write the forward pass for tokens of this shape to `graph`. Raises Untraceable, and WrongShape."""
    if isinstance(model, nn.Module):
        model.eval()
        mx.eval(model.parameters())  # or the graph would hold how they came about

    def logits(tokens: mx.array) -> mx.array:
        given = model(tokens)
        expected = (*shape, vocab_size)
        if type(given) is not mx.array or given.shape != expected:
            raise WrongShape(f"The model gives {getattr(given, 'shape', type(given))}, not logits {expected}.")
        return given.astype(mx.float32)

    try:
        mx.export_function(str(graph), logits, mx.zeros(shape, mx.int32))
    except WrongShape:
        raise
    except Exception as error:
        raise Untraceable(
            f"The model cannot be traced{_line_of(error)}: {' '.join(str(error).split())[:200]}. Its forward pass has "
            "to be MLX alone, without numpy, mx.eval and mx.checkpoint."
        ) from None


class WrongShape(ValueError):
    """The model gives something else than logits."""


def _line_of(error: BaseException) -> str:
    """Where in the person's code an exception came from."""
    here = Path(__file__).resolve()
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).resolve() != here]
    own = [frame for frame in frames if not {"site-packages", "dist-packages"} & {*Path(frame.filename).parts}]
    return f" (line {own[-1].lineno} of {Path(own[-1].filename).name})" if own else ""


@contextmanager
def _evaluator() -> Iterator[Path]:
    """The socket of the evaluator: the loop's, or that of one which is started for the time of the block."""
    if given := handover.at_work():
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        address = Path(folder) / "socket"
        command = [sys.executable, str(Path(handover.__file__).with_name("evaluator.py")), str(address)]
        snapshot = current_snapshot().directory.name
        env = {**os.environ, "AUTORESEARCH_CACHE": str(settings.CACHE_DIR), "AUTORESEARCH_SNAPSHOT": snapshot}
        with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdout.readline()  # that it is ready
                yield address
            finally:
                process.stdin.close()


def _evaluate_here(model: Callable[[mx.array], mx.array], rows: int) -> float:
    """The metric of a model that cannot be traced, computed by its own process: nothing vouches for it."""
    if address := handover.at_work():
        answer, files = handover.ask(address, {"ask": "rows"})
        shards = loader.opened(dict(zip(answer["names"], files, strict=True)))
    else:
        shards = loader.shards_of(current_snapshot().directory, "val")
    snapshot = current_snapshot()
    text = loader.rows_of(shards, snapshot.max_seq_len, snapshot.eval_tokens)
    lengths = Tokenizer.from_directory().token_bytes[text[:, 1:]]
    total = 0.0
    for begin in range(0, len(text), rows):
        block = text[begin : begin + rows]
        logits = np.asarray(model(mx.array(block[:, :-1])).astype(mx.float32))
        total += float(scoring.losses_of(logits, block[:, 1:])[lengths[begin : begin + rows] > 0].sum())
    return total / (math.log(2) * int(lengths.sum()))


# ----------------------------------------------------------------------------------------------------------------------
# Command line


def main() -> None:
    import filelock

    from harness import snapshot
    from harness.dataset import DataError

    parser = argparse.ArgumentParser(description="Prepare the data and the tokenizer that experiments are measured on.")
    parser.add_argument(
        "--source", default="auto", help="auto, climbmix, tinystories, embedded or a directory of parquet files"
    )
    parser.add_argument(
        "--num-shards", type=int, help="training shards, -1 for all (default: 10 to download, all in a directory)"
    )
    parser.add_argument("--profile", default="auto", choices=("auto", *PROFILES), help="the scale of the task")
    parser.add_argument("--download-workers", type=int, default=8, help="downloads at a time")
    options = parser.parse_args()
    if options.num_shards is not None and options.num_shards != -1 and options.num_shards < 1:
        parser.error("--num-shards must be at least 1, or -1 for all")
    if options.download_workers < 1:
        parser.error("--download-workers must be at least 1")
    try:
        CACHE_DIR.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(CACHE_DIR / "prepare.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            snapshot.say(f"Another prepare.py is at work in {CACHE_DIR}: waiting for it.")
            lock.acquire()
        with lock:
            print(snapshot.make_current(options.source, options.num_shards, options.profile, options.download_workers))
    except DataError as error:
        settings.fail(str(error))
    except OSError as error:
        settings.fail(
            f"{error.strerror or error}: {error.filename or CACHE_DIR}. What was done is kept: run it again to go on."
        )
    except KeyboardInterrupt:
        settings.fail("Interrupted. What was done is kept: run it again to go on.", code=130)


if __name__ == "__main__":
    main()
