"""Compute the metric of a run in a process that never runs the run's code and sees only the exported model.

    python harness/evaluator.py SOCKET
    python harness/evaluator.py --holdout MODEL ROWS

One process serves one run. It hands out the training text; the first request for it starts the training clock. It
accepts one model: a graph that `mx.export_function` wrote, from int32 tokens (rows, MAX_SEQ_LEN) to logits (rows,
MAX_SEQ_LEN, VOCAB_SIZE). It reports events on standard output as JSON objects, one per line: ready, clock, handed_over,
answer, refused (with a field `fault` if a disk failed, and the `bytes` of a model that found it full), untraced. It
exits when its standard input is closed.
AUTORESEARCH_KEEP_MODEL names a file that receives the model once it is scored.

With --holdout it scores such a file on the holdout in AUTORESEARCH_HOLDOUT, reports one event, holdout or refused, and
exits. ROWS is the batch size of the graph.

scoring.py computes the metric of a graph and decides what is refused.
"""

import contextlib
import errno
import importlib.util
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:
    # Started by path: import only this package from the copy of the workspace, whatever other modules it contains.
    here = Path(__file__).resolve().parent
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != here]
    spec = importlib.util.spec_from_file_location(
        "harness", here / "__init__.py", submodule_search_locations=[str(here)]
    )
    assert spec is not None
    sys.modules["harness"] = importlib.util.module_from_spec(spec)

from harness import blas, scoring
from harness.handover import FILES_AT_ONCE, LONGEST_LINE, UNTRACED_VARIABLE, reachable
from harness.prepared import evaluated_folder
from harness.scoring import NotEvaluated, short

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

LARGEST_MODEL = 8 * 2**30  # size limit of an exported graph, in bytes
LARGEST_KEPT = 2**30  # a larger one is not kept for the holdout
SILENT_SECONDS = 120.0  # idle timeout of a client in the middle of a request
MOST_CLIENTS = 64
OF_FULL_DISKS = (errno.ENOSPC, errno.EDQUOT)
OF_DISKS = (*OF_FULL_DISKS, errno.EIO, errno.EROFS)
ACCEPT_SECONDS = 0.05  # pause after a client could not be accepted


def say(event: str, **about: Any) -> None:
    """Report an event to the loop, which reads standard output."""
    os.write(1, json.dumps({"event": event, **about}).encode() + b"\n")


class Service:
    """The requests that the evaluator answers for its run."""

    def __init__(self) -> None:
        # Separate processes, so that a hostile graph cannot bring down the one that answers. They start, and the rows
        # are read, while the run trains.
        self._workers = [Worker() for _ in range(processes())]
        self._reader = Worker()  # a process that runs a graph never holds the rows
        self._load = self._reader.start("load_task")
        self._lock = threading.Lock()
        self._clock_runs = self._has_model = self._gave_rows = False
        self._training: list[Path] | None = None

    def train(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        """Return up to FILES_AT_ONCE files of the training text. The first call starts the training clock."""
        begin = int(request.get("from", 0))
        with self._lock:
            if self._training is None:  # listed once: with thousands of files it takes a while
                self._training = sorted(evaluated_folder().glob("train_*.npy"))
            paths, some = self._training, self._training[begin : begin + FILES_AT_ONCE]
            if not self._clock_runs:
                self._clock_runs = True
                say("clock", at=time.monotonic())
        files = [os.open(path, os.O_RDONLY) for path in some]
        return {"names": [path.name for path in some], "of": len(paths)}, files

    def model(self, request: dict[str, Any], model: Path) -> dict[str, Any]:
        """Return the metric of the model that was handed over. A run gets one answer."""
        at = time.monotonic()
        with self._lock:
            if self._has_model:
                return {"refused": "the metric was already computed: there is only one evaluation in a run"}
            self._has_model = True
        say("handed_over", at=at)
        try:
            if self._gave_rows:  # it could hold them
                raise NotEvaluated("the run was given the validation text before it handed over a model")
            task = self._ready()
            batch = int(request.get("rows", 0))
            if not 1 <= batch <= len(task.rows):
                raise NotEvaluated(f"the batch size must be between 1 and {len(task.rows)} rows, got {batch}")
            bits, losses = scoring.evaluate(model, batch, task, self._workers)
        except NotEvaluated as error:
            say("refused", reason=str(error))
            return {"refused": str(error)}
        except Exception as error:  # whatever a graph causes must end its run, not this process
            reason = f"the model cannot be evaluated: {short(error)}"
            say("refused", reason=reason)
            return {"refused": reason}
        save_losses(losses)
        save_model(model)
        about = {"name": "val_bpb", "metric": bits, "eval_tokens": task.lengths.size, "snapshot": task.snapshot}
        about["rows"] = batch
        say("answer", **about, seconds=time.monotonic() - at)
        return {"metric": bits}

    def _ready(self) -> scoring.Task:
        """Return what to evaluate on, with all workers alive: no model has run in one that has died by now."""
        try:
            task = self._load()
        except Died:
            self._reader = Worker()
            task = self._reader.start("load_task")()
        self._reader.end()
        self._workers = [worker if worker.runs() else Worker() for worker in self._workers]
        found: scoring.Task = task
        return found

    def end(self) -> None:
        for worker in (*self._workers, self._reader):
            worker.end()

    def rows(self) -> tuple[dict[str, Any], list[int]]:
        """Return the validation text, for a run that computes its own metric because its model cannot be traced."""
        if os.environ.get(UNTRACED_VARIABLE) != "1":
            return {"refused": "the validation split is for the evaluator alone"}, []
        with self._lock:
            self._gave_rows = True
        say("untraced")
        paths = sorted(evaluated_folder().glob("val_*.npy"))[:FILES_AT_ONCE]
        return {"names": [path.name for path in paths]}, [os.open(path, os.O_RDONLY) for path in paths]


class Died(NotEvaluated):
    """Raised if a worker has died."""


class Worker:
    """A child process that runs functions of this module, one after the other."""

    def __init__(self) -> None:
        command = [sys.executable, __file__, "--work"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def start(self, name: str, *args: Any) -> Callable[[], Any]:
        """Call a function of this module in the process, and return a callable that waits for its result, once.

        Raises:
            NotEvaluated: from this method or the callable: the function raised it, or the process died (`Died`).
        """
        asked, answered = self._process.stdin, self._process.stdout
        assert asked is not None and answered is not None

        def result() -> Any:
            try:
                succeeded, found = pickle.load(answered)
            except (EOFError, pickle.UnpicklingError):
                raise Died("the model crashed the process that evaluated it") from None
            if not succeeded:
                raise NotEvaluated(found)
            return found

        try:
            pickle.dump((name, args), asked)
            asked.flush()
        except OSError:
            raise Died("the model crashed the process that evaluated it") from None
        return result

    def runs(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        self._process.kill()


def work() -> None:
    """Run the functions that the evaluator asks for, in the main thread, to which MLX's graphs belong."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keep printed output out of the answers
    blas.load()  # before MLX is imported
    own = scoring.Predictions()
    known = (scoring.load_task, scoring.require_harmless, own.predict, own.compare)
    tasks: dict[str, Callable[..., Any]] = {each.__name__: each for each in known}
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
            answer = (False, "the evaluation of the model ran out of memory")
        except Exception as error:
            answer = (False, f"the model cannot be evaluated: {short(error)}")
        pickle.dump(answer, answers)
        answers.flush()


def processes() -> int:
    """Return the number of worker processes: one per core, at least two: the second pass needs another process."""
    if os.path.exists("/dev/nvidia0") or sys.platform == "darwin":  # noqa: PTH110
        return 2
    return max(2, blas.cores())


def save_losses(losses: "Array") -> None:
    """Save the losses to AUTORESEARCH_LOSSES: later runs are compared with them if this one becomes the incumbent."""
    import numpy as np

    if given := os.environ.get("AUTORESEARCH_LOSSES"):
        part = Path(f"{given}.part.npy")
        try:
            np.save(part, losses.astype(np.float32))
            part.replace(given)
        except OSError:  # a full disk: the metric is known all the same
            part.unlink(missing_ok=True)


def save_model(model: Path) -> None:
    """Copy the model to AUTORESEARCH_KEEP_MODEL, to be scored on the holdout if it is kept."""
    given = os.environ.get("AUTORESEARCH_KEEP_MODEL")
    if given and model.stat().st_size <= LARGEST_KEPT:
        try:
            shutil.copyfile(model, given)
        except OSError:  # a full disk: the metric is known all the same
            Path(given).unlink(missing_ok=True)


def score_on_holdout(model: Path, batch: int) -> None:
    """Report the metric of a model on the holdout."""
    folder = Path(os.environ["AUTORESEARCH_HOLDOUT"])
    workers = [Worker() for _ in range(processes())]
    try:
        bits, tokens = scoring.score(model, batch, folder, workers)
        say(
            "holdout", metric=bits, eval_tokens=tokens, holdout=json.loads((folder / "holdout.json").read_bytes())["id"]
        )
    except NotEvaluated as error:
        say("refused", reason=str(error))
    except Exception as error:  # whatever a graph causes
        say("refused", reason=f"the model cannot be scored: {short(error)}")
    finally:
        for worker in workers:
            worker.end()


def serve(client: socket.socket, service: Service) -> None:
    """Answer one request. Malformed requests get no answer."""
    with client:
        client.settimeout(SILENT_SECONDS)
        files: list[int] = []
        try:
            head, rest = _line(client)
            request = json.loads(head)
            what, size = request["ask"], int(request.get("bytes", 0))
            if not 0 <= size <= LARGEST_MODEL:
                answer: dict[str, Any] = {
                    "refused": f"a model of {size} bytes exceeds the limit of {LARGEST_MODEL >> 30} GiB"
                }
            elif what == "train":
                answer, files = service.train(request)
            elif what == "rows":
                answer, files = service.rows()
            elif what == "model":
                answer = _handed_over(client, rest, request, service)
            else:
                answer = {"refused": f"unknown request {str(what)[:40]!r}"}
            message = json.dumps(answer).encode() + b"\n"
            sent = socket.send_fds(client, [message], files) if files else 0
            client.sendall(message[sent:])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, EOFError):
            return
        finally:
            for file in files:
                os.close(file)


def _line(client: socket.socket) -> tuple[bytes, bytes]:
    """Return the first line, and the bytes received after it."""
    said = b""
    while b"\n" not in said:
        more = client.recv(LONGEST_LINE)
        if not more or len(said) > LONGEST_LINE:
            raise EOFError
        said += more
    head, _, rest = said.partition(b"\n")
    return head, rest


def _handed_over(client: socket.socket, rest: bytes, request: dict[str, Any], service: Service) -> dict[str, Any]:
    """Store the model that follows a request, and return its answer.

    Raises:
        EOFError: the client does not send all of it.
    """
    size = int(request["bytes"])
    content = _content(client, rest, size)
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            model = Path(folder) / "model.mlxfn"
            with model.open("wb") as file:
                file.writelines(content)
        except OSError as error:
            failed = error
        else:
            client.settimeout(None)
            return service.model(request, model)
    for _ in content:  # a client that is still sending reads no answer
        pass
    reason = f"the evaluator cannot store the model: {failed.strerror or failed}"
    about: dict[str, Any] = {"fault": "disk"} if failed.errno in OF_DISKS else {}
    # Of a full disk, the loop finds out whether the run itself has filled it, or needs more than there ever was.
    say("refused", reason=reason, **about, **({"bytes": size} if failed.errno in OF_FULL_DISKS else {}))
    return {"refused": reason}


def _content(client: socket.socket, rest: bytes, size: int) -> Iterator[bytes]:
    """Yield `size` bytes from a client, which begin with the `rest` of what was received."""
    yield rest[:size]
    left = size - len(rest)
    while left > 0:
        try:
            more = client.recv(min(left, 2**20))
        except OSError:
            more = b""
        if not more:
            raise EOFError
        left -= len(more)
        yield more


def main(arguments: Sequence[str]) -> None:
    """Serve one run at the socket named by the only argument."""
    address = Path(arguments[0])
    listener = socket.socket(socket.AF_UNIX)
    with reachable(address) as name:
        listener.bind(name)
    listener.listen(MOST_CLIENTS)
    say("ready")
    service = Service()

    def accept() -> None:
        places = threading.BoundedSemaphore(MOST_CLIENTS)
        while True:
            places.acquire()  # before a client takes an open file
            try:
                client, _ = listener.accept()
            except OSError:  # too many open files: those of other clients will be closed
                places.release()
                time.sleep(ACCEPT_SECONDS)
                continue
            threading.Thread(target=_then(places.release, serve), args=(client, service), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    # The parent holds the other end of the pipe: once it is closed, the parent is gone.
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
    elif sys.argv[1:2] == ["--holdout"]:
        score_on_holdout(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main(sys.argv[1:])
