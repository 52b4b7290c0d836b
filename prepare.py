"""Prepare the data, and define the tokenizer, data loader and metric that every experiment uses. Never edited.

Prepare the data once:            uv run prepare.py [--source auto|climbmix|tinystories|embedded|DIR]
Import the rest in train.py:      from prepare import MAX_SEQ_LEN, Tokenizer, make_dataloader, evaluate_bpb

The implementation is in harness/, which no candidate may change either:
    settings, prepared       task profiles, and the current snapshot
    tokenizer, loader        text to tokens, tokens to batches
    handover, evaluator      how a run passes its model to the process that computes the metric
    scoring                  the metric, and the check that a model does not look at later tokens
    dataset, downloads       documents from each source
    snapshot, holdout        the snapshots built from them, and documents that nothing is chosen by
    sources                  the requests and folders that each snapshot came from
    blas, workers, pages     on a Linux CPU: fast matrix products, a process for each core, memory that stays
    device                   memory and speed of the device

All data is stored under CACHE_DIR (docs/data.md):
    shards/<source>/     downloaded files, kept
    building/<request>/  a preparation in progress; one that was killed resumes from here
    requests/<request>   the snapshot that a request resolved to, so that repeating it is instant
    snapshots/<id>/      prepared data, named by its content hash and never changed
    holdouts/<id>/       documents of a third split, which only the evaluator reads
    sources/<id>/        the requests that led to that snapshot, and the files that links led to
    current              the id of the current snapshot
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
from typing import Any, NoReturn

import numpy as np

from harness import blas, handover, loader, pages, scoring, settings
from harness.loader import TooFewTokens, make_dataloader, pack_rows, training_tokens, validation_rows
from harness.prepared import Snapshot, current_snapshot
from harness.settings import CACHE_DIR, PROFILES, Profile
from harness.tokenizer import BOS, SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer

pages.keep()
blas.load()  # must precede the import of MLX, which otherwise binds its own slow BLAS
import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402

__all__ = [
    "BOS", "CACHE_DIR", "EVAL_LOGITS_BYTES", "PROFILES", "SPECIAL_TOKENS", "SPLIT_PATTERN", "TIME_BUDGET",
    "Profile", "Snapshot", "Tokenizer", "TooFewTokens", "Untraceable", "WrongShape",
    "evaluate_bpb", "make_dataloader", "pack_rows", "training_tokens", "validation_rows",
]  # fmt: skip

# ----------------------------------------------------------------------------------------------------------------------
# Constants

EVAL_LOGITS_BYTES = 256 * 2**20  # upper bound on the float32 logits of one forward pass of the evaluation


def _time_budget() -> float:
    given = os.environ.get("AUTORESEARCH_TRAINING_SECONDS", "300")
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        settings.fail(
            f"AUTORESEARCH_TRAINING_SECONDS must be a positive number of seconds, got {given!r}",
            hint="set it to a number such as 300, or unset it",
            code=2,
        )
    return seconds


TIME_BUDGET = _time_budget()  # seconds of training, excluding startup and evaluation

# Constants of the current snapshot. __getattr__ looks them up on first use: this file also runs before one exists.
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
    """Return bits per byte on exactly EVAL_TOKENS tokens of the validation split.

    The metric is the summed cross-entropy of the targets in nats, divided by the bytes of text that they encode and by
    ln 2. Special tokens encode no text and are excluded from both sums. It is comparable across vocabularies (Gao et
    al. 2020, The Pile, section 3.1). The tokens are the same for every batch size.

    The model is traced, and its graph is computed in another process (harness/evaluator.py), started by the loop or
    otherwise by this function. That process runs none of the model's Python. An nn.Module is put into evaluation mode
    first.

    Args:
        model: maps int32 tokens (rows, MAX_SEQ_LEN) to logits (rows, MAX_SEQ_LEN, VOCAB_SIZE).
        tokenizer: the tokenizer of the current snapshot.
        batch_size: rows per forward pass; reduced if the logits would exceed EVAL_LOGITS_BYTES.

    Raises:
        ValueError: the logits have the wrong shape, the model cannot be traced (the message names the line), its
            predictions depend on later tokens, or the run has already used its one evaluation.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    snapshot = current_snapshot()
    if tokenizer.vocab_size != snapshot.vocab_size:
        raise ValueError(f"the tokenizer does not belong to the snapshot in {snapshot.directory}")
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
    """Raised if a model's forward pass does more than build an MLX graph."""


def _trace(model: Callable[[mx.array], mx.array], shape: tuple[int, int], vocab_size: int, graph: Path) -> None:
    """Write the forward pass for tokens of this shape to `graph`.

    Raises:
        Untraceable: the forward pass is not an MLX graph.
        WrongShape: the model does not return logits.
    """
    if isinstance(model, nn.Module):
        model.eval()
        mx.eval(model.parameters())  # otherwise the graph would include the computation of the parameters

    def logits(tokens: mx.array) -> mx.array:
        given = model(tokens)
        expected = (*shape, vocab_size)
        if type(given) is not mx.array or given.shape != expected:
            raise WrongShape(f"the model returns {getattr(given, 'shape', type(given))}, expected logits {expected}")
        return given.astype(mx.float32)

    try:
        mx.export_function(str(graph), logits, mx.zeros(shape, mx.int32))
    except WrongShape:
        raise
    except Exception as error:
        # The advice first: of a long line, the reason of a row has the beginning alone.
        raise Untraceable(
            f"the model cannot be traced{_line_of(error)}: use no numpy, mx.eval or mx.checkpoint in its forward pass; "
            f"MLX: {' '.join(str(error).split())[:200]}"
        ) from None


class WrongShape(ValueError):
    """Raised if a model does not return logits of the expected shape."""


def _line_of(error: BaseException) -> str:
    """Return the line of the user's code that raised an exception, or an empty string."""
    here = Path(__file__).resolve()
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).resolve() != here]
    own = [frame for frame in frames if not {"site-packages", "dist-packages"} & {*Path(frame.filename).parts}]
    return f" (line {own[-1].lineno} of {Path(own[-1].filename).name})" if own else ""


@contextmanager
def _evaluator() -> Iterator[Path]:
    """Yield the socket of the loop's evaluator, or else of one that runs for the duration of the block."""
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
                process.stdout.readline()  # wait for its "ready"
                yield address
            finally:
                process.stdin.close()


def _evaluate_here(model: Callable[[mx.array], mx.array], rows: int) -> float:
    """Return the metric of an untraceable model, computed in its own process and therefore unattested."""
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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        settings.fail(message.removeprefix("argument "), hint="see `uv run prepare.py --help`", code=2)


def _require_sensible(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if not options.source:
        parser.error("--source must not be empty")
    if options.num_shards is not None and options.num_shards != -1 and options.num_shards < 1:
        parser.error("--num-shards must be at least 1, or -1 for all")
    if options.download_workers < 1:
        parser.error("--download-workers must be at least 1")


def _answer(text: str) -> None:
    """Print to standard output, whose disk is not that of the data. The data is prepared either way."""
    try:
        print(text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or else Python fails again at its end
        settings.fail(f"cannot write to standard output: {error.strerror or error}", code=1)


def main() -> None:
    import filelock

    from harness import snapshot
    from harness.settings import RESUME, DataError

    if sys.stderr is None:  # closed, as by `2>&-`
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    parser = _Parser(
        description="Prepare the data and train the tokenizer. Run this once before training; prepared data is reused.",
        epilog="`uv run prepare.py --source embedded` needs no download. The data is stored in AUTORESEARCH_CACHE "
        "(default: ~/.cache/autoresearch).",
    )
    parser.add_argument(
        "--source",
        default="auto",
        help="climbmix, tinystories, embedded, or a directory of parquet files with a column `text`; "
        "auto keeps what was prepared last, also its shards and profile unless chosen, else uses climbmix if its host "
        "is reachable, otherwise embedded "
        "(default: auto)",
    )
    parser.add_argument(
        "--num-shards",
        type=int,
        help="number of training shards, -1 for all (default: 10 for downloads, all for a directory)",
    )
    parser.add_argument(
        "--profile",
        default="auto",
        choices=("auto", *PROFILES),
        help="sequence length, vocabulary and evaluation size: mac for a GPU, cpu for a CPU, auto for this machine"
        " (default: auto)",
    )
    parser.add_argument("--download-workers", type=int, default=8, help="parallel downloads (default: 8)")
    options = parser.parse_args()
    _require_sensible(options, parser)
    request = (options.source, options.num_shards, options.profile)
    try:
        if (said := snapshot.answer(*request)) is not None:
            _answer(said)
            return
        CACHE_DIR.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(CACHE_DIR / "prepare.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            snapshot.say(f"waiting for another prepare.py in {CACHE_DIR}")
            lock.acquire()
        with lock:
            _answer(snapshot.make_current(*request, options.download_workers))
    except DataError as error:
        settings.fail(str(error), hint=error.hint)
    except OSError as error:
        settings.fail(f"{error.filename or CACHE_DIR}: {error.strerror or error}", hint=f"fix that, then {RESUME}")
    except KeyboardInterrupt:
        settings.fail("interrupted", hint=f"to resume, {RESUME}", code=130)


if __name__ == "__main__":
    main()
