"""Compute the metric of an exported graph, and check that the graph does not look at later tokens.

A graph has no Python, clock, file or state. The check for look-ahead uses the rows of the metric themselves: in a
second pass, rows continue as other text from some place on, in other batches and in another process, and all
predictions before that place must stay the same. A process receives the targets of a batch after returning the logits.

A model may look ahead at only a few positions, so where the text is replaced matters more than how often. Look-ahead
shows as a loss that is too low. The expected number of times that position i is tried is

    e_i = min(1, n ((1 - u) s_i / sum(s) + u / N)),    s_i = max(0, predicted_i - loss_i - MARGIN)

with n places, N positions, and a fraction u = UNIFORM of the places spread evenly. The prediction is the least-squares
fit of the losses to references that the run did not produce: the losses of the incumbent (AUTORESEARCH_REFERENCE), and
of trigrams counted in the training text. Systematic sampling draws position i with probability e_i, so a model that
looks ahead at a set S of positions escapes with probability of about exp(-sum of e_i over S): 5 % at a sum of 3.
benchmarks/peeking.py measures the largest gain that escapes. A run that is clearly worse than its incumbent cannot be
kept, so it gets a tenth of the places.
"""

import json
import math
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.prepared import Snapshot, evaluated_folder

if TYPE_CHECKING:
    import mlx.core as mx
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]

# Operations that an exported graph may contain: arithmetic on its input and its own constants. Excluded are those that
# read files, communicate with other processes, read past the end of an array (AsStrided) or run custom kernels.
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

# Tolerance of a loss, in nats. In float32 a loss repeats to 2e-5 in another batch; it was never measured on a GPU.
FINE, COARSE = 1e-3, 2e-2
MEAN_TOLERANCE = (
    2e-3  # nats, on the mean over the places: a look-ahead just below COARSE everywhere would gain COARSE per token
)
SURE = 3.0  # standard errors by which that mean over all positions must differ from zero
UNIFORM = 0.2  # fraction of the places spread evenly, for positions that no reference makes suspicious
MARGIN = 1.5  # nats below the prediction that raise no suspicion
WORSE, FEWER = 1.02, 10  # a metric above WORSE times the incumbent's is tried at one place per FEWER rows
COUNTED_TOKENS = 500_000  # tokens of training text that the trigrams are counted in
SURPRISE = 3.0  # nats by which the mean loss may rise after a row is replaced by another; 0.1 to 0.4 is usual
LEAST_BITS_PER_BYTE = 0.25  # no text compresses this far: children's stories reach about 0.4, general English 0.6


class Worker(Protocol):
    """A process that calls functions of this module. `start` returns a callable that waits for the result."""

    def start(self, name: str, *args: Any) -> Callable[[], Any]: ...


class NotEvaluated(Exception):
    """Raised if a model cheats or cannot be evaluated, so that its run does not count. The message says why."""


@dataclass(frozen=True)
class Task:
    """The data of an evaluation.

    Attributes:
        rows: int32 (rows, T + 1) tokens.
        lengths: bytes of text of each target, (rows, T).
        vocab_size: tokens in the vocabulary.
        snapshot: id of the snapshot.
        references: reference losses in nats, (rows, T) each; the incumbent's come first if has_incumbent.
        has_incumbent: whether the losses of an incumbent are known.
    """

    rows: "Array"
    lengths: "Array"
    vocab_size: int
    snapshot: str
    references: "list[Array]"
    has_incumbent: bool


def load_task() -> Task:
    """Read the rows of the metric and the incumbent's losses, and count trigrams."""
    import numpy as np

    from harness.loader import training_tokens, validation_rows
    from harness.tokenizer import Tokenizer

    directory = evaluated_folder()
    snapshot = Snapshot.load(directory)
    rows = validation_rows(directory, snapshot.max_seq_len, snapshot.eval_tokens)
    lengths = Tokenizer.from_directory(directory).token_bytes[rows[:, 1:]]
    references = [trigram_losses(training_tokens(directory, COUNTED_TOKENS), rows, snapshot.vocab_size)]
    has_incumbent = False
    if given := os.environ.get("AUTORESEARCH_REFERENCE"):
        found = np.load(given, allow_pickle=False)
        has_incumbent = found.shape == lengths.shape and bool(np.isfinite(found).all())
        if has_incumbent:
            references.insert(0, found.astype(np.float64))
    return Task(rows, lengths, snapshot.vocab_size, snapshot.id, references, has_incumbent)


def evaluate(model: Path, batch: int, task: Task, workers: "Sequence[Worker]") -> tuple[float, "Array"]:
    """Return the metric in bits per byte, and the loss of each target in nats, (rows, T).

    Args:
        model: file of the exported graph.
        batch: rows per forward pass.
        task: what to evaluate the model on.
        workers: the processes that run the graph, at least two.

    Raises:
        NotEvaluated: the model cheats or cannot be evaluated.
    """
    import numpy as np

    count, length = task.lengths.shape
    coarse = workers[0].start("require_harmless", model, (batch, length, task.vocab_size))()
    owners = np.arange(count) // batch * len(workers) // math.ceil(count / batch)
    losses = run(model, batch, task.rows[:, :-1], task.rows[:, 1:], owners, workers)
    if not np.isfinite(losses).all():
        return math.nan, losses
    bits = bits_per_byte(losses, task.lengths)
    hopeless = task.has_incumbent and bits > WORSE * bits_per_byte(task.references[0], task.lengths)
    expected = expected_places(losses, task.references, task.lengths > 0, math.ceil(count / (FEWER if hopeless else 1)))
    generator = np.random.default_rng(secrets.randbits(128))
    picked, places = draw(expected, generator)
    spliced, counted = splice(task.rows, task.lengths > 0, picked, places, generator)
    # At the place itself the target stays the true one, which the model cannot see.
    targets = spliced[:, 1:].copy()
    targets[np.arange(len(picked)), places - 1] = task.rows[picked, places]
    others = (owners[picked] + 1) % len(workers)
    again = run(model, batch, spliced[:, :-1], targets, others, workers)
    require_causal(losses, again, picked, places, COARSE if coarse else FINE)
    # A diverged model is worse than a uniform guess on what the metric counts, so it cannot know that.
    if losses[task.lengths > 0].mean() <= math.log(task.vocab_size):
        require_unknown(losses[task.lengths > 0], again[counted])
    if not hopeless:
        require_even(losses, again, picked, places, expected)
    if bits < LEAST_BITS_PER_BYTE:
        raise NotEvaluated(f"{bits:.6f} bits per byte is below what any text compresses to")
    return bits, losses


def score(model: Path, batch: int, folder: Path, workers: "Sequence[Worker]") -> tuple[float, int]:
    """Return bits per byte of a graph on the holdout in `folder`, and the number of tokens.

    The check for look-ahead is not repeated: the validation text has had it, and a gain must show on both.

    Raises:
        NotEvaluated: the graph cannot be evaluated.
        OSError, ValueError, KeyError: the holdout is missing or damaged.
    """
    import numpy as np

    from harness.loader import rows_of, shards_of
    from harness.tokenizer import Tokenizer

    snapshot = Snapshot.load(evaluated_folder())
    tokens = int(json.loads((folder / "holdout.json").read_bytes())["EVAL_TOKENS"])
    rows = rows_of(shards_of(folder, "holdout"), snapshot.max_seq_len, tokens)
    lengths = Tokenizer.from_directory(snapshot.directory).token_bytes[rows[:, 1:]]
    workers[0].start("require_harmless", model, (batch, snapshot.max_seq_len, snapshot.vocab_size))()
    owners = np.arange(len(rows)) // batch * len(workers) // math.ceil(len(rows) / batch)
    losses = run(model, batch, rows[:, :-1], rows[:, 1:], owners, workers)
    return bits_per_byte(losses, lengths), tokens


def bits_per_byte(losses: "Array", lengths: "Array") -> float:
    """Return bits per byte of losses in nats, (rows, T). lengths: bytes of each target; targets of 0 do not count."""
    return float(losses[lengths > 0].sum()) / (math.log(2) * int(lengths.sum()))


def expected_places(losses: "Array", references: "Sequence[Array]", counted: "Array", count: int) -> "Array":
    """Return the expected number of tries of each position, (rows, T), `count` in total.

    Position i stands for text that is replaced from i + 1 on. The last target is not tried, because no model sees it as
    input.

    Args:
        losses: losses of the run in nats, (rows, T).
        references: losses to predict them from, (rows, T) each.
        counted: the targets that the metric is computed on, bool (rows, T).
        count: number of places to try.
    """
    import numpy as np

    useful = counted.copy()
    useful[:, -1] = False
    known = np.stack([np.ones(int(useful.sum())), *(reference[useful] for reference in references)], axis=1)
    weights, *_ = np.linalg.lstsq(known, losses[useful], rcond=None)
    suspicion = np.zeros(losses.shape)
    suspicion[useful] = np.maximum(known @ weights - losses[useful] - MARGIN, 0.0)
    uniform = UNIFORM if suspicion.any() else 1.0
    shares = uniform * useful / useful.sum() + (1 - uniform) * suspicion / max(suspicion.sum(), 1e-300)
    expected: Array = np.minimum(1.0, count * shares)
    for _ in range(10):  # one pass usually suffices: the excess over 1 goes to the other positions
        rest = expected < 1
        left, have = count - int((~rest).sum()), float(expected[rest].sum())
        if have <= 0 or left <= have * (1 + 1e-9):
            break
        expected[rest] = np.minimum(1.0, expected[rest] * left / have)
    return expected


def draw(expected: "Array", generator: "np.random.Generator") -> tuple["Array", "Array"]:
    """Return systematically sampled rows, and the first replaced position of each, counted from 1."""
    import numpy as np

    ends = np.cumsum(expected)
    points = np.arange(math.ceil(ends[-1] - 1e-9)) + generator.random()
    at = np.unique(np.searchsorted(ends, points[points < ends[-1]], side="right"))
    rows, positions = np.divmod(generator.permutation(at), expected.shape[1])
    return rows, positions + 1


def splice(
    rows: "Array", counted: "Array", picked: "Array", places: "Array", generator: "np.random.Generator"
) -> "tuple[Array, Array]":
    """Return the picked rows, each continued from its place like another row, whose token at that place differs.

    Args:
        rows: tokens, (rows, T + 1).
        counted: whether each target counts, (rows, T).
        picked, places: as in `require_causal`.

    Returns:
        The new rows, and which of their targets behind the place count, (places, T).
    """
    import numpy as np

    others = generator.integers(len(rows), size=len(picked))
    for _ in range(64):
        same = rows[others, places] == rows[picked, places]
        if not same.any():
            break
        others[same] = generator.integers(len(rows), size=int(same.sum()))
    positions = np.arange(rows.shape[1])
    spliced = np.where(positions >= places[:, None], rows[others], rows[picked])
    return spliced, counted[others] & (positions[:-1] >= places[:, None])


def require_causal(losses: "Array", again: "Array", picked: "Array", places: "Array", tolerance: float) -> None:
    """Check that predictions before the replaced places have not changed.

    Args:
        losses: losses of the first pass in nats, (rows, T).
        again: losses of the picked rows after the replacement, (places, T).
        picked: index of each picked row.
        places: first replaced position of each picked row, from 1.
        tolerance: largest change of a loss, in nats.

    Raises:
        NotEvaluated: they have changed.
    """
    import numpy as np

    seen = np.arange(losses.shape[1]) < places[:, None]
    changed = np.where(seen, np.abs(again - losses[picked]), 0.0)
    at_place = (again - losses[picked])[np.arange(len(picked)), places - 1]
    # Negated, so that NaN fails the check.
    if not (changed.max() <= tolerance and abs(at_place.mean()) <= min(tolerance, MEAN_TOLERANCE)):
        where = int((np.nan_to_num(changed, nan=math.inf).max(axis=1) > tolerance).sum())
        raise NotEvaluated(
            "the model's predictions depend on later tokens, on other rows of the batch, or on chance: they changed by "
            f"{float(np.nanmax(changed)):.3g} nats in {where} of {len(picked)} rows whose later text was replaced"
        )


def require_unknown(losses: "Array", beyond: "Array") -> None:
    """Check that the loss does not rise so much on other text that the model must know the validation text.

    Targets that do not count are left out: a high loss there costs a model nothing, and would hide the rise.

    Args:
        losses: losses of the counted targets in nats.
        beyond: those of the text that replaced it.

    Raises:
        NotEvaluated: it does.
    """
    usual = float(losses.mean())
    if beyond.size and float(beyond.mean()) - usual > SURPRISE:
        raise NotEvaluated(
            f"the model has memorized the validation text: its loss is {usual:.2f} nats on that text, and "
            f"{beyond.mean():.2f} after it is replaced by other text"
        )


def require_even(losses: "Array", again: "Array", picked: "Array", places: "Array", expected: "Array") -> None:
    """Check that the loss at the tried places does not rise on average over all positions.

    A model that knows the target may lower its loss where few places are tried, and raise it where many are. Each
    place stands for as many positions as it had a small chance to be tried (Horvitz and Thompson 1952). Chance is no
    reason to refuse: the mean must also be beyond SURE of its standard errors.

    Args:
        losses, again, picked, places: as in `require_causal`.
        expected: expected number of tries of each position, (rows, T).

    Raises:
        NotEvaluated: it does rise.
    """
    import numpy as np

    at_place = (again - losses[picked])[np.arange(len(picked)), places - 1]
    weights = 1 / expected[picked, places - 1]
    mean = float((weights * at_place).sum() / weights.sum())
    error = math.sqrt(float((weights**2 * (at_place - mean) ** 2).sum())) / float(weights.sum())
    if abs(mean) > MEAN_TOLERANCE and abs(mean) > SURE * error:
        raise NotEvaluated(
            "the model's predictions depend on later tokens, on other rows of the batch, or on chance: they changed by "
            f"{mean:.3g} nats on average over all positions"
        )


def trigram_losses(tokens: "Array", rows: "Array", vocab_size: int) -> "Array":
    """Return the losses in nats, (rows, T), of interpolated trigrams counted in `tokens` (Witten and Bell 1991)."""
    import numpy as np

    text, sequence = tokens.astype(np.int64), rows.astype(np.int64)
    unigrams = np.bincount(text, minlength=vocab_size) + 1.0
    probability = (unigrams / unigrams.sum())[sequence[:, 1:]]
    for order in (1, 2):
        context = np.zeros(len(text) - order, dtype=np.int64)
        wanted = np.zeros((len(rows), rows.shape[1] - order), dtype=np.int64)
        for back in range(order):
            context = context * vocab_size + text[back : back + len(context)]
            wanted = wanted * vocab_size + sequence[:, back : back + wanted.shape[1]]
        grams, counts = np.unique(context * vocab_size + text[order:], return_counts=True)
        contexts, starts, kinds = np.unique(grams // vocab_size, return_index=True, return_counts=True)
        seen = _look_up(contexts, np.add.reduceat(counts, starts), wanted)
        kinds_seen = _look_up(contexts, kinds, wanted)
        hits = _look_up(grams, counts, wanted * vocab_size + sequence[:, order:])
        lower = probability[:, order - 1 :]
        mixed = (hits + kinds_seen * lower) / np.maximum(seen + kinds_seen, 1) + lower * (seen == 0)
        probability[:, order - 1 :] = mixed
    losses: Array = -np.log(probability)
    return losses


def _look_up(keys: "Array", values: "Array", wanted: "Array") -> "Array":
    """Return the value of each wanted key, 0 for missing keys. `keys` must be sorted."""
    import numpy as np

    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0).astype(np.float64)


def run(
    model: Path, batch: int, inputs: "Array", targets: "Array", owners: "Array", workers: "Sequence[Worker]"
) -> "Array":
    """Return the losses of `targets` in nats, float64 (rows, T).

    Args:
        model: file of the exported graph.
        batch: rows per forward pass; an incomplete batch repeats its rows.
        inputs: tokens that the graph sees, int32 (rows, T).
        targets: tokens that it should predict, int32 (rows, T).
        owners: index of the worker that computes each row.
        workers: the processes that run the graph.
    """
    import numpy as np

    losses = np.empty(targets.shape)

    def work(number: int) -> None:
        (mine,) = np.nonzero(owners == number)
        for begin in range(0, len(mine), batch):
            part = mine[begin : begin + batch]
            workers[number].start("predict", model, inputs[np.resize(part, batch)])()
            losses[part] = workers[number].start("compare", targets[part])()

    with ThreadPoolExecutor(len(workers)) as threads:
        list(threads.map(work, range(len(workers))))
    return losses


class Predictions:
    """The graph in one process, and the logits of its most recent batch."""

    def __init__(self) -> None:
        self._function: Any = None
        self._logits: Any = None

    def predict(self, model: Path, tokens: "Array") -> None:
        """Compute the logits of int32 tokens (rows, T)."""
        import mlx.core as mx

        self._function = self._function or mx.import_function(str(model))
        self._logits = self._function(mx.array(tokens))[0].astype(mx.float32)
        mx.eval(self._logits)

    def compare(self, targets: "Array") -> "Array":
        """Return the losses of targets (rows, T), with at most as many rows as the batch has."""
        import mlx.core as mx
        import numpy as np

        if mx.default_device() == mx.cpu:
            return losses_of(np.asarray(self._logits)[: len(targets)], targets)
        shifted = self._logits[: len(targets)] - self._logits[: len(targets)].max(axis=-1, keepdims=True)
        chosen = mx.take_along_axis(shifted, mx.array(targets)[..., None], axis=-1)[..., 0]
        return np.array(mx.log(mx.exp(shifted).sum(axis=-1)) - chosen).astype(np.float64)


def losses_of(logits: "Array", targets: "Array") -> "Array":
    """Return the cross-entropy in nats, float64 (rows, T), of float32 logits (rows, T, V).

    The largest logit is subtracted first and never added back, so adding a constant to all logits gains nothing.
    """
    import numpy as np

    losses = np.empty(targets.shape)
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinite logits give a metric that is not finite
        for row, (score, target) in enumerate(
            zip(logits, targets, strict=True)
        ):  # row by row: a row fits into a core's cache
            shifted = score - score.max(axis=-1, keepdims=True)
            chosen = np.take_along_axis(shifted, target[:, None], axis=-1)[:, 0].astype(np.float64)
            np.exp(shifted, out=shifted)
            losses[row] = np.log(shifted.sum(axis=-1, dtype=np.float64)) - chosen
    return losses


def require_harmless(model: Path, logits: tuple[int, int, int]) -> bool:
    """Check that the graph is plain arithmetic, and return whether its results need the coarse tolerance.

    They do if the graph uses 16-bit types or runs on a GPU.

    Args:
        model: file of the exported graph.
        logits: expected shape of its output, (rows, T, V).

    Raises:
        NotEvaluated: the graph is unreadable, contains operations that are not allowed, or returns another shape.
    """
    import mlx.core as mx

    tokens = mx.zeros(logits[:2], mx.int32)
    try:
        function: Any = mx.import_function(str(model))
        outputs = function(tokens)
        # A graph's constants are loaded from its own file on first use.
        names = primitives(outputs) - {"Load"}
    except (RuntimeError, ValueError, TypeError) as error:
        raise NotEvaluated(f"the exported model is not a readable graph: {short(error)}") from None
    shapes = [output.shape for output in outputs]
    if shapes != [logits]:
        raise NotEvaluated(f"expected logits of shape {logits} from the model, got {str(shapes)[:100]}")
    unknown = sorted(name for name in names if name.split(" ")[0] not in PRIMITIVES and not COMPILED.fullmatch(name))
    if unknown:
        raise NotEvaluated(f"the model uses operations that the evaluator does not run: {', '.join(unknown[:5])[:200]}")
    mx.eval(outputs)
    if "Load" in primitives(function(tokens)):
        raise NotEvaluated("the model reads a file during evaluation")
    return mx.default_device() != mx.cpu or not kinds_of(function, tokens).isdisjoint((mx.bfloat16, mx.float16))


def kinds_of(function: Any, tokens: "mx.array") -> "set[mx.Dtype]":
    """Return the dtypes of all arrays in a graph."""
    import mlx.core as mx

    found: set[mx.Dtype] = set()

    def look(node: dict[str, Any]) -> None:
        if node["type"] == "primitive":
            found.update(kind for _, _, kind in (*node["inputs"], *node["outputs"]))

    mx.export_function(look, function, tokens)
    return found


def primitives(outputs: "Sequence[mx.array]") -> set[str]:
    """Return the names of the operations in a graph."""
    import mlx.core as mx

    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "graph.dot"
        mx.export_to_dot(str(picture), *outputs)
        return set(re.findall(r'\[label ="([^"]*)", shape=rectangle\]', picture.read_text(errors="replace")))


def short(error: BaseException) -> str:
    """Return the type and the shortened message of an exception."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
