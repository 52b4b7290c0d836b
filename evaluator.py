"""Computes the metric of a run in a process that never runs the run's code: it sees the exported model and no more.

    python evaluator.py SOCKET

One process serves one run. It gives out the training text when that is asked for the first time, which is when the
clock of the training begins, and takes one model, a graph that `mx.export_function` wrote for int32 (rows, MAX_SEQ_LEN)
to logits (rows, MAX_SEQ_LEN, VOCAB_SIZE). On standard output it says what it saw, a JSON object a line: ready, clock,
handed_over, answer, refused, untraced. It ends when its standard input does.

A graph has no Python, clock, file or state. That it looks at no later token is shown on the very rows of the metric:
in a second pass, of as many rows as the first, in another order, other batches and from a fresh import, rows go on as
other text from some place on, and all that was predicted before that place must stay as it was. Each pair of row and
place is tried where a peek would pay: a share UNIFORM of the places is spread evenly over all positions, the others are
drawn in proportion to what this model gains there on the incumbent (AUTORESEARCH_REFERENCE: its losses, token by
token). With a gain of g nats a token by peeking at single tokens, and M the mean of all such gains over the incumbent,
honest ones included, none of N drawn places shows a peek with probability (1 - g / M)^N: benchmarks/peeking.py.
"""

import itertools
import json
import math
import os
import pickle
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handover import FILES_AT_ONCE, LONGEST_LINE, UNTRACED_VARIABLE, reachable

if TYPE_CHECKING:
    import mlx.core as mx
    import numpy.typing as npt

    Array = npt.NDArray[Any]

LARGEST_MODEL = 8 * 2**30  # bytes of an exported graph
SILENT_SECONDS = 120.0  # of a client in the middle of a request
MOST_CLIENTS = 64

# What an exported graph may consist of: arithmetic on its input and its own constants. Nothing that reads a file, talks
# to other processes or holds a program of its own (custom kernels).
PRIMITIVES = frozenset(
    """
    Abs Add AddMM All And Any Arange ArcCos ArcCosh ArcSin ArcSinh ArcTan ArcTan2 ArcTanh ArgMax ArgMin
    ArgPartition ArgReduce ArgSort AsStrided AsType BitwiseAnd BitwiseBinary BitwiseInvert BitwiseOr BitwiseXor
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


# ----------------------------------------------------------------------------------------------------------------------
# The metric


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
        raise NotEvaluated(f"what was handed over is no graph that can be read: {_short(error)}") from None
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


# ----------------------------------------------------------------------------------------------------------------------
# The run


def say(event: str, **about: Any) -> None:
    """Tell the loop, which reads standard output."""
    os.write(1, json.dumps({"event": event, **about}).encode() + b"\n")


class Service:
    """What the evaluator does for the one run that it serves."""

    def __init__(self) -> None:
        # Processes of their own: one that a hostile graph brings down is not the one that answers. They start, and the
        # rows are read, while the run trains.
        self._workers = [Worker() for _ in range(cores())]
        self._load = self._workers[0].start("load_task")
        self._lock = threading.Lock()
        self._clock_runs = self._has_model = False

    def train(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        """The files of the training text, FILES_AT_ONCE of them."""
        paths = sorted(snapshot_folder().glob("train_*.npy"))
        begin = int(request.get("from", 0))
        some = paths[begin : begin + FILES_AT_ONCE]
        with self._lock:
            if not self._clock_runs:
                self._clock_runs = True
                say("clock", at=time.monotonic())
        files = [os.open(path, os.O_RDONLY) for path in some]
        return {"names": [path.name for path in some], "of": len(paths)}, files

    def model(self, request: dict[str, Any], model: Path) -> dict[str, Any]:
        """The metric of what was handed over. There is one answer a run."""
        at = time.monotonic()
        with self._lock:
            if self._has_model:
                return {"refused": "The metric was computed already: there is one evaluation in a run."}
            self._has_model = True
        say("handed_over", at=at)
        try:
            task = self._load()
            batch = int(request.get("rows", 0))
            if not 1 <= batch <= len(task.rows):
                raise NotEvaluated(f"a batch of {batch} rows cannot be evaluated")
            bits, losses = evaluate(model, batch, task, self._workers)
        except NotEvaluated as error:
            say("refused", reason=str(error))
            return {"refused": str(error)}
        except Exception as error:  # whatever a graph brings about is its run's end, and not this process's
            reason = f"its model cannot be evaluated: {_short(error)}"
            say("refused", reason=reason)
            return {"refused": reason}
        save_losses(losses)
        about = {"name": "val_bpb", "metric": bits, "eval_tokens": task.lengths.size, "snapshot": task.snapshot}
        say("answer", **about, seconds=time.monotonic() - at)
        return {"metric": bits}

    def end(self) -> None:
        for worker in self._workers:
            worker.end()

    def rows(self) -> tuple[dict[str, Any], list[int]]:
        """The validation text, for a run that computes its own metric because its model cannot be traced."""
        if os.environ.get(UNTRACED_VARIABLE) != "1":
            return {"refused": "The validation text is for the evaluator alone."}, []
        say("untraced")
        paths = sorted(snapshot_folder().glob("val_*.npy"))[:FILES_AT_ONCE]
        return {"names": [path.name for path in paths]}, [os.open(path, os.O_RDONLY) for path in paths]


class Worker:
    """A process that does what it is told, one thing after the other, and ends with this one."""

    def __init__(self) -> None:
        command = [sys.executable, __file__, "--work"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def start(self, name: str, *args: Any) -> Callable[[], Any]:
        """Have a function of this module called there. Returns what waits for its result, once.

        That raises NotEvaluated as the function does, and where the process is gone.
        """
        asked, answered = self._process.stdin, self._process.stdout
        assert asked is not None and answered is not None

        def result() -> Any:
            try:
                succeeded, found = pickle.load(answered)
            except (EOFError, pickle.UnpicklingError):
                raise NotEvaluated("the evaluation of its model ended the process that did it") from None
            if not succeeded:
                raise NotEvaluated(found)
            return found

        try:
            pickle.dump((name, args), asked)
            asked.flush()
        except OSError:
            raise NotEvaluated("the evaluation of its model ended the process that did it") from None
        return result

    def end(self) -> None:
        self._process.kill()


def work() -> None:
    """Do what the evaluator says, in a process of its own; MLX's graphs belong to the main thread."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed is no answer
    import prepare  # noqa: F401

    tasks: dict[str, Callable[..., Any]]
    tasks = {"load_task": load_task, "forward": forward, "require_harmless": require_harmless}
    while True:
        try:
            name, args = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = (True, tasks[name](*args))
        except NotEvaluated as error:
            answer = (False, str(error))
        except MemoryError:
            answer = (False, "the evaluation of its model ran out of memory")
        except Exception as error:
            answer = (False, f"its model cannot be evaluated: {_short(error)}")
        pickle.dump(answer, answers)
        answers.flush()


def cores() -> int:
    """How many processes evaluate: one a core, without MLX; a GPU is busy with one."""
    if os.path.exists("/dev/nvidia0") or sys.platform == "darwin":  # noqa: PTH110
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def save_losses(losses: "Array") -> None:
    """For the next runs, which are compared with this one should it become the incumbent."""
    import numpy as np

    if given := os.environ.get("AUTORESEARCH_LOSSES"):
        part = Path(f"{given}.part.npy")
        np.save(part, losses.astype(np.float32))
        part.replace(given)


def serve(client: socket.socket, service: Service) -> None:
    """Answer one request. What is no request is left without an answer."""
    with client, tempfile.TemporaryDirectory() as folder:
        client.settimeout(SILENT_SECONDS)
        files: list[int] = []
        try:
            head, rest = _line(client)
            request = json.loads(head)
            what, size = request["ask"], int(request.get("bytes", 0))
            if not 0 <= size <= LARGEST_MODEL:
                answer: dict[str, Any] = {
                    "refused": f"A model of {size} bytes is larger than {LARGEST_MODEL >> 30} GiB."
                }
            elif what == "train":
                answer, files = service.train(request)
            elif what == "rows":
                answer, files = service.rows()
            elif what == "model":
                model = Path(folder) / "model.mlxfn"
                _receive(client, rest, size, model)
                client.settimeout(None)
                answer = service.model(request, model)
            else:
                answer = {"refused": f"There is no {str(what)[:40]} here."}
            message = json.dumps(answer).encode() + b"\n"
            sent = socket.send_fds(client, [message], files) if files else 0
            client.sendall(message[sent:])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, EOFError):
            return
        finally:
            for file in files:
                os.close(file)


def _line(client: socket.socket) -> tuple[bytes, bytes]:
    """The first line, and what has come beyond it."""
    said = b""
    while b"\n" not in said:
        more = client.recv(LONGEST_LINE)
        if not more or len(said) > LONGEST_LINE:
            raise EOFError
        said += more
    head, _, rest = said.partition(b"\n")
    return head, rest


def _receive(client: socket.socket, rest: bytes, size: int, model: Path) -> None:
    with model.open("wb") as file:
        file.write(rest[:size])
        left = size - len(rest)
        while left > 0:
            more = client.recv(min(left, 2**20))
            if not more:
                raise EOFError
            file.write(more)
            left -= len(more)


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def main(arguments: Sequence[str]) -> None:
    """Serve one run at the socket that is named."""
    address = Path(arguments[0])
    listener = socket.socket(socket.AF_UNIX)
    with reachable(address) as name:
        listener.bind(name)
    listener.listen(MOST_CLIENTS)
    say("ready")
    service = Service()

    def accept() -> None:
        places = threading.BoundedSemaphore(MOST_CLIENTS)
        for _ in itertools.count():
            client, _ = listener.accept()
            places.acquire()
            threading.Thread(target=_then(places.release, serve), args=(client, service), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    # Whoever started this holds the other end: when that is gone, there is nobody left to answer to.
    while os.read(0, 1024):
        pass
    service.end()
    os._exit(0)


def _then(last: Callable[[], None], work: Callable[..., None]) -> Callable[..., None]:
    def both(*args: Any) -> None:
        try:
            work(*args)
        finally:
            last()

    return both


if __name__ == "__main__":
    if sys.argv[1:] == ["--work"]:
        work()
    else:
        main(sys.argv[1:])
