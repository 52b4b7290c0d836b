"""The metric of an exported graph, and the proof that it looks at no later token.

A graph has no Python, clock, file or state. That it looks at no later token is shown on the very rows of the metric:
in a second pass rows go on as other text from a place on, among other rows and in another process, and all that was
predicted before that place must stay as it was. A process learns the targets of a batch after it gave the logits.

A model may look ahead at a few positions alone, so where the text is replaced matters more than how often. A look ahead
shows as a loss that is too low. Position i is tried with the expected number

    e_i = min(1, n ((1 - u) s_i / sum(s) + u / N)),    s_i = max(0, predicted_i - loss_i - MARGIN)

with n places, N positions and a share u = UNIFORM of even ones. The prediction is the least-squares fit of the losses
to references that the run did not make: those of the incumbent (AUTORESEARCH_REFERENCE), and of trigrams counted in the
training text. Systematic sampling draws position i with probability e_i, so that a set S of positions that a model
looks ahead at escapes with about exp(-sum of e_i over S): five per cent is a sum of 3. benchmarks/peeking.py measures
the largest gain that escapes. A run that is clearly worse than its incumbent cannot be kept, and gets a tenth of the
places.
"""

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

# Nats by which a loss may differ. In float32 one repeats itself to 2e-5 in another batch; a GPU was never measured.
FINE, COARSE = 1e-3, 2e-2
MEAN_TOLERANCE = (
    2e-3  # nats, of the mean at the places: looking ahead below COARSE everywhere would gain COARSE a token
)
UNIFORM = 0.2  # of the places, spread evenly: what no reference makes look suspicious
MARGIN = 1.5  # nats below the prediction that are no ground for suspicion
WORSE, FEWER = 1.02, 10  # a metric of WORSE times the incumbent's gets a place for FEWER rows
COUNTED_TOKENS = 500_000  # of training text, for the trigrams
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

    references: losses in nats, (rows, T) each, the incumbent's first where there is one. has_incumbent: whether.
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
    """Return bits per byte, and the loss of each target in nats, (rows, T). Raises NotEvaluated."""
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
    spliced = splice(task.rows, picked, places, generator)
    # At the place itself the target is still the true one, which the model cannot see.
    targets = spliced[:, 1:].copy()
    targets[np.arange(len(picked)), places - 1] = task.rows[picked, places]
    others = (owners[picked] + 1) % len(workers)
    again = run(model, batch, spliced[:, :-1], targets, others, workers)
    require_causal(losses, again, picked, places, COARSE if coarse else FINE)
    if bits < LEAST_BITS_PER_BYTE:
        raise NotEvaluated(f"{bits:.6f} bits per byte is less than any text can be compressed to")
    return bits, losses


def bits_per_byte(losses: "Array", lengths: "Array") -> float:
    """Losses in nats and bytes of each target, (rows, T) each; a target of no bytes does not count."""
    return float(losses[lengths > 0].sum()) / (math.log(2) * int(lengths.sum()))


def expected_places(losses: "Array", references: "Sequence[Array]", counted: "Array", count: int) -> "Array":
    """Return how often each position is to be tried, (rows, T), in all `count` times.

    counted: targets that the metric is taken over. Position i stands for text that is replaced from i + 1 on; the last
    target is in no model's input.
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
    for _ in range(10):  # once is enough for any: what is over goes to the others
        rest = expected < 1
        left, have = count - int((~rest).sum()), float(expected[rest].sum())
        if have <= 0 or left <= have * (1 + 1e-9):
            break
        expected[rest] = np.minimum(1.0, expected[rest] * left / have)
    return expected


def draw(expected: "Array", generator: "np.random.Generator") -> tuple["Array", "Array"]:
    """Return rows, and for each the first position of its input, from 1, that is replaced; drawn systematically."""
    import numpy as np

    ends = np.cumsum(expected)
    points = np.arange(math.ceil(ends[-1] - 1e-9)) + generator.random()
    at = np.unique(np.searchsorted(ends, points[points < ends[-1]], side="right"))
    rows, positions = np.divmod(generator.permutation(at), expected.shape[1])
    return rows, positions + 1


def splice(rows: "Array", picked: "Array", places: "Array", generator: "np.random.Generator") -> "Array":
    """Return the picked rows, which go on from their place as another row does there, with another token first."""
    import numpy as np

    others = generator.integers(len(rows), size=len(picked))
    for _ in range(64):
        same = rows[others, places] == rows[picked, places]
        if not same.any():
            break
        others[same] = generator.integers(len(rows), size=int(same.sum()))
    return np.where(np.arange(rows.shape[1]) >= places[:, None], rows[others], rows[picked])


def require_causal(losses: "Array", again: "Array", picked: "Array", places: "Array", tolerance: float) -> None:
    """Raise NotEvaluated where what was predicted before the replaced places has changed.

    losses: (rows, T); again: those of the picked rows after the replacement, (places, T).
    """
    import numpy as np

    seen = np.arange(losses.shape[1]) < places[:, None]
    changed = np.where(seen, np.abs(again - losses[picked]), 0.0)
    at_place = (again - losses[picked])[np.arange(len(picked)), places - 1]
    # Written so that what is no number is too much.
    if not (changed.max() <= tolerance and abs(at_place.mean()) <= min(tolerance, MEAN_TOLERANCE)):
        where = int((np.nan_to_num(changed, nan=math.inf).max(axis=1) > tolerance).sum())
        raise NotEvaluated(
            "the model's predictions depend on later tokens, which are what it should predict, on the other rows of "
            f"its batch, or on chance: they changed by {float(np.nanmax(changed)):.3g} nats between two texts that are "
            f"equal up to there, in {where} of {len(picked)} rows"
        )
    usual, beyond = float(losses.mean()), again[~seen]
    if beyond.size and float(beyond.mean()) - usual > SURPRISE:
        raise NotEvaluated(
            f"the model knows the validation text: its loss is {usual:.2f} nats, and {beyond.mean():.2f} where that "
            "text goes on in another way"
        )


def trigram_losses(tokens: "Array", rows: "Array", vocab_size: int) -> "Array":
    """Return the losses in nats of n-grams counted in `tokens`, (rows, T), interpolated (Witten and Bell 1991)."""
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
    """The value of each wanted key, 0 where there is none; `keys` are sorted."""
    import numpy as np

    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0).astype(np.float64)


def run(
    model: Path, batch: int, inputs: "Array", targets: "Array", owners: "Array", workers: "Sequence[Worker]"
) -> "Array":
    """Return the losses of `targets` in nats, float64, where `inputs` are what the graph sees; (rows, T) each.

    owners: which of the workers computes each row. A batch that is not full repeats its rows.
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
    """The graph in one process, and the logits of the batch that it has seen last."""

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
        """Return the losses of targets (at most as many rows, T)."""
        import mlx.core as mx
        import numpy as np

        if mx.default_device() == mx.cpu:
            return losses_of(np.asarray(self._logits)[: len(targets)], targets)
        shifted = self._logits[: len(targets)] - self._logits[: len(targets)].max(axis=-1, keepdims=True)
        chosen = mx.take_along_axis(shifted, mx.array(targets)[..., None], axis=-1)[..., 0]
        return np.array(mx.log(mx.exp(shifted).sum(axis=-1)) - chosen).astype(np.float64)


def losses_of(logits: "Array", targets: "Array") -> "Array":
    """Return the cross-entropy in nats, float64 (rows, T), of float32 logits (rows, T, V).

    The largest logit is subtracted first and never added again, so that adding to all of them gains nothing.
    """
    import numpy as np

    losses = np.empty(targets.shape)
    with np.errstate(invalid="ignore", over="ignore"):  # what is no number gives a metric that is none
        for row, (score, target) in enumerate(zip(logits, targets, strict=True)):  # a row stays in a core's cache
            shifted = score - score.max(axis=-1, keepdims=True)
            chosen = np.take_along_axis(shifted, target[:, None], axis=-1)[:, 0].astype(np.float64)
            np.exp(shifted, out=shifted)
            losses[row] = np.log(shifted.sum(axis=-1, dtype=np.float64)) - chosen
    return losses


def require_harmless(model: Path, logits: tuple[int, int, int]) -> bool:
    """Return whether the graph rounds to 16 bits, or to what a GPU does.

    Raises NotEvaluated where it holds anything but arithmetic, or gives something else than `logits`.
    """
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
    return mx.default_device() != mx.cpu or not kinds_of(function, tokens).isdisjoint((mx.bfloat16, mx.float16))


def kinds_of(function: Any, tokens: "mx.array") -> "set[mx.Dtype]":
    """Return the types of all arrays of a graph."""
    import mlx.core as mx

    found: set[mx.Dtype] = set()

    def look(node: dict[str, Any]) -> None:
        if node["type"] == "primitive":
            found.update(kind for _, _, kind in (*node["inputs"], *node["outputs"]))

    mx.export_function(look, function, tokens)
    return found


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
