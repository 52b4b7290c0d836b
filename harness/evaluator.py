"""Computes the metric of a run in a process that never runs the run's code: it sees the exported model and no more.

    python harness/evaluator.py SOCKET

One process serves one run. It gives out the training text when that is asked for the first time, which is when the
clock of the training begins, and takes one model, a graph that `mx.export_function` wrote for int32 (rows, MAX_SEQ_LEN)
to logits (rows, MAX_SEQ_LEN, VOCAB_SIZE). On standard output it says what it saw, a JSON object a line: ready, clock,
handed_over, answer, refused, untraced. It ends when its standard input does.

How a graph is scored, and what is refused, is in scoring.py.
"""

import importlib.util
import itertools
import json
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:
    # Started by its path: of the copy that it lies in it imports this one package, whatever else is there.
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

LARGEST_MODEL = 8 * 2**30  # bytes of an exported graph
SILENT_SECONDS = 120.0  # of a client in the middle of a request
MOST_CLIENTS = 64


def say(event: str, **about: Any) -> None:
    """Tell the loop, which reads standard output."""
    os.write(1, json.dumps({"event": event, **about}).encode() + b"\n")


class Service:
    """What the evaluator does for the one run that it serves."""

    def __init__(self) -> None:
        # Processes of their own: one that a hostile graph brings down is not the one that answers. They start, and the
        # rows are read, while the run trains.
        self._workers = [Worker() for _ in range(processes())]
        self._reader = Worker()  # a graph's process never held the rows
        self._load = self._reader.start("load_task")
        self._lock = threading.Lock()
        self._clock_runs = self._has_model = False

    def train(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        """The files of the training text, FILES_AT_ONCE of them."""
        paths = sorted(evaluated_folder().glob("train_*.npy"))
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
            self._reader.end()
            batch = int(request.get("rows", 0))
            if not 1 <= batch <= len(task.rows):
                raise NotEvaluated(f"a batch of {batch} rows cannot be evaluated")
            bits, losses = scoring.evaluate(model, batch, task, self._workers)
        except NotEvaluated as error:
            say("refused", reason=str(error))
            return {"refused": str(error)}
        except Exception as error:  # whatever a graph brings about is its run's end, and not this process's
            reason = f"its model cannot be evaluated: {short(error)}"
            say("refused", reason=reason)
            return {"refused": reason}
        save_losses(losses)
        about = {"name": "val_bpb", "metric": bits, "eval_tokens": task.lengths.size, "snapshot": task.snapshot}
        say("answer", **about, seconds=time.monotonic() - at)
        return {"metric": bits}

    def end(self) -> None:
        for worker in (*self._workers, self._reader):
            worker.end()

    def rows(self) -> tuple[dict[str, Any], list[int]]:
        """The validation text, for a run that computes its own metric because its model cannot be traced."""
        if os.environ.get(UNTRACED_VARIABLE) != "1":
            return {"refused": "The validation text is for the evaluator alone."}, []
        say("untraced")
        paths = sorted(evaluated_folder().glob("val_*.npy"))[:FILES_AT_ONCE]
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
            answer = (False, "the evaluation of its model ran out of memory")
        except Exception as error:
            answer = (False, f"its model cannot be evaluated: {short(error)}")
        pickle.dump(answer, answers)
        answers.flush()


def processes() -> int:
    """How many evaluate: one a core, and two at least, as no row is computed twice by the same one."""
    if os.path.exists("/dev/nvidia0") or sys.platform == "darwin":  # noqa: PTH110
        return 2
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(2, own)


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
