"""The metric of an exported graph, and the proof that it looks at no later token.

A graph has no Python, clock, file or state. That it looks at no later token is shown on the very rows of the metric:
in a second pass, of as many rows as the first, in another order, other batches and from a fresh import, rows go on as
other text from some place on, and all that was predicted before that place must stay as it was. Each pair of row and
place is tried where a peek would pay: a share UNIFORM of the places is spread evenly over all positions, the others are
drawn in proportion to what this model gains there on the incumbent (AUTORESEARCH_REFERENCE: its losses, token by
token). With a gain of g nats a token by peeking at single tokens, and M the mean of all such gains over the incumbent,
honest ones included, none of N drawn places shows a peek with probability (1 - g / M)^N: benchmarks/peeking.py.
"""

import math
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import mlx.core as mx
    import numpy.typing as npt

    Array = npt.NDArray[Any]

# What an exported graph may consist of: arithmetic on its input and its own constants. Nothing that reads a file, talks
# to other processes, looks beyond the end of an array (AsStrided) or holds a program of its own (custom kernels).
PRIMITIVES = frozenset(
    """
    Abs Add AddMM All And Any Arange ArcCos ArcCosh ArcSin ArcSinh ArcTan ArcTan2 ArcTanh ArgMax ArgMin
    ArgPartition ArgReduce ArgSort AsType BitwiseAnd BitwiseBinary BitwiseInvert BitwiseOr BitwiseXor
    BlockMaskedMM Broadcast BroadcastAxes Ceil Concatenate Conjugate Contiguous Convolution Copy Cos Cosh
    CrossEntropy CumLogaddexp CumMax CumMin CumProd CumSum Cummax Cummin Cumprod Cumsum Depends DivMod Divide
    DynamicSlice DynamicSliceUpdate Equal Erf ErfInv Exp ExpandDims Expm1 Eye FFT Flatten Floor Full Gather
    GatherAxis GatherMM GatherQMM Greater GreaterEqual Hadamard Imag LayerNorm LeftShift Less LessEqual Log Log10
    Log1p Log2 LogAddExp LogSumExp LogicalAnd LogicalNot LogicalOr MaskedScatter Matmul Max Maximum Mean Min
    Minimum Multiply NaNEqual Negative NotEqual NumberOfElements Or Pad Partition Power Prod QQMatmul Quantize
    QuantizedMatmul RMSNorm RandomBits Real Reduce Remainder Reshape RightShift RoPE Round Rsqrt
    ScaledDotProductAttention Scan Scatter ScatterAdd ScatterAxis ScatterMax ScatterMin ScatterProd SegmentedMM
    Select Sigmoid Sign Sin Sinh Slice SliceUpdate Softmax Sort Split Sqrt Square Squeeze StopGradient Subtract
    Sum Tan Tanh Transpose Unflatten View
    """.split()
)
COMPILED = re.compile(r"Compiled\w*")

# Rounding differs between batches by 2e-5 nats with float32 on a CPU; bfloat16 on a GPU was never measured.
TOLERANCE_CPU, TOLERANCE_GPU = 1e-3, 2e-2  # nats at any position
MEAN_TOLERANCE = 2e-3  # nats, of the mean at the places themselves
UNIFORM = 0.25  # of the places, spread evenly over all positions
SURPRISE = 3.0  # nats by which the loss may rise where a row goes on as another one does; 0.1 to 0.4 is usual
LEAST_BITS_PER_BYTE = 0.25  # no text is compressed this far: children's stories reach about 0.4, general English 0.6


class Worker(Protocol):
    """A process that calls a function of this module; `start` returns what waits for its result."""

    def start(self, name: str, *args: Any) -> Callable[[], Any]: ...


class NotEvaluated(Exception):
    """The run is void, or the model cannot be evaluated; the text says why, in a sentence."""


@dataclass(frozen=True)
class Task:
    """What is evaluated on. rows: int32 (rows, T + 1); lengths: bytes of text of each target, (rows, T).

    reference: the incumbent's losses in nats, (rows, T); None where there is none.
    """

    rows: "Array"
    lengths: "Array"
    vocab_size: int
    snapshot: str
    reference: "Array | None"


def load_task() -> Task:
    """Read the rows of the metric and the incumbent's losses."""
    import numpy as np

    import prepare

    directory = snapshot_folder()
    snapshot = prepare.Snapshot.load(directory)
    rows = prepare.validation_rows(directory, snapshot.max_seq_len, snapshot.eval_tokens)
    lengths = prepare.Tokenizer.from_directory(directory).token_bytes[rows[:, 1:]]
    reference = None
    if given := os.environ.get("AUTORESEARCH_REFERENCE"):
        found = np.load(given, allow_pickle=False)
        reference = found.astype(np.float64) if found.shape == lengths.shape and np.isfinite(found).all() else None
    return Task(rows, lengths, snapshot.vocab_size, snapshot.id, reference)


def snapshot_folder() -> Path:
    """The prepared data that is evaluated on."""
    import prepare

    named = os.environ.get("AUTORESEARCH_SNAPSHOT")
    name = named or (prepare.CACHE_DIR / "current").read_text().strip()
    return prepare.CACHE_DIR / "snapshots" / name


def evaluate(model: Path, batch: int, task: Task, workers: "Sequence[Worker]") -> tuple[float, "Array"]:
    """Return bits per byte, and the loss of each target in nats, (rows, T). Raises NotEvaluated."""
    import numpy as np

    count, length = task.lengths.shape
    workers[0].start("require_harmless", model, (batch, length, task.vocab_size))()
    whole = np.full(count, length + 1)
    losses, sums, _ = run(model, batch, task.rows, task.rows, whole, workers)
    if not np.isfinite(losses).all():
        return math.nan, losses
    picked, places = choose_places(losses, task.reference)
    other = (picked + 1 + np.array([secrets.randbelow(max(1, count - 1)) for _ in picked])) % count
    spliced = task.rows[picked].copy()
    for row, (source, place) in enumerate(zip(other, places, strict=True)):
        spliced[row, place:] = task.rows[source, place:]
    again, sums_again, beyond = run(model, batch, spliced, task.rows[picked], places, workers)
    require_causal(losses[picked], again, sums[picked], sums_again, places)
    usual = float(losses.mean())
    if float(np.nanmean(beyond)) - usual > SURPRISE:
        raise NotEvaluated(
            f"the model knows the validation text: its loss is {usual:.2f} nats, and {np.nanmean(beyond):.2f} where "
            "that text goes on in another way"
        )
    bits = float(losses[task.lengths > 0].sum()) / (math.log(2) * int(task.lengths.sum()))
    if bits < LEAST_BITS_PER_BYTE:
        raise NotEvaluated(f"{bits:.6f} bits per byte is less than any text can be compressed to")
    return bits, losses


def choose_places(losses: "Array", reference: "Array | None") -> tuple["Array", "Array"]:
    """Return rows, and for each the first position of its input, from 1, that is replaced; as many as there are rows.

    The prediction at the position before is the one that could have peeked at it.
    """
    import numpy as np

    count, length = losses.shape
    generator = np.random.default_rng(secrets.randbits(128))
    gains = np.zeros_like(losses) if reference is None else np.maximum(0.0, reference - losses)
    gains = gains[:, : length - 1].ravel()  # what the last position predicts is no part of the input
    drawn = count - math.ceil(UNIFORM * count) if gains.sum() > 0 else 0
    even = count - drawn
    rows = generator.permutation(count)[:even]
    # One place in each of as many equal parts of all positions.
    places = 1 + ((np.arange(even) + generator.random(even)) * (length - 1) / even).astype(int)
    generator.shuffle(places)
    if drawn:
        ends = np.cumsum(gains)
        at = np.searchsorted(ends, (np.arange(drawn) + generator.random(drawn)) * ends[-1] / drawn, side="right")
        at = np.minimum(at, gains.size - 1)
        rows, places = np.concatenate([rows, at // (length - 1)]), np.concatenate([places, at % (length - 1) + 1])
    order = generator.permutation(count)
    return rows[order], places[order]


def require_causal(before: "Array", after: "Array", sums: "Array", sums_after: "Array", places: "Array") -> None:
    """Raise NotEvaluated where what was predicted before the replaced places has changed.

    before, after: losses of the same targets, (rows, T); sums: how likely the likeliest token was, by its logarithm.
    """
    import mlx.core as mx
    import numpy as np

    tolerance = TOLERANCE_CPU if mx.default_device() == mx.cpu else TOLERANCE_GPU
    seen = np.arange(before.shape[1]) < places[:, None]
    changed = np.where(seen, np.maximum(np.abs(after - before), np.abs(sums_after - sums)), 0.0)
    at_place = np.take_along_axis(after - before, places[:, None] - 1, axis=1)
    if not changed.max() <= tolerance or abs(at_place.mean()) > MEAN_TOLERANCE:
        where = int((np.nan_to_num(changed, nan=math.inf).max(axis=1) > tolerance).sum())
        raise NotEvaluated(
            "the model's predictions depend on later tokens, which are what it should predict, or on the other rows of "
            f"its batch: they changed by {float(np.nanmax(changed)):.3g} nats between two texts that are equal up to "
            f"there, in {where} of {len(before)} rows"
        )


def run(
    model: Path, batch: int, rows: "Array", targets: "Array", until: "Array", workers: "Sequence[Worker]"
) -> tuple["Array", "Array", "Array"]:
    """Run the graph, imported afresh, on all rows.

    Returns the losses of `targets` and the logarithm of the likeliest token's share, (rows, T) each, and the mean loss
    of each row on its own text from `until` on, NaN where there is none.
    """
    import numpy as np

    share = math.ceil(math.ceil(len(rows) / batch) / len(workers)) * batch
    parts = [
        worker.start("forward", model, batch, *(each[begin : begin + share] for each in (rows, targets, until)))
        for worker, begin in zip(workers, range(0, len(rows), share), strict=False)
    ]
    losses, sums, beyond = (np.concatenate(each) for each in zip(*(part() for part in parts), strict=True))
    return losses, sums, beyond


def forward(
    model: Path, batch: int, rows: "Array", targets: "Array", until: "Array"
) -> tuple["Array", "Array", "Array"]:
    """`run` in one process: an imported graph belongs to the main thread."""
    import mlx.core as mx
    import numpy as np

    function: Any = mx.import_function(str(model))
    found = []
    for begin in range(0, len(rows), batch):
        block = rows[begin : begin + batch]
        filled = np.resize(block, (batch, block.shape[1])) if len(block) < batch else block
        logits = np.asarray(function(mx.array(filled[:, :-1]))[0].astype(mx.float32))[: len(block)]
        found.append(losses_of(logits, block, targets[begin : begin + batch], until[begin : begin + batch]))
    losses, sums, beyond = (np.concatenate(each) for each in zip(*found, strict=True))
    return losses, sums, beyond


def losses_of(logits: "Array", block: "Array", targets: "Array", until: "Array") -> tuple["Array", "Array", "Array"]:
    """As `run`, of float32 logits (rows, T, V). Shifted by the largest, so that adding to all of them gains nothing."""
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore"):  # what is no number gives a metric that is none
        shifted = logits - logits.max(axis=-1, keepdims=True)
        totals = np.log(np.exp(shifted).sum(axis=-1, dtype=np.float64))
    losses = totals - np.take_along_axis(shifted, targets[:, 1:, None], axis=-1)[..., 0]
    beyond = np.full(len(block), np.nan)
    for row, place in enumerate(until):
        if place < block.shape[1] - 1:
            own = np.take_along_axis(shifted[row, place:], block[row, place + 1 :, None], axis=-1)[..., 0]
            beyond[row] = (totals[row, place:] - own).mean()
    return losses, totals, beyond


def require_harmless(model: Path, logits: tuple[int, int, int]) -> None:
    """Raise NotEvaluated where the graph holds anything but arithmetic, or gives something else than `logits`."""
    import mlx.core as mx

    tokens = mx.zeros(logits[:2], mx.int32)
    try:
        function: Any = mx.import_function(str(model))
        outputs = function(tokens)
        # The constants of a graph are read from its own file when they are first needed.
        names = primitives(outputs) - {"Load"}
    except (RuntimeError, ValueError, TypeError) as error:
        raise NotEvaluated(f"what was handed over is no graph that can be read: {short(error)}") from None
    shapes = [output.shape for output in outputs]
    if shapes != [logits]:
        raise NotEvaluated(f"the model gives {str(shapes)[:100]}, not the logits of each token")
    unknown = sorted(name for name in names if name.split(" ")[0] not in PRIMITIVES and not COMPILED.fullmatch(name))
    if unknown:
        raise NotEvaluated(f"the model holds {', '.join(unknown[:5])[:200]}, which the evaluator does not run")
    mx.eval(outputs)
    if "Load" in primitives(function(tokens)):
        raise NotEvaluated("the model reads a file while it is evaluated")


def primitives(outputs: "Sequence[mx.array]") -> set[str]:
    """Return the names of the operations that a graph consists of."""
    import mlx.core as mx

    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "graph.dot"
        mx.export_to_dot(str(picture), *outputs)
        return set(re.findall(r'\[label ="([^"]*)", shape=rectangle\]', picture.read_text(errors="replace")))


def short(error: BaseException) -> str:
    """Return an exception in a few words."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
